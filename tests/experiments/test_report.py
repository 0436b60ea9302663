import csv
import json
import shutil

import matplotlib.image
import numpy as np
import pytest

import projection_run as runs
from experiments import report
from experiments.analysis import curves, history
from experiments.pages import drawing, family, figures, run_page, run_report
from experiments.studies import results
from pbt import lineage, storage, store
from pbt.records import Event

PICTURES = {"schedule.png", "learning_curves.png", "hyperparameters.png", "family_tree.png"}
TABLES = {"summary.md", "schedule.csv", "reports.csv", "episodes.csv", "events.jsonl"}
PAGE = {"index.html"}


@pytest.fixture
def population(tmp_path):
    return runs.Population(tmp_path / "a run, größer", runs.configuration())


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(figures, "figures", lambda seen: {})


@pytest.fixture
def run_dir(population):
    return population.store.path.parent


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_report(population, run_dir, capsys):
    population.train(1000)
    report.main([str(run_dir)])
    out = run_dir / "report"
    assert {path.name for path in out.iterdir()} == PICTURES | TABLES | PAGE
    for name in PICTURES:
        pixels = matplotlib.image.imread(out / name)
        assert min(pixels.shape[:2]) > 400
        assert pixels.std() > 0.05  # something is drawn
    assert {path.name for path in (run_dir / "tensorboard").iterdir()} == {
        "population",
        "best-lineage-01",
        *(f"member-0{number}" for number in range(4)),
    }
    printed = capsys.readouterr().out
    best = max(population.store.members(), key=lambda m: m.score)
    assert f"## Best member: {best.id}" in printed
    assert "biased upward" in printed
    assert "a score on data by which nothing was chosen" in printed  # a learner of these tests
    assert '"preset": "a3c2016"' in printed
    assert (out / "summary.md").read_text(encoding="utf-8") in printed


@pytest.mark.parametrize(
    ("written", "said"),
    [(None, "checkpoints/"), ('{"url": "s3://bucket/run"}', "s3://bucket/run/"), ("cut", None)],
)
def test_the_page_says_where_the_best_members_state_is(population, run_dir, written, said):
    population.train(1000)
    if written is not None:
        (run_dir / storage.FILE_NAME).write_text(written)
    seen = history.History.read(population.store, "run")
    page = run_page.page(seen, run_dir, {})
    if said is None:
        assert "Its state is in" not in page
    else:
        assert f"Its state is in <code>{said}{seen.best.checkpoint}</code>" in page


def test_tables_read_back_equal_to_the_store(population, run_dir, no_pictures):
    population.train(30)
    population.restore()
    population.train(1000)
    run_report.write_report(population.store, run_dir / "report")
    stored = [r for _, r in population.store.reports()]
    table = rows(run_dir / "report" / "reports.csv")
    assert len(table) == len(stored)
    for row, wanted in zip(table, stored, strict=True):
        assert int(row["member"]) == wanted.member
        assert int(row["version"]) == wanted.version
        assert int(row["agent_steps"]) == wanted.agent_steps
        assert float(row["seconds"]) == wanted.seconds
        for name, value in wanted.hyperparameters.items():
            assert float(row[f"hyperparameter/{name}"]) == value
        for name, value in wanted.metrics.items():
            assert float(row[f"metric/{name}"]) == value
        score = population.store.version(wanted.member, wanted.version).score
        assert row["score"] == ("" if score is None else repr(score))
    assert [
        (
            int(row["member"]),
            int(row["version"]),
            int(row["agent_steps"]),
            float(row["return"]),
            int(row["length"]),
            row["counted"] == "1",
        )
        for row in rows(run_dir / "report" / "episodes.csv")
    ] == [(r.member, r.version, *episode) for r in stored for episode in r.episodes]
    lines = (run_dir / "report" / "events.jsonl").read_text().splitlines()
    assert [Event(**json.loads(line)) for line in lines] == population.store.events()


def test_the_schedule_is_that_of_the_best_member_s_lineage(population, run_dir, no_pictures):
    population.train(1000)
    run_report.write_report(population.store, run_dir / "report")
    table = rows(run_dir / "report" / "schedule.csv")
    assert list(table[0]) == ["agent_steps", *runs.SPACE.dimensions, "member", "version"]
    best = max(population.store.members(), key=lambda m: m.score)
    assert (int(table[-1]["member"]), int(table[-1]["version"])) == (best.id, best.version)
    for row in table:
        version = population.store.version(int(row["member"]), int(row["version"]))
        assert {name: float(row[name]) for name in runs.SPACE.dimensions} == dict(
            version.hyperparameters
        )
    steps = [int(row["agent_steps"]) for row in table]
    assert steps[0] == 0
    assert steps == sorted(steps)


def test_a_run_without_reports_says_so(population, run_dir, capsys):
    report.main([str(run_dir)])
    assert "no report yet" in capsys.readouterr().out
    assert not {path.name for path in (run_dir / "report").iterdir()} & PICTURES


def test_a_run_whose_members_have_no_score_yet(tmp_path, capsys):
    population = runs.Population(tmp_path / "run", runs.configuration(min_episodes=1000))
    population.train(3)
    report.main([str(tmp_path / "run")])
    assert "1000 counted episodes" in capsys.readouterr().out


