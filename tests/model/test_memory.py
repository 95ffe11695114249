"""Memory: a stream with eviction and one pass over its whole history are the same function."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from streamvla.core.errors import ConfigError
from streamvla.model.backbone import PrefixCache, Rotary
from streamvla.model.memory import Memory
from streamvla.model.past import SINKS, Compact, Kept, MemoryConfig, MemorySize, Moment, Unrolled

SIZE = MemorySize(layers=3, heads=2, head_dim=8, told_width=12, state_dim=2, action_dim=3)
VISION, PREFIX = 5, 9
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

CONFIGS = {
    "window": {},
    "window of one": {"window": 1},
    "with vision": {"vision_window": 2},
    "vision as long as the window": {"vision_window": 4},
    "nothing kept but sinks": {"window": 0},
    "no sinks": {"sinks": False},
    "ranks not contiguous": {"contiguous": False},
}


def a_memory(**changes) -> Memory:
    """Random weights everywhere."""
    torch.manual_seed(0)
    memory = Memory(MemoryConfig(**{"summaries": 2, "window": 4, "width": 16, **changes}), SIZE)
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return memory.eval().requires_grad_(False)


def a_history(length: int, batch: int = 2, *, rotary: bool = False) -> tuple[PrefixCache, Moment]:
    """Of batch · length observations, those of one history behind one another; one of the words is
    padding."""
    generator = torch.Generator().manual_seed(length)
    count = batch * length

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    keys, values = (
        tuple(draw(count, SIZE.heads, PREFIX, SIZE.head_dim) for _ in range(SIZE.layers))
        for _ in range(2)
    )
    bias = torch.zeros(count, 1, 1, PREFIX)
    bias[:, :, :, VISION + 1] = -math.inf
    turn = None
    if rotary:
        angles = draw(count, 1, 1, SIZE.head_dim // 2).repeat(1, 1, 1, 2)
        turn = Rotary(angles.cos(), angles.sin())
    told = draw(batch, SIZE.told_width).repeat_interleave(length, 0)
    moments = Moment(told, draw(count, 2), draw(count, 3), draw(count).abs())
    return PrefixCache(keys, values, bias, turn, VISION), moments


def some(prefix: PrefixCache, moments: Moment, at: slice) -> tuple[PrefixCache, Moment]:
    """Some of the observations."""
    return prefix.rows(at), moments.at(at)


def streamed(memory: Memory, prefix: PrefixCache, moments: Moment, length: int) -> list[Compact]:
    """Observation by observation, each entered once."""
    kept, found = None, []
    for t in range(length):
        now = some(prefix, moments, slice(t, None, length))
        kept = memory.begin(*now) if kept is None else kept
        found.append(memory.read(kept, *now))
        kept.enter(found[-1], *now)
    return found


def of_time(clip: Compact, t: int, length: int) -> Compact:
    """Observation t of every history."""
    keys, values = (tuple(each[t::length] for each in of) for of in (clip.keys, clip.values))
    return Compact(keys, values, clip.carried[t::length])


def assert_same(found: Compact, expected: Compact, **tolerance: float) -> None:
    for name in ("keys", "values"):
        for one, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            torch.testing.assert_close(one, other, **(tolerance or TOLERANCE))


def rotated(x: Tensor, rank: int) -> Tensor:
    """(…, k) as complex numbers, pairs i and i + k/2."""
    half = x.shape[-1] // 2
    turns = torch.polar(torch.ones(half), rank * 10_000.0 ** -(torch.arange(half) / half))
    numbers = torch.view_as_complex(x.unflatten(-1, (2, half)).mT.contiguous()) * turns
    return torch.view_as_real(numbers).mT.flatten(-2)


def plainly(
    memory: Memory, prefix: PrefixCache, moments: Moment, numbers: list[int] | None = None
) -> list[Compact]:
    """Of one history, in one pass a layer: every observation looks up what it may attend to, and
    rotates each key by the rank it has in the cache at that time."""
    config, length = memory.config, prefix.batch
    numbers = list(range(length)) if numbers is None else numbers
    xs = memory._embedded(moments)
    sink_tokens = memory._sinks(moments.told[:1], moments.state[:1])
    found = [([], []) for _ in range(length)]
    for number, block in enumerate(memory.blocks):
        q, k, v = block.ask(xs)
        rows = []
        for t in range(length):
            oldest = max(0, numbers[t] - config.window)
            present = numbers[t] - oldest + 1 if config.contiguous else numbers[t] + 1
            base = q[t] if prefix.rotary is None else prefix.rotary.turn(q)[t]
            scores = [base @ prefix.keys[number][t].mT + prefix.bias[t, 0]]
            values = [prefix.values[number][t]]
            if config.sinks:
                scores.append(rotated(q[t], present) @ sink_tokens.keys[number][0].mT)
                values.append(sink_tokens.values[number][0])
            for other in range(t + 1):
                if numbers[other] < oldest:
                    continue
                rank, mine = numbers[other] - oldest + 1, numbers[t] - oldest + 1
                scores.append(rotated(q[t], mine) @ rotated(k[other], rank).mT)
                values.append(v[other])
                if other < t and numbers[t] - numbers[other] <= config.vision_window:
                    old = prefix.keys[number][other][:, :VISION]
                    scores.append(rotated(base, mine) @ rotated(old, rank).mT)
                    values.append(prefix.values[number][other][:, :VISION])
            rows.append(torch.cat(scores, -1).softmax(-1) @ torch.cat(values, -2))
            found[t][0].append(k[t : t + 1])
            found[t][1].append(v[t : t + 1])
        xs = block.go_on(xs, torch.stack(rows))
    for t, (k, v) in enumerate(zip(*memory.last(xs), strict=True)):
        found[t][0].append(k[None])
        found[t][1].append(v[None])
    return [Compact(tuple(keys), tuple(values), xs[:0]) for keys, values in found]


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_a_stream_with_eviction_is_one_pass_over_its_whole_history(changes, rotary):
    """`clip` and `read` give what the mask of sinks and windows says, with positions by rank."""
    memory = a_memory(**changes)
    prefix, moments = a_history(11, batch=1, rotary=rotary)
    expected = plainly(memory, prefix, moments)
    clip = memory.clip(prefix, moments, 11)
    for t, compact in enumerate(streamed(memory, prefix, moments, 11)):
        assert_same(compact, expected[t])
        assert_same(of_time(clip, t, 11), expected[t])


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_a_clip_whose_numbers_jump_leaves_out_what_is_between(changes, rotary):
    """Distances, ranks and eviction are those of the numbers, in each history its own; also where
    it goes step by step."""
    memory = a_memory(**changes)
    prefix, moments = a_history(6, rotary=rotary)
    numbers = ([0, 1, 3, 4, 5, 6], [0, 4, 5, 6, 7, 8])
    joined = torch.tensor(numbers).flatten()
    clip = memory.clip(prefix, moments, 6, joined)
    sinks = memory._sinks(moments.told[::6], moments.state[::6])
    past = Unrolled(memory.config, sinks, joined.unflatten(0, (2, 6)))
    steps = memory._step_by_step(prefix, moments, 6, past)
    for history, said in enumerate(numbers):
        rows = slice(6 * history, 6 * history + 6)
        expected = plainly(memory, *some(prefix, moments, rows), said)
        for t in range(6):
            for found in (clip, steps):
                assert_same(of_time(found, 6 * history + t, 12), expected[t])


def test_without_eviction_it_is_full_attention():
    """A window that nothing leaves gives what one pass without a window gives."""
    prefix, moments = a_history(9)
    full = a_memory(window=1000).clip(prefix, moments, 9)
    for t, compact in enumerate(streamed(a_memory(window=9), prefix, moments, 9)):
        assert_same(compact, of_time(full, t, 9))


def test_what_left_the_window_can_still_have_been_passed_on():
    """The first observation changes the last one's tokens by way of those between them, and not
    beyond one window a layer."""
    memory = a_memory(window=2, sinks=False)
    prefix, moments = a_history(8, batch=1)
    values = tuple(each.clone() for each in prefix.values)
    for each in values:
        each[0] += 1.0
    other = PrefixCache(prefix.keys, values, prefix.bias, None, VISION)
    one, two = (memory.clip(each, moments, 8) for each in (prefix, other))
    deepest = [(a - b).abs().amax((1, 2, 3)) for a, b in zip(one.keys, two.keys, strict=True)]
    reach = [int((change > 0).nonzero().max()) if change.any() else -1 for change in deepest]
    assert reach == [-1, 0, 2]  # keys of a layer come before it attends


def test_histories_of_a_batch_do_not_meet():
    """Each history's tokens are those it has alone."""
    memory = a_memory(vision_window=2)
    prefix, moments = a_history(6, batch=3)
    together = memory.clip(prefix, moments, 6)
    for number in range(3):
        rows = slice(6 * number, 6 * number + 6)
        alone = memory.clip(prefix.rows(rows), moments.at(rows), 6)
        keys, values = (tuple(x[rows] for x in of) for of in (together.keys, together.values))
        assert_same(Compact(keys, values, together.carried[rows]), alone)


