"""What every `--help` ends with: command lines that work, one or two a command."""

from __future__ import annotations

import inspect

EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "streamvla run --tasks drawer-close --episodes 2",
        "streamvla run --help",
    ),
    "simulate": (
        "streamvla simulate --observe-ms 58 --generate-ms 18 --execute-ms 27 --lead 2",
        "streamvla simulate --observe-ms 107 --chunk-ms 90 --executors async-chunks:8 --horizon 32",
    ),
    "run": (
        "streamvla run --tasks drawer-close --executors synchronous action-flow:auto --episodes 2",
        "streamvla run --robot my_robot:make --policy my_policy:make --profile measured",
    ),
    "eval": (
        "streamvla eval --tasks reach push --episodes 20 --observe-ms 163 --generate-ms 29",
        "streamvla eval --method chunk-flow --executors action-flow:auto --profile paper-20hz",
        "streamvla eval --tasks reach --episodes 20 --stress camera-pose:2+latency-jitter:1",
    ),
    "compare": (
        "streamvla compare --tasks point --executors synchronous action-flow:auto --episodes 20",
        "streamvla compare --suite tempo --executors expert/action-flow:auto,early=always "
        "expert-chunks/async-chunks --profiles paper-20hz paper-20hz@0.5 --accelerators 1 2",
    ),
    "collect": ("streamvla collect --tasks reach push --episodes 100 --workers 2",),
    "train": ("streamvla train --dataset datasets/metaworld6 --out runs/train --steps 30000",),
    "train-saliency": (
        "streamvla train-saliency --policy runs/train/policy.safetensors",
        "streamvla train-saliency --test datasets/metaworld6 --figure gate.svg",
    ),
    "train-skipping": (
        "streamvla train-skipping --policy runs/train/policy.safetensors",
        "streamvla train-skipping --policy runs/train/policy.safetensors --test datasets/fresh",
    ),
    "ablations": ("streamvla ablations --names unaligned no-offset --tasks reach push",),
    "focus-variants": ("streamvla focus-variants --names crops quarter-element --episodes 5",),
    "export": ("streamvla export --policy runs/train/policy.safetensors --out policy.safetensors",),
    "grid": ("streamvla grid --tasks reach --leads 2 3 --rules none always adaptive --episodes 5",),
    "bench": ("streamvla bench runtime", "streamvla bench policy --generations 20"),
    "bench runtime": ("streamvla bench runtime --ticks 100000",),
    "bench policy": ("streamvla bench policy --generations 20",),
    "bench observation": (
        "streamvla bench observation --tasks reach push --episodes 1",
        "streamvla bench observation --policies shipped shipped+reuse=0 runs/crops",
    ),
    "bench realtime": (
        "streamvla bench realtime --hz 100 --seconds 10",
        "streamvla bench realtime --cameras 3 --sweep --seconds 20",
    ),
    "bench handoff": ("streamvla bench handoff --records 1000000",),
    "bench faults": (
        "streamvla bench faults --faults 200",
        "streamvla bench faults --faults 0 --wall-clock 10 --priority 50",
    ),
    "bench budget": (
        "streamvla bench budget --tasks reach push --episodes 20",
        "streamvla bench budget --settings reuse=8 reuse=8+most_skips=1",
    ),
    "bench stream": (
        "streamvla bench stream --observations 10000",
        "streamvla bench stream --window 256 --compare --json",
    ),
    "trace": ("streamvla trace export runs/run", "streamvla trace show runs/run"),
    "trace export": (
        "streamvla trace export run.jsonl --out perfetto.json",
        "streamvla trace export runs/run/traces",
    ),
    "trace show": ("streamvla trace show run.jsonl",),
    "leaderboard": (
        "streamvla leaderboard",
        "streamvla leaderboard --add runs/mine/result.json --name 'My policy' "
        "--link https://example.org/mine --sees 'two cameras, joints'",
    ),
    "results": ("streamvla results --check", "streamvla results --make timeline"),
}
"""Command → its examples."""


def described(kind: type, name: str, *, whole: bool = True) -> str:
    """What the help of a command says: its docstring, without the attributes, and its examples; or
    the first paragraph alone, for a list of commands."""
    text = inspect.getdoc(kind) or ""
    words = text.partition("Attributes:")[0].strip()
    if not whole:
        return words.partition("\n\n")[0]
    label = "Example" if len(EXAMPLES[name]) == 1 else "Examples"
    return "\n".join([words, "", f"{label}:", *(f"  {line}" for line in EXAMPLES[name])])
