"""Jobs over processes: what a sweep asks of whoever runs them, and the processes of this machine.

    jobs ──► worker ──► (number of the job, its result), in the order in which they are done
             worker

A worker that dies (killed, out of memory) costs its job in hand alone: that goes to the end of the
queue, and another worker takes the place.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol, TypeVar

from streamvla.core.errors import ConfigError, WorkerError
from streamvla.core.parent import die_with_parent

J = TypeVar("J")
R = TypeVar("R")

TRIES = 3
"""So often a job is tried whose worker dies; an exception is raised at once."""
_LONGEST_END_S = 5.0


class Engine(Protocol):
    """Where jobs run. Results are the same whatever the engine: a job depends on nothing else."""

    def map_unordered(
        self,
        function: Callable[[J], R],
        jobs: Sequence[J],
        start: Callable[[], object] | None = None,
    ) -> Generator[tuple[int, R]]:
        """Run every job once; close the generator to end early, which drops the jobs in hand.

        Args:
            function: job → result, both of which can be pickled; a function of a module, as is
                `start`.
            start: called once in every process, before its first job.

        Yields:
            (index of the job, its result), as they are done.

        Raises:
            WorkerError: the workers of one job died `TRIES` times; what else could be done is.
            TypeError: a result cannot be pickled.
            Exception: what `function` or `start` raised.
        """
        ...


@dataclass(frozen=True)
class LocalEngine:
    """Processes of this machine. Implements `Engine`.

    Call it under `if __name__ == "__main__"`: processes are spawned.

    Attributes:
        workers: how many, at least 1.
    """

    workers: int

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers {self.workers}: expected at least 1")

    def map_unordered(
        self,
        function: Callable[[J], R],
        jobs: Sequence[J],
        start: Callable[[], object] | None = None,
    ) -> Generator[tuple[int, R]]:
        """As `Engine.map_unordered`."""
        waiting = deque(range(len(jobs)))
        deaths, workers = WorkerDeaths(most_in_a_row=TRIES * self.workers), list[_Worker]()
        try:
            while waiting or any(worker.busy for worker in workers):
                wanted = len(waiting) + sum(worker.busy for worker in workers)
                while len(workers) < min(self.workers, wanted):
                    workers.append(_Worker(function, start))
                for worker in workers:
                    if waiting and not worker.busy:
                        index = waiting.popleft()
                        worker.give(index, jobs[index])
                for worker in _ready(workers):
                    index, answer = worker.take()
                    if answer is None:
                        worker.end()
                        workers.remove(worker)
                        if deaths.may_try_again(index):
                            waiting.append(index)
                    elif isinstance(answer, _Raised):
                        raise answer.error
                    else:
                        deaths.in_a_row = 0
                        yield index, answer.result
            deaths.require_none_given_up()
        finally:
            for worker in workers:
                worker.end()


@dataclass
class WorkerDeaths:
    """How often workers died, and in the middle of what.

    Attributes:
        most_in_a_row: without any job done in between; then something is wrong with all of them.
    """

    most_in_a_row: int
    in_a_row: int = 0
    of: Counter[int] = field(default_factory=Counter[int])

    def may_try_again(self, index: int) -> bool:
        """Count a death; whether the job should be tried again.

        Raises:
            WorkerError: too many died one after the other.
        """
        self.of[index] += 1
        self.in_a_row += 1
        if self.in_a_row >= self.most_in_a_row:
            raise WorkerError(
                f"{self.in_a_row} worker processes died one after the other (out of memory?). What "
                "is done is kept: run the same command again, with fewer --workers"
            )
        return self.of[index] < TRIES

    def require_none_given_up(self) -> None:
        """Raise `WorkerError` if a job was tried `TRIES` times in vain."""
        given_up = sum(count >= TRIES for count in self.of.values())
        if given_up:
            raise WorkerError(
                f"{given_up} of the jobs ended their worker process {TRIES} times each (out of "
                "memory?). All others are done and kept: run the same command again, with fewer "
                "--workers, or leave out what cannot be run"
            )


@dataclass(frozen=True)
class _Done:
    result: Any


@dataclass(frozen=True)
class _Raised:
    error: Exception


class _Worker:
    """One process, and the job it has in hand."""

    def __init__(self, function: Callable[[Any], Any], start: Callable[[], object] | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.answers, theirs = context.Pipe()
        self.job: int | None = None
        self._process = context.Process(target=_serve, args=(theirs, function, start), daemon=True)
        self._process.start()
        theirs.close()  # so that its death is the end of what can be received

    @property
    def busy(self) -> bool:
        return self.job is not None

    def give(self, index: int, job: Any) -> None:
        self.job = index
        with suppress(OSError):  # it is dead, which `take` will find
            self.answers.send(job)

    def take(self) -> tuple[int, _Done | _Raised | None]:
        """The job that was in hand, and what came of it; None: the worker is dead."""
        index, self.job = self.job, None
        assert index is not None
        try:
            return index, self.answers.recv()
        except (EOFError, OSError):
            return index, None

    def end(self) -> None:
        """Idle, it ends by itself; busy, its job is dropped."""
        self.answers.close()
        if self.busy:
            self._process.kill()
        self._process.join(_LONGEST_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    """Those that have an answer, or died; waits until there is one."""
    busy = {worker.answers: worker for worker in workers if worker.busy}
    answered = wait(list(busy))
    return [busy[answers] for answers in busy if answers in answered]


def _serve(
    answers: Any, function: Callable[[Any], Any], start: Callable[[], object] | None
) -> None:
    """A worker's life: jobs until there are no more. Ctrl-C is for who started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    started = start is None
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            received = answers.recv_bytes()
            try:
                job = pickle.loads(received)
                if start is not None and not started:
                    start()
                    started = True
                answer = _pickled(function(job), function)
            except Exception as error:
                answer = pickle.dumps(_Raised(_portable(error)))
            answers.send_bytes(answer)


def _pickled(result: Any, function: Callable[[Any], Any]) -> bytes:
    """The answer to a job, as it is sent.

    Raises:
        TypeError: the result cannot be pickled.
    """
    try:
        return ForkingPickler.dumps(_Done(result)).tobytes()
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TypeError(
            f"{function.__module__}.{function.__qualname__} gave {type(result).__name__}, which "
            f"cannot be pickled ({error}): return plain data from a job"
        ) from error


def _portable(error: Exception) -> Exception:
    """The error, or its words if it cannot be sent; with where it was raised."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