@pytest.mark.parametrize("changes", [{"window": 0}, {}, {"window": 2, "vision_window": 2}])
def test_a_recurrent_memory_is_a_clip_and_a_stream_alike(changes):
    """Step by step through a clip, the tokens are those of a stream."""
    memory = a_memory(recurrent=True, **changes)
    prefix, moments = a_history(7)
    clip = memory.clip(prefix, moments, 7)
    for t, compact in enumerate(streamed(memory, prefix, moments, 7)):
        assert_same(compact, of_time(clip, t, 7))


def test_what_is_carried_is_all_the_past_of_a_window_of_none():
    """Changing the first observation changes the last tokens of a recurrent memory, and not those
    of one that is not."""
    prefix, moments = a_history(6, batch=1)
    other = replace(moments, command=moments.command + torch.eye(6)[:, :1])
    for recurrent in (True, False):
        memory = a_memory(window=0, sinks=False, recurrent=recurrent)
        one, two = (memory.clip(prefix, each, 6).keys[-1][-1] for each in (moments, other))
        assert torch.equal(one, two) != recurrent


def test_going_through_a_clip_step_by_step_is_one_pass():
    """What training of a recurrent memory does gives, of another, what one pass gives."""
    memory = a_memory(window=3, vision_window=1)
    prefix, moments = a_history(8)
    sinks = memory._sinks(moments.told[::8], moments.state[::8])
    past = Unrolled(memory.config, sinks, torch.arange(8).expand(2, -1))
    steps = memory._step_by_step(prefix, moments, 8, past)
    assert_same(steps, memory.clip(prefix, moments, 8))


