"""Every robot and suite that is registered keeps its contract."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.core.errors import ConfigError
from streamvla.robots.registry import ROBOTS, SUITES, make_robot, suite_named, task_names
from streamvla.testing.fakes import StillRobot, unit_space
from streamvla.testing.robot_contract import (
    RobotContract,
    SimulatedRobotContract,
    SuiteContract,
    TruthRobotContract,
)

PLAIN = [
    name
    for name in SUITES.names()
    if not suite_named(name).parts and not name.startswith("libero")  # test_libero.py
]
RENDERED = [pytest.param(name, marks=pytest.mark.render) for name in PLAIN]


def _of_its_own_robot(suite):
    """Tasks of the suite's robot; others may need an extra, and have tests of their own."""
    return [task for task in suite.tasks if task not in suite.other_robots]


class TestEverySuite(SuiteContract):
    @pytest.fixture(autouse=True, params=RENDERED)
    def which(self, request):
        self.suite = suite_named(request.param)
        self.sampled = (*_of_its_own_robot(self.suite)[:5], *self.suite.variants)


class TestARobotOfEverySuite(TruthRobotContract):
    @pytest.fixture(autouse=True, params=RENDERED)
    def which(self, request):
        self.suite = suite_named(request.param)

    def robot(self):
        return self.suite.make(_of_its_own_robot(self.suite)[-1], "train", "own")


class TestMovedGoals(SimulatedRobotContract):
    @pytest.fixture(
        autouse=True, params=["point-moved", pytest.param("reach-moved", marks=pytest.mark.render)]
    )
    def which(self, request):
        self.name = request.param

    def robot(self):
        return make_robot(self.name)


def test_an_unknown_task_suggests_the_nearest():
    """A misspelt task is refused with the right name."""
    with pytest.raises(ConfigError, match="did you mean 'drawer-open'"):
        make_robot("drawer-opn")
    assert {"point", "reach", "push", "open-named-drawer"} <= set(task_names())
    assert not ROBOTS.names()


class Undeclared(StillRobot):
    """Knows places, and does not say so."""

    def places(self):
        return np.zeros(3)


class Blind(StillRobot):
    """Gives a capture that its specification does not declare."""

    def capture(self):
        return {"picture": np.zeros(3)}


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Undeclared, "test_what_can_be_asked_is_declared"),
        (Blind, "test_a_capture_is_what_the_specification_declares"),
        (StillRobot, "test_unusable_commands_are_refused"),
        (StillRobot, "test_nothing_works_before_reset"),
    ],
)
def test_the_contract_finds_a_robot_that_breaks_it(kind, test):
    """A robot without a declared ability, with another capture, or that takes anything, fails."""

    class Contract(RobotContract):
        def robot(self):
            return kind(unit_space(), 50_000_000)

    with pytest.raises(AssertionError):
        getattr(Contract(), test)()
