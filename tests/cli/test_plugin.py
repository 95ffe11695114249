"""The example package, installed by itself, brings its parts through entry points alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the built package, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--target", str(folder), str(PLUGIN)]
    subprocess.run([*pip, *offline], check=True)
    return folder


@pytest.fixture(scope="module")
def streamvla(installed, tmp_path_factory):
    """Runs a command where the package is installed; gives the JSON of its last line."""
    environment = {**os.environ}
    paths = [str(installed), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    folder = tmp_path_factory.mktemp("work")

    def call(*arguments: str) -> dict:
        command = [sys.executable, "-m", "streamvla", *arguments, "--json"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    call.folder = folder
    call.environment = environment
    return call


def test_its_suite_is_collected_trained_and_evaluated(streamvla):
    """Demonstrations of a robot with absolute joints and no object positions become a policy that
    drives it."""
    made = streamvla("collect", "--suite", "dots", "--episodes", "25", "--workers", "1")
    assert made["episodes"] == 25
    trained = streamvla("train", "--dataset", "datasets/dots", "--out", "dots", "--steps", "2")
    assert trained["finished"]
    driven = streamvla(
        *("eval", "--suite", "dots", "--checkpoint", "dots/policy.safetensors"),
        *("--executor", "action-flow:auto", "--episodes", "2", "--seconds", "3", "--workers", "1"),
    )
    assert driven["episodes"] == 2
    assert driven["halt_ms_per_observation"] == 0


def test_its_policy_and_its_executor_drive_its_robot(streamvla):
    """The policy that the suite names, by scheme and by module, reaches the dots under the queue,
    in virtual time and in real time."""
    options = ("--executor", "queue:3", "--episodes", "4", "--workers", "1")
    for policy in ([], ["--checkpoint", "streamvla_dots.policy:make"]):
        driven = streamvla("eval", "--suite", "dots", *policy, *options)
        assert driven["executor"] == "queue-3"
        assert driven["success"] == 1
        assert driven["halt_ms_per_observation"] == 0
    options = ("--methods", "queue:3", "--episodes", "1", "--videos", "0")
    for task in ("go-to-dot", "dot-table"):
        run = streamvla(
            "run", "--task", task, "--checkpoint", "dots:follow", *options, "--out", task
        )
        assert run["methods"][0]["success"] == 1
        assert (streamvla.folder / task / "report.html").stat().st_size > 10_000


def test_its_parts_keep_the_contracts(streamvla):
    """The contract tests that the package inherits pass where it is installed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PLUGIN)]
    done = subprocess.run(
        command, env=streamvla.environment, capture_output=True, text=True, cwd=PLUGIN
    )
    assert done.returncode == 0, done.stdout
    assert "58 passed" in done.stdout
