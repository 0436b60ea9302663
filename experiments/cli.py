"""Parse the flags of commands, and end commands."""

import contextlib
import dataclasses
import difflib
import functools
import io
import os
import re
import sys
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import tyro

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Settings(typing.Protocol):
    """A dataclass of flags that checks itself."""

    def check(self) -> None:
        """Raise `ValueError` for settings that make no sense."""

    def ignored(self) -> Collection[str]:
        """Return the names of the fields that have no effect with these settings."""


Config = TypeVar("Config", bound=Settings)
Flags = TypeVar("Flags")

OTHER_NAMES = {
    "lr": "learning-rate",
    "ent-coef": "entropy-cost",
    "entropy": "entropy-cost",
    "discount": "gamma",
    "gae-lambda": "trace",
    "lambda": "trace",
    "steps": "total-steps",
    "timesteps": "total-steps",
    "total-timesteps": "total-steps",
    "env-id": "env",
    "environment": "env",
    "n-envs": "num-envs",
    "algo": "agent",
    "members": "population",
    "pop-size": "population",
    "processes": "workers",
    "cuda": "device",
    "gpu": "device",
    "log-dir": "run-dir",
    "output-dir": "run-dir",
}
"""Names that other libraries give to flags, with ours."""


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


def read(
    flags: type[Flags],
    description: str | None = None,
    args: Sequence[str] | None = None,
    default: Flags | None = None,
) -> Flags:
    """Parse a command line into a dataclass; whole numbers may be written as 1e6.

    Args:
        flags: The dataclass. Each field is a flag.
        description: Text of `--help`.
        args: Arguments, in place of the process's own.
        default: Values of the flags that are not given, in place of the fields' own.

    Raises:
        SystemExit: The input is bad; one line was printed, and the exit code is 2.
    """
    args = list(sys.argv[1:] if args is None else args)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: Flags = tyro.cli(
                flags,
                default=typing.cast(Flags, default),  # None is tyro's word for no default
                args=args,
                prog=f"python -m experiments.{Path(sys.argv[0]).stem}",
                description=description,
                registry=_whole_numbers(),
            )
            return parsed
    except SystemExit as ended:
        if ended.code != 2:
            raise
    fail(_in_one_line(said.getvalue(), flags, default))


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
    preset, agent = _value(args, "--preset") or "default", _value(args, "--agent")
    if preset not in presets:
        first_look = "; for a first look: python -m experiments.gym --preset quick"
        fail(
            f"--preset {preset}: choose from {', '.join(presets)}"
            f"{first_look if preset == 'quick' else ''}"
        )
    by_agent = presets[preset]
    if agent is not None and agent not in by_agent:
        fail(f"--agent {agent}: choose from {', '.join(by_agent)}")
    default = by_agent[agent or next(iter(by_agent))]
    _refuse_ignored(args, default, by_agent)
    shown = _without_ignored(default)
    chosen = read(type(shown), description, _ranges(args, default), shown)
    fields = {entry.name: getattr(chosen, entry.name) for entry in _fields(default)}
    settings = type(default)(**fields)
    try:
        settings.check()
    except ValueError as error:
        fail(error)
    return settings


def whole_number(text: str) -> int:
    """Return a whole number that is written as 1000000, 1_000_000 or 1e6.

    Raises:
        ValueError: It is no whole number.
    """
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        if (value := float(text)).is_integer():
            return int(value)
    raise ValueError(f"{text} is no whole number, such as 1000000 or 1e6")