def test_a_clip_longer_than_the_window_never_overruns_the_budget():
    """However much enters, the memory has the bytes that it had when it was empty, plus a state."""
    memory = a_memory(window=3, vision_window=1)
    prefix, moments = a_history(20)
    kept = memory.begin(*some(prefix, moments, slice(0, None, 20)))
    empty = kept.nbytes
    for t in range(20):
        now = some(prefix, moments, slice(t, None, 20))
        kept.enter(memory.read(kept, *now), *now)
        assert kept.nbytes == empty + kept.first_state.nbytes
        assert kept.observations == min(t + 1, 3)
    a_token = 2 * SIZE.layers * 2 * SIZE.heads * SIZE.head_dim * 4
    assert empty == a_token * (3 * memory.config.tokens + VISION + SINKS)


def test_looking_leaves_the_memory_as_it_was():
    """What is read and not entered, such as a context of predicted tokens, changes nothing."""
    memory = a_memory(vision_window=1)
    prefix, moments = a_history(5, batch=1)
    kept = memory.begin(*some(prefix, moments, slice(1)))
    kept.enter(
        memory.read(kept, *some(prefix, moments, slice(1))), *some(prefix, moments, slice(1))
    )
    before = kept.snapshot()
    memory.read(kept, *some(prefix, moments, slice(3, 4)))
    after = kept.snapshot()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_snapshot_goes_on_as_the_stream_it_was_taken_of():
    """A memory restored from it, in another process too, reads what the first one reads."""
    memory = a_memory(vision_window=2)
    prefix, moments = a_history(9, batch=1)
    kept = memory.begin(*some(prefix, moments, slice(1)))
    for t in range(6):
        kept.enter(
            memory.read(kept, *some(prefix, moments, slice(t, t + 1))),
            *some(prefix, moments, slice(t, t + 1)),
        )
    other = Kept(memory.config, SIZE, VISION, moments.state[:1])
    other.restore(kept.snapshot())
    for t in range(6, 9):
        now = some(prefix, moments, slice(t, t + 1))
        one, two = memory.read(kept, *now), memory.read(other, *now)
        assert_same(one, two, rtol=0, atol=0)
        kept.enter(one, *now)
        other.enter(two, *now)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window": 5}, "compact is"),
        ({"window": 2, "summaries": 6}, "carried is"),
        ({"vision_window": 0}, "vision is"),
        ({"width": 24}, "carried is"),
        ({"recurrent": False}, "carried is"),
        ({"stored": "float16"}, "float32"),
    ],
)
def test_a_snapshot_of_another_memory_is_refused(changes, said):
    """With a line that says both, and the memory stays as it was; as many bytes in all are not
    enough."""
    given = {"window": 4, "vision_window": 1, "recurrent": True}
    prefix, moments = a_history(3, batch=1)
    first = some(prefix, moments, slice(1))
    memory = a_memory(**given)
    found = memory.begin(*first)
    found.enter(memory.read(found, *first), *first)
    other = a_memory(**{**given, **changes})
    kept = other.begin(*first)
    kept.enter(other.read(kept, *first), *first)
    before = kept.snapshot()
    with pytest.raises(ConfigError, match=said):
        kept.restore(found.snapshot())
    after = kept.snapshot()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_snapshot_that_is_not_whole_is_refused():
    """Whatever is missing, in one line that names it, and the memory stays as it was."""
    memory = a_memory(recurrent=True, vision_window=1)
    prefix, moments = a_history(2, batch=1)
    kept = memory.begin(*some(prefix, moments, slice(1)))
    kept.enter(*_one(memory, kept, prefix, moments, 0))
    whole = kept.snapshot()
    kept.enter(*_one(memory, kept, prefix, moments, 1))
    for name in whole:
        rest = {other: tensor for other, tensor in whole.items() if other != name}
        with pytest.raises(ConfigError, match=f"{name} is missing"):
            kept.restore(rest)
        assert kept.entered == 2


