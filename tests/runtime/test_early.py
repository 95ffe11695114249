"""Early observation: what each rule does, and what a refusal may cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamvla.core.errors import ConfigError, StageFailedError
from streamvla.core.interfaces import Frames
from streamvla.runtime.buffer import Replace
from streamvla.runtime.drivers.episode import Episode
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.drivers.threads import run_realtime
from streamvla.runtime.executors.action_flow import ActionFlow, Compensation
from streamvla.runtime.executors.early import (
    ActionNorm,
    Adaptive,
    Always,
    AtRandom,
    EarlyRule,
    Never,
)
from streamvla.runtime.executors.early_observer import pending_motions, smaller_lead
from streamvla.runtime.executors.registry import parse_executor
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.streamer.messages import Observed, SafeStop, Started, StartObserve, Tick
from streamvla.runtime.timing.estimates import WindowQuantile
from streamvla.runtime.timing.latency import (
    ConstantLatency,
    EmpiricalLatency,
    named_profile,
    profile_ms,
)
from streamvla.testing import AnticipatingPolicy, StillRobot
from streamvla.testing.fakes import SaliencyScript
from streamvla.trace import (
    Dropped,
    EarlyDecided,
    GenerateRequested,
    LeadChosen,
    MemoryTrace,
    ObserveReady,
    ObserveRequested,
    Sent,
)

from .scenario import MIXED, Run, Scenario, wandering

TIMES = named_profile("paper-20hz")  # zero halt needs lead 3; a look takes 33 + 3 ms
CALM: SaliencyScript = lambda observation, motion: [0.1]  # noqa: E731


def by_motion(observation, motion) -> list[float]:
    """A camera that changes as much as the arm moves."""
    return [abs(motion[0])]


def forward(observation, start, index) -> np.ndarray:
    return np.array([0.5, 1.0])


@dataclass
class Foreseeing(Scenario):
    """A scenario whose policy anticipates."""

    saliency: SaliencyScript = CALM
    changes: list = field(default_factory=list)

    def episode(self, trace) -> Episode:
        episode = super().episode(trace)
        policy = AnticipatingPolicy(
            self.space, self.horizon, self.profile.execute_ns, self.script, self.saliency
        )
        policy.changes = self.changes
        return replace(episode, policy=policy)


def foreseeing(executor: ActionFlow, **settings) -> Foreseeing:
    return Foreseeing(
        executor, **{"pacing": "grid", "profile": TIMES, "observations": 8} | settings
    )


def decisions(run: Run) -> list[EarlyDecided]:
    return [event for event in run.events if isinstance(event, EarlyDecided)]


def leads(run: Run) -> list[int]:
    """How many were pending at the capture behind each generation but the first."""
    pending = {e.observation: e.pending for e in run.events if isinstance(e, ObserveRequested)}
    return [pending[e.observation] for e in run.events if isinstance(e, GenerateRequested)][1:]


def starved(run: Run) -> int:
    """Ticks without an action between the first and the last one with an action."""
    sources = [event.source for event in run.sent]
    first = sources.index("policy")
    last = len(sources) - sources[::-1].index("policy")
    return sources[first:last].count("hold")


def gate(
    threshold: float, lead: int = 3, *, second_look: bool = False, **settings: Any
) -> ActionFlow:
    return ActionFlow(lead, Adaptive((threshold,), ("front",), second_look), **settings)


# --- rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pacing", ["event", "grid"])
def test_never_looks_only_when_nothing_is_pending(pacing):
    """Rule none observes with nothing pending whatever lead is set: as at lead 0."""
    runs = [
        Scenario(executor, pacing=pacing, script=wandering).run()
        for executor in (ActionFlow(3, Never()), ActionFlow(0))
    ]
    assert leads(runs[0]) == [0] * 4
    assert runs[0].events == runs[1].events


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_of_all_or_nothing_is_always_or_never(rate):
    """At random with rate 1 every cycle observes at the lead, with rate 0 none does."""
    run = Scenario(ActionFlow(3, AtRandom(rate)), pacing="grid", observations=6).run()
    assert leads(run) == [3 * rate] * 5
    assert [event.accepted for event in decisions(run)] == [bool(rate)] * 5


def test_random_early_observation_comes_at_its_rate():
    """Over 400 cycles the share observed early is within three deviations of the rate."""
    run = Scenario(ActionFlow(3, AtRandom(0.3, seed=4)), pacing="grid", observations=401).run()
    assert np.mean([lead > 0 for lead in leads(run)]) == pytest.approx(0.3, abs=0.07)


def test_a_cycle_is_drawn_once():
    """A cycle that drew a refusal is not drawn again: one decision per cycle."""
    run = Scenario(ActionFlow(5, AtRandom(0.5, seed=1)), pacing="grid", observations=40).run()
    assert len(decisions(run)) == 39


def test_the_action_norm_takes_the_largest_lead_that_passes():
    """With steps of 0.5, a norm of 1.2 lets two pending actions pass and not three."""
    run = Scenario(
        ActionFlow(3, ActionNorm(1.2)), pacing="grid", script=forward, observations=6
    ).run()
    assert leads(run) == [2] * 5
    refused, accepted = decisions(run)[:2]
    assert (refused.accepted, refused.lead, refused.next_lead) == (False, 3, 2)
    assert "action norm 1.5 above 1.2" in refused.cause
    assert (accepted.accepted, accepted.lead) == (True, 2)


def test_an_action_norm_that_never_passes_waits_until_nothing_is_pending():
    """Every cycle is refused once, and observed afresh."""
    run = Scenario(
        ActionFlow(3, ActionNorm(0.1)), pacing="grid", script=forward, observations=6
    ).run()
    assert leads(run) == [0] * 5
    assert [event.next_lead for event in decisions(run)] == [0] * 5


def test_an_accepted_look_is_an_observation_like_any_other():
    """A gate that always passes sends what rule always sends, at the same instants."""
    adaptive = foreseeing(gate(1.0), script=wandering).run()
    always = foreseeing(ActionFlow(3), script=wandering).run()
    assert leads(adaptive) == [3] * 7
    assert [e.values for e in adaptive.sent] == [e.values for e in always.sent]
    assert starved(adaptive) == 0


def test_a_decision_says_what_it_goes_by():
    """Accepted or refused, the trace has saliency, threshold, lead and a cause with the view."""
    accepted = decisions(foreseeing(gate(1.0)).run())[0]
    assert (accepted.accepted, accepted.lead) == (True, 3)
    assert (accepted.saliency, accepted.threshold) == ((0.1,), (1.0,))
    refused = decisions(foreseeing(gate(0.05)).run())[0]
    assert (refused.accepted, refused.next_lead) == (False, 0)
    assert refused.cause == "saliency 0.1 of front above 0.05"


def test_a_refusal_schedules_the_largest_smaller_lead_that_passes():
    """Three steps of 0.5 are too much for η = 1.2, two are not: the next look has two pending."""
    run = foreseeing(gate(1.2), script=forward, saliency=by_motion).run()
    assert leads(run) == [2] * 7
    outcome = [(event.accepted, event.lead, event.next_lead) for event in decisions(run)]
    assert outcome == [(False, 3, 2), (True, 2, 2)] * 7


def test_a_look_whose_saliency_is_no_number_is_refused():
    """NaN passes no threshold."""
    run = foreseeing(gate(1.0), saliency=lambda *_: [np.nan]).run()
    assert leads(run) == [0] * 7


@pytest.mark.parametrize("pacing", ["event", "grid"])
@pytest.mark.parametrize("lead", [1, 2, 3, 5])
@pytest.mark.parametrize("profile", ["paper-20hz", "edge-20hz"])
def test_a_refused_look_costs_no_stall_beyond_the_fresh_one(pacing, lead, profile):
    """Where every look is refused, the robot waits exactly as long as without early observation.

    At every lead that leaves time for the look; `edge-20hz` looks for 65 + 6 ms.
    """
    times = named_profile(profile)
    if lead * times.execute_ns < times.sighting_ns(times.observe_ns, 2, refused=True):
        return
    runs = [
        foreseeing(executor, pacing=pacing, profile=times).run()
        for executor in (gate(0.0, lead), ActionFlow(lead, Never()))
    ]
    sent = [[(e.t_ns, e.source, e.values) for e in run.sent] for run in runs]
    assert sent[0] == sent[1]


def test_a_lead_too_small_to_look_and_look_again_is_not_tried():
    """A look of 110 ms at 50 ms a tick: after a refusal at 3, lead 2 and 1 leave no time."""
    slow = profile_ms("slow look", 200, 20, 50, look=110)
    run = foreseeing(gate(1.2), profile=slow, script=forward, saliency=by_motion).run()
    assert leads(run) == [0] * 7


def test_a_refused_observation_is_no_observation():
    """A run of 8 observations has 8 generations however many looks were refused."""
    run = foreseeing(gate(0.05)).run()
    assert len([e for e in run.events if isinstance(e, GenerateRequested)]) == 8
    assert len([e for e in run.events if isinstance(e, ObserveRequested)]) == 15
    assert len([e for e in run.events if isinstance(e, ObserveReady)]) == 8


def test_pending_actions_that_are_not_made_yet_repeat_the_last_one():
    """With eight pending and some of them unmade, the motion is eight times the steady step."""
    slow = profile_ms("slow steps", 20, 45, 50, look=5)
    seen = []

    def saliency(observation, motion):
        seen.append(motion[0])
        return [0.0]

    run = foreseeing(gate(1.0, lead=8), profile=slow, script=forward, saliency=saliency).run()
    assert max(leads(run)) == 8
    assert seen == pytest.approx([0.5 * lead for lead in leads(run)])


# --- compensations ---------------------------------------------------------------------------


def starts_of(compensation: Compensation, **settings) -> list[tuple]:
    """(action state at capture, where the flow starts, first index, age) of later generations."""
    starts = []

    def script(observation, start, index):
        if index == start.index:
            starts.append((observation.action_state[0], start.action_state[0], index, start.age))
        return np.array([0.25, 1.0])

    executor = ActionFlow(3, compensation=compensation, **settings)
    foreseeing(executor, script=script, observations=4).run()
    return starts[1:]


def test_the_state_can_be_left_uncompensated():
    """Without compensation 1 a flow starts at the action state of the capture."""
    without = starts_of(Compensation(state=False))
    assert all(captured == start for captured, start, _, _ in without)
    assert all(start - captured == 0.75 for captured, start, _, _ in starts_of(Compensation()))


def test_the_policy_is_told_how_old_its_observation_is():
    """Three actions where the flow departs from the planned state; none where it departs from the
    captured one, and none beside a shifted clock, which says it already."""
    parts = (Compensation(), Compensation(state=False), Compensation(clock_shift=True))
    assert [{age for *_, age in starts_of(each)} for each in parts] == [{3}, {0}, {0}]


def test_the_clock_shift_starts_the_flow_n_steps_on():
    """With compensation 4 a generation starts at step 3 of 10 and gives the other seven."""
    found = starts_of(Compensation(clock_shift=True))
    assert [(start - captured, index) for captured, start, index, _ in found] == [(0.75, 3)] * 3
    run = foreseeing(ActionFlow(3, compensation=Compensation(clock_shift=True))).run()
    assert [e.index for e in run.sent if e.source == "policy"][:17] == [*range(10), *range(3, 10)]


def test_the_context_is_corrected_by_the_pending_motion():
    """Compensation 2: contexts are made with the change of the three pending actions."""
    changes: list = []
    executor = ActionFlow(3, compensation=Compensation(context=True))
    foreseeing(executor, script=forward, changes=changes).run()
    assert changes == [pytest.approx([1.5, 1.0])] * 7


def test_a_gate_without_compensation_leaves_the_context_alone():
    """The gate decides; only compensation 2 changes what the policy sees."""
    changes: list = []
    foreseeing(gate(9.0), script=forward, changes=changes).run()
    assert changes == [None] * 7


def test_motions_sum_deltas_and_keep_the_last_absolute_command():
    """Row m − 1 is what the last m pending actions do together."""
    pending = [np.array([0.1, 1.0]), np.array([0.2, -1.0])]
    assert pending_motions(MIXED, pending) == pytest.approx(np.array([[0.2, -1.0], [0.3, -1.0]]))


# --- measured leads --------------------------------------------------------------------------


@pytest.mark.parametrize(("profile", "lead"), [("paper-20hz", 3), ("edge-20hz", 5)])
@pytest.mark.parametrize("pacing", ["event", "grid"])
def test_a_measured_lead_is_the_smallest_without_a_halt(profile, lead, pacing):
    """From whatever lead it starts, the executor comes to the closed form's."""
    executor = ActionFlow(1, measured_lead=True)
    times = named_profile(profile)
    run = Scenario(executor, pacing=pacing, profile=times, serial=False, observations=12).run()
    assert leads(run)[4:] == [lead] * 7
    chosen = [event for event in run.events if isinstance(event, LeadChosen)]
    assert (chosen[0].lead, chosen[0].observe_ns) == (1, -1)
    assert chosen[-1].lead == lead


