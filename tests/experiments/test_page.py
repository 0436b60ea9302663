"""The page of a run is whole, escaped, and needs no other file."""

import base64
import copy
import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import projection_run as runs
from experiments.analysis import (
    curves,
    decisions,
    history,
    protocol,
    provenance,
    schedule,
    scores,
    tasks,
    wording,
)
from experiments.pages import (
    drawing,
    family,
    figures,
    markup,
    run_page,
    run_report,
    script,
    sections,
)
from html_check import check
from pbt import run, space

NASTY = "<script>alert(1)</script>\"'&amp; größer $a_b$"


def read(population, name="a run"):
    return history.History.read(population.store, name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with copies and a restore. Tests only read it."""
    population = runs.Population(tmp_path_factory.mktemp("runs") / "one", runs.configuration())
    population.train(30)
    population.restore()
    population.train(1000)
    return population


@pytest.fixture(scope="module")
def seen(trained):
    return read(trained)


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A finished run under the t-test."""
    config = runs.configuration(exploit="t-test")
    population = runs.Population(tmp_path_factory.mktemp("runs") / "two", config)
    population.train(1000)
    return read(population)


def test_the_page_of_a_run_is_whole_and_needs_nothing_else(trained, tmp_path):
    run_report.write_report(trained.store, tmp_path / "report")
    text = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    elements, words = check(text)
    assert text.startswith("<!doctype html>")
    tags = [tag for tag, _ in elements]
    assert tags.count("svg") == tags.count("figure") == 4
    for tag, attributes in elements:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert len(attributes["aria-label"]) > 40
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
        if tag == "html":
            assert attributes["lang"] == "en"
    assert tags.count("caption") == tags.count("table") == 3
    for heading in (
        "How it was run",
        "Learning curves",
        "Hyperparameters",
        "The winner's schedule",
        "Family tree",
        "Decisions",
        "Members",
    ):
        assert heading in words
    for fact in ("a3c2016", "Sticky actions", "No-op starts", "no-exploit", "truncation"):
        assert fact in words


def test_only_the_page_s_own_script_may_run(seen):
    text = run_page.page(seen, Path("run"), {})
    elements, _ = check(text)
    (policy,) = (a["content"] for t, a in elements if a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(script.SCRIPT.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy
    assert text.count("<script>") == 1
    assert f"<script>{script.SCRIPT}</script>" in text


def test_whatever_comes_from_a_run_is_escaped(tmp_path):
    config = runs.configuration(
        population=2, slices=6, task_config={"env_id": NASTY, "preset": NASTY, "agent": NASTY}
    )
    population = runs.Population(tmp_path / "run", config)
    population.train(4)
    population.restore()
    lease = population.store.claim("tester/boot/1/2")
    population.store.crash(lease, f"RuntimeError: {NASTY}")
    population.train(100)
    run_dir = tmp_path / "run"
    seen = read(population, NASTY)
    path = scores.evaluation_path(run_dir, seen.best)
    path.parent.mkdir()
    path.write_text(
        json.dumps({"mean": 1, "interval_95": [0, 2], "returns": [0, 2], "protocol": NASTY})
    )
    line = {"command": NASTY, "commit": NASTY, "started_s": 0.0}
    (run_dir / provenance.FILE_NAME).write_text(json.dumps(line) + "\n")
    text = run_page.page(seen, run_dir / NASTY.replace("/", ""), {})
    text += run_page.page(seen, run_dir, figures.figures(seen))
    assert "<script>alert" not in text
    for part in text.split("<!doctype html>")[1:]:
        elements, words = check("<!doctype html>" + part)
        assert [tag for tag, _ in elements].count("script") == 1
    # Name, environment, agent, protocol, command and error.
    assert words.count(" ".join(NASTY.split())) >= 6


def test_a_run_without_anything_has_a_page(tmp_path):
    population = runs.Population(tmp_path, runs.configuration())
    _, words = check(run_page.page(read(population), Path("run"), {}))
    assert "No score yet" in words
    assert "Decisions" not in words


def test_the_score_says_what_it_is(seen, tmp_path):
    run_dir = tmp_path / "a run"
    run_dir.mkdir()
    _, words = check(run_page.page(seen, run_dir, {}))
    assert "biased upward" in words
    assert "experiments.evaluate" not in words  # which knows nothing of these tests' learners
    agents = dataclasses.replace(seen.config, task=tasks.LEARNER)
    seen = dataclasses.replace(seen, config=agents)
    _, words = check(run_page.page(seen, run_dir, {}))
    assert "biased upward" in words
    assert f"python -m experiments.evaluate '{run_dir}' --save" in words
    scores.write_evaluation(
        run_dir,
        seen.best,
        {"mean": 3.25, "interval_95": (2, 4.5), "returns": [2, 4.5], "protocol": "as agreed"},
    )
    _, words = check(run_page.page(seen, run_dir, {}))
    assert "biased upward" not in words
    assert "3.250 mean of 2 fresh episodes" in words
    assert "95 % interval 2.000 to 4.500; one run, one seed (n = 1)" in words
    assert "68 % of human" in words  # Pong: (3.25 + 20.7) / 35.3
    assert "Played as: as agreed." in words


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"mean": 1}', '{"mean": NaN, "interval_95": [0, 1], "returns": [1]}', "\xff"],
)
def test_an_evaluation_that_is_none_is_not_believed(seen, tmp_path, text):
    path = scores.evaluation_path(tmp_path, seen.best)
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    assert not scores.best_score(seen, tmp_path).is_fresh


def test_the_decisions_are_those_of_the_store(trained, seen):
    rows = decisions.decisions(seen)
    events = [event for event in seen.events if event.kind != "explore"]
    assert [(row.kind, row.member, row.agent_steps) for row in rows] == [
        (event.kind, event.member, event.agent_steps) for event in events
    ]
    copies = [row for row in rows if row.is_copy]
    assert copies
    for row, event in zip(rows, events, strict=True):
        assert row.other == event.details.get("donor", event.details.get("opponent"))
        if row.is_copy:
            child = trained.store.version(event.member, event.version)
            old = trained.store.version(event.member, event.version - 1)
            used = seen.config.space.used
            assert row.before == pytest.approx(dict(used(old.hyperparameters)))
            assert row.after == pytest.approx(dict(used(child.hyperparameters)))
        else:
            assert row.before == row.after == {}


def test_a_t_test_is_shown_with_its_evidence(tested):
    rows = [row for row in decisions.decisions(tested) if row.t is not None]
    assert rows
    elements, words = check(run_page.page(tested, Path("run"), {}))
    for row in rows:
        assert wording.score(row.t) in words
        assert wording.probability(row.p) in words
    values = [float(a["data-value"]) for _, a in elements if "data-value" in a]
    assert {row.p for row in rows} <= set(values)  # sorted by what is known, not by what is shown


@pytest.mark.parametrize("state", ["failed", "lost"])
def test_members_that_nobody_trains_are_shown_everywhere(tmp_path, state):
    population = runs.Population(tmp_path / "run", runs.configuration())
    population.train(12)
    population.crash(1, "RuntimeError: boom", state)
    if state == "lost":
        population.train(1000)
    (member,) = (m for m in population.store.members() if m.state == state)
    left = population.config.total_steps - member.agent_steps
    assert left > 0
    text = run_report.write_report(population.store, tmp_path / "report")
    _, words = check((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    for said in (text, words):
        assert f"1 {state}" in said
        assert f"ot training: member 1 ({state}); {left:,} agent steps unspent" in said
    assert f"1 {state}" in drawing.svg(family.family_tree(read(population)), "tree")
    assert words.count("diverged, failed or lost") == 2  # the legends of two figures
    assert ("given up for good: RuntimeError: boom" in words) == (state == "lost")


def test_a_member_that_nobody_could_replace_failed_for_good(tmp_path):
    population = runs.Population(tmp_path / "run", runs.configuration(exploit="none"))
    population.train(6)
    population.crash(2, "RuntimeError: boom", "failed")
    _, words = check(run_page.page(read(population), tmp_path, {}))
    assert "given up for good: RuntimeError: boom" in words


def test_a_table_in_markdown_is_padded_and_escaped():
    columns = [markup.Column("a"), markup.Column("number")]
    rows = [["x|y", markup.Cell("1", 1.0)], [None, "12"]]
    assert markup.markdown_table(columns, rows).splitlines() == [
        "|    a | number |",
        "| ---: | -----: |",
        "| x\\|y |      1 |",
        "|      |     12 |",
    ]


def test_a_long_table_of_decisions_keeps_every_copy(tested, monkeypatch):
    rows = decisions.decisions(tested)
    copies = sum(row.is_copy for row in rows)
    monkeypatch.setattr(sections, "MOST_DECISIONS", copies + 2)
    elements, words = check(run_page.page(tested, Path("run"), {}))
    assert sum(a.get("class") == "copy" for _, a in elements) == copies
    assert f"first {len(rows) - copies - 2} that copied nothing are left out" in words


def test_random_search_and_a_single_agent_are_called_so(tmp_path):
    for settings, words in (
        ({"exploit": "none"}, "random search, the control"),
        ({"population": 1}, "with nobody to learn from"),
        ({"task_config": {}}, "not one of this suite's"),
    ):
        population = runs.Population(tmp_path / words, runs.configuration(**settings))
        population.train(3)
        assert words in check(run_page.page(read(population), Path("run"), {}))[1]


GIVEN = [
    {"agent_steps": 0, "learning_rate": 0.004, "entropy_cost": 0.0, "unroll_length": 7.5},
    {"agent_steps": 3_000, "learning_rate": 0.004, "entropy_cost": 0.01, "unroll_length": 19.4},
    {"agent_steps": 6_400, "learning_rate": 0.002, "entropy_cost": 0.02, "unroll_length": 19.4},
    {"agent_steps": 10**9, "learning_rate": 0.001, "entropy_cost": 0.03, "unroll_length": 1.0},
]


def replay(path, rows=GIVEN, turns=1000, **settings):
    """A run whose members follow a schedule."""
    given = {"env_id": "Catch", "preset": "a3c2016", "schedule": rows}
    config = runs.configuration(
        task=tasks.SCHEDULED, space=space.Space({}), exploit="none", task_config=given, **settings
    )
    population = runs.Population(path, config)
    population.train(turns)
    return population


def test_a_replay_shows_the_schedule_that_it_followed(tmp_path):
    population = replay(tmp_path / "run")
    run_report.write_report(population.store, tmp_path / "report")
    assert (tmp_path / "report" / "schedule.png").stat().st_size > 10_000
    _, words = check((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert "The schedule it followed" in words
    assert "a replay" in words
    assert "none: all members follow one schedule" in words
    assert "8 at first, 1 at last, on a schedule of 4 rows" in words
    for wrong in ("random search", "The winner's schedule", "donors", "prior"):
        assert wrong not in words.partition("All settings")[0]
    # The row that nobody has reached is not in it; the last says how far it was followed.
    written = schedule.read(
        tmp_path / "report" / "schedule.csv", ["learning_rate", "entropy_cost", "unroll_length"]
    )
    assert [steps for steps, _ in written.rows] == [0, 3_000, 6_400, 32_000]
    for steps in range(0, 32_000, 100):
        assert written.at(steps) == schedule.Schedule.from_json(GIVEN).at(steps)
    figure = figures.schedule(read(population))
    for axes, values in zip(
        figure.axes[1:],
        ([0.004, 0.004, 0.002, 0.002], [0.0, 0.01, 0.02, 0.02], [8, 19, 19, 19]),
        strict=True,
    ):
        (line,) = (one for one in axes.lines if one.get_drawstyle() == "steps-post")
        assert line.get_xdata().tolist() == [0, 3_000, 6_400, 32_000]
        assert line.get_ydata().tolist() == values
    assert [axes.get_yscale() for axes in figure.axes[1:]] == ["log", "linear", "log"]
    assert "hyperparameters now: learning_rate 0.002, entropy_cost 0.02, unroll_length 19" in (
        tmp_path / "report" / "summary.md"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_a_replay_has_a_page_at_any_time(tmp_path, turns):
    population = replay(tmp_path / "run", turns=turns, min_episodes=25)
    run_report.write_report(population.store, tmp_path / "report")
    check((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))


def test_two_schedules_are_told_apart_shortly(tmp_path):
    told = []
    for number, last in enumerate((0.001, 0.001, 0.0011)):
        rows = [*GIVEN[:-1], {**GIVEN[-1], "learning_rate": last}]
        config = replay(tmp_path / str(number), rows, turns=0).config
        before = copy.deepcopy(config.to_json())
        told.append(protocol.flat(config)["task_config.schedule"])
        assert config.to_json() == before
    assert told[0] == told[1] != told[2]
    assert all(re.fullmatch(r"4 rows, digest [0-9a-f]{8}", text) for text in told)


def test_members_of_one_setting_are_no_random_search(tmp_path):
    fixed = space.Space({"learning_rate": space.Constant(0.01)})
    population = runs.Population(tmp_path, runs.configuration(space=fixed, exploit="none"))
    population.train(4)
    _, words = check(run_page.page(read(population), Path("run"), {}))
    assert "with the same hyperparameters" in words
    assert "none: all members have the same hyperparameters" in words
    assert "random search" not in words


def test_no_id_of_one_figure_meets_another_s(seen):
    both = [drawing.svg(family.family_tree(seen), key) for key in ("one", "two")]
    ids = [re.findall(r' id="([^"]+)"', text) for text in both]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])


def test_the_same_run_is_drawn_the_same(seen):
    first, again = (drawing.svg(family.family_tree(seen), "x") for _ in range(2))
    assert first == again


def test_an_inline_figure_follows_the_page_and_says_what_it_shows(trained):
    text = drawing.svg(figures.schedule(read(trained, NASTY)), "schedule")
    assert "learning rate" in text  # text, not outlines
    assert "alert" not in text  # its title is the page's
    assert "var(--ink)" in text
    assert drawing.INK not in text
    assert "font-family" not in text
    assert "http" not in text


def test_elements_escape_text_and_keep_markup():
    made = markup.element(
        "p", "1 < 2 & ", markup.element("b", "x"), None, class_='a"b', hidden=True
    )
    assert made == '<p class="a&quot;b" hidden>1 &lt; 2 &amp; <b>x</b></p>'
    assert markup.element("meta", name="a", content=None) == '<meta name="a">'
    with pytest.raises(ValueError, match="zip"):
        markup.table("c", [markup.Column("a")], [["1", "2"]])


def test_a_population_s_curves_are_its_members_scores(seen):
    found = curves.population_curves(seen, points=40)
    for row, member in zip(found.scores, seen.members, strict=True):
        for steps, value in zip(found.steps, row, strict=True):
            # Slowly: of the versions that still stand, the last one made at or before these steps.
            standing = []
            for version in (v for v in seen.versions if v.member == member.id):
                standing = [v for v in standing if v.agent_steps < version.agent_steps]
                standing.append(version)
            known = [
                seen.tree.scores[v.member, v.version]
                for v in standing
                if v.agent_steps <= steps and seen.tree.scores[v.member, v.version] is not None
            ]
            if steps > member.agent_steps or not known:
                assert value != value
            else:
                assert value == known[-1]
    best = found.best
    assert best[-1] == max(row[-1] for row in found.scores)


def test_the_commands_of_a_run_are_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["/usr/bin/python3", "-X", "dev", "-m", "gym", "a b"])
    assert provenance.read(tmp_path) == []
    provenance.record(tmp_path)
    with (tmp_path / provenance.FILE_NAME).open("a") as file:
        file.write('not json\n{"command": 1}\n')
    provenance.record(tmp_path)
    first, second = provenance.read(tmp_path)
    assert first.command == "python3 -X dev -m gym 'a b'"
    assert first.directory == os.getcwd()
    assert second.started_s >= first.started_s
    assert first.commit is None or re.fullmatch(r"[0-9a-f]{12,40}(-dirty)?", first.commit)
    provenance.record(tmp_path / "nowhere")  # nothing to write into: no error, and nothing made
    assert not (tmp_path / "nowhere").exists()


def test_the_page_has_every_command_that_made_the_run(seen, tmp_path):
    lines = [
        {"command": "python -m experiments.gym", "commit": "abc", "started_s": 0.0},
        {"command": "python -m experiments.resume run --total-steps 9", "commit": "def"},
        {"command": "python -m experiments.resume run --total-steps 9", "commit": "def"},
    ]
    lines[1:] = [{**line, "started_s": 1.0, "directory": "/a place"} for line in lines[1:]]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / provenance.FILE_NAME).write_text(text)
    _, words = check(run_page.page(seen, tmp_path, {}))
    assert "Working directory/a place" in words
    assert (
        "Commandpython -m experiments.gymthenpython -m experiments.resume run --total-steps 9 "
        "(2 times)Commitabc, then def" in words
    )


def test_the_winner_s_training_score_has_a_gap_where_none_was_earned(seen):
    steps, gone = list(seen.lineage), None
    for place in range(3, len(steps)):
        version = steps[place].version
        if gone is None and version.kind == "slice":
            gone = steps[place].training
            lost = dataclasses.replace(version, score=None)
            steps[place] = steps[place]._replace(version=lost)
    figure = figures.schedule(dataclasses.replace(seen, lineage=steps))
    (line,) = (one for one in figure.axes[0].lines if one.get_marker() == "o")
    drawn = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    earned = {s.training: s.version.score for s in steps if s.version.kind == "slice"}
    assert drawn.keys() == earned.keys()
    assert earned[gone] is None
    for step, score in earned.items():
        assert np.isnan(drawn[step]) if score is None else drawn[step] == score


def test_without_a_score_there_is_no_bar_of_colours(tmp_path):
    population = runs.Population(tmp_path, runs.configuration(min_episodes=1000))
    population.train(6)
    for figure in (family.family_tree(read(population)), figures.hyperparameters(read(population))):
        assert "training score" not in drawing.svg(figure, "x")


def test_a_single_fresh_episode_has_no_interval(seen, tmp_path):
    for ends in (None, (3.0, 3.0)):  # the latter in files of before
        played = {"mean": 3.0, "interval_95": ends, "returns": [3.0], "protocol": "as agreed"}
        scores.write_evaluation(tmp_path, seen.best, played)
        found = scores.best_score(seen, tmp_path)
        assert found.is_fresh
        assert found.interval is None
        assert "95 % interval none for n = 1" in check(run_page.page(seen, tmp_path, {}))[1]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (10.1, "10.10"),
        (199.66, "199.7"),
        (12_345.6, "12,346"),
        (0, "0.00"),
        (-0.5, "-0.5000"),
        (0.9778, "0.9778"),
        (0.9728, "0.9728"),
        (3.21e-5, "3.21e-5"),
        (2e9, "2e9"),
        (float("nan"), "n/a"),
    ],
)
def test_scores_for_people(number, text):
    assert wording.score(number) == text


@pytest.mark.parametrize(
    ("steps", "text"), [(0, "0"), (500, "500"), (250e3, "250k"), (999_999, "1M"), (1.25e6, "1.25M")]
)
def test_steps_for_people(steps, text):
    assert wording.steps(steps) == text


def test_every_exploit_rule_is_described(tmp_path):
    for rule in get_args(run.Exploit):
        population = runs.Population(tmp_path / rule, runs.configuration(2, 1, exploit=rule))
        _, words = check(run_page.page(read(population), Path("run"), {}))
        assert rule.replace("binary-", "binary ") in words


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "perturb: each times 0.8 or 1.2 (learning rate, entropy cost, unroll length)"),
        ({"explore_at": "ready"}, ", whenever a member is ready"),
        ({"explore": "none", "explore_at": "ready"}, "none"),
    ],
)
def test_the_protocol_tells_how_and_when_members_explore(changes, told):
    rows = dict(protocol.population_rows(runs.configuration(**changes)))
    assert rows["Explore"].endswith(told)
    assert ("ready" in rows["Explore"]) == (told.endswith("ready"))
