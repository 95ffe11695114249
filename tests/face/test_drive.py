"""Policy + robot + executor → result, and what is refused before the robot gets a command."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import streamvla as sv
from streamvla.core.errors import ConfigError, RobotError, SpecMismatchError, StreamVLAError
from streamvla.core.interfaces import Frames
from streamvla.runtime import Decelerate
from streamvla.runtime.timing.latency import EmpiricalLatency, JitteredLatency, profile_ms
from streamvla.testing import ScriptedPolicy, StillRobot, unit_space
from streamvla.trace import ObserveReady, ObserveRequested, Sent, read_trace

PERIOD_NS = 20_000_000
JOINTS = sv.ActionSpace(("elbow_rad",), ("absolute",), (0.5,), (2.5,))


def still(space=None, **settings) -> StillRobot:
    return StillRobot(space or unit_space(), PERIOD_NS, **settings)


def policy_for(robot, horizon=6, **settings) -> ScriptedPolicy:
    return ScriptedPolicy(robot.spec.action_space, horizon, PERIOD_NS, robot=robot.spec, **settings)


@pytest.mark.parametrize("executor", [sv.Synchronous(), sv.ActionFlow(lead=2), "async-chunks:2"])
def test_an_episode_in_virtual_time_has_its_figures(executor, tmp_path):
    """Metrics, trace and report come from one call; the file holds the same events."""
    robot, path = still(), tmp_path / "run.jsonl"
    result = sv.simulate(
        policy_for(robot),
        robot,
        executor,
        latency=profile_ms("x", 30, 5, 20),
        seconds=4,
        trace=path,
    )
    assert result.reason == "time-limit"
    assert result.metrics.actions > 50
    assert result.metrics.window is not None
    assert read_trace(path).events == result.trace.events
    assert result.report(tmp_path / "report.html").stat().st_size > 10_000


def test_a_report_compares_a_result_with_the_first_beside_it(tmp_path):
    """The headline is about the result itself; the one beside it is what ratios refer to."""
    robot, latency = still(), profile_ms("x", 50, 10, 20)
    slow, fast = (
        sv.simulate(policy_for(robot), robot, executor, latency=latency, seconds=4)
        for executor in (sv.Synchronous(), sv.ActionFlow(lead=4))
    )
    html = fast.report(tmp_path / "report.html", beside=[slow]).read_text(encoding="utf-8")
    assert "<h1>Action flow, lead 4 never halts" in html


def test_a_robot_without_a_task_is_not_judged(tmp_path):
    """No success and no failure, in the figures and in the report."""
    robot = still()
    robot._spec = replace(robot.spec, has_task=False)
    result = sv.simulate(policy_for(robot), robot, latency=profile_ms("x", 30, 5, 20), seconds=2)
    assert result.metrics.success is None
    assert "no task" in result.report(tmp_path / "report.html").read_text(encoding="utf-8")


def test_virtual_time_repeats_itself():
    """The same seed and a model of times give the same events."""
    times = profile_ms("x", 30, 5, 20)

    def drive():
        robot = still()
        latency = JitteredLatency(times, 0.3, 5)
        return sv.simulate(policy_for(robot), robot, latency=latency, seconds=3).trace.events

    assert drive() == drive()


def test_auto_is_the_lead_that_hides_the_stages():
    """`ActionFlow(lead="auto")` reaches zero halt at the stated times, synchronous does not."""
    robot, latency = still(), profile_ms("x", 50, 10, 20)
    halts = [
        sv.simulate(policy_for(robot), robot, executor, latency=latency, seconds=6)
        for executor in (sv.ActionFlow(lead="auto"), sv.Synchronous())
    ]
    assert halts[0].metrics.halt_ms_per_observation == 0
    assert halts[1].metrics.halt_ms_per_observation > 50


def test_a_run_in_real_time_ends_when_it_should():
    """Half a second of wall clock; stages as measured; every command the policy's or a hold."""
    robot = still()
    result = sv.run(policy_for(robot), robot, seconds=0.5)
    assert result.reason == "time-limit"
    assert result.profile.name == "measured"
    assert {event.source for event in result.trace.events if isinstance(event, Sent)} >= {"policy"}


def test_a_run_in_the_background_can_be_watched_and_stopped():
    """Health and figures while it runs; stopping brings the result, and twice is harmless."""
    robot = still()
    with sv.start(policy_for(robot), robot) as running:
        while running.metrics().actions < 5:
            pass
        assert running.alive
        assert isinstance(running.health, str)
        result = running.stop()
        assert running.stop() is result
    assert result is not None
    assert result.reason == "interrupted"
    assert not running.alive


