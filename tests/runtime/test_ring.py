"""The shared-memory ring: a FIFO queue whose records are whole or not there."""

from __future__ import annotations

import os
import signal
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamvla.core.errors import ConfigError, RingError
from streamvla.runtime.processes import ring as ring_module
from streamvla.runtime.processes.launch import Child
from streamvla.runtime.processes.ring import SharedRing, capacity_for

from .ring_processes import RECORD, numbered, push_and_wait, push_numbered


@pytest.fixture
def ring():
    ring = SharedRing.create(RECORD, 8)
    yield ring
    ring.close()


OPERATIONS = st.lists(st.tuples(st.booleans(), st.integers(0, 11)), max_size=60)


@given(operations=OPERATIONS, capacity=st.integers(1, 9))
def test_any_interleaving_of_push_and_pop_equals_a_queue(operations, capacity):
    """Whatever is pushed and popped in whatever amounts, the ring gives what a bounded queue does,
    across many wrap-arounds."""
    ring, model, next_number = SharedRing.create(RECORD, capacity), deque(), 0
    for is_push, amount in operations:
        if is_push:
            taken = ring.push(numbered(next_number, amount))
            assert taken == min(amount, capacity - len(model))
            model.extend(range(next_number, next_number + taken))
            next_number += taken
        else:
            popped = ring.pop(amount)
            expected = [model.popleft() for _ in range(min(amount, len(model)))]
            assert popped["number"].tolist() == expected
            assert (popped == numbered(expected[0] if expected else 0, len(expected))).all()
        assert len(ring) == len(model)
    ring.close()


def test_a_full_ring_refuses_and_overwrites_nothing(ring):
    """Pushed past its capacity, a ring takes only what fits and keeps the oldest records intact."""
    assert ring.push(numbered(0, 20)) == 8
    assert ring.push(numbered(100, 1)) == 0
    assert ring.pop(20)["number"].tolist() == list(range(8))


@pytest.mark.parametrize(("count", "reader"), [(1, "_read_words"), (2, "_read")])
def test_a_record_without_all_its_words_is_never_handed_over(ring, monkeypatch, count, reader):
    """With the counter ahead of the payload (a weakly ordered processor), nothing torn comes out:
    the record is read again until it is whole."""
    ring.push(numbered(0, count))
    whole = ring._slots.copy()
    ring._slots[count - 1, 3:] = 0  # the payload's last words have not arrived
    reads = []

    def read_and_repair(*arguments):
        reads.append(arguments)
        if len(reads) == 3:
            ring._slots[:] = whole
        return getattr(SharedRing, reader)(ring, *arguments)

    monkeypatch.setattr(ring, reader, read_and_repair)
    assert (ring.pop(count) == numbered(0, count)).all()
    assert len(reads) == 3


def test_one_record_at_a_time_and_many_are_the_same_to_the_other_side(ring):
    """What is pushed singly pops in a batch, and the other way round, also across the seam."""
    for first in range(0, 24, 3):
        for number in range(first, first + 3):
            assert ring.push(numbered(number, 1)) == 1
        assert (ring.pop(3) == numbered(first, 3)).all()
        assert ring.push(numbered(first, 3)) == 3
        for number in range(first, first + 3):
            assert (ring.pop(1) == numbered(number, 1)).all()


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("word", range(4))
def test_a_damaged_record_raises_and_is_not_handed_over(ring, monkeypatch, word, most):
    """A single changed word of a slot, whichever it is, ends in RingError."""
    monkeypatch.setattr(ring_module, "_REREADS", 5)
    ring.push(numbered(0, 3))
    ring._slots[1, word] ^= np.uint64(1)
    if most == 1:
        ring.pop(1)
    with pytest.raises(RingError, match="damaged"):
        ring.pop(most)


def test_records_reach_another_process_whole_and_in_order():
    """Between two processes that push and pop in odd amounts no record is torn, lost or repeated.

    (`streamvla bench handoff` does 10⁸.)
    """
    ring, total, seen = SharedRing.create(RECORD, 64), 20_000, 0
    producer = Child("producer", push_numbered, total, 17)
    producer.send_fd(ring.fd)
    while seen < total:
        records = ring.pop(23)
        assert (records == numbered(seen, len(records))).all()
        seen += len(records)
        assert seen == total or producer.alive
    producer.close()
    assert len(ring) == 0
    ring.close()


def test_the_ring_survives_its_producer():
    """After SIGKILL of the producer everything it had pushed can be popped, and a successor
    goes on behind it."""
    ring = SharedRing.create(RECORD, 64)
    producer = Child("producer", push_and_wait, 10)
    producer.send_fd(ring.fd)
    assert producer.receive(20) == "pushed"
    os.kill(producer.pid, signal.SIGKILL)
    producer.close()
    successor = SharedRing.attach(os.dup(ring.fd), RECORD)
    successor.push(numbered(10, 5))
    assert (ring.pop(64) == numbered(0, 15)).all()
    successor.close()
    ring.close()


def test_other_records_are_refused(ring):
    """Attached with a type of another size, the ring refuses instead of misreading."""
    other = np.dtype([("values", "f8", (9,))])
    with pytest.raises(RingError, match="attach with the type"):
        SharedRing.attach(os.dup(ring.fd), other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SharedRing.create(RECORD, 0), "capacity 0"),
        (lambda: SharedRing.create(np.dtype("u1"), 4), "whole 8-byte words"),
        (lambda: capacity_for(0, 1), "rate 0 Hz"),
        (lambda: capacity_for(100, float("inf")), "budget inf s"),
    ],
)
def test_a_bad_size_is_refused(make, message):
    """Sizes that make no ring raise ConfigError with the value."""
    with pytest.raises(ConfigError, match=message):
        make()


@given(rate=st.floats(0.1, 1e5), budget=st.floats(1e-3, 100))
def test_the_capacity_holds_what_comes_within_the_budget(rate, budget):
    """The ring has room for every record that comes while the consumer is away for its budget."""
    assert capacity_for(rate, budget) >= rate * budget
