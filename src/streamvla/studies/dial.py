"""What saves computation, as settings of a policy, by hand or by a budget; `eval` and `run` share
it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from streamvla.core.budget import BudgetRow, BudgetTable, Unit
from streamvla.core.errors import ConfigError
from streamvla.core.provenance import machine
from streamvla.runtime.executors.options import EarlyOptions

if TYPE_CHECKING:  # it needs torch
    from streamvla.policy.sources import FoundPolicy

REUSE, MOST_SKIPS, SKIP_PHASE = "reuse", "most_skips", "skip_phase"
SKIP_TOLERANCE, SKIP_OPENING = "skip_tolerance", "skip_opening"
SKIP_PIXELS, SKIP_ARM, SKIP_GATE = "skip_pixels", "skip_arm", "skip_gate"
SKIPS = (MOST_SKIPS, SKIP_PHASE, SKIP_TOLERANCE, SKIP_OPENING, SKIP_PIXELS, SKIP_ARM, SKIP_GATE)
SAVING = ("patch_k", REUSE, *SKIPS)
EVERY = "every_"
"""Before a camera's name; `policy.reuse` has the same."""


@dataclass(frozen=True)
class BudgetOptions:
    """What an observation may cost; one of the two.

    Attributes:
        budget_flops: floating-point operations an observation may take: settings are chosen from
            the table in the policy's file (docs/how-to/focus.md).
        budget_ms: milliseconds it may take, likewise.
    """

    budget_flops: float | None = None
    budget_ms: float | None = None

    @property
    def stated(self) -> bool:
        """Whether there is a budget."""
        return self != BudgetOptions()

    @property
    def asked(self) -> tuple[Unit, float]:
        """The unit and the amount of the budget that is stated."""
        if self.budget_flops is not None:
            return "flops", self.budget_flops
        assert self.budget_ms is not None  # `stated`
        return "ms", self.budget_ms


class SavingCommand(Protocol):
    """The fields that commands with such settings have."""

    @property
    def patch_k(self) -> float | None: ...
    @property
    def reuse(self) -> float | None: ...
    @property
    def most_skips(self) -> int: ...
    @property
    def skip_phase(self) -> int: ...
    @property
    def skip_tolerance(self) -> float | None: ...
    @property
    def skip_opening(self) -> float | None: ...
    @property
    def skip_pixels(self) -> float | None: ...
    @property
    def skip_arm(self) -> float | None: ...
    @property
    def skip_gate(self) -> float | None: ...
    @property
    def camera_every(self) -> tuple[str, ...]: ...
    @property
    def budget(self) -> BudgetOptions: ...
    @property
    def early(self) -> EarlyOptions: ...


def require_saving(command: SavingCommand) -> None:
    """Raise `ConfigError` for settings that cannot be, or not together; before a policy is
    loaded."""
    if command.most_skips < 0:
        raise ConfigError(f"most_skips {command.most_skips}: expected 0 or more observations")
    if command.skip_phase < 0 or (command.skip_phase and not command.most_skips):
        raise ConfigError(
            f"skip_phase {command.skip_phase}: expected 0 or more, and most_skips with it"
        )
    _require_skips(command)
    rates = parse_rates(command.camera_every)
    slow = command.most_skips or any(rate > 1 for rate in rates.values())
    if slow and command.early.early == "adaptive":
        flag = "--most-skips" if command.most_skips else "--camera-every"
        raise ConfigError(
            f"{flag} with --early adaptive: what is not encoded cannot be foreseen; use "
            "--early always"
        )
    if command.most_skips and "clock-shift" in (command.early.compensation or ""):
        raise ConfigError(
            "--most-skips with the compensation clock-shift: both say how old frames are; use "
            "the compensation state"
        )
    _require_budget(command)


def _require_skips(command: SavingCommand) -> None:
    if command.skip_arm is not None and command.skip_pixels is None:
        raise ConfigError(
            f"{SKIP_ARM} {command.skip_arm}: it says which pixels do not count; expected "
            f"{SKIP_PIXELS} with it"
        )
    for name in (SKIP_TOLERANCE, SKIP_OPENING, SKIP_PIXELS, SKIP_ARM, SKIP_GATE):
        value = getattr(command, name)
        if value is None:
            continue
        if not (0 <= value < math.inf and command.most_skips):
            raise ConfigError(f"{name} {value}: expected a number ≥ 0, and most_skips with it")
        if name in (SKIP_TOLERANCE, SKIP_OPENING) and command.skip_gate is not None:
            raise ConfigError(
                f"{name} {value} with skip_gate {command.skip_gate}: the gate decides instead of "
                "tolerances; leave one of the two out"
            )


def _require_budget(command: SavingCommand) -> None:
    budget = command.budget
    if not budget.stated:
        return
    unit, amount = budget.asked
    flag = f"--budget-{unit} {amount:g}"
    if budget.budget_flops is not None and budget.budget_ms is not None:
        raise ConfigError(f"{flag} and --budget-ms {budget.budget_ms:g}: expected one of the two")
    if not (math.isfinite(amount) and amount > 0):
        raise ConfigError(f"{flag}: expected a number > 0")
    stated = saving_settings(command)
    if stated:
        said = ", ".join(f"{name} {value:g}" for name, value in stated.items())
        raise ConfigError(f"{flag} with {said}: a budget chooses these; state one or the other")
    if command.early.early == "adaptive" or "clock-shift" in (command.early.compensation or ""):
        raise ConfigError(
            f"{flag} with --early adaptive or the compensation clock-shift: the settings that are "
            "chosen may skip encodings, and these need every one; use --early always and the "
            "compensation state"
        )


