"""Runs side by side: who belongs together, what may be compared, and what is said about it."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends import backend_agg

import projection_run as runs
from experiments import compare
from experiments.analysis import aggregates, arms, comparison, scores, tasks
from experiments.pages import comparison_page, study_figures
from html_check import check
from pbt import space, store


def make(path, seed=0, turns=1000, **settings):
    """A run, trained as far as `turns` go."""
    config = runs.configuration(**({"population": 3, "slices": 4, "seed": seed} | settings))
    population = runs.Population(path, config, seed)
    population.train(turns)
    population.store.close()
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three seeds of one arm, two of another; tests copy what they change."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        make(folder / f"pbt-{seed}", seed)
    for seed in range(2):
        make(folder / f"none-{seed}", seed, exploit="none")
    make(folder / "breakout", task_config={"env_id": "Breakout", "preset": "a3c2016"})
    make(folder / "sticky", task_config={"env_id": "Pong", "preset": "machado2018"})
    make(folder / "half", 7, turns=6)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def evaluated(run_dir, returns):
    """Fresh episodes of the best member, as `experiments.evaluate --save` writes them."""
    with store.Store.open(run_dir) as opened:
        best = comparison.History.read(opened, "x").best
    low, high = aggregates.interval(returns, np.mean)
    scores.write_evaluation(
        run_dir,
        best,
        {
            "mean": float(np.mean(returns)),
            "interval_95": (low, high),
            "returns": list(returns),
            "protocol": "as agreed",
        },
    )


def dirs(folder, *names):
    found = [folder / f"{name}-{seed}" for name in names for seed in range(3)]
    return [path for path in found if path.exists()]


def tables(given, names=()):
    return comparison.tables(comparison.groups(comparison.read(given, names)))


def test_the_whole_comparison(folder, tmp_path, capsys):
    given = [str(path) for path in dirs(folder, "pbt", "none")]
    for index, path in enumerate(given):
        evaluated(Path(path), [index, index + 1.5])
    out = tmp_path / "out"
    assert compare.main([*given, "--out", str(out)]) == 0
    figures = {"scores.png", "curves.png", "schedules.png"}
    csv_files = {"scores.csv", "curves.csv", "schedules.csv"}
    assert {path.name for path in out.iterdir()} == {"index.html"} | figures | csv_files
    for name in figures:
        assert matplotlib.image.imread(out / name).std() > 0.05
    elements, words = check((out / "index.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in elements].count("svg") == 3
    assert "biased upward" not in words.partition("Scores")[2].partition("Training scores, by")[0]
    printed = capsys.readouterr().out
    means = [index + 0.75 for index in range(5)]
    low, high = aggregates.interval(means[:3])
    assert f"| pbt | 3 | 1.750 ({low:.3f} to {high:.3f}) |" in printed
    assert "P(pbt > arm)" in printed
    assert "| 0.00 (0.00 to 0.00) |" in printed
    for text in (printed, words):
        assert "really about 50 % with 2 seeds, 75 % with 3 seeds" in text
        # Paired over seeds 0 and 1: 0.75 - 3.75 and 1.75 - 4.75.
        assert "-3.000 (-3.000 to -3.000)" in text
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == ["pbt"] * 3 + ["none"] * 2
    assert [row["run"] for row in rows] == given
    assert [float(row["score"]) for row in rows] == means
    assert [row["seed"] for row in rows] == ["0", "1", "2", "0", "1"]
    with (out / "curves.csv").open() as file:
        assert {row["run"] for row in csv.DictReader(file)} == set(given)
    assert "exploittruncationnone" in words  # the table of what differs
    assert "ready_interval" not in words  # the same in both


def test_nothing_in_the_runs_changes(folder, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    given = [str(path) for path in dirs(folder, "pbt")]
    assert compare.main([*given, "--out", str(tmp_path / "out")]) == 0
    after = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix not in ("-wal", "-shm")}
    assert {p: t for p, t in after.items() if p.is_file()} == {
        p: t for p, t in before.items() if p.is_file()
    }


@pytest.mark.parametrize("kind", ["fresh", "training"])
def test_statistics_are_those_of_the_groups(folder, kind):
    given = dirs(folder, "pbt", "none")
    fresh = dict(zip(given, [5.0, 1.0, 3.0, 2.0, 1.0], strict=True))
    if kind == "fresh":
        for path, mean in fresh.items():
            evaluated(path, [mean - 1, mean + 1])
    found = tables(given)
    assert found.arms == [("", "pbt"), ("", "none")]
    assert found.kind("") == ("score" if kind == "fresh" else "training_score")
    pbt, none = (list(found.scores("", name).values()) for name in ("pbt", "none"))
    if kind == "fresh":
        assert [*pbt, *none] == list(fresh.values())
    else:
        histories = [run.history for run in comparison.read(given)]
        earned = [scores.training_score(history).mean for history in histories]
        assert [*pbt, *none] == pytest.approx(earned, rel=1e-5)
    cells = arms.cells(found, "")
    digits = 2 if max(map(abs, (*pbt, *none))) >= 10 else 3
    for values, line in zip((pbt, none), cells, strict=True):
        low, high = aggregates.interval(values)
        assert line[1] == str(len(values))
        assert line[2] == (  # too few to trim
            f"{np.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
        )
    if kind == "training":
        assert len(cells[0]) == 6  # who is ahead by what chose it may not be better
        return
    assert cells[0][6:] == ["", ""]
    wins = [(x > y) + (x == y) / 2 for x, y in itertools.product(pbt, none)]
    assert cells[1][7].startswith(f"{np.mean(wins):.2f} (")
    differences = np.subtract(pbt[:2], none)
    low, high = aggregates.paired_interval(differences)
    assert cells[1][6] == (
        f"{differences.mean():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
    )


def test_fresh_and_training_scores_are_never_mixed(folder, capsys, tmp_path):
    given = dirs(folder, "pbt", "none")
    for path in given[:-1]:
        evaluated(path, [1.0, 2.0])
    assert tables(given).kind("") == "training_score"
    assert compare.main([*map(str, given), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    _, words = check((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    for text in (printed, words):
        assert "1 of 5 runs has not been evaluated" in text
        assert f"python -m experiments.evaluate {given[-1]} --save" in text
        assert "IQM of training scores" in text
        assert "biased upward" in text
        assert "no group is said to be better than another" in text
        assert "P(" not in text
        assert "minus arm" not in text
    evaluated(given[-1], [1.0, 2.0])
    found = tables(given)
    assert found.kind("") == "score"
    assert arms.cells(found, "")[1][7].startswith("0.50 (")


def test_all_runs_without_fresh_episodes_are_named_in_one_command(made):
    given = [str(path) for path in dirs(made, "pbt", "none")]
    printed = compare.text(tables([Path(path) for path in given]))
    assert "the runs have not been evaluated" in printed
    command = f'for run in {" ".join(given)}; do python -m experiments.evaluate "$run" --save; done'
    assert command in printed


def test_intervals_of_few_seeds_cover_as_often_as_the_page_says():
    rng = np.random.default_rng(0)
    for count, share in comparison_page.COVERED.items():
        ends = [aggregates.interval(rng.normal(size=count), resamples=400) for _ in range(400)]
        covered = np.mean([low <= 0 <= high for low, high in ends])
        assert covered == pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / 400) + 0.01)


def test_replays_show_their_schedules(tmp_path):
    made = []
    for number, rate in enumerate((0.001, 0.004)):
        rows = [
            {"agent_steps": 0, "learning_rate": rate, "unroll_length": 7.5},
            {"agent_steps": 5_000, "learning_rate": rate / 2, "unroll_length": 11.2},
        ]
        given = {"env_id": "Catch", "schedule": rows}
        config = {"task": tasks.SCHEDULED, "space": space.Space({}), "exploit": "none"}
        made.append(make(tmp_path / str(number), number, **config, task_config=given))
    made.append(make(tmp_path / "pbt", task_config={"env_id": "Catch"}))
    for chosen in (made, made[:2]):  # beside a run that adapts, and alone
        found = comparison.groups(comparison.read(chosen))
        shown = comparison.tables(found)
        figure = study_figures.schedules(shown, [name for _, name in shown.arms])
        rates = [
            list(line.get_ydata())
            for line in figure.axes[0].lines
            if line.get_drawstyle() == "steps-post"
        ]
        assert rates[:4:2] == [[0.001, 0.0005, 0.0005], [0.004, 0.002, 0.002]]
        assert {axes.get_yscale() for axes in figure.axes} == {"log"}
        (row,) = (row for row in comparison.differing_settings(found) if "schedule" in row[0])
        assert all(len(text) < 40 for text in row[1])
        assert row[1][0] != row[1][1]
    assert compare.main([*map(str, made), "--out", str(tmp_path / "out")]) == 0
    _, words = check((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert "0.001 at first, 0.0005 at last, on a schedule of 2 rows" in words


def test_single_runs_are_n_1(folder, tmp_path, capsys):
    given = [str(folder / name) for name in ("pbt-0", "none-0")]
    assert compare.main([*given, "--out", str(tmp_path / "out")]) == 0
    _, words = check((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    for text in (printed, words):
        assert text.count("none for n = 1") == 2
        assert "One seed: pbt-0, none-0. What separates single runs" in text
        assert "nan" not in text
    assert "interquartile mean, a run each." in words
    assert "bootstrap" not in words


def test_single_runs_are_not_compared_by_fresh_episodes_either(folder):
    given = [*dirs(folder, "pbt")[:2], folder / "none-0"]
    for path in given:
        evaluated(path, [1.0, 2.0])
    assert len(arms.cells(tables(given), "")[1]) == 6
    made = [*given, make(folder / "none-9", 9, exploit="none")]
    evaluated(made[-1], [1.0, 2.0])
    assert arms.cells(tables(made), "")[1][7].startswith("0.50 (")


@pytest.mark.parametrize("other", ["breakout", "sticky"])
def test_scores_of_different_environments_are_not_compared(folder, tmp_path, capsys, other):
    given = [*dirs(folder, "pbt"), folder / other]
    for path in given:
        evaluated(path, [1.0, 2.0])
    assert compare.main([*map(str, given), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    _, words = check((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    for text in (printed, words):
        assert "different environments or protocols" in text
        assert "none are pooled" in text
        assert "P(" not in text
    found = tables(given)
    assert len(found.panels) == 2
    assert [len(found.names(panel)) for panel in found.panels] == [1, 1]


def test_each_environment_has_a_scale_and_a_reference_of_its_own(folder, tmp_path):
    given = [*dirs(folder, "pbt")[:2], *dirs(folder, "none"), folder / "breakout", folder / "other"]
    make(folder / "other", 1, task_config={"env_id": "Breakout", "preset": "a3c2016"})
    for path in given:
        evaluated(path, [1.0, 2.0])
    found = tables(given, ["a", "a", "b", "b", "c", "c"])
    assert [arms.reference(found, panel) for panel in found.panels] == ["a", "c"]
    assert "a minus arm" in arms.header(found, found.panels[0])[6]
    drawn = comparison_page.figures(found, "all")
    above, below = drawn["scores.png"].axes
    assert not above.get_shared_x_axes().joined(above, below)
    best, other = drawn["curves.png"].axes[0], drawn["curves.png"].axes[3]
    assert not best.get_shared_y_axes().joined(best, other)


def test_what_is_no_sample_of_its_own_is_left_out(folder, capsys, tmp_path):
    make(folder / "again", seed=1)  # trained anew with the settings and the seed of pbt-1
    given = [*dirs(folder, "pbt"), folder / "again", folder / "half"]
    found = tables(given)
    ((panel, name),) = found.arms
    assert [row.run for row in found.counted(panel, name)] == [str(path) for path in given[:3]]
    assert len(found.scores(panel, name)) == 3
    assert compare.main([*map(str, given), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"Not finished, and left out of all statistics: {folder / 'half'}." in printed
    assert f"left out of all statistics: {folder / 'again'}." in printed
    with (tmp_path / "out/scores.csv").open() as file:
        reasons = [row["left_out"] for row in csv.DictReader(file)]
    assert reasons == ["", "", "", "repeated seed", "not finished"]
    curve = found.curves[str(folder / "half")]
    assert 0 < len(curve) < len(found.curves[str(given[0])])  # as far as all members are


def test_groups_of_one_name_are_told_apart(folder):
    for seed in range(2):
        (folder / f"none-{seed}").rename(folder / f"pbt-{seed + 5}")
    given = [folder / f"pbt-{seed}" for seed in (0, 1, 5, 6)]
    assert [name for _, name in tables(given).arms] == ["pbt-0 + pbt-1", "pbt-5 + pbt-6"]


def test_a_factory_that_moved_makes_no_other_group(folder):
    old, new = (next(iter(pair)) for pair in zip(*tasks.OLD.items(), strict=True))
    given = [make(folder / "old", 0, task=old), make(folder / "new", 1, task=new)]
    assert len(comparison.groups(comparison.read(given))) == 1


def test_names(folder, tmp_path):
    given = dirs(folder, "pbt", "none")
    names = ["ours", "ours", "ours", "theirs a", "theirs b"]
    found = comparison.groups(comparison.read(given, names))
    assert [group.name for group in found] == ["ours", "theirs"]
    nested = [tmp_path / "runs" / "pbt-0", make(tmp_path / "more" / "pbt-0", seed=9)]
    assert comparison.short_names(nested) == ["runs/pbt-0", "more/pbt-0"]


def test_names_are_escaped(folder, tmp_path):
    given = [str(folder / name) for name in ("pbt-0", "none-0")]
    bad = "<script>alert(1)</script>$x_1$"
    arguments = ["--names", bad, "b & c", "--out", str(tmp_path / "out")]
    assert compare.main([*given, *arguments]) == 0
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    _, words = check(text)
    assert "<script>alert" not in text
    assert bad in words


def bad_input(folder, tmp_path):
    (folder / "empty").mkdir()
    shutil.copytree(folder / "pbt-0", folder / "copy")
    (tmp_path / "file").write_text("")
    (tmp_path / "study").mkdir()
    (tmp_path / "study/study.json").write_text("{}")
    one, two, other = (str(folder / name) for name in ("pbt-0", "pbt-1", "none-0"))
    return [
        ([], "two or more"),
        ([one], "two or more"),
        ([one, str(folder / "empty")], "empty"),
        ([one, str(folder / "missing")], "missing"),
        ([one, two, one], "given twice"),
        ([one, str(folder / "pbt-1" / ".." / "pbt-0")], "given twice"),
        ([one, str(folder / "copy")], "is a copy of"),
        ([one, two, "--names", "a"], "--names has 1 for 2 runs"),
        ([one, two, "--names", "a", " "], "can be read"),
        ([one, other, "--names", "a", "a"], "different settings: name them apart"),
        ([one, two, "--out", str(tmp_path / "file")], "is a file"),
        ([one, two, "--out", other], "is a run"),
        ([one, two, "--out", str(tmp_path / "study")], "is a study"),
    ]


def test_bad_input_is_refused_in_one_line_and_nothing_is_made(folder, tmp_path, capsys):
    for arguments, message in bad_input(folder, tmp_path):
        before = sorted(tmp_path.rglob("*"))
        if "--out" not in arguments:
            arguments = [*arguments, "--out", str(tmp_path / "out")]
        assert compare.main(arguments) == 2, arguments
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err, arguments
        assert len(captured.err.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_runs_without_anything_yet_are_compared_all_the_same(tmp_path, capsys):
    given = [str(make(tmp_path / str(seed), seed, turns=0)) for seed in range(2)]
    assert compare.main([*given, "--out", str(tmp_path / "out")]) == 0
    _, words = check((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert "not evaluated" in words
    assert "nan" not in words
    counts = (words.count("no score yet"), words.count("0.05"))
    assert counts == (4, 0)  # in the panel of scores and three of curves; no ticks of nothing


def test_many_groups_have_room(folder, tmp_path):
    given = [make(tmp_path / f"m{n}", ready_interval=n * runs.INTERVAL) for n in range(1, 8)]
    assert compare.main([*map(str, given), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    check(text)
    assert len(text.encode()) < 1_000_000


def test_scores_read_back_as_they_were_written(folder):
    evaluated(folder / "pbt-0", [1.0, 4.0])
    (path,) = (folder / "pbt-0" / "report").iterdir()
    assert json.loads(path.read_text())["returns"] == [1.0, 4.0]
    run = comparison.read([folder / "pbt-0", folder / "pbt-1"])[0]
    assert (run.fresh.mean, run.fresh.episodes, run.fresh.protocol) == (2.5, 2, "as agreed")


def test_the_labels_of_three_environments_keep_to_their_panels(tmp_path):
    given = []
    for env_id in ("ALE/Pong-v5", "ALE/Breakout-v5", "CartPole-v1"):
        task_config = {"env_id": env_id, "preset": "machado2018"}
        run_dir = tmp_path / f"a-rather-long-name-of-{env_id.rpartition('/')[2]}"
        runs.Population(run_dir, runs.configuration(task_config=task_config)).train(1000)
        given.append(run_dir)
    found = tables(given)
    for figure in (study_figures.scores(found, ""), study_figures.curves_by_time(found)):
        canvas = backend_agg.FigureCanvasAgg(figure)
        canvas.draw()
        panels = [axes for axes in figure.axes if axes.get_xlabel()]
        labels = [axes.yaxis.label for axes in panels if axes.get_ylabel()]
        labels += [axes.xaxis.label for axes in panels]
        boxes = [label.get_window_extent(canvas.get_renderer()) for label in labels]
        boxes += [legend.get_window_extent() for legend in figure.legends]
        for first, second in itertools.combinations(boxes, 2):
            assert not first.overlaps(second)
        for box in boxes:
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1


def test_the_axis_of_scores_names_the_score_as_the_learner_does(tmp_path):
    words = {"units": {"score": "accuracy", "sample": "epoch"}}
    for task_config, named in (({}, "score in"), (words, "training accuracy in")):
        given = [tmp_path / f"{named} {number}" for number in range(2)]
        for run_dir in given:
            runs.Population(run_dir, runs.configuration(task_config=task_config)).train(1000)
        figure = study_figures.scores(tables(given), "")
        assert named in figure.axes[0].get_xlabel()
