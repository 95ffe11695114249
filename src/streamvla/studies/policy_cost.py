"""`streamvla bench policy`: what actions cost with each method; one backbone, machine and run.

The policies are those that ship. They take turns generation by generation, so a disturbance hits
all of them alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamvla.core.clock import SystemClock
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Observation, PolicySpec
from streamvla.core.provenance import machine
from streamvla.studies.tables import figure, print_json, print_table

if TYPE_CHECKING:
    from streamvla.policy import ModelPolicy

_WARM_UP = 3


@dataclass(frozen=True)
class BenchPolicy:
    """Measure how soon the first action comes, and what each costs, method beside method.

    Attributes:
        generations: timed, of each method.
        threads: of PyTorch.
        json: print the figures as one JSON object on the last line.
    """

    generations: int = 100
    threads: int = 1
    json: bool = False

    def __post_init__(self) -> None:
        if self.generations < 1 or self.threads < 1:
            raise ConfigError(
                f"generations {self.generations} and threads {self.threads} must be at least 1"
            )


def bench_policy(command: BenchPolicy) -> None:
    """Run the command and print its figures."""
    methods = measure_policies(command.generations, command.threads)
    rows = [
        (name, *(figure(each[name], 0 if name == "parameters" else 3) for each in methods.values()))
        for name in next(iter(methods.values()))
    ]
    print_table(f"Policies on {machine()['cpu']}", ("figure", *methods), rows)
    flow, chunk = methods["action-flow"], methods["chunk-flow"]
    sooner = chunk["first_action_p50_ms"] / flow["first_action_p50_ms"]
    print(f"Action flow gives its first action {sooner:.1f} times sooner than chunk flow.")
    if command.json:
        print_json(
            {
                "command": "bench policy",
                "machine": machine(),
                "threads": command.threads,
                "generations": command.generations,
                "methods": methods,
                "first_action_ratio": sooner,
                "action_flop_ratio": chunk["action_mflop"] / flow["action_mflop"],
            }
        )


def measure_policies(generations: int, threads: int) -> dict[str, dict[str, float]]:
    """Method → figures; times are from an encoded context on, `encode` apart.

    "first_action" is what a robot waits for; "action" is a whole generation over H.
    """
    import torch

    from streamvla.model.methods.registry import METHODS
    from streamvla.policy import load_policy, resolve_checkpoint

    torch.set_num_threads(threads)
    policies = {name: load_policy(resolve_checkpoint(None, name)) for name in METHODS.names()}
    times: dict[str, list[tuple[int, int, int]]] = {name: [] for name in policies}
    for number in range(_WARM_UP + generations):
        for name, policy in policies.items():
            measured = _generation_ns(policy)
            if number >= _WARM_UP:
                times[name].append(measured)
    return {name: _figures(policy, times[name]) for name, policy in policies.items()}


def _observation(spec: PolicySpec) -> Observation:
    images = {view: np.full((*spec.image_size, 3), 100, np.uint8) for view in spec.views}
    state = np.zeros(spec.state_dim, np.float32)
    return Observation(images, state, np.zeros(spec.action_space.dim), "push the red button", 0)


def _generation_ns(policy: ModelPolicy) -> tuple[int, int, int]:
    """Time to encode; from there to the first action; and to the last."""
    clock, observation = SystemClock(), _observation(policy.spec)
    begin_ns = clock.now_ns()
    context = policy.encode(observation)
    encoded_ns = clock.now_ns()
    actions = policy.generate(context, FlowStart(observation.action_state))
    next(actions)
    first_ns = clock.now_ns()
    for _ in actions:
        pass
    return encoded_ns - begin_ns, first_ns - encoded_ns, clock.now_ns() - encoded_ns


def _figures(policy: ModelPolicy, times: list[tuple[int, int, int]]) -> dict[str, float]:
    from streamvla.model.vla import parameter_count

    encode, first, last = np.array(times).T / 1e6
    horizon = policy.spec.horizon
    return {
        "parameters": float(parameter_count(policy.model)),
        "encode_p50_ms": float(np.median(encode)),
        "first_action_p50_ms": float(np.median(first)),
        "first_action_p99_ms": float(np.percentile(first, 99)),
        "action_p50_ms": float(np.median(last)) / horizon,
        "action_mflop": _generation_flop(policy) / horizon / 1e6,
    }


def _generation_flop(policy: ModelPolicy) -> int:
    """Floating-point operations of one generation's matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    observation = _observation(policy.spec)
    context = policy.encode(observation)
    with FlopCounterMode(display=False) as counter:
        for _ in policy.generate(context, FlowStart(observation.action_state)):
            pass
    return counter.get_total_flops()
