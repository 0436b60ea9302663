"""Write the games of a training run to a CSV file, and stop it when it is good enough.

It is imported by the scripts of all learners, in their own virtual environments, and so needs
nothing but Python.
"""

import argparse
import collections
import csv
import sys
import time
from pathlib import Path

SCORE = 18.0
"""Mean return of the last games at which a learner is done."""
GAMES = 100
"""Number of the last games that count."""
COLUMNS = ("wall_s", "cpu_s", "agent_steps", "episode_return")


class Recorder:
    """Games of a run in the order in which they ended.

    Args:
        path: The CSV file.
        minutes: CPU time of the process after which the run is stopped. It begins now.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self._file = path.open("w", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(COLUMNS)
        self._last: collections.deque[float] = collections.deque(maxlen=GAMES)
        self._begun_s, self._cpu_s, self._limit_s = (
            time.monotonic(),
            time.process_time(),
            minutes * 60,
        )
        self._said_s = 0.0

    def add(self, agent_steps: int, episode_return: float) -> None:
        """Add a game that ended after `agent_steps` steps of all environments together."""
        wall_s, cpu_s = time.monotonic() - self._begun_s, time.process_time() - self._cpu_s
        self._rows.writerow((f"{wall_s:.2f}", f"{cpu_s:.2f}", agent_steps, f"{episode_return:g}"))
        self._last.append(episode_return)
        if wall_s - self._said_s > 60:
            self._said_s = wall_s
            self._file.flush()
            print(f"{wall_s:.0f} s, {agent_steps:,} steps: {self.mean():.1f}", flush=True)

    def mean(self) -> float:
        """Return the mean of the last games."""
        return sum(self._last) / len(self._last)

    def is_over(self) -> bool:
        """Return whether the score is reached or the time is up."""
        reached = len(self._last) == GAMES and self.mean() >= SCORE
        over = reached or time.process_time() - self._cpu_s > self._limit_s
        if over:
            self._file.flush()
        return over


def arguments(*learners: str) -> argparse.Namespace:
    """Parse the command line that all learners share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("learner", choices=learners)
    parser.add_argument("--protocol", choices=("a3c2016", "machado2018"), default="a3c2016")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "games")
    parsed = parser.parse_args()
    parsed.out.mkdir(parents=True, exist_ok=True)
    return parsed


def recorder(parsed: argparse.Namespace) -> Recorder:
    """Return a recorder for the file of a run."""
    name = f"{parsed.learner}-{parsed.protocol}-{parsed.seed}.csv"
    print(f"{sys.argv} -> {name}", flush=True)
    return Recorder(parsed.out / name, parsed.minutes)
