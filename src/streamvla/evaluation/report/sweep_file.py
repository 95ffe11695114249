"""From a result of `streamvla compare` to the cells that pages are drawn from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from streamvla.core.errors import ConfigError
from streamvla.core.stress import NOMINAL
from streamvla.evaluation.report.sweep import OTHERS, SCORE, SUCCESS, Cell, Estimate, Outcome, Sweep

_ARMS = ("", "left_", "right_")
_CELL = ("task", "policy", "executor", "profile", "accelerators", "stress")


def sweep_of(
    result: Mapping[str, Any], title: str = "", command: str = "", date: str = ""
) -> Sweep:
    """The cells of a result file, with how each of their episodes ended.

    Args:
        result: as `evaluation.comparison.read_comparison` gives it.
        title: a few words; default the suites that were driven.
        command: as typed; default one that drives the same episodes.

    Raises:
        ConfigError: fields are missing.
    """
    try:
        plan, run = result["plan"], result["run"]
        outcomes: dict[tuple[Any, ...], dict[int, Outcome]] = {}
        for episode in result["episodes"]:
            figures = episode["figures"]
            solved = figures["success"]
            key = tuple(episode[name] for name in _CELL)
            outcomes.setdefault(key, {})[episode["seed"]] = Outcome(
                None if solved is None else bool(solved), figures["score"]
            )
        cells = [
            _cell(found, outcomes.get(tuple(found[name] for name in _CELL), {}))
            for found in result["cells"]
        ]
        return Sweep(
            title=title or _title(plan),
            cells=cells,
            command=command or command_of(plan),
            commit=run["commit"],
            date=date,
            machine=run["machine"],
            seeds=plan["seeds"],
            settings=_settings(plan, run),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"no result of `streamvla compare` ({type(error).__name__}: {error}); name a "
            "result.json that this version wrote"
        ) from error


def command_of(plan: Mapping[str, Any]) -> str:
    """A command that drives the episodes of a plan."""
    flags = {
        "tasks": plan["tasks"],
        "executors": [f"{row['policy']}/{row['executor']}" for row in plan["rows"]],
        "profiles": plan["profiles"],
        "accelerators": plan["accelerators"],
        "stress": plan["stress"],
        "episodes": [len(plan["seeds"])],
        "seed": plan["seeds"][:1],
        "seconds": [plan["seconds"]],
        "pacing": [plan["pacing"]],
        "jitter": [plan["jitter"]],
    }
    words = [word for name, values in flags.items() for word in (f"--{name}", *map(str, values))]
    return shlex.join(["streamvla", "compare", *words])


def _cell(found: Mapping[str, Any], outcomes: Mapping[int, Outcome]) -> Cell:
    profile, _, scale = found["profile"].partition("@")
    episodes = found["episodes"]
    numbers = {
        "halt_ms_per_observation": found["halt_ms_per_observation"],
        "deadline_misses": _each(found["deadline_misses"], episodes),
        "reaction_ms": found["reaction_ms"]["p50"],
        "contact_force_peak_n": _measured(found, "contact_force_n", "max", max),
        "contact_failures": _each(found.get("contact_failures"), episodes),
        "missed": _measured(found, "missed", "last", sum),
        "completion_time_s": found["completion_time_s"],
        "mean_hand_jerk": found.get("mean_hand_jerk"),
        "gflop_per_observation": _each(found.get("flops_per_observation"), 1_000_000_000),
    }
    assert set(numbers) == {figure.key for figure in OTHERS}
    figures = {key: Estimate(value) for key, value in numbers.items() if value is not None}
    for figure in (SCORE, SUCCESS):
        if found[figure.key] is not None:
            interval = found[f"{figure.key}_ci"] or (None, None)
            figures[figure.key] = Estimate(found[figure.key], *interval)
    return Cell(
        task=found["task"],
        policy=found["policy"],
        executor=found["executor"],
        profile=profile,
        scale=float(scale) if scale else 1.0,
        accelerators=found["accelerators"],
        stress="" if found["stress"] == NOMINAL else found["stress"],
        episodes=episodes,
        figures=figures,
        outcomes=outcomes,
    )


def _each(count: float | None, episodes: int) -> float | None:
    """Per episode."""
    return None if count is None or not episodes else count / episodes


def _measured(found: Mapping[str, Any], name: str, part: str, join: Any) -> float | None:
    """What the robot's hand measured, mean over episodes; of two hands the larger or the sum."""
    measured = found["measured"]
    values = [measured[key][part] for arm in _ARMS if (key := f"{arm}{name}") in measured]
    return join(values) if values else None


def _title(plan: Mapping[str, Any]) -> str:
    suites = dict.fromkeys(robot["suite"] for robot in plan["robots"].values())
    return f"Policies and executors compared: {', '.join(suites)}"


def _settings(plan: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, str]:
    times = {
        name: f"observe {each['observe']:g} ms, generate {each['generate']:g} ms"
        for name, each in plan["stage_times_ms"].items()
    }
    return {
        **times,
        "Episode limit": f"{plan['seconds']:g} s",
        "Pacing": str(plan["pacing"]),
        "Jitter": f"{plan['jitter']:g}",
        "Driven at": ", ".join(run["driven_at"]),
    }
