"""Before motion: can the schedule be met, which lead does it need, what will starve?

    lead n = 3      a7   a8   a9 | a0 …            while n actions execute (n·e), the next
                    observe ▓▓▓▓▓ g               observation and its first action must be made:
                    └──── n·e ───┘                n·e ≥ T_o + g

and, as encoder and generator share the accelerator, a cycle's work must fit into the cycle:
T_o + H·g ≤ H·e. With a device each, the slower of the two must fit: max(T_o, H·g) ≤ H·e.

    async chunks    a0 … a4 │ a5 a6 a7 │ b3 b4 …  observing and a whole chunk take d = ⌈(T_o + C)/e⌉
                            └ observe, b ┘        control periods: d actions must be left at the
                                                  look, and as many of the new chunk: 2·d ≤ H

Source: StreamingVLA (arXiv 2603.28565), appendix C, and methods in `docs/`; every line of it is
checked against the simulator in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streamvla.core.clock import NS_PER_MS
from streamvla.core.errors import ConfigError
from streamvla.runtime.drivers.stages import StageTimes
from streamvla.runtime.executors.base import Executor, pending_at_look
from streamvla.runtime.timing.estimates import WARM_UP, DecayingEstimate
from streamvla.runtime.timing.latency import LatencyProfile


@dataclass(frozen=True)
class StageEstimates:
    """What the stages are to be expected to take, ns: `T_o`, and `g` per expert pass."""

    observe_ns: int
    generate_ns: int

    def padded(self, profile: LatencyProfile) -> StageEstimates:
        """As driven: an emulated profile pads stages up to its times, and cannot shorten them."""
        if not profile.emulated:
            return self
        return StageEstimates(
            max(self.observe_ns, profile.observe_ns), max(self.generate_ns, profile.generate_ns)
        )


def estimate_stages(times: Sequence[StageTimes], warm_up: int = WARM_UP) -> StageEstimates:
    """Cautious estimates from measurements in order, the first `warm_up` left out.

    Raises:
        ConfigError: nothing is left.
    """
    observe, generate = DecayingEstimate(warm_up=warm_up), DecayingEstimate(warm_up=0)
    for number, time in enumerate(times):
        observe.add(time.observe_ns)
        if number >= warm_up:
            for step_ns in time.generate_ns:
                generate.add(step_ns)
    if not (observe.known and generate.known):
        raise ConfigError(
            f"{len(times)} measurements with {warm_up} of warm-up leave none: measure more"
        )
    return StageEstimates(observe.cautious_ns, generate.cautious_ns)


@dataclass(frozen=True)
class Feasibility:
    """What a schedule will do, per observation cycle.

    Attributes:
        executor: its name, where another lead of it would help; else the one that would.
        lead: `n` of the executor: actions still pending when it looks.
        needed_lead: the smallest n without a halt; None if no n below H has none.
        halt_ns: how long the robot waits at least.
        starved_ticks: control ticks without an action.
        work_ns, cycle_ns: of the accelerator, and the time it has for that without a halt.
        why: the binding constraint, in words; "" if there is no halt.
        never: why no lead avoids it, in words; "" if one does.
    """

    executor: str
    lead: int
    needed_lead: int | None
    halt_ns: int
    starved_ticks: int
    work_ns: int
    cycle_ns: int
    why: str
    never: str

    @property
    def feasible(self) -> bool:
        """Whether the robot never waits."""
        return self.halt_ns == 0

    def sentence(self) -> str:
        """For people, before motion."""
        load = f"accelerator busy {100 * self.work_ns / self.cycle_ns:.0f} % of a cycle"
        if self.feasible:
            return f"feasible, no halt at lead {self.lead}; {load}"
        text = (
            f"{self.starved_ticks} ticks starve per observation "
            f"(halt ≥ {self.halt_ns / NS_PER_MS:.0f} ms): {self.why}"
        )
        if self.needed_lead is None:
            return f"{text}; no lead avoids it; {load}"
        return f"{text}; needs {self.executor}:{self.needed_lead}; {load}"


def check_schedule(
    stages: StageEstimates,
    period_ns: int,
    executor: Executor,
    horizon: int,
    chunk_passes: int = 0,
    *,
    shared_accelerator: bool = True,
) -> Feasibility:
    """Whether `executor` can keep the robot supplied, once the start is over.

    Args:
        chunk_passes: how the policy gives its `horizon` actions (`PolicySpec.chunk_passes`).
        shared_accelerator: encoder and generator take turns on one device.

    >>> from streamvla.runtime.executors.action_flow import (ActionFlow)
    >>> estimates = StageEstimates(107_000_000, 33_000_000)
    >>> check_schedule(estimates, 50_000_000, ActionFlow(3), 10).feasible
    True
    """
    generate_ns = (chunk_passes or horizon) * stages.generate_ns
    whole = executor.overlaps and not executor.streams  # it covers a chunk, not an action
    apart = executor.overlaps and executor.streams and not shared_accelerator
    work_ns = max(stages.observe_ns, generate_ns) if apart else stages.observe_ns + generate_ns
    cycle_ns = executor.executed(horizon) * period_ns
    first = chunk_passes or (horizon if whole else 1)
    first_ns = stages.observe_ns + first * stages.generate_ns
    needed = math.ceil(first_ns / period_ns)
    lead = pending_at_look(executor, horizon)
    covered = (
        f"observing and {'the chunk' if first > 1 or chunk_passes else 'the first action'} take "
        f"{_ms(first_ns)}, lead {{lead}} covers {{ms}}"
    )
    too_late = covered.format(lead=lead, ms=_ms(lead * period_ns))
    too_much = f"the accelerator's work of {_ms(work_ns)} does not fit into {{ms}} of motion"
    too_short = (
        f"{needed} of a chunk's {horizon} actions are over when it arrives, and what is left does "
        "not last until the next"
    )
    waits = {
        too_much.format(ms=_ms(cycle_ns)): work_ns - cycle_ns,
        too_late: first_ns - lead * period_ns,
    }
    if whole:
        waits[too_short] = first_ns - max(0, horizon - needed) * period_ns
    if not executor.overlaps:
        waits = {"the robot waits for the whole chunk": work_ns}
    why, halt_ns = max(waits.items(), key=lambda wait: wait[1])
    never = ""
    if needed >= horizon:
        never = covered.format(lead=horizon - 1, ms=_ms((horizon - 1) * period_ns))
    if whole and 2 * needed > horizon:
        never = too_short
    if work_ns > horizon * period_ns:
        never = too_much.format(ms=_ms(horizon * period_ns))
    return Feasibility(
        executor=executor.name if executor.overlaps else "action-flow",
        lead=lead,
        needed_lead=None if never else needed,
        halt_ns=max(0, halt_ns),
        starved_ticks=math.ceil(max(0, halt_ns) / period_ns),
        work_ns=work_ns,
        cycle_ns=cycle_ns,
        why=why if halt_ns > 0 else "",
        never=never,
    )


def _ms(duration_ns: float) -> str:
    return f"{duration_ns / NS_PER_MS:.0f} ms"
