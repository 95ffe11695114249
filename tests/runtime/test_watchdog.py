"""The watchdog: whatever becomes of the executor process, the robot gets its stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial

import pytest

from streamvla.core.errors import ConfigError, StageFailedError
from streamvla.robots.point import SPEC
from streamvla.runtime.drivers.episode import EpisodeLimits
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.processes.driver import ProcessDriver
from streamvla.runtime.processes.plan import EpisodePlan
from streamvla.runtime.processes.watchdog import Pulse, Watch, open_stop
from streamvla.runtime.timing.latency import profile_ms
from streamvla.testing import ScriptedPolicy
from streamvla.testing.remote_robot import RemoteRobot, RemoteServer, remote_spec
from streamvla.trace import read_trace

from . import process_parts as parts

PERIOD_NS = SPEC.control_period_ns
HORIZON = 6


def moving_policy() -> ScriptedPolicy:
    return ScriptedPolicy(SPEC.action_space, HORIZON, PERIOD_NS, forward, robot=SPEC)


def forward(observation, start, index):
    return SPEC.action_space.initial_state() + 0.1


@pytest.fixture
def driver(tmp_path):
    with (
        RemoteServer(tmp_path) as server,
        ProcessDriver(
            partial(RemoteRobot, tmp_path), moving_policy, settings=parts.NORMAL, watchdog=4
        ) as driver,
    ):
        driver.server = server  # pyright: ignore[reportAttributeAccessIssue]
        yield driver


def plan(tmp_path, seconds: float, **changes) -> EpisodePlan:
    settings = EpisodeSettings(
        SPEC.action_space,
        HORIZON,
        ActionFlow(2),
        profile_ms("brisk", 8, 4, PERIOD_NS / 1e6),
        limits=EpisodeLimits(round(seconds * 1e9), stop_on_success=False),
    )
    settings = replace(settings, **changes)
    return EpisodePlan(settings, tmp_path / "trace.jsonl")


def strike(driver: ProcessDriver, number: signal.Signals, after_s: float) -> threading.Timer:
    timer = threading.Timer(after_s, os.kill, (driver.executor_pid, number))
    timer.start()
    return timer


def test_a_killed_executor_leaves_a_robot_that_is_stopped_at_once(driver, tmp_path):
    """Within three control periods of the last command; the trace reads to its last event."""
    timer = strike(driver, signal.SIGKILL, 1.0)
    with pytest.raises(StageFailedError, match="killed by SIGKILL"):
        driver.run(plan(tmp_path, 20))
    timer.join()
    time.sleep(0.5)
    *commands, stop = driver.server.diary()
    assert stop[1] == 1
    assert not any(command[1] for command in commands)
    assert commands[-1][2] == pytest.approx(0.1)
    assert 0 < stop[0] - commands[-1][0] <= 3 * PERIOD_NS
    assert len(read_trace(tmp_path / "trace.jsonl").events) > 30


@pytest.mark.parametrize("fallback", [None, Ladder(SPEC.motion_limits)])
@pytest.mark.parametrize("away_s", [0.35, 1.0])
def test_a_silent_executor_is_noticed_and_says_so_when_it_wakes_up(
    driver, tmp_path, fallback, away_s
):
    """Suspended: the robot is stopped after four periods; the run then ends, and nothing moves the
    robot any more, a ladder's own way to rest included."""
    timer = strike(driver, signal.SIGSTOP, 1.0)
    wake = threading.Timer(1.0 + away_s, os.kill, (driver.executor_pid, signal.SIGCONT))
    wake.start()
    with pytest.raises(StageFailedError, match="the watchdog stopped the robot"):
        driver.run(plan(tmp_path, 20, fallback=fallback))
    timer.join()
    wake.join()
    diary = driver.server.diary()
    (when,) = [index for index, entry in enumerate(diary) if entry[1]]
    silence_ns = diary[when][0] - diary[when - 1][0]
    assert 3 * PERIOD_NS <= silence_ns <= 6 * PERIOD_NS
    assert (diary[when + 1 :, 2:4] == 0).all()  # nothing but the hold after it


def test_an_ordinary_run_is_left_alone(driver, tmp_path):
    """No stop by the watchdog while commands come, nor when they are over; nor in a second run."""
    for _ in range(2):
        assert driver.run(plan(tmp_path, 1)).reason == "time-limit"
        time.sleep(0.3)
    assert not driver.server.diary()[:, 1].any()


def test_a_robot_that_waits_between_commands_is_not_silent(driver, tmp_path):
    """Event pacing: no command comes while the model works, for longer than the watchdog waits."""
    slow = profile_ms("slow", 200, 20, PERIOD_NS / 1e6)
    changed = {"pacing": "event", "executor": Synchronous(), "profile": slow}
    assert driver.run(plan(tmp_path, 2, **changed)).reason == "time-limit"
    assert not driver.server.diary()[:, 1].any()


def test_a_pulse_is_shared():
    """What one side writes the other reads."""
    fd = Pulse.create()
    one, other = Pulse(os.dup(fd)), Pulse(fd)
    assert not other.armed
    one.beat()
    assert (other.beats, other.armed, other.tripped) == (1, 1, False)
    other.trip()
    assert one.tripped
    one.rearm()
    assert not other.tripped


def nothing(spec):
    return None


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ("no.such:thing", "cannot be found: No module named 'no'"),
        ("streamvla.testing.remote_robot:halt", "cannot be found"),
        ("streamvla", "cannot be found"),
        (f"{__name__}:nothing", "gave None; expected a function"),
    ],
)
def test_a_stop_that_is_none_is_refused_before_motion(tmp_path, stop, message):
    """One line that names it."""
    spec = replace(remote_spec(tmp_path), stop=stop)
    with pytest.raises(ConfigError, match=message):
        open_stop(Watch(spec, stop, 4))
    with pytest.raises(ConfigError, match="0 periods: expected at least 1"):
        Watch(spec, stop, 0)
