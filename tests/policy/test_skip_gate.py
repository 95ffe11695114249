"""Skipping by a learned gate, by tolerances of its own, and by pixels away from the gripper."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamvla.core.cameras import CameraView, Gaze
from streamvla.core.errors import CheckpointError, ConfigError
from streamvla.core.interfaces import FlowStart
from streamvla.model.skip_gate import SkipCalibration, SkipGate, SkipGateConfig, summary_of
from streamvla.policy.changes import largest_change_away
from streamvla.policy.skip_gate import (
    LearnedGate,
    SkipGateCheckpoint,
    features_of,
    load_skip_gate,
    save_skip_gate,
    skip_gate_path,
)
from streamvla.policy.skipping import SkippingPolicy, SkipRule
from streamvla.runtime.executors.options import EarlyOptions
from streamvla.studies.episodes import Eval
from tests.policy.test_action_flow import make_observation, make_policy
from tests.policy.test_skipping import STATE, later, skipping

CLOSED = np.array([0.4, -0.2, -0.5])  # the gripper was told otherwise than in `make_observation`


@dataclass
class Told:
    """A gate that says what it was told to, and notes what it was asked."""

    answer: bool = True
    miss_rate: float = 0.2
    threshold: float = -1.5
    asked: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def allows(self, context, encoded, now, age, pending):
        self.asked.append((age, pending))
        return self.answer


def gated(answer: bool = True, **rule) -> tuple[SkippingPolicy, Told]:
    gate = Told(answer)
    return SkippingPolicy(make_policy(max_age=12), SkipRule(**rule), gate), gate


# --- the rule --------------------------------------------------------------------------------


def test_the_defaults_are_what_they_were():
    """One in a row, frames up to 20 periods old, a tolerance of .02 for all, no pixels, no gate;
    and a policy that skips so says no more of its settings than before."""
    rule = SkipRule()
    assert (rule.most, rule.phase, rule.oldest, rule.tolerance) == (1, 0, 20, 0.02)
    assert (rule.opening_tolerance, rule.moved_levels) == (None, None)
    inside = make_policy(max_age=12).spec.settings
    assert skipping().spec.settings == {**inside, "most_skips": 1.0}


def test_command_and_opening_have_tolerances_of_their_own():
    """A change of each that only its own tolerance allows."""
    opened = STATE + np.array([0.0, 0.1], np.float32)
    for rule, changes, skips in (
        ({"opening_tolerance": 0.2}, {"state": opened}, 1),
        ({"opening_tolerance": 0.2}, {"action_state": CLOSED}, 0),
        ({"tolerance": 1.5, "opening_tolerance": 0.0}, {"action_state": CLOSED}, 1),
        ({"tolerance": 1.5, "opening_tolerance": 0.0}, {"state": opened}, 0),
        ({"tolerance": 1.5}, {"state": opened, "action_state": CLOSED}, 1),
    ):
        policy = skipping(**rule)
        policy.encode(later(0))
        assert policy.encode(later(3, **changes)).skips == skips, rule


def test_settings_that_differ_are_recorded():
    """Each one under the name, and with the value, that `eval` takes; of a gate its threshold
    too."""
    policy, _ = gated(
        most=2, phase=1, tolerance=0.5, opening_tolerance=0.1, moved_levels=6.0, arm_px=40.0
    )
    found = dict(policy.spec.settings)
    expected = {"most_skips": 2.0, "skip_phase": 1.0, "skip_tolerance": 0.5, "skip_opening": 0.1}
    expected |= {
        "skip_pixels": 6.0,
        "skip_arm": 40.0,
        "skip_gate": 0.2,
        "skip_gate_threshold": -1.5,
    }
    assert found | expected == found


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"opening_tolerance": -0.1}, "opening -0.1"),
        ({"moved_levels": float("nan")}, "moved by nan"),
        ({"gripper_px": -1.0}, "-1.0 px"),
    ],
)
def test_a_setting_out_of_range_is_named(rule, message):
    """Negative tolerances, and levels that are no number."""
    with pytest.raises(ConfigError, match=message):
        SkipRule(**rule)


# --- the gate decides ------------------------------------------------------------------------


def test_the_gate_decides_instead_of_the_tolerances():
    """It skips where the gripper was told to move, and encodes where nothing changed."""
    policy, _ = gated(True)
    policy.encode(later(0))
    assert policy.encode(later(3, action_state=CLOSED)).skips == 1
    policy, _ = gated(False)
    policy.encode(later(0))
    assert policy.encode(later(3)).skips == 0


def test_a_gate_that_always_allows_never_skips_more_than_most_in_a_row():
    """With two in a row every third observation is encoded."""
    policy, _ = gated(True, most=2)
    skips = [policy.encode(later(3 * number)).skips for number in range(9)]
    assert skips == [0, 1, 2] * 3


def test_no_gate_allows_old_frames_or_another_instruction():
    """Beyond `oldest`, and for other words, it is not even asked."""
    policy, gate = gated(True, oldest=5)
    policy.encode(later(0))
    assert policy.encode(later(6)).skips == 0
    assert policy.encode(later(9, instruction="pull the puck")).skips == 0
    assert not gate.asked


def test_the_gate_is_told_age_and_pending_actions():
    """Of six actions made, two of them executed at the capture: the other four, and the age."""
    policy, gate = gated(True)
    start = np.array([0.4, -0.2, 0.5])
    made = list(policy.generate(policy.encode(later(0)), FlowStart(start)))
    space, states = policy.spec.action_space, [start]
    for action in made:
        states.append(space.advance(states[-1], action))
    policy.encode(later(2, action_state=states[2]))
    ((age, pending),) = gate.asked
    assert age == 2
    np.testing.assert_allclose(pending[:2], sum(made[2:])[:2])
    np.testing.assert_allclose(pending[2], made[-1][2] - states[2][2])
    policy.begin()
    policy.encode(later(0))
    policy.encode(later(2))
    assert not gate.asked[-1][1].any()  # of a new episode nothing is made yet


# --- pixels ----------------------------------------------------------------------------------

FRONTAL = CameraView(((16.0, 0, 16, 0), (0, 16.0, 16, 0), (0, 0, 1, 0)))
GAZE = Gaze((0, 1, 1), (0.0, 0.0, 1.0), (FRONTAL, FRONTAL))


def watching(state: np.ndarray, gripper_px: float = 4.0) -> SkippingPolicy:
    """Encoded once, with the hand seen in the upper left cell of 2×2; now it asks pixels too."""
    policy = skipping(most=9, moved_levels=8.0, gripper_px=gripper_px, tolerance=9.0)
    policy.gaze = GAZE
    policy.encode(later(0, state=state))
    return policy


UPPER_LEFT = np.array([-0.7, -0.3], np.float32)  # x, and y = z


def with_changed(row: int, column: int, levels: int) -> dict[str, np.ndarray]:
    """The views of `make_observation`, with one cell of one of them brighter or darker."""
    images = {view: image.copy() for view, image in make_observation().images.items()}
    cell = images["front"][16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
    cell[...] = np.where(cell < 128, cell + levels, cell - levels)
    return images


def test_a_thing_that_moved_away_from_the_gripper_is_encoded():
    """A cell on the other side of one view changes by 20 grey levels; by 5 it may."""
    assert np.allclose(GAZE.aim(UPPER_LEFT)[0], [0.0, 9.1], atol=0.1)
    policy = watching(UPPER_LEFT)
    assert policy.encode(later(3, state=UPPER_LEFT, images=with_changed(1, 1, 5))).skips == 1
    assert policy.encode(later(6, state=UPPER_LEFT, images=with_changed(1, 1, 20))).skips == 0


def test_what_the_hand_moves_is_no_reason():
    """The cells where the hand was, and where it is now, change as much as they like."""
    lower_left = np.array([-0.7, 0.5], np.float32)
    policy = watching(UPPER_LEFT)
    assert policy.encode(later(3, state=UPPER_LEFT, images=with_changed(0, 0, 90))).skips == 1
    moved = with_changed(1, 0, 90)
    assert policy.encode(later(6, state=lower_left, images=moved)).skips == 2
    assert policy.encode(later(9, state=UPPER_LEFT, images=moved)).skips == 0


def test_slow_changes_add_up():
    """Frames are compared with those that were encoded, not with the last ones."""
    policy = watching(UPPER_LEFT)
    skips = [
        policy.encode(later(n, state=UPPER_LEFT, images=with_changed(1, 1, 5 * n))).skips
        for n in range(1, 4)
    ]
    assert skips == [1, 0, 1]


def test_every_cell_counts_where_no_camera_is_known():
    """Without a gaze the hand's own cell is a reason too; without `moved_levels` none is."""
    policy = watching(UPPER_LEFT)
    policy.gaze = None
    assert policy.encode(later(3, state=UPPER_LEFT, images=with_changed(0, 0, 90))).skips == 0
    policy = skipping()
    policy.encode(later(0))
    assert policy.encode(later(3, images=with_changed(1, 1, 90))).skips == 1


