"""How long leases last, and how long members rest after crashes."""

from pbt.run import RunConfig

PAUSES_S = (1.0, 4.0, 15.0, 60.0)
"""Rest of a member in seconds after its first, second, third and any later crash in a row."""
_LONGEST_LEASES = 9
"""Longest lease, in times of `lease_seconds`."""
_PATIENCE_LEASES = 3
"""How long an expired lease of a living holder is respected, in times of `lease_seconds`."""
CLOCK_SLACK_S = 1.0


def rest_s(attempts: int, config: RunConfig) -> float:
    """Return how long a member rests after so many crashes in a row, in seconds.

    It is no longer than a lease, which is how long a run bears to wait for a worker.
    """
    return min(PAUSES_S[min(attempts, len(PAUSES_S)) - 1], config.lease_seconds)


def longest_rest_s(config: RunConfig) -> float:
    """Return the seconds after which a rest must be over. If not, the clock was set back."""
    return min(PAUSES_S[-1], config.lease_seconds) + CLOCK_SLACK_S


def longest_lease_s(config: RunConfig) -> float:
    """Return the seconds after which a lease must be over. If not, the clock was set back."""
    return _LONGEST_LEASES * config.lease_seconds + CLOCK_SLACK_S


def patience_s(config: RunConfig) -> float:
    """Return how long an expired lease of a living holder is respected, in seconds."""
    return _PATIENCE_LEASES * config.lease_seconds


def lease_s(wanted_s: float | None, config: RunConfig) -> float:
    """Return how long a lease lasts, in seconds, if a worker wants a longer or shorter one."""
    if wanted_s is None:
        return config.lease_seconds
    return min(wanted_s, _LONGEST_LEASES * config.lease_seconds)
