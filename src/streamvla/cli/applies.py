"""Options that were stated and change nothing: refused, in one line, before anything starts.

A setting with a value of its own needs no rule here: it is refused where it is used. What a parsed
command cannot tell is whether a flag was typed, and that is looked up in the arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from streamvla.core.errors import ConfigError
from streamvla.runtime.executors.registry import executor_named

Rule = tuple[str, Callable[[Any], bool], str]
"""Flag, whether the command has a use for it, and what it needs."""


def _early(*rules: str) -> Callable[[Any], bool]:
    return lambda command: command.early.early in rules


def _overlaps(command: Any) -> bool:
    """Whether some executor encodes while it generates; the policy's own default is not known."""
    text = command.executor
    if text is None:
        return True
    kind = executor_named(text.partition(":")[0])
    return kind.overlaps and kind.streams


def _makes_chunks(command: Any) -> bool:
    from streamvla.model.methods.registry import METHODS, method_named

    names = [name for name in command.method if name in METHODS]
    return len(names) < len(command.method) or any(method_named(n)().chunk_passes for n in names)


_EARLY: tuple[Rule, ...] = (
    ("rate", _early("random"), "--early random"),
    ("norm", _early("action-norm"), "--early action-norm"),
    ("eta", _early("adaptive"), "--early adaptive"),
    ("refused", _early("adaptive"), "--early adaptive"),
)
_LOCAL: Rule = ("workers", lambda c: c.engine == "local", "--engine local; Ray takes all cores")
_SHARED = "an executor that streams while it observes, such as action-flow"
_TRAINING = ("calibration", "dataset", "out", "steps", "batch-size", "longest-lead", "threads")
_TRAINING = (*_TRAINING, "holdout-per-task", "miss-rate", "tail", "seed", "resume")

_GATE_TRAINING = ("calibration", "dataset", "observations", "steps", "longest-age", "longest-lead")
_GATE_TRAINING = (*_GATE_TRAINING, "holdout-per-task", "miss-rates", "tail", "threads")

RULES: dict[str, tuple[Rule, ...]] = {
    "simulate": (
        ("seed", lambda c: c.jitter > 0, "--jitter"),
        ("concurrent", _overlaps, _SHARED),
    ),
    "run": (
        *_EARLY,
        ("priority", lambda c: c.driver == "process", "--driver process"),
        (
            "fallback",
            lambda c: not c.uses_ladder(),
            "--governor basic; the ladder has rungs of its own",
        ),
    ),
    "eval": (*_EARLY, ("concurrent", _overlaps, _SHARED), _LOCAL),
    "compare": (_LOCAL, ("videos", lambda c: c.report, "a report; leave --no-report out")),
    "collect": (_LOCAL, ("most-lead", lambda c: c.policy is not None, "a --policy that drives"),),
    "train": (
        (
            "chunk-samples",
            _makes_chunks,
            "--method chunk-flow or regression",
        ),
        ("seeded-keypoints", lambda c: c.backbone == "small", "--backbone small"),
        ("memory-vision", lambda c: c.memory_window is not None, "--memory-window"),
        ("memory-summaries", lambda c: c.memory_window is not None, "--memory-window"),
        ("memory-recurrent", lambda c: c.memory_window is not None, "--memory-window"),
        ("clip-stride", lambda c: c.clip > 1, "--clip"),
        (
            "clip",
            lambda c: c.memory_window is not None or c.frames > 1 or c.clip == 1,
            "--memory-window or --frames",
        ),
    ),
    "train-saliency": (
        ("figure", lambda c: c.test is not None, "--test"),
        *((flag, lambda c: c.test is None, "a training, and --test is none")
          for flag in _TRAINING),
    ),
    "train-skipping": tuple(
        (flag, lambda c: c.test is None, "a training, and --test is none")
        for flag in _GATE_TRAINING
    ),
    "grid": (
        (
            "rate",
            lambda c: bool({"random", "action-norm"} & set(c.rules)),
            "--rules random or action-norm",
        ),
        ("leads", lambda c: set(c.rules) != {"none"}, "--rules that look early"),
        ("holdout-per-task", lambda c: c.dataset is not None, "--dataset"),
        ("holdout-frames", lambda c: c.dataset is not None, "--dataset"),
    ),
    "bench faults": (("priority", lambda c: c.wall_clock > 0, "--wall-clock"),),
    "bench budget": (_LOCAL,),
    "bench stream": (("slowest-s", lambda c: c.compare, "--compare"),),
}  # fmt: skip
"""Command → what may be stated in vain."""


def require_use(arguments: Sequence[str], command: Any) -> None:
    """Raise `ConfigError` for a flag that was stated and that the command has no use for.

    Args:
        arguments: what was typed, with the present names of flags.
        command: what was parsed from it; of `bench`, the part.
    """
    names = [" ".join(arguments[:2]), arguments[0] if arguments else ""]
    stated = dict(_stated(arguments))
    for name in names:
        for flag, applies, why in RULES.get(name, ()):
            if flag in stated and not applies(command):
                said = " ".join(filter(None, (f"--{flag}", stated[flag])))
                raise ConfigError(f"{said} changes nothing here: it needs {why}")
    for flag, default in _defaults(command):
        if stated.get(flag) == "None" and default is None:
            raise ConfigError(f"--{flag} None is what it is anyway: leave it out")


def _stated(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Flags as typed, `--no-` taken off, each with what follows it."""
    for i, argument in enumerate(arguments):
        if not argument.startswith("--"):
            continue
        flag, equals, value = argument[2:].partition("=")
        following = arguments[i + 1] if i + 1 < len(arguments) else "--"
        if not equals:
            value = "" if following.startswith("--") else following
        yield flag.replace("_", "-").removeprefix("no-"), value or None


def _defaults(command: Any) -> Iterator[tuple[str, Any]]:
    """Flag → its default, those of parts of the command too."""
    for each in dataclasses.fields(command):
        value = getattr(command, each.name)
        if dataclasses.is_dataclass(value):
            yield from _defaults(value)
        yield each.name.replace("_", "-"), each.default
