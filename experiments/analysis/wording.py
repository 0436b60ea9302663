"""Format numbers and names for figures, tables and pages."""

import datetime
import math
import re
from collections.abc import Callable

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML or UTF-8 cannot hold, and the other control characters."""


def steps(count: float, _position: int | None = None) -> str:
    """Format agent steps: 500, 250k, 2M, 1.5G.

    The second argument makes it a formatter for the ticks of a matplotlib axis.
    """
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= unit * 0.9999:
            return f"{count / unit:.4g}{suffix}"
    return f"{count:.4g}"


def value(number: float, _position: int | None = None) -> str:
    """Format a hyperparameter: 0.0025, 7, 3.2e-5."""
    return _short_exponent(f"{number:.3g}")


def score(number: float) -> str:
    """Format a score, a mean or a statistic with four digits: 0.9778, 10.10, 199.7, 12,340."""
    if not math.isfinite(number):
        return "n/a"
    size = abs(number)
    if 0 < size < 0.1 or size >= 1e7:
        return _short_exponent(f"{number:.4g}")
    return f"{number:,.{2 if number == 0 else decimals(size)}f}"


def decimals(size: float) -> int:
    """Return the decimals with which a number of this size has four digits, at most four."""
    return next((count for count, end in ((4, 1), (3, 10), (2, 100), (1, 1_000)) if size < end), 0)


def interval(ends: tuple[float, float] | None, written: Callable[[float], str] = score) -> str:
    """Format both ends of an interval. They are NaN or None for a single run, which has none.

    Args:
        ends: The ends.
        written: Formats a number.
    """
    if ends is None or not all(map(math.isfinite, ends)):
        return "none for n = 1"
    return f"{written(ends[0])} to {written(ends[1])}"


def probability(number: float) -> str:
    """Format a p value or another probability: 0.34, 0.0093, 2.1e-8."""
    return f"{number:.2f}" if number >= 0.1 else _short_exponent(f"{number:.2g}")


def duration(seconds: float) -> str:
    """Format wall-clock time: 45 s, 77 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Format a count with its noun: 1 copy, 2 copies."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def written_on() -> str:
    """Return a sentence that says when a page was made."""
    return f"Written on {datetime.datetime.now(datetime.UTC):%Y-%m-%d at %H:%M} UTC."


def printable(text: str) -> str:
    """Write control characters, and others that no page can hold, as escapes."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shortened(text: str, length: int) -> str:
    """Shorten a text to about `length` characters by leaving out its middle."""
    if len(text) <= length:
        return text
    half = max(1, (length - 1) // 2)
    return f"{text[:half]}…{text[-half:]}"


def _short_exponent(text: str) -> str:
    """Write 1e-5 in place of 1e-05."""
    return re.sub(r"e([+-])0*(\d)", lambda found: "e" + found[1].strip("+") + found[2], text)
