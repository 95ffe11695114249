"""What several commands check of their settings."""

from __future__ import annotations

import math

from streamvla.core.errors import ConfigError


def require_seconds(seconds: float) -> None:
    """Raise `ConfigError` unless an episode may last this long."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds {seconds}: an episode's limit must be finite and above 0")
