"""What a generation costs with each method: same backbone, same machine, one run.

Models have their default size and random weights: times do not depend on what was learned. The
methods take turns generation by generation, so a disturbance hits all of them alike.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import SystemClock
from streamvla.core.interfaces import FlowStart, Observation, PolicySpec
from streamvla.model.methods import METHODS, Method
from streamvla.model.normalisation import Normalisation
from streamvla.model.vla import StreamingVLA, VLAConfig, parameter_count
from streamvla.policy import ModelPolicy, make_policy

_SPACE = ActionSpace(
    ("dx", "dy", "dz", "gripper"), ("delta", "delta", "delta", "absolute"), (-1.0,) * 4, (1.0,) * 4
)
_CONFIG = VLAConfig(action_dim=4, state_dim=4)
_PERIOD_NS = 50_000_000
_WARM_UP = 3


def measure_policies(generations: int, threads: int) -> dict[str, dict[str, float]]:
    """Method → figures; times are from an encoded context on, `encode` apart.

    "first_action" is what a robot waits for; "action" is a whole generation over H.
    """
    torch.set_num_threads(threads)
    policies = {name: _policy(kind()) for name, kind in METHODS.items()}
    times: dict[str, list[tuple[int, int, int]]] = {name: [] for name in policies}
    for number in range(_WARM_UP + generations):
        for name, policy in policies.items():
            measured = _generation_ns(policy)
            if number >= _WARM_UP:
                times[name].append(measured)
    return {name: _figures(policy, times[name]) for name, policy in policies.items()}


def _policy(method: Method) -> ModelPolicy:
    spec = PolicySpec(
        _SPACE,
        method.horizon,
        ("one", "two"),
        _CONFIG.image_size,
        _CONFIG.state_dim,
        _PERIOD_NS,
        method.chunk_passes,
    )
    scale = Normalisation((0.0,) * 4, (1.0,) * 4, (1.0,) * 4)
    return make_policy(StreamingVLA(_CONFIG, method), spec, method, scale)


def _observation() -> Observation:
    images = {view: np.full((*_CONFIG.image_size, 3), 100, np.uint8) for view in ("one", "two")}
    return Observation(images, np.zeros(4, np.float32), np.zeros(4), "push the red button", 0)


def _generation_ns(policy: ModelPolicy) -> tuple[int, int, int]:
    """Time to encode; from there to the first action; and to the last."""
    clock, observation = SystemClock(), _observation()
    begin_ns = clock.now_ns()
    context = policy.encode(observation)
    encoded_ns = clock.now_ns()
    actions = policy.generate(context, FlowStart(np.zeros(4)))
    next(actions)
    first_ns = clock.now_ns()
    for _ in actions:
        pass
    return encoded_ns - begin_ns, first_ns - encoded_ns, clock.now_ns() - encoded_ns


def _figures(policy: ModelPolicy, times: list[tuple[int, int, int]]) -> dict[str, float]:
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
    context = policy.encode(_observation())
    with FlopCounterMode(display=False) as counter:
        for _ in policy.generate(context, FlowStart(np.zeros(4))):
            pass
    return counter.get_total_flops()
