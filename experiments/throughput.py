"""Measure how fast the suite trains on this machine, and how near that is to what is possible.

    python -m experiments.throughput                  # about 7 minutes
    python -m experiments.throughput --quick          # about a minute, rough
    python -m experiments.throughput --agent unreal --json out.json
    python -m experiments.throughput --game Doom/MyWayHome

Each measurement runs in one process per worker, with one thread each:

- emulation: the environments alone, with random actions;
- network: the agent's own `act` and `update` alone, in environments that cost nothing;
- network of a3c: the same for A3C where the agent is another. `cost_of_agent` compares the two;
- population: workers of the PBT engine on a real run, with checkpoints, decisions, live table and
  TensorBoard; then the same with a large population. All members stay alive in memory.

Machines are noisy, so the measurements take turns in short windows, and the figures are medians
over the windows. `limit` is 1 / (1 / emulation + 1 / network), the rate of a program that did
nothing else. The population's intervals are a quarter of the defaults, so that a short window has
some of each. `pbt_cost` corrects for that: the engine's share of the workers' time is divided by
four, and the launcher's is added.
"""

import contextlib
import dataclasses
import itertools
import json as json_lib
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import gymnasium
import psutil
import torch
import tyro

from agents import feudal, ppo, unreal
from envs import make
from experiments import cli, presets
from experiments import config as engine_config
from experiments.members import learner
from experiments.projections import progress, tensorboard
from pbt import create, local, process, run, store, task, worker

INTERVAL_DIVISOR = 4
"""Ratio of the default intervals to those of the measured population."""
SETTLE_S = 1.0
"""Seconds between the start of a turn and the start of its window."""
OVERHEADS = ("claim", "load", "publish", "commit", "decide", "collect")
"""Work of a worker besides training. Environments are built once per member and do not count."""
SPAWN = multiprocessing.get_context("spawn")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure agent steps per second."""

    quick: bool = False
    """Use fewer members and environments, short windows and no large population."""
    game: str = "Pong"
    """Any Atari game, or the id of another environment."""
    agent: learner.AgentName = "a3c"
    """Agent to measure."""
    ppo_settings: tyro.conf.OmitArgPrefixes[ppo.PPOConfig] = dataclasses.field(
        default_factory=ppo.PPOConfig
    )
    """Fixed settings of PPO."""
    precision: Literal["float32", "bfloat16", "auto"] | None = None
    """Number format of the torso's products; default: that of Atari's default run."""
    auxiliary: unreal.UNREALConfig = dataclasses.field(default_factory=unreal.UNREALConfig)
    """Fixed settings of UNREAL's auxiliary tasks."""
    feudal_settings: tyro.conf.OmitArgPrefixes[feudal.FeudalConfig] = dataclasses.field(
        default_factory=feudal.FeudalConfig
    )
    """Fixed settings of FeUdal Networks."""
    num_envs: int = 32
    """Number of environments per member."""
    unroll_length: int = 20
    """Steps of all environments per update."""
    population: int = 8
    """Number of members."""
    large_population: int = 40
    """Number of members of the second population."""
    workers: int | None = None
    """Number of processes; default: one per core."""
    windows: int = 3
    """Number of windows per measurement."""
    window_s: float = 12.0
    """Length of a window in seconds."""
    json: Path | None = None
    """File for all figures."""

    def check(self) -> None:
        """Refuse arguments that make no sense.

        Raises:
            ValueError: One line with the value given and the values allowed.
        """
        for name in ("num_envs", "unroll_length", "population", "large_population", "windows"):
            if (given := getattr(self, name)) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {given}: use 1 or more")
        engine_config.check_workers(self.workers)
        if not 0 < self.window_s < math.inf:
            raise ValueError(f"--window-s {self.window_s:g}: use a number above 0")
        if self.json is not None and (self.json.is_dir() or not self.json.parent.is_dir()):
            raise ValueError(f"--json {self.json}: name a file in a directory that exists")


