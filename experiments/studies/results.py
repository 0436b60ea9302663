"""A study's folder: its tables, and the pages and figures that are made from them alone.

Besides the files of `experiments.studies.tables`, a folder has:

    notes.md         what a person has to say about the results; optional
    README.md        tables and notes
    index.html       the same and the figures, on one page that needs no other file
    scores.png, curves.png, schedules.png

`rebuild` makes the last three lines from the other files, and nothing else makes them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.analysis import arms, outcome, units, wording
from experiments.pages import drawing, markup, study_figures, study_page
from experiments.studies import tables

NOTES, README = "notes.md", "README.md"


def write(folder: Path, described: Mapping[str, Any], found: Sequence[arms.Result]) -> None:
    """Write a study's tables and rebuild the rest.

    Args:
        folder: Folder of the study, made if it is missing.
        described: Contents of study.json.
        found: All finished runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / tables.STUDY).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    listed = [(arm["panel"], arm["name"]) for arm in described["arms"]]
    made = arms.tables_of(
        listed, described["world"], described["reference"], found, tables.units_of(described)
    )
    tables.write(folder, made)
    rebuild(folder)


def rebuild(folder: Path) -> None:
    """Make README.md, index.html and the figures of a study's folder from its tables.

    Raises:
        ValueError: A table is damaged. Names it.
        OSError: A file is missing or cannot be written.
    """
    described = tables.read_study(folder)
    if described is None:
        raise ValueError(f"{folder / tables.STUDY} does not exist: no results of a study")
    found = tables.read(folder, described)
    notes = folder / NOTES
    said = notes.read_text(encoding="utf-8") if notes.exists() else ""
    done = protocol(described, found)
    (folder / README).write_text(readme(described, found, said, done), encoding="utf-8")
    drawn = study_figures.figures(found, described["title"])
    for name, figure in drawn.items():
        drawing.save(figure, folder / name)
    page = study_page.page(described, found, said, done, drawn)
    (folder / markup.FILE_NAME).write_text(page, encoding="utf-8")


def readme(
    described: Mapping[str, Any], found: arms.Tables, notes: str, done: Sequence[str]
) -> str:
    """Return the page of a study in Markdown. The same tables give the same text."""
    lines = [f"# {described['title']}", "", described["question"], ""]
    lines += ["![scores of all runs](scores.png)", ""]
    for panel in found.panels:
        lines += [f"## {panel[0].upper()}{panel[1:]}", ""] if panel else []
        lines += [*arms.markdown(found, panel), ""]
    lines += [f"**The paper.** {described['paper']}", ""]
    lines += [notes.rstrip(), ""] if notes else []
    lines += ["## Training", "", "![training scores](curves.png)", ""]
    if any(row.exploits for row in found.rows):
        lines += ["![hyperparameters of the winners](schedules.png)", ""]
    lines += ["## Protocol", "", *(f"- {line}" for line in done), ""]
    lines += [
        "`scores.csv` has every run, `curves.csv` and `schedules.csv` what the figures show; "
        "`python -m experiments.report` on this folder makes this page and `index.html` again "
        "from them.",
        "",
    ]
    return "\n".join(lines)


def protocol(described: Mapping[str, Any], found: arms.Tables) -> list[str]:
    """Return how the study was done, one thing per line of Markdown."""
    settings = "; ".join(
        f"{name.replace('worlds', 'environments')} {_setting(v)}"  # the key's older word is stored
        for name, v in described["settings"].items()
    )
    seconds = sum({row.run: row.seconds for row in found.rows}.values())
    words, what = found.words, f"members: {described['protocol']}"
    fresh = f"fresh {words.many}"
    if words == units.AGENTS:
        what = f"environment: {described['protocol']}; agent {described['agent']}"
        fresh = f"mean of {outcome.EPISODES} fresh episodes"
    commits: Mapping[str, int] = described.get("run_commits", {})
    counted = ", ".join(f"{commit} ({count})" for commit, count in commits.items())
    chosen = "the member with the highest training score"
    if "selection" in described:  # studies of before the choice by fresh episodes lack it
        candidates, episodes = described["selection"]
        chosen = (
            f"the best member. It is the winner of {episodes} other fresh {words.many} each of the "
            f"{candidates} members with the highest training scores, or of all if there are fewer"
        )
    return [
        what,
        f"{settings}; priors log-uniform",
        *(
            f"{arm['name']}{' (' + arm['panel'] + ')' if arm['panel'] else ''}: {arm['settings']}"
            for arm in described["arms"]
        ),
        f"score of a run: {fresh} of {chosen}. A training "
        f"score is the mean of the last ten counted training {words.many} of the member's weights. "
        "Where fewer have ended since its last copy, it is the score of the weights that were "
        "copied, or of the member's earlier ones",
        f"seeds {_ranges(sorted({row.seed for row in found.rows}))}; within a seed all arms begin "
        "with the same draws and weights, as far as they have them",
        "IQM: interquartile mean over seeds. P: probability that a run of the reference scores "
        "above a run of the arm, paired or not. Their intervals: 95 % percentile bootstrap, 10,000 "
        "resamples of seeds, too narrow for few seeds. Intervals of paired differences: Student's "
        "t. See `experiments/analysis/aggregates.py`",
        "each interval is that of one comparison; none is corrected for there being several",
        f"command: `{described['command']}`",
        f"commit of these tables: {described['commit']}; of the runs: {counted or 'not recorded'}",
        f"{seconds / 3600:.2f} hours of training, summed over members, with the runs that other "
        "studies share",
    ]


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"in ({', '.join(wording.value(end) for end in value)})"
    return value if isinstance(value, str) else f"{value:,}"


def _ranges(seeds: Sequence[int]) -> str:
    if list(seeds) == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
