"""`streamvla bench handoff`: the ring between model process and executor process.

Latency: an action is ready in one process (an instant on the clock both share) and visible in the
other, which either looks all the time, or sleeps until the bell rings as the executor does, with
what the executor asks of the operating system.
Throughput: records pushed and popped by two processes at full speed, every one of them verified. A
push or a pop moves a whole batch; how many pops that took is among the figures, and records one at
a time are measured apart.
"""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from streamvla.core.clock import NS_PER_S, SystemClock, ms_to_ns
from streamvla.core.errors import ConfigError, RingError
from streamvla.core.provenance import commit, machine
from streamvla.runtime.processes.channel import Channel
from streamvla.runtime.processes.handoff import result_record
from streamvla.runtime.processes.launch import Child, orphaned, receive_fd
from streamvla.runtime.processes.privileges import RealtimeSettings, ask
from streamvla.runtime.processes.ring import SharedRing
from streamvla.studies.tables import figure, print_json, print_table

_RECORD = result_record(7)
_CAPACITY = 1 << 14
_PAUSE_NS = ms_to_ns(1)
"""Between two actions whose hand-off is timed."""


@dataclass(frozen=True)
class BenchHandoff:
    """Measure the shared-memory ring between two processes.

    Attributes:
        records: pushed and popped in batches, all verified.
        batch: records a push.
        singles: pushed one at a time, all verified.
        samples: hand-offs timed one by one, each way of waiting.
        priority: SCHED_FIFO priority of the one who sleeps until the bell rings, as the executor's;
            None for the normal scheduler.
        json: print the figures as one JSON object on the last line.
    """

    records: int = 10_000_000
    batch: int = 1024
    singles: int = 100_000
    samples: int = 2_000
    priority: int | None = RealtimeSettings.fifo_priority
    json: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= _CAPACITY:
            raise ConfigError(f"batch {self.batch}: expected 1 to {_CAPACITY}")
        if min(self.records, self.singles, self.samples) < 100:
            raise ConfigError(
                f"records {self.records}, singles {self.singles} and samples {self.samples}: "
                "expected at least 100 each"
            )


def bench_handoff(command: BenchHandoff) -> None:
    """Run the command and print its figures.

    Raises:
        RingError: a record was torn, lost or repeated.
    """
    figures = {
        **_latency(command.samples, None),
        **_latency(command.samples, RealtimeSettings(command.priority)),
        "records": command.records,
        "batch": command.batch,
        **_throughput(command.records, command.batch),
        "single_records": command.singles,
        **{f"single_{name}": value for name, value in _throughput(command.singles, 1).items()},
        "torn_or_lost": 0,  # one would have raised
    }
    rows = [(name, figure(float(value))) for name, value in figures.items()]
    print_table(f"Hand-off between processes on {machine()['cpu']}", ("figure", "value"), rows)
    if command.json:
        head = {"command": "bench handoff", "commit": commit(), "machine": machine()}
        print_json({**head, **figures})


# --- latency ---------------------------------------------------------------------------------


def _latency(samples: int, asleep: RealtimeSettings | None) -> dict[str, float]:
    """From ready to visible, microseconds: `visible_*` looking all the time, `woken_*` asleep."""
    ring = SharedRing.create(_RECORD, _CAPACITY)
    ours, theirs = socket.socketpair()
    child = Child("producer", _produce_timed, samples)
    child.send_fd(ring.fd)
    child.send_fd(theirs.fileno())
    theirs.close()
    channel = Channel(ours.detach())
    with ThreadPoolExecutor(1) as thread:  # what it is granted ends with it
        late_ns = thread.submit(_consume_timed, ring, channel, samples, asleep).result()
    child.close()
    channel.close()
    ring.close()
    name = "woken" if asleep else "visible"
    p50, p99 = np.percentile(late_ns, (50, 99)) / 1e3
    largest = float(late_ns.max()) / 1e3
    return {f"{name}_p50_us": p50, f"{name}_p99_us": p99, f"{name}_max_us": largest}


def _consume_timed(
    ring: SharedRing, channel: Channel, samples: int, asleep: RealtimeSettings | None
) -> np.ndarray:
    """(samples,) ns from ready to visible."""
    if asleep:
        ask(asleep)
    clock, late_ns = SystemClock(), np.empty(samples, np.int64)
    for sample in range(samples):
        while not len(records := ring.pop(1)):
            if asleep:
                channel.wait()
                channel.receive()
            _require(not channel.closed, "the producer died")
        late_ns[sample] = clock.now_ns() - records[0]["made_ns"]
    return late_ns


def _produce_timed(connection: Connection, samples: int) -> None:
    """In the producer: records that say when they were ready, one after a pause."""
    clock, record = SystemClock(), np.zeros(1, _RECORD)
    ring = SharedRing.attach(receive_fd(connection), _RECORD)
    channel = Channel(receive_fd(connection))
    for _ in range(samples):
        clock.sleep_for_ns(_PAUSE_NS)
        record["made_ns"] = clock.now_ns()
        ring.push(record)
        channel.ring_bell()
    connection.poll(None)  # the consumer closes when it has them all


# --- throughput ------------------------------------------------------------------------------


def _throughput(total: int, batch: int) -> dict[str, float]:
    """Verified records a second from one process to the other, and the pops it took."""
    clock, seen, pops = SystemClock(), 0, 0
    ring = SharedRing.create(_RECORD, _CAPACITY)
    child = Child("producer", _produce, total, batch)
    child.send_fd(ring.fd)
    child.receive()  # it is about to push
    begin_ns = clock.now_ns()
    while seen < total:
        records = ring.pop(batch)
        if not len(records):
            _require(child.alive or len(ring) > 0, f"the producer died after {seen} records")
            clock.sleep_for_ns(0)
            continue
        _verify(records, seen)
        seen += len(records)
        pops += 1
    elapsed_ns = clock.now_ns() - begin_ns
    child.close()
    ring.close()
    return {"records_per_s": total * NS_PER_S / elapsed_ns, "pops": pops}


def _numbered(first: int, count: int) -> np.ndarray:
    """(count,) records `first`, `first + 1`, …, each saying its number in every part."""
    records = np.zeros(count, _RECORD)
    numbers = np.arange(first, first + count)
    records["index"], records["made_ns"] = numbers, ~numbers
    records["values"] = numbers[:, None]
    return records


def _verify(records: np.ndarray, first: int) -> None:
    numbers = np.arange(first, first + len(records))
    whole = (
        (records["index"] == numbers).all()
        and (records["made_ns"] == ~numbers).all()
        and (records["values"] == numbers[:, None]).all()
    )
    _require(bool(whole), f"of {len(records)} records from {first} one is torn or lost")


def _produce(connection: Connection, total: int, batch: int) -> None:
    """In the producer: numbered records as fast as there is room."""
    ring = SharedRing.attach(receive_fd(connection), _RECORD)
    clock, done = SystemClock(), 0
    connection.send("ready")
    while done < total:
        records = _numbered(done, min(batch, total - done))
        taken = 0
        while taken < len(records):
            pushed = ring.push(records[taken:])
            taken += pushed
            if not pushed:
                _require(not orphaned(), "the consumer died")
                clock.sleep_for_ns(0)
        done += taken


def _require(kept: bool, complaint: str) -> None:
    if not kept:
        raise RingError(f"ring: {complaint}")