class Turn:
    """What a process and its group share: whose turn it is, and the agent steps done so far."""

    def __init__(self) -> None:
        self._go = SPAWN.Event()
        self._waits = SPAWN.Event()
        self._shared = SPAWN.Array("d", 2)  # agent steps, time.monotonic()

    def begin(self) -> None:
        """Let the process work."""
        self._waits.clear()
        self._go.set()

    def end(self) -> None:
        """Let the process pause when it next waits."""
        self._go.clear()

    def wait(self) -> None:
        """Wait until it is the turn of this process, which calls it between two updates."""
        if not self._go.is_set():
            self._waits.set()
            self._go.wait()
            self._waits.clear()

    def is_paused(self) -> bool:
        """Return whether the process waits for its turn."""
        return self._waits.is_set()

    def add(self, agent_steps: int) -> None:
        """Add agent steps that are done now."""
        with self._shared.get_lock():
            self._shared[0] += agent_steps
            self._shared[1] = time.monotonic()

    def read(self) -> tuple[float, float]:
        """Return agent steps, and the time of the last addition."""
        with self._shared.get_lock():
            return self._shared[0], self._shared[1]


class Group:
    """Processes that measure one thing. They work only while it is the group's turn.

    Args:
        name: Name for messages.
        workers: Number of processes.
        work: Loop of each process. Called with a `Turn` and `arguments`. Adds the agent steps that
            it has done to the turn, and then waits for the next.
    """

    def __init__(self, name: str, workers: int, work: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        self.rates: list[float] = []  # agent steps per second of all processes, one per window
        self._turns = [Turn() for _ in range(workers)]
        self.processes = [
            SPAWN.Process(target=_begin, args=(work, turn, *arguments), daemon=True)
            for turn in self._turns
        ]
        for started in self.processes:
            started.start()

    def run_until(self, is_over: Callable[[], bool]) -> None:
        """Let the processes work until `is_over()` is true, which is called ten times per second.

        Return when all of them pause, so that the next group has the machine to itself.

        Raises:
            RuntimeError: A process died. Its traceback is on standard error.
        """
        for turn in self._turns:
            turn.begin()
        self._wait_until(is_over)
        for turn in self._turns:
            turn.end()
        self._wait_until(lambda: all(turn.is_paused() for turn in self._turns))

    def _wait_until(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            if not all(started.is_alive() for started in self.processes):
                raise RuntimeError(f"a process of the {self.name} died")
            time.sleep(0.1)

    def has_begun(self) -> bool:
        """Return whether every process is ready and works."""
        return all(turn.read()[0] > 0 for turn in self._turns)

    def measure(self, seconds: float, tick: Callable[[], None]) -> None:
        """Let the processes work for a window, and call `tick` meanwhile.

        An update of PPO takes as long as a second, so each process is timed from one of its updates
        to another.
        """
        marks: list[list[tuple[float, float]]] = []  # of both ends; (agent steps, time) by process

        def is_over() -> bool:
            tick()
            counts = [turn.read() for turn in self._turns]
            if all(at_s > due_s + seconds * len(marks) for _, at_s in counts):
                marks.append(counts)
            return len(marks) == 2

        due_s = time.monotonic() + SETTLE_S
        self.run_until(is_over)
        self.rates.append(
            sum(
                (last - first) / (last_s - first_s)
                for (first, first_s), (last, last_s) in zip(*marks, strict=True)
            )
        )

    def close(self) -> None:
        """Stop the processes; workers of the engine commit before they end."""
        for turn in self._turns:
            turn.begin()
        for started in self.processes:
            started.terminate()
        for started in self.processes:
            started.join()


def _begin(work: Callable[..., None], *arguments: Any) -> None:
    process.die_with_parent()
    torch.set_num_threads(1)
    work(*arguments)


class StillVectorEnv(gymnasium.vector.VectorWrapper):
    """Environments of the real shape whose steps cost nothing: they repeat a few recorded ones."""

    def __init__(self, env_id: str, num_envs: int) -> None:
        super().__init__(make.make_vec(env_id, num_envs))
        self.env.reset(seed=0)
        actions = [self.env.action_space.sample() for _ in range(8)]
        self._recorded = itertools.cycle([self.env.step(action) for action in actions])

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return a recorded observation."""
        return next(self._recorded)[0], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Return the next recorded step."""
        return next(self._recorded)


def _emulate(turn: Turn, config: learner.LearnerConfig) -> None:
    envs = make.make_vec(config.env_id, config.num_envs)
    envs.reset(seed=os.getpid())
    envs.action_space.seed(os.getpid())
    actions = [envs.action_space.sample() for _ in range(20)]
    while True:
        for action in actions:
            envs.step(action)
        turn.add(len(actions) * config.num_envs)
        turn.wait()


def _learn(turn: Turn, config: learner.LearnerConfig, unroll_length: int) -> None:
    still = StillVectorEnv(config.env_id, config.num_envs)
    learning = learner.AgentTask(config, 0, os.getpid(), make_envs=lambda: still)
    learning.set_hyperparameters({"learning_rate": 1e-4, "unroll_length": unroll_length})
    for done in learning.train(10**12, 10**12):
        turn.add(done.agent_steps)
        turn.wait()


def _work(turn: Turn, run_dir: Path, residents: int) -> None:
    """Work on a run, then write the seconds that each kind of work took."""
    paused_s = 0.0

    class CountedTask(learner.AgentTask):
        def train(self, agent_steps: int, limit: int) -> Iterator[task.Progress]:
            for done in super().train(agent_steps, limit):
                turn.add(done.agent_steps)
                yield done

    def make_task(config: Mapping[str, Any], member: int, seed: int) -> task.Task:
        return CountedTask(learner.LearnerConfig.from_json(config), member, seed)

    def beat() -> None:
        nonlocal paused_s
        begun_s = time.monotonic()
        turn.wait()
        paused_s += time.monotonic() - begun_s

    with store.Store.open(run_dir) as run_store, process.Stop().installed() as stop:
        outcome = worker.run(
            run_store, run_dir, resident_limit=residents, stop=stop, beat=beat, make_task=make_task
        )
    seconds = {**outcome.seconds, "paused": paused_s}
    (run_dir / f"seconds-{os.getpid()}.json").write_text(json_lib.dumps(seconds))


def _run_config(arguments: Arguments, population: int) -> run.RunConfig:
    """Return Atari's default run with short intervals."""
    num_envs, default = arguments.num_envs, presets.ATARI["default"][arguments.agent]

    def interval(steps: int) -> int:
        return max(1, steps // INTERVAL_DIVISOR // num_envs) * num_envs

    settings = dataclasses.replace(
        default,
        population=population,
        settings=dataclasses.replace(
            default.settings, precision=arguments.precision or default.settings.precision
        ),
        ppo_settings=arguments.ppo_settings,
        auxiliary=arguments.auxiliary,
        feudal_settings=arguments.feudal_settings,
        num_envs=num_envs,
        total_steps=10**9 // num_envs * num_envs,
        report_interval=interval(default.report_interval),
        ready_interval=interval(default.ready_interval),
        fixed=(f"unroll_length={arguments.unroll_length}",),
        adapt=("learning_rate", "entropy_cost"),
    )
    return dataclasses.replace(
        settings.run_config(),
        task_config=settings.in_environment(arguments.game, clip_rewards=True).to_json(),
        lease_seconds=3_600.0,  # a worker that waits for its turn must not lose its member
        window=1,  # so that windows contain decisions and copies
        min_episodes=1,
        significance=0.5,
    )


def _warm(population: Group, run_dir: Path) -> None:
    """Let every member be built and trained for a slice, so that all are alive in memory."""
    with store.Store.open(run_dir) as run_store:
        population.run_until(lambda: all(member.version > 0 for member in run_store.members()))


def measure(arguments: Arguments, directory: Path) -> dict[str, Any]:
    """Measure everything in turns and return the figures by name; see the module's docstring.

    Args:
        arguments: Settings of the measurement.
        directory: Directory for the runs.
    """
    workers = arguments.workers or local.available_cores()
    large = f"population_{arguments.large_population}"
    sizes = {"population": arguments.population}
    sizes |= {} if arguments.quick else {large: arguments.large_population}
    config = learner.LearnerConfig.from_json(_run_config(arguments, 1).task_config)
    groups: dict[str, Group] = {}
    with contextlib.ExitStack() as stack:

        def start(key: str, name: str, work: Callable[..., None], *parameters: Any) -> None:
            group = Group(name, workers, work, *parameters)
            groups[key] = stack.enter_context(contextlib.closing(group))

        start("emulation", "emulation", _emulate, config)
        start("network", "network", _learn, config, arguments.unroll_length)
        if arguments.agent != "a3c":
            a3c = dataclasses.replace(arguments, agent="a3c")
            of_a3c = learner.LearnerConfig.from_json(_run_config(a3c, 1).task_config)
            start("network_a3c", "network of a3c", _learn, of_a3c, arguments.unroll_length)
        for group in groups.values():
            group.run_until(group.has_begun)
        for key, size in sizes.items():
            print(f"building {size} members with {config.num_envs} environments each", flush=True)
            run_dir = directory / key
            create.create_run(run_dir, _run_config(arguments, size)).close()
            start(key, f"population of {size}", _work, run_dir, -(-size // workers) + 1)
            _warm(groups[key], run_dir)

        watched = stack.enter_context(store.Store.open(directory / "population"))
        projector = stack.enter_context(tensorboard.Projector(watched, directory / "tensorboard"))
        null = stack.enter_context(open(os.devnull, "w"))
        table = stack.enter_context(progress.Progress(4, stream=null, plain_s=2.0))
        projected_s = launcher_s = 0.0

        def launch() -> None:
            nonlocal projected_s
            table.tick(watched)
            if time.monotonic() - projected_s > 10:
                projected_s = time.monotonic()
                projector.update()

        for window, key in itertools.product(range(arguments.windows), groups):
            cpu_s = time.process_time()
            group = groups[key]
            group.measure(arguments.window_s, launch if key == "population" else lambda: None)
            launcher_s += time.process_time() - cpu_s if key == "population" else 0.0
            print(f"window {window + 1}: {group.name} {group.rates[-1]:,.0f} steps/s", flush=True)
        pids = [started.pid for started in groups["population"].processes]
        memory_mb = max(psutil.Process(pid).memory_info().rss / 2**20 for pid in pids)
    spent = [json_lib.loads(path.read_text()) for path in directory.glob("population/seconds-*")]
    seconds = {
        name: sum(one.get(name, 0.0) for one in spent)
        for name in (*OVERHEADS, "build", "train", "idle", "paused")
    }
    # Pauses are part of the seconds of training, or of looking for work.
    working_s = sum(seconds[name] for name in (*OVERHEADS, "train", "idle")) - seconds["paused"]
    engine = sum(seconds[name] for name in OVERHEADS) / working_s / INTERVAL_DIVISOR
    launcher = launcher_s / (workers * arguments.windows * (arguments.window_s + SETTLE_S))
    rates = {key: statistics.median(group.rates) for key, group in groups.items()}
    limit = 1 / (1 / rates["emulation"] + 1 / rates["network"])
    figures = {
        "game": arguments.game,
        "agent": arguments.agent,
        "num_envs": arguments.num_envs,
        "unroll_length": arguments.unroll_length,
        "workers": workers,
        **rates,
        large: rates.get(large),
        "limit": limit,
        "ratio_to_limit": rates["population"] / limit,
        "ratio_to_emulation": rates["population"] / rates["emulation"],
        "ratio_of_populations": rates[large] / rates["population"] if large in rates else None,
        "worker_memory_mb": memory_mb,
        "windows": {group.name: group.rates for group in groups.values()},
        "pbt_cost": engine + launcher,
        "pbt_cost_engine": engine,
        "pbt_cost_launcher": launcher,
        **{f"seconds_{name}": seconds[name] for name in (*OVERHEADS, "build")},
    }
    if "network_a3c" in rates:
        figures["cost_of_agent"] = rates["network_a3c"] / rates["network"]
    return figures


def report(figures: Mapping[str, Any]) -> str:
    """Return the figures as text."""
    text = (
        f"{figures['game']}, {figures['agent']}, {figures['num_envs']} environments per member, "
        f"unroll length {figures['unroll_length']}, {figures['workers']} processes with one thread "
        "each"
    )
    for name, figure in figures.items():
        if figure is None:
            continue
        if name.startswith(("emulation", "network", "limit", "population")):
            text += f"\n  {name:<24}{figure:>10,.0f} agent steps/s"
        elif name.startswith("ratio") or name in ("pbt_cost", "cost_of_agent"):
            text += f"\n  {name:<24}{figure:>10.3f}"
        elif name == "worker_memory_mb":
            text += f"\n  {name:<24}{figure:>10,.0f}"
    return text


@cli.quiet
def main() -> None:
    """Parse the command line, measure, print."""
    arguments = cli.read(Arguments, __doc__)
    if arguments.quick:
        arguments = dataclasses.replace(
            arguments, num_envs=16, population=4, windows=2, window_s=3.0
        )
    try:
        arguments.check()
        make.describe(arguments.game)
        config = learner.LearnerConfig.from_json(_run_config(arguments, 1).task_config)
        config.check_unroll_length(arguments.unroll_length, arguments.unroll_length)
    except ValueError as error:
        cli.fail(str(error))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the processes that start now
    with tempfile.TemporaryDirectory(prefix="throughput-") as directory:
        figures = measure(arguments, Path(directory))
    print(report(figures))
    if arguments.json is not None:
        arguments.json.write_text(json_lib.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
