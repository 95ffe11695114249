"""A memory task as a robot: cue, delay, "go", answer. Arm, cameras and actions of Meta-World.

The hand waits at `REST_M`; small motions before "go" cost nothing, but a hand that is far away when
"go" comes has lost, or it could hold the answer by where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.robots.instructions import Asked, Phrasings, Split
from streamvla.robots.memory.lamps import GO_COLOUR, Distractors, Lamp, add_lamp
from streamvla.robots.memory.scene import REST_M, Answer, Dials, MemoryScene, substeps
from streamvla.robots.sawyer import SUBSTEPS_PER_COMMAND, SawyerRobot
from streamvla.robots.tabletop.arm import FINGER_LENGTH_M, Arm
from streamvla.robots.tabletop.scene import MjSpec
from streamvla.robots.tempo.motion import CLOSED, towards
from streamvla.robots.tempo.scene import SUCCESS_SCORE

FIRST_S = (0.5, 0.8)
"""From the start of an episode until its cue begins."""
STRAYED_M = 0.12
"""A hand that is farther than this from `REST_M` at "go" has lost."""

MEASURES = ("hand_x_m", "hand_y_m", "hand_z_m", "score", "went")
"""`went`: 1 once "go" was given."""

_START_M = 0.03
_GO_LOW_M, _GO_HIGH_M = (-0.16, 0.89), (0.16, 0.91)


@dataclass(frozen=True)
class MemoryTask:
    """One task.

    Attributes:
        scene: of its things.
        phrasings: of its instruction.
        choices: of how many things there may be, unless the dial says otherwise.
        answer_s: how long the arm has for its answer.
    """

    scene: type[MemoryScene]
    phrasings: Phrasings
    choices: int
    answer_s: float

    def choices_of(self, dials: Dials) -> int:
        """The dial's, or else its own."""
        return dials.choices or self.choices

    def longest_s(self, dials: Dials) -> float:
        """From the start of an episode until the arm should have answered."""
        cue_s = self.scene.cue_s(self.choices_of(dials))
        return FIRST_S[1] + cue_s + dials.delay_s + self.answer_s


