"""Recipes of the figures that `streamvla compare` makes: the tempo suite, and stress."""

from __future__ import annotations

from typing import Any

from streamvla.core.seeds import FIRST_EVALUATION_SEED, FIRST_REPORT_SEED, tuning_seeds
from streamvla.core.stress import FACTORS, parse_stress
from streamvla.evaluation.comparison import row_label
from streamvla.evaluation.results import Column
from streamvla.runtime.timing.latency import named_profile
from streamvla.studies.recipe import Recipe, Row

_WORDS = {
    "expert-chunks/synchronous": "synchronous",
    "expert-timed-chunks/synchronous": "synchronous, given its delay",
    "expert-timed-chunks/async-chunks:5": "asynchronous chunks, given their delay",
    "expert-timed-chunks/action-flow:up-to-9": "chunks, early observation, given their delay",
    "expert-long-chunks/async-chunks": "asynchronous chunks of a second, given their delay",
    "expert/action-flow": "action flow, no early observation",
    "expert/action-flow:up-to-9": "action flow, early observation",
    "expert/action-flow:up-to-9,replan=as-fast-as-possible": "action flow, as fast as possible",
}
_OVERLAP = tuple(entry for entry in _WORDS if "action-flow" in entry)
"""Those that encode and generate at the same time: a second accelerator changes nothing else."""

_TEMPO = "compare --suite tempo --no-report --out runs/results/tempo --json"
_ON_FRESH_SEEDS = f"--episodes 50 --seed {FIRST_REPORT_SEED}"

_FIGURES = {
    "run": Column("executor"),
    "success": Column("success", 0, percent=True, interval="success_ci"),
    "paired.difference": Column("less synchronous, paired", 0, percent=True, interval="paired.ci"),
    "score": Column("score of 10", 1, interval="score_ci"),
    "halt_ms_per_observation": Column("halt / observation (ms)", 0),
    "deadline_misses": Column("missed ticks", 0),
    "reaction_ms.p50": Column("reaction p50 (ms)", 0),
    "completion_time_s": Column("time of successes (s)", 1),
    "mean_hand_jerk": Column("jerk of the hand (m/s³)", 1),
}


def _conditions(row: Row) -> str:
    """`1×`, `1×, an accelerator each`, `450 ms`."""
    profile, _, scale = row["profile"].partition("@")
    times = profile.removeprefix("delay-").replace("ms", " ms") if "delay" in profile else ""
    words = times or f"{float(scale or 1):g}×"
    return words + (", an accelerator each" if row["accelerators"] == 2 else "")


def _overall_rows(name: str, figures: Row) -> list[Row]:
    """One row an executor and condition, over all tasks."""
    return [
        {"run": f"{_WORDS[row_label(cell)]}, {_conditions(cell)}", **cell}
        for cell in figures["overall"]
    ]


def _task_rows(figures: Row, at: dict[str, Any]) -> list[Row]:
    """One row a task: success and score by executor, under one condition."""
    cells = [cell for cell in figures["cells"] if all(cell[k] == v for k, v in at.items())]
    rows: dict[str, Row] = {}
    for cell in cells:
        row = rows.setdefault(cell["task"], {"run": cell["task"]})
        row[row_label(cell)] = cell
    return list(rows.values())


def _tempo_rows(figures: dict[str, Row]) -> list[Row]:
    (one,) = figures.values()
    at = {"profile": "paper-20hz", "accelerators": 1}
    return [
        *(row for each in figures.values() for row in _overall_rows("", each)),
        *_task_rows(one, at),
    ]


def _by_executor(executors: tuple[str, ...], figure: str, title: str) -> dict[str, Column]:
    """A column an executor."""
    percent = figure == "success"
    return {
        f"{name}.{figure}": Column(
            f"{title}{_WORDS[name]}", 0 if percent else 1, percent, f"{name}.{figure}_ci"
        )
        for name in executors
    }


