"""A fault campaign: many faults, one an episode, and what must hold on every tick of each.

- **one command**: every control tick has exactly one, and it is the one the robot got (in
  wall-clock time those that a busy machine went past have none; they are counted);
- **limits**: position, velocity, acceleration and jerk of the commanded motion keep their bounds;
- **window**: no action is sent later than its validity window allows;
- **order**: no instant in the trace lies before an earlier one;
- **readable**: the trace file reads back whole, to the last tick;
- **recovery**: an action from an observation captured after the fault's end reaches the robot
  within two observation cycles of that end (cycle: median of the run before the fault). A clock
  that jumped ahead stands still after that until the truth has caught up, which no schedule can
  shorten: there the end is the instant at which it runs again;
- **gaps**: control ticks without a command are counted events;
- **stop**: the last command of every run, however it ended, is the stop, and the robot at rest;
- **failure**: a crash reaches the owner, a signal ends the run;
- **watchdog**: a robot whose executor process is killed gets its stop within three periods;
- **cameras**: none is called frozen that is not.

The checks use what was sent and the declared limits, and nothing of the governor that sent it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_MS, NS_PER_S, ms_to_ns
from streamvla.core.limits import MotionLimits
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.faults.plan import BAD_ACTIONS, KINDS, PROCESS_KINDS, WIRE_KINDS, Fault
from streamvla.runtime.streamer.machine import GAP_TICKS
from streamvla.trace import (
    CameraFrozen,
    Ended,
    ObserveRequested,
    Sent,
    TicksSkipped,
    Trace,
    TraceEvent,
)

CRASHES = frozenset(
    {
        "model-crash",
        "stage-exit",
        "wrong-step",
        "unknown-observation",
        "sigkill",
        *(f"model-{name}" for name in ("sigterm", "sighup", "sigint")),
        *(kind for kind in WIRE_KINDS if kind != "cut-ring"),
    }
)
"""The run must fail, after the robot's stop."""
ENDINGS = frozenset(
    f"{process}-{name}"
    for process in ("executor", "owner")
    for name in ("sigterm", "sighup", "sigint")
)
"""The run must end early, after the robot's stop."""
AWAY = frozenset({"loop-pause", "slow-robot", "executor-sigstop"})
"""The control loop itself is away: ticks pass without a command."""
KILLED = "executor-sigkill"
"""Nobody of ours is left to stop the robot but the watchdog."""
WATCHDOG_PERIODS = 3
"""Within so many control periods of the last command."""
SIMULATED_KINDS = tuple(kind for kind in KINDS if kind not in PROCESS_KINDS)
RECOVERY_CYCLES = 2

ONCE = frozenset({"tensor", "trace-removed", "cut-ring", KILLED})
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Campaign:
    """What is drawn.

    Attributes:
        kinds: of faults, equally often.
        earliest_ns, latest_ns: when they begin.
        longest_ns: how long those last that stop the flow of actions or pictures.
        after_ns: how long an episode goes on after its fault: four cycles of the slowest method
            and more.
        skips: whether a control tick may pass without a command, on a busy machine.
    """

    kinds: tuple[str, ...]
    earliest_ns: int
    latest_ns: int
    longest_ns: int
    after_ns: int
    skips: bool


SIMULATED = Campaign(
    SIMULATED_KINDS, 3 * NS_PER_S, 4 * NS_PER_S, 10 * NS_PER_S, 4 * NS_PER_S, skips=False
)
WALL_CLOCK = Campaign(
    tuple(KINDS), NS_PER_S, 2 * NS_PER_S, 2 * NS_PER_S, ms_to_ns(1500), skips=True
)
_LONGEST_FROZEN_NS = 3 * NS_PER_S
_EXECUTORS: tuple[Executor, ...] = (
    Synchronous(),
    Synchronous(5),
    *(ActionFlow(lead) for lead in (0, 2, 3, 5)),
)


