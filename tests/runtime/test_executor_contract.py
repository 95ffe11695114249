"""Every executor that is registered keeps the contract."""

from __future__ import annotations

import pytest

from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.options import EarlyOptions
from streamvla.runtime.executors.registry import executors, parse_executor
from streamvla.runtime.timing.latency import named_profile
from streamvla.testing.executor_contract import ExecutorContract

PAPER = named_profile("paper-20hz")
VARIETIES = {
    **{name: (name, EarlyOptions()) for name in executors()},
    "synchronous:5": ("synchronous:5", EarlyOptions()),
    "action-flow:3": ("action-flow:3", EarlyOptions()),
    "action-flow:auto": ("action-flow:auto", EarlyOptions()),
    "random": ("action-flow:3", EarlyOptions("random")),
    "replanning": ("action-flow:auto", EarlyOptions(replan="as-fast-as-possible")),
    "async-chunks:3": ("async-chunks:3", EarlyOptions()),
    "async-chunks, replanning": ("async-chunks", EarlyOptions(replan="as-fast-as-possible")),
}


class TestRegistered(ExecutorContract):
    @pytest.fixture(autouse=True, params=VARIETIES)
    def variety(self, request):
        self.text, self.options = VARIETIES[request.param]

    def executor(self) -> Executor:
        return parse_executor(self.text, PAPER, 10, self.options)
