"""`streamvla bench WHAT`: what runtime and policies cost, and how time is kept, here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import subcommand

from streamvla.cli.examples import described
from streamvla.studies.budget_table import BenchBudget, bench_budget
from streamvla.studies.control_rate import BenchRealtime, bench_realtime
from streamvla.studies.fault_campaign import BenchFaults, bench_faults
from streamvla.studies.handoff_cost import BenchHandoff, bench_handoff
from streamvla.studies.observation_cost import BenchObservation, bench_observation
from streamvla.studies.policy_cost import BenchPolicy, bench_policy
from streamvla.studies.runtime_cost import BenchRuntime, bench_runtime
from streamvla.studies.stream_cost import BenchStream, bench_stream

_BENCHES: dict[type, Callable[[Any], None]] = {
    BenchRuntime: bench_runtime,
    BenchPolicy: bench_policy,
    BenchObservation: bench_observation,
    BenchRealtime: bench_realtime,
    BenchHandoff: bench_handoff,
    BenchFaults: bench_faults,
    BenchBudget: bench_budget,
    BenchStream: bench_stream,
}


def _part(kind: type, name: str) -> Any:
    description = described(kind, f"bench {name}")
    return subcommand(name, description=description, prefix_name=False)


@dataclass(frozen=True)
class Bench:
    """Measure the runtime, or policies, on this machine.

    Attributes:
        what: which of its promises.
    """

    what: (
        Annotated[BenchRuntime, _part(BenchRuntime, "runtime")]
        | Annotated[BenchPolicy, _part(BenchPolicy, "policy")]
        | Annotated[BenchObservation, _part(BenchObservation, "observation")]
        | Annotated[BenchRealtime, _part(BenchRealtime, "realtime")]
        | Annotated[BenchHandoff, _part(BenchHandoff, "handoff")]
        | Annotated[BenchFaults, _part(BenchFaults, "faults")]
        | Annotated[BenchBudget, _part(BenchBudget, "budget")]
        | Annotated[BenchStream, _part(BenchStream, "stream")]
    )


def bench(command: Bench) -> None:
    """Run the chosen measurement and print its figures."""
    _BENCHES[type(command.what)](command.what)
