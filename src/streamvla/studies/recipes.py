"""How every figure in the documents is made: which commands, and which of their figures."""

from __future__ import annotations

from dataclasses import replace

from streamvla.core.seeds import FIRST_REPORT_SEED, FIRST_TUNING_SEED, tuning_seeds
from streamvla.evaluation.results import Column
from streamvla.evaluation.stats import compare_paired
from streamvla.robots.registry import suite_tasks
from streamvla.studies.cost_recipes import COSTS
from streamvla.studies.focus_recipes import FOCUS
from streamvla.studies.recipe import Recipe, Row
from streamvla.studies.sweep_recipes import SWEEPS


def _compared_rows(figures: dict[str, Row]) -> list[Row]:
    """One row per task and their mean over several `eval`s; and the paired differences of success
    of the first to each other one, over the same seeds."""
    reference, *others = figures
    tasks = figures[reference]["tasks"]
    rows: list[Row] = []
    for task in tasks:
        cells = {name: _with_interval(each["tasks"][task]) for name, each in figures.items()}
        rows.append({"run": task, **cells})
    mean: Row = {"run": "mean"}
    for name, each in figures.items():
        mean[name] = {"success": each["mean_success"], "success_ci": each["success_ci"]}
    for other in others:
        paired = compare_paired(_solved(figures[other]), _solved(figures[reference]))
        mean[other]["behind"] = paired.difference
        mean[other]["behind_ci"] = [paired.low, paired.high]
    return [*rows, mean]


def _solved(figures: Row) -> list[bool]:
    """Every episode of an `eval`, in the order of tasks and seeds."""
    return [digit == "1" for task in figures["tasks"].values() for digit in task["solved"]]


def _schedule_rows(figures: dict[str, Row]) -> list[Row]:
    """One row per `eval`, with the paired difference of success to the first, and the tasks behind
    it that differ most."""
    first = next(iter(figures.values()))
    rows = []
    for name, each in figures.items():
        paired = compare_paired(_solved(first), _solved(each))
        interval = [paired.low, paired.high]
        row = {"run": name, **each, "paired": paired.difference, "paired_ci": interval}
        rows.append({**row, **_most_changed(first["tasks"], each["tasks"])})
    return rows


def _most_changed(before: Row, after: Row, most: int = 5) -> dict[str, str]:
    """Up to `most` tasks that lost or gained episodes, those that changed most first."""
    solved = {
        task: (before[task]["solved"].count("1"), after[task]["solved"].count("1"))
        for task in before
    }

    def words(sign: int) -> str:
        changes = {task: sign * (new - old) for task, (old, new) in solved.items()}
        chosen = sorted((task for task in changes if changes[task] > 0), key=lambda t: -changes[t])
        named = ("{} {} → {}".format(task, *solved[task]) for task in chosen[:most])
        return ", ".join(named) or "–"

    return {"lost_most": words(-1), "gained_most": words(1)}


def _with_interval(task: Row) -> Row:
    return {**task, "success_ci": [task["ci_low"], task["ci_high"]]}


def _compared_recipe(commands: dict[str, str], compared: tuple[str, ...]) -> Recipe:
    """A table of success by task, a column per command, and the paired differences of the first
    command to those in `compared`."""
    shown = {
        f"{name}.success": Column(name, 0, percent=True, interval=f"{name}.success_ci")
        for name in commands
    }
    first = next(iter(commands))
    behind = {
        f"{name}.behind": Column(
            f"{first} less {name}, paired", 1, percent=True, interval=f"{name}.behind_ci"
        )
        for name in compared
    }
    return Recipe(
        commands=commands,
        gather=_compared_rows,
        tuning_seeds=tuning_seeds(),
        columns={"run": Column("task"), **shown, **behind},
        tables={"main": ("run", *shown, *behind)},
    )


def _ablation_rows(name: str, figures: Row) -> list[Row]:
    """One row per change of an `ablations`."""
    return figures["rows"]


def _method_rows(name: str, figures: Row) -> list[Row]:
    """One row per method of a `run`."""
    return figures["methods"]


