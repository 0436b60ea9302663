import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rich.console
import rich.text

import projection_run as runs
from experiments.analysis import wording
from experiments.projections import progress

HERE = Path(__file__).parent


def terminal(width=100, height=30):
    return rich.console.Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, record=True
    )


def drawn(population, console, later_s=0.0):
    """The table as a terminal would show it, line by line."""
    with progress.Progress(console=console) as shown:
        shown.tick(population.store)
    with console.capture() as capture:
        console.print(
            shown.table(
                population.config, population.store.members(), population.store.now() + later_s
            )
        )
    return capture.get().splitlines()


@pytest.fixture
def population(tmp_path):
    return runs.Population(tmp_path / "run", runs.configuration())


def test_all_members_with_what_pbt_adapts(population):
    population.train(36)
    lines = [line.split() for line in drawn(population, terminal(), later_s=180)]
    rows = {int(line[0]): line for line in lines if line and line[0].isdigit() and len(line) > 6}
    copied = {e.member: e for e in population.store.events() if e.kind == "exploit"}
    assert copied
    for member in population.store.members():
        row = rows[member.id]
        used = runs.SPACE.used(member.hyperparameters)
        assert row[1] == f"{member.agent_steps / 1000:.4g}k"
        assert row[2] == ("-" if member.score is None else f"{member.score:.4g}")
        assert float(row[3]) == pytest.approx(used["learning_rate"], rel=0.01)
        assert float(row[4]) == pytest.approx(used["entropy_cost"], rel=0.01)
        assert int(row[5]) == used["unroll_length"]
        if member.id in copied:
            assert row[6:10] == [f"{copied[member.id].details['donor']},", "3", "min", "ago"]
        else:
            assert row[6] == "-"
        assert row[-1] in ("waiting", "finished")


def test_a_member_in_training_is_told_from_one_that_waits(population):
    population.store.claim("tester/boot/1/2")
    text = "\n".join(drawn(population, terminal()))
    assert (text.count("training"), text.count("waiting")) == (1, 3)
    assert "nan" not in text
    text = "\n".join(drawn(population, terminal(), later_s=1e5))  # its lease lapsed
    assert text.count("waiting") == 4


def test_a_large_population_fits_the_terminal(tmp_path):
    population = runs.Population(tmp_path, runs.configuration(60, 3))
    population.train(90)
    lines = drawn(population, terminal(80, 24))
    assert len(lines) < 24
    assert "the best 16 of 60; 44 more" in lines[-1]
    assert max(map(len, (rich.text.Text.from_ansi(line).plain for line in lines))) <= 80
    scores = [m.score for m in population.store.members() if m.score is not None]
    assert f"{max(scores):.4g}" in "".join(lines)