def test_the_largest_lead_bounds_the_measured_one():
    """Where no lead hides the stages, the largest allowed is taken."""
    slow = profile_ms("slow", 400, 20, 50)
    executor = ActionFlow(1, measured_lead=True, most_lead=4)
    run = Scenario(executor, pacing="grid", profile=slow, observations=10).run()
    assert leads(run)[-3:] == [4] * 3


def test_one_spike_moves_no_lead():
    """One observation of a second among many leaves the estimate where it was."""
    estimate = WindowQuantile(warm_up=1)
    for duration in (900, *[100] * 12, 1000, *[100] * 3):
        estimate.add(duration)
    assert estimate.estimate_ns == 100


def test_a_lasting_change_is_followed():
    """After a window of slower measurements only those count."""
    estimate = WindowQuantile(window=5, warm_up=0)
    for duration in [100] * 20 + [300] * 5:
        estimate.add(duration)
    assert estimate.estimate_ns == 300


# --- replanning ------------------------------------------------------------------------------


def replanning(**settings) -> ActionFlow:
    return ActionFlow(3, replan="as-fast-as-possible", **settings)


@pytest.mark.parametrize("pacing", ["event", "grid"])
@pytest.mark.parametrize("serial", [True, False])
def test_replanning_observes_more_often_and_never_halts(pacing, serial):
    """At a profile with room for it, contexts come faster than horizons end, without a halt."""
    executor = replanning(shared_accelerator=serial)
    runs = [
        Scenario(
            each,
            pacing=pacing,
            profile=TIMES,
            serial=serial,
            observations=None,
            duration_ns=20 * 10**9,
            script=forward,
        ).run()
        for each in (executor, ActionFlow(3))
    ]
    counts = [sum(isinstance(e, GenerateRequested) for e in run.events) for run in runs]
    assert counts[0] > (1.2 if serial else 2.5) * counts[1]
    first = next(i for i, e in enumerate(runs[0].sent) if e.generation == 4)
    assert all(event.source == "policy" for event in runs[0].sent[first:])


