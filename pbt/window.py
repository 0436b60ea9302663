"""The returns window: which episodes decide for a member.

An episode counts only if it *began* after the member's last exploit, load or rebuild, and the
window is valid only after `min_episodes` counted ones, of which it holds the last `size` that
finished. With `num_envs` parallel episodes, `min_episodes` is to be max(size, 2 * num_envs):
otherwise the first ten to finish of 32 are the ten shortest, and where the return grows with
the length, a member that has just copied looks worse than its donor, whose weights it plays.
"""

from collections.abc import Iterable, Sequence

from pbt import task


def extend(
    window: Sequence[float], counted_episodes: int, episodes: Iterable[task.Episode], size: int
) -> tuple[tuple[float, ...], int]:
    """Return window and number of counted episodes after `episodes`, in order of finishing.

    After an exploit, load or rebuild start again from `((), 0)`.
    """
    counted = [episode.episode_return for episode in episodes if episode.counted]
    return tuple([*window, *counted][-size:]), counted_episodes + len(counted)


def is_valid(window: Sequence[float], counted_episodes: int, min_episodes: int, size: int) -> bool:
    """Whether the window may decide."""
    return len(window) == size and counted_episodes >= max(min_episodes, size)
