"""From a trace to numbers. Every definition is here, and nowhere else.

**Steady state.** The window runs from the first policy command of the first generation to the
first policy command of the last generation, so every observation cycle in it is whole:

    requested      c0            c1            c2            c3  c3  c3
    |── start-up ──|─── cycle ───|─── cycle ───|─── cycle ───|  (last cycle: cut off)
                   |◄────────────── window ─────────────────►|

With fewer than two generations there is no window, and its figures are None.

- `t_action_ms`: window length / policy commands in it.
- `halt_ms_per_observation`: idle robot time in the window / cycles in it. Idle time is, under
  event pacing, the wait between the instant the robot became free and its next command; under
  grid pacing, the ticks without a policy command times the period.
- `startup_ms`: from the first observation request (or command) to the first policy command.
- `tail_ms`: from the last policy command's end to the episode's end. Halting there counts as
  neither halt nor miss (no later action ends it); a policy that dies shows here.

**Whole run**, from the first policy command to the last:

- `deadline_misses`: control instants whose action was not there: grid ticks without a policy
  command; under event pacing, commands sent after the robot had become free.
- `starved_ticks`: control ticks spent without an action of the policy: on the grid the same
  ticks, on which the governor's fallback went out; under event pacing Σ ⌊wait / period⌋.
- `longest_halt_ms`: the longest uninterrupted idle time.
- `action_age_ms`: instant of sending − instant of capture of the observation behind the action;
  of the oldest one where a command was merged from several actions. Its generation (steady state,
  seams) and what it reacts to (`reaction_ms`) go by the youngest.
- `loop_time_ms`: between successive observation requests.
- `observe_ms`, `observe_wait_ms`: encoding, and waiting in the accelerator's queue before it.
- `generate_ms`: one flow step, that is, one action.
- `command_interval_ms`: between successive commands; its `std` is the jitter.
- `send_lateness_ms`: grid pacing only, instant of sending − the tick's due instant.
- `later_observations`: those that became a context; the first one and second looks left out.
  `early_observations`: those of them that were requested while actions were still pending;
  `early_accept_rate`: their share, and `mean_lead`: the mean number pending.
  `refused_observations`: looked at and refused. `objections`: early observations that the rule
  objected to and that were used all the same; `second_looks`: how many of them were followed by
  one before the episode ended or nothing was pending any more.
- `reaction_ms`: from a `Stimulus` to the first policy command that depends on it: the first one
  whose observation was captured at or after it. A stimulus without one, or overtaken by another,
  counts under `unanswered_stimuli`.
- `seam_jump`: ‖aᵢ − aᵢ₋₁‖ over the motion dimensions between the last action of one generation
  and the first of the next, in action units; `step_jump` the same within a generation, and
  `seam_ratio` the quotient of the means: 1 means a seam nobody feels.
- `interventions`: control ticks on which the governor's ladder stepped in, by rung (`Intervened`;
  a rejected action counts under "reject" and under the rung of the command sent in its place).
- `frozen_cameras`: how often a camera was found frozen (`runtime.drivers.cameras`).
- `health_ticks`: control ticks in each state of `runtime.governor.health`, from the first policy
  command on (grid pacing).
- `smoothness`: see `streamvla.evaluation.smoothness`.
- `task`: score, completion time and what else the robot measured of its task; its figures stand
  beside the others, see `streamvla.evaluation.task_metrics`.
- `compute`: tokens and floating-point operations, see `streamvla.evaluation.compute_metrics`; their
  figures stand beside the others too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_MS, NS_PER_S
from streamvla.core.errors import ConfigError
from streamvla.evaluation.compute_metrics import (
    ComputeCounts,
    ComputeMetrics,
    compute_figures,
)
from streamvla.evaluation.motion import CommandedMotion
from streamvla.evaluation.smoothness import (
    Smoothness,
)
from streamvla.evaluation.stats import Distribution, Samples, wilson_interval
from streamvla.evaluation.task_metrics import Measurements, TaskMetrics, pooled
from streamvla.trace.events import (
    ActionReady,
    CameraFrozen,
    Dropped,
    EarlyDecided,
    Ended,
    GenerateRequested,
    HealthChanged,
    Intervened,
    Measured,
    ObserveCost,
    ObserveReady,
    ObserveRequested,
    ObserveStarted,
    RecordingLost,
    Rejected,
    Sent,
    Stimulus,
    Stopping,
    TicksSkipped,
    TraceEvent,
)
from streamvla.trace.spans import Pacing, idle_before_ns


@dataclass(frozen=True)
class SteadyWindow:
    """Whole observation cycles, in integer nanoseconds and counts (see the module)."""

    length_ns: int
    idle_ns: int
    actions: int
    cycles: int


@dataclass(frozen=True)
class RunMetrics:
    """The figures of one episode, defined in the module's docstring.

    Attributes:
        success: whether the task was reached; None without a task, or when the trace was cut off.
        end_reason: as in the trace's `Ended`; None when the trace was cut off.
        dropped: actions generated and never sent; `rejected`: refused by the governor; by cause.
        skipped_ticks: control ticks that nobody served; lost_events: missing in the trace file.
        fallbacks: commands the governor sent over the whole episode, start-up and tail included.
    """

    pacing: Pacing
    period_ms: float
    success: bool | None
    end_reason: str | None
    window: SteadyWindow | None
    startup_ms: float | None
    tail_ms: float | None
    actions: int
    fallbacks: int
    observations: int
    generations: int
    dropped: dict[str, int]
    rejected: dict[str, int]
    interventions: dict[str, int]
    health_ticks: dict[str, int]
    deadline_misses: int
    starved_ticks: int
    frozen_cameras: int
    skipped_ticks: int
    lost_events: int
    longest_halt_ms: float
    later_observations: int
    early_observations: int
    refused_observations: int
    objections: int
    second_looks: int
    unanswered_stimuli: int
    mean_lead: float | None
    action_age_ms: Distribution
    loop_time_ms: Distribution
    observe_ms: Distribution
    observe_wait_ms: Distribution
    generate_ms: Distribution
    command_interval_ms: Distribution
    send_lateness_ms: Distribution
    reaction_ms: Distribution
    seam_jump: Distribution
    step_jump: Distribution
    smoothness: Smoothness
    task: TaskMetrics
    compute: ComputeMetrics = field(default_factory=ComputeMetrics)

    @property
    def t_action_ms(self) -> float | None:
        return _per(self.window.length_ns, self.window.actions) if self.window else None

    @property
    def halt_ms_per_observation(self) -> float | None:
        return _per(self.window.idle_ns, self.window.cycles) if self.window else None

    def to_json(self) -> dict[str, Any]:
        """One flat object (distributions nested): what every command prints under `--json`."""
        return _figures([self]) | {
            "success": self.success,
            "end_reason": self.end_reason,
            "startup_ms": self.startup_ms,
            "tail_ms": self.tail_ms,
            **self.task.to_json(),
        }


_DISTRIBUTIONS = (
    "action_age_ms",
    "loop_time_ms",
    "observe_ms",
    "observe_wait_ms",
    "generate_ms",
    "command_interval_ms",
    "send_lateness_ms",
    "reaction_ms",
    "seam_jump",
    "step_jump",
)
_COUNTS = (
    "actions",
    "fallbacks",
    "observations",
    "generations",
    "deadline_misses",
    "starved_ticks",
    "frozen_cameras",
    "skipped_ticks",
    "lost_events",
    "later_observations",
    "early_observations",
    "refused_observations",
    "objections",
    "second_looks",
    "unanswered_stimuli",
)


def metrics_of(
    events: Iterable[TraceEvent],
    period_ns: int,
    pacing: Pacing,
    space: ActionSpace | None = None,
) -> RunMetrics:
    """The figures of one episode's trace; see `MetricsAccumulator` for the arguments."""
    accumulator = MetricsAccumulator(period_ns, pacing, space)
    for event in events:
        accumulator.record(event)
    return accumulator.result()


