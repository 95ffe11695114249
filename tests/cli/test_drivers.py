"""Thread and process behind one interface: the same plan gives the same actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from streamvla.core.cameras import CameraView, Gaze
from streamvla.core.errors import SpecMismatchError
from streamvla.robots.point import SPEC
from streamvla.runtime import ActionFlow, EpisodePlan, RealtimeSettings
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.timing.latency import profile_ms
from streamvla.studies.sessions import Captures, ProcessRunner, ThreadRunner
from streamvla.testing import ScriptedPolicy, unit_space
from streamvla.trace import Sent, read_trace

HORIZON = 6
NORMAL = RealtimeSettings(fifo_priority=None)


class PointPolicy(ScriptedPolicy):
    """A script for the point robot, which has one view and three numbers of state."""

    def __init__(self) -> None:
        space, period_ns = SPEC.action_space, SPEC.control_period_ns
        super().__init__(space, HORIZON, period_ns, script, robot=SPEC)


def script(observation, start, index) -> np.ndarray:
    return np.array([0.01 * index, observation.images["top"].mean() / 255, 1.0])


def wide_policy() -> ScriptedPolicy:
    return ScriptedPolicy(unit_space(5), HORIZON, SPEC.control_period_ns)


def plan_for(path: Path) -> EpisodePlan:
    settings = EpisodeSettings(
        SPEC.action_space,
        HORIZON,
        ActionFlow(0),
        profile_ms("brisk", 8, 4, 20),
        max_observations=3,
    )
    return EpisodePlan(settings, path, seed=7, film=True)


def test_both_drivers_carry_out_a_plan_alike(tmp_path):
    """The same plan through threads and through processes sends the same policy actions, and
    films every control instant."""
    sent, films = [], []
    for driver in (ThreadRunner(PointPolicy()), ProcessRunner(PointPolicy, NORMAL)):
        path = tmp_path / f"{type(driver).__name__}.jsonl"
        film: Captures = []
        robot = driver.use("point")
        assert len(driver.measure(seed=7, repeats=2)) == 2
        driver.run(plan_for(path), film)
        driver.close()
        events = [event for event in read_trace(path).events if isinstance(event, Sent)]
        sent.append([event.values for event in events if event.source == "policy"])
        films.append(robot.observe(film[0][1]).images["top"])
        assert len(film) == len(events)  # the last one, on the end, is the stop's
    assert sent[0] == sent[1]
    assert len(sent[0]) == 3 * HORIZON
    assert (films[0] == films[1]).all()


def test_both_drivers_tell_a_policy_that_skips_by_pixels_where_the_gripper_is(monkeypatch):
    """The camera model of the robot that is driven; another policy is told nothing."""
    camera = CameraView(((1.0, 0, 0, 0), (0, 1.0, 0, 0), (0, 0, 0, 1.0)))
    gaze = Gaze((0, 1, 2), (0.0, 0.0, 0.0), (camera,))
    robot = SimpleNamespace(spec=replace(SPEC, gaze=gaze), close=lambda: None)
    made: list[Callable[[], Any]] = []
    monkeypatch.setattr("streamvla.robots.registry.make_robot", lambda *_, **__: robot)
    monkeypatch.setattr(
        "streamvla.studies.sessions.ProcessDriver", lambda _, policy, settings: made.append(policy)
    )
    for settings, known in (({"skip_pixels": 6.0}, gaze), ({}, None)):

        def skipping(settings=settings) -> PointPolicy:
            policy = PointPolicy()
            policy.spec = replace(policy.spec, settings=settings)
            return policy

        policy = skipping()
        ThreadRunner(policy).use("point")
        ProcessRunner(skipping, NORMAL).use("point")
        assert [getattr(each, "gaze", None) for each in (policy, made.pop()())] == [known] * 2


@pytest.mark.parametrize(
    "make", [lambda: ThreadRunner(wide_policy()), lambda: ProcessRunner(wide_policy, NORMAL)]
)
def test_both_refuse_a_policy_of_another_robot(make):
    """A policy with another action space is refused before anything moves."""
    driver = make()
    with pytest.raises(SpecMismatchError, match="another action space"):
        driver.use("point")
    driver.close()
