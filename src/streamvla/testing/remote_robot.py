"""A robot in a process of its own, as a real one is: it takes commands over a socket, goes on when
whoever commanded it is gone, and keeps a diary.

    server process ◄── datagrams ── RemoteRobot.command      (executor process)
                   ◄── datagrams ── the function of open_stop (watchdog's process)
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from streamvla.core.clock import SystemClock
from streamvla.core.interfaces import RobotSpec
from streamvla.robots.point import SPEC, PointRobot

_SOCKET, _DIARY = "robot.socket", "robot.f64"
_NAME = "remote in "
_STOP = b"stop"
_ENTRY = 2 + SPEC.action_space.dim
"""Numbers of an entry: when, whether it is the stop, the command (d,)."""


def remote_spec(folder: Path) -> RobotSpec:
    return replace(SPEC, name=f"{_NAME}{folder}", stop=f"{__name__}:open_stop")


class RemoteRobot(PointRobot):
    """The point robot, whose commands also go to the server in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._remote_spec = remote_spec(folder)
        self._socket = _connected(folder)

    @property
    def spec(self) -> RobotSpec:
        return self._remote_spec

    def command(self, values: np.ndarray, now_ns: int) -> None:
        super().command(values, now_ns)
        self._socket.send(np.asarray(values, np.float64).tobytes())

    def close(self) -> None:
        self._socket.close()
        super().close()


def open_stop(spec: RobotSpec) -> Callable[[], None]:
    """The stop of a `RemoteRobot`: connected beforehand."""
    connected = _connected(Path(spec.name.removeprefix(_NAME)))
    return lambda: connected.sendall(_STOP)


class RemoteServer:
    """The server in a process of its own; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder)], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it listens

    def __enter__(self) -> RemoteServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def diary(self) -> np.ndarray:
        """(n, 2 + d): when (ns), 1 for the stop, the command (zeros for the stop)."""
        return np.fromfile(self._folder / _DIARY).reshape(-1, _ENTRY)


def _connected(folder: Path) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    connected.connect(str(folder / _SOCKET))
    return connected


def serve(folder: Path) -> None:
    """Take commands until killed."""
    clock = SystemClock()
    (folder / _SOCKET).unlink(missing_ok=True)  # of a server that was killed
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening,
        (folder / _DIARY).open("wb", buffering=0) as diary,
    ):
        listening.bind(str(folder / _SOCKET))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            message = listening.recv(4096)
            entry = np.zeros(_ENTRY)
            entry[:2] = clock.now_ns(), message == _STOP
            if message != _STOP:
                entry[2:] = np.frombuffer(message)
            diary.write(entry.tobytes())


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
