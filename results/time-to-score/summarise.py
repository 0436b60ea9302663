"""Make the table and the figure of this folder from the games of all runs.

    python results/time-to-score/summarise.py

Writes summary.csv and curves.png, and prints the table as Markdown.
"""

import collections
import csv
from pathlib import Path

import numpy as np
import record
from matplotlib import figure

FOLDER = Path(__file__).parent
OURS = ("ppo", "a3c")
LEAST_GAMES = 20
"""Games after which a run's curve begins. Until the hundredth it is the mean of all games."""
PROTOCOLS = {"a3c2016": "no sticky actions", "machado2018": "sticky actions, 18 actions"}


def read(path: Path) -> np.ndarray:
    """Return wall seconds, CPU seconds, agent steps and return of each game, [games, 4]."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == record.COLUMNS, path
    return np.array(rows[1:], dtype=float).reshape(-1, 4)


def means(games: np.ndarray) -> np.ndarray:
    """Return the mean of the last 100 games after each game, or of all games if there are fewer."""
    total = np.cumsum(np.concatenate(([0.0], games[:, 3])))
    ends = np.arange(1, len(games) + 1)
    begins = np.maximum(0, ends - record.GAMES)
    found: np.ndarray = (total[ends] - total[begins]) / (ends - begins)
    return found


def main() -> None:
    """Write the table and the figure."""
    rows = []
    paths = sorted((FOLDER / "games").glob("*.csv"))
    shown = [name for name in PROTOCOLS if any(name in path.stem for path in paths)]
    drawn = figure.Figure(figsize=(5.5 * len(shown), 4), layout="constrained")
    axes = drawn.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    colours: dict[str, str] = {}
    for path in paths:
        learner, protocol, seed = path.stem.rsplit("-", 2)
        games = read(path)
        mean = means(games)
        reached = np.flatnonzero(mean[record.GAMES - 1 :] >= record.SCORE) + record.GAMES - 1
        at = int(reached[0]) if len(reached) else len(games) - 1
        wall_s, cpu_s, steps, _ = games[at]
        rows.append(
            {
                "protocol": protocol,
                "learner": learner,
                "seed": seed,
                "reached": bool(len(reached)),
                "agent_steps": int(steps),
                "cpu_minutes": round(cpu_s / 60, 2),
                "wall_minutes": round(wall_s / 60, 2),
                "mean_of_100": round(float(mean[at]), 2),
            }
        )
        panel = axes[shown.index(protocol)]
        colour = colours.setdefault(learner, f"C{len(colours)}")
        shown_games = slice(LEAST_GAMES - 1, at + 1)
        panel.plot(games[shown_games, 1] / 60, mean[shown_games], color=colour, lw=1.2)
    for panel, name in zip(axes, shown, strict=True):
        panel.axhline(record.SCORE, color="grey", lw=0.8, ls=":")
        panel.set(title=f"Pong, {PROTOCOLS[name]}", xlabel="minutes of one core", ylim=(-21.5, 21))
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mean of the last 100 games, or of all so far")
    for learner, colour in colours.items():
        axes[0].plot([], [], color=colour, label=f"ours: {learner}" if learner in OURS else learner)
    axes[0].legend(frameon=False, fontsize=8)
    drawn.savefig(FOLDER / "curves.png", dpi=130)
    with (FOLDER / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(table(rows))


def table(rows: list[dict[str, object]]) -> str:
    """Return the rows as a Markdown table, one line per protocol and learner."""
    grouped = collections.defaultdict(list)
    for row in rows:
        grouped[row["protocol"], row["learner"]].append(row)
    lines = [
        "| protocol | learner | runs at 18 | agent steps | minutes of one core | last mean |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    for (protocol, learner), runs in sorted(grouped.items()):
        steps, minutes, score = (
            ", ".join(form.format(run[name]) for run in runs)
            for name, form in (
                ("agent_steps", "{:,}"),
                ("cpu_minutes", "{:.1f}"),
                ("mean_of_100", "{:.1f}"),
            )
        )
        count = f"{sum(bool(run['reached']) for run in runs)} of {len(runs)}"
        lines.append(f"| {protocol} | {learner} | {count} | {steps} | {minutes} | {score} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