def test_the_newest_context_takes_over_without_a_seam():
    """Whatever is dropped on a takeover, a flow starts where its first action departs from."""
    starts = []

    def script(observation, start, index):
        if index == 0:
            starts.append(start.action_state[0])
        return np.array([0.1 * (index + 1), 1.0])

    run = Scenario(
        replanning(shared_accelerator=False),
        pacing="grid",
        profile=TIMES,
        serial=False,
        script=script,
        observations=None,
        duration_ns=10 * 10**9,
    ).run()
    state, departures = 0.0, {}
    for event in run.sent:
        departures.setdefault(event.generation, state)
        state += event.values[0]
    told = [departures[number] for number in range(len(starts)) if number in departures]
    assert starts[: len(told)] == pytest.approx(told)
    reasons = {event.reason for event in run.episode if isinstance(event, Dropped)}
    assert reasons <= {"replaced by a newer context", "cancelled"}


# --- second looks ------------------------------------------------------------------------------


def looking_again(threshold: float, **settings: Any) -> Foreseeing:
    """At `edge-20hz`, where only lead 5 hides observing, an accelerator for each stage."""
    executor = gate(threshold, 5, second_look=True, shared_accelerator=False)
    slow = {"profile": named_profile("edge-20hz"), "serial": False, "observations": 12}
    return foreseeing(executor, **slow | settings)


