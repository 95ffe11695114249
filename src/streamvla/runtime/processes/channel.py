"""Messages of any size between two processes over a socket; sending never waits.

The control loop sends requests here (a capture can be megabytes) while the other side may be
suspended: what the socket does not take stays in memory and goes out with the next `flush`.
"""

from __future__ import annotations

import select
import socket
import struct
import threading

from streamvla.core.errors import HandoffError

_HEADER = struct.Struct("<Q")
_CHUNK_BYTES = 1 << 18
_MOST_CHUNKS = 64

BELL = b""
"""The empty message: look at the ring."""


class Channel:
    """One end of a connected stream socket.

    One thread receives; any thread may send.

    Args:
        most_bytes: of a message that is received; None for any.

    Attributes:
        closed: the other side is gone.
    """

    def __init__(self, fd: int, most_bytes: int | None = None) -> None:
        self._most_bytes = most_bytes
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._unsent = bytearray()
        self._received = bytearray()
        self._sending = threading.Lock()
        self.closed: bool = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def pending(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    def send(self, message: bytes) -> None:
        """Queue a message and hand over what the socket takes now."""
        with self._sending:
            self._unsent += _HEADER.pack(len(message)) + message
            self._flush()

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are: for faults, which break the order of messages on purpose."""
        with self._sending:
            self._unsent += data
            self._flush()

    def ring_bell(self) -> None:
        """Wake the other side, unless it has not even taken what was sent before."""
        with self._sending:
            if not self._unsent:
                self._unsent += _HEADER.pack(len(BELL))
                self._flush()

    def flush(self) -> None:
        """Hand over more of what is still unsent."""
        if self._unsent:
            with self._sending:
                self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._unsent.clear()
            self.closed = True

    def receive(self) -> list[bytes]:
        """The whole messages that are here, in order; without waiting. Those that do not stop
        coming are left for the next call.

        Raises:
            HandoffError: a message is longer than it may be.
        """
        for _ in range(_MOST_CHUNKS):
            if self.closed:
                break
            try:
                chunk = self._socket.recv(_CHUNK_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:
                chunk = b""
            self.closed = not chunk
            self._received += chunk
            if len(chunk) < _CHUNK_BYTES:
                break
        return self._take_messages()

    def _take_messages(self) -> list[bytes]:
        messages: list[bytes] = []
        start = 0
        while len(self._received) - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._received, start)
            if self._most_bytes is not None and length > self._most_bytes:
                raise HandoffError(f"a message of {length} bytes, of {self._most_bytes} at most")
            end = start + _HEADER.size + length
            if len(self._received) < end:
                break
            messages.append(bytes(self._received[start + _HEADER.size : end]))
            start = end
        del self._received[:start]
        return messages

    def wait(self, timeout_s: float | None = None) -> None:
        """Until something arrives, the other side is gone, or `timeout_s` is over."""
        select.select([self._socket], [], [], timeout_s)

    def close(self) -> None:
        self._socket.close()
