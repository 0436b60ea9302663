"""A study's page: what it says follows from its tables, and from nothing else."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments import report
from experiments.analysis import aggregates, arms, outcome
from experiments.studies import definitions, results
from html_check import check

COMMITTED = sorted(Path(__file__).parents[2].glob("results/*/study.json"))
DESCRIBED = {
    "study": "random-search",
    "title": "PBT against random search",
    "question": "Which is better?",
    "paper": "Figure 3: PBT.",
    "reference": "PBT",
    "arms": [
        {"panel": "", "name": "PBT", "settings": "t-test"},
        {"panel": "", "name": "random search", "settings": "nobody copies"},
        {"panel": "", "name": "never run", "settings": "nothing"},
    ],
    "world": "Catch",
    "agent": "a3c",
    "settings": {"members": 8, "learning rate": [1e-4, 0.1]},
    "protocol": "Catch; actions sampled",
    "command": "python -m experiments.study random-search",
    "commit": "abc1234",
    "run_commits": {"def5678": 3, "unknown": 1},
}
SCORES = {"PBT": [5.0, 6.5, 7.0, 9.0], "random search": [5.5, 3.0, 4.0, 5.0]}


def result(arm, seed, score):
    return arms.Result(
        panel="",
        arm=arm,
        seed=seed,
        run=f"{arm}-{seed}",
        outcome=outcome.Outcome(
            member=1,
            training_score=score + 1,
            score=score,
            median_training_score=score - 1,
            agent_steps=800,
            seconds=360.0,
            decisions={"exploit": 4, "no-exploit": 6} if arm == "PBT" else {},
            protocol="Catch; actions sampled; evaluation seed 1",
            curve=((100, None, None), (200, 1.0, 0.5), (300, score, score - 1)),
            schedule=(
                ({"agent_steps": 0, "rate": 0.1}, {"agent_steps": 300, "rate": 0.01})
                if arm == "PBT"
                else ()
            ),
        ),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A study's folder that no test changes."""
    found = [result(arm, seed, s) for arm, own in SCORES.items() for seed, s in enumerate(own)]
    folder = tmp_path_factory.mktemp("written") / "study"
    results.write(folder, DESCRIBED, found)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "study"))