def test_only_cells_within_the_radius_do_not_count():
    """A cell at a distance of 7 px counts at a radius of 6, not at one of 8."""
    before = np.zeros((48, 48, 3), np.uint8)
    now = before.copy()
    now[16:32, 32:] = 50
    place = np.array([25.0, 20.0])
    assert largest_change_away(before, now, [place], 6) == 50
    assert largest_change_away(before, now, [place], 8) == 0


def test_what_hangs_above_the_gripper_does_not_count():
    """Of the cells of a view, with the gripper in the middle, those above it and a little under it
    within 20 px to each side; all others count, near ones too."""
    before = np.zeros((96, 96, 3), np.uint8)
    place, counted = np.array([40.0, 40.0]), np.ones((6, 6), bool)
    for row, column in np.ndindex(6, 6):
        now = before.copy()
        now[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 50
        counted[row, column] = largest_change_away(before, now, [place], 32, arm_px=20) > 0
    expected = np.ones((6, 6), bool)
    expected[:4, 1:4] = False
    assert np.array_equal(counted, expected)


def test_an_arm_to_leave_out_needs_pixels_to_compare():
    """`--skip-arm` alone changes nothing, and is refused with a line that says what it needs."""
    with pytest.raises(ConfigError, match="skip_pixels with it"):
        Eval(most_skips=1, skip_arm=40.0)
    Eval(most_skips=1, skip_arm=40.0, skip_pixels=4.0, early=EarlyOptions(early="always"))


# --- the learned gate and its file -----------------------------------------------------------


def checkpoint_for(policy, thresholds=None) -> SkipGateCheckpoint:
    torch.manual_seed(0)
    wide = summary_of(policy.encode(make_observation()).prefix).shape[1]
    arrays = [np.zeros((1, n)) for n in (policy.spec.state_dim, policy.spec.action_space.dim)]
    features = features_of(
        policy.spec, policy.normalisation, np.ones(1), (arrays[0],) * 2, (arrays[1],) * 2, arrays[1]
    )
    gate = SkipGate(SkipGateConfig(features.shape[1], wide, 4, 8))
    calibration = SkipCalibration(0.3, 0.05, thresholds or {0.1: -1.0, 0.2: 0.5}, 23, 6, 12, {})
    weights = gate.state_dict()
    return SkipGateCheckpoint(gate.config, weights, {}, policy.digest(), calibration, {})


@pytest.fixture
def policy():
    return make_policy(max_age=12)


def test_a_gate_comes_back_from_its_file(policy, tmp_path):
    """Weights to the last bit, and thresholds by miss rate."""
    path = skip_gate_path(tmp_path / "p.safetensors")
    assert path.name == "p.skipping.safetensors"
    made = checkpoint_for(policy)
    save_skip_gate(path, made)
    found = load_skip_gate(path, policy)
    assert all(torch.equal(found.weights[name], made.weights[name]) for name in made.weights)
    assert (found.config, found.calibration) == (made.config, made.calibration)


def test_a_gate_that_is_not_there_is_one_clear_error(policy, tmp_path):
    """The message says how to train one."""
    with pytest.raises(CheckpointError, match=r"no skip gate at .*train-skipping"):
        load_skip_gate(tmp_path / "p.skipping.safetensors", policy)


def test_a_damaged_gate_is_one_clear_error(policy, tmp_path):
    """One changed byte of the weights."""
    path = tmp_path / "p.skipping.safetensors"
    save_skip_gate(path, checkpoint_for(policy))
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"p\.skipping\.safetensors"):
        load_skip_gate(path, policy)