def _example_rows(name: str, figures: Row) -> list[Row]:
    """One row per executor of an example."""
    return [{**row, "run": f"{name}, {row['run']}"} for row in figures["rows"]]


def _kind_rows(name: str, figures: Row) -> list[Row]:
    """One row per kind of fault of a `bench faults`, and all together."""
    figures = figures.get("wall_clock", figures)
    return [{"run": row["kind"], **row} for row in (*figures["kinds"], figures)]


def _policy_rows(name: str, figures: Row) -> list[Row]:
    """One row per method of a `bench policy`."""
    return [{"run": method, **row} for method, row in figures["methods"].items()]


def _loop_rows(name: str, figures: Row) -> list[Row]:
    """One row per loop of a `bench realtime`."""
    loops = {
        "control loop in its own process": figures,
        "the same loop in the model's process": figures["same_process"],
        "a sleep loop in the model's process": figures["sleep_loop"],
    }
    return [{"run": f"{name}, {loop}", **row} for loop, row in loops.items()]


_CAMPAIGN = {
    "run": Column("fault"),
    "faults": Column("faults", 0),
    "ticks": Column("ticks checked", 0),
    "skipped_ticks": Column("ticks skipped", 0),
    "broken": Column("episodes that broke a promise", 0),
    "recovery_p50_ms": Column("recovery p50 (ms)", 0),
    "recovery_max_ms": Column("recovery max (ms)", 0),
    "recovery_max_cycles": Column("recovery max (observation cycles)", 2),
}


def _gate_rows(name: str, figures: Row) -> list[Row]:
    """One row per dataset of a `train-saliency --test`, the cameras side by side."""
    first, second = figures["miss_rate"]
    main, other = figures["miss_rate_ci"]
    misses = {"miss_main": first, "miss_second": second}
    return [{"run": name, **figures, **misses, "main_ci": main, "second_ci": other}]


def _cell_rows(name: str, figures: Row) -> list[Row]:
    """One row per rule and compensation of a `grid`, with its cells by lead."""
    rows: dict[str, Row] = {}
    for cell in figures["cells"]:
        never = cell["rule"] == "none"
        run = cell["run"] if never else f"{cell['rule']}, {cell['compensation']}"
        rows.setdefault(run, {"run": run})[str(cell["lead"])] = cell
    return list(rows.values())


_GRID_LEADS = (0, 1, 2, 3, 5)
_GRID_FIGURES = {
    "success": Column("lead {}", 0, percent=True),
    "success_difference": Column("lead {}", 0, percent=True, interval="success_difference_ci"),
    "action_error": Column("lead {}", 3),
    "halt_ms_per_observation": Column("lead {}", 0),
    "mean_lead": Column("lead {}", 2),
}
"""What a table of the grid shows, a column for every lead."""


def _grid_column(lead: int, figure: str) -> Column:
    column = _GRID_FIGURES[figure]
    interval = column.interval and f"{lead}.{column.interval}"
    return replace(column, title=column.title.format(lead), interval=interval)


def _grid_recipe(tasks: str, policies: str, flags: str) -> Recipe:
    """A grid on some tasks, of the two policies that `ablations --names no-offset` left there."""
    files = (
        f"--policy {policies}/control/policy.safetensors "
        f"--unaugmented {policies}/no-offset/policy.safetensors"
    )
    return Recipe(
        commands={"grid": f"grid --tasks {tasks} {files} {flags} --json"},
        rows=_cell_rows,
        tuning_seeds=tuning_seeds(),
        seen=True,
        columns={"run": Column("rule, compensation")}
        | {
            f"{lead}.{figure}": _grid_column(lead, figure)
            for figure in _GRID_FIGURES
            for lead in _GRID_LEADS
        },
        tables={
            figure: ("run", *(f"{lead}.{figure}" for lead in _GRID_LEADS))
            for figure in _GRID_FIGURES
        },
    )


_HEADLINES = {
    "no early observation": "--executors action-flow:0",
    "always, lead 2, uncompensated": "--executors action-flow:2 --compensation none",
    "always, lead auto, compensated": "--executors action-flow:auto",
    "adaptive, lead auto, compensated": "--executors action-flow:auto --early adaptive",
    "synchronous": "--executors synchronous",
}
_FRESH = f"--seed {FIRST_REPORT_SEED} --json"
_TUNING = f"--seed {FIRST_TUNING_SEED} --json"