class MemoryRobot(SawyerRobot):
    """One memory task on the arm. Implements `Robot`, `robots.truth.TruthRobot`.

    Args:
        name: of the task.
        task: what it is.
        split: which phrasings of the instruction to draw from, "train" or "heldout".
        asked: "own" or "blank".
        dials: how hard it is.

    Raises:
        ConfigError: unknown split, or `asked` is "swapped".
        RobotError: the simulator or an offscreen OpenGL library is missing.
    """

    def __init__(
        self,
        name: str,
        task: MemoryTask,
        split: Split = "train",
        asked: Asked = "own",
        dials: Dials = Dials(),  # noqa: B008 (frozen)
    ) -> None:
        if asked == "swapped":
            raise ConfigError(
                f"task {name!r} is said alike whatever its answer, so its instruction cannot be "
                "swapped: expected asked 'own' or 'blank'"
            )
        self._kind, self._dials = task, dials
        self._arm = Arm(lambda spec: _furnish(spec, task.scene))
        self._scene = task.scene(self._arm, task.choices_of(dials))
        self._go_lamp = Lamp(self._arm, "go-lamp")
        self._distractors = Distractors(self._arm, dials.distractors)
        super().__init__(name, self._arm.model, self._arm.data, split, asked)
        self._spec = replace(
            self._spec, measures=MEASURES, stimulus="the green lamp lit up: the arm may answer"
        )
        self._answer: Answer = ()
        self._timing = (0, 1)  # of the episode: start, and how long a command acts
        self._first = self._go_step = 0
        self._step = 0  # of the world; that of an assumed one goes on from the true one's
        self._foreseen = True  # whether the cue goes on, and "go" comes
        self._went = self._strayed = False
        self._best = 0.0  # the score of a success stays

    @property
    def phrasings(self) -> Phrasings:
        return self._kind.phrasings

    @property
    def scene(self) -> MemoryScene:
        """For scripted experts and tests only."""
        return self._scene

    @property
    def answers(self) -> tuple[Answer, ...]:
        """All that an episode can ask for."""
        return self._scene.answers

    @property
    def answer(self) -> Answer:
        """What the cue of this episode tells: for scripted experts and tests only."""
        self._running()
        return self._answer

    @property
    def went(self) -> bool:
        """Whether "go" was given."""
        self._running()
        return self._went

    @property
    def score(self) -> float:
        """0 to 10 at this instant; 9 or more is a success, and stays."""
        self._running()
        if self._strayed or not self._went:
            return 0.0
        return self._best if self._best >= SUCCESS_SCORE else self._scene.score(self._answer)

    @property
    def success(self) -> bool:
        return self.score >= SUCCESS_SCORE

    @property
    def longest_s(self) -> float:
        """From the start of an episode until the arm should have answered."""
        return self._kind.longest_s(self._dials)

    def give_cue(self, answer: Answer) -> None:
        """Let the cue of the present episode tell another answer; all else stays as it is.

        Raises:
            ConfigError: it is none of `answers`.
        """
        self._running()
        if answer not in self.answers:
            raise ConfigError(f"answer {answer}: expected one of {self.answers}")
        self._answer = answer
        if not self._went:
            self._scene.show(answer, self._step - self._first)

    def act(self, answer: Answer) -> np.ndarray:
        """(4,) what an arm that believes in `answer` does now, not yet clipped."""
        action = self._scene.act(answer) if self.went else None
        if action is None:
            return towards(self._arm, REST_M - (0.0, 0.0, FINGER_LENGTH_M), CLOSED)
        return action

    def places(self) -> np.ndarray:
        self._running()
        thing, target = self._scene.places_m(self._answer)
        return np.concatenate([thing, np.zeros(3), target])

    def measure(self) -> np.ndarray:
        """(5,) `MEASURES`."""
        return np.array([*self._arm.hand_m, self.score, self.went])

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        self._timing = (now_ns, command_duration_ns)
        super().reset(seed, now_ns, command_duration_ns)

    def _begin(self, seed: int) -> None:
        layout, cue = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 3])
        self._arm.reset()
        self._answer = self.answers[int(cue.integers(len(self.answers)))]
        self._first = substeps(layout.uniform(*FIRST_S))
        cue_s = self._kind.scene.cue_s(self._kind.choices_of(self._dials))
        self._go_step = self._first + substeps(cue_s) + substeps(self._dials.delay_s)
        self._go_lamp.put(layout.uniform(_GO_LOW_M, _GO_HIGH_M))
        start_m = REST_M + layout.uniform(-_START_M, _START_M, 3)
        self._scene.place(layout, cue)
        self._distractors.place(np.random.default_rng([seed, 6]))
        self._step, self._foreseen = 0, True
        self._went = self._strayed = False
        self._best = 0.0
        self._show()
        self._arm.settle(start_m)

    def _substep(self, command: np.ndarray) -> None:
        if self._foreseen:
            self._show()
            if self._step == self._go_step:
                self._go()
        self._arm.act(command)
        if self._went:
            self._scene.after(self._step - self._go_step)
            self._best = max(self._best, self.score)
        self._step += 1

    def _show(self) -> None:
        self._distractors.show(self._step)
        if not self._went:
            self._scene.show(self._answer, self._step - self._first)

    def _go(self) -> None:
        self._went = True
        self._strayed = bool(np.linalg.norm(self._arm.hand_m - REST_M) > STRAYED_M)
        self._go_lamp.show(True)
        self._scene.go()
        start_ns, duration_ns = self._timing
        self._surprise(start_ns + (self._steps + 1) * duration_ns // SUBSTEPS_PER_COMMAND)

    def _measured(self) -> np.ndarray:
        return np.array([*self._arm.hand_m, self._arm.opening])

    def _scene_truth(self) -> np.ndarray:
        told = (self.answers.index(self._answer), self._step, self._went, self._strayed, self._best)
        return np.array([*told, *self._scene.truth()], dtype=np.float64)

    def _assume_scene(self, truth: np.ndarray) -> None:
        """What is still to come of the cue, and "go", do not come: nobody could know when."""
        answer, self._step, went, strayed = (int(number) for number in truth[:4])
        self._went, self._strayed = bool(went), bool(strayed)
        self._answer, self._best = self.answers[answer], float(truth[4])
        self._scene.assume(truth[5:])
        self._foreseen = False


def _furnish(spec: MjSpec, scene: type[MemoryScene]) -> None:
    add_lamp(spec, "go-lamp", GO_COLOUR)
    Distractors.furnish(spec)
    scene.furnish(spec)
