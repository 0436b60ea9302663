"""Runs whose stored task has a former name: made by commit 164d5a9, and killed half way.

    python -m experiments.gym --env Catch ... --run-dir run        # as in RUN, killed with SIGKILL
    python -m experiments.replay run --workers 1 --run-dir replay  # killed as well

Of the checkpoints, only each member's last one is kept.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import evaluate, gym, replay, report
from experiments.analysis import schedule, tasks
from pbt import store

ASSETS = Path(__file__).parent / "assets" / "before_the_move"
TOTAL = 4_000
TINY = (
    *("--env", "Catch", "--agent", "a3c", "--population", "2", "--workers", "1", "--num-envs", "4"),
    *("--core", "feedforward", "--report-interval", "400", "--ready-interval", "800"),
)
RUN = (*TINY, "--total-steps", str(TOTAL), "--run-dir", "run")
REPLAY = ("run", "--workers", "1", "--run-dir", "replay")


@pytest.fixture
def old(here):
    """Copies of both runs in the working directory."""
    for name in ("run", "replay"):
        shutil.copytree(ASSETS / name, here / name)


def opened(name):
    with store.Store.open(name) as run_store:
        return run_store.config, run_store.members(), run_store.versions(), run_store.reports()


@pytest.mark.parametrize(
    ("module", "arguments", "name", "task"),
    [
        (gym, RUN, "run", "experiments.learner:make_task"),
        pytest.param(
            *(replay, REPLAY, "replay", "experiments.replay:make_task"), marks=pytest.mark.slow
        ),
    ],
    ids=["run", "replay"],
)
def test_the_same_command_resumes_to_the_end(command, here, old, module, arguments, name, task):
    """With the real launcher, worker processes and report."""
    config, members, versions, reports = opened(name)
    assert config.task == task
    assert all(0 < member.agent_steps < TOTAL for member in members)
    result = command(module, *arguments)
    assert result.code == 0, result
    assert result.out.startswith(f"resuming {name}: ")
    assert "mean of 30 fresh episodes" in result.out
    new_config, new_members, new_versions, new_reports = opened(name)
    assert new_config == config
    assert [(m.agent_steps, m.state) for m in new_members] == [(TOTAL, "finished")] * len(members)
    assert new_versions[: len(versions)] == versions
    assert new_reports[: len(reports)] == reports
    for member in new_members:
        own = [made for _, made in new_reports if made.member == member.id]
        assert sum(made.slice_steps for made in own) >= TOTAL  # more if it copied a younger member
        assert own[-1].agent_steps == TOTAL
    assert (here / name / "report" / "index.html").is_file()
    assert f"resuming {name}: " in command(module, *arguments).out


def test_reports_and_scores_of_it(command, here, old, capsys):
    for name in ("run", "replay"):
        report.main([name])
        assert f"# {name}" in capsys.readouterr().out
        assert (here / name / "report" / "schedule.csv").is_file()
        result = command(evaluate, name, "--member", "0", "--episodes", "5", "--save")
        assert result.code is None, result
        assert "mean of 5 fresh episodes" in result.out


def test_new_runs_from_it(command, here, old, one_process):
    with store.Store.open("run") as run_store:
        winners = schedule.of_run(run_store)
    assert command(replay, "run", "--workers", "1", "--run-dir", "again").code == 0
    assert command(replay, "replay", "--workers", "1", "--run-dir", "again").code == 0
    with store.Store.open("again") as again:
        assert schedule.followed(again.config) == winners  # of the run, and of its replay
        assert again.config.task == tasks.SCHEDULED
    assert command(replay, "run", "--final", "--workers", "1", "--run-dir", "final").code == 0
    forked = (*TINY, "--total-steps", "400", "--fork", "run", "--run-dir", "forked")
    forked = (*forked, "--ready-interval", "400")
    assert command(gym, *forked).code == 0
    for name, total in (("again", TOTAL), ("final", TOTAL), ("forked", 400)):
        assert {(m.agent_steps, m.state) for m in opened(name)[1]} == {(total, "finished")}
    assert opened("forked")[0].task == tasks.LEARNER


BUILD = """
import json
import sys
from pbt import slices, worker
config, *tasks = sys.argv[1:]
for task in tasks:
    slices.build(slices.named_factory(task), json.loads(config), 0, 0).close()
print(*sorted(sys.modules), sep="\\n")
"""


def test_a_worker_imports_neither_pictures_nor_flags(old):
    config, *_ = opened("replay")  # with a schedule, which a plain learner ignores
    done = subprocess.run(
        [
            *[sys.executable, "-c", BUILD, json.dumps(config.task_config)],
            *[tasks.LEARNER, tasks.SCHEDULED, "experiments.learner:make_task"],
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    imported = set(done.stdout.split())
    assert {"experiments.members.learner", "torch", "pbt.worker"} <= imported
    foreign = {"matplotlib", "tensorboard", "rich", "tyro", "experiments.pages"}
    assert not foreign & imported