def _early_recipe(profile: str, lead: int, episodes: int, flags: str = "") -> Recipe:
    """The headline rows of early observation at one profile. The classic loop never works at two
    stages at once, so a second accelerator changes nothing for it and its row is left out."""
    rows = {
        name.replace("lead 2", f"lead {lead}"): arguments.replace(":2", f":{lead}")
        for name, arguments in _HEADLINES.items()
        if not (name == "synchronous" and "--concurrent" in flags)
    }
    evaluation = f"eval --suite metaworld --episodes {episodes} {_FRESH} --profile {profile}"
    return Recipe(
        commands={name: f"{evaluation} {flags}{arguments}" for name, arguments in rows.items()},
        gather=_schedule_rows,
        tuning_seeds=tuning_seeds(),
        columns={
            "run": Column("schedule"),
            "mean_success": Column("success", 1, percent=True, interval="success_ci"),
            "paired": Column("paired difference", 1, percent=True, interval="paired_ci"),
            "halt_ms_per_observation": Column("halt / observation (ms)"),
            "t_action_ms": Column("T_action (ms)", 2),
            "early_accept_rate": Column("observed early", 0, percent=True),
            "objections": Column("objections", 0),
            "second_looks": Column("second looks", 0),
            "mean_lead": Column("mean lead", 2),
            "smoothness.sparc": Column("SPARC", 2),
            "smoothness.mean_jerk": Column("mean jerk", 0),
            "seam_ratio": Column("seam / step", 2),
            "lost_most": Column(f"lost most (episodes solved, of {episodes})"),
            "gained_most": Column("gained most"),
        },
        tables={
            "tasks": ("run", "lost_most", "gained_most"),
            "short": (
                "run",
                "mean_success",
                "paired",
                "halt_ms_per_observation",
                "t_action_ms",
                "smoothness.sparc",
                "seam_ratio",
            ),
            "main": (
                "run",
                "mean_success",
                "paired",
                "halt_ms_per_observation",
                "t_action_ms",
                "early_accept_rate",
                "objections",
                "second_looks",
                "smoothness.sparc",
                "smoothness.mean_jerk",
                "seam_ratio",
            ),
        },
    )


_SIX = (
    "--tasks reach push button-press-topdown drawer-open press-named-button window-open "
    "--profile paper-20hz"
)


def _wall_clock_recipe(arguments: str) -> Recipe:
    """Methods side by side in real time."""
    return Recipe(
        commands={"run": f"run --episodes 24 {arguments} --json"},
        rows=_method_rows,
        tuning_seeds=tuning_seeds(),
        seen=True,
        columns={
            "run": Column("method"),
            "success": Column("success", 0, percent=True, interval="success_ci"),
            "episodes": Column("episodes", 0),
            "t_action_ms": Column("T_action (ms)"),
            "halt_ms_per_observation": Column("halt / observation (ms)"),
            "longest_halt_ms": Column("longest halt (ms)"),
            "starved_ticks": Column("starved ticks", 0),
            "deadline_misses": Column("misses", 0),
            "action_age_ms.p50": Column("age p50 (ms)", 0),
            "success_difference": Column(
                "success, paired difference", 0, percent=True, interval="success_difference_ci"
            ),
            "t_action_ratio": Column("speed-up", 2),
            "halt_ratio": Column("less halting", 1),
        },
        tables={
            "main": (
                "run",
                "success",
                "t_action_ms",
                "halt_ms_per_observation",
                "longest_halt_ms",
                "starved_ticks",
                "action_age_ms.p50",
                "t_action_ratio",
                "halt_ratio",
                "success_difference",
            ),
        },
    )


def _headline_rows(figures: dict[str, Row]) -> list[Row]:
    """One row per `eval`, named `loop: method`, with the paired difference of the first method of
    its loop to it."""
    first: dict[str, Row] = {}
    rows = []
    for name, each in figures.items():
        loop, _, method = name.partition(": ")
        row = {**each, "run": name, "loop": loop, "method": method}
        reference = first.setdefault(loop, each)
        if reference is not each:
            paired = compare_paired(_solved(each), _solved(reference))
            row |= {"behind": paired.difference, "behind_ci": [paired.low, paired.high]}
        rows.append(row)
    return rows


