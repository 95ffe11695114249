"""Frozen cameras: found when the robot moves and the picture does not, and only then."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Frames
from streamvla.evaluation.metrics import metrics_of
from streamvla.robots.point import SPEC, PointRobot
from streamvla.runtime.drivers.cameras import CameraWatch, FrozenCamera
from streamvla.runtime.drivers.episode import Episode, EpisodeLimits
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.drivers.threads import RealtimeDriver
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.faults.plan import parse_faults
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.timing.latency import ConstantLatency, profile_ms
from streamvla.testing import ScriptedPolicy
from streamvla.trace import CameraFrozen, CameraThawed, HealthChanged, MemoryTrace, TraceEvent

SLOW = profile_ms("slow", 107, 33, 50)
QUICK = profile_ms("quick", 5, 2, 10)


def looks(pictures: str, moved: list[float], rule: FrozenCamera) -> str:
    """ "!" for every observation at which the camera counts as frozen, "." for the others."""
    watch = CameraWatch(rule)
    found = ""
    for letter, state in zip(pictures, moved, strict=True):
        image = np.full((2, 2, 3), ord(letter), np.uint8)
        found += "!" if watch.look(Frames({"top": image}, np.array([state]))) else "."
    return found


STEPS = [0.0, 0.03, 0.06, 0.09, 0.12]


@pytest.mark.parametrize(
    ("pictures", "moved", "rule", "expected"),
    [
        ("AAAAB", STEPS, FrozenCamera(), "..!!."),
        ("ABCDE", STEPS, FrozenCamera(), "....."),
        ("AAAAA", [0.0] * 5, FrozenCamera(), "....."),  # a world that stands still
        ("AAAAA", [0.0, 0.0, 0.0, 0.0, 0.06], FrozenCamera(), "....!"),
        ("AABAA", STEPS, FrozenCamera(), "....."),
        ("AAAAA", STEPS, FrozenCamera(repeats=4), "....!"),
        ("AAAAA", STEPS, FrozenCamera(moved=0.1), "....!"),
        ("AAAAA", STEPS, FrozenCamera(repeats=None), "....."),
    ],
)
def test_a_camera_is_frozen_when_the_robot_moves_and_the_picture_does_not(
    pictures, moved, rule, expected
):
    """Both are needed: repeats of the picture, and motion since it first came."""
    assert looks(pictures, moved, rule) == expected


def test_only_the_frozen_view_is_named():
    """Of two cameras the one that shows something new is not blamed."""
    watch, found = CameraWatch(FrozenCamera()), ()
    for step in range(4):
        images = {"side": np.zeros((2, 2, 3), np.uint8), "front": np.full((2, 2, 3), step)}
        found = watch.look(Frames(images, np.array([0.1 * step])))
    assert found == ("side",)


def test_a_robot_that_measures_nothing_is_not_judged():
    """Without a measured state the same picture proves nothing."""
    watch = CameraWatch(FrozenCamera())
    frames = Frames({"top": np.zeros((2, 2, 3), np.uint8)}, np.zeros(0))
    assert [watch.look(frames) for _ in range(9)] == [()] * 9


def drive(speed: float, faults: str = "", *, simulated: bool = True) -> list[TraceEvent]:
    """The point robot, to and fro at this speed."""
    profile = SLOW if simulated else QUICK
    robot, trace = PointRobot(), MemoryTrace()

    def script(observation, start, index):
        side = 1.0 if observation.captured_ns // ms_to_ns(1000) % 2 else -1.0
        return np.array([speed * side, 0.0, 0.0])

    policy = ScriptedPolicy(SPEC.action_space, 10, profile.execute_ns, script)
    streamer = Streamer(SPEC.action_space, 10, ActionFlow(3), "grid", trace)
    limits = EpisodeLimits(ms_to_ns(8000 if simulated else 1200), stop_on_success=False)
    episode = Episode(robot, policy, streamer, trace, profile, limits)
    plan = parse_faults([faults])
    if simulated:
        robot.reset(0, 0, profile.execute_ns)
        run_simulated(episode, ConstantLatency(profile), faults=plan)
    else:
        with RealtimeDriver() as driver:
            robot.reset(0, driver.clock.now_ns(), profile.execute_ns)
            driver.run(episode, faults=plan)
    return trace.events


def of(events: list[TraceEvent], kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("speed", [0.0, 0.02, 0.3])
def test_a_working_camera_raises_no_alarm(speed):
    """Standing still, hardly moving, moving: no camera is called frozen."""
    assert of(drive(speed), CameraFrozen) == []


def test_a_frozen_camera_is_reported_degrades_health_and_recovers():
    """Frozen from 3 s to 6 s: the trace says when it was found and when it was over, and health is
    degraded in between though every tick has its action."""
    events = drive(0.3, "frozen-camera:3s@3s")
    (frozen,) = of(events, CameraFrozen)
    (thawed,) = of(events, CameraThawed)
    assert frozen.view == thawed.view == "top"
    assert ms_to_ns(3000) < frozen.t_ns < ms_to_ns(5000)
    assert thawed.t_ns > ms_to_ns(6000)
    changes = [(event.before, event.after) for event in of(events, HealthChanged)]
    assert changes == [("streaming", "degraded"), ("degraded", "streaming")]
    metrics = metrics_of(events, SLOW.execute_ns, "grid", SPEC.action_space)
    assert metrics.frozen_cameras == 1
    assert metrics.health_ticks["degraded"] > 20


def test_in_real_time_too():
    """The real-time driver finds it with the same code."""
    assert of(drive(0.3, "frozen-camera:700ms@200ms", simulated=False), CameraFrozen)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrozenCamera(repeats=0), "repeats 0 must be"),
        (lambda: FrozenCamera(moved=0.0), "world that stands still"),
    ],
)
def test_a_rule_that_would_always_strike_is_refused(make, message):
    """No repeats, or no motion asked for, raises ConfigError."""
    with pytest.raises(ConfigError, match=message):
        make()
