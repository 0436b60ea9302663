"""How fast the suite trains on this machine, and how near that is to what is possible.

    python -m experiments.throughput                  # about 7 minutes
    python -m experiments.throughput --quick          # under a minute, rough
    python -m experiments.throughput --json out.json
    python -m experiments.throughput --agent unreal   # beside A3C's network
    python -m experiments.throughput --game Doom/MyWayHome

Measured, each in as many processes (one thread each) as there are workers, all at the same time:

- emulation: the worlds alone, with random actions;
- network: the trainer's own `act` and `update` alone, in worlds that stand still;
- population: real workers of the PBT engine on a real run, with checkpoints, commits, decisions,
  live table and TensorBoard; once with the default population, once with a large one (all of whose
  members stay alive in memory);
- network of a3c: the same as network for A3C, where the agent is another; their ratio is
  `cost_of_agent`, its network time per agent step over A3C's.

Machines are noisy, so all take turns in short windows; reported are medians over the windows.
`limit` = 1 / (1 / emulation + 1 / network): what a program could reach that did nothing else.
Intervals are a quarter of the defaults, so that short windows see them; that makes the engine's
own cost larger than in a real run by four, and `pbt_cost` is what was measured divided by four.
"""

import dataclasses
import json as json_lib
import multiprocessing
import multiprocessing.synchronize
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import gymnasium
import psutil
import torch
import tyro

from agents import unreal
from envs import make
from experiments import cli, presets, turns
from experiments.members import learner
from experiments.projections import progress, tensorboard
from pbt import create, local, store, task, worker

INTERVAL_DIVISOR = 4
"""How much shorter than the defaults the population's intervals are."""
OVERHEADS = ("claim", "load", "publish", "commit", "decide", "collect")
"""What a worker does besides training; building worlds happens once per member."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure agent steps per second."""

    quick: bool = False
    """Under a minute: fewer members and worlds, short windows, no large population."""
    game: str = "Pong"
    """Any Atari game, or other world."""
    agent: Literal["a3c", "unreal"] = "a3c"
    """Which agent."""
    auxiliary: unreal.UNREALConfig = dataclasses.field(default_factory=unreal.UNREALConfig)
    """Fixed settings of UNREAL's auxiliary tasks."""
    num_envs: int = 32
    """Worlds per member."""
    unroll_length: int = 20
    """Steps per update."""
    population: int = 8
    """Members."""
    large_population: int = 40
    """Members of the second population."""
    workers: int | None = None
    """Processes; default: one per core."""
    windows: int = 3
    """Turns that each takes."""
    window_s: float = 12.0
    """Length of a turn, seconds."""
    json: Path | None = None
    """Write all figures here."""


class StillVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Worlds of the same shape that cost nothing: every step shows what was recorded before."""

    def __init__(self, env_id: str, num_envs: int) -> None:
        real = make.make_vec(env_id, num_envs)
        self.num_envs = num_envs
        self.metadata = real.metadata
        self.single_observation_space = real.single_observation_space
        self.single_action_space = real.single_action_space
        self.observation_space = real.observation_space
        self.action_space = real.action_space
        real.reset(seed=0)
        self._answers = [real.step(real.action_space.sample()) for _ in range(8)]
        self._t = 0
        real.close()

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Show the first recorded observation."""
        return self._answers[0][0], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Show the next one."""
        self._t = (self._t + 1) % len(self._answers)
        return self._answers[self._t]


def _emulate(go: Any, steps: Any, paused_s: Any, env_id: str, num_envs: int) -> None:
    envs = make.make_vec(env_id, num_envs)
    envs.reset(seed=os.getpid())
    envs.action_space.seed(os.getpid())
    actions = [envs.action_space.sample() for _ in range(100)]
    while True:
        turns.wait_for(go, paused_s)
        for action in actions:
            envs.step(action)
            steps.value += num_envs


def _learn(
    go: Any, steps: Any, paused_s: Any, learner_config: learner.LearnerConfig, unroll_length: int
) -> None:
    torch.set_num_threads(1)
    still = StillVectorEnv(learner_config.env_id, learner_config.num_envs)
    learning = learner.AgentTask(learner_config, 0, os.getpid(), make_envs=lambda: still)
    learning.set_hyperparameters({"learning_rate": 1e-4, "unroll_length": unroll_length})
    for done in learning.train(10**12, 10**12):
        steps.value += done.agent_steps
        turns.wait_for(go, paused_s)


class CountedTask:
    """A learner that tells how many steps it took."""

    def __init__(self, learning: learner.AgentTask, steps: Any) -> None:
        self._steps = steps
        self.set_hyperparameters = learning.set_hyperparameters
        self.hyperparameters = learning.hyperparameters
        self.save, self.load, self.close = learning.save, learning.load, learning.close
        self._train = learning.train

    def train(self, agent_steps: int, limit: int) -> Iterator[task.Progress]:
        """See `pbt.task.Task.train`."""
        for done in self._train(agent_steps, limit):
            self._steps.value += done.agent_steps
            yield done


def _work(go: Any, steps: Any, paused_s: Any, run_dir: Path, residents: int, seconds: Any) -> None:
    torch.set_num_threads(1)

    def make_task(config: Mapping[str, Any], member: int, seed: int) -> task.Task:
        return CountedTask(learner.make_task(config, member, seed), steps)

    def beat() -> None:
        if not seconds["stop"].is_set():
            turns.wait_for(go, paused_s)

    with store.Store.open(run_dir) as run_store:
        outcome = worker.run(
            run_store,
            run_dir,
            resident_limit=residents,
            stop=lambda: 15 if seconds["stop"].is_set() else 0,
            beat=beat,
            make_task=make_task,
        )
    seconds["queue"].put(dict(outcome.seconds))


def _population(
    arguments: Arguments, population: int, workers: int, run_dir: Path
) -> tuple[turns.Turn, dict[str, Any]]:
    """Create a run and start its workers."""
    settings = dataclasses.replace(
        presets.ATARI["default"],
        population=population,
        agent=arguments.agent,
        num_envs=arguments.num_envs,
        total_steps=10**9 // arguments.num_envs * arguments.num_envs,
        report_interval=_interval(presets.ATARI["default"].report_interval, arguments.num_envs),
        ready_interval=_interval(presets.ATARI["default"].ready_interval, arguments.num_envs),
        fixed=(f"unroll_length={arguments.unroll_length}",),
        adapt=("learning_rate", "entropy_cost"),
    )
    run_config = dataclasses.replace(
        settings.run_config(),
        task_config=_learner_config(arguments).to_json(),
        lease_seconds=3_600.0,  # whoever waits for its turn must not lose its member
        window=1,
        min_episodes=1,  # so that decisions and copies are in the measurement
        significance=0.5,
    )
    create.create_run(run_dir, run_config).close()
    context = multiprocessing.get_context("spawn")
    seconds = {"queue": context.Queue(), "stop": context.Event()}
    residents = -(-population // workers) + 1
    return turns.start(
        f"population of {population}", workers, _work, run_dir, residents, seconds
    ), seconds


def _interval(default: int, num_envs: int) -> int:
    return max(1, default // INTERVAL_DIVISOR // num_envs) * num_envs


def _learner_config(arguments: Arguments) -> learner.LearnerConfig:
    return learner.LearnerConfig(
        arguments.game,
        arguments.num_envs,
        agent=arguments.agent,
        auxiliary=arguments.auxiliary,
        clip_rewards=True,
    )


def _warm(turn: turns.Turn, run_dir: Path, population: int) -> None:
    """Let every member be built and trained for a slice, so that all are alive in memory."""
    turn.go.set()
    with store.Store.open(run_dir) as run_store:
        while min(member.version for member in run_store.members()) < 1:
            turn.check()
            time.sleep(0.2)
    turn.go.clear()


def measure(arguments: Arguments, directory: Path) -> dict[str, Any]:
    """Take turns and report; see the module's docstring."""
    workers = arguments.workers or local.available_cores()
    learner_config = _learner_config(arguments)
    populations = (
        [arguments.population]
        if arguments.quick
        else [
            arguments.population,
            arguments.large_population,
        ]
    )
    groups: list[tuple[turns.Turn, dict[str, Any]]] = []
    alone: list[turns.Turn] = []
    cost_s = 0.0
    try:
        for population in populations:
            run_dir = directory / f"population-{population}"
            turn, seconds = _population(arguments, population, workers, run_dir)
            groups.append((turn, seconds))
            print(
                f"building {population} members with {arguments.num_envs} worlds each", flush=True
            )
            _warm(turn, run_dir, population)
        alone = [
            turns.start("emulation", workers, _emulate, arguments.game, arguments.num_envs),
            turns.start("network", workers, _learn, learner_config, arguments.unroll_length),
        ]
        if arguments.agent != "a3c":
            plain = dataclasses.replace(learner_config, agent="a3c")
            alone.append(
                turns.start("network of a3c", workers, _learn, plain, arguments.unroll_length)
            )
        for turn in alone:
            turn.wait_until_ready()
        with (
            store.Store.open(directory / f"population-{populations[0]}") as watched,
            tensorboard.Projector(watched, directory / "tensorboard") as projector,
            progress.Progress(4, stream=open(os.devnull, "w"), plain_s=2.0) as table,
        ):
            projected_s = 0.0

            def launcher() -> None:
                nonlocal projected_s
                table.tick(watched)
                if time.monotonic() - projected_s > 10:
                    projected_s = time.monotonic()
                    projector.update()

            for window in range(arguments.windows):
                for turn in (*alone, *(turn for turn, _ in groups)):
                    is_default = turn is groups[0][0]
                    cpu_s = time.process_time()
                    turn.measure(arguments.window_s, launcher if is_default else None)
                    if is_default:
                        cost_s += time.process_time() - cpu_s
                    print(
                        f"window {window + 1}: {turn.name} {turn.rates[-1]:,.0f} steps/s",
                        flush=True,
                    )
        memory_mb = [
            psutil.Process(process.pid).memory_info().rss / 2**20
            for process in groups[0][0].processes
        ]
        shares = _overheads(groups[0], cost_s, arguments)
    finally:
        for turn in (*alone, *(turn for turn, _ in groups)):
            turn.end()
    emulation, network = alone[0].rate, alone[1].rate
    limit = 1 / (1 / emulation + 1 / network)
    population_rate = groups[0][0].rate
    large = groups[1][0].rate if len(groups) > 1 else None
    beside = (
        {"network_a3c": alone[2].rate, "cost_of_agent": alone[2].rate / network}
        if len(alone) > 2
        else {}
    )
    return {
        "game": arguments.game,
        "agent": arguments.agent,
        "num_envs": arguments.num_envs,
        "unroll_length": arguments.unroll_length,
        "workers": workers,
        "emulation": emulation,
        "network": network,
        "limit": limit,
        "population": population_rate,
        f"population_{arguments.large_population}": large,
        "ratio_to_limit": population_rate / limit,
        "ratio_to_emulation": population_rate / emulation,
        "ratio_of_populations": None if large is None else large / population_rate,
        **beside,
        "worker_memory_mb": max(memory_mb),
        "windows": {turn.name: turn.rates for turn in (*alone, *(turn for turn, _ in groups))},
        **shares,
    }


