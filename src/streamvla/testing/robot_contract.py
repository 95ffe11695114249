"""What every robot and every suite keeps, as tests to inherit.

    from streamvla.testing.robot_contract import SimulatedRobotContract, SuiteContract

    class TestMyRobot(SimulatedRobotContract):
        def robot(self):
            return MyRobot()

    class TestMySuite(SuiteContract):
        suite = MY_SUITE

A robot that exists inherits `RobotContract` instead: of it nothing is asked that only a simulator
can do, such as repeating an episode. Where the robots need setting up, override `robot`.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable
from typing import cast

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError, RobotError, StreamVLAError
from streamvla.core.interfaces import (
    Capture,
    Frames,
    Robot,
    StimulatedRobot,
    measured_by,
    picture_of,
    places_of,
    standing_at,
    stimulus_of,
)
from streamvla.core.limits import MotionLimits
from streamvla.robots.suite import Suite, TaskRobot, same_robot
from streamvla.robots.truth import TruthRobot


def refused(error: type[StreamVLAError], call: Callable[[], object]) -> str:
    """The message with which a call was refused; an assertion fails if it was not."""
    try:
        call()
    except error as refusal:
        return str(refusal)
    raise AssertionError(f"it went through; expected {error.__name__}")


def alike(one: Frames, other: Frames) -> bool:
    """Whether two frames are the same, to the last bit."""
    return np.array_equal(one.state, other.state) and all(
        np.array_equal(image, other.images[view]) for view, image in one.images.items()
    )


class RobotContract:
    """Inherit, and say which robot."""

    @abstractmethod
    def robot(self) -> Robot:
        """The robot under test, made anew; the test closes it."""

    def started(self, seed: int = 7) -> Robot:
        """The robot under test, after a reset at instant 0."""
        robot = self.robot()
        robot.reset(seed, 0, robot.spec.control_period_ns)
        return robot

    def test_frames_fit_the_specification(self) -> None:
        """Frames have the views, sizes, types and state names of the specification."""
        robot = self.started()
        spec, frames = robot.spec, robot.observe(robot.capture())
        assert tuple(frames.images) == spec.views
        for image in frames.images.values():
            assert image.shape == (*spec.image_size, 3)
            assert image.dtype == np.uint8
        assert frames.state.shape == (len(spec.state_names),)
        assert frames.state.dtype == np.float32
        assert np.isfinite(frames.state).all()
        robot.close()

    def test_a_capture_is_what_the_specification_declares(self) -> None:
        """Its arrays have the declared names, shapes and dtypes, and nothing else is in it."""
        robot = self.started()
        declared = {array.name: array for array in robot.spec.capture}
        assert len(declared) == len(robot.spec.capture)
        capture = robot.capture()
        assert set(capture) == set(declared)
        for name, array in capture.items():
            assert isinstance(array, np.ndarray)
            assert (array.shape, str(array.dtype)) == (declared[name].shape, declared[name].dtype)
        robot.close()

    def test_a_capture_shows_its_own_instant(self) -> None:
        """Observing after the robot moved on shows what was captured, if anything was frozen."""
        robot = self.started()
        if not robot.spec.capture:
            robot.close()
            return
        capture = robot.capture()
        at_once = robot.observe(capture)
        robot.command(robot.spec.action_space.clip(np.ones(robot.spec.action_space.dim)), 0)
        robot.advance_to(4 * robot.spec.control_period_ns)
        assert alike(at_once, robot.observe(capture))
        robot.close()

    def test_what_is_declared_can_be_asked(self) -> None:
        """Standing, places, stimulus and pictures are there if the specification says so."""
        robot = self.started()
        spec = robot.spec
        assert standing_at(robot).shape == (spec.action_space.dim,)
        assert places_of(robot).shape == (len(spec.place_names),)
        assert stimulus_of(robot) is None
        assert set(measured_by(robot)) == set(spec.measures)
        if spec.draws_captures:
            assert picture_of(robot, robot.capture(), (48, 64)).shape == (48, 64, 3)
        robot.close()

    def test_what_can_be_asked_is_declared(self) -> None:
        """A robot that has a method of an ability declares it, or nobody would use it."""
        robot = self.robot()
        spec = robot.spec
        assert hasattr(robot, "standing") <= spec.measures_standing
        assert hasattr(robot, "places") <= bool(spec.place_names)
        assert hasattr(robot, "render_capture") <= spec.draws_captures
        assert hasattr(robot, "stimulus_ns") <= spec.knows_stimulus
        assert hasattr(robot, "measure") <= bool(spec.measures)
        robot.close()

    def test_unusable_commands_are_refused(self) -> None:
        """What is not finite, or of another shape, never reaches the motors."""
        robot = self.started()
        dim = robot.spec.action_space.dim
        for value in (np.nan, np.inf, -np.inf):
            command = np.zeros(dim)
            command[-1] = value
            assert "finite" in refused(RobotError, lambda c=command: robot.command(c, 0))
        for shape in ((dim + 1,), (1, dim)):
            refused(RobotError, lambda s=shape: robot.command(np.zeros(s), 0))
        robot.close()

    def test_limits_fit_the_action_space(self) -> None:
        """Motion limits are for as many dimensions as commands have."""
        robot = self.robot()
        robot.spec.motion_limits.require(robot.spec.action_space)
        if robot.spec.limits is not None:
            delta = robot.spec.action_space.is_delta()
            implied = MotionLimits.of_space(robot.spec.action_space)
            declared = np.array(robot.spec.limits.acceleration)
            assert (declared[delta] <= np.array(implied.acceleration)[delta]).all()
        robot.close()

    def test_nothing_works_before_reset(self) -> None:
        """Command, advance and capture before the first reset are refused."""
        robot = self.robot()
        command = np.zeros(robot.spec.action_space.dim)
        refused(RobotError, lambda: robot.command(command, 0))
        refused(RobotError, lambda: robot.advance_to(0))
        refused(RobotError, robot.capture)
        robot.close()

    def test_closing_twice_is_harmless(self) -> None:
        """A second close does nothing."""
        robot = self.started()
        robot.close()
        robot.close()


class SimulatedRobotContract(RobotContract):
    """What a simulated robot keeps besides: its world moves with the clock, and repeats itself."""

    def frames_of(self, robot: Robot, seed: int, steps: int = 6) -> list[Frames]:
        """What is seen in an episode of random commands."""
        space, period_ns = robot.spec.action_space, robot.spec.control_period_ns
        stream = np.random.default_rng(0)
        robot.reset(seed, 0, period_ns)
        frames: list[Frames] = []
        for index in range(steps):
            robot.command(stream.uniform(space.low, space.high), index * period_ns)
            robot.advance_to((index + 1) * period_ns)
            frames.append(robot.observe(robot.capture()))
        return frames

    def test_an_episode_repeats_itself(self) -> None:
        """It is a function of seed and commands, whatever ran on the robot before."""
        robot = self.robot()
        first = self.frames_of(robot, seed=7)
        self.frames_of(robot, seed=8, steps=3)
        assert all(itertools.starmap(alike, zip(first, self.frames_of(robot, 7), strict=True)))
        robot.close()

    def test_another_seed_gives_another_scene(self) -> None:
        """Two seeds do not start with the same frames."""
        robot = self.started(1)
        first = robot.observe(robot.capture())
        robot.reset(2, 0, robot.spec.control_period_ns)
        assert not alike(first, robot.observe(robot.capture()))
        robot.close()

    def test_the_world_moves_with_the_clock_alone(self) -> None:
        """After one command it moves while nobody calls anything but the clock."""
        robot = self.started(3)
        space, period_ns = robot.spec.action_space, robot.spec.control_period_ns
        low, high = np.array(space.low), np.array(space.high)
        before = robot.observe(robot.capture())
        robot.command(low + 0.75 * (high - low), 0)
        robot.advance_to(period_ns)
        assert not alike(before, robot.observe(robot.capture()))
        robot.close()

    def test_a_capture_outlives_its_episode(self) -> None:
        """A capture of one episode shows it right after the next episode has begun."""
        robot = self.started(5)
        capture = robot.capture()
        at_once = robot.observe(capture)
        robot.reset(6, 0, robot.spec.control_period_ns)
        assert alike(at_once, robot.observe(capture))
        robot.close()

    def test_another_robot_of_its_kind_sees_the_same_in_a_capture(self) -> None:
        """So the model's process can turn captures of the control process into frames."""
        robot, other = self.started(5), self.robot()
        capture: Capture = {name: array.copy() for name, array in robot.capture().items()}
        assert alike(robot.observe(capture), other.observe(capture))
        robot.close()
        other.close()

    def test_time_cannot_go_back(self) -> None:
        """An earlier instant than the last is refused."""
        robot = self.robot()
        robot.reset(0, 1000, robot.spec.control_period_ns)
        refused(RobotError, lambda: robot.advance_to(999))
        robot.close()

    def test_bad_resets_are_refused(self) -> None:
        """A negative seed and a vanishing command duration are refused."""
        robot = self.robot()
        refused(ConfigError, lambda: robot.reset(-1, 0, robot.spec.control_period_ns))
        refused(ConfigError, lambda: robot.reset(0, 0, 0))
        robot.close()

    def test_the_stimulus_is_told(self) -> None:
        """What the robot declares to know has no instant right after a reset."""
        robot = self.started()
        if robot.spec.knows_stimulus:
            assert cast(StimulatedRobot, robot).stimulus_ns is None
        robot.close()


