"""What passes between the processes: records say what went in, big messages go out bit by bit."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError, HandoffError
from streamvla.runtime.drivers.loop_statistics import LoopStatistics, TickLog
from streamvla.runtime.drivers.stages import ActionMade, ContextReady, ObserveBegun, StageError
from streamvla.runtime.processes.channel import Channel
from streamvla.runtime.processes.handoff import (
    Delivered,
    decode,
    encode,
    fits,
    from_record,
    result_record,
    to_record,
)
from streamvla.runtime.processes.privileges import RealtimeSettings, ask

RECORD = result_record(3)
WHOLE = st.integers(0, 2**62)
VECTOR = st.lists(st.floats(), min_size=3, max_size=3).map(np.array)
COUNT = st.integers(0, 2**53)  # floats hold no larger ones
COST = st.builds(ObservationCost, COUNT, look_flops=COUNT, context_time=st.floats(0, 100))
RESULTS = st.one_of(
    st.none(),
    st.builds(ObserveBegun, WHOLE),
    st.builds(ContextReady, WHOLE),
    st.builds(ContextReady, WHOLE, VECTOR),
    st.builds(ContextReady, WHOLE, cost=COST),
    st.builds(ActionMade, WHOLE, WHOLE, WHOLE, VECTOR),
)


@given(delivered=st.builds(Delivered, WHOLE, WHOLE, RESULTS))
def test_a_record_says_what_was_put_in(delivered):
    """Every result that fits a record comes back bit for bit, NaN and infinity included."""
    assert fits(RECORD, delivered.result)
    assert repr(from_record(to_record(RECORD, delivered)[0])) == repr(delivered)


@pytest.mark.parametrize(
    "result",
    [
        StageError("observe", "it broke"),
        ActionMade(0, 0, 0, np.zeros(4)),
        ActionMade(0, 0, 0, None),  # pyright: ignore[reportArgumentType]
        ActionMade(0, 0, 0, np.array(["a", "b", "c"])),
        ContextReady(0, np.zeros((1, 3))),
        ContextReady(0, saliency=((0.5, 0.2),)),
        ContextReady(0, saliency=((0.5, 0.2),), refused=True),
    ],
)
def test_what_has_another_shape_is_no_record(result):
    """Words, other shapes and other types are sent another way, never squeezed in."""
    assert not fits(RECORD, result)


@given(messages=st.lists(st.binary(max_size=200), max_size=20), cut=st.integers(1, 60))
def test_messages_arrive_whole_in_order_however_they_are_cut(messages, cut):
    """Whatever pieces a stream arrives in, the same messages come out, one by one."""
    left, right = socket.socketpair()
    receiver = Channel(left.detach())
    stream = b"".join(len(m).to_bytes(8, "little") + m for m in messages)
    received = []
    for start in range(0, len(stream), cut):
        right.sendall(stream[start : start + cut])
        received += receiver.receive()
    right.close()
    received += receiver.receive()
    assert received == messages
    assert receiver.closed
    receiver.close()


def test_sending_never_waits_and_nothing_is_lost():
    """8 MiB sent into a socket nobody reads return at once and arrive whole later."""
    left, right = (Channel(end.detach()) for end in socket.socketpair())
    message = bytes(range(256)) * (1 << 15)
    left.send(message)
    left.ring_bell()  # it is not heard: the other side has not taken what came before
    assert left.pending
    received: list[bytes] = []
    while not received:
        left.flush()
        received = right.receive()
    assert received == [message]
    left.ring_bell()
    assert right.receive() == [b""]
    left.close()
    assert right.receive() == []
    assert right.closed
    right.close()


def test_loop_statistics_of_known_instants():
    """Ticks every 10 ms, one 3 ms late and one skipped: 2 misses of 5, and the worst level."""
    log = TickLog()
    for tick, late_us in ((0, 100), (1, 100), (2, 3000), (4, 100)):
        due_ns = tick * 10_000_000
        served_ns = due_ns + 1000 * late_us
        log.append(due_ns, served_ns, served_ns, served_ns + 50_000)
    statistics = LoopStatistics.of(log, rate_hz=100.0)
    assert (statistics.ticks, statistics.skipped) == (4, 1)
    assert statistics.miss_rate == pytest.approx(2 / 5)
    assert statistics.lateness_ms["max"] == pytest.approx(3.0)
    assert statistics.execution_time.mean == pytest.approx(50.0)
    assert statistics.execution_time.standard_deviation == pytest.approx(0.0)
    assert statistics.periodicity.maximum == pytest.approx(100.0)
    assert statistics.level == "error"


def test_an_empty_log_has_statistics():
    """An episode that ended before its first tick has zeros, not an exception."""
    assert LoopStatistics.of(TickLog(), 100.0).miss_rate == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RealtimeSettings(fifo_priority=100), "priority 100: expected 1 to 99"),
        (lambda: RealtimeSettings(cpus=(-1,)), r"cores \(-1,\)"),
        (lambda: RealtimeSettings(timer_slack_ns=0), "timer slack 0 ns"),
    ],
)
def test_a_wish_out_of_range_is_refused_before_it_is_made(make, message):
    """Settings the operating system has no such value for raise ConfigError with the range."""
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_refused_wish_says_why():
    """A core that does not exist: refused, with the system's reason."""
    refused = [grant for grant in ask(RealtimeSettings(None, cpus=(4096,))) if not grant.obtained]
    assert [grant.wish for grant in refused] == ["cores (4096,)"]
    assert "refused (" in str(refused[0])