def _overheads(
    group: tuple[turns.Turn, dict[str, Any]], launcher_s: float, arguments: Arguments
) -> dict[str, float]:
    """Share of the workers' time that went into the engine, at the default intervals."""
    turn, seconds = group
    seconds["stop"].set()
    turn.go.set()
    spent = [seconds["queue"].get(timeout=60) for _ in turn.processes]
    paused_s = sum(value.value for value in turn.paused_s)
    total = {
        name: sum(worker_s.get(name, 0.0) for worker_s in spent)
        for name in (*OVERHEADS, "build", "train", "idle")
    }
    overhead_s = sum(total[name] for name in OVERHEADS)
    # Waiting for a turn happens in `beat`, so inside training, or between two claims.
    working_s = sum(total.values()) - total["build"] - paused_s
    measured_s = len(turn.processes) * arguments.windows * (arguments.window_s + turns.SETTLE_S)
    engine = overhead_s / working_s / INTERVAL_DIVISOR
    launcher = launcher_s / measured_s
    return {
        "pbt_cost": engine + launcher,
        "pbt_cost_engine": engine,
        "pbt_cost_launcher": launcher,
        **{f"seconds_{name}": total[name] for name in (*OVERHEADS, "build")},
    }


def report(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"{figures['game']}, {figures['agent']}, {figures['num_envs']} worlds per member, "
        f"unroll length "
        f"{figures['unroll_length']}, {figures['workers']} processes with one thread each",
    ]
    for name in ("emulation", "network", "network_a3c", "limit", "population"):
        if name in figures:
            lines.append(f"  {name:<24}{figures[name]:>10,.0f} agent steps/s")
    large = [name for name in figures if name.startswith("population_")]
    for name in large:
        if figures[name] is not None:
            lines.append(f"  {name:<24}{figures[name]:>10,.0f} agent steps/s")
    for name in (
        "ratio_to_limit",
        "ratio_to_emulation",
        "ratio_of_populations",
        "pbt_cost",
        "cost_of_agent",
    ):
        if figures.get(name) is not None:
            lines.append(f"  {name:<24}{figures[name]:>10.3f}")
    lines.append(f"  {'worker_memory_mb':<24}{figures['worker_memory_mb']:>10,.0f}")
    return "\n".join(lines)


@cli.quiet
def main() -> None:
    """Parse the command line, measure, print."""
    arguments = tyro.cli(Arguments, prog="python -m experiments.throughput", description=__doc__)
    if arguments.quick:
        arguments = dataclasses.replace(
            arguments, num_envs=16, population=4, windows=2, window_s=3.0
        )
    try:
        make.describe(arguments.game)
        _learner_config(arguments).check_unroll_length(arguments.unroll_length)
    except ValueError as error:
        cli.fail(str(error))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that are started now
    with tempfile.TemporaryDirectory(prefix="throughput-") as directory:
        figures = measure(arguments, Path(directory))
    print(report(figures))
    if arguments.json is not None:
        arguments.json.write_text(json_lib.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
