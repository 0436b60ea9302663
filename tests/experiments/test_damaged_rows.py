"""One bad row costs a run neither its report nor its curves; odd names break no page."""

import csv
import io
import os
import sqlite3
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import safetensors.torch
import torch

import projection_run as runs
from experiments import export, report
from experiments.analysis import tables
from experiments.members import learner
from experiments.projections import tensorboard
from pbt import checkpoint, owner, space, store


@pytest.fixture
def damaged(tmp_path):
    """A run with one damaged report and one damaged event."""
    population = runs.Population(tmp_path / "run", runs.configuration())
    population.train(24)
    population.store.close()
    connection = sqlite3.connect(population.store.path)
    with connection:
        connection.execute("UPDATE report SET episodes = '[[1, 2' WHERE id = 5")
        connection.execute("UPDATE event SET details = 'nothing' WHERE id = 1")
    connection.close()
    return population.store.path.parent


def test_a_report_leaves_damaged_rows_out_and_says_so(command, damaged):
    result = command(report, damaged)
    assert result.code is None, result
    assert "2 damaged rows of the store left out; the first: table event, row 1" in result.out
    assert "2 damaged rows" in (damaged / "report" / "index.html").read_text()
    rows = list(csv.DictReader((damaged / "report" / "reports.csv").open()))
    assert len(rows) == 23
    assert "TensorBoard files: damaged rows are left out" in result.err
    assert (damaged / "tensorboard" / "member-00").is_dir()


def test_an_export_leaves_damaged_rows_out_and_says_so(command, damaged):
    result = command(export, damaged)
    assert result.code is None, result
    assert result.err.startswith("note: 2 damaged rows of the store left out")


def test_a_damaged_version_is_one_line(command, damaged):
    connection = sqlite3.connect(damaged / store.FILE_NAME)
    with connection:
        connection.execute("UPDATE version SET kind = 'slace' WHERE id = 9")
    connection.close()
    for module in (report, export):
        result = command(module, damaged)
        assert (result.code, result.err.count("\n")) == (2, 1), result
        assert "run.sqlite3 is damaged (table version, row 9: kind 'slace'" in result.err


def test_a_projector_that_is_known_dead_keeps_nobody_out(tmp_path):
    population = runs.Population(tmp_path / "run", runs.configuration())
    population.train(8)
    *place, process, started = owner.current().split("/")
    dead = "/".join([*place, process, str(int(started) + 1)]) + "#140"
    assert owner.gone([dead.partition("#")[0]])
    assert population.store.acquire(tensorboard.LEASE_NAME, dead, 30)
    with tensorboard.Projector(population.store, tmp_path / "tensorboard") as projector:
        assert projector.update()


def test_the_report_says_who_keeps_the_files(command, tmp_path):
    population = runs.Population(tmp_path / "run", runs.configuration())
    population.train(8)
    with tensorboard.Projector(population.store, tmp_path / "run" / "tensorboard") as projector:
        assert projector.update()
        result = command(report, tmp_path / "run")
    assert f"by a launcher that is running: process {os.getpid()} on " in result.out


def test_control_characters_in_names_break_no_page(command, tmp_path):
    odd = "rate\x1b[31m\x00\ud800"
    hyperparameters = space.Space({odd: space.LogUniform(1e-5, 1e-2)}, adapt=(odd,))
    config = runs.configuration(space=hyperparameters, task_config={"env_id": "X\x01-v0"})
    population = runs.Population(tmp_path / "run\x1b", config)
    population.train(16)
    result = command(report, population.store.path.parent)
    assert result.code is None, result
    assert "\x1b" not in result.out
    page = (population.store.path.parent / "report" / "index.html").read_text()
    assert "rate\\x1b[31m\\x00\\ud800" in page
    start = page.index("<svg")
    ElementTree.fromstring(page[start : page.index("</svg>", start) + 6])
    assert command(export, population.store.path.parent).code is None


@pytest.mark.parametrize(
    "text", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tx", "'quoted", "plain", "a=b", ""]
)
def test_no_cell_is_a_formula_and_each_comes_back(text):
    table = tables.Table("t", {text or "x": str, "number": float}, [(text, -0.5)])
    written = io.StringIO()
    tables.write_csv(table, written)
    header, row = csv.reader(io.StringIO(written.getvalue()))
    assert row[0].removeprefix("'") == text.removeprefix("'") or row[0][1:] == text
    assert not row[0].startswith(("=", "+", "-", "@", "\t"))
    assert not header[0].startswith(("=", "+", "-", "@", "\t"))
    assert (row[0][1:] if row[0].startswith("'") else row[0]) == text
    assert row[1] == "-0.5"


def test_hostile_tensors_count_as_damage(tmp_path):
    learning = learner.AgentTask(learner.LearnerConfig("Catch", 4), 0, 0)
    learning.save(tmp_path)
    path = tmp_path / "agent.safetensors"
    good = path.read_bytes()
    state = safetensors.torch.load_file(path)
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    safetensors.torch.save_file(state | {name: torch.full_like(state[name], np.nan)}, path)
    with pytest.raises(checkpoint.CheckpointError, match=f"{name} is not finite"):
        learning.load(tmp_path)
    for header in (2**62, 10**9, 0):
        path.write_bytes(header.to_bytes(8, "little") + good[8:])
        with pytest.raises(checkpoint.CheckpointError, match="unreadable"):
            learning.load(tmp_path)
    path.write_bytes(good)
    learning.load(tmp_path)
    learning.close()