def test_a_run_in_the_middle(population, run_dir):
    for turns in (1, 12):
        population.train(turns)
        report.main([str(run_dir)])  # over the old one


def test_out_leaves_the_run_as_it_was(population, run_dir, tmp_path):
    population.train(20)
    report.main([str(run_dir), "--out", str(tmp_path / "elsewhere")])
    assert [path.name for path in run_dir.iterdir()] == [store.FILE_NAME]
    assert (tmp_path / "elsewhere" / "tensorboard" / "best-lineage-01").is_dir()
    assert (tmp_path / "elsewhere" / "schedule.png").is_file()


def test_what_is_not_a_run_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no database")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / store.FILE_NAME).write_text("no database, but of the right name")
    for name in ("empty", "file", "wrong", "missing"):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit, match="2"):
            report.main([str(tmp_path / name), "--out", str(tmp_path / "out")])
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_a_report_that_cannot_be_written_is_refused_in_one_line(population, run_dir, capsys):
    population.train(5)
    (run_dir / "report").write_text("in the way")
    with pytest.raises(SystemExit, match="2"):
        report.main([str(run_dir)])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_deleted_projections_come_back(population, run_dir, no_pictures):
    population.train(30)
    report.main([str(run_dir)])
    first = {name: (run_dir / "report" / name).read_bytes() for name in TABLES}
    shutil.rmtree(run_dir / "report")
    shutil.rmtree(run_dir / "tensorboard")
    report.main([str(run_dir)])
    assert {name: (run_dir / "report" / name).read_bytes() for name in TABLES} == first
    assert len(list((run_dir / "tensorboard").iterdir())) == 6


@pytest.mark.parametrize("seed", range(4))
def test_no_line_of_the_family_tree_crosses_another(tmp_path, seed):
    population = runs.Population(
        tmp_path, runs.configuration(population=9, slices=14, ready_interval=runs.INTERVAL), seed
    )
    population.train(60)
    population.restore()
    population.train(1000)
    tree = lineage.Tree(population.store.versions())
    order = family.tree_order([b for b in tree.branches() if b.parent is None])
    assert len(order) == len(tree.branches()) > 12
    row = {branch.keys[0]: place for place, branch in enumerate(order)}
    for branch in order:
        for child in branch.children:
            x = tree.training[child.keys[0]]
            for other in order[row[branch.keys[0]] + 1 : row[child.keys[0]]]:
                assert x <= tree.training[other.keys[0]]  # right of the vertical line


def test_the_moving_mean_is_one():
    y = np.random.default_rng(0).normal(size=300)
    x, means = curves.moving_mean(np.arange(300.0), y, 10)
    assert x[0] == 9  # not a mean of fewer
    for at, mean in zip(x.astype(int), means, strict=True):
        assert mean == pytest.approx(y[at - 9 : at + 1].mean())
    assert len(curves.moving_mean(np.arange(9e4), np.zeros(90_000), 10)[0]) <= 400


def test_a_member_s_curve_is_cut_where_its_weights_changed(population):
    population.train(1000)
    seen = history.History.read(population.store, "x")
    for number in range(4):
        copies = [v for v in seen.versions if v.member == number and v.kind == "exploit"]
        assert len(list(curves.curve_pieces(seen, number))) == len(copies) + 1


def test_large_and_small_populations_have_figures(tmp_path):
    for size in (1, 2, 40):
        population = runs.Population(tmp_path / str(size), runs.configuration(size, 4))
        population.train(1000)
        seen = history.History.read(population.store, "x")
        drawn = figures.figures(seen)
        assert set(drawn) == PICTURES
        assert len(run_page.page(seen, tmp_path, drawn).encode()) < 1_000_000


def test_a_figure_of_many_marks_is_pixels_inside_the_page(tmp_path, monkeypatch):
    population = runs.Population(tmp_path, runs.configuration())
    population.train(1000)
    monkeypatch.setattr(drawing, "RASTER_FROM", 10)
    seen = history.History.read(population.store, "x")
    for name, marks in (("family_tree.png", "<path"), ("learning_curves.png", "<use")):
        text = drawing.svg(figures.figures(seen)[name], name)
        assert text.count("data:image/png;base64,") >= 1
        assert text.count(marks) < 60


@pytest.fixture
def study(tmp_path):
    """A folder with a study's file."""
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / report.STUDY_FILE).write_text("{}")
    return folder


def test_a_study_is_rebuilt_from_its_folder(study, monkeypatch, capsys):
    rebuilt = []
    monkeypatch.setattr(results, "rebuild", rebuilt.append)
    report.main([str(study)])
    assert rebuilt == [study]
    with pytest.raises(SystemExit, match="2"):
        report.main([str(study), "--out", str(study / "elsewhere")])
    assert "rebuilt where it lies" in capsys.readouterr().err
    assert rebuilt == [study]


def test_a_damaged_study_is_refused_in_one_line(study, capsys):
    before = sorted(study.iterdir())
    for text in ("{", "{}", "[]"):
        (study / report.STUDY_FILE).write_text(text)
        with pytest.raises(SystemExit, match="2"):
            report.main([str(study)])
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert len(captured.err.splitlines()) == 1
    assert sorted(study.iterdir()) == before