def test_what_a_run_in_the_background_refuses_reaches_its_owner():
    """A mismatch is raised where `start` was called."""
    robot = still()
    with pytest.raises(SpecMismatchError, match="control period"):
        sv.start(ScriptedPolicy(unit_space(), 6, 2 * PERIOD_NS, robot=robot.spec), robot)


def test_the_first_hold_is_where_the_joints_stand():
    """Nothing is commanded to zero before the first action is made."""
    robot = still(JOINTS, standing=np.array([1.5]))
    result = sv.simulate(policy_for(robot), robot, sv.Synchronous(), seconds=1)
    first = next(event for event in result.trace.events if isinstance(event, Sent))
    assert (first.source, first.values) == ("hold", (1.5,))


class Unlike(StillRobot):
    """Shows other pictures than it says."""

    def observe(self, capture):
        return Frames({"camera": np.zeros((2, 2, 3), np.uint8)}, np.zeros(0, np.float32))


class Nowhere(StillRobot):
    """Absolute joints, and nobody knows where they stand."""

    def __init__(self):
        super().__init__(JOINTS, PERIOD_NS)
        self._spec = replace(self._spec, measures_standing=False)


class Short(ScriptedPolicy):
    def generate(self, context, start):
        yield from np.zeros((2, 1))


class Wide(ScriptedPolicy):
    def generate(self, context, start):
        yield from np.zeros((6, 3))


SPEC = still().spec


def other(**changes):
    """A policy made for a robot that differs in one thing."""
    return ScriptedPolicy(unit_space(), 6, PERIOD_NS, robot=replace(SPEC, **changes))


MISMATCHES = {
    "cameras": (other(views=("left", "right")), still(), "views"),
    "image size": (other(image_size=(8, 8)), still(), "image size"),
    "state": (other(state_names=("x", "y")), still(), "state dimensions"),
    "rate": (ScriptedPolicy(unit_space(), 6, 2 * PERIOD_NS), still(), "control period"),
    "space": (ScriptedPolicy(unit_space(2), 6, PERIOD_NS), still(), "action space"),
    "frames": (policy_for(still()), Unlike(unit_space(), PERIOD_NS), "specification says uint8"),
    "start": (policy_for(Nowhere()), Nowhere(), "nobody knows where elbow_rad stand"),
    "too few": (Short(unit_space(), 6, PERIOD_NS), still(), "gave 2 actions"),
    "too wide": (Wide(unit_space(), 6, PERIOD_NS), still(), r"shape \(3,\); expected \(1,\)"),
    "lead": (policy_for(still(), 3), still(), "lead 4 must be at least 0 and below H = 3"),
    "no policy": (object(), still(), "has no `spec`"),
}


@pytest.mark.parametrize("drive", [sv.run, sv.simulate])
@pytest.mark.parametrize("kind", MISMATCHES)
def test_what_does_not_fit_is_refused_before_motion(kind, drive):
    """One line that names the mismatch; the robot gets no command."""
    policy, robot, message = MISMATCHES[kind]
    with pytest.raises(StreamVLAError, match=message) as refusal:
        drive(policy, robot, sv.ActionFlow(lead=4), seconds=1)
    assert "\n" not in str(refusal.value)
    assert not robot.commands


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 0}, "seconds 0"),
        ({"pacing": "gird"}, "did you mean 'grid'"),
        ({"latency": "paper-20hy"}, "did you mean 'paper-20hz'"),
        ({"governor": "lader"}, "did you mean 'ladder'"),
        ({"executor": "synchronos"}, "did you mean 'synchronous'"),
        ({"executor": sv.ActionFlow(lead="auto"), "latency": profile_ms("s", 900, 9, 20)}, "auto"),
        ({"faults": ["model-stal:1s@1s"]}, "did you mean 'model-stall'"),
    ],
)
def test_wrong_settings_are_refused_before_motion(settings, message):
    """A misspelt name, an impossible number, a lead beyond the horizon: said in one line."""
    robot = still()
    with pytest.raises(ConfigError, match=message):
        sv.simulate(policy_for(robot), robot, **settings)
    assert not robot.commands


def test_a_robot_that_measures_nonsense_is_refused():
    """Where the joints stand must be finite numbers."""
    robot = still(JOINTS, standing=np.array([np.nan]))
    with pytest.raises(RobotError, match="expected 1 finite numbers"):
        sv.simulate(policy_for(robot), robot)