def parse_rates(texts: Iterable[str]) -> dict[str, float]:
    """Camera → every how many observations it is looked at.

    Raises:
        ConfigError: a text that is not CAMERA=N with a whole number ≥ 1, or a camera named twice.

    >>> parse_rates(["front=2"])
    {'front': 2.0}
    """
    rates: dict[str, float] = {}
    for text in texts:
        camera, equals, count = text.rpartition("=")
        if not (equals and camera and count.isdecimal() and int(count) >= 1):
            raise ConfigError(
                f"--camera-every {text}: expected CAMERA=N, each how many observations it is "
                "encoded, a whole number of at least 1, such as front=2"
            )
        if camera in rates:
            raise ConfigError(f"--camera-every names {camera} twice; name each camera once")
        rates[camera] = float(count)
    return rates


def saving_settings(command: SavingCommand) -> dict[str, float]:
    """The settings a command states, by the names they have in `PolicySpec.settings`."""
    asked: dict[str, float | None] = {
        "patch_k": command.patch_k,
        REUSE: command.reuse,
        MOST_SKIPS: command.most_skips or None,
        SKIP_PHASE: command.skip_phase or None,
        SKIP_TOLERANCE: command.skip_tolerance,
        SKIP_OPENING: command.skip_opening,
        SKIP_PIXELS: command.skip_pixels,
        SKIP_ARM: command.skip_arm,
        SKIP_GATE: command.skip_gate,
    }
    stated = {name: value for name, value in asked.items() if value is not None}
    rates = parse_rates(command.camera_every)
    return stated | {EVERY + camera: rate for camera, rate in rates.items()}


def is_saving(name: str) -> bool:
    """Whether a setting is one of these, and not of the policy's method."""
    return name in SAVING or name.startswith(EVERY)


def stated_by(settings: Mapping[str, float]) -> dict[str, Any]:
    """The fields of a command that states these settings. Inverse of `saving_settings`.

    Raises:
        ConfigError: a setting that no command has, or a number of skips that is not whole.
    """
    fields: dict[str, Any] = {}
    for name, value in settings.items():
        if not is_saving(name):
            raise ConfigError(
                f"setting {name}={value:g}: expected {', '.join(SAVING)} or {EVERY}CAMERA"
            )
        if name.startswith(EVERY):
            rate = f"{name.removeprefix(EVERY)}={value:g}"
            fields["camera_every"] = (*fields.get("camera_every", ()), rate)
        else:
            fields[name] = _whole(name, value) if name in (MOST_SKIPS, SKIP_PHASE) else value
    return fields


def _whole(name: str, value: float) -> int:
    if not float(value).is_integer():
        raise ConfigError(f"setting {name}={value:g}: expected a whole number")
    return int(value)


@dataclass(frozen=True)
class Chosen:
    """What a budget came to."""

    unit: Unit
    budget: float
    row: BudgetRow
    measured: Mapping[str, Any]

    def fields(self) -> dict[str, Any]:
        """Of the command that states the settings by hand."""
        return {**stated_by(self.row.settings), "budget": BudgetOptions()}

    def to_json(self) -> dict[str, Any]:
        """For the figures of a command."""
        return {
            "unit": self.unit,
            "budget": self.budget,
            "chosen": self.row.name,
            "settings": dict(self.row.settings),
            "flops_per_observation": self.row.flops,
            "ms_per_observation": self.row.ms,
            "table_success": self.row.success,
            "table_success_ci": list(self.row.success_ci),
            "table_episodes": self.row.episodes,
            "measured_on": self.measured.get("machine"),
        }


def within_budget(budget: BudgetOptions, found: FoundPolicy) -> Chosen | None:
    """The settings that a budget allows, which are said on stderr; None: there is no budget.

    Raises:
        ConfigError: the policy has no table, or the cheapest settings cost more.
        CheckpointError: the table is damaged.
    """
    if not budget.stated:
        return None
    unit, amount = budget.asked
    if found.file is None:
        raise ConfigError(
            f"--budget-{unit} {amount:g}: {found.name} is no policy file of ours, which a table of "
            "what its observations cost could be in; leave it out"
        )
    from streamvla.model.checkpoint import budget_of

    table = budget_of(found.file)
    if table is None:
        raise ConfigError(
            f"--budget-{unit} {amount:g}: {found.name} has no table of what its observations "
            f"cost; measure it with `streamvla bench budget --policy {found.file}` "
            "and use the file that it writes"
        )
    row = table.choose(unit, amount)
    print(f"Budget {amount:g} {unit}: {row.sentence()}", file=sys.stderr, flush=True)
    if unit == "ms":
        _say_other_machine(table)
    return Chosen(unit, amount, row, table.measured)


def _say_other_machine(table: BudgetTable) -> None:
    there, here = table.measured.get("machine", {}).get("cpu"), machine()["cpu"]
    if there != here:
        print(
            f"warning: those milliseconds are of {there}, and this is {here}; measure again here "
            "with `streamvla bench budget`",
            file=sys.stderr,
            flush=True,
        )