def _one(memory: Memory, kept: Kept, prefix: PrefixCache, moments: Moment, t: int):
    now = some(prefix, moments, slice(t, t + 1))
    return memory.read(kept, *now), *now


def test_what_float16_cannot_hold_is_kept_as_its_largest():
    """Keys of 10⁶ leave finite tokens; as infinities the next ones would not be numbers."""
    memory = a_memory(stored="float16", vision_window=1)
    prefix, moments = a_history(2, batch=1)
    large = replace(prefix, keys=tuple(1e6 * each for each in prefix.keys))
    kept = memory.begin(*some(prefix, moments, slice(1)))
    compact = memory.read(kept, *some(prefix, moments, slice(1)))
    kept.enter(compact, large.rows(slice(1)), moments.at(slice(1)))
    found = memory.read(kept, *some(prefix, moments, slice(1, 2)))
    assert all(each.isfinite().all() for each in found.keys)


def test_all_that_a_snapshot_holds_is_counted():
    """The bytes that are stated are those of the tensors in it, but for its numbers."""
    for changes in ({}, {"recurrent": True}, {"vision_window": 2}):
        memory = a_memory(**changes)
        prefix, moments = a_history(1, batch=2)
        kept = memory.begin(prefix, moments)
        kept.enter(memory.read(kept, prefix, moments), prefix, moments)
        held = sum(tensor.nbytes for tensor in kept.snapshot().values() if tensor.dim())
        assert kept.nbytes == held