def _headline_recipe(evaluation: str) -> Recipe:
    """The three methods at no halt, each at the smallest lead that reaches it, and as the classic
    loop drives them; with their best settings, which are their defaults. Regression is better when
    it replans (`_loop_settings_recipe`), so it is there both ways."""
    no_halt = {method: f"{method} {_ZERO_HALT}" for method in _METHODS}
    no_halt["regression, replanning"] = f"regression {_REPLANNING}"
    classic = {method: f"{method} {_CLASSIC}" for method in _METHODS}
    return Recipe(
        commands={
            f"{loop}: {method}": f"{evaluation} {arguments}"
            for loop, methods in (("no halt", no_halt), ("classic", classic))
            for method, arguments in methods.items()
        },
        gather=_headline_rows,
        tuning_seeds=tuning_seeds(),
        columns={
            "run": Column("run"),
            "loop": Column("loop"),
            "method": Column("method"),
            "mean_success": Column("success", 1, percent=True, interval="success_ci"),
            "behind": Column("action flow less this", 1, percent=True, interval="behind_ci"),
            "noise_scale": Column("noise scale", 2),
            "euler_steps": Column("Euler steps", 0),
            "mean_lead": Column("lead", 1),
            "halt_ms_per_observation": Column("halt / observation (ms)"),
            "t_action_ms": Column("T_action (ms)"),
            "action_age_ms.p50": Column("action age p50 (ms)", 0),
            "smoothness.sparc": Column("SPARC", 2),
        },
        tables={
            "main": (
                "loop",
                "method",
                "mean_success",
                "behind",
                "halt_ms_per_observation",
                "t_action_ms",
            ),
            "full": (
                "loop",
                "method",
                "noise_scale",
                "euler_steps",
                "mean_lead",
                "mean_success",
                "behind",
                "halt_ms_per_observation",
                "t_action_ms",
                "action_age_ms.p50",
                "smoothness.sparc",
            ),
        },
    )


_NOISE_SCALES = ("0", "0.25", "0.5", "1")
_LEADS_OF_STEPS = {"1": 3, "2": 4, "5": 6, "10": 9}
"""Euler steps → the smallest lead without a halt at paper-20hz, on one accelerator."""


def _chunk_settings_recipe() -> Recipe:
    """Chunk flow by noise scale and Euler steps, in both loops: how its defaults were chosen."""
    cell = f"eval --suite metaworld --episodes 3 {_TUNING} --method chunk-flow"
    commands = {
        f"{loop}, noise {noise}|{steps}": f"{cell} --noise-scale {noise} --euler-steps {steps} "
        f"--executors {executor.format(lead)}"
        for loop, executor in (("classic", "synchronous"), ("no halt", "action-flow:{}"))
        for noise in _NOISE_SCALES
        for steps, lead in _LEADS_OF_STEPS.items()
    }
    columns = {
        f"{steps}.mean_success": Column(
            f"{steps} steps (lead {lead})", 1, percent=True, interval=f"{steps}.success_ci"
        )
        for steps, lead in _LEADS_OF_STEPS.items()
    }
    return Recipe(
        commands=commands,
        gather=_chunk_settings_rows,
        tuning_seeds=tuning_seeds(),
        seen=True,
        columns={"run": Column("loop, noise scale"), **columns},
        tables={"main": ("run", *columns)},
    )


_CANDIDATES = (("0", "2"), ("0", "5"), ("0", "10"), ("0.25", "2"), ("0.25", "10"), ("0.5", "2"))


