"""The example that adds a task runs from start to end."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from streamvla.data.store import load_dataset
from streamvla.model.checkpoint import load_checkpoint

EXAMPLE = Path(__file__).parents[2] / "examples" / "new_task.py"


def test_a_new_task_is_collected_trained_and_evaluated(tmp_path):
    """Twelve demonstrations with both instructions, two steps, fifty episodes; under 100 lines."""
    spec = importlib.util.spec_from_file_location("new_task", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    success = example.main(tmp_path, episodes=12, steps=2)
    assert 0 <= success <= 1
    demonstrations = load_dataset(tmp_path / "data")
    assert {episode.instructions for episode in demonstrations.episodes} == {
        each.train for each in example.SAID.values()
    }
    assert load_checkpoint(tmp_path / "policy.safetensors", example.SPACE).provenance["step"] == 2
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 100
