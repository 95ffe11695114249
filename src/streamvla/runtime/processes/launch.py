"""Start a function in a fresh Python process that shares nothing but what it is sent.

Unlike multiprocessing's spawn, the new process does not import the caller's main module: a script
that imports torch must not bring torch into the executor process. So whatever is sent has to be
defined in an importable module.

A process and its parent trust each other: messages between them are pickled. What the robot side
gets from the model process is another matter (`handoff`).
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from streamvla.core import errors
from streamvla.core.errors import ConfigError, StageFailedError, StreamVLAError
from streamvla.core.parent import die_with_parent

_EXIT_S = 5.0
"""How long a process may take to leave after its connection was closed."""


@dataclass(frozen=True)
class ChildFailed:
    """Sent by a child that cannot go on: its error, in words.

    Attributes:
        kind: a class of `core.errors`, which it will be at the parent.
    """

    message: str
    kind: str


class Child:
    """A process running `function(connection, *arguments)`, and the connection to it.

    It is in a process group of its own, so Ctrl-C in a terminal reaches its parent alone, which
    decides. It never outlives its parent for long: when that dies, killed or not, the connection
    breaks, which tells the child to leave; 5 s later it is ended. Unless it `leaves_by_itself`
    the kernel kills it at once.

    Args:
        role: its name in errors: "executor", "model".
        function: from an importable module; as are the arguments' types.
        leaves_by_itself: it has something to bring to an end first: a robot in motion.
    """

    def __init__(
        self,
        role: str,
        function: Callable[..., None],
        *arguments: Any,
        leaves_by_itself: bool = False,
        patience_s: float = _EXIT_S,
    ) -> None:
        self._role = role
        ours, theirs = Pipe()
        self.connection: Connection = ours
        call = _packed(role, function, arguments)
        with theirs:
            fd = theirs.fileno()
            # the kernel goes by the thread that started the child, and only this one stays
            killed = not leaves_by_itself and threading.current_thread() is threading.main_thread()
            code = (
                f"import sys; sys.path[:] = {sys.path!r}; "
                f"from streamvla.runtime.processes.launch import child_main; "
                f"child_main({fd}, {os.getpid()}, {killed}, {patience_s})"
            )
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], pass_fds=(fd,), process_group=0
            )
        self.connection.send_bytes(call)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def how_it_ended(self, patience_s: float = 0.0) -> str:
        """`runs`, `killed by SIGKILL`, `exit code 1`.

        Args:
            patience_s: to wait for its end, which shows a little after its connections close.
        """
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return "runs"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def send(self, message: Any) -> None:
        """Send a message; a dead child is noticed by the next `receive`, a closed one by nobody."""
        if self.connection.closed:
            return
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return

    def send_fd(self, fd: int) -> None:
        """Give the child an open file; it takes it with `receive_fd`."""
        try:
            send_handle(self.connection, fd, self.pid)
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self, timeout_s: float | None = None) -> Any:
        """The child's next message.

        Raises:
            StreamVLAError: what the child raised.
            StageFailedError: it raised anything else, died, or kept silent for `timeout_s`.
        """
        if not self.connection.poll(timeout_s):
            raise StageFailedError(
                f"the {self._role} process kept silent for {timeout_s:.0f} s: it hangs, or the "
                "machine is overloaded"
            )
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self._wait()
            raise StageFailedError(
                f"the {self._role} process died ({self.how_it_ended()})"
            ) from error
        if isinstance(message, ChildFailed):
            raise getattr(errors, message.kind)(f"the {self._role} process: {message.message}")
        return message

    def close(self) -> None:
        """Break the connection and wait for the process to leave; kill it if it does not."""
        self.connection.close()
        if not self._wait():
            self._process.kill()
            self._process.wait()

    def _wait(self) -> bool:
        try:
            self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            return False
        return True


def receive_fd(connection: Connection) -> int:
    """In the child: the open file its parent sent with `Child.send_fd`."""
    return recv_handle(connection)


def orphaned() -> bool:
    """In a child: whether its parent is gone. For loops that wait on something else."""
    return os.getppid() != _parent


_parent = os.getppid()


def child_main(fd: int, parent: int, killed: bool, patience_s: float) -> None:
    """Run in the new process: take the call from the connection and carry it out.

    Args:
        parent: its process.
        killed: whether the kernel shall kill this process together with it.
        patience_s: until it ends itself, when its parent is gone.
    """
    global _parent
    _parent = parent
    if killed:
        die_with_parent()
    if orphaned():  # before the kernel could be asked
        return
    threading.Thread(target=_end_without_parent, args=(fd, patience_s), daemon=True).start()
    connection = Connection(fd)
    try:
        function, arguments = pickle.loads(connection.recv_bytes())
        function(connection, *arguments)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone: there is no one left to work for or to complain to
    except KeyboardInterrupt as ending:  # asked to end, and what it did is ended in order
        sys.exit(128 + getattr(ending, "number", signal.SIGINT))
    except StreamVLAError as error:
        connection.send(ChildFailed(str(error), type(error).__name__))
        sys.exit(1)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        connection.send(ChildFailed(message, StageFailedError.__name__))
        sys.exit(1)


def _end_without_parent(fd: int, patience_s: float) -> None:
    """Sleep until the connection breaks; the process then has so long to leave by itself."""
    broken = select.poll()
    broken.register(fd, 0)  # hang-up is always reported
    broken.poll()
    threading.Event().wait(patience_s)
    os._exit(1)


def _packed(role: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> bytes:
    try:
        call = pickle.dumps((function, arguments))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(_REMEDY.format(role=role, problem=error)) from error
    if b"__main__" in call:
        raise ConfigError(_REMEDY.format(role=role, problem="it is defined in the main script"))
    return call


_REMEDY = (
    "the {role} process cannot be given its work: {problem}. Pass functions, or functools.partial "
    "of functions, that are defined at the top of an importable module"
)