def test_the_face_is_lazy_and_complete():
    """`import streamvla` loads neither torch nor a simulator, and gives every name it lists."""
    code = (
        "import sys, streamvla as sv; sv.run, sv.simulate, sv.ActionFlow, sv.Robot; "
        "print([m for m in ('torch', 'mujoco', 'matplotlib') if m in sys.modules]); "
        "print([n for n in sv.__all__ if not hasattr(sv, n)])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[:2] == ["[]", "[]"]
    code = "import sys; sys.modules['torch'] = None; import streamvla; streamvla.load_policy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "streamvla.load_policy needs torch, which is not installed" in done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sv.nothing  # pyright: ignore[reportAttributeAccessIssue]


# --- the control loop in a process of its own -------------------------------------------------


def make_still() -> StillRobot:
    return still(JOINTS, standing=np.array([1.5]))


def make_policy() -> ScriptedPolicy:
    return policy_for(make_still(), script=bend)


def bend(observation, start, index) -> np.ndarray:
    return np.array([1.5 + 0.01 * index])


def make_nowhere() -> StillRobot:
    return Nowhere()


def test_a_run_in_processes_is_like_one_on_threads(tmp_path):
    """Figures, trace and the first command come back from the other process."""
    path = tmp_path / "run.jsonl"
    result = sv.run(
        make_policy, make_still, "action-flow:2", driver="process", seconds=0.5, trace=path
    )
    assert result.reason == "time-limit"
    assert result.metrics.actions > 5
    assert read_trace(path).events == result.trace.events
    first = next(event for event in result.trace.events if isinstance(event, Sent))
    assert (first.source, first.values) == ("hold", (1.5,))


def test_a_run_in_processes_can_be_watched_and_stopped():
    """From another thread: figures while it goes on; stopping brings the robot to rest."""
    with sv.start(make_policy, make_still, "action-flow:2", driver="process") as running:
        while running.metrics().actions < 5:
            time.sleep(0.01)
        assert running.health == "streaming"
        result = running.stop()
    assert result is not None
    assert result.reason == "interrupted"
    assert result.metrics.actions >= 5
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("policy", "robot", "settings", "message"),
    [
        (policy_for(still()), make_still, {}, "the policy is an object, and driver='process'"),
        (make_policy, still(), {}, "the robot is an object, and driver='process'"),
        (lambda: 1, make_still, {}, "the model process cannot be given its work"),
        (make_policy, make_nowhere, {}, "nobody knows where elbow_rad stand"),
        (make_policy, make_still, {"shared_accelerator": False}, "has one accelerator"),
        (make_policy, make_still, {"executor": "action-flow:9"}, "below H = 6"),
    ],
)
def test_what_processes_cannot_run_is_refused(policy, robot, settings, message):
    """One line, before motion."""
    with pytest.raises(StreamVLAError, match=message) as refusal:
        sv.run(policy, robot, driver="process", seconds=1, **settings)
    assert "\n" not in str(refusal.value)


# --- names, governors and models of times -----------------------------------------------------


def test_policy_and_robot_can_be_names():
    """As on the command line; what is made here is closed here."""
    result = sv.simulate("shipped", "reach", latency="paper-20hz", seconds=0.5)
    assert result.metrics.actions > 0


def test_a_governor_can_be_an_object():
    """`Decelerate` fades the last delta out where the ladder would stop smoothly."""
    robot = still()
    result = sv.simulate(
        policy_for(robot, script=lambda observation, start, index: np.array([0.8])),
        robot,
        sv.Synchronous(),
        governor=Decelerate(factor=0.5),
        seconds=3,
    )
    sent = [event.values[0] for event in result.trace.events if isinstance(event, Sent)]
    assert 0.4 in sent
    with pytest.raises(ConfigError, match='expected "ladder", "basic", or a Ladder'):
        sv.simulate(policy_for(robot), robot, governor=3)  # pyright: ignore[reportArgumentType]


def test_a_model_of_times_holds_in_real_time():
    """Stages are padded up to what the model says, observation by observation."""
    robot = still()
    times = EmpiricalLatency([30_000_000, 90_000_000], [1_000_000], [PERIOD_NS])
    result = sv.run(policy_for(robot), robot, sv.Synchronous(), latency=times, seconds=1)
    asked = [e.t_ns for e in result.trace.events if isinstance(e, ObserveRequested)]
    ready = [e.t_ns for e in result.trace.events if isinstance(e, ObserveReady)]
    took_ms = [(end - start) / 1e6 for start, end in zip(asked, ready, strict=False)]
    assert len([t for t in took_ms if t > 29]) == len(took_ms)
    assert any(t > 89 for t in took_ms)
