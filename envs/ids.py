"""Hints for ids that nothing is known by."""

import difflib
from collections.abc import Mapping


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