def _whole_numbers() -> tyro.constructors.ConstructorRegistry:
    """Return tyro's rules, with `whole_number` for fields that are ints."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def rule(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
        if info.type is not int:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=lambda texts: whole_number(texts[0]),
            is_instance=lambda value: type(value) is int,
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _in_one_line(message: str, flags: type[Any], default: Any) -> str:
    """Return what tyro says in a box in one line, with the flag that was meant if it is close."""
    # The title, what is wrong, and further help are parted by rules, in a frame on a terminal.
    parts = re.split("[─-]{5,}", re.sub("[│╭╮╰╯]", " ", message))
    said = " ".join(parts[min(1, len(parts) - 1)].split())
    if choice := re.match(
        r"invalid choice '(.*)' for argument '(.*)'\. Expected one of (.*)", said
    ):
        value, flag, allowed = choice.groups()
        names = sorted(set(re.findall("'(.*?)'", allowed)) - {"None"})
        given = f"{flag} {value}" if flag.startswith("-") else value
        return f"{given}: choose from {', '.join(names)}"
    unknown, is_unknown, given = said.partition("Unrecognized options: ")
    if unknown or not is_unknown:
        # Of a group of flags tyro gives the field's name, which nobody has written.
        return re.sub("^Error parsing (?:(--[^:]*: )|[^:]*: )", r"\1", said)
    flag = given.split(",")[0].strip()
    if not flag.startswith("-"):
        return f"{flag}: there is no place for it here, see --help"
    return f"{flag}: there is no such flag{_meant(flag, flags, default)}"


def _meant(flag: str, flags: type[Any], default: Any) -> str:
    """Return the end of a message about an unknown flag: the known ones that are close to it."""
    help_text = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(help_text):
        tyro.cli(flags, default=default, args=["--help"])
    words = [part for part in help_text.getvalue().split() if part.startswith("--")]
    known = {word.strip("-,").removesuffix(".prior") for word in words}
    name = _name(flag)
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.7)
    if (ours := OTHER_NAMES.get(name)) in known:
        close = [str(ours)]
    if not close:
        return ", see --help"
    return f"; did you mean {' or '.join(f'--{one}' for one in close)}?"


def _name(flag: str) -> str:
    """Return the name in a flag, such as "total-steps" from "--total_steps=5"."""
    return flag.removeprefix("--").partition("=")[0].replace("_", "-")


def _value(args: Sequence[str], flag: str) -> str | None:
    """Return the last value that a flag is given, None if there is none."""
    found = None
    for argument, following in zip(args, [*args, "--"][1:], strict=True):
        if argument == flag and not following.startswith("--"):
            found = following
        elif argument.startswith(f"{flag}="):
            found = argument.partition("=")[2]
    return found


def _fields(settings: Any) -> Sequence[dataclasses.Field[Any]]:
    return dataclasses.fields(settings)


def _is_range(value: Any) -> bool:
    """Return whether a setting is a hyperparameter's range, with flags for prior and bounds."""
    return hasattr(value, "prior") and hasattr(value, "bounds")


def _ranges(args: Sequence[str], default: Settings) -> list[str]:
    """Let the name of a range be a flag: with one number it is held, with two it is the prior.

    Returns:
        The arguments, with `--fixed name=number` or `--name.prior low high` in place of these.
    """
    ranges = {
        entry.name.replace("_", "-"): entry.name
        for entry in _fields(default)
        if _is_range(getattr(default, entry.name))
    }
    result: list[str] = []
    fixed: list[str] = []
    left = list(args)
    while left:
        flag = left.pop(0)
        if not flag.startswith("--") or _name(flag) not in ranges:
            result.append(flag)
            continue
        values = [flag.partition("=")[2]] if "=" in flag else []
        while left and not left[0].startswith("--"):
            values.append(left.pop(0))
        name = ranges[_name(flag)]
        for value in values:
            try:
                float(value)
            except ValueError:
                fail(f"--{_name(flag)} {value}: give a number, such as 7e-4, or two for a prior")
        if len(values) == 1:
            fixed.append(f"{name}={values[0]}")
        elif len(values) == 2:
            result += [f"--{_name(flag)}.prior", *values]
        else:
            fail(f"{flag}: give one number for all members, or the two ends of a prior")
    if fixed and "--fixed" in result:
        where = result.index("--fixed") + 1
        return [*result[:where], *fixed, *result[where:]]
    return [*result, "--fixed", *fixed] if fixed else result


def _refuse_ignored(
    args: Sequence[str], default: Settings, by_agent: Mapping[str, Settings]
) -> None:
    """Refuse the flags of other agents, and name the agents that have them."""
    for field in default.ignored():
        value = getattr(default, field)
        names = {field}
        if _is_range(value):
            names |= {f"{field}.prior", f"{field}.bounds"}
        elif dataclasses.is_dataclass(value):
            names = {entry.name for entry in _fields(value)}
        flags = {name.replace("_", "-") for name in names}
        for given in args:
            if given.startswith("--") and _name(given).removeprefix("no-") in flags:
                others = [name for name, one in by_agent.items() if field not in one.ignored()]
                fail(
                    f"{given}: the agent that is chosen does not use it; "
                    f"--agent {' or '.join(others)} does"
                )


def _without_ignored(default: Config) -> Config:
    """Return the same settings, of a class that hides the flags without effect."""
    hints = typing.get_type_hints(type(default), include_extras=True)
    hidden = [
        (
            name,
            Annotated[hints[name], tyro.conf.Suppress],
            dataclasses.field(default=getattr(default, name)),
        )
        for name in default.ignored()
    ]
    shown = dataclasses.make_dataclass(
        type(default).__name__,
        hidden,
        bases=(type(default),),
        namespace={"__module__": type(default).__module__},
        frozen=True,
        kw_only=True,
    )
    values = {entry.name: getattr(default, entry.name) for entry in _fields(default)}
    return typing.cast(Config, shown(**values))
