"""What the policies of all methods share: observation → context, and who may ask for what."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch

from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError, SpecMismatchError
from streamvla.core.interfaces import (
    NO_ANTICIPATION,
    Anticipation,
    FlowStart,
    Observation,
    PolicySpec,
)
from streamvla.model.backbone import PrefixCache
from streamvla.model.clarity import Clarity
from streamvla.model.crops import Images
from streamvla.model.flops import FlopCounts
from streamvla.model.focus import TUNABLE, FocusConfig
from streamvla.model.interface import Model
from streamvla.model.methods.base import Context, Method, Units
from streamvla.model.normalisation import Normalisation
from streamvla.model.phrases import Phrases, Told
from streamvla.model.saliency import Calibration, SaliencyPredictor, saliency_of
from streamvla.model.spelling import english_words
from streamvla.policy.stream import FrameStack, Stream
from streamvla.policy.transforms import (
    check_observation,
    flow_origin,
    stack_pixels,
    to_images,
)

NEAREST_PHRASE = "nearest_phrase"
"""The setting that says up to which similarity an instruction is told as it stands."""
_MOST_TOLD = 64


@dataclass(frozen=True, slots=True)
class Sight:
    """b observations before they become contexts.

    Attributes:
        seen: (b, v, l, w) vision tokens.
        words, state, command: the rest of what the context is made of.
        captured, origin, seeds: as in `Context`.
        captured_ns: when the first of them was captured.
        cost: of the look.
    """

    seen: torch.Tensor
    words: torch.Tensor
    state: torch.Tensor
    command: torch.Tensor
    captured: np.ndarray
    origin: np.ndarray
    seeds: tuple[int, ...]
    captured_ns: int = 0
    cost: ObservationCost = field(default_factory=ObservationCost)


class ModelPolicy:
    """`Policy` with a model behind it; its method reads actions from a context (`Method.reader`).
    It counts what its observations cost (`CountingPolicy`).

    With a saliency predictor (`attach`) it is an `AnticipatingPolicy` too, and with a `Clarity` an
    `UnderstandingPolicy`; once it retrieves phrases (`retrieve`) a `RephrasingPolicy`. Make it with
    `policy_for`.

    Attributes:
        stream: what it remembers; None: its model has no memory.
        frames: what it has seen last, of a model of several frames; None of others.
        predictor: of what a motion changes; None: it does not anticipate.
        phrases: of which the nearest is told instead of an instruction; None: it is told as said.
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
        gaze = None if model.crops is None else model.crops.gaze
        self.spec: PolicySpec = replace(
            spec,
            settings={**method.settings, **model.expert.focus.settings},
            vocabulary=model.vocabulary,
            counts=True,
            max_age=method.max_age if method.aligned else 0,
            unclear_up_to=None if clarity is None else clarity.threshold,
            gaze=gaze,
            remembers=remembers(model),
        )
        if model.vocabulary is not None:
            english_words()  # read now, and not with the first unknown word in motion
        self.understanding = clarity
        self._clarities: dict[str, float] = {}  # of the latest instruction
        self.phrases: Phrases | None = None
        self._told: dict[str, Told] = {}
        self.method = method
        self.normalisation = normalisation
        self.device: Final = torch.device(device)
        self.model: Model = model.to(self.device).eval()
        self.stream: Stream | None = None if model.memory is None else Stream(self.model)
        self.frames: FrameStack | None = None if model.frames == 1 else FrameStack(model.frames)
        units = Units(spec.action_space, normalisation, self.device)
        self._read = method.reader(self.model.expert, units)
        self.predictor: SaliencyPredictor | None = None
        self._flops = FlopCounts()
        self._predict_flops = 0
        self._words: tuple[tuple[str, ...], torch.Tensor, int] | None = None

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

    def focus_on(self, focus: FocusConfig) -> None:
        """From now on attend to vision so; what is in `model.focus.TUNABLE` may differ from what
        was trained.

        Raises:
            ConfigError: something else differs.
        """
        expert = self.model.expert
        changes = {name: getattr(focus, name) for name in TUNABLE}
        if replace(expert.focus, **changes) != focus:
            raise ConfigError(
                f"{focus} needs other weights than those of a policy with {expert.focus}; only "
                f"{' and '.join(TUNABLE)} can change without training"
            )
        expert.focus = focus
        kept = {name: value for name, value in self.spec.settings.items() if name not in TUNABLE}
        self.spec = replace(self.spec, settings={**kept, **focus.settings})

    def retrieve(self, phrases: Phrases) -> None:
        """From now on read every instruction as the phrasing of the training that is nearest."""
        self.phrases = phrases
        self._told.clear()
        self._words = None  # those of the latest instruction may be others now
        settings = {**self.spec.settings, NEAREST_PHRASE: phrases.threshold}
        self.spec = replace(self.spec, settings=settings, rephrases=True)
        phrases.prepare()  # now, and not in motion

    def told(self, instruction: str) -> Told:
        """What the model is told for an instruction, and how similar that is; itself, with
        similarity 1, unless `retrieve` was called."""
        if self.phrases is None:
            return Told(instruction, 1.0)
        if instruction not in self._told:
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            self._told[instruction] = self.phrases.told(instruction)
        return self._told[instruction]

    def clarity(self, instruction: str) -> float:
        """How clear an instruction is: 0 to 1, and unclear up to `spec.unclear_up_to`.

        Raises:
            ConfigError: the policy's file has no `Clarity`.
        """
        if self.understanding is None:
            raise ConfigError(
                "the policy cannot tell how clear an instruction is: its file has no clarity "
                "(streamvla.model.clarity), which the policies that ship have"
            )
        if instruction not in self._clarities:
            self._clarities = {instruction: self.understanding.of(instruction)}
        return self._clarities[instruction]

    def sight_digest(self) -> str:
        """What tells its tokens from those of another policy: SHA-256 of all that `look` is made
        of, and of the scale of motions. Policies on one frozen backbone have the same."""
        digest = hashlib.sha256(repr((self.spec.views, self.normalisation.action_scale)).encode())
        if self.model.crops is not None:
            digest.update(repr(self.model.crops).encode())
        for module in self.model.seeing_modules():
            for name, values in sorted(module.state_dict().items()):
                digest.update(name.encode())
                digest.update(values.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def digest(self) -> str:
        """What tells its actions from those of another policy: SHA-256 of all its weights, of its
        views and units. Settings that need no training do not count."""
        said = repr((self.spec.views, self.spec.action_space, self.normalisation, self.model.crops))
        digest = hashlib.sha256(said.encode())
        for name, values in sorted(self.model.state_dict().items()):
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
        predictor = self.predictor
        if predictor is None:
            raise ConfigError(NO_ANTICIPATION)
        with torch.inference_mode():
            motion = self._tensor(self.normalisation.normalise_action_state(motions))
            shape = tuple(sight.seen.shape)
            changes, flops = self._flops.run(
                ("predict", shape), lambda: predictor(sight.seen, motion)
            )
            self._predict_flops = flops // shape[0]
            return saliency_of(changes).double().cpu().numpy(), changes

    def contextualise(self, sight: Sight, change: torch.Tensor | None = None) -> Context:
        """The context of a sight, or of what it will be after a change (b, v, l, w)."""
        inputs = (sight.words, sight.state, sight.command)
        with torch.inference_mode():
            seen = sight.seen if change is None else sight.seen + change
            if self.frames is not None:
                seen = self.frames.stacked(seen, sight.captured_ns, sight.seen)
            prefix, flops = self._prefix(seen, sight)
            if self.stream is not None:
                truly, more = (None, 0) if change is None else self._prefix(sight.seen, sight)
                prefix, of_memory = self.stream.remembering(
                    prefix, *inputs, sight.captured_ns, truly
                )
                flops += more + of_memory * len(sight.seeds)
        cost = replace(
            sight.cost,
            text_tokens=sight.words.shape[1],
            context_flops=flops // len(sight.seeds),
        )
        return Context(prefix, sight.captured, sight.origin, sight.seeds, cost)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What is done meanwhile, such as measuring, leaves what it remembers as it was."""
        parts = [each for each in (self.stream, self.frames) if each is not None]
        before = [each.snapshot() for each in parts]
        try:
            yield
        finally:
            for each, snapshot in zip(parts, before, strict=True):
                each.restore(snapshot)

    def _prefix(self, seen: torch.Tensor, sight: Sight) -> tuple[PrefixCache, int]:
        """Of tokens (b, v, l, w) in place of the sight's, and the operations of all b."""
        inputs = (sight.words, sight.state, sight.command)
        return self._flops.run(
            ("context", tuple(seen.shape), tuple(sight.words.shape)),
            lambda: self.model.contextualise(seen, *inputs),
        )

    def cost(self, made: Context | Sight) -> ObservationCost:
        """Of one observation behind a context; of one that was only looked at, its sight's.

        Of a context with another number of tokens than before an action, or a chunk, is made to
        count it.
        """
        cost = replace(made.cost, predict_flops=self._predict_flops)
        if isinstance(made, Sight):
            return cost
        focus = self.model.expert.focus
        key = ("action", made.prefix.batch, made.prefix.tokens, focus)
        whole = bool(self.spec.chunk_passes) or focus.once  # the first action does more, or all
        flops = self._flops.once(key, lambda: self._actions(made, whole=whole))
        actions = self.spec.horizon if whole else 1
        return replace(
            cost,
            visual_tokens_attended=min(focus.kept(made.prefix.vision), cost.visual_tokens),
            action_flops=flops // made.prefix.batch // actions,
        )

    def _actions(self, context: Context, *, whole: bool) -> None:
        """The first action of a generation, or all of them."""
        actions = self._read(context, context.origin.astype(np.float64), 0, 0)
        for _ in actions:
            if not whole:
                return

    def encode_batch(self, observations: Sequence[Observation]) -> Context:
        """The context of b observations in one pass (several simulated episodes at once)."""
        return self.contextualise(self.look_batch(observations))

    def look_batch(self, observations: Sequence[Observation]) -> Sight:
        """What the cameras of b observations show, as tokens.

        Raises:
            ConfigError: of different instants, for a policy that remembers.
        """
        for observation in observations:
            check_observation(observation, self.spec)
        self._require_one_instant(observations)
        captured = np.stack([each.action_state for each in observations])  # (b, d)
        origin = flow_origin(self.spec.action_space, captured, self.method.state_origin)
        state = np.stack([each.state for each in observations])  # (b, s)
        with torch.inference_mode():
            pixels = stack_pixels(observations, self.spec).to(self.device)
            words, known = self._tokenised(observations)
            images = to_images(pixels, state, self.model.crops)
            seen, cost = self._encode_views(pixels, images, words)
            return Sight(
                seen,
                words,
                self._tensor(self.normalisation.normalise_state(state)),
                self._tensor(self.normalisation.normalise_action_state(captured - origin)),
                captured,
                origin,
                tuple(_seed(observation) for observation in observations),
                observations[0].captured_ns,
                replace(cost, cache_hits=cost.cache_hits + known),
            )

    def _require_one_instant(self, observations: Sequence[Observation]) -> None:
        """Raise `ConfigError` if what is remembered of them would be in no order."""
        instants = {observation.captured_ns for observation in observations}
        if len(instants) > 1 and remembers(self.model):
            raise ConfigError(
                f"{len(observations)} observations captured from {min(instants)} to "
                f"{max(instants)} ns: a policy that remembers drives its streams in step; give it "
                "one instant for all, or drive them one by one"
            )

    def _encode_views(
        self, pixels: torch.Tensor, images: Images, words: torch.Tensor
    ) -> tuple[torch.Tensor, ObservationCost]:
        """Tokens of every view (b, v, l, w) and what one of b observations cost so far.

        Args:
            pixels: (b, v, y, x, 3) uint8, what `images` were made of.
        """
        shape = (tuple(pixels.shape), tuple(words.shape))
        seen, flops = self._flops.run(("look", shape), lambda: self.model.look(images, words))
        return seen, self._look_cost(seen, pixels.shape[1], flops)

    def _look_cost(self, seen: torch.Tensor, views: int, flops: int) -> ObservationCost:
        """Of one of b observations (b, v, l, w) of which so many views were encoded."""
        return ObservationCost(
            visual_tokens=seen.shape[1] * seen.shape[2],
            encodes=views * (1 if self.model.crops is None else 2),
            look_flops=flops // len(seen),
        )

    def _tokenised(self, observations: Sequence[Observation]) -> tuple[torch.Tensor, bool]:
        """(b, l) words, and whether they were kept from an earlier observation of the episode: an
        episode that begins with the clock at its start again keeps none."""
        instructions = tuple(each.instruction for each in observations)
        captured_ns, before = observations[0].captured_ns, self._words
        known = before is not None and before[0] == instructions
        words = before[1] if before is not None and known else None
        if words is None:
            words = self.model.tokenise([self.told(each).phrase for each in instructions])
            words = words.to(self.device)
        self._words = instructions, words, captured_ns
        return words, before is not None and known and captured_ns > before[2]

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


class StreamPolicy(ModelPolicy):
    """A policy whose model has a memory, or sees several frames. Implements `RememberingPolicy`."""

    def begin(self) -> None:
        """An episode begins (`Stream.begin`)."""
        for each in (self.stream, self.frames):
            if each is not None:
                each.begin()


def remembers(model: Model) -> bool:
    """Whether its contexts depend on observations before, so that it needs a `StreamPolicy`."""
    return model.memory is not None or model.frames > 1


def policy_for(
    model: Model,
    spec: PolicySpec,
    method: Method,
    normalisation: Normalisation,
    device: torch.device | str = "cpu",
    clarity: Clarity | None = None,
) -> ModelPolicy:
    """The policy that drives a model: a `StreamPolicy` where it remembers."""
    kind = StreamPolicy if remembers(model) else ModelPolicy
    return kind(model, spec, method, normalisation, device, clarity)


def require_single_observations(policy: ModelPolicy, what: str) -> None:
    """Raise `ConfigError` if contexts depend on observations before, which `what` does not show."""
    if remembers(policy.model):
        raise ConfigError(
            f"{what} looks at single frames of episodes, and the policy's contexts depend on the "
            "observations before (memory, or several frames); use a policy without"
        )


def _seed(observation: Observation) -> int:
    """A digest of when and where the observation was made; rounding errors do not change it."""
    where = np.concatenate([observation.state, observation.action_state]).astype(np.float64)
    instant = observation.captured_ns.to_bytes(8, "little", signed=True)
    return zlib.crc32((where.round(3) + 0.0).tobytes() + instant)  # + 0.0: no negative zeros
