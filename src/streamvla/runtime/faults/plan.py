"""Faults to put in on purpose: what, when, for how long; as text and as data.

    model-stall:800ms@3s      KIND : AMOUNT @ START + LENGTH       several: separated by , or space
    slow-consumer:5ms@2s+1s   times are counted from the episode's first tick

`runtime.drivers.injection` carries them out in the simulated and the real-time driver. Those of
`PROCESS_KINDS` need a model process to hit, and are carried out by the driver that has one.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from streamvla.core.clock import NS_PER_MS, NS_PER_S
from streamvla.core.errors import ConfigError, did_you_mean

AmountMeaning = Literal["none", "duration", "delay", "jump"]


@dataclass(frozen=True)
class FaultKind:
    """One kind of fault.

    Attributes:
        amount: what AMOUNT means: nothing; how long the fault lasts; a delay; a signed jump.
        length_ns: how long the fault lasts if LENGTH is left out and AMOUNT does not say it; 0: it
            hits once.
        does: in words.
    """

    amount: AmountMeaning
    does: str
    length_ns: int = 0


KINDS: dict[str, FaultKind] = {
    "model-stall": FaultKind("duration", "observing and generating stand still"),
    "model-crash": FaultKind("none", "the next stage raises"),
    "nan": FaultKind("none", "actions are not a number"),
    "inf": FaultKind("none", "actions are infinite"),
    "out-of-range": FaultKind("none", "actions are a million times too large"),
    "wrong-shape": FaultKind("none", "actions have one dimension too many"),
    "frame-drop": FaultKind("duration", "no camera frame arrives: observing waits for one"),
    "frozen-camera": FaultKind("duration", "the camera shows what it showed at START"),
    "clock-jump": FaultKind("jump", "the clock reads AMOUNT off", 100 * NS_PER_MS),
    "slow-consumer": FaultKind("delay", "the robot takes every command AMOUNT late", NS_PER_S),
    "loop-pause": FaultKind("duration", "the control loop does not run"),
    "slow-robot": FaultKind("delay", "every look at the robot takes AMOUNT longer", NS_PER_S),
    "stage-exit": FaultKind("none", "the next stage calls sys.exit"),
    "tensor": FaultKind("none", "actions are PyTorch tensors"),
    "wrong-step": FaultKind("none", "the model leaves out a flow step"),
    "unknown-observation": FaultKind("none", "the model answers what nobody asked"),
    "disk-full": FaultKind("duration", "the trace file cannot be written"),
    "trace-removed": FaultKind("none", "the trace file and its folder are removed"),
    "sigkill": FaultKind("none", "the model process is killed"),
    "sigstop": FaultKind("duration", "the model process is suspended, then continued"),
    "model-sigterm": FaultKind("none", "the model process gets SIGTERM"),
    "model-sighup": FaultKind("none", "the model process gets SIGHUP"),
    "model-sigint": FaultKind("none", "the model process gets SIGINT"),
    "gil-hog": FaultKind("duration", "a busy pure-Python thread in the model process"),
    "memory-pressure": FaultKind("duration", "the model process allocates and touches memory"),
    "garbled-message": FaultKind("none", "the model process sends random bytes"),
    "long-message": FaultKind("none", "the model process announces a message without end"),
    "damaged-slot": FaultKind("none", "a record in shared memory has a flipped bit"),
    "damaged-counter": FaultKind("none", "the counter of records in shared memory is wrong"),
    "cut-ring": FaultKind("none", "the model process tries to cut the shared memory off"),
    "executor-sigstop": FaultKind("duration", "the executor process is suspended, then continued"),
    "executor-sigterm": FaultKind("none", "the executor process gets SIGTERM"),
    "executor-sighup": FaultKind("none", "the executor process gets SIGHUP"),
    "executor-sigint": FaultKind("none", "the executor process gets SIGINT"),
    "executor-sigkill": FaultKind("none", "the executor process is killed"),
    "owner-sigterm": FaultKind("none", "the owner of both gets SIGTERM"),
    "owner-sighup": FaultKind("none", "the owner of both gets SIGHUP"),
    "owner-sigint": FaultKind("none", "the owner of both gets SIGINT"),
}
WIRE_KINDS = (
    "garbled-message",
    "long-message",
    "damaged-slot",
    "damaged-counter",
    "cut-ring",
)
SIGNALS: dict[str, tuple[str, signal.Signals]] = {
    "sigkill": ("model", signal.SIGKILL),
    "sigstop": ("model", signal.SIGSTOP),
    **{
        f"{process}-{number.name.lower()}": (process, number)
        for process in ("model", "executor", "owner")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    },
    "executor-sigstop": ("executor", signal.SIGSTOP),
    "executor-sigkill": ("executor", signal.SIGKILL),
}
"""The kinds that are a signal: to which process, and which."""
PROCESS_KINDS = frozenset({"gil-hog", "memory-pressure", *WIRE_KINDS, *SIGNALS})
BAD_ACTIONS = frozenset({"nan", "inf", "out-of-range", "wrong-shape"})

_UNITS_NS = {"ns": 1, "us": 1000, "ms": NS_PER_MS, "s": NS_PER_S}
_TIME = r"[+-]?\d+(?:\.\d+)?(?:ns|us|ms|s)"
_FAULT = re.compile(
    rf"(?P<kind>[a-z-]+)(?::(?P<amount>{_TIME}))?@(?P<start>{_TIME})(?:\+(?P<length>{_TIME}))?"
)


@dataclass(frozen=True)
class Fault:
    """One fault, on the episode's clock (0 is its first tick).

    Attributes:
        kind: a key of `KINDS`.
        start_ns: ≥ 0.
        amount_ns: as the kind means it.
        length_ns: how long it lasts; 0: it hits once, at the first occasion from `start_ns` on.
    """

    kind: str
    start_ns: int
    amount_ns: int = 0
    length_ns: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise did_you_mean("fault", self.kind, KINDS)
        if self.start_ns < 0 or self.length_ns < 0:
            raise ConfigError(
                f"fault {self.kind}: start {self.start_ns} ns and length {self.length_ns} ns must "
                "be ≥ 0, counted from the episode's first tick"
            )
        meaning = KINDS[self.kind].amount
        wrong = {
            "none": self.amount_ns != 0,
            "jump": self.amount_ns == 0,
            "duration": self.amount_ns <= 0,
            "delay": self.amount_ns <= 0,
        }[meaning]
        if wrong:
            expected = {
                "none": "it takes none",
                "jump": "say by how much, as in clock-jump:-200ms@3s",
                "duration": f"say how long, as in {self.kind}:800ms@3s",
                "delay": f"say how late, as in {self.kind}:5ms@3s",
            }[meaning]
            raise ConfigError(f"fault {self.kind}: amount {self.amount_ns} ns: {expected}")

    @property
    def end_ns(self) -> int:
        """The first instant at which it is over."""
        lasts = self.amount_ns if KINDS[self.kind].amount == "duration" else self.length_ns
        return self.start_ns + lasts

    @property
    def clear_ns(self) -> int:
        """When nothing of it is left: its end, and for a clock that jumped ahead as much later.

        Such a clock stands still after the fault's end until the truth has caught up.
        """
        ahead_ns = self.amount_ns if KINDS[self.kind].amount == "jump" else 0
        return self.end_ns + max(0, ahead_ns)

    def active(self, elapsed_ns: int) -> bool:
        return self.start_ns <= elapsed_ns < self.end_ns


@dataclass(frozen=True)
class FaultPlan:
    """The faults of one episode."""

    faults: tuple[Fault, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.faults)

    @property
    def of_process(self) -> tuple[Fault, ...]:
        """Those that need a model process."""
        return tuple(fault for fault in self.faults if fault.kind in PROCESS_KINDS)

    def of(self, *kinds: str) -> tuple[Fault, ...]:
        """Those of these kinds, in order of their start."""
        chosen = (fault for fault in self.faults if fault.kind in kinds)
        return tuple(sorted(chosen, key=lambda fault: fault.start_ns))

    def require_in_process(self) -> None:
        """Raise `ConfigError` if a fault needs a model process."""
        if self.of_process:
            kinds = ", ".join(sorted({fault.kind for fault in self.of_process}))
            raise ConfigError(
                f"faults {kinds} hit a model process, and this driver has none: run the control "
                "loop in its own process, or leave them out"
            )

    def stalled_ns(self, begin_ns: int, duration_ns: int, *kinds: str) -> int:
        """How much longer work takes that stands still while one of `kinds` lasts.

        For example:

            work    ▓▓▓░░░░░░▓▓        begin 0, duration 5; stalled from 3 to 9: 6 longer
        """
        end_ns = begin_ns + duration_ns
        for fault in self.of(*kinds):
            if fault.start_ns < end_ns and begin_ns < fault.end_ns:
                end_ns += fault.end_ns - max(begin_ns, fault.start_ns)
        return end_ns - begin_ns - duration_ns

    def reading_offset_ns(self, elapsed_ns: int) -> int:
        """By how much the clock is off."""
        jumps = self.of("clock-jump")
        return sum(fault.amount_ns for fault in jumps if fault.active(elapsed_ns))

    def command_delay_ns(self, elapsed_ns: int) -> int:
        """How late the robot takes a command."""
        slow = self.of("slow-consumer")
        return sum(fault.amount_ns for fault in slow if fault.active(elapsed_ns))


NO_FAULTS = FaultPlan()


def parse_faults(texts: Iterable[str]) -> FaultPlan:
    """Faults from the command line: each text one or several, separated by commas or spaces.

    >>> parse_faults(["model-stall:800ms@3s nan@5s"]).faults[0].end_ns
    3800000000

    Raises:
        ConfigError: malformed, unknown kind, or an amount that is missing or makes no sense.
    """
    parts = [part for text in texts for part in re.split(r"[,\s]+", text) if part]
    return FaultPlan(tuple(_parse_fault(part) for part in parts))


def _parse_fault(text: str) -> Fault:
    match = _FAULT.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"fault {text!r}: expected KIND[:AMOUNT]@START[+LENGTH] with times like 800ms or 3s, "
            "for example model-stall:800ms@3s"
        )
    kind, amount, start, length = match.group("kind", "amount", "start", "length")
    if kind not in KINDS:
        raise did_you_mean("fault", kind, KINDS)
    length_ns = KINDS[kind].length_ns if length is None else _time_ns(length)
    return Fault(kind, _time_ns(start), 0 if amount is None else _time_ns(amount), length_ns)


def _time_ns(text: str) -> int:
    number, unit = re.fullmatch(r"([+-]?[\d.]+)([a-z]+)", text).groups()  # pyright: ignore
    return round(float(number) * _UNITS_NS[unit])
