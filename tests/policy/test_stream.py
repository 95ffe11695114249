"""What a policy remembers: each observation that was used, once, in order of capture."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from streamvla.core.clock import SystemClock
from streamvla.core.errors import ConfigError, SpecMismatchError
from streamvla.core.interfaces import (
    FlowStart,
    Frames,
    PolicySpec,
    begin_episode,
    remembering_nothing,
)
from streamvla.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.past import MemoryConfig
from streamvla.model.vla import StreamingVLA, VLAConfig
from streamvla.policy import ModelPolicy, load_policy
from streamvla.policy.base import StreamPolicy
from streamvla.policy.focus import vision_attention
from streamvla.policy.reuse import ReusingPolicy
from streamvla.policy.skipping import SkippingPolicy, SkipRule
from streamvla.runtime.drivers.stages import measure_once
from tests.model.tiny import TINY, tiny_model
from tests.policy.test_action_flow import SPEC, make_observation
from tests.policy.test_counting import SCALE

FLOW = ActionFlowConfig(horizon=6)
MEMORY = MemoryConfig(summaries=2, window=3, vision_window=1, width=16)
SIZES: VLAConfig = replace(TINY, memory=MEMORY)
PERIOD_NS = 300_000_000


def remembering_model(config: VLAConfig = SIZES) -> StreamingVLA:
    """The tiny model with a memory that counts, its other weights as without."""
    torch.manual_seed(0)
    model = StreamingVLA(config, FLOW).eval()
    missing, unexpected = model.load_state_dict(tiny_model(method=FLOW).state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("memory.") for name in missing)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("memory."):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def remembering_policy() -> StreamPolicy:
    return StreamPolicy(remembering_model(), SPEC, FLOW, SCALE)


def stacking_policy(frames: int = 3) -> StreamPolicy:
    """Several frames, told apart."""
    torch.manual_seed(0)
    model = StreamingVLA(replace(TINY, frames=frames), FLOW)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return StreamPolicy(model, SPEC, FLOW, SCALE)


POLICY = remembering_policy()
PAIRS = {
    "memory": (POLICY, remembering_policy()),
    "frames": (stacking_policy(), stacking_policy()),
}


def observed(number: int, instruction: str = "push the puck"):
    """Observation `number` of an episode."""
    observation = make_observation(number)
    return replace(observation, captured_ns=number * PERIOD_NS, instruction=instruction)


def actions(policy: ModelPolicy, context) -> np.ndarray:
    return np.stack(list(policy.generate(context, FlowStart(np.zeros(3)))))


def kept_after(policy: ModelPolicy, numbers: list[int]) -> dict[str, torch.Tensor]:
    policy.begin()
    for number in numbers:
        policy.encode(observed(number))
    return kept_by(policy)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["use", "refuse", "foresee", "again", "fail", "cancel"])
    ),
    max_size=12,
)


def kept_by(policy: StreamPolicy) -> dict[str, torch.Tensor]:
    """All that it remembers."""
    return (policy.stream or policy.frames).snapshot()


@pytest.mark.parametrize("kind", ["memory", "frames"])
@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_the_memory_is_that_of_the_observations_used_in_order(kind, steps):
    """Looks that are refused, contexts of foreseen tokens, contexts made twice, observations that
    cannot be read and generations that are given up leave what plain driving leaves."""
    policy, plain = PAIRS[kind]
    used, number = [], 0
    policy.begin()
    assert kept_by(policy) == {}
    for gap, what in steps:
        number += 1 + gap
        observation = observed(number)
        if what == "fail":
            with pytest.raises(SpecMismatchError, match="not finite"):
                policy.encode(replace(observation, state=np.full(2, np.nan, np.float32)))
            continue
        sight = policy.look(observation)
        if what == "refuse":
            continue
        change = torch.ones_like(sight.seen) if what == "foresee" else None
        context = policy.contextualise(sight, change)
        used.append(number)
        if what == "again":
            policy.contextualise(sight)
        if what == "cancel":
            next(policy.generate(context, FlowStart(np.zeros(3))))
    kept_after(plain, used)
    assert_equal(kept_by(policy), kept_by(plain))


def test_a_context_depends_on_what_was_seen_before():
    """The same observation gives other actions after another past; after `begin`, those of a
    first observation."""
    first = actions(POLICY, _begun(POLICY).encode(observed(5)))
    _begun(POLICY).encode(observed(1))
    later = actions(POLICY, POLICY.encode(observed(5)))
    again = actions(POLICY, _begun(POLICY).encode(observed(5)))
    assert not np.allclose(first, later)
    assert np.array_equal(first, again)


def test_a_stream_that_continues_remembers_the_episode_before():
    """Told so, `begin` starts the clock anew and forgets nothing."""
    policy = remembering_policy()
    policy.encode(observed(4))
    policy.stream.continues = True
    policy.begin()
    policy.encode(observed(0))
    assert policy.stream.kept.entered == 2


@pytest.mark.parametrize("wrapped", [False, True])
def test_measuring_leaves_a_stream_that_continues_as_it_was(wrapped):
    """The observation that times are measured with is no part of the stream, also behind another
    policy."""
    policy = remembering_policy() if not wrapped else skipping_inside()
    inside = policy._policy if wrapped else policy
    inside.stream.continues = True
    for number in (1, 2):
        inside.encode(observed(number))
    before = inside.stream.snapshot()
    robot = StandingRobot()
    measure_once(SystemClock(), robot, policy, robot.capture(), "push the puck")
    assert_equal(inside.stream.snapshot(), before)
    for each in (policy, inside):
        with remembering_nothing(each):
            begin_episode(each)
            each.encode(observed(9))
        assert_equal(inside.stream.snapshot(), before)


class StandingRobot:
    """As much of a robot as measuring needs."""

    spec = SimpleNamespace(
        name="standing", views=SPEC.views, image_size=SPEC.image_size, state_names=("x", "y")
    )

    def capture(self) -> int:
        return 0

    def observe(self, capture: int) -> Frames:
        seen = make_observation(1)
        return Frames(seen.images, seen.state)


def skipping_inside() -> SkippingPolicy:
    aged = ActionFlowConfig(horizon=6, max_age=3)
    torch.manual_seed(0)
    model = StreamingVLA(SIZES, aged)
    return SkippingPolicy(StreamPolicy(model, SPEC, aged, SCALE), SkipRule())


@pytest.mark.parametrize("make", [remembering_policy, stacking_policy])
def test_streams_are_driven_in_step(make):
    """Observations of several instants at once are refused by a policy that remembers: they would
    be in no order."""
    with pytest.raises(ConfigError, match="in step"):
        make().encode_batch([observed(1), observed(2)])
    plain = ModelPolicy(tiny_model(method=FLOW), SPEC, FLOW, SCALE)
    plain.encode_batch([observed(1), observed(2)])


def test_cells_of_several_frames_have_no_attention_of_their_own():
    """It is refused; and of the tokens of one observation no more are attended to than there
    are."""
    policy = stacking_policy()
    with pytest.raises(ConfigError, match="3 frames"):
        vision_attention(policy, observed(1))
    cost = policy.cost(policy.encode(observed(1)))
    assert cost.visual_tokens_attended <= cost.visual_tokens


def test_another_instruction_in_an_episode_keeps_the_memory():
    """What was seen stays, and the sink is that of the new instruction."""
    policy = remembering_policy()
    policy.encode(observed(1))
    before = policy.stream.snapshot()
    policy.encode(observed(2, "push the cube"))
    after = policy.stream.snapshot()
    assert policy.stream.kept.entered == 2
    assert not torch.equal(before["sinks"], after["sinks"])
    assert torch.equal(
        before["compact"][..., : MEMORY.tokens, :], after["compact"][..., : MEMORY.tokens, :]
    )


def test_a_policy_restored_from_a_snapshot_acts_as_the_first_one_goes_on():
    """A model process that is started anew remembers, given what the old one kept."""
    sizes = replace(SIZES, memory=replace(MEMORY, vision_window=2))
    models = [remembering_model(sizes) for _ in range(2)]
    one, other = (StreamPolicy(model, SPEC, FLOW, SCALE) for model in models)
    kept_after(one, [1, 2, 4, 5, 6])
    other.stream.restore(one.stream.snapshot())
    for number in (7, 9):
        contexts = [policy.encode(observed(number)) for policy in (one, other)]
        assert np.array_equal(actions(one, contexts[0]), actions(other, contexts[1]))


def test_an_empty_snapshot_empties_a_memory():
    """As at the start of an episode."""
    policy = remembering_policy()
    empty = policy.stream.snapshot()
    policy.encode(observed(1))
    policy.stream.restore(empty)
    assert policy.stream.kept is None


def test_a_snapshot_that_is_refused_leaves_a_policy_as_it_was():
    """Of another policy, or not whole: in one line."""
    policy = remembering_policy()
    kept_after(policy, [1, 2])
    before = policy.stream.snapshot()
    longer = replace(SIZES, memory=replace(MEMORY, window=5))
    other = StreamPolicy(remembering_model(longer), SPEC, FLOW, SCALE)
    foreign = kept_after(other, [1])
    wide = {**before, "told": torch.zeros(1, 5)}
    for wrong in (foreign, {"told": before["told"]}, wide):
        with pytest.raises(ConfigError, match="memory snapshot"):
            policy.stream.restore(wrong)
        assert_equal(policy.stream.snapshot(), before)


def test_several_frames_come_back_from_a_snapshot():
    """And one of more frames, or not whole, is refused and leaves them as they were."""
    policies = {frames: stacking_policy(frames) for frames in (2, 3)}
    for policy in policies.values():
        for number in (1, 2, 3):
            policy.encode(observed(number))
    fresh = stacking_policy(3)
    fresh.frames.restore(policies[3].frames.snapshot())
    contexts = [policy.encode(observed(4)) for policy in (policies[3], fresh)]
    assert np.array_equal(actions(policies[3], contexts[0]), actions(fresh, contexts[1]))
    before = policies[2].frames.snapshot()
    with pytest.raises(ConfigError, match="snapshot of 2 frames"):
        policies[2].frames.restore(policies[3].frames.snapshot())
    with pytest.raises(ConfigError, match="latest_ns is missing"):
        policies[2].frames.restore({"older": before["older"]})
    assert_equal(policies[2].frames.snapshot(), before)
    fresh.frames.restore({})
    assert fresh.frames.snapshot() == {}


@pytest.mark.parametrize("make", [remembering_policy, stacking_policy])
def test_another_number_of_streams_in_a_stream_that_continues_says_what_to_do(make):
    """There `begin` alone would not help."""
    policy = make()
    (policy.stream or policy.frames).continues = True
    policy.encode(observed(1))
    policy.begin()
    with pytest.raises(ConfigError, match="not continue, and call begin"):
        policy.encode_batch([observed(2), observed(2)])


def test_another_number_of_streams_is_refused_until_an_episode_begins():
    """One line that says what to do."""
    policy = remembering_policy()
    policy.encode(observed(1))
    with pytest.raises(ConfigError, match="begin"):
        policy.encode_batch([observed(2), observed(2)])
    policy.begin()
    policy.encode_batch([observed(2), observed(2)])


def test_its_operations_are_counted_to_a_percent():
    """Of first and later observations, window full or not, by PyTorch's own counter."""
    policy = remembering_policy()
    kept_after(policy, [1])  # the counts of everything else are known now
    for number in range(2, 8):
        sight = policy.look(observed(number))
        with FlopCounterMode(display=False) as counter:
            context = policy.contextualise(sight)
        assert context.cost.context_flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_context_of_foreseen_tokens_counts_both():
    """What is foreseen and what was seen are two contexts and two readings of the memory."""
    policy = remembering_policy()
    kept_after(policy, [1, 2, 3])
    sight = policy.look(observed(4))
    with FlopCounterMode(display=False) as counter:
        context = policy.contextualise(sight, torch.ones_like(sight.seen))
    assert context.cost.context_flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_memory_works_behind_views_that_are_kept():
    """`ReusingPolicy` remembers as the policy inside it would."""
    reusing = ReusingPolicy(remembering_policy(), tolerance=0.0)
    kept_after(reusing, [4, 6])  # forgotten when the next episode begins
    assert_equal(kept_after(reusing, [1, 2, 3, 5]), kept_after(remembering_policy(), [1, 2, 3, 5]))


