"""A sweep over a Ray cluster of two nodes: the result of one process, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamvla.core.errors import ConfigError, WorkerError
from streamvla.studies.engines import RayEngine
from tests.cli.test_compare import SWEEP, sweep, timeless, wait_for_lines

pytestmark = pytest.mark.slow

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


@pytest.fixture
def cluster(monkeypatch) -> Iterator[tuple[str, int]]:
    """Address of two nodes of one core each, and the process that is the second."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # of the workers
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    nodes = Cluster(True, head_node_args={**NODE, "include_dashboard": False})
    try:
        second = nodes.add_node(**NODE)
        yield nodes.address, second.all_processes["raylet"][0].process.pid
    finally:
        nodes.shutdown()


def start(out: Path, address: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "streamvla", *SWEEP.split(), "--engine", f"ray:{address}"]
    return subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_cluster_gives_the_result_of_one_process_when_a_node_is_killed(cluster, tmp_path):
    """SIGKILL of one of two nodes in the middle: nothing is lost, nothing counted twice."""
    address, second = cluster
    sweep(tmp_path / "local", "--workers 1")
    with start(tmp_path / "ray", address) as process:
        wait_for_lines(tmp_path / "ray" / "episodes.jsonl", 10)
        os.kill(second, signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert timeless(tmp_path / "ray") == timeless(tmp_path / "local")


def test_a_killed_driver_resumes_on_the_cluster(cluster, tmp_path):
    """SIGKILL of the command: the next one drives the rest, to the same result."""
    address, _ = cluster
    sweep(tmp_path / "local", "--workers 1")
    with start(tmp_path / "ray", address) as process:
        wait_for_lines(tmp_path / "ray" / "episodes.jsonl", 10)
        process.kill()
    with start(tmp_path / "ray", address) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert timeless(tmp_path / "ray") == timeless(tmp_path / "local")


def test_a_worker_that_is_killed_costs_its_job_in_hand(cluster, tmp_path):
    """A job that kills its worker once is done again; one that always does is given up."""
    address, _ = cluster
    engine = RayEngine(address)
    marks = [tmp_path / name for name in "abc"]
    assert sorted(engine.map_unordered(die_once, marks)) == [(0, "a"), (1, "b"), (2, "c")]
    done: list[int] = []
    with pytest.raises(WorkerError, match="1 of the jobs"):
        done.extend(index for index, _ in engine.map_unordered(die_on_one, range(4)))
    assert sorted(done) == [0, 2, 3]
    with pytest.raises(ConfigError, match="no three"):
        list(engine.map_unordered(refuse_three, range(4)))


def die_once(mark: Path) -> str:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return mark.name


def die_on_one(job: int) -> int:
    if job == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def refuse_three(job: Any) -> Any:
    if job == 3:
        raise ConfigError("no three")
    return job


def test_an_address_without_a_cluster_is_refused():
    """One line says how to start one."""
    with pytest.raises(ConfigError, match="ray start --head"):
        list(RayEngine("127.0.0.1:1").map_unordered(refuse_three, [0]))
