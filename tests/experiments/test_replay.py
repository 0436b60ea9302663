"""Replays: fresh agents on a schedule, exactly, also after a kill, also elsewhere."""

import csv
import itertools
import json
import math

import numpy as np
import pytest

from experiments import gym, presets, replay
from experiments.analysis import history, schedule, tables
from experiments.members import evaluation, learner, scheduled
from experiments.pages import figures
from pbt import create, lineage, run, space, store, task, worker

SCHEDULE = schedule.Schedule(
    tuple((steps, {"rate": float(rate)}) for steps, rate in ((0, 5), (30, 4), (60, 3), (200, 2)))
)


class Recorder:
    """Takes 10 agent steps per update and writes down at which rate each was taken."""

    def __init__(self, log):
        self.log, self.taken, self.rate = log, 0, 0.0

    def train(self, agent_steps, limit):
        done = 0
        while done < agent_steps:
            with self.log.open("a") as file:
                file.write(f"{self.taken},{self.rate}\n")
            done += 10
            self.taken += 10
            yield task.Progress(10, (task.Episode(done, float(self.taken), 10, True),), {})

    def set_hyperparameters(self, values):
        self.rate = values["rate"]

    def hyperparameters(self):
        return {"rate": self.rate}

    def save(self, directory):
        (directory / "taken.json").write_text(json.dumps(self.taken))

    def load(self, directory):
        self.taken = json.loads((directory / "taken.json").read_text())

    def close(self):
        pass


def test_values_change_at_their_steps_also_after_a_kill(tmp_path):
    log = tmp_path / "log.csv"
    settings = run.RunConfig(
        "unused:unused", space.Space({}), 1, 300, 50, 50, exploit="none", step_multiple=10
    )
    create.create_run(tmp_path / "run", settings, durable=False).close()
    updates = 0

    def killed(probe):
        nonlocal updates
        updates += probe == "training"
        if updates == 13:  # in the third slice, past the row at 60
            raise KeyboardInterrupt

    def make_task(config, member, seed):
        return scheduled.ScheduledTask(Recorder(log), SCHEDULE)

    with store.Store.open(tmp_path / "run", durable=False) as run_store:
        with pytest.raises(KeyboardInterrupt):
            worker.run(
                run_store, tmp_path / "run", make_task=make_task, probe=killed, durable=False
            )
        run_store.forgive(run_store.owners())
        worker.run(run_store, tmp_path / "run", make_task=make_task, durable=False)
        metrics = [report.metrics["hyperparameter/rate"] for _, report in run_store.reports()]
    recorded = [(int(step), float(rate)) for step, rate in csv.reader(log.open())]
    again = [step for step, _ in recorded[12:]]
    assert again[:2] == [120, 100], "the slice that was killed is trained again"
    assert {step for step, _ in recorded} == set(range(0, 300, 10))
    for step, rate in recorded:
        assert rate == SCHEDULE.at(step)["rate"], step
    assert metrics[0] == pytest.approx((5 * 3 + 4 * 2) / 5)  # of the first 50 steps


def test_the_engine_cannot_set_what_follows_a_schedule(tmp_path):
    replayed = scheduled.ScheduledTask(Recorder(tmp_path / "log"), SCHEDULE)
    replayed.set_hyperparameters({})
    with pytest.raises(ValueError, match="they follow a schedule"):
        replayed.set_hyperparameters({"rate": 1.0})
    with pytest.raises(ValueError, match="no checkpoint of a replay"):
        replayed.load(tmp_path)


TINY = (
    *(
        "--agent",
        "a3c",
        "--population",
        "3",
        "--workers",
        "1",
        "--num-envs",
        "4",
        "--exploit",
        "truncation",
    ),
    *("--total-steps", "800", "--report-interval", "100", "--ready-interval", "100"),
    *("--env", "Catch", "--run-dir", "source"),
)


def opened_lineage(opened):
    tree = lineage.Tree(opened.versions(), opened.config.copy)
    return tree.lineage(evaluation.best_member(opened).id)


@pytest.fixture
def source(command, here, one_process):
    """A finished run whose winner has a lineage through others."""
    result = command(gym, *TINY)
    assert result.code == 0, result
    with store.Store.open("source") as opened:
        rows = lineage.schedule(opened_lineage(opened))
    (here / "schedule.csv").write_text(tables.schedule_csv(rows))
    return here / "source"


class Spy:
    """Writes down what really trains: (agent steps before, learning rate, steps) per update."""

    def __init__(self, monkeypatch):
        self.updates = []
        real = learner.AgentTask.train

        def train(inner, agent_steps, limit):
            for progress in real(inner, agent_steps, limit):
                values = dict(inner.hyperparameters())
                taken = self.updates[-1][0] + self.updates[-1][2] if self.updates else 0
                self.updates.append((taken, values, progress.agent_steps))
                yield progress

        monkeypatch.setattr(learner.AgentTask, "train", train)


def follows(updates, followed):
    """Whether every update was made with the values of its step."""
    for taken, values, agent_steps in updates:
        wanted = followed.at(taken)
        assert values["learning_rate"] == pytest.approx(wanted["learning_rate"])
        assert values["entropy_cost"] == wanted["entropy_cost"]
        assert values["unroll_length"] == math.floor(wanted["unroll_length"] + 0.5)
        assert agent_steps <= values["unroll_length"] * 4
    return sum(agent_steps for _, _, agent_steps in updates)