def aggregate(runs: Sequence[RunMetrics]) -> dict[str, Any]:
    """The figures of several episodes as one.

    Ratios are of sums (Σ idle / Σ cycles; Σ window / Σ actions), percentiles are over all
    measurements together, counts add up, the longest halt is the longest of all, smoothness is
    the mean over episodes (peak jerk the maximum). Success has its 95 % Wilson interval, over the
    `judged` episodes: those that had a task and ran to their end. How tasks went is pooled by
    `task_metrics.pooled`.

    Raises:
        ConfigError: the runs differ in pacing or period.
    """
    judged = [run.success for run in runs if run.success is not None]
    startups = [run.startup_ms for run in runs if run.startup_ms is not None]
    return _figures(runs) | {
        "episodes": len(runs),
        "judged": len(judged),
        "successes": sum(judged),
        "success": _per(sum(judged), len(judged), unit=1),
        "success_ci": wilson_interval(sum(judged), len(judged)),
        "startup_ms": Distribution.of(startups).mean,
        "end_reasons": _tally(run.end_reason or "cut off" for run in runs),
        **pooled([run.task for run in runs]),
    }


class MetricsAccumulator:
    """A trace sink that keeps sums and samples, not events: memory stays bounded.

    Percentiles are exact up to `SAMPLE_LIMIT` measurements each (see `Samples`); smoothness is
    over the first `SAMPLE_LIMIT` commands.

    Args:
        period_ns: the control period `e` (event pacing: the nominal time of one command).
        pacing: as the run was driven.
        space: of the robot; None leaves smoothness and seam jumps out.
    """

    def __init__(self, period_ns: int, pacing: Pacing, space: ActionSpace | None = None) -> None:
        if period_ns <= 0 or pacing not in ("event", "grid"):
            raise ConfigError(
                f"metrics: period {period_ns} ns and pacing {pacing!r}: expected a period > 0 and "
                "'event' or 'grid'"
            )
        self._period_ns = period_ns
        self._pacing: Pacing = pacing
        self._steady = _SteadyState()
        self._motion = None if space is None else CommandedMotion(space, period_ns, pacing)
        self._measurements = Measurements()
        self._compute = ComputeCounts()
        self._samples = {name: Samples() for name in _DISTRIBUTIONS[:-2]}
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._dropped: dict[str, int] = {}
        self._rejected: dict[str, int] = {}
        self._interventions: dict[str, int] = {}
        self._health_ticks: dict[str, int] = {}
        self._health = "streaming"
        self._begin_ns: int | None = None
        self._first_policy_ns: int | None = None
        self._last: Sent | None = None
        self._last_policy: Sent | None = None
        self._last_request_ns: int | None = None
        self._requested_ns: dict[int, int] = {}
        self._encoding_since_ns: dict[int, int] = {}
        self._leads = 0
        self._pending: dict[int, int] = {}
        self._stimulus_ns: int | None = None
        self._longest_ns = 0
        self._over_ns: int | None = None
        self._ended: Ended | None = None
        self._handlers: dict[type, Callable[[Any], None]] = {
            Sent: self._on_sent,
            ActionReady: self._on_action_ready,
            ObserveRequested: self._on_observe_requested,
            ObserveStarted: self._on_observe_started,
            ObserveReady: self._on_observe_ready,
            ObserveCost: self._compute.on_cost,
            GenerateRequested: self._on_generate_requested,
            EarlyDecided: self._on_early_decided,
            Stimulus: self._on_stimulus,
            Measured: self._on_measured,
            Dropped: self._on_dropped,
            Rejected: self._on_rejected,
            Intervened: self._on_intervened,
            HealthChanged: self._on_health_changed,
            CameraFrozen: self._on_camera_frozen,
            TicksSkipped: self._on_ticks_skipped,
            RecordingLost: self._on_recording_lost,
            Stopping: self._on_stopping,
            Ended: self._on_ended,
        }

    def record(self, event: TraceEvent) -> None:
        if self._over_ns is not None and not isinstance(event, Ended):
            return  # what brings the robot to rest is no part of the episode
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def flush(self) -> None:
        """Nothing waits to be written."""

    def result(self) -> RunMetrics:
        """The figures of everything recorded so far."""
        counts = self._counts
        motion = self._motion
        measured: dict[str, Any] = {
            **counts,
            **{name: samples.distribution() for name, samples in self._samples.items()},
        }
        return RunMetrics(
            pacing=self._pacing,
            period_ms=self._period_ns / NS_PER_MS,
            success=self._success(),
            end_reason=self._ended.reason if self._ended else None,
            window=self._steady.window(),
            startup_ms=_elapsed_ms(self._begin_ns, self._first_policy_ns),
            tail_ms=self._tail_ms(),
            dropped=dict(self._dropped),
            rejected=dict(self._rejected),
            interventions=dict(self._interventions),
            health_ticks=dict(self._health_ticks),
            longest_halt_ms=self._longest_ns / NS_PER_MS,
            mean_lead=_per(self._leads, counts["later_observations"], unit=1),
            seam_jump=motion.seams.distribution() if motion else Distribution.of([]),
            step_jump=motion.steps.distribution() if motion else Distribution.of([]),
            smoothness=motion.smoothness() if motion else Smoothness(None, None, None, None),
            task=self._measurements.result(self._completion_time_s()),
            compute=self._compute.result(),
            **measured,
        )

    # --- events --------------------------------------------------------------------------------

    def _on_sent(self, event: Sent) -> None:
        self._mark_begin(event.t_ns)
        self._compute.on_command()
        if self._last is not None:
            self._sample("command_interval_ms", event.t_ns - self._last.t_ns)
        self._last = event
        if self._pacing == "grid":
            self._sample("send_lateness_ms", event.t_ns - event.due_ns)
        if self._motion is not None:
            self._motion.add(event)
        if event.source == "policy":
            self._on_policy_command(event)
        else:
            self._counts["fallbacks"] += 1
        if self._pacing == "grid" and self._last_policy is not None:
            self._health_ticks[self._health] = self._health_ticks.get(self._health, 0) + 1

    def _on_policy_command(self, event: Sent) -> None:
        self._counts["actions"] += 1
        oldest_ns = event.parents[0].captured_ns if event.parents else event.captured_ns
        self._sample("action_age_ms", event.t_ns - oldest_ns)
        if self._stimulus_ns is not None and event.captured_ns >= self._stimulus_ns:
            self._sample("reaction_ms", event.t_ns - self._stimulus_ns)
            self._counts["unanswered_stimuli"] -= 1
            self._stimulus_ns = None
        idle_ns = 0
        if self._last_policy is None:
            self._first_policy_ns = event.t_ns
        else:
            idle_ns = idle_before_ns(event, self._last_policy, self._period_ns, self._pacing)
        self._last_policy = event
        self._steady.add(event, idle_ns)
        if idle_ns > 0:
            ticks = idle_ns // self._period_ns
            self._counts["starved_ticks"] += ticks
            self._counts["deadline_misses"] += ticks if self._pacing == "grid" else 1
            self._longest_ns = max(self._longest_ns, idle_ns)

    def _on_observe_requested(self, event: ObserveRequested) -> None:
        self._mark_begin(event.t_ns)
        if self._last_request_ns is not None:
            self._sample("loop_time_ms", event.t_ns - self._last_request_ns)
            if event.second_look:
                self._counts["second_looks"] += 1
            else:
                self._pending[event.observation] = event.pending
        self._last_request_ns = event.t_ns
        self._requested_ns[event.observation] = event.t_ns
        self._counts["observations"] += 1

    def _on_observe_started(self, event: ObserveStarted) -> None:
        self._encoding_since_ns[event.observation] = event.t_ns
        requested_ns = self._requested_ns.pop(event.observation, None)
        if requested_ns is not None:
            self._sample("observe_wait_ms", event.t_ns - requested_ns)

    def _on_observe_ready(self, event: ObserveReady) -> None:
        self._compute.on_context(event.observation)
        pending = self._pending.pop(event.observation, None)
        if pending is not None:
            self._leads += pending
            self._counts["later_observations"] += 1
            self._counts["early_observations"] += pending > 0
        started_ns = self._encoding_since_ns.pop(event.observation, None)
        if started_ns is not None:
            self._sample("observe_ms", event.t_ns - started_ns)

    def _on_early_decided(self, event: EarlyDecided) -> None:
        self._counts["objections"] += event.second_look
        if event.accepted or event.second_look or event.observation < 0:
            return
        self._compute.on_refused(event.observation)
        self._pending.pop(event.observation, None)
        self._requested_ns.pop(event.observation, None)
        self._encoding_since_ns.pop(event.observation, None)
        self._counts["refused_observations"] += 1

    def _on_stimulus(self, event: Stimulus) -> None:
        self._stimulus_ns = event.t_ns
        self._counts["unanswered_stimuli"] += 1

    def _on_measured(self, event: Measured) -> None:
        self._measurements.add(event.t_ns, event.values)

    def _on_generate_requested(self, event: GenerateRequested) -> None:
        self._counts["generations"] += 1

    def _on_action_ready(self, event: ActionReady) -> None:
        self._sample("generate_ms", event.t_ns - event.started_ns)
        self._compute.on_action(event)

    def _on_dropped(self, event: Dropped) -> None:
        self._dropped[event.reason] = self._dropped.get(event.reason, 0) + 1

    def _on_rejected(self, event: Rejected) -> None:
        self._rejected[event.cause] = self._rejected.get(event.cause, 0) + 1

    def _on_intervened(self, event: Intervened) -> None:
        self._interventions[event.rung] = self._interventions.get(event.rung, 0) + event.ticks

    def _on_health_changed(self, event: HealthChanged) -> None:
        """It follows the tick's command, which is therefore counted under the state before."""
        self._health = event.after

    def _on_camera_frozen(self, event: CameraFrozen) -> None:
        self._counts["frozen_cameras"] += 1

    def _on_ticks_skipped(self, event: TicksSkipped) -> None:
        self._counts["skipped_ticks"] += event.ticks

    def _on_recording_lost(self, event: RecordingLost) -> None:
        self._counts["lost_events"] += event.events

    def _on_stopping(self, event: Stopping) -> None:
        self._over_ns = event.t_ns

    def _on_ended(self, event: Ended) -> None:
        self._ended = event
        if self._over_ns is None:
            self._over_ns = event.t_ns

    # --- small parts ---------------------------------------------------------------------------

    def _sample(self, name: str, duration_ns: int) -> None:
        self._samples[name].add(duration_ns / NS_PER_MS)

    def _mark_begin(self, t_ns: int) -> None:
        if self._begin_ns is None:
            self._begin_ns = t_ns

    def _success(self) -> bool | None:
        """None where nothing could be reached: a run that ends by counting observations."""
        if self._ended is None:
            return None
        reached = self._ended.success
        return None if self._ended.reason == "observations" and not reached else reached

    def _completion_time_s(self) -> float | None:
        if self._ended is None or self._ended.reason != "success":
            return None
        elapsed_ms = _elapsed_ms(self._begin_ns, self._over_ns)
        return None if elapsed_ms is None else elapsed_ms * NS_PER_MS / NS_PER_S

    def _tail_ms(self) -> float | None:
        if self._last_policy is None or self._over_ns is None:
            return None
        done_ns = self._last_policy.t_ns + self._period_ns
        return max(0, self._over_ns - done_ns) / NS_PER_MS


