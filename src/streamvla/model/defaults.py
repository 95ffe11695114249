"""What was decided about a policy after its file was written: `defaults.json` beside the file.

    {"policies": {"chunk-flow.safetensors": {"sha256": "…", "method": {"euler_steps": 2}}},
     "vocabulary": ["press", "the", …],
     "clarity": {"threshold": 0.25, "miss_rate": 0.02, "instructions": ["press the red button", …]},
     "phrases": {"threshold": 0.3, "goals": [["press the red button", …], …]}}

So that settings chosen later, and the vocabulary and clarity of a policy from before they were
stored, need no second copy of its weights. An entry is for the file with that SHA-256 and for no
other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamvla.core.errors import CheckpointError, ConfigError
from streamvla.model.clarity import Clarity
from streamvla.model.phrases import Phrases

DEFAULTS_NAME = "defaults.json"


@dataclass(frozen=True)
class Defaults:
    """Of one policy file.

    Attributes:
        method: settings of its method that take the place of those in its header.
        vocabulary: the words its training said; None to leave what its header says.
        clarity: how it tells clear instructions from unclear ones; None likewise.
        phrases: the phrasings of its training by goal; None: they are not known.
    """

    method: Mapping[str, Any]
    vocabulary: tuple[str, ...] | None
    clarity: Clarity | None = None
    phrases: Phrases | None = None


NO_DEFAULTS = Defaults({}, None)


def read_defaults(checkpoint: Path) -> Defaults:
    """The entry of this policy file in `defaults.json` beside it, if there is one.

    Raises:
        CheckpointError: `defaults.json` cannot be read, or is not as above.
    """
    path = checkpoint.parent / DEFAULTS_NAME
    if not path.is_file():
        return NO_DEFAULTS
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        entry = fields["policies"].get(checkpoint.name)
        if entry is None or entry["sha256"] != sha256_of(checkpoint):
            return NO_DEFAULTS
        words = fields.get("vocabulary")
        clarity = Clarity.from_json(fields["clarity"]) if "clarity" in fields else None
        words = None if words is None else tuple(words)
        phrases = Phrases.from_json(fields["phrases"]) if "phrases" in fields else None
        return Defaults(dict(entry.get("method", {})), words, clarity, phrases)
    except (ConfigError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}). Restore it, or remove it to use "
            "the settings in the policy's own header."
        ) from error


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