def test_the_table_says_what_the_scores_say(folder):
    lines = (folder / "README.md").read_text().splitlines()
    (row,) = (line for line in lines if line.startswith("| random search |"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    x, y = np.array(SCORES["PBT"]), np.array(SCORES["random search"])
    assert cells[1] == "4"
    low, high = aggregates.interval(y)
    assert cells[2] == f"{np.mean([4.0, 5.0]):.3f} ({low:.3f} to {high:.3f})"  # the middle two
    assert cells[3] == f"{y.mean():.3f}"
    assert cells[4] == f"{(y - 1).mean():.3f}"
    assert cells[6].startswith(f"{(x - y).mean():.3f} (")
    above = np.mean([a > b for a in x for b in y]) + np.mean([a == b for a in x for b in y]) / 2
    assert cells[7].startswith(f"{above:.2f} (")
    assert "| never run | 0 |" in "\n".join(lines)
    text = "\n".join(lines)
    for said in (
        "Figure 3: PBT.",
        "abc1234; of the runs: def5678 (3),",
        "seeds 0 to 3",
        "in (0.0001, 0.1)",
        "0.80 hours",
    ):
        assert said in text, said


def test_a_rebuilt_folder_is_the_same_and_notes_are_kept(folder, command):
    (folder / "notes.md").write_text("## What it shows\n\nNothing yet.\n")
    report.main([str(folder)])
    text = (folder / "README.md").read_text()
    assert "Nothing yet." in text
    for made in ("README.md", "scores.png", "curves.png", "schedules.png"):
        (folder / made).unlink()
    report.main([str(folder)])
    assert (folder / "README.md").read_text() == text
    assert (folder / "schedules.png").stat().st_size > 10_000


def test_notes_are_markdown_on_the_page_too(folder):
    (folder / "notes.md").write_text(
        "## What it shows\n\n**PBT is above** by 2 - or 3 <b>points</b> (`tuning.csv`).\n\n"
        "- one - and a half\n- two\n  halves\n\n## Limits\n\n    python -m this\n"
    )
    results.rebuild(folder)
    page = (folder / "index.html").read_text()
    check(page)
    for said in (
        "<p><strong>PBT is above</strong> by 2 - or 3 &lt;b&gt;points&lt;/b&gt; "
        "(<code>tuning.csv</code>).</p>",
        "<li>one - and a half</li>",
        "<h3>Limits</h3>",
        "<pre><code>python -m this",
        "<li>command: <code>python -m experiments.study",
    ):
        assert said in page, said
    assert page.count("What it shows") == 2  # the section's title and the link to it


def test_a_damaged_table_is_named(folder):
    text = (folder / "scores.csv").read_text()
    (folder / "scores.csv").write_text(text.replace("6.5", "six"))
    with pytest.raises(ValueError, match=r"scores.csv, line 3: not a row of scores"):
        results.rebuild(folder)


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("scores.csv", lambda text: "", "scores.csv is damaged (no rows)"),
        ("scores.csv", lambda text: "\0\xff" + text, "scores.csv"),
        ("curves.csv", lambda text: "", "curves.csv is damaged (without "),
        ("curves.csv", lambda text: text[: text.rindex(",")], "curves.csv, line "),
        ("curves.csv", lambda text: text.replace(",", ";"), "curves.csv, line 2"),
        ("schedules.csv", lambda text: "", "schedules.csv is damaged (without "),
        ("schedules.csv", lambda text: text[: text.rindex(",")], "schedules.csv, line "),
        ("study.json", lambda text: text[:-5], "study.json is damaged"),
        ("study.json", lambda text: text.replace('"arms"', '"legs"'), "(without arms)"),
    ],
)
def test_damaged_files_are_named_and_nothing_is_rebuilt(folder, capsys, file, damage, words):
    page = (folder / "index.html").read_bytes()
    damaged = damage((folder / file).read_text())
    (folder / file).write_bytes(damaged.encode("latin-1"))
    with pytest.raises(SystemExit, match="2"):
        report.main([str(folder)])
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert (folder / "index.html").read_bytes() == page


def test_one_seed_has_no_interval(tmp_path):
    found = [result(arm, 0, own[0]) for arm, own in SCORES.items()]
    results.write(tmp_path, DESCRIBED, found)
    assert "| random search | 1 | 5.500 (none for n = 1) |" in (tmp_path / "README.md").read_text()
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "interquartile mean, a run each." in page
    assert "bootstrap interval" not in page


def test_several_seeds_have_an_interval(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "interquartile mean over seeds, with its 95 % bootstrap interval." in page


def test_scores_of_known_games_are_also_told_on_the_human_scale(tmp_path):
    """Pong: random play scores -20.7, a human tester 14.6."""
    found = [result("PBT", 0, -20.7), result("random search", 0, 14.6)]
    results.write(tmp_path, DESCRIBED | {"world": "Pong"}, found)
    cells = {
        line.split("|")[1].strip(): line.split("|")[-2].strip()
        for line in (tmp_path / "README.md").read_text().splitlines()
        if line.startswith("| ")
    }
    assert cells["arm"] == "IQM, human-normalised"
    assert cells["PBT"] == "0%"
    assert cells["random search"] == "100%"
    assert cells["never run"] == ""
    assert "100%" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("study", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_results_are_made_of_their_tables(study, tmp_path):
    committed = study.parent
    for name in ("study.json", "scores.csv", "curves.csv", "schedules.csv", "notes.md"):
        if (committed / name).exists():
            shutil.copy(committed / name, tmp_path / name)
    results.rebuild(tmp_path)
    assert (tmp_path / "README.md").read_text() == (committed / "README.md").read_text()
    described = json.loads(study.read_text())
    assert described["study"] in definitions.STUDIES
    rows = list(csv.DictReader((committed / "scores.csv").open()))
    assert {row["arm"] for row in rows} <= {arm["name"] for arm in described["arms"]}
    assert re.search(
        r"command: `python -m experiments\.study", (tmp_path / "README.md").read_text()
    )