def test_a_run_is_replayed_along_its_winners_lineage(source, command, monkeypatch):
    written = schedule.read(
        source.parent / "schedule.csv", ["learning_rate", "entropy_cost", "unroll_length"]
    )
    assert len({values["learning_rate"] for _, values in written.rows}) > 1, "nothing to follow"
    spy = Spy(monkeypatch)
    result = command(replay, "source", "--workers", "1", "--run-dir", "again")
    assert result.code == 0, result
    assert follows(spy.updates, written) == 800
    # Where values changed, an update began, since number of environments and unrolls are the same.
    # That holds up to the first update on the lineage that the end of a member's budget cut short.
    with store.Store.open("source") as opened:
        steps = opened_lineage(opened)
        end = min([step.training for step in steps if step.version.agent_steps == 800], default=800)
    begun = {taken for taken, _, _ in spy.updates}
    assert begun >= {steps for steps, _ in written.rows if steps < end}
    with store.Store.open("again") as again:
        assert schedule.of_run(again) == written, "a replay can be replayed"
        seen = history.History.read(again, "again")
    for name in written.names:  # what the learner reported, as dots on the line
        means = [
            np.average(
                [values[name] for taken, values, _ in spy.updates if start <= taken < end],
                weights=[steps for taken, _, steps in spy.updates if start <= taken < end],
            )
            for start, end in itertools.pairwise([0, *(r.agent_steps for r in seen.reports)])
        ]
        (axes,) = (
            axes
            for axes in figures.schedule(seen).axes
            if axes.get_ylabel() == name.replace("_", " ")
        )
        assert axes.collections[-1].get_offsets()[:, 1].tolist() == pytest.approx(means)
    result = command(replay, "source", "--workers", "1", "--run-dir", "again")
    assert "finished" in result.out


def test_frozen_stretched_and_elsewhere(source, command, monkeypatch):
    with store.Store.open(source) as opened:
        found = schedule.of_run(opened)
    spy = Spy(monkeypatch)
    assert command(replay, "source", "--final", "--workers", "1").code == 0
    with store.Store.open("results/runs/replay-source-Catch-final") as frozen:
        assert set(frozen.config.space.dimensions) == set(found.names)
        assert frozen.config.task == "experiments.members:make_task"
    assert follows(spy.updates, schedule.Schedule(((0, found.final),))) == 800
    spy.updates.clear()
    arguments = ("--env", "MemoryChain", "--total-steps", "400", "--stretch")
    assert command(replay, "source", *arguments, "--workers", "1").code == 0
    with store.Store.open("results/runs/replay-source-MemoryChain") as elsewhere:
        assert elsewhere.config.task_config["env_id"] == "MemoryChain"
    old = ("--world", *arguments[1:])  # the flag's former name, and the same run
    assert "resuming" in command(replay, "source", *old, "--workers", "1").out
    assert sum(agent_steps for _, _, agent_steps in spy.updates) == 400
    stretched = found.stretched(400)
    assert spy.updates[-1][1]["learning_rate"] == pytest.approx(
        stretched.at(spy.updates[-1][0])["learning_rate"]
    )


def test_a_users_file_in_any_environment(command, here, one_process, monkeypatch):
    (here / "mine.csv").write_text(
        "agent_steps,learning_rate,entropy_cost,unroll_length\n0,0.01,0.01,4\n320,0.001,0,9\n"
    )
    spy = Spy(monkeypatch)
    arguments = ("--schedule", "mine.csv", "--env", "Catch", "--total-steps", "960")
    result = command(replay, *arguments, "--workers", "1", "--run-dir", "mine")
    assert result.code == 0, result
    assert [spy.updates[0][1]["learning_rate"], spy.updates[-1][1]["unroll_length"]] == [0.01, 9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give RUN_DIR"),
        (("--schedule", "mine.csv"), "give RUN_DIR"),
        (("nowhere",), "nowhere"),
        (("source", "--member", "7"), "--member 7: use a number from 0 to 2"),
        (("source", "--members", "0"), "--members 0: use 1 or more"),
        (("source", "--final", "--stretch"), "leave one out"),
        (("source", "--schedule", "bad.csv"), "bad.csv, line 3: agent_steps 0 after 0"),
        (("source", "--schedule", "none.csv"), "--schedule none.csv is no file"),
        (("source", "--schedule", "part.csv"), "the schedule says nothing of entropy_cost"),
        (("source",), "no member has a score yet"),
        (("source", "--schedule", "good.csv", "--env", "Pongg"), "Pong"),
        (("source", "--schedule", "good.csv", "--agent", "a4c"), "--agent a4c: use one of a3c"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_created(
    command, here, arguments, message, source_only
):
    (here / "bad.csv").write_text("agent_steps,learning_rate\n0,1\n0,1\n")
    (here / "part.csv").write_text("agent_steps,learning_rate\n0,1\n")
    header = "agent_steps,learning_rate,entropy_cost,unroll_length\n"
    (here / "good.csv").write_text(f"{header}0,0.01,0.01,5\n")
    result = command(replay, *arguments, "--run-dir", "new")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (here / "new").exists()


@pytest.fixture
def source_only(here):
    """A run that was created, but not trained."""
    settings = presets.GymConfig(
        env="Catch",
        population=3,
        num_envs=4,
        total_steps=800,
        report_interval=400,
        ready_interval=400,
    )
    config = settings.run_config()
    create.create_run(here / "source", config, durable=False).close()


def test_other_tasks_are_refused(command, here):
    config = run.RunConfig("experiments.toy:make_task", space.Space({}), 1, 10, 10, 10)
    create.create_run(here / "toy", config, durable=False).close()
    result = command(replay, "toy")
    assert result.code == 2
    assert "only runs of the suite's agents" in result.err
