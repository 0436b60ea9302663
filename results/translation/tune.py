"""Tune the constant setting and the linear decay that the studies of this folder compare PBT with.

    python results/translation/tune.py                # writes tuning.csv

Each trial trains single members with seeds that no study uses. Its score is the mean BLEU of the
last evaluation, which is of validation sentences. Test sentences are not looked at.
"""

import csv
from pathlib import Path

import torch

from agents import transformer
from experiments import presets
from experiments.analysis import schedule
from experiments.members import scheduled, translation
from experiments.studies import schedules

SEEDS = (90, 91)
RATES = {
    "constant": (5e-4, 1e-3, 2e-3, 3e-3, 5e-3),
    "decay": (2e-3, 4e-3, 8e-3, 1.6e-2),
}
DROPOUTS = (1e-3, 0.03, 0.1)
"""Tried for all three kinds together, at the best rate so far."""


def train(seed: int, rate: float, dropout: float, is_decay: bool) -> tuple[float, float]:
    """Return BLEU and the share of exact matches of a member at the end of the study's budget."""
    preset = presets.TRANSLATION["default"]["translator"]
    _, settings = preset.task()
    values = {"learning_rate": rate, **dict.fromkeys(transformer.DROPOUTS, dropout)}
    followed = schedule.Schedule(((0, values),))
    if is_decay:
        followed = schedules.linear_decay(values, preset.total_steps)
    member = scheduled.ScheduledTask(translation.make_task(settings, 0, seed), followed)
    bleu, exact = [], 0.0
    for progress in member.train(preset.total_steps, preset.total_steps):
        if progress.episodes:
            bleu = [episode.episode_return for episode in progress.episodes]
            exact = progress.metrics["exact_match"]
    return sum(bleu) / len(bleu), exact


def main() -> None:
    """Try rates first, then dropout at the best rate."""
    torch.set_num_threads(1)
    with (Path(__file__).parent / "tuning.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("kind", "learning_rate", "dropout", "seed", "bleu", "exact_match"))
        for kind, rates in RATES.items():
            scores: dict[tuple[float, float], float] = {}

            def score(rate: float, dropout: float, kind: str = kind) -> float:
                found = []
                for seed in SEEDS:
                    bleu, exact = train(seed, rate, dropout, kind == "decay")
                    rows.writerow((kind, rate, dropout, seed, f"{bleu:.2f}", f"{exact:.4f}"))
                    print(kind, rate, dropout, seed, f"{bleu:.2f} {exact:.4f}", flush=True)
                    file.flush()
                    found.append(bleu)
                return sum(found) / len(found)

            for rate in rates:
                scores[rate, DROPOUTS[0]] = score(rate, DROPOUTS[0])
            best = max(scores, key=scores.__getitem__)[0]
            for dropout in DROPOUTS[1:]:
                scores[best, dropout] = score(best, dropout)
            print(kind, "best:", max(scores, key=scores.__getitem__), flush=True)


if __name__ == "__main__":
    main()