@pytest.mark.parametrize("pacing", ["event", "grid"])
def test_an_objection_costs_no_halt_but_a_second_look(pacing):
    """Every other context comes from a second look, and there is always an action."""
    run = looking_again(0.0, pacing=pacing).run()
    told = [(e.accepted, e.second_look, e.cause) for e in decisions(run)]
    assert set(told) == {(False, True, "saliency 0.1 of front above 0")}
    assert [e.observation for e in decisions(run)] == [1, 3, 5, 7, 9, 11]
    assert starved(run) == 0
    waits = [b.t_ns - a.t_ns for a, b in pairwise(run.sent) if a.source == "policy"]
    assert max(waits) == 50_000_000


def test_without_an_objection_there_is_no_second_look():
    """A gate that passes sends the same, whatever it would do otherwise."""
    calm, plain = looking_again(1.0).run(), looking_again(1.0)
    plain.executor = gate(1.0, 5, shared_accelerator=False)
    assert [e.values for e in calm.sent] == [e.values for e in plain.run().sent]
    assert not any(event.second_look for event in decisions(calm))


def test_a_second_look_takes_over_before_the_first_is_through():
    """What the doubted context would still have given is dropped, in favour of newer actions."""
    run = looking_again(0.0).run()
    looked = {e.observation: e.t_ns for e in run.events if isinstance(e, ObserveRequested)}
    ages = [e.t_ns - looked[e.observation] for e in run.sent if e.source == "policy"]
    always = looking_again(0.0)
    always.executor = ActionFlow(5, shared_accelerator=False)
    other = always.run()
    looked = {e.observation: e.t_ns for e in other.events if isinstance(e, ObserveRequested)}
    plain = [e.t_ns - looked[e.observation] for e in other.sent if e.source == "policy"]
    assert np.mean(ages) < np.mean(plain)
    dropped = [event for event in run.events if isinstance(event, Dropped)]
    assert {event.reason for event in dropped} == {"replaced by a newer context", "cancelled"}