def test_another_instruction_replaces_the_sink_and_nothing_else():
    """As if the stream had been told so from the beginning, in what is read from sinks; the window
    keeps what it has."""
    memory = a_memory()
    prefix, moments = a_history(4, batch=1)
    kept = memory.begin(*some(prefix, moments, slice(1)))
    kept.enter(
        memory.read(kept, *some(prefix, moments, slice(1))), *some(prefix, moments, slice(1))
    )
    before = kept.snapshot()
    told = torch.ones(1, SIZE.told_width)
    memory.instruct(kept, told)
    after = kept.snapshot()
    assert torch.equal(before["compact"], after["compact"])
    fresh = memory.begin(
        some(prefix, moments, slice(1))[0],
        Moment(told, moments.state[:1], moments.command[:1], told[:, 0]),
    )
    torch.testing.assert_close(after["sinks"], fresh.snapshot()["sinks"])


def test_half_precision_halves_the_bytes_and_keeps_three_digits():
    """What is stored as float16 gives the same tokens to 1 %."""
    prefix, moments = a_history(8)
    exact, half = (a_memory(stored=stored) for stored in ("float32", "float16"))
    pairs = zip(
        streamed(exact, prefix, moments, 8), streamed(half, prefix, moments, 8), strict=True
    )
    for one, other in pairs:
        assert_same(other, one, rtol=1e-2, atol=1e-2)
    now = some(prefix, moments, slice(0, None, 8))
    assert half.begin(*now).nbytes * 2 == exact.begin(*now).nbytes


def test_the_prefix_the_expert_reads_begins_as_without_memory():
    """To the last bit; compact tokens follow."""
    memory = a_memory()
    prefix, moments = a_history(3, batch=1)
    longer = memory.appended(prefix, memory.clip(prefix, moments, 3))
    for name in ("keys", "values"):
        for old, new in zip(getattr(prefix, name), getattr(longer, name), strict=True):
            assert torch.equal(old, new[:, :, :PREFIX])
        assert all(each.mT.is_contiguous() for each in longer.keys)  # as `PrefixCache` says
        assert all(each.is_contiguous() for each in longer.values)
    assert longer.vision == VISION
    assert longer.tokens == PREFIX + memory.config.tokens


def test_too_few_layers_are_refused():
    """With two, nothing that was seen before could reach the expert."""
    with pytest.raises(ConfigError, match="at least 3"):
        Memory(MemoryConfig(), replace(SIZE, layers=2))


def test_heads_of_an_odd_size_are_refused():
    """Rotation needs pairs of dimensions."""
    with pytest.raises(ConfigError, match="even"):
        Memory(MemoryConfig(), replace(SIZE, head_dim=7))


@pytest.mark.parametrize(
    "changes", [{"summaries": 0}, {"window": -1}, {"vision_window": 5}, {"stored": "int8"}]
)
def test_sizes_that_cannot_be_are_refused(changes):
    """One line, before anything is allocated."""
    with pytest.raises(ConfigError, match=r"expected|use one of"):
        MemoryConfig(**{"window": 4, **changes})


def test_a_snapshot_of_as_many_tokens_in_another_window_is_refused():
    """Two observations of eight tokens are not four of four."""
    prefix, moments = a_history(1, batch=1)
    one, other = a_memory(window=4, summaries=2), a_memory(window=2, summaries=6)
    with pytest.raises(ConfigError, match="window is 4, this memory's is 2"):
        other.begin(prefix, moments).restore(one.begin(prefix, moments).snapshot())