class _SteadyState:
    """The window, closed anew at the first command of every generation."""

    def __init__(self) -> None:
        self._first_ns = 0
        self._newest = -1
        self._idle_ns = 0
        self._actions = 0
        self._cycles = 0
        self._window: SteadyWindow | None = None

    def add(self, command: Sent, idle_ns: int) -> None:
        self._idle_ns += idle_ns
        if command.generation > self._newest:
            self._newest = command.generation
            if self._actions == 0:
                self._first_ns = command.t_ns
            else:
                length_ns = command.t_ns - self._first_ns
                self._window = SteadyWindow(length_ns, self._idle_ns, self._actions, self._cycles)
            self._cycles += 1
        self._actions += 1

    def window(self) -> SteadyWindow | None:
        return self._window


def _figures(runs: Sequence[RunMetrics]) -> dict[str, Any]:
    """What one run and many have in common; sums come before ratios."""
    if len({(run.pacing, run.period_ms) for run in runs}) > 1:
        raise ConfigError("cannot aggregate runs of different pacing or control period")
    windows = [run.window for run in runs if run.window is not None]
    distributions = {
        name: Distribution.pooled([getattr(run, name) for run in runs]) for name in _DISTRIBUTIONS
    }
    return {
        "pacing": runs[0].pacing if runs else None,
        "period_ms": runs[0].period_ms if runs else None,
        "t_action_ms": _per(sum(w.length_ns for w in windows), sum(w.actions for w in windows)),
        "halt_ms_per_observation": _per(
            sum(w.idle_ns for w in windows), sum(w.cycles for w in windows)
        ),
        "longest_halt_ms": max((run.longest_halt_ms for run in runs), default=None),
        **{name: sum(getattr(run, name) for run in runs) for name in _COUNTS},
        "dropped": _tally_sums(run.dropped for run in runs),
        "rejected": _tally_sums(run.rejected for run in runs),
        "interventions": _tally_sums(run.interventions for run in runs),
        "health_ticks": _tally_sums(run.health_ticks for run in runs),
        "mean_lead": _pooled_lead(runs),
        "early_accept_rate": _per(
            sum(run.early_observations for run in runs),
            sum(run.later_observations for run in runs),
            unit=1,
        ),
        **{name: distribution.to_json() for name, distribution in distributions.items()},
        "seam_ratio": _quotient(distributions["seam_jump"].mean, distributions["step_jump"].mean),
        "smoothness": _mean_smoothness([run.smoothness for run in runs]),
        **compute_figures([run.compute for run in runs]),
    }