def _chunk_candidates_recipe() -> Recipe:
    """The best cells of `_chunk_settings_recipe` on more seeds."""
    cell = f"eval --suite metaworld --episodes 10 {_TUNING} --method chunk-flow"
    settings = "noise {0}, {1} steps"
    classic = {
        f"classic: {settings.format(noise, steps)}": f"{cell} --noise-scale {noise} "
        f"--euler-steps {steps} --executors synchronous"
        for noise, steps in _CANDIDATES
    }
    no_halt = {
        f"no halt: {settings.format(noise, steps)}": f"{cell} --noise-scale {noise} "
        f"--euler-steps {steps} --executors action-flow:{_LEADS_OF_STEPS[steps]}"
        for noise, steps in (("0", "2"), ("0.25", "2"), ("0.25", "5"), ("0.5", "2"))
    }
    return Recipe(
        commands=classic | no_halt,
        gather=_headline_rows,
        tuning_seeds=tuning_seeds(),
        seen=True,
        columns={
            "run": Column("loop: settings"),
            "mean_success": Column("success", 1, percent=True, interval="success_ci"),
            "behind": Column("first of its loop less this", 1, percent=True, interval="behind_ci"),
        },
        tables={"main": ("run", "mean_success", "behind")},
    )


def _chunk_settings_rows(figures: dict[str, Row]) -> list[Row]:
    """A row per loop and noise scale, its cells by number of steps."""
    rows: dict[str, Row] = {}
    for name, each in figures.items():
        run, _, steps = name.partition("|")
        rows.setdefault(run, {"run": run})[steps] = each
    return list(rows.values())


_LOOPS = {
    "classic, 10 of 10": "--executors synchronous",
    "classic, 5 of 10": "--executors synchronous:5",
    "no halt, when due": "--executors action-flow:auto",
    "no halt, replanning": "--executors action-flow:auto --replan as-fast-as-possible",
}


def _loop_settings_recipe() -> Recipe:
    """Every method under every loop: which loops are its best."""
    return Recipe(
        commands={
            f"{method}, {loop}": f"eval --suite metaworld --episodes 5 {_TUNING} "
            f"--method {method} {executor}"
            for method in _METHODS
            for loop, executor in _LOOPS.items()
        },
        tuning_seeds=tuning_seeds(),
        seen=True,
        columns={
            "run": Column("method, loop"),
            "mean_success": Column("success", 1, percent=True, interval="success_ci"),
            "halt_ms_per_observation": Column("halt / observation (ms)"),
            "t_action_ms": Column("T_action (ms)"),
            "action_age_ms.p50": Column("action age p50 (ms)", 0),
        },
        tables={
            "main": (
                "run",
                "mean_success",
                "halt_ms_per_observation",
                "t_action_ms",
                "action_age_ms.p50",
            ),
        },
    )


_METHODS = ("action-flow", "chunk-flow", "regression")
_METAWORLD = f"eval --suite metaworld --episodes 50 {_FRESH} --method"
_LANGUAGE = f"eval --suite language --episodes 50 {_FRESH} --method"
_NEAREST = "--nearest-phrase 0.3"
_ZERO_HALT, _CLASSIC = "--executors action-flow:auto", "--executors synchronous"
_REPLANNING = "--executors action-flow:auto --replan as-fast-as-possible"

_REACTION = f"eval --tasks reach-moved --episodes 200 --seconds 6 {_FRESH}"

_TIMELINE = "simulate --observe-ms 58 --generate-ms 18 --execute-ms 27 --horizon 10 --json"