def _difficulty_rows(name: str, figures: Row) -> list[Row]:
    """One row a task: success of the expert by how long it halts, and as fast as possible."""
    rows: dict[str, Row] = {}
    for cell in figures["cells"]:
        row = rows.setdefault(cell["task"], {"run": cell["task"]})
        times = cell["profile"].removeprefix("delay-")
        row[f"{'halts' if cell['executor'] == 'synchronous' else 'never'} {times}"] = cell
    return list(rows.values())


_DELAYS = ("0ms", "150ms", "450ms")

STRESSED_TASKS = (
    "reach",
    "push",
    "pick-place",
    "door-open",
    "drawer-open",
    "window-open",
    "button-press-topdown",
    "peg-insert-side",
    "box-close",
    "coffee-button",
    "plate-slide",
    "faucet-open",
    "press-named-button",
    "reach-named-ball",
    "open-named-drawer",
    "slide-named-knob",
    "put-named-block",
)
"""Twelve Meta-World tasks, hard ones among them, and all language tasks."""

_LEVELS = [f"{name}:{severity}" for name in FACTORS for severity in (1, 2, 3)]


def _stress_rows(name: str, figures: Row) -> list[Row]:
    """One row a factor: success at each severity, streaming and synchronous."""
    rows: dict[str, Row] = {}
    for cell in figures["overall"]:
        factor, _, severity = cell["stress"].partition(":")
        row = rows.setdefault(factor, {"run": factor})
        kind = "synchronous" if cell["executor"] == "synchronous" else "streaming"
        row[f"{kind} {severity or 0}"] = cell
    plain = rows.pop("none")
    for row in rows.values():
        for kind in ("synchronous", "streaming"):
            row[f"{kind} 0"] = plain[f"{kind} 0"]
            lost = plain[f"{kind} 0"]["success"] - row[f"{kind} 3"]["success"]
            row[f"{kind} lost"] = {"success": lost}
    return sorted(rows.values(), key=lambda row: -row["streaming lost"]["success"])


_LOSSES = ("none", *(f"command-noise:{severity}" for severity in (1, 2, 3)))
_SCALES = (1.0, 0.5, 0.25)
_LOSSY = ("expert-chunks/synchronous", "expert/action-flow:up-to-9")
_LOSS_SWEEP = (
    f" --executors {' '.join(_LOSSY)} --profiles "
    + " ".join(named_profile(f"paper-20hz@{scale:g}").name for scale in _SCALES)
    + f" --stress {' '.join(_LOSSES)} --episodes 6 --seed {FIRST_REPORT_SEED} --no-report --json"
)


def _at(scale: float) -> str:
    """A key without dots."""
    return f"at {scale:.0%}"


def _speed_and_loss_rows(name: str, figures: Row) -> list[Row]:
    """One row an executor and loss: success, or the time of successes, by the stage times."""
    rows: dict[tuple[str, str], Row] = {}
    for cell in figures["overall"]:
        label, loss = row_label(cell), cell["stress"]
        share = 0.0 if loss == "none" else parse_stress(loss).sizes()["command-noise"]
        words = f"{name}, {_WORDS[label]}, {share:.0f} % noise"
        row = rows.setdefault((label, loss), {"run": words})
        row[_at(float(cell["profile"].partition("@")[2] or 1))] = cell
    return list(rows.values())