# --- what the robot side reads from its peer ----------------------------------------------------

NAMES = st.lists(st.text("abc_é", min_size=1, max_size=8), max_size=3).map(tuple)
ROW = st.tuples(st.floats(0, 9), st.floats(0, 9))
MISSHAPEN = st.tuples(st.integers(0, 3), st.integers(1, 3)).map(np.ones)
MESSAGES = st.one_of(
    st.builds(StageError, st.sampled_from(["observe", "generate", "model"]), st.text(max_size=50)),
    st.builds(
        ContextReady,
        WHOLE,
        st.none() | VECTOR,
        NAMES,
        st.lists(ROW, max_size=3).map(tuple),
        st.booleans(),
    ),
    st.builds(ActionMade, WHOLE, WHOLE, st.integers(0, 99), MISSHAPEN),
)


@given(delivered=st.builds(Delivered, WHOLE, WHOLE, MESSAGES))
def test_a_message_says_what_was_put_in(delivered):
    """Errors, what was foreseen, and actions of other shapes come back as they were."""
    back = decode(encode(delivered))
    assert repr(back) == repr(delivered)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (ActionMade(0, 0, 0, "seven"), "array([nan])"),  # pyright: ignore[reportArgumentType]
        (ActionMade(0, 0, 0, np.zeros(9999)), "an array of shape (9999,)"),
        (ContextReady(0, saliency=(("x",),)), "could not convert string to float"),  # pyright: ignore[reportArgumentType]
        (ContextReady(0, frozen=("v" * 5000,)), "names of frozen views"),
        (object(), "object fits no message"),
    ],
)
def test_what_cannot_be_said_is_an_error_of_its_stage(result, told):
    """A result that cannot be sent never disappears, and never reaches the robot side as it is."""
    assert told in repr(decode(encode(Delivered(1, 2, result))).result)


@given(data=st.data())
def test_whatever_bytes_come_decode_refuses_or_gives_a_result(data):
    """Random bytes, and sound messages with bytes changed, cut off or added."""
    message = data.draw(
        st.binary(max_size=200) | st.builds(encode, st.builds(Delivered, WHOLE, WHOLE, MESSAGES))
    )
    message = bytearray(message)
    for _ in range(data.draw(st.integers(0, 4))):
        if message:
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    message = bytes(message[: data.draw(st.integers(0, len(message)))]) + data.draw(
        st.binary(max_size=8)
    )
    try:
        assert isinstance(decode(message), Delivered)
    except HandoffError:
        return


def test_a_record_of_no_kind_is_refused():
    record = np.zeros(1, RECORD)
    record["kind"] = 77
    with pytest.raises(HandoffError, match="a record of kind 77"):
        from_record(record[0])


def test_an_over_long_message_is_refused_before_it_is_there():
    """Its announced length is enough: nobody waits for, or keeps, a gigabyte."""
    left, right = socket.socketpair()
    receiver = Channel(left.detach(), most_bytes=100)
    right.sendall((1 << 30).to_bytes(8, "little"))
    with pytest.raises(HandoffError, match="1073741824 bytes, of 100 at most"):
        receiver.receive()
    right.close()
    receiver.close()