def test_steps_frames_and_the_time_left(population, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    shown = progress.Progress(frames_per_step=4, stream=stream)
    shown.tick(population.store)
    for _ in range(8):
        population.train(1)
        clock[0] += 10.0
        shown.tick(population.store)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2  # at 0 and 60 s: one a minute
    assert "0 of 128k agent steps (0%)" in lines[0]
    assert "steps/s" not in lines[0]
    # The rate is that of the ticks that looked: 6 slices in 60 s.
    assert "19.2k of 128k agent steps (15%)" in lines[1]
    assert "320 agent steps/s, 1,280 frames/s, 6 min left" in lines[1]
    population.train(100)
    clock[0] += 10.0
    with shown:
        pass
    assert "128k of 128k agent steps (100%)" in stream.getvalue().splitlines()[-1]
    assert "4 finished" in stream.getvalue()


def test_the_score_is_that_of_the_pages_and_does_not_vanish(population):
    """After a copy, a resume or a rebuild the window is empty, but not the score."""
    population.train(36)
    before = {m.id: m.score for m in population.store.members()}
    with population.store._database.transaction() as connection:
        connection.exec_driver_sql("UPDATE member SET \"window\" = '[]', counted_episodes = 0")
    members = population.store.members()
    assert not any(member.window for member in members)
    lines = [line.split() for line in drawn(population, terminal())]
    rows = {int(line[0]): line for line in lines if line and line[0].isdigit() and len(line) > 6}
    assert {member: row[2] for member, row in rows.items()} == {
        member: f"{score:.4g}" for member, score in before.items()
    }
    best = max(before.values())
    assert f"best score {best:.4g}" in " ".join(map(" ".join, lines))


def test_something_moves_before_the_first_report(population, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    shown = progress.Progress(stream=stream)
    for _ in range(2):
        shown.tick(population.store)
        clock[0] += 61.0
    lines = stream.getvalue().splitlines()
    assert "first report after 3.2k agent steps of a member, 0 s so far" in lines[0]
    assert "61 s so far" in lines[1]
    population.train(1)
    shown.tick(population.store)
    assert "so far" not in stream.getvalue().splitlines()[2]
    population.train(1)
    clock[0] += 20_000.0
    shown.tick(population.store)
    assert "0.16 agent steps/s" in stream.getvalue().splitlines()[-1]  # and not 0


def test_no_time_left_is_guessed_before_every_worker_has_reported(population, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    for worker in "ab":
        assert population.store.claim(f"{worker}/boot/1/2") is not None
    stream = io.StringIO()
    shown = progress.Progress(stream=stream, plain_s=0.0)
    shown.tick(population.store)
    for _ in range(3):
        clock[0] += 10.0
        population.train(1)
        shown.tick(population.store)
    guessed = [" left" in line for line in stream.getvalue().splitlines()]
    assert guessed == [False, False, False, True]


def test_a_stalled_run_slows_down():
    rate = progress._Rate()
    rate.add(0.0, 0)
    assert rate.per_second(0.0) is None
    for second in range(10, 101, 10):
        rate.add(second, second * 50)
    assert rate.per_second(100.0) == pytest.approx(50)
    assert rate.per_second(1060.0) == pytest.approx(5)
    rate.add(1070.0, 4000)  # a restore took steps back
    assert rate.per_second(1070.0) is None


def test_no_terminal_no_escape_sequences(population):
    stream = io.StringIO()
    with progress.Progress(stream=stream) as shown:
        shown.tick(population.store)
    assert "\x1b" not in stream.getvalue()


def test_a_closed_stream_is_no_reason_to_stop(population):
    stream = io.StringIO()
    with progress.Progress(stream=stream, plain_s=0.0) as shown:
        stream.close()
        shown.tick(population.store)
        shown.tick(population.store)


CHILD = """
import sys
from experiments.projections import progress
from pbt import store
with store.Store.open(sys.argv[1]) as opened, progress.Progress(refresh_s=0, plain_s=0) as shown:
    for _ in range(int(sys.argv[2])):
        shown.tick(opened)
print("trained to the end", file=sys.stderr)
"""


def child(population, ticks, **streams):
    command = [sys.executable, "-c", CHILD, population.store.path, str(ticks)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "TERM": "xterm-256color"}
    return subprocess.Popen(command, env=environment, **streams)


def test_a_broken_pipe_is_no_reason_to_stop(population):
    started = child(population, 50, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started.stdout.readline()
    started.stdout.close()
    assert started.stderr.read() == b"trained to the end\n"
    started.stderr.close()
    assert started.wait() == 0


def test_a_real_terminal_that_is_closed(population):
    ours, theirs = pty.openpty()
    started = child(population, 2000, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    seen = b""
    deadline = time.monotonic() + 30
    while seen.count(b"waiting") < 20 and time.monotonic() < deadline:
        seen += os.read(ours, 65536)
    assert b"learning" in seen
    assert seen.count(b"waiting") >= 20
    os.close(ours)
    assert started.stderr.read() == b"trained to the end\n"
    started.stderr.close()
    assert started.wait() == 0


def test_durations_for_people():
    texts = [wording.duration(s) for s in (40, 89, 90, 5399, 7200, 36 * 3600)]
    assert texts == ["40 s", "89 s", "2 min", "90 min", "2 h 00 min", "36 h 00 min"]
