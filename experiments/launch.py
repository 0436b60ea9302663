"""What every population experiment does: check, create or resume, run, show, report."""

import json
import sys
import time
from pathlib import Path
from typing import NoReturn

from envs import make
from experiments import config, evaluate, learner, progress, report, tensorboard
from pbt import local, run, store

PROJECTION_INTERVAL_S = 10.0
"""Between two looks for what is new to draw in TensorBoard."""
EVALUATION_EPISODES = 30
"""Fresh episodes of the best member when a run is over."""


def run_experiment(
    name: str,
    settings: config.PopulationConfig,
    learner_config: learner.LearnerConfig,
) -> NoReturn:
    """Run a population to its end, or until it is interrupted; exits with the run's code.

    0: finished; 1: the population died; 2: bad input, nothing was created; 130, 143: interrupted,
    the same command goes on.

    Args:
        name: Directory under results/runs, unless the settings name another.
        settings: From the command line.
        learner_config: Agent and world of each member.
    """
    run_dir = settings.run_dir or Path("results/runs") / name
    try:
        run_config = settings.run_config(learner_config)
        world = make.describe(learner_config.env_id, preset=learner_config.preset)
        _check_agent(learner_config)
        resumed = _open_or_create(run_dir, run_config, settings.fork)
    except (ValueError, store.StoreError, OSError) as error:
        config.fail(" ".join(str(error).split()))
    print(
        f"{'resuming' if resumed else 'new run'} {run_dir}: {settings.population} members, "
        f"{settings.total_steps:,} agent steps each, {settings.num_workers()} workers\n"
        f"world: {make.protocol(learner_config.env_id, preset=learner_config.preset)}\n"
        f"curves: tensorboard --logdir {run_dir.parent}",
        flush=True,
    )
    with (
        store.Store.open(run_dir) as watched,
        tensorboard.Projector(watched, run_dir / "tensorboard") as projector,
        progress.Progress(world.frames_per_step if world.is_atari else None) as table,
    ):
        projected_s = -PROJECTION_INTERVAL_S

        def show(_: store.Store) -> None:
            nonlocal projected_s
            if time.monotonic() - projected_s >= PROJECTION_INTERVAL_S:
                projected_s = time.monotonic()
                projector.update()
            table.tick(watched)

        exit_code = local.run(run_dir, settings.num_workers(), on_tick=show)
        if exit_code == 0:
            projector.close(wait_s=tensorboard.LEASE_SECONDS)
    if exit_code == 0:
        _conclude(run_dir)
    else:
        print(f"where it stands: python -m experiments.report {run_dir}")
    sys.exit(exit_code)


def _check_agent(learner_config: learner.LearnerConfig) -> None:
    """Build world and agent once, so that whatever does not fit is said before anything exists."""
    envs = make.make_vec(learner_config.env_id, 1, preset=learner_config.preset)
    try:
        learner.make_agent(learner_config, envs, seed=0)
    except (RuntimeError, AssertionError) as error:  # torch's own words for an unknown device
        raise ValueError(f"--device {learner_config.device}: {error}") from error
    finally:
        envs.close()


def _open_or_create(run_dir: Path, run_config: run.RunConfig, fork: Path | None) -> bool:
    """Make the run if there is none; returns whether there was one.

    Raises:
        ValueError: the directory holds something else, or a run with other settings.
    """
    if not (run_dir / store.FILE_NAME).exists():
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise ValueError(
                f"{run_dir} is not a run, and not empty: choose another --run-dir, or remove it"
            )
        try:
            local.create_run(run_dir, run_config, fork).close()
            return False
        except store.RunExists:
            pass  # the same command in another terminal was a moment faster: join it
    with store.Store.open(run_dir) as run_store:
        differences = run_store.config.differences(run_config)
    if differences:
        raise ValueError(
            f"{run_dir} holds a run with other settings ({'; '.join(differences)}): "
            f"give the stored ones, another --run-dir, or --fork {run_dir} --run-dir NEW"
        )
    return True


def _conclude(run_dir: Path) -> None:
    """Score the best member by fresh episodes, once, and write the report."""
    with store.Store.open(run_dir) as run_store:
        report.write_report(run_store, run_dir / "report", run_dir / "tensorboard")
        best = evaluate.best_member(run_store)
        path = run_dir / "report" / f"evaluation-{best.id:02d}-{best.version}.json"
        if not path.exists():
            evaluation = evaluate.evaluate(run_store, run_dir, best, EVALUATION_EPISODES, seed=0)
            path.write_text(json.dumps(evaluation.to_json(), indent=2) + "\n")
            print(evaluation.text())
    print(f"report: {run_dir / 'report'}")
