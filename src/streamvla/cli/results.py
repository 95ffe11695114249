"""`streamvla results`: make the figures in the documents again, and keep documents true to them.

Every figure in README and docs stands in `docs/results/NAME.json`. A recipe (`studies.recipes`)
says which commands make it; `--make NAME` runs them and writes the file; without flags the
documents are rewritten from the files; `--check` only says where they disagree.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from streamvla.core.errors import StreamVLAError, did_you_mean
from streamvla.core.files import require_writable
from streamvla.core.provenance import commit, machine
from streamvla.evaluation.results import Results as ResultsFile
from streamvla.evaluation.results import check, documents, update, write_results
from streamvla.studies.recipe import Recipe, Row
from streamvla.studies.recipes import RECIPES

_EXAMPLE = """
import json, runpy, sys
results = runpy.run_path(sys.argv[1])["main"]()
rows = [{"run": each.executor, **each.metrics.to_json()} for each in results]
print(json.dumps({"seed": results[0].trace.header["seed"], "rows": rows}))
"""
"""Runs an example and prints its figures."""


@dataclass(frozen=True)
class Results:
    """Rewrite the figures in README and docs from docs/results, or make them anew.

    Attributes:
        make: run the recipe of this name and write docs/results/NAME.json first.
        check: change nothing; fail if a document disagrees with the results.
        root: the repository.
    """

    make: str | None = None
    check: bool = False
    root: Path = Path()


def results(command: Results) -> None:
    """Run the command."""
    folder = command.root / "docs" / "results"
    if command.make is not None:
        if command.make not in RECIPES:
            raise did_you_mean("results recipe", command.make, RECIPES)
        require_writable(folder / f"{command.make}.json")
        print(write_results(folder, make(command.make, RECIPES[command.make])))
    pages = documents(command.root)
    if command.check:
        complaints = check(pages, folder)
        if complaints:
            raise StreamVLAError("\n".join([*complaints, "run: streamvla results"]))
        print(f"{len(pages)} documents agree with {folder}")
        return
    for page in update(pages, folder):
        print(f"rewrote {page}")


def make(name: str, recipe: Recipe) -> ResultsFile:
    """Run a recipe's commands, one after another, and gather their figures."""
    figures = {row_name: _run(arguments) for row_name, arguments in recipe.commands.items()}
    if recipe.gather is not None:
        rows = recipe.gather(figures)
    else:
        rows = [row for item in figures.items() for row in recipe.rows(*item)]
    seeds: set[int] = set()
    for each in figures.values():
        plan = each.get("plan", each)  # of a sweep
        found = plan.get("seeds", plan.get("seed", []))
        seeds |= set(found if isinstance(found, list) else [found])
    runs = [each.get("run", each) if "plan" in each else each for each in figures.values()]
    driven_at = {at for run in runs for at in run.get("driven_at", [])}
    return ResultsFile(
        name=name,
        command=f"streamvla results --make {name}",
        commit=commit(),
        seeds=sorted(seeds),
        machine=machine(),
        rows=rows,
        columns=recipe.columns,
        tables=recipe.tables,
        driven_at=sorted(driven_at),
        tuning_seeds=recipe.tuning_seeds,
        seen=recipe.seen,
    )


def _run(arguments: str) -> Row:
    """The JSON object on the last line of one `streamvla` command, or of `_EXAMPLE`."""
    shown = f"python {arguments}" if arguments.endswith(".py") else f"streamvla {arguments}"
    print(f"$ {shown}", flush=True)
    called = ["-c", _EXAMPLE] if arguments.endswith(".py") else ["-m", "streamvla"]
    command = [sys.executable, *called, *shlex.split(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        print(done.stdout, end="")  # it says what went wrong, perhaps after half an hour
        raise StreamVLAError(f"`{shown}` failed with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