@dataclass(frozen=True)
class Case:
    """One episode of the campaign.

    Attributes:
        fault: what is put in.
        seed: of its stage times and its policy.
        campaign: the one it was drawn for.
    """

    fault: Fault
    executor: Executor
    seed: int
    campaign: Campaign = field(default=SIMULATED, repr=False)

    @property
    def duration_ns(self) -> int:
        """Of the episode."""
        return self.fault.end_ns + self.campaign.after_ns


@dataclass(frozen=True)
class Verdict:
    """What one episode showed.

    Attributes:
        ticks: control ticks checked; `skipped`: those that passed without a command.
        broken: every promise that was broken, in words; empty when all held.
        recovery_ns: from the fault's end (`Fault.clear_ns`) to the first action from a fresh
            observation; None for a crash, and where it never came.
        cycle_ns: the observation cycle before the fault.
        found: whether a frozen camera was found; None for other faults.
    """

    case: Case
    ticks: int
    skipped: int
    broken: tuple[str, ...]
    recovery_ns: int | None
    cycle_ns: int
    found: bool | None


def draw_cases(count: int, seed: int, period_ns: int, campaign: Campaign = SIMULATED) -> list[Case]:
    """`count` cases, every kind equally often: a function of the seed."""
    stream, kinds = random.Random(seed), campaign.kinds
    return [
        Case(
            _draw_fault(stream, kinds[number % len(kinds)], period_ns, campaign),
            stream.choice(_EXECUTORS),
            stream.randrange(1 << 31),
            campaign,
        )
        for number in range(count)
    ]