def test_without_a_memory_nothing_changes():
    """No parameter more, no stream, and the policy does not say that it remembers."""
    policy = ModelPolicy(tiny_model(method=FLOW), SPEC, FLOW, SCALE)
    assert policy.stream is None
    assert not policy.spec.remembers
    assert POLICY.spec.remembers


def test_a_file_of_several_frames_from_before_their_module_is_read(tmp_path):
    """What told frames apart had another name."""
    policy = stacking_policy()
    weights = policy.model.state_dict()
    older = {("ages" if name == "ages.weight" else name): w for name, w in weights.items()}
    path = tmp_path / "policy.safetensors"
    config = policy.model.config
    save_checkpoint(path, Checkpoint(config, FLOW, policy.spec, SCALE, {}, older))
    assert torch.equal(load_policy(path).model.ages.weight, policy.model.ages.weight)


def test_a_policy_with_memory_comes_back_from_its_file(tmp_path):
    """Sizes and weights, so that it acts as before."""
    policy = remembering_policy()
    spec: PolicySpec = policy.spec
    weights = policy.model.state_dict()
    path = tmp_path / "policy.safetensors"
    save_checkpoint(path, Checkpoint(SIZES, FLOW, spec, SCALE, {}, weights))
    assert load_checkpoint(path).model == SIZES
    other = load_policy(path)
    contexts = [(kept_after(each, [1, 2]), each.encode(observed(3)))[1] for each in (policy, other)]
    assert np.array_equal(actions(policy, contexts[0]), actions(other, contexts[1]))


def _begun(policy: ModelPolicy) -> ModelPolicy:
    policy.begin()
    return policy
