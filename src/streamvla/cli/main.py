"""`streamvla COMMAND …`: parse, run, and turn errors into one clear line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from streamvla import __version__
from streamvla.cli.applies import require_use
from streamvla.cli.bench import Bench, bench
from streamvla.cli.collect import Collect, collect_command
from streamvla.cli.examples import EXAMPLES, described
from streamvla.cli.export import Export, export
from streamvla.cli.leaderboard import Leaderboard, leaderboard
from streamvla.cli.results import Results, results
from streamvla.cli.run import Run, run
from streamvla.cli.simulate import Simulate, simulate
from streamvla.cli.trace import TraceCommand, trace
from streamvla.cli.train import train_command
from streamvla.cli.train_saliency import TrainSaliency, train_saliency_command
from streamvla.cli.train_skipping import TrainSkipping, train_skipping_command
from streamvla.core.errors import StreamVLAError
from streamvla.core.files import reason
from streamvla.runtime.drivers.signals import raised_as_interrupts
from streamvla.studies.ablations import Ablations, run_ablations
from streamvla.studies.compare import Compare, compare
from streamvla.studies.early_grid import Grid, run_grid
from streamvla.studies.episodes import Eval, evaluate
from streamvla.studies.focus_variants import FocusVariants, run_focus_variants
from streamvla.studies.trainings import Train

_COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "simulate": (Simulate, simulate),
    "run": (Run, run),
    "eval": (Eval, evaluate),
    "compare": (Compare, compare),
    "collect": (Collect, collect_command),
    "train": (Train, train_command),
    "train-saliency": (TrainSaliency, train_saliency_command),
    "train-skipping": (TrainSkipping, train_skipping_command),
    "ablations": (Ablations, run_ablations),
    "focus-variants": (FocusVariants, run_focus_variants),
    "export": (Export, export),
    "grid": (Grid, run_grid),
    "bench": (Bench, bench),
    "trace": (TraceCommand, trace),
    "results": (Results, results),
    "leaderboard": (Leaderboard, leaderboard),
}

_OLD_SPELLINGS = {
    "simulate": {"--executor": "--executors"},
    "run": {"--checkpoint": "--policy", "--task": "--tasks", "--methods": "--executors"},
    "eval": {"--checkpoint": "--policy", "--task": "--tasks", "--executor": "--executors"},
    "compare": {"--policy": "--policies", "--task": "--tasks", "--executor": "--executors"},
    "grid": {"--checkpoint": "--policy", "--task": "--tasks"},
    "collect": {"--checkpoint": "--policy", "--task": "--tasks"},
    "train": {"--task": "--tasks"},
    "train-saliency": {"--checkpoint": "--policy", "--task": "--tasks"},
    "ablations": {"--task": "--tasks", "--executor": "--executors"},
    "export": {"--checkpoint": "--policy"},
}
"""Flags as they were called before; still understood."""

_WHAT = "Robots driven by VLA models that never wait for the model."


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script's entry point."""
    sys.exit(execute(arguments))


def execute(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; the exit code. Wrong flags exit through `SystemExit`, as argparse does."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"streamvla {__version__}")
        return 0
    try:
        arguments = _spelled(arguments)
        command = _parse(arguments)
        require_use(
            arguments, command.what if isinstance(command, Bench | TraceCommand) else command
        )
        action = next(action for kind, action in _COMMANDS.values() if type(command) is kind)
        with raised_as_interrupts():
            action(command)
        sys.stdout.flush()
    except StreamVLAError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as ending:
        print("interrupted", file=sys.stderr)
        return 128 + getattr(ending, "number", signal.SIGINT)
    except BrokenPipeError:
        _leave_output()
        return 1
    except OSError as error:
        return _refused(error)
    return 0


_OF_FILES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ENOENT)


def _refused(error: OSError) -> int:
    """One line for what the system refuses; whatever is not about a file is raised again."""
    if error.filename is None and error.errno not in _OF_FILES:
        raise error
    about = "" if error.filename is None else f"{error.filename}: "
    print(f"error: {about}{reason(error)}", file=sys.stderr)
    _leave_output()
    return 2


def _leave_output() -> None:
    """Once standard output takes no more, so that nothing is said of it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)


def _spelled(arguments: list[str]) -> list[str]:
    """With the present names of flags.

    >>> _spelled(["run", "--task", "reach", "--task=push"])
    ['run', '--tasks', 'reach', '--tasks=push']
    """
    names = _OLD_SPELLINGS.get(arguments[0], {}) if arguments else {}
    split = (argument.partition("=") for argument in arguments)
    return [names.get(flag, flag) + equals + value for flag, equals, value in split]


def _parse(arguments: Sequence[str]) -> Any:
    union: Any = None
    for name, (kind, _) in _COMMANDS.items():
        description = described(kind, name, whole=arguments[:1] == [name])
        named = tyro.conf.subcommand(name, description=description, prefix_name=False)
        option = Annotated[kind, named]
        union = option if union is None else union | option
    return tyro.cli(
        union,
        prog="streamvla",
        description="\n".join([_WHAT, "", "Examples:", *(f"  {line}" for line in EXAMPLES[""])]),
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