def _draw_fault(stream: random.Random, kind: str, period_ns: int, campaign: Campaign) -> Fault:
    start_ns = stream.randrange(campaign.earliest_ns, campaign.latest_ns)
    if kind in BAD_ACTIONS:
        return Fault(kind, start_ns, 0, stream.choice((0, stream.randrange(ms_to_ns(200)))))
    if kind in CRASHES | ENDINGS | ONCE:
        return Fault(kind, start_ns)
    if kind == "slow-robot":
        delay_ns = stream.randrange(period_ns * 6 // 5, period_ns * 5 // 2)
        return Fault(kind, start_ns, delay_ns, stream.randrange(ms_to_ns(200), NS_PER_S))
    if kind == "clock-jump":
        jump_ns = stream.choice((-1, 1)) * stream.randrange(ms_to_ns(1), ms_to_ns(500))
        return Fault(kind, start_ns, jump_ns, KINDS[kind].length_ns)
    if kind == "slow-consumer":
        # a delay of a period or more would skip ticks: that is a fault of the rate, not of these
        delay_ns = stream.randrange(ms_to_ns(1), period_ns // 2 if campaign.skips else period_ns)
        return Fault(kind, start_ns, delay_ns, stream.randrange(ms_to_ns(200), NS_PER_S))
    frozen = kind == "frozen-camera"
    longest_ns = min(campaign.longest_ns, _LONGEST_FROZEN_NS) if frozen else campaign.longest_ns
    lasts_ms = 50 * (longest_ns / NS_PER_MS / 50) ** stream.random()  # log-uniform from 50 ms on
    return Fault(kind, start_ns, ms_to_ns(lasts_ms))


def judge(
    case: Case,
    trace: Trace,
    commands: Sequence[np.ndarray],
    failed: bool,
    space: ActionSpace,
    limits: MotionLimits,
) -> Verdict:
    """Check one episode.

    Args:
        trace: as read back from its file.
        commands: every command (d,) the robot got, in order.
        failed: whether the run ended by a dead stage or process, or by a signal.
    """
    sent = [event for event in trace.events if isinstance(event, Sent)]
    if not sent:
        return Verdict(case, 0, 0, ("readable: no command is in the trace",), None, 0, None)
    start_ns = _start_ns(sent)
    cycle_ns = _cycle_ns(trace.events, start_ns + case.fault.start_ns)
    kind = case.fault.kind
    ends = kind in CRASHES | ENDINGS
    recovery_ns = None if ends else _recovery_ns(sent, start_ns + case.fault.clear_ns)
    found = any(isinstance(event, CameraFrozen) for event in trace.events)
    freezes = case.fault.kind == "frozen-camera"
    skipped = sent[-1].tick + 1 - len(sent) if sent else 0
    broken = [
        *_one_command(sent, commands, skips=case.campaign.skips or kind in AWAY),
        *(f"limits: {text}" for text in exceeded(space, limits, commands, _rests(sent))),
        *_windows(sent),
        *_order(trace.events),
        *_gaps(trace.events, skipped),
        *_readable(trace, sent),
        *(["cameras: one was called frozen that was not"] if found and not freezes else []),
    ]
    broken += _stopped(sent, space)
    if ends and not failed:
        broken.append("failure: the owner heard nothing, or the run went on")
    elif ends:
        pass
    elif failed:
        broken.append("recovery: the run ended in a failure")
    elif recovery_ns is None or recovery_ns > RECOVERY_CYCLES * cycle_ns:
        broken.append(f"recovery: {recovery_ns} ns, observation cycle {cycle_ns} ns")
    return Verdict(
        case,
        len(sent),
        skipped,
        tuple(broken),
        recovery_ns,
        cycle_ns,
        found if freezes else None,
    )


def judge_killed(
    case: Case, trace: Trace, diary: Sequence[tuple[int, bool, np.ndarray]], period_ns: int
) -> Verdict:
    """Check an episode whose executor process was killed.

    Args:
        diary: what the robot's own process got: when, whether it was the stop, the command (d,).
    """
    broken: list[str] = []
    *commands, last = diary
    if not last[1] or any(stop for _, stop, _ in commands):
        broken.append("watchdog: the robot's last command is not its stop, or one came before")
    elif last[0] - commands[-1][0] > WATCHDOG_PERIODS * period_ns:
        broken.append(f"watchdog: the stop came {last[0] - commands[-1][0]} ns after the command")
    sent = [event for event in trace.events if isinstance(event, Sent)]
    got = [tuple(values.tolist()) for _, _, values in commands]
    if not sent or [event.values for event in sent] != got[: len(sent)]:
        broken.append("one command: the robot got others than the trace says")
    return Verdict(case, len(sent), 0, tuple(broken), None, 0, None)


def exceeded(
    space: ActionSpace,
    limits: MotionLimits,
    commands: Sequence[np.ndarray],
    rests: Collection[int] = (),
) -> list[str]:
    """Every limit that commands (each (d,)) exceed, and on which; the robot starts at rest.

    Args:
        rests: the commands before which it stood again.
    """
    found: list[str] = []
    parts = [*sorted({0, *rests}), len(commands)]
    state = space.initial_state()
    for first, end in pairwise(parts):
        found += _exceeded(space, limits, commands[first:end], first, state)
        for command in commands[first:end]:
            state = space.advance(state, command)
    return found


def _exceeded(
    space: ActionSpace,
    limits: MotionLimits,
    commands: Sequence[np.ndarray],
    number: int,
    start: np.ndarray,
) -> list[str]:
    """Of commands from rest at `start` (d,); `number` of commands came before."""
    states = [start] * 3
    for command in commands:
        states.append(space.advance(states[-1], command))
    position = np.array(states)
    velocity = np.diff(position, axis=0)
    acceleration = np.diff(velocity, axis=0)
    jerk = np.diff(acceleration, axis=0)
    found = [
        f"position of {space.names[dim]} on tick {number + tick - 3}"
        for tick, dim in np.argwhere(
            (position < np.asarray(limits.position_low) - _ROUNDING)
            | (position > np.asarray(limits.position_high) + _ROUNDING)
        )
    ]
    for name, motion, bound, first in (
        ("velocity", velocity, limits.velocity, 2),
        ("acceleration", acceleration, limits.acceleration, 1),
        ("jerk", jerk, limits.jerk, 0),
    ):
        over = np.abs(motion) > np.asarray(bound) * (1 + _ROUNDING)
        found += [
            f"{name} of {space.names[dim]} on tick {number + k - first}"
            for k, dim in np.argwhere(over)
        ]
    return found


def _rests(sent: Sequence[Sent]) -> list[int]:
    """The commands before which the robot stood, because none had come for so long."""
    pairs = enumerate(pairwise(sent), start=1)
    return [number for number, (a, b) in pairs if b.tick - a.tick > GAP_TICKS]


def _gaps(events: Iterable[TraceEvent], skipped: int) -> Iterable[str]:
    told = sum(event.ticks for event in events if isinstance(event, TicksSkipped))
    if told != skipped:
        yield f"gaps: {skipped} ticks had no command, {told} are told"


def _one_command(
    sent: Sequence[Sent], commands: Sequence[np.ndarray], *, skips: bool
) -> Iterable[str]:
    ticks = [event.tick for event in sent]
    if ticks != (sorted(set(ticks)) if skips else list(range(len(sent)))):
        yield "one command: ticks are missing or served twice"
    if [event.values for event in sent] != [tuple(values.tolist()) for values in commands]:
        yield "one command: the robot got others than the trace says"


def _windows(sent: Sequence[Sent]) -> Iterable[str]:
    for event in sent:
        if event.source == "policy" and not 0 <= event.t_ns <= event.valid_until_ns:
            yield f"window: tick {event.tick} sent at {event.t_ns}, valid to {event.valid_until_ns}"


def _order(events: Sequence[TraceEvent]) -> Iterable[str]:
    if any(after.t_ns < before.t_ns for before, after in pairwise(events)):
        yield "order: an instant lies before an earlier one"


def _readable(trace: Trace, sent: Sequence[Sent]) -> Iterable[str]:
    if not (trace.complete and sent and isinstance(trace.events[-1], Ended)):
        yield "readable: the trace is cut off"


def _stopped(sent: Sequence[Sent], space: ActionSpace) -> Iterable[str]:
    moving = np.asarray(sent[-1].values)[space.is_delta()]
    if sent[-1].source != "stop" or np.abs(moving).max() > _ROUNDING:
        yield f"stop: the last command is {sent[-1].source} {sent[-1].values}"


def _start_ns(sent: Sequence[Sent]) -> int:
    """The instant of tick 0."""
    first, last = sent[0], sent[-1]
    period_ns = (last.due_ns - first.due_ns) // max(1, last.tick - first.tick)
    return first.due_ns - first.tick * period_ns


def _cycle_ns(events: Iterable[TraceEvent], until_ns: int) -> int:
    instants = [e.t_ns for e in events if isinstance(e, ObserveRequested) and e.t_ns < until_ns]
    return round(median(after - before for before, after in pairwise(instants)))


def _recovery_ns(sent: Iterable[Sent], end_ns: int) -> int | None:
    fresh = (e.t_ns for e in sent if e.source == "policy" and e.captured_ns > end_ns)
    first = next(fresh, None)
    return None if first is None else first - end_ns


# --- the table ---------------------------------------------------------------------------------


def summarise(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """One row a kind, and one for all: counts, what broke, and how fast it recovered."""
    rows = []
    for kind in (*KINDS, "all"):
        chosen = [v for v in verdicts if kind in (v.case.fault.kind, "all")]
        if not chosen:
            continue
        took = [v for v in chosen if v.recovery_ns is not None]
        cycles = [v.recovery_ns / v.cycle_ns for v in took if v.recovery_ns is not None]
        milliseconds = [v.recovery_ns / NS_PER_MS for v in took if v.recovery_ns is not None]
        rows.append(
            {
                "kind": kind,
                "faults": len(chosen),
                "ticks": sum(v.ticks for v in chosen),
                "skipped_ticks": sum(v.skipped for v in chosen),
                "broken": sum(bool(v.broken) for v in chosen),
                "broken_promises": sorted(
                    {text.split(":")[0] for v in chosen for text in v.broken}
                ),
                "frozen_cameras_found": sum(bool(v.found) for v in chosen),
                "recovery_p50_ms": median(milliseconds) if milliseconds else None,
                "recovery_max_ms": max(milliseconds, default=None),
                "recovery_max_cycles": max(cycles, default=None),
            }
        )
    return rows
