"""What the policies of all methods share: observation → context, and who may ask for what."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from streamvla.core.errors import ConfigError, SpecMismatchError
from streamvla.core.interfaces import (
    NO_ANTICIPATION,
    Anticipation,
    FlowStart,
    Observation,
    PolicySpec,
)
from streamvla.model.clarity import Clarity
from streamvla.model.interface import Model
from streamvla.model.methods.base import Context, Method, Units
from streamvla.model.normalisation import Normalisation
from streamvla.model.saliency import Calibration, SaliencyPredictor, saliency_of
from streamvla.policy.transforms import (
    check_observation,
    flow_origin,
    pixels_to_float,
    stack_pixels,
)


@dataclass(frozen=True, slots=True)
class Sight:
    """b observations before they become contexts.

    Attributes:
        seen: (b, v, l, w) vision tokens.
        words, state, command: the rest of what the context is made of.
        captured, origin, seeds: as in `Context`.
    """

    seen: torch.Tensor
    words: torch.Tensor
    state: torch.Tensor
    command: torch.Tensor
    captured: np.ndarray
    origin: np.ndarray
    seeds: tuple[int, ...]


class ModelPolicy:
    """`Policy` with a model behind it; its method reads actions from a context (`Method.reader`).

    With a saliency predictor (`attach`) it is an `AnticipatingPolicy` too, and with a `Clarity` an
    `UnderstandingPolicy`.

    Attributes:
        predictor: of what a motion changes; None: it does not anticipate.
    """

    def __init__(
        self,
        model: Model,
        spec: PolicySpec,
        method: Method,
        normalisation: Normalisation,
        device: torch.device | str = "cpu",
        clarity: Clarity | None = None,
    ) -> None:
        if (spec.horizon, spec.chunk_passes) != (method.horizon, method.chunk_passes):
            raise ConfigError(
                f"policy horizon {spec.horizon} and chunk passes {spec.chunk_passes} are not those "
                f"of its method {method.name}: {method.horizon} and {method.chunk_passes}"
            )
        self.spec: PolicySpec = replace(
            spec,
            settings=method.settings,
            vocabulary=model.vocabulary,
            unclear_up_to=None if clarity is None else clarity.threshold,
        )
        self._clarity = clarity
        self._clarities: dict[str, float] = {}  # of the latest instruction
        self.method = method
        self.normalisation = normalisation
        self.device: Final = torch.device(device)
        self.model: Model = model.to(self.device).eval()
        units = Units(spec.action_space, normalisation, self.device)
        self._read = method.reader(self.model.expert, units)
        self.predictor: SaliencyPredictor | None = None

    def attach(self, predictor: SaliencyPredictor, calibration: Calibration | None = None) -> None:
        """Anticipate with this predictor from now on; its gate is `calibration`'s, up to its
        `longest_lead`.

        Raises:
            ConfigError: it was made for other views or actions.
        """
        found = (predictor.config.views, predictor.config.action_dim)
        expected = (len(self.spec.views), self.spec.action_space.dim)
        if found != expected:
            raise ConfigError(
                f"a saliency predictor for {found[0]} views and {found[1]} action dimensions; the "
                f"policy has {expected[0]} and {expected[1]}. Train one for this policy."
            )
        self.predictor = predictor.to(self.device).eval()
        self.spec = replace(self.spec, anticipates=True)
        if calibration is not None:
            self.spec = replace(
                self.spec,
                thresholds=calibration.threshold,
                longest_lead=calibration.longest_lead,
            )

    def clarity(self, instruction: str) -> float:
        """How clear an instruction is: 0 to 1, and unclear up to `spec.unclear_up_to`.

        Raises:
            ConfigError: the policy's file has no `Clarity`.
        """
        if self._clarity is None:
            raise ConfigError(
                "the policy cannot tell how clear an instruction is: its file has no clarity "
                "(streamvla.model.clarity), which the policies that ship have"
            )
        if instruction not in self._clarities:
            self._clarities = {instruction: self._clarity.of(instruction)}
        return self._clarities[instruction]

    def sight_digest(self) -> str:
        """What tells its tokens from those of another policy: SHA-256 of all that `look` is made
        of, and of the scale of motions. Policies on one frozen backbone have the same."""
        digest = hashlib.sha256(repr((self.spec.views, self.normalisation.action_scale)).encode())
        for module in self.model.seeing_modules():
            for name, values in sorted(module.state_dict().items()):
                digest.update(name.encode())
                digest.update(values.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def encode(self, observation: Observation) -> Context:
        """The context of one observation.

        Raises:
            SpecMismatchError: a view, size, type or dimension the policy was not trained for, or
                proprioception that is not finite.
        """
        return self.encode_batch([observation])

    def generate(self, context: Context, start: FlowStart) -> Iterator[np.ndarray]:
        """Yield `H − start.index` actions (d,) float64, robot units.

        Not-finite values from the model are passed on: the runtime's governor stops them.
        """
        starts = start.action_state[None]
        for actions in self.generate_batch(context, starts, start.index, start.age):
            yield actions[0]

    def look(self, observation: Observation) -> Sight:
        """What the cameras of one observation show, as tokens (errors as for `encode`)."""
        return self.look_batch([observation])

    def anticipate(self, sight: Sight, motions: np.ndarray) -> Anticipation:
        """What each of (m, d) motions, robot units, would change in the sight of one observation.

        Raises:
            ConfigError: no predictor is attached.
        """
        many = replace(sight, seen=sight.seen.expand(len(motions), -1, -1, -1))
        saliency, changes = self.anticipate_batch(many, motions)
        return Anticipation(saliency, list(changes.unsqueeze(1)))

    def anticipate_batch(
        self, sight: Sight, motions: np.ndarray
    ) -> tuple[np.ndarray, torch.Tensor]:
        """What (b, d) motions would change in b sights: (b, v) saliency, (b, v, l, w) changes."""
        if self.predictor is None:
            raise ConfigError(NO_ANTICIPATION)
        with torch.inference_mode():
            motion = self._tensor(self.normalisation.normalise_action_state(motions))
            changes = self.predictor(sight.seen, motion)
            return saliency_of(changes).double().cpu().numpy(), changes

    def contextualise(self, sight: Sight, change: torch.Tensor | None = None) -> Context:
        """The context of a sight, or of what it will be after a change (b, v, l, w)."""
        with torch.inference_mode():
            seen = sight.seen if change is None else sight.seen + change
            prefix = self.model.contextualise(seen, sight.words, sight.state, sight.command)
        return Context(prefix, sight.captured, sight.origin, sight.seeds)

    def encode_batch(self, observations: Sequence[Observation]) -> Context:
        """The context of b observations in one pass (several simulated episodes at once)."""
        return self.contextualise(self.look_batch(observations))

    def look_batch(self, observations: Sequence[Observation]) -> Sight:
        """What the cameras of b observations show, as tokens."""
        for observation in observations:
            check_observation(observation, self.spec)
        captured = np.stack([each.action_state for each in observations])  # (b, d)
        origin = flow_origin(self.spec.action_space, captured, self.method.state_origin)
        state = np.stack([each.state for each in observations])  # (b, s)
        with torch.inference_mode():
            pixels = stack_pixels(observations, self.spec).to(self.device)
            words = self.model.tokenise([each.instruction for each in observations])
            words = words.to(self.device)
            return Sight(
                self.model.look(pixels_to_float(pixels), words),
                words,
                self._tensor(self.normalisation.normalise_state(state)),
                self._tensor(self.normalisation.normalise_action_state(captured - origin)),
                captured,
                origin,
                tuple(_seed(observation) for observation in observations),
            )

    def generate_batch(
        self, context: Context, action_states: np.ndarray, index: int = 0, age: int = 0
    ) -> Iterator[np.ndarray]:
        """Yield `H − index` times the next actions (b, d) of b generations, float64, robot units.

        Args:
            action_states: (b, d) from which each generation departs.
            index, age: as of `FlowStart`, the same for all.
        """
        if not 0 <= index < self.spec.horizon:
            raise ConfigError(f"flow index {index} is outside 0..{self.spec.horizon - 1}")
        if action_states.shape != context.origin.shape:
            raise SpecMismatchError(
                f"action states {action_states.shape} do not match the context's "
                f"{context.origin.shape}; give one per encoded observation"
            )
        start = action_states if self.method.aligned else context.origin
        if age < 0:
            raise ConfigError(f"an observation's age is {age} actions; expected at least 0")
        return self._read(context, start.astype(np.float64), index, self.method.told_age(int(age)))

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)


def _seed(observation: Observation) -> int:
    """A digest of when and where the observation was made; rounding errors do not change it."""
    where = np.concatenate([observation.state, observation.action_state]).astype(np.float64)
    instant = observation.captured_ns.to_bytes(8, "little", signed=True)
    return zlib.crc32((where.round(3) + 0.0).tobytes() + instant)  # + 0.0: no negative zeros
