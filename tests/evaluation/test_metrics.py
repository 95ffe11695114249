"""From traces to numbers: worked by hand, and against the published timeline."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from streamvla.core.clock import NS_PER_MS
from streamvla.core.errors import ConfigError
from streamvla.evaluation.metrics import MetricsAccumulator, RunMetrics, aggregate, metrics_of
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import named_profile
from streamvla.testing.fakes import unit_space
from streamvla.trace import (
    ActionReady,
    Dropped,
    EarlyDecided,
    Ended,
    ObserveReady,
    ObserveRequested,
    ObserveStarted,
    Rejected,
    Sent,
    TraceEvent,
)
from tests.evaluation.simulation import ARM, simulate_arm

MS = NS_PER_MS
PAPER = named_profile("paper-a800")


def policy(t_ms: float, due_ms: float, generation: int, captured_ms: float, x: float = 0.0) -> Sent:
    return Sent(
        round(t_ms * MS),
        round(due_ms * MS),
        0,
        "policy",
        generation,
        generation,
        0,
        round(captured_ms * MS),
        0,
        (x,),
    )


def hold(t_ms: float) -> Sent:
    return Sent(round(t_ms * MS), round(t_ms * MS), 0, "hold", -1, -1, -1, -1, 0, (0.0,))


# Grid of 50 ms. Two whole cycles of two actions, with two and one fallback ticks in between.
GRID: list[TraceEvent] = [
    ObserveRequested(0, 0, 0),
    hold(0),
    ObserveStarted(10 * MS, 0),
    ObserveReady(40 * MS, 0, 0),
    ActionReady(60 * MS, 40 * MS, 0, 0, 0),
    policy(102, 100, 0, 0, x=0.1),
    policy(150, 150, 0, 0, x=0.2),
    ObserveRequested(150 * MS, 1, 0),
    ObserveStarted(160 * MS, 1),
    ObserveReady(190 * MS, 1, 150 * MS),
    hold(200),
    hold(250),
    policy(300, 300, 1, 150, x=0.8),
    ObserveRequested(300 * MS, 2, 1),
    ObserveStarted(310 * MS, 2),
    ObserveReady(340 * MS, 2, 300 * MS),
    policy(350, 350, 1, 150, x=0.9),
    hold(400),
    Dropped(410 * MS, 1, 2, "cancelled"),
    Rejected(420 * MS, 2, 1, "not finite"),
    policy(450, 450, 2, 300, x=0.9),
    hold(500),
    hold(550),
    Ended(600 * MS, True, "success"),
]


@pytest.fixture
def grid() -> RunMetrics:
    return metrics_of(GRID, 50 * MS, "grid", unit_space())


def test_the_window_holds_whole_cycles_only(grid: RunMetrics) -> None:
    """100 ms to 450 ms: 4 actions, 2 cycles, 3 idle ticks; start-up and tail stay outside."""
    assert grid.t_action_ms == pytest.approx((450 - 102) / 4)
    assert grid.halt_ms_per_observation == pytest.approx(3 * 50 / 2)
    assert grid.startup_ms == 102
    assert grid.tail_ms == 100


def test_misses_and_starved_ticks_on_the_grid(grid: RunMetrics) -> None:
    """Every tick without a policy command between the first and the last one counts as both."""
    assert (grid.starved_ticks, grid.deadline_misses, grid.longest_halt_ms) == (3, 3, 100)
    assert (grid.actions, grid.fallbacks) == (5, 6)


def test_stage_times_ages_and_counts(grid: RunMetrics) -> None:
    """Each distribution measures what its name says."""
    assert grid.observe_ms.mean == 30
    assert grid.observe_wait_ms.mean == 10
    assert grid.generate_ms.mean == 20
    assert grid.loop_time_ms.mean == 150
    assert grid.action_age_ms.maximum == 200
    assert grid.action_age_ms.mean == pytest.approx((102 + 150 + 150 + 200 + 150) / 5)
    assert grid.send_lateness_ms.maximum == 2
    assert (grid.observations, grid.early_observations, grid.mean_lead) == (3, 1, 0.5)
    assert (grid.dropped, grid.rejected) == ({"cancelled": 1}, {"not finite": 1})
    assert grid.success is True


def test_seam_jumps_are_told_from_steps(grid: RunMetrics) -> None:
    """0.2 → 0.8 and 0.9 → 0.9 cross a seam; 0.1 → 0.2 and 0.8 → 0.9 do not."""
    assert grid.seam_jump.mean == pytest.approx(0.3)
    assert grid.seam_jump.maximum == pytest.approx(0.6)
    assert grid.step_jump.mean == pytest.approx(0.1)
    assert grid.to_json()["seam_ratio"] == pytest.approx(3)


def test_waits_under_event_pacing() -> None:
    """A wait is counted from the instant the robot was free: 30, 120 and 10 ms, all misses."""
    events = [
        ObserveRequested(0, 0, 0),
        policy(80, 0, 0, 0),
        policy(160, 130, 0, 0),
        policy(330, 210, 1, 150),
        policy(390, 380, 2, 300),
        Ended(440 * MS, False, "time-limit"),
    ]
    found = metrics_of(events, 50 * MS, "event", unit_space())
    assert found.t_action_ms == pytest.approx((390 - 80) / 3)
    assert found.halt_ms_per_observation == pytest.approx((30 + 120 + 10) / 2)
    assert (found.deadline_misses, found.starved_ticks, found.longest_halt_ms) == (3, 2, 120)
    assert found.send_lateness_ms.count == 0


@pytest.mark.parametrize(
    ("executor", "t_action", "halt"),
    [
        (Synchronous(), 50.8, 238.0),
        (Synchronous(5), 74.6, 238.0),
        (ActionFlow(0), 34.6, 76.0),
        (ActionFlow(2), 29.2, 22.0),
        (ActionFlow(3), 27.0, 0.0),
    ],
    ids=["synchronous", "synchronous, 5 of 10", "lead 0", "lead 2", "lead 3"],
)
def test_the_published_timeline(executor: Executor, t_action: float, halt: float) -> None:
    """Methods §1: StreamingVLA's own profile gives its formula's T_action and halt exactly."""
    events = simulate_arm(PAPER, executor, "event", observations=20)
    found = metrics_of(events, PAPER.execute_ns, "event", ARM)
    assert found.t_action_ms == pytest.approx(t_action)
    assert found.halt_ms_per_observation == pytest.approx(halt)


def test_a_smoother_schedule_measures_smoother() -> None:
    """The fewer halts a schedule has, the better SPARC and LDLJ of the same movement."""
    found = [
        metrics_of(simulate_arm(PAPER, executor), PAPER.execute_ns, "grid", ARM).smoothness
        for executor in (Synchronous(), ActionFlow(0), ActionFlow(3))
    ]
    scores = [figures.sparc or 0.0 for figures in found]
    assert scores == sorted(scores)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [ObserveRequested(0, 0, 0)],
        [hold(0), hold(50), Ended(100 * MS, False, "failed")],
        GRID[:7],
    ],
    ids=["empty", "died observing", "never acted", "one generation"],
)
def test_too_short_a_run_has_no_steady_figures(events: list[TraceEvent]) -> None:
    """Fewer than two generations: null, not zero; and everything is valid JSON."""
    found = metrics_of(events, 50 * MS, "grid", unit_space())
    assert found.t_action_ms is None
    assert found.halt_ms_per_observation is None
    text = json.dumps([found.to_json(), aggregate([found])], allow_nan=False)
    assert json.loads(text)[0]["t_action_ms"] is None


def test_without_a_robot_there_is_no_smoothness() -> None:
    """Leaving the action space out leaves those figures out, and only those."""
    found = metrics_of(GRID, 50 * MS, "grid")
    assert found.smoothness.sparc is None
    assert found.seam_jump.count == 0
    assert found.action_age_ms.count == 5


def test_counting_observations_is_no_failure() -> None:
    """A timeline study that ends by its observation limit has no success, not a failed one."""
    studied = metrics_of([Ended(0, False, "observations")], MS, "grid")
    failed = metrics_of([Ended(0, False, "time-limit")], MS, "grid")
    assert (studied.success, failed.success) == (None, False)
    assert aggregate([studied])["success"] is None


def test_aggregation_pools_before_it_divides(grid: RunMetrics) -> None:
    """Ratios are of sums, percentiles of all measurements, success has its interval."""
    long = metrics_of(GRID[:13], 50 * MS, "grid", unit_space())
    both = aggregate([grid, replace(long, success=False)])
    assert both["t_action_ms"] == pytest.approx((348 + 198) / (4 + 2))
    assert both["halt_ms_per_observation"] == pytest.approx((150 + 100) / 3)
    assert both["actions"] == 8
    assert both["action_age_ms"]["count"] == 8
    assert both["longest_halt_ms"] == 100
    assert both["startup_ms"] == 102
    assert (both["episodes"], both["successes"], both["success"]) == (2, 1, 0.5)
    assert both["success_ci"] == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert both["end_reasons"] == {"success": 1, "cut off": 1}


def test_aggregating_nothing_or_unlike_runs(grid: RunMetrics) -> None:
    """No run gives nulls; runs on different grids are an error."""
    assert aggregate([])["t_action_ms"] is None
    with pytest.raises(ConfigError, match="different pacing or control period"):
        aggregate([grid, metrics_of(GRID, 20 * MS, "grid")])
    with pytest.raises(ConfigError, match="expected a period > 0"):
        MetricsAccumulator(0, "grid")


def test_streaming_and_replaying_agree() -> None:
    """An accumulator fed event by event gives what the whole trace gives, whenever it is asked."""
    events = simulate_arm(PAPER, ActionFlow(2), "grid", jitter=0.3)
    accumulator = MetricsAccumulator(PAPER.execute_ns, "grid", ARM)
    for event in events:
        accumulator.record(event)
    assert accumulator.result() == metrics_of(events, PAPER.execute_ns, "grid", ARM)


def early(observation: int, *, accepted: bool) -> EarlyDecided:
    return EarlyDecided(0, observation, 3, accepted, "", 0, (2.0,), (1.0,))


def test_a_refused_look_counts_under_refused_and_nowhere_else():
    """Of four looks one is refused: rate and mean lead are over the other two later ones."""
    events = [
        ObserveRequested(0, 0, 0),
        ObserveReady(5, 0, 0),
        ObserveRequested(10, 1, 3),
        early(1, accepted=False),
        ObserveRequested(20, 2, 0),
        ObserveReady(25, 2, 20),
        ObserveRequested(30, 3, 3),
        ObserveReady(35, 3, 30),
        early(3, accepted=True),
    ]
    metrics = metrics_of(events, 50, "grid")
    assert (metrics.refused_observations, metrics.early_observations) == (1, 1)
    assert metrics.mean_lead == pytest.approx(1.5)
    assert metrics.to_json()["early_accept_rate"] == pytest.approx(0.5)
    assert aggregate([metrics, metrics])["early_accept_rate"] == pytest.approx(0.5)


def test_a_doubted_look_is_an_early_observation_like_any_other():
    """It was used, so it counts; the second look is counted beside it, if there was one."""
    events = [
        ObserveRequested(0, 0, 0),
        ObserveReady(5, 0, 0),
        ObserveRequested(10, 1, 3),
        ObserveReady(15, 1, 10),
        early(1, accepted=False)._replace(second_look=True),
    ]
    alone = metrics_of(events, 50, "grid")
    assert (alone.objections, alone.second_looks, alone.refused_observations) == (1, 0, 0)
    again = [ObserveRequested(20, 2, 9, second_look=True), ObserveReady(25, 2, 20)]
    metrics = metrics_of([*events, *again], 50, "grid")
    assert (metrics.objections, metrics.second_looks) == (1, 1)
    assert (metrics.early_observations, metrics.later_observations) == (1, 1)
    assert metrics.mean_lead == 3.0
    assert metrics.to_json()["early_accept_rate"] == 1.0


def test_a_look_that_became_nothing_counts_neither_way():
    """An early look still under way when the episode ends is in no share."""
    events = [ObserveRequested(0, 0, 0), ObserveReady(5, 0, 0), ObserveRequested(10, 1, 3)]
    metrics = metrics_of(events, 50, "grid")
    assert (metrics.observations, metrics.later_observations) == (2, 0)
    assert metrics.to_json()["early_accept_rate"] is None


def test_a_refusal_without_a_look_takes_nothing_away():
    """Rules that refuse before capturing leave the counts alone."""
    events = [
        ObserveRequested(0, 0, 0),
        ObserveReady(5, 0, 0),
        early(-1, accepted=False),
        ObserveRequested(10, 1, 0),
        ObserveReady(15, 1, 10),
    ]
    metrics = metrics_of(events, 50, "grid")
    assert (metrics.refused_observations, metrics.mean_lead) == (0, 0.0)