class Watch(StillRobot):
    """What it shows is the instant its world has come to."""

    def __init__(self) -> None:
        super().__init__(MIXED, 20_000_000)
        self.instant_ns = 0
        self.shown: list[int] = []

    def advance_to(self, now_ns: int) -> None:
        self.instant_ns = now_ns

    def capture(self) -> Any:
        return self.instant_ns

    def observe(self, capture: Any) -> Frames:
        self.shown.append(capture)
        return super().observe(None)


@pytest.mark.parametrize("in_real_time", [True, False])
def test_a_look_between_two_ticks_shows_the_world_as_it_is_then(in_real_time):
    """A second look starts when an action is made, not on the tick: the world has moved on."""
    run = looking_again(0.0, profile=profile_ms("quick", 42, 6, 20))
    trace, robot = MemoryTrace(), Watch()
    episode = replace(run.episode(trace), robot=robot)
    if in_real_time:
        run_realtime(episode)
    else:
        run_simulated(episode, ConstantLatency(episode.profile))
    looked = [e for e in trace.events if isinstance(e, ObserveRequested)]
    assert any(e.second_look for e in looked)
    shown = robot.shown[-len(looked) :]  # in real time the stages are measured first
    assert all(shown_ns >= e.t_ns for shown_ns, e in zip(shown, looked, strict=True))
    if not in_real_time:
        assert shown == [e.t_ns for e in looked]


def test_a_second_look_waits_for_the_step_under_way():
    """On a shared accelerator: 10 ms of a step that nobody can call back, then 100 ms."""
    quick = profile_ms("quick", 100, 10, 50)
    events = foreseeing(gate(0.0, second_look=True), profile=quick).run().events
    asked = {e.observation: e.t_ns for e in events if isinstance(e, ObserveRequested)}
    again = {e.observation for e in events if isinstance(e, ObserveRequested) and e.second_look}
    made = {e.observation: e.t_ns for e in events if isinstance(e, ObserveReady)}
    assert again
    assert {made[o] - asked[o] for o in again & made.keys()} == {(10 + 100) * 1_000_000}