class TruthRobotContract(SimulatedRobotContract):
    """Inherit it too where the robot is a `robots.truth.TruthRobot`."""

    def test_an_assumed_world_goes_on_as_the_true_one(self) -> None:
        """From the truth of any instant, the same commands lead to the same measured state, unless
        something happens that nobody could know."""
        for share in (0.0, 0.5, 1.0):  # right after a command, in its middle, at its end
            self._goes_on(share)

    def _goes_on(self, share: float) -> None:
        true, imagined = cast(TruthRobot, self.started()), cast(TruthRobot, self.started(8))
        space, period_ns = true.spec.action_space, true.spec.control_period_ns
        standing, stream = standing_at(true), np.random.default_rng(0)
        state = standing
        for tick in range(5):
            command = self._command(space, state, stream)
            true.command(command, tick * period_ns)
            true.advance_to((tick + 1) * period_ns)
            state = space.advance(state, command)
        true_ns, command = 5 * period_ns, self._command(space, state, stream)
        true.command(command, true_ns)
        true.advance_to(true_ns + round(share * period_ns))
        state, true_ns = space.advance(state, command), true_ns + period_ns
        now_ns = imagined.assume(true.truth(), state)
        for _ in range(3):
            command = self._command(space, state, stream)
            true.command(command, true_ns)
            imagined.command(command, now_ns)
            true_ns, now_ns = true_ns + period_ns, now_ns + period_ns
            true.advance_to(true_ns)
            imagined.advance_to(now_ns)
            state = space.advance(state, command)
        one, other = true.observe(true.capture()).state, imagined.observe(imagined.capture()).state
        assert np.allclose(one, other, rtol=1e-5, atol=1e-6)
        assert np.allclose(true.truth(), imagined.truth(), rtol=1e-6, atol=1e-6)
        true.close()
        imagined.close()

    def _command(
        self, space: ActionSpace, state: np.ndarray, stream: np.random.Generator
    ) -> np.ndarray:
        """(d,) a tenth of the range away from standing still."""
        span = np.array(space.high) - np.array(space.low)
        return space.clip(space.hold(state) + 0.1 * span * stream.uniform(-1, 1, space.dim))


