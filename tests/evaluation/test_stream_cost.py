"""What a stream costs: slopes, and the commands' figures on a short one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamvla.core.errors import ConfigError
from streamvla.evaluation.stats import slope_interval
from streamvla.model.past import MemoryConfig
from streamvla.policy import ModelPolicy, load_policy
from streamvla.policy.shipped import resolve_checkpoint
from streamvla.studies.stream_cost import (
    BLOCKS,
    BenchStream,
    _per_1000,
    _with_memory,
    compare_streams,
    measure_stream,
)
from tests.policy.test_action_flow import make_observation
from tests.policy.test_stream import remembering_policy


@pytest.mark.parametrize("slope", [0.0, 3.0])
def test_an_interval_holds_the_slope_as_often_as_it_says(slope):
    """Of 400 lines with normal errors, 95 % and at most 3 % more or less."""
    stream, x = np.random.default_rng(0), np.arange(BLOCKS)
    held = 0
    for _ in range(400):
        _, low, high = slope_interval(x, slope * x + stream.normal(size=BLOCKS))
        held += low <= slope <= high
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_points_at_one_place_have_no_slope():
    """Nor have five points."""
    for x in ([1.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0]):
        with pytest.raises(ConfigError, match="at least six points"):
            slope_interval(x, x)


def test_an_interval_of_few_points_is_as_wide_as_students_t_says():
    """Of six points, four degrees of freedom: 2.776 standard errors, not 1.960."""
    x = np.arange(6.0)
    y = np.array([0.3, -0.2, 0.5, 0.1, -0.4, 0.2])
    slope, low, high = slope_interval(x, y)
    rest = y - np.polyval(np.polyfit(x, y, 1), x)
    error = np.sqrt((rest @ rest) / 4 / ((x - x.mean()) ** 2).sum())
    assert (high - slope) / error == pytest.approx(2.776, rel=0.01)
    assert slope - low == pytest.approx(high - slope)


def test_a_growth_is_found_in_noise():
    """5 µs more each thousand observations, of 10 ms with an outlier now and then."""
    stream = np.random.default_rng(1)
    times = 10_000 + 5 * np.arange(20_000) / 1000 + stream.normal(size=20_000)
    times[::100] *= 3
    slope, (low, high) = _per_1000(times)
    assert low < 5 < high
    assert slope == pytest.approx(5, abs=0.2)


def test_a_stream_is_measured_beside_the_policy_without_memory():
    """Every figure is finite, and the bytes are those that are kept."""
    policy = remembering_policy()
    plain = _with_memory(policy, None)
    seen = [make_observation(number) for number in range(4)]
    figures = measure_stream(policy, plain, seen, 10 * BLOCKS)
    assert figures["memory_bytes"] == policy.stream.kept.nbytes
    assert policy.stream.kept.entered > 10 * BLOCKS
    assert all(np.isfinite(value).all() for value in figures.values())


def test_of_a_full_history_bytes_grow_and_of_a_memory_they_do_not():
    """From the length of its window on; a comparison ends at the longest stream."""
    policy = remembering_policy()
    seen = [replace(make_observation(number), captured_ns=number) for number in range(4)]
    rows = compare_streams(policy, seen, 100, slowest_s=60.0)
    kept = {
        kind: {row["before"]: row["bytes"] for row in rows if row["kind"] == kind}
        for kind in ("memory", "full history", "window, anew")
    }
    assert kept["memory"][10] == kept["memory"][100]
    assert kept["full history"][100] > 5 * kept["full history"][10]
    assert kept["window, anew"][10] == kept["window, anew"][100]
    slow = compare_streams(policy, seen, 100, slowest_s=1e-9)
    assert {row["before"] for row in slow} == {1}


def test_a_policy_without_memory_gets_one_and_acts_as_before_without():
    """Its weights stay; taken away again, the contexts are those it had."""
    policy = load_policy(resolve_checkpoint(None))
    with_memory = _with_memory(policy, MemoryConfig(window=3))
    again = _with_memory(with_memory, None)
    assert type(again) is ModelPolicy
    spec = policy.spec
    images = {view: np.full((*spec.image_size, 3), 90, np.uint8) for view in spec.views}
    seen = replace(make_observation(), images=images, state=np.zeros(4, np.float32))
    seen = replace(seen, action_state=np.zeros(4))
    one, other = policy.encode(seen).prefix, again.encode(seen).prefix
    assert all(np.array_equal(a, b) for a, b in zip(one.keys, other.keys, strict=True))


def test_a_memory_that_is_given_leaves_words_clarity_and_phrases():
    """The policy without memory and the one with it read instructions alike."""
    policy = load_policy(resolve_checkpoint(None), settings={"nearest_phrase": None})
    given = _with_memory(policy, MemoryConfig(window=3))
    assert given.spec.vocabulary == policy.spec.vocabulary
    assert given.phrases is policy.phrases
    assert given.clarity("press the red button") == policy.clarity("press the red button")


def test_a_stream_shorter_than_the_vision_window_is_compared():
    """And a full history is kept in the type of the memory."""
    sizes = MemoryConfig(summaries=2, window=8, vision_window=6, width=16, stored="float16")
    policy = _with_memory(remembering_policy(), sizes)
    seen = [make_observation(number) for number in range(4)]
    rows = compare_streams(policy, seen, 3, slowest_s=60.0)
    kept = {(row["kind"], row["before"]): row["bytes"] for row in rows}
    assert kept["full history", 3] == kept["memory", 3]


def test_too_short_a_stream_is_refused():
    """A slope needs parts with several observations each."""
    with pytest.raises(ConfigError, match="at least 200"):
        BenchStream(observations=20)