def test_a_second_look_is_forgotten_in_a_safe_stop():
    """After the stop nothing is looked at again until the robot may move."""
    streamer = Streamer(MIXED, 10, gate(1.0, second_look=True), "grid", MemoryTrace())
    streamer.handle(Started(0))
    streamer.handle(Observed(5, 0, saliency=((2.0,),)))
    streamer.handle(SafeStop(6, "operator"))
    streamer.handle(Tick(10, 10, 1))
    assert not any(isinstance(c, StartObserve) for c in streamer.handle(Tick(20, 20, 2)))


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AtRandom(1.5), "rate 1.5"),
        (lambda: ActionNorm(-1.0), "action norm -1.0"),
        (lambda: ActionNorm(float("nan")), "action norm nan"),
        (lambda: Adaptive(()), "one number"),
        (lambda: Adaptive((1.0, float("nan"))), "one number"),
        (lambda: Adaptive((1.0,), ("a", "b")), "1 thresholds for views"),
        (lambda: ActionFlow(replan="asap"), "replan 'asap'"),  # pyright: ignore
        (lambda: ActionFlow(most_lead=0), "largest lead 0"),
        (lambda: replanning(early=ActionNorm(1.0)), "takes no rule"),
        (lambda: replanning(compensation=Compensation(context=True)), "no compensation"),
        (
            lambda: gate(1.0, second_look=True, compensation=Compensation(context=True)),
            "--refused fresh-look",
        ),
        (lambda: WindowQuantile(share=0), "share 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    """Bad rules and executors raise ConfigError with the value."""
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_policy_that_cannot_look_ahead_is_refused_before_motion():
    """The adaptive rule on a policy without a predictor names the remedy, and sends nothing."""
    trace = MemoryTrace()
    episode = Scenario(gate(1.0)).episode(trace)
    with pytest.raises(ConfigError, match="train-saliency"):
        run_simulated(episode, ConstantLatency(TIMES))
    assert trace.events == []


def test_thresholds_for_other_views_are_a_stage_failure():
    """Two thresholds for a policy that foresees one view stop the run with the remedy."""
    executor = ActionFlow(3, Adaptive((1.0, 1.0)))
    with pytest.raises(StageFailedError, match="1 views, the adaptive rule has 2"):
        foreseeing(executor).run()


@pytest.mark.parametrize("executor", [replanning(), gate(1.0, second_look=True)])
def test_replanning_refuses_rules_that_go_by_ticks(executor):
    """Replacing late actions plans by control ticks, which a takeover would break."""
    with pytest.raises(ConfigError, match="needs Shift"):
        Streamer(MIXED, 10, executor, "grid", MemoryTrace(), late=Replace())


def test_a_refusal_nobody_asked_for_is_a_bug_of_the_driver():
    """Only the adaptive rule refuses after a look."""
    streamer = Streamer(MIXED, 10, ActionFlow(3), "grid", MemoryTrace())
    streamer.handle(Started(0))
    with pytest.raises(ValueError, match="was refused under Always"):
        streamer.handle(Observed(1, 0, refused=True))


def test_a_safe_stop_during_a_look_is_not_undone_by_its_verdict():
    """A refusal that arrives after a safe stop starts nothing."""
    streamer = Streamer(MIXED, 10, gate(1.0), "grid", MemoryTrace())
    streamer.handle(Started(0))
    streamer.handle(SafeStop(5, "operator"))
    assert streamer.handle(Observed(9, 0, saliency=((2.0,),), refused=True)) == []
    assert len(streamer.handle(Tick(10, 10, 1))) == 1


# --- real time ---------------------------------------------------------------------------------


def test_both_drivers_take_the_same_decisions():
    """In real time, on threads, the gate says of as many pending what it does in virtual time."""
    quick = profile_ms("quick", 12, 3, 10, look=4, predict=1)
    runs = []
    for _ in range(2):
        runs.append(foreseeing(gate(1.2), profile=quick, script=forward, saliency=by_motion))
    trace = MemoryTrace()
    run_realtime(runs[0].episode(trace))
    early = [e for e in trace.events if isinstance(e, EarlyDecided)]
    wall = {(e.lead, e.accepted, e.saliency) for e in early}
    virtual = {(e.lead, e.accepted, e.saliency) for e in decisions(runs[1].run())}
    both = {lead for lead, *_ in wall} & {lead for lead, *_ in virtual}
    assert both
    assert {e for e in wall if e[0] in both} == {e for e in virtual if e[0] in both}


def test_second_looks_take_over_in_real_time_too():
    """On threads as in virtual time: doubted looks are used, and replaced by newer ones."""
    run = looking_again(0.0, profile=profile_ms("quick", 21, 3, 10, look=4, predict=1))
    trace = MemoryTrace()
    run_realtime(run.episode(trace))
    doubted = {e.observation for e in trace.events if isinstance(e, EarlyDecided) and e.second_look}
    generations = [e.observation for e in trace.events if isinstance(e, GenerateRequested)]
    assert doubted
    assert doubted <= set(generations)
    dropped = {event.reason for event in trace.events if isinstance(event, Dropped)}
    assert "replaced by a newer context" in dropped


# --- properties ------------------------------------------------------------------------------

rules = st.one_of(
    st.just(Never()),
    st.just(Always()),
    st.builds(AtRandom, st.floats(0, 1), st.integers(0, 9)),
    st.builds(ActionNorm, st.floats(0, 5)),
    st.builds(lambda limit, again: Adaptive((limit,), (), again), st.floats(0, 5), st.booleans()),
)
stage_times = st.lists(st.integers(0, 200_000_000), min_size=1, max_size=12)


@settings(deadline=None, max_examples=150)
@given(
    rule=rules,
    lead=st.integers(0, 7),
    measured=st.booleans(),
    compensation=st.builds(Compensation, st.booleans(), st.booleans(), st.booleans()),
    observe=stage_times,
    generate=stage_times,
    serial=st.booleans(),
    bad=st.sets(st.integers(0, 40), max_size=2),
)
def test_every_rule_keeps_the_tick_promise(
    rule: EarlyRule, lead, measured, compensation, observe, generate, serial, bad
):
    """Whatever rule, lead, compensation and times: one command a tick, actions once, in order."""
    if isinstance(rule, Adaptive) and rule.second_look:
        compensation = replace(compensation, context=False)  # which is refused
    calls = iter(range(10_000))

    def script(observation, start, index):
        return np.array([np.nan if next(calls) in bad else 0.7, 3.0])

    profile = profile_ms("drawn", 100, 30, 27, look=30, predict=2)
    run = foreseeing(
        ActionFlow(lead, rule, compensation, measured),
        profile=profile,
        observations=None,
        duration_ns=80 * 27_000_000,
        script=script,
        saliency=by_motion,
        latency=EmpiricalLatency(observe, generate, [27_000_000]),
        serial=serial,
    ).run()
    assert [event.tick for event in run.sent] == list(range(80))
    sent = [(e.generation, e.index) for e in run.sent if e.source == "policy"]
    assert sent == sorted(set(sent))
    looked = {e.observation for e in run.events if isinstance(e, ObserveRequested)}
    ready = {e.observation for e in run.events if isinstance(e, ObserveReady)}
    objected = [e for e in decisions(run) if not e.accepted and e.observation >= 0]
    refused = {e.observation for e in objected if not e.second_look}
    assert not ready & refused
    assert {e.observation for e in objected if e.second_look} <= ready
    assert len(looked - ready - refused) <= 1


@settings(deadline=None, max_examples=100)
@given(
    lead=st.integers(0, 7),
    shared=st.booleans(),
    observe=stage_times,
    generate=stage_times,
    serial=st.booleans(),
)
def test_replanning_keeps_the_tick_promise(lead, shared, observe, generate, serial):
    """Takeovers at any time: one command a tick, generations in order, no action twice."""
    run = Scenario(
        ActionFlow(lead, replan="as-fast-as-possible", shared_accelerator=shared),
        pacing="grid",
        observations=None,
        duration_ns=80 * 27_000_000,
        script=forward,
        latency=EmpiricalLatency(observe, generate, [27_000_000]),
        serial=serial,
    ).run()
    assert [event.tick for event in run.sent] == list(range(80))
    sent = [(e.generation, e.index) for e in run.sent if isinstance(e, Sent) and e.index >= 0]
    assert sent == sorted(set(sent))


@given(
    saliency=st.lists(st.floats(0, 3), min_size=1, max_size=6),
    pending=st.integers(0, 6),
    least=st.integers(0, 6),
)
def test_the_next_lead_is_the_largest_that_passes_and_leaves_time(saliency, pending, least):
    """No larger lead within reach passes; the one chosen does."""
    rule = Adaptive((1.0,))
    rows = [(value,) for value in saliency]
    passing = [
        lead
        for lead in range(max(1, least), min(pending, len(rows) - 1) + 1)
        if saliency[len(rows) - lead] <= 1.0
    ]
    assert smaller_lead(rule, rows, pending, least) == max(passing, default=0)


@pytest.mark.parametrize(
    ("executor", "observe_ms", "lead"),
    [
        ("action-flow:up-to-9", 107, 3),
        ("action-flow:up-to-9", 900, 9),
        ("action-flow:up-to-4", 300, 4),
    ],
)
def test_a_lead_up_to_a_limit_accepts_the_halts_that_are_left(executor, observe_ms, lead):
    """The zero-halt lead where that is allowed, else the limit; auto refuses those stage times."""
    times = profile_ms("edge", observe_ms, 33, 50)
    policy = AnticipatingPolicy(MIXED, 10, times.execute_ns)
    parsed = parse_executor(executor, times, 10, policy=policy)
    assert parsed.lead == lead
    assert executor.replace(":", "-") == parsed.slug()
    if observe_ms > 250:
        with pytest.raises(ConfigError, match="lead auto"):
            parse_executor("action-flow:auto", times, 10, policy=policy)
