"""What a policy counts: tokens, encodings and floating-point operations of its observations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from streamvla.core.compute import COST_NUMBERS, ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, cost_of
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.model.normalisation import Normalisation
from streamvla.model.saliency import SaliencyConfig, SaliencyPredictor
from streamvla.policy import ModelPolicy, load_policy
from streamvla.policy.shipped import resolve_checkpoint
from tests.model.tiny import TINY, tiny_model
from tests.policy.test_action_flow import SPEC, make_observation, make_policy

SCALE = Normalisation((0.0, 0.0), (1.0, 1.0), (0.3, 0.5, 1.0))


def test_the_counted_products_are_those_of_the_formulas():
    """One context of the tiny model: its linear maps and attentions by hand, to 1 %."""
    policy = make_policy()
    cost = policy.cost(policy.encode(make_observation()))
    words = 3  # "push the puck"
    tokens, width, inner = 12 + words + 2, TINY.width, TINY.heads * TINY.head_dim
    assert cost.visual_tokens == 12  # of each view four cells, its keypoints and the asked ones
    block = 2 * tokens * width * (4 * inner + 2 * TINY.expansion * width)
    attention = 4 * tokens**2 * inner
    last = 2 * tokens * width * 2 * inner
    enter = 2 * width * (TINY.state_dim + TINY.action_dim)
    by_hand = (TINY.layers - 1) * (block + attention) + last + enter
    assert cost.context_flops == pytest.approx(by_hand, rel=0.01)


@pytest.mark.parametrize("method", [ActionFlowConfig(horizon=6), ChunkFlowConfig(horizon=6)])
def test_an_action_costs_what_its_passes_cost(method):
    """FLOPs of one action = those of a whole generation / H, for a flow and for a chunk."""
    spec = replace(SPEC, chunk_passes=method.chunk_passes)
    policy = ModelPolicy(tiny_model(method=method), spec, method, SCALE)
    context = policy.encode(make_observation())
    with FlopCounterMode(display=False) as counter:
        list(policy.generate(context, FlowStart(np.zeros(3))))
    assert policy.cost(context).action_flops == pytest.approx(counter.get_total_flops() / 6, 0.01)


def test_counting_changes_no_action_and_no_second_count_is_made():
    """The actions after counting are bit for bit those without it, whichever call counts."""
    counted, plain = make_policy(), make_policy()
    observation = make_observation()
    later = replace(observation, captured_ns=1)
    contexts = [policy.encode(observation) for policy in (counted, plain)]
    first = counted.cost(contexts[0])
    again = counted.cost(counted.encode(later))
    assert counted.cost(counted.encode(observation)).cache_hits == 0  # an episode began
    assert first.look_flops == again.look_flops
    assert (first.cache_hits, again.cache_hits) == (0, 1)  # the instruction's words
    start = FlowStart(np.zeros(3))
    actions = [
        np.array(list(policy.generate(context, start)))
        for policy, context in zip((counted, plain), contexts, strict=True)
    ]
    assert np.array_equal(*actions)


def test_a_longer_instruction_is_counted_anew():
    """More words are more tokens and more operations; a new instruction is no cache hit."""
    policy = make_policy()
    short = policy.cost(policy.encode(make_observation()))
    said = replace(make_observation(), instruction="push the puck to the far goal now")
    long = policy.cost(policy.encode(said))
    assert (short.text_tokens, long.text_tokens) == (3, 8)
    assert long.context_flops > short.context_flops
    assert long.cache_hits == 0


def test_a_refused_look_costs_the_look_and_its_predictions():
    """A sight has no context yet; each predicted motion adds one run of the predictor."""
    policy = make_policy()
    policy.attach(SaliencyPredictor(SaliencyConfig(2, 6, TINY.width, 3)))
    sight = policy.look(make_observation())
    policy.anticipate(sight, np.zeros((2, 3)))
    cost = policy.cost(sight)
    assert cost.context_flops == 0
    assert cost.action_flops == 0
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        policy.anticipate(sight, np.zeros((1, 3)))
    assert cost.predicted(2).look_flops == cost.look_flops + 2 * counter.get_total_flops()


def test_the_shipped_policy_costs_what_the_documents_say():
    """78 visual tokens and .8 to .9 GFLOP an observation, 40 and 50 % of it in either part."""
    policy = load_policy(resolve_checkpoint())
    spec = policy.spec
    images = {view: np.zeros((*spec.image_size, 3), np.uint8) for view in spec.views}
    state, still = np.zeros(spec.state_dim, np.float32), np.zeros(spec.action_space.dim)
    observation = replace(make_observation(), images=images, state=state, action_state=still)
    cost = cost_of(policy, policy.encode(observation))
    assert cost is not None
    assert (cost.visual_tokens, cost.encodes, cost.text_tokens) == (78, 2, 3)
    assert cost.look_flops == pytest.approx(0.40e9, rel=0.03)
    assert cost.context_flops == pytest.approx(0.45e9, rel=0.05)


def test_a_cost_survives_as_numbers():
    """`from_row(to_row)` is the same cost."""
    cost = ObservationCost(78, 39, 5, 2, 1, 10**15, 7, 3, 2, 10**9, 0.25, 0.5)
    assert ObservationCost.from_row(cost.to_row()) == cost


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((1.0,), "1 numbers"),
        ((0.5,) * COST_NUMBERS, "visual_tokens is 0.5, no count"),
        ((float("inf"),) * COST_NUMBERS, "visual_tokens is inf, no count"),
        ((-1.0,) * COST_NUMBERS, "visual_tokens is -1"),
        ((1.0,) * (COST_NUMBERS - 1) + (float("nan"),), "context_time is nan"),
    ],
)
def test_what_is_no_cost_is_refused(row, message):
    """Wrong length, broken counts, negative numbers and NaN are named."""
    with pytest.raises(ConfigError, match=message):
        ObservationCost.from_row(row)


def test_tokens_that_no_action_attends_to_are_not_counted():
    """With a quarter of twelve vision tokens three are attended to, and an action costs less."""
    policy = make_policy()
    context = policy.encode(make_observation())
    whole = policy.cost(context)
    policy.focus_on(replace(policy.model.expert.focus, patch_k=0.25, once=True))
    focused = policy.cost(context)
    assert focused.action_flops < whole.action_flops
    assert (whole.visual_tokens_attended, focused.visual_tokens_attended) == (12, 3)
    assert focused.visual_tokens == 12
