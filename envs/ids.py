"""Ids of environments: the arguments in them, and hints for ids that nothing is known by.

An id may carry arguments of the environment's constructor, as `FrozenLake-v1?is_slippery=False` and
`RepeatPrevious?delay=3&symbols=4` do. So whatever stores an id stores them with it.
"""

import difflib
import re
from collections.abc import Mapping, Sequence

Argument = bool | int | float | str
_ARGUMENT = re.compile(r"([A-Za-z_]\w*)=(-?\w[\w.+-]*)", re.ASCII)


def split(env_id: str) -> tuple[str, dict[str, Argument]]:
    """Return an id without its arguments, and the arguments by name.

    Raises:
        ValueError: An argument is none, or comes twice.
    """
    plain, question, query = env_id.partition("?")
    found: dict[str, Argument] = {}
    for text in query.split("&") if question else ():
        match = _ARGUMENT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{env_id}: {text!r} is no argument such as is_slippery=False; values are numbers, "
                "True, False, and words of letters, digits, '_', '.', '-' and '+'"
            )
        if match[1] in found:
            raise ValueError(f"{env_id}: {match[1]} is given twice")
        found[match[1]] = _value(match[2])
    return plain, found


def join(env_id: str, arguments: Sequence[str]) -> str:
    """Return an id with arguments such as `is_slippery=False`, in the order of their names."""
    return "?".join((env_id, "&".join(sorted(arguments)))) if arguments else env_id


def _value(text: str) -> Argument:
    if text in ("True", "False"):
        return text == "True"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def did_you_mean(name: str, known: Mapping[str, str], cutoff: float = 0.5) -> str:
    """Return the end of a sentence that names close matches of an unknown name, if any.

    Args:
        name: The unknown name; capitals do not matter.
        known: What to suggest, by the name that it is found by.
        cutoff: Least similarity, as in `difflib.get_close_matches`.

    Returns:
        "; did you mean A or B?", or "." if nothing is close.
    """
    folded = {one.lower(): suggestion for one, suggestion in known.items()}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=cutoff)
    return f"; did you mean {' or '.join(folded[one] for one in close)}?" if close else "."