RECIPES: dict[str, Recipe] = {
    "timeline": Recipe(
        commands={
            "synchronous, 5 of 10 executed": f"{_TIMELINE} --executors synchronous "
            "--execute-horizon 5",
            "synchronous": f"{_TIMELINE} --executors synchronous",
            "action flow, lead 0": f"{_TIMELINE} --lead 0",
            "action flow, lead 2": f"{_TIMELINE} --lead 2",
            "action flow, lead 3": f"{_TIMELINE} --lead 3",
        },
        columns={
            "run": Column("schedule"),
            "t_action_ms": Column("T_action (ms)"),
            "halt_ms_per_observation": Column("halt / observation (ms)"),
            "action_age_ms.p50": Column("action age p50 (ms)"),
        },
        tables={
            "main": ("run", "t_action_ms", "halt_ms_per_observation", "action_age_ms.p50"),
        },
    ),
    "headline": _headline_recipe(_METAWORLD),
    "metaworld": _compared_recipe(
        {method: f"{_METAWORLD} {method} {_ZERO_HALT}" for method in _METHODS}, _METHODS[1:]
    ),
    "metaworld-classic": _compared_recipe(
        {method: f"{_METAWORLD} {method} {_CLASSIC}" for method in _METHODS}, _METHODS[1:]
    ),
    "chunk-settings": _chunk_settings_recipe(),
    "chunk-candidates": _chunk_candidates_recipe(),
    "loop-settings": _loop_settings_recipe(),
    "language": _headline_recipe(_LANGUAGE),
    "instructions": _compared_recipe(
        {
            "own goal": f"{_LANGUAGE} action-flow",
            "another goal asked for": f"{_LANGUAGE} action-flow --asked swapped",
            "no words": f"{_LANGUAGE} action-flow --asked blank",
            "held-out phrasings": f"{_LANGUAGE} action-flow --instructions heldout",
            "independent paraphrases": f"{_LANGUAGE} action-flow --instructions independent",
        },
        ("held-out phrasings", "independent paraphrases"),
    ),
    "words": Recipe(
        commands={
            name: f"{_LANGUAGE} action-flow {arguments}".strip()
            for name, arguments in {
                "as trained": "",
                "held-out phrasings": "--instructions heldout",
                "held-out phrasings, nearest told": f"--instructions heldout {_NEAREST}",
                "independent paraphrases": "--instructions independent",
                "independent paraphrases, nearest told": f"--instructions independent {_NEAREST}",
                "misspelt": "--misspelt",
                "misspelt, nearest told": f"--misspelt {_NEAREST}",
                "misspelt paraphrases, nearest told": "--instructions independent --misspelt "
                f"{_NEAREST}",
            }.items()
        },
        gather=_schedule_rows,
        tuning_seeds=tuning_seeds(),
        columns={
            "run": Column("instructions"),
            "success": Column("success", 1, percent=True, interval="success_ci"),
            "paired": Column("less as trained, paired", 1, percent=True, interval="paired_ci"),
            **{
                f"tasks.{family}.success": Column(family, 0, percent=True)
                for family in suite_tasks("language")
            },
        },
        tables={
            "main": (
                "run",
                "success",
                "paired",
                *(f"tasks.{family}.success" for family in suite_tasks("language")),
            )
        },
    ),
    "ablations": Recipe(
        commands={
            "ablations": "ablations --names unshared-normalisation unaligned all-delta "
            "label-path age-untold no-contraction no-perturbation tau-uniform tau-beta horizon-5 "
            "--json"
        },
        rows=_ablation_rows,
        tuning_seeds=tuning_seeds(),
        seen=True,
        columns={
            "run": Column("change"),
            "success": Column("success", 0, percent=True, interval="success_ci"),
            "success_difference": Column(
                "paired difference", 0, percent=True, interval="success_difference_ci"
            ),
            "action_error": Column("held-out action error", 3),
            "action_error_ratio": Column("of the control's", 2),
            "seam_ratio": Column("seam / step", 2),
        },
        tables={
            "main": (
                "run",
                "success",
                "success_difference",
                "action_error",
                "action_error_ratio",
                "seam_ratio",
            )
        },
    ),
    "wall-clock": _wall_clock_recipe(f"--videos 1 {_SIX} --out runs/wall-clock"),
    "early-wall-clock": _wall_clock_recipe(
        f"--executors synchronous action-flow:0 action-flow:auto --early adaptive {_SIX} "
        "--out runs/early-wall-clock"
    ),
    "early": _early_recipe("paper-20hz", 2, 20),
    "early-event": _early_recipe("paper-20hz", 2, 12, "--pacing event "),
    "early-edge": _early_recipe("edge-20hz", 5, 12),
    "early-edge-two": _early_recipe("edge-20hz", 5, 12, "--concurrent "),
    "early-gate": Recipe(
        commands={
            "demonstrations": "train-saliency --test datasets/held-out "
            "--figure docs/assets/early-gate.svg --json",
            "begun by the policy": "train-saliency --test datasets/policy-driven --json",
        },
        rows=_gate_rows,
        columns={
            "run": Column("episodes nobody trained on"),
            "episodes": Column("episodes", 0),
            "miss_main": Column(
                "large changes missed, camera 1", 1, percent=True, interval="main_ci"
            ),
            "miss_second": Column("camera 2", 1, percent=True, interval="second_ci"),
            "accept_rate.1": Column("no objection at lead 1", 0, percent=True),
            "accept_rate.3": Column("lead 3", 0, percent=True),
            "accept_rate.5": Column("lead 5", 0, percent=True),
            "accept_rate_still.5": Column("lead 5, nothing moves", 0, percent=True),
            "accept_rate_moved.5": Column("lead 5, a thing moves", 0, percent=True),
            "large_when_accepted": Column("large, and no objection", 2, percent=True),
        },
        tables={
            "main": (
                "run",
                "episodes",
                "miss_main",
                "miss_second",
                "accept_rate.1",
                "accept_rate.3",
                "accept_rate.5",
                "accept_rate_still.5",
                "accept_rate_moved.5",
                "large_when_accepted",
            )
        },
    ),
    "early-grid": _grid_recipe(
        "reach push button-press drawer-open window-close press-named-button",
        "runs/offsets",
        "--dataset datasets/all --figure docs/assets/early-grid.svg",
    ),
    "early-grid-hard": _grid_recipe(
        "assembly basketball button-press-topdown button-press-wall disassemble door-lock",
        "runs/offsets-hard",
        "--rules none always --out runs/grid-hard --figure docs/assets/early-grid-hard.svg",
    ),
    "reaction": Recipe(
        commands={
            "synchronous": f"{_REACTION} --executors synchronous",
            "action flow, no early observation": f"{_REACTION} --executors action-flow:0",
            "action flow, early observation": f"{_REACTION} --executors action-flow:auto",
            "as fast as possible": f"{_REACTION} --replan as-fast-as-possible",
            "as fast as possible, an accelerator each": f"{_REACTION} --concurrent "
            "--replan as-fast-as-possible",
        },
        tuning_seeds=tuning_seeds(),
        columns={
            "run": Column("executor"),
            "reaction_ms.p50": Column("reaction p50 (ms)", 0),
            "reaction_ms.p99": Column("p99 (ms)", 0),
            "reaction_ms.mean": Column("mean (ms)", 0),
            "reaction_ms.count": Column("episodes", 0),
            "mean_success": Column("success", 0, percent=True, interval="success_ci"),
            "halt_ms_per_observation": Column("halt / observation (ms)"),
        },
        tables={
            "main": (
                "run",
                "reaction_ms.p50",
                "reaction_ms.p99",
                "reaction_ms.mean",
                "reaction_ms.count",
                "mean_success",
                "halt_ms_per_observation",
            )
        },
    ),
    "faults": Recipe(
        commands={"campaign": "bench faults --faults 2016 --json"},
        rows=_kind_rows,
        columns=_CAMPAIGN,
        tables={"main": tuple(name for name in _CAMPAIGN if name != "skipped_ticks")},
    ),
    "faults-wall-clock": Recipe(
        commands={"campaign": "bench faults --faults 0 --wall-clock 342 --json"},
        rows=_kind_rows,
        columns=_CAMPAIGN,
        tables={"main": tuple(_CAMPAIGN)},
    ),
    "realtime": Recipe(
        commands={
            "100 Hz": "bench realtime --hz 100 --seconds 60 --json",
            "500 Hz": "bench realtime --hz 500 --seconds 60 --json",
        },
        rows=_loop_rows,
        columns={
            "run": Column("command lateness, the model's process under full load"),
            "lateness_p50_ms": Column("p50 (ms)", 3),
            "lateness_p99_ms": Column("p99 (ms)", 3),
            "lateness_max_ms": Column("max (ms)", 2),
            "miss_rate": Column("> 1 ms late or never", 2, percent=True),
            "stolen_ms": Column("withheld by the host (ms)", 0),
        },
        tables={
            "main": (
                "run",
                "lateness_p50_ms",
                "lateness_p99_ms",
                "lateness_max_ms",
                "miss_rate",
                "stolen_ms",
            ),
        },
    ),
    "realtime-cameras": Recipe(
        commands={"100 Hz": "bench realtime --cameras 3 --sweep --hz 100 --seconds 30 --json"},
        rows=lambda name, figures: figures["rows"],
        columns={
            "run": Column("three cameras at 30 Hz, commands at 100 Hz"),
            "lateness_p50_ms": Column("lateness p50 (ms)", 3),
            "lateness_p99_ms": Column("p99 (ms)", 3),
            "lateness_max_ms": Column("max (ms)", 2),
            "lost_rate": Column("ticks lost", 2, percent=True),
            "capture_p50_us": Column("control thread per capture p50 (µs)", 0),
            "capture_p99_us": Column("p99 (µs)", 0),
            "captures": Column("captures", 0),
            "stolen_ms": Column("withheld by the host (ms)", 0),
        },
        tables={
            "main": (
                "run",
                "lateness_p50_ms",
                "lateness_p99_ms",
                "lateness_max_ms",
                "lost_rate",
                "capture_p50_us",
                "capture_p99_us",
                "stolen_ms",
            ),
        },
    ),
    "handoff": Recipe(
        commands={"this machine": "bench handoff --records 100000000 --singles 1000000 --json"},
        columns={
            "run": Column("hand-off between processes"),
            "visible_p99_us": Column("ready to visible p99 (µs)"),
            "woken_p99_us": Column("ready to awake p99 (µs)"),
            "records": Column("records in batches", 0),
            "records_per_s": Column("a second", 0),
            "single_records": Column("records one by one", 0),
            "single_records_per_s": Column("one by one a second", 0),
            "torn_or_lost": Column("torn or lost", 0),
        },
        tables={
            "main": (
                "run",
                "visible_p99_us",
                "woken_p99_us",
                "records",
                "records_per_s",
                "single_records",
                "single_records_per_s",
                "torn_or_lost",
            )
        },
    ),
    "policies": Recipe(
        commands={"this machine": "bench policy --generations 300 --json"},
        rows=_policy_rows,
        columns={
            "run": Column("method"),
            "parameters": Column("parameters", 0),
            "encode_p50_ms": Column("observation encoded (ms)"),
            "first_action_p50_ms": Column("then first action p50 (ms)"),
            "first_action_p99_ms": Column("p99 (ms)"),
            "action_p50_ms": Column("per action (ms)", 2),
            "action_mflop": Column("MFLOP per action"),
        },
        tables={
            "main": (
                "run",
                "parameters",
                "encode_p50_ms",
                "first_action_p50_ms",
                "first_action_p99_ms",
                "action_p50_ms",
                "action_mflop",
            )
        },
    ),
    "examples": Recipe(
        commands={
            "Reacher-v5": "examples/reacher.py",
            "gym-aloha": "examples/aloha.py",
        },
        rows=_example_rows,
        columns={
            "run": Column("environment, executor"),
            "halt_ms_per_observation": Column("halt / observation (ms)"),
            "longest_halt_ms": Column("longest halt (ms)", 0),
            "starved_ticks": Column("ticks without an action", 0),
            "actions": Column("actions", 0),
            "deadline_misses": Column("deadline misses", 0),
        },
        tables={
            "main": (
                "run",
                "halt_ms_per_observation",
                "longest_halt_ms",
                "starved_ticks",
                "actions",
                "deadline_misses",
            )
        },
    ),
    "overhead": Recipe(
        commands={"this machine": "bench runtime --json"},
        columns={
            "run": Column("runtime overhead"),
            "tick_p50_us": Column("tick p50 (µs)"),
            "tick_p99_us": Column("tick p99 (µs)"),
            "simulated_ticks_per_s": Column("simulated ticks / s", 0),
            "simulated_ticks": Column("in a run of", 0),
            "memory_growth_mib": Column("memory growth (MiB)"),
        },
        tables={
            "main": (
                "run",
                "tick_p50_us",
                "tick_p99_us",
                "simulated_ticks_per_s",
                "simulated_ticks",
                "memory_growth_mib",
            )
        },
    ),
    **SWEEPS,
    **FOCUS,
    **COSTS,
}
