"""The parts of this package keep the contracts of `streamvla`."""

from streamvla_dots.executor import Queue
from streamvla_dots.policy import Follow
from streamvla_dots.robot import DOTS, Dots

from streamvla.runtime.executors.base import Executor
from streamvla.testing.executor_contract import ExecutorContract
from streamvla.testing.policy_contract import PolicyContract
from streamvla.testing.robot_contract import SimulatedRobotContract, SuiteContract


class TestDots(SimulatedRobotContract):
    def robot(self) -> Dots:
        return Dots()


class TestSuite(SuiteContract):
    suite = DOTS


class TestFollow(PolicyContract):
    instruction = "go to the red dot"

    def policy(self) -> Follow:
        return Follow()


class TestQueue(ExecutorContract):
    def executor(self) -> Executor:
        return Queue()
