"""Load on purpose: what keeps a model's process as busy as a bad day does."""

from __future__ import annotations

import threading
from types import TracebackType

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.interfaces import Observation, RobotSpec
from streamvla.testing.fakes import ScriptedPolicy

_MATRIX = 384


class Load:
    """Two busy threads, as a context manager: one in NumPy's matrix products, which leave the
    interpreter free, and one in pure Python, which hardly ever does."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._multiply, self._count)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _multiply(self) -> None:
        matrix = np.eye(_MATRIX, dtype=np.float32)
        while not self._stop.is_set():
            matrix = matrix @ matrix

    def _count(self) -> None:
        count = 0
        while not self._stop.is_set():
            for _ in range(1000):
                count += 1


class LoadedPolicy(ScriptedPolicy):
    """A policy of zeros whose process is under `Load` from its first observation on.

    Args:
        robot: as of `ScriptedPolicy`.
    """

    def __init__(
        self, space: ActionSpace, horizon: int, period_ns: int, robot: RobotSpec | None = None
    ) -> None:
        super().__init__(space, horizon, period_ns, robot=robot)
        self._load: Load | None = None

    def encode(self, observation: Observation) -> Observation:
        if self._load is None:
            self._load = Load().__enter__()
        return super().encode(observation)
