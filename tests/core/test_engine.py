"""Jobs over processes of this machine: each once, whoever dies."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing
from pathlib import Path

import pytest

from streamvla.core.engine import TRIES, LocalEngine
from streamvla.core.errors import ConfigError, WorkerError

_begun: list[int] = []


def square(job: int) -> int:
    return job * job


def begin() -> None:
    _begun.append(os.getpid())


def starts_of_worker(_: int) -> tuple[int, int]:
    return os.getpid(), len(_begun)


def die_once(mark: Path) -> str:
    """Dies unless the mark is there."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return mark.name


def die_on_three(job: int) -> int:
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def refuse_three(job: int) -> int:
    if job == 3:
        raise ConfigError("no three")
    return job


def raise_what_cannot_be_sent(_: int) -> None:
    class LocalError(Exception):
        pass

    raise LocalError("only here")


def give_a_lock(_: int) -> dict[str, object]:
    return {"lock": threading.Lock()}


class OnlyAtHome:
    def __reduce__(self) -> tuple[object, ...]:
        return refuse_three, (3,)


def process_of(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_once(workers):
    """Each index comes back once with the result of its job, and none is missing."""
    found = list(LocalEngine(workers).map_unordered(square, range(9)))
    assert sorted(found) == [(i, i * i) for i in range(9)]


def test_no_jobs_start_no_worker():
    """Without jobs nothing is started, and nothing comes."""
    assert list(LocalEngine(2).map_unordered(square, [])) == []


def test_a_worker_is_started_once():
    """`start` runs once in every process, before its first job."""
    found = [
        result for _, result in LocalEngine(2).map_unordered(starts_of_worker, range(8), begin)
    ]
    assert {starts for _, starts in found} == {1}
    assert os.getpid() not in {process for process, _ in found}


def test_a_job_whose_worker_was_killed_is_done_again(tmp_path):
    """SIGKILL in the middle of two jobs: both come back all the same, each once."""
    marks = [tmp_path / name for name in ("a", "b")]
    found = list(LocalEngine(2).map_unordered(die_once, marks))
    assert sorted(found) == [(0, "a"), (1, "b")]


def test_a_job_that_always_kills_is_given_up_at_the_end():
    """All others are done first; then one error counts it."""
    done: list[int] = []
    with pytest.raises(
        WorkerError, match=f"1 of the jobs ended their worker process {TRIES} times"
    ):
        done.extend(index for index, _ in LocalEngine(2).map_unordered(die_on_three, range(9)))
    assert sorted(done) == [0, 1, 2, 4, 5, 6, 7, 8]


def test_workers_that_all_die_end_in_one_error():
    """When no job ever gets done, nobody goes on for ever."""
    with pytest.raises(WorkerError, match="one after the other"):
        list(LocalEngine(1).map_unordered(die_on_three, [3] * 9))


def test_an_error_of_a_job_is_raised_as_it_is():
    """Class and message arrive, with where it was raised."""
    with pytest.raises(ConfigError, match="no three") as raised:
        list(LocalEngine(2).map_unordered(refuse_three, range(5)))
    assert "refuse_three" in "".join(raised.value.__notes__)


def test_an_error_that_cannot_be_sent_keeps_its_words():
    """Its text arrives in a `RuntimeError`."""
    with pytest.raises(RuntimeError, match="only here"):
        list(LocalEngine(1).map_unordered(raise_what_cannot_be_sent, [0]))


def test_a_result_that_cannot_be_sent_is_named():
    """The error says the function, the type and why, and no worker counts as dead."""
    with pytest.raises(TypeError, match=r"give_a_lock gave dict, which cannot be pickled \(.*lock"):
        list(LocalEngine(1).map_unordered(give_a_lock, [0]))


def test_a_job_that_cannot_be_received_is_named():
    """What unpickling a job raises in the worker arrives as it is."""
    with pytest.raises(ConfigError, match="no three"):
        list(LocalEngine(1).map_unordered(process_of, [OnlyAtHome()]))


def test_closing_ends_the_workers():
    """After the generator is closed none of its processes is there."""
    with closing(LocalEngine(2).map_unordered(process_of, range(100))) as found:
        _, process = next(found)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_no_workers_are_refused():
    """Zero workers would wait for ever."""
    with pytest.raises(ConfigError, match="at least 1"):
        LocalEngine(0)
