"""Where the jobs of a sweep run: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from streamvla.core.engine import TRIES, Engine, LocalEngine, WorkerDeaths
from streamvla.core.errors import ConfigError, did_you_mean

J = TypeVar("J")
R = TypeVar("R")

_LONGEST_ANSWER_S = 10.0
_AHEAD = 2
"""Jobs submitted for every core of the cluster: one runs, the next is there already."""


def parse_engine(text: str, workers: int) -> Engine:
    """`local`, `ray` or `ray:HOST:PORT`.

    Args:
        workers: of the local one; Ray takes the cores of the cluster.

    Raises:
        ConfigError: another name, an address that is not HOST:PORT, or Ray is not installed.
    """
    name, _, address = text.partition(":")
    if name == "ray":
        _require_host_and_port(address or os.environ.get("RAY_ADDRESS", ""))
        _import_ray()
        return RayEngine(address or None)
    if text != "local":
        raise did_you_mean("engine", text, ["local", "ray"])
    return LocalEngine(workers)


@dataclass(frozen=True)
class RayEngine:
    """The cores of a Ray cluster. Implements `Engine`.

    Every node needs this package, in the same version; it needs no shared disk, for jobs and
    results travel through Ray. A job whose worker or node dies runs again elsewhere.

    Attributes:
        address: HOST:PORT of the cluster; None for that of RAY_ADDRESS, else for one that runs on
            this machine, else for one started here.
    """

    address: str | None = None

    def map_unordered(
        self,
        function: Callable[[J], R],
        jobs: Sequence[J],
        start: Callable[[], object] | None = None,
    ) -> Generator[tuple[int, R]]:
        """As `Engine.map_unordered`."""
        ray = _import_ray()
        self._connect(ray)
        try:
            yield from _run(ray, function, jobs, start)
        finally:
            ray.shutdown()

    def _connect(self, ray: Any) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # report nothing to anyone
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = self.address or os.environ.get("RAY_ADDRESS")
        _require_open(address)
        ours = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=self.address,
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=None if address else False,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(address, error) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, ours)  # Ray puts one there that only exits


def _require_host_and_port(address: str) -> None:
    """Raise `ConfigError` for the address of Ray's client or dashboard (`ray://`, `http://`)."""
    scheme, slashes, _ = address.partition("://")
    if slashes:
        raise ConfigError(
            f"Ray address {address}: {scheme}:// is not supported, expected HOST:PORT of the "
            "cluster: run this command on one of its machines (`ray start --address HOST:6379` "
            "makes this one join), without an address in --engine and RAY_ADDRESS"
        )


def _require_open(address: str | None) -> None:
    """Raise `ConfigError` if nothing listens at HOST:PORT; Ray itself would wait for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), _LONGEST_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> ConfigError:
    return ConfigError(
        f"no Ray cluster at {address or 'this machine'} ({error}): start one with `ray start "
        "--head`, or leave the address out"
    )


def _run(
    ray: Any,
    function: Callable[[J], R],
    jobs: Sequence[J],
    start: Callable[[], object] | None,
) -> Generator[tuple[int, R]]:
    """Every job on a connected cluster; a result is taken once, whatever was retried."""
    task = ray.remote(num_cpus=1, max_retries=0)(_perform)
    waiting, running = deque(range(len(jobs))), dict[Any, int]()
    deaths = WorkerDeaths(most_in_a_row=TRIES * len(jobs) + 1)  # nodes may come and go
    try:
        while waiting or running:
            most = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while waiting and len(running) < most:
                index = waiting.popleft()
                running[task.remote(function, start, jobs[index])] = index
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(ready)
            try:
                result = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError:  # its worker or node is gone
                if deaths.may_try_again(index):
                    waiting.append(index)
                continue
            yield index, result
        deaths.require_none_given_up()
    finally:
        for each in running:
            ray.cancel(each, force=True)


_started: set[Any] = set()


def _perform(function: Callable[[J], R], start: Callable[[], object] | None, job: J) -> R:
    """One job in a worker of the cluster."""
    if start is not None and start not in _started:
        start()
        _started.add(start)
    return function(job)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "engine ray: the package ray is not installed; pip install 'streamvla[ray]', or use "
            "--engine local"
        ) from error
    return ray