class SuiteContract:
    """Inherit, and set `suite`; `sampled` names the tasks to look at, all by default."""

    suite: Suite
    sampled: tuple[str, ...] | None = None

    def robots(self) -> list[TaskRobot]:
        """The robot of every sampled task, after a reset; the test closes them."""
        robots = [self.suite.make(task, "train", "own") for task in self._names()]
        for robot in robots:
            robot.reset(11, 0, robot.spec.control_period_ns)
        return robots

    def _names(self) -> tuple[str, ...]:
        return self.sampled or (*self.suite.tasks, *self.suite.variants)

    def test_names_are_given_once(self) -> None:
        """No task is listed twice, and there is at least one."""
        names = (*self.suite.tasks, *self.suite.variants)
        assert self.suite.tasks
        assert len(set(names)) == len(names)

    def test_every_robot_is_of_the_stated_kind(self) -> None:
        """Specification and task of every robot are those that the suite lists."""
        for robot in self.robots():
            assert same_robot(robot.spec, self.suite.spec_of(robot.task))
            self.suite.require(robot.task)
            robot.close()

    def test_a_robot_says_what_its_task_lists(self) -> None:
        """Its instruction is one of its phrasings, and those are among the task's."""
        for name, robot in zip(self._names(), self.robots(), strict=True):
            assert robot.instruction in robot.phrasings.train
            assert set(robot.phrasings.train) <= set(self.suite.instructions(name))
            robot.close()

    def test_nothing_said_is_an_empty_instruction(self) -> None:
        """A robot that is asked for nothing says nothing."""
        task = (self.sampled or self.suite.tasks)[0]
        robot = self.suite.make(task, "train", "blank")
        robot.reset(0, 0, robot.spec.control_period_ns)
        assert robot.instruction == ""
        robot.close()

    def test_the_expert_solves_its_tasks(self) -> None:
        """Within 200 commands (or 12 s, or what the suite states, if that is longer), on one seed
        of two for every task, without leaving its limits."""
        if self.suite.expert is None:
            return
        for robot in self.robots():
            solved = any(self.solves(robot, seed) for seed in (11, 12))
            robot.close()
            assert solved, robot.task

    def solves(self, robot: TaskRobot, seed: int, commands: int | None = None) -> bool:
        """Whether the expert reaches the task in an episode; commands: None for 12 s or what the
        suite states, at least 200."""
        space, period_ns = robot.spec.action_space, robot.spec.control_period_ns
        longest_ns = round(self.suite.longest_s(robot.task, 12.0) * NS_PER_S)
        commands = max(200, longest_ns // period_ns) if commands is None else commands
        robot.reset(seed, 0, period_ns)
        expert = self.suite.teacher(robot)
        for index in range(commands):
            action = expert.act()
            assert action.shape == (space.dim,)
            assert np.array_equal(action, space.clip(action))
            robot.command(action, index * period_ns)
            robot.advance_to((index + 1) * period_ns)
            if robot.success:
                return True
        return False