def _pooled_lead(runs: Sequence[RunMetrics]) -> float | None:
    led = [(run.mean_lead, run.later_observations) for run in runs if run.mean_lead is not None]
    return _per(sum(lead * later for lead, later in led), sum(later for _, later in led), unit=1)


def _mean_smoothness(runs: Sequence[Smoothness]) -> dict[str, float | None]:
    moved = [run for run in runs if run.sparc is not None]
    if not moved:
        return Smoothness(None, None, None, None).to_json()
    rows = np.array([list(run.to_json().values()) for run in moved], dtype=float)
    means = dict(zip(moved[0].to_json(), rows.mean(axis=0).tolist(), strict=True))
    return means | {"peak_jerk": float(rows[:, -1].max())}


def _per(total: float, count: int, unit: int = NS_PER_MS) -> float | None:
    """`total / count / unit`, None for a count of zero."""
    return total / count / unit if count > 0 else None


def _quotient(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or not denominator:
        return None
    return numerator / denominator


def _elapsed_ms(start_ns: int | None, end_ns: int | None) -> float | None:
    return None if start_ns is None or end_ns is None else (end_ns - start_ns) / NS_PER_MS


def _tally(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _tally_sums(tallies: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for tally in tallies:
        for name, count in tally.items():
            total[name] = total.get(name, 0) + count
    return total
