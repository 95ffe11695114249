"""Faults of a model process that writes what it must not, to its socket and its ring."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import Protocol

import numpy as np

from streamvla.runtime.faults.plan import WIRE_KINDS, Fault, FaultPlan
from streamvla.runtime.processes.channel import Channel
from streamvla.runtime.processes.ring import SharedRing

_ENDLESS = 1 << 40


class Elapsed(Protocol):
    """When the episode began to count, and its plan."""

    @property
    def plan(self) -> FaultPlan: ...

    def elapsed_ns(self) -> int: ...


class WireFaults:
    """Strikes once for every fault of `WIRE_KINDS`, at the first occasion from its start on."""

    def __init__(self, faults: Elapsed, ring: SharedRing, channel: Channel) -> None:
        self._faults = faults
        self._coming = list(faults.plan.of(*WIRE_KINDS))
        self._ring = ring
        self._channel = channel

    def strike(self, record: np.ndarray) -> None:
        """Do what is due; `record` (1,) is a sound one, to be spoiled."""
        while self._coming and self._coming[0].start_ns <= self._faults.elapsed_ns():
            self._do(self._coming.pop(0), record)

    def _do(self, fault: Fault, record: np.ndarray) -> None:
        match fault.kind:
            case "garbled-message":
                self._channel.send(os.urandom(64))
            case "long-message":
                self._channel.send_bytes(struct.pack("<Q", _ENDLESS))
            case "damaged-slot":
                self._ring.push_damaged(record)
            case "damaged-counter":
                self._ring.damage_counter()
            case "cut-ring":
                with suppress(OSError):  # it is sealed
                    os.ftruncate(self._ring.fd, 0)
            case kind:
                raise ValueError(f"{kind!r} is no fault of the wire: expected one of {WIRE_KINDS}")
        self._channel.ring_bell()