SWEEPS: dict[str, Recipe] = {
    "tempo-difficulty": Recipe(
        commands={
            "delays": "compare --suite tempo --executors expert-chunks/synchronous "
            "expert/action-flow:up-to-9,replan=as-fast-as-possible --profiles "
            + " ".join(f"delay-{each}" for each in _DELAYS)
            + f" --episodes 20 --seed {FIRST_EVALUATION_SEED} --no-report "
            "--out runs/results/tempo-difficulty --json"
        },
        rows=_difficulty_rows,
        tuning_seeds=tuning_seeds(),
        seen=True,
        columns={
            "run": Column("task"),
            **{
                f"{kind} {times}.success": Column(
                    f"{words} {times.replace('ms', ' ms')}",
                    0,
                    percent=True,
                    interval=f"{kind} {times}.success_ci",
                )
                for kind, words in (("halts", "halting"), ("never", "as fast as possible,"))
                for times in _DELAYS
            },
        },
        tables={
            "main": (
                "run",
                *(f"halts {times}.success" for times in _DELAYS),
                *(f"never {times}.success" for times in _DELAYS),
            )
        },
    ),
    "tempo": Recipe(
        commands={
            "one accelerator": f"{_TEMPO} {_ON_FRESH_SEEDS} --executors {' '.join(_WORDS)} "
            "--profiles paper-20hz@0.5 paper-20hz"
        },
        gather=_tempo_rows,
        tuning_seeds=tuning_seeds(),
        columns={
            **_FIGURES,
            **_by_executor(tuple(_WORDS), "success", ""),
            **_by_executor(tuple(_WORDS), "score", "score, "),
        },
        tables={
            "main": tuple(_FIGURES),
            "tasks": ("run", *_by_executor(tuple(_WORDS), "success", "")),
            "scores": ("run", *_by_executor(tuple(_WORDS), "score", "")),
        },
    ),
    "tempo-scales": Recipe(
        commands={
            "one accelerator": f"{_TEMPO} {_ON_FRESH_SEEDS} --executors {' '.join(_WORDS)} "
            "--profiles paper-20hz@0 paper-20hz@2"
        },
        rows=_overall_rows,
        tuning_seeds=tuning_seeds(),
        columns=_FIGURES,
        tables={"main": tuple(_FIGURES)},
    ),
    "tempo-two": Recipe(
        commands={
            "two accelerators": f"{_TEMPO} {_ON_FRESH_SEEDS} --executors "
            f"{next(iter(_WORDS))} {' '.join(_OVERLAP)} "
            "--profiles paper-20hz@0.5 paper-20hz paper-20hz@2 --accelerators 2",
        },
        rows=_overall_rows,
        tuning_seeds=tuning_seeds(),
        columns=_FIGURES,
        tables={"main": tuple(_FIGURES)},
    ),
    "speed-and-loss": Recipe(
        commands={
            "moving": "compare --suite tempo --out runs/results/speed-and-loss/moving"
            + _LOSS_SWEEP,
            "still": f"compare --tasks {' '.join(STRESSED_TASKS[:12])} "
            "--out runs/results/speed-and-loss/still" + _LOSS_SWEEP,
        },
        rows=_speed_and_loss_rows,
        tuning_seeds=tuning_seeds(),
        columns={
            "run": Column("tasks, executor, noise of the actions"),
            **{
                f"{_at(scale)}.success": Column(
                    f"{scale:g}× the stage times",
                    0,
                    percent=True,
                    interval=f"{_at(scale)}.success_ci",
                )
                for scale in _SCALES
            },
            **{
                f"{_at(scale)}.completion_time_s": Column(f"time of successes at {scale:g}× (s)", 2)
                for scale in _SCALES
            },
        },
        tables={
            "main": (
                "run",
                *(f"{_at(scale)}.success" for scale in _SCALES),
                *(f"{_at(scale)}.completion_time_s" for scale in _SCALES),
            )
        },
    ),
    "stress": Recipe(
        commands={
            "shipped": f"compare --tasks {' '.join(STRESSED_TASKS)} --policies shipped "
            "--executors synchronous action-flow:auto,early=always --stress none "
            + " ".join(_LEVELS)
            + f" --episodes 2 --seed {FIRST_REPORT_SEED} --no-report "
            "--out runs/results/stress --json"
        },
        rows=_stress_rows,
        tuning_seeds=tuning_seeds(),
        columns={
            "run": Column("factor"),
            **{
                f"{kind} {level}.success": Column(
                    f"{kind} {level}", 0, percent=True, interval=f"{kind} {level}.success_ci"
                )
                for kind in ("streaming", "synchronous")
                for level in range(4)
            },
        },
        tables={
            "main": (
                "run",
                *(
                    f"{kind} {level}.success"
                    for kind in ("streaming", "synchronous")
                    for level in range(4)
                ),
            )
        },
    ),
}
