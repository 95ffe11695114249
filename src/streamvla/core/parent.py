"""A process that ends with the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it is gone (Linux).

    Raises:
        OSError: the kernel refuses.
    """
    if sys.platform.startswith("linux"):
        call_c("prctl", _PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)


def call_c(name: str, *arguments: object) -> None:
    """Call a function of the C library that gives 0 if it worked.

    Raises:
        OSError: it gave anything else.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
