"""Parse the flags of commands, and end commands."""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, ParamSpec, Protocol, TypeVar

import tyro

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Settings(Protocol):
    """A dataclass of flags that checks itself."""

    def check(self) -> None:
        """Raise `ValueError` for settings that make no sense."""


Config = TypeVar("Config", bound=Settings)


def quiet(main: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make a command end without a traceback when it is interrupted or its output is closed.

    The exit code is 130 after SIGINT, and 1 if nobody reads the output any more (`| head`).
    """

    @functools.wraps(main)
    def called(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        try:
            return main(*arguments, **keywords)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None

    return called


def fail(error: Exception | str) -> NoReturn:
    """Print an error in one line and exit with code 2, the code of a usage error."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)


def parse(
    presets: Mapping[str, Mapping[str, Config]],
    description: str,
    args: Sequence[str] | None = None,
) -> Config:
    """Parse the command line, starting from the preset and the agent that it names.

    Args:
        presets: Settings by preset and agent; one preset must be "default". A preset's first agent
            is its own.
        description: Text of `--help`.
        args: Arguments, in place of the process's own.

    Returns:
        The settings.

    Raises:
        SystemExit: The input is bad; one line was printed, and the exit code is 2.
    """
    args = list(sys.argv[1:] if args is None else args)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--preset", default="default")
    finder.add_argument("--agent")
    named = finder.parse_known_args(args)[0]
    if named.preset not in presets:
        fail(f"--preset {named.preset}: choose from {', '.join(presets)}")
    by_agent = presets[named.preset]
    if named.agent is not None and named.agent not in by_agent:
        fail(f"--agent {named.agent}: choose from {', '.join(by_agent)}")
    default = by_agent[named.agent or next(iter(by_agent))]
    settings = tyro.cli(
        type(default),
        default=default,
        args=args,
        prog=f"python -m experiments.{Path(sys.argv[0]).stem}",
        description=description,
    )
    try:
        settings.check()
    except ValueError as error:
        fail(error)
    return settings