def test_the_gate_of_another_policy_is_one_clear_error(policy, tmp_path):
    """One weight of the expert differs: the actions are others, though the sight is the same."""
    path = tmp_path / "p.skipping.safetensors"
    save_skip_gate(path, checkpoint_for(policy))
    sight = policy.sight_digest()
    with torch.no_grad():
        next(policy.model.expert.parameters()).view(-1)[0] += 1
    assert policy.sight_digest() == sight
    with pytest.raises(CheckpointError, match="trained on another policy"):
        load_skip_gate(path, policy)


def test_another_file_is_no_gate(policy, tmp_path):
    """A file of ours that holds something else."""
    from streamvla.model.checkpoint import SCHEMA_VERSION, save_tensors

    path = Path(tmp_path / "p.skipping.safetensors")
    save_tensors(path, {"a": torch.zeros(1)}, {"schema_version": SCHEMA_VERSION})
    with pytest.raises(CheckpointError, match="not a skip gate"):
        load_skip_gate(path, policy)


def test_only_calibrated_miss_rates_can_be_asked_for(policy):
    """The message names those there are."""
    with pytest.raises(ConfigError, match=r"calibrated at 0\.1, 0\.2"):
        LearnedGate(checkpoint_for(policy), policy, 0.3)


def test_the_learned_gate_skips_up_to_its_threshold(policy):
    """The same question, with a threshold below and above what it expects; never if an input is
    not finite."""
    context, encoded = policy.encode(later(0)), later(0)
    asked = (context, encoded, later(5), 5, np.zeros(3))
    expected = LearnedGate(checkpoint_for(policy), policy, 0.1).expected(*asked)
    for threshold, allowed in ((expected - 0.1, False), (expected + 0.1, True)):
        gate = LearnedGate(checkpoint_for(policy, {0.1: threshold}), policy, 0.1)
        assert gate.allows(*asked) is allowed
    gate = LearnedGate(checkpoint_for(policy, {0.1: 1e9}), policy, 0.1)
    for bad in (np.nan, np.inf):
        broken = replace(later(5), state=np.array([bad, 0.0], np.float32))
        assert not gate.allows(context, encoded, broken, 5, np.zeros(3))


def test_the_learned_gate_allows_no_age_that_it_was_not_calibrated_at(policy):
    """Calibrated up to 23 control periods, it allows 23 and not 24, whatever it expects."""
    gate = LearnedGate(checkpoint_for(policy, {0.1: 1e9}), policy, 0.1)
    context = policy.encode(later(0))
    for age, allowed in ((23, True), (24, False)):
        assert gate.allows(context, later(0), later(age), age, np.zeros(3)) is allowed
