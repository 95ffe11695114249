"""What observations cost, beside each other: who is measured when, and what becomes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.data.experts import for_task
from streamvla.evaluation.results import read_results
from streamvla.policy.sources import find_policy
from streamvla.studies.cost_recipes import CHEAPER, COSTS
from streamvla.studies.entries import parse_entry
from streamvla.studies.observation_cost import (
    BenchObservation,
    Measured,
    Recorded,
    figures_of,
    measure,
)
from streamvla.studies.recording import Seen

RESULTS = Path(__file__).parents[2] / "docs/results"


@dataclass
class Logging:
    """Says on a list shared with others that it encodes, and what."""

    name: str
    log: list[tuple[str, int]]
    spec: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(counts=True, remembers=True, settings={})
    )

    def begin(self):
        self.log.append((self.name, -1))

    def encode(self, observation):
        self.log.append((self.name, observation))
        return observation

    def cost(self, made):
        return ObservationCost(encodes=made)


def test_variants_take_turns_on_every_observation():
    """Every variant begins the episode anew and sees each observation before any sees the next; who
    is first changes, and the first round gives costs but no times."""
    log = []
    variants = {name: Logging(name, log) for name in "ab"}
    found = measure(variants, [Recorded("moving", "point", tuple(map(Seen, range(3))))], rounds=1)
    first = [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    second = [("a", -1), ("b", -1), ("b", 0), ("a", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2)]
    assert log == first + second
    for (measured,) in found.values():
        assert measured.times.shape == (3, 3)
        assert [cost.encodes for cost in measured.costs] == [0, 1, 2]


def taken(look, context, flops=10):
    """Of one episode with one observation a time."""
    times = np.array([(a, b, a + b) for a, b in zip(look, context, strict=True)])
    return Measured(times * 1e6, (ObservationCost(encodes=2, look_flops=flops),) * len(look))


def test_figures_are_ratios_to_the_first_variant():
    """Of all time, of the look and of the context, over the same episodes; a variant that is not
    measured in parts has one ratio, and scenes have rows of their own."""
    recorded = [Recorded(scene, "point", ()) for scene in ("moving", "still", "moving")]
    whole = [taken([4, 4], [6, 6]), taken([4], [6]), taken([4], [6])]
    less = [taken([2, 2], [3, 3], 5), taken([1], [6], 1), taken([2], [3], 5)]
    apart = [
        Measured(np.full((len(each.times), 3), [math.nan, math.nan, 1e6]), each.costs)
        for each in whole
    ]
    rows = figures_of(recorded, {"whole": whole, "less": less, "apart": apart})
    assert [(row["scene"], row["run"]) for row in rows[:4]] == [
        *(("moving", name) for name in ("whole", "less", "apart")),
        ("still", "whole"),
    ]
    _, moving, unparted, _, still, _ = rows
    assert (moving["ratio"], moving["ratio_ci"]) == (0.5, [0.5, 0.5])
    assert (moving["observations"], moving["episodes"]) == (3, 2)
    assert still["ratio_ci"] is None  # of one episode
    assert (still["look_ratio"], still["context_ratio"], still["ratio"]) == (0.25, 1.0, 0.7)
    assert (moving["encoder_saved"], still["encoder_saved"]) == (0.5, 0.9)
    assert moving["ms_p50"] == 5.0
    assert unparted["ratio"] == pytest.approx(0.1)
    assert unparted["look_ratio"] is unparted["look_ratio_ci"] is None


def test_seeds_of_demonstrations_are_refused():
    """As `eval` refuses them."""
    with pytest.raises(ConfigError, match="seed 999999: evaluation seeds start at 1000000"):
        BenchObservation(seed=999_999)


@pytest.mark.parametrize("name", ["cheaper-observation", "cheaper-reaction"])
def test_the_recipes_state_the_costs_that_they_name(name):
    """Every executor drives the expert on whole frames first, and then at each cost of `CHEAPER`,
    in this order; their rows say which is which."""
    recipe = COSTS[name]
    for executor, command in recipe.commands.items():
        texts = command.partition("--executors ")[2].partition(" --")[0].split()
        sources = [str(parse_entry(text).policy) for text in texts]
        policies = [find_policy(for_task(source, "point")).load({}) for source in sources]
        shares = [tuple(policy.spec.settings.values()) for policy in policies]
        assert shares == [(), *CHEAPER.values()]
        cells = [{"profile": "p", "policy": source} for source in sources]
        rows = recipe.rows(executor, {"overall": cells})
        costs = ["whole frames", *CHEAPER]
        assert [row["run"] for row in rows] == [f"p, {executor}, {cost}" for cost in costs]


def test_the_measured_cost_is_the_published_one():
    """What the loop's tables assume of crops with half of the tokens is what observation-cost.json
    says of them."""
    name = "crops, half of the tokens"
    measured = read_results(RESULTS / "observation-cost.json")
    (row,) = (each for each in measured.rows if each["run"] == f"{name}, moving robot")
    found = round(row["look_ratio"], 2), round(row["context_ratio"], 2)
    assert found == CHEAPER[name]
