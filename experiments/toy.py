"""Reproduce figure 2 of the PBT paper: two members, two parameters, a surrogate objective.

    python -m experiments.toy             # seconds; writes RUN_DIR/report/toy.png and toy.csv

The goal is to maximise Q(theta) = 1.2 - (theta_0^2 + theta_1^2), which no member sees. A member
climbs the gradient of Q_hat(theta | h) = 1.2 - (h_0 theta_0^2 + h_1 theta_1^2) with a step size of
0.01 from theta = (0.9, 0.9). One member has h = (1, 0), the other h = (0, 1), so each is blind to
one parameter. They take 200 steps and are ready every 4. The figure has four panels:

    PBT           exploit and explore
    explore only  h changes, nobody copies
    exploit only  they copy, h stays
    grid search   neither: Q stays below 1.2 - 0.9^2 = 0.39, as one parameter stays at 0.9

Source: "Population Based Training of Neural Networks", Jaderberg et al. 2017
(https://arxiv.org/abs/1711.09846), figure 2. Functions, start, step size, steps, ready interval
and noise are the paper's. The outcome depends on what is copied, how a tie is broken and when
members explore. Descriptions of the figure are silent on these points or disagree. Our rules:

- All panels copy only the weights theta. If h were copied too, "exploit only" would end where grid
  search does, because after one copy both members are blind to the same parameter.
- Exploit is truncation: the worse member copies the better one, by the Q of its last step. Equal
  members are ordered at random. The members start symmetric, so without explore their Q are equal
  at equal steps for ever. A rule that asks for a strictly better donor copies only when one member
  is some steps ahead, which is no merit. `--exploit binary-tournament` is such a rule.
- Explore adds Gaussian noise of standard deviation 0.1 to each h whenever a member is ready,
  whether it copied or not. Multiplying by 0.8 or 1.2 would never lead an h away from 0.
- h stays in [0, 1], where the two members begin. A larger h would act as a larger step size, and a
  negative one would drive theta away from the optimum.

Each panel is an ordinary run directory. After a kill, the same command goes on where it was.
"""

import csv
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import figure, lines

from experiments import cli
from pbt import checkpoint, lineage, records, run, space, storage, store, task, worker

START = (0.9, 0.9)
CEILING = 1.2
LEARNING_RATE = 0.01
READY_INTERVAL = 4
"""Gradient steps between two comparisons with the other member."""
FIRST_H = ((1.0, 0.0), (0.0, 1.0))
"""(h_0, h_1) of the two members."""
DURABLE = False
"""Whether commits survive a power cut. Syncing each to disk would take most of the time."""
COLOURS = ("#1f6fb4", "#d1495b")
"""Colours of the two members in the figure."""
COPIED: Mapping[str, Any] = {"linewidth": 0.8, "linestyle": (0, (2, 2)), "alpha": 0.6}
"""Style of the line from a member's weights to those that it copied."""


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """Settings of the toy. The defaults reproduce the figure."""

    run_dir: Path = Path("results/runs/toy")
    """Directory of the four runs, the figure and the table. The same directory again resumes."""
    seed: int = 0
    """Seed of the noise and of the order of equal members."""
    steps: int = 200
    """Number of gradient steps of each member."""
    exploit: Literal["truncation", "t-test", "binary-tournament"] = "truncation"
    """How a member chooses whom to copy. The t-test compares the Q of the last four steps."""
    copy: Literal["weights", "both", "hyperparameters"] = "weights"
    """What is copied from the better member."""
    significance: float = 0.05
    """Two-sided level of the t-test."""
    standard_deviation: float = 0.1
    """Standard deviation of the noise that explore adds to each h."""


class Panel(NamedTuple):
    """One column of the figure."""

    name: str
    title: str
    exploits: bool
    explores: bool


PANELS = (
    Panel("pbt", "PBT", exploits=True, explores=True),
    Panel("explore-only", "Explore only", exploits=False, explores=True),
    Panel("exploit-only", "Exploit only", exploits=True, explores=False),
    Panel("grid-search", "Grid search", exploits=False, explores=False),
)


def objective(theta: Sequence[float]) -> float:
    """Return Q, which scores a member and which its gradient never sees."""
    return CEILING - sum(value**2 for value in theta)


def descend(theta: Sequence[float], h: Sequence[float]) -> tuple[float, float]:
    """Return theta after one step up the gradient of Q_hat, whose components are -2 h_i theta_i."""
    theta_0, theta_1 = (
        value - LEARNING_RATE * 2 * weight * value for value, weight in zip(theta, h, strict=True)
    )
    return theta_0, theta_1


class ToyTask:
    """A `pbt.task.Task` with two parameters. Each gradient step is an episode that returns Q."""

    def __init__(self) -> None:
        self._theta = START
        self._h = (0.0, 0.0)

    def train(self, agent_steps: int, limit: int) -> Iterator[task.Progress]:
        """Take one gradient step per update."""
        for step in range(1, agent_steps + 1):
            self._theta = descend(self._theta, self._h)
            episode = task.Episode(step, objective(self._theta), length=1, counted=True)
            metrics = {"theta_0": self._theta[0], "theta_1": self._theta[1]}
            yield task.Progress(1, (episode,), metrics)

    def set_hyperparameters(self, values: Mapping[str, float]) -> None:
        """Set h.

        Raises:
            ValueError: There is another name than h_0 and h_1.
        """
        if unknown := values.keys() - {"h_0", "h_1"}:
            raise ValueError(f"unknown hyperparameters {sorted(unknown)}: the toy has h_0 and h_1")
        self._h = (values["h_0"], values["h_1"])

    def hyperparameters(self) -> Mapping[str, float]:
        """Return h."""
        return {"h_0": self._h[0], "h_1": self._h[1]}

    def save(self, directory: Path) -> None:
        """Write theta."""
        (directory / "theta.json").write_text(json.dumps(self._theta))

    def load(self, directory: Path) -> None:
        """Read theta.

        Raises:
            pbt.checkpoint.CheckpointError: The file is damaged.
        """
        try:
            theta_0, theta_1 = map(float, json.loads((directory / "theta.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise checkpoint.CheckpointError(f"{directory}: theta.json: {error}") from error
        self._theta = (theta_0, theta_1)

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def make_task(config: Mapping[str, Any], member: int, seed: int) -> ToyTask:
    """Build a member's learner. Members differ only in their hyperparameters."""
    return ToyTask()


def run_config(settings: ToyConfig, panel: Panel) -> run.RunConfig:
    """Return the engine's settings of a panel."""
    window = READY_INTERVAL if settings.exploit == "t-test" else 1  # episodes, one per step
    return run.RunConfig(
        task="experiments.toy:make_task",
        space=space.Space(
            {"h_0": space.Uniform(0.0, 1.0), "h_1": space.Uniform(0.0, 1.0)}, ("h_0", "h_1")
        ),
        population=len(FIRST_H),
        total_steps=settings.steps,
        report_interval=READY_INTERVAL,
        ready_interval=READY_INTERVAL,
        exploit=settings.exploit if panel.exploits else "none",
        explore="gaussian" if panel.explores else "none",
        explore_at="ready" if panel.explores else "exploit",
        copy=settings.copy,
        significance=settings.significance,
        standard_deviation=settings.standard_deviation,
        seed=settings.seed,
        window=window,
        min_episodes=window,
    )


def open_panel(settings: ToyConfig, panel: Panel) -> store.Store | None:
    """Open the panel's run, or return None if there is none yet.

    Raises:
        ValueError: The directory holds a run with other settings.
        store.StoreError: It holds something else, or a damaged run.
    """
    directory = settings.run_dir / panel.name
    if store.find(directory) is None:
        return None
    opened = store.Store.open(directory, durable=DURABLE)
    if differences := opened.config.differences(run_config(settings, panel)):
        raise ValueError(
            f"{directory} is a run with other settings ({'; '.join(differences)}):"
            " give another --run-dir, or the settings that it has"
        )
    return opened


def check(settings: ToyConfig) -> None:
    """Refuse settings that make no sense or differ from those of the directory. Write nothing.

    Raises:
        ValueError: One line with what is wrong and the way out.
    """
    if store.find(settings.run_dir) is not None:
        raise ValueError(f"{settings.run_dir} is a run, not the toy's four: give another --run-dir")
    for panel in PANELS:
        run_config(settings, panel)
        if opened := open_panel(settings, panel):
            opened.close()


def train_panel(settings: ToyConfig, panel: Panel) -> bool:
    """Train a panel to its end in this process, and return whether anything was left to do."""
    directory = settings.run_dir / panel.name
    opened = open_panel(settings, panel)
    if opened is None:
        directory.mkdir(parents=True, exist_ok=True)
        members = [
            records.Member(id_, 0, 0, {"h_0": h[0], "h_1": h[1]}) for id_, h in enumerate(FIRST_H)
        ]
        opened = store.Store.create(
            directory / store.FILE_NAME, run_config(settings, panel), members, durable=DURABLE
        )
    with opened:
        if not opened.unfinished():
            return False
        storage.of(directory, durable=DURABLE).adopt(
            opened.identity(), opened.referenced_checkpoints()
        )
        outcome = worker.run(opened, directory, durable=DURABLE)
        if outcome.exit_code:
            raise RuntimeError(f"{directory}: {outcome.message}")
        return True


class Row(NamedTuple):
    """A line of the table: one version of one member."""

    panel: str
    member: int
    version: int
    kind: str
    agent_steps: int
    h_0: float
    h_1: float
    theta_0: float
    theta_1: float
    q: float


def read_panel(run_dir: Path, panel: Panel) -> list[Row]:
    """Read all versions of a panel's members from its store, by member and version.

    The store holds the Q of each step, but not theta. It is recomputed along the lineage, and each
    step must reach exactly the Q that was recorded.

    Raises:
        ValueError: A step reaches another Q.
    """
    with store.Store.open(run_dir / panel.name, durable=DURABLE) as opened:
        reports = {(report.member, report.version): report for _, report in opened.reports()}
        tree = lineage.Tree(opened.versions(), opened.config.copy)
    theta: dict[lineage.Key, tuple[float, float]] = {}
    for key, version in tree.versions.items():  # in order of commit, so parents come first
        parent = tree.parents[key]
        theta[key] = START if parent is None else theta[parent]
        if version.kind == "slice":
            theta[key] = _replay(theta[key], reports[key])
    return [
        Row(
            panel.name,
            *key,
            version.kind,
            version.agent_steps,
            version.hyperparameters["h_0"],
            version.hyperparameters["h_1"],
            *theta[key],
            objective(theta[key]),
        )
        for key, version in sorted(tree.versions.items())
    ]


def _replay(theta: tuple[float, float], report: records.Report) -> tuple[float, float]:
    """Return theta after a slice. Raise `ValueError` if a step does not reach the recorded Q."""
    h = (report.hyperparameters["h_0"], report.hyperparameters["h_1"])
    for episode in report.episodes:
        theta = descend(theta, h)
        if objective(theta) != episode.episode_return:
            raise ValueError(
                f"member {report.member}, version {report.version}: the store's lineage leads to"
                f" Q = {objective(theta)!r}, but {episode.episode_return!r} was recorded"
            )
    return theta


def final_q(rows: Iterable[Row], panel: Panel) -> float:
    """Return the Q of the better member at the end of a panel."""
    return max({row.member: row.q for row in rows if row.panel == panel.name}.values())


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write a CSV file with one line per version."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)


def draw(rows: Sequence[Row]) -> figure.Figure:
    """Draw theta (above) and Q (below) of the four panels."""
    drawing = figure.Figure(figsize=(11.5, 5.9), layout="constrained")
    grid = drawing.subplots(2, len(PANELS), sharex="row", sharey="row", height_ratios=(1.15, 1))
    axis = np.linspace(-0.06, 1.0, 200)
    theta_0, theta_1 = np.meshgrid(axis, axis)
    steps = max(row.agent_steps for row in rows)
    for column, panel in enumerate(PANELS):
        above, below = grid[0, column], grid[1, column]
        above.contour(
            theta_0,
            theta_1,
            CEILING - theta_0**2 - theta_1**2,
            levels=np.arange(-0.6, CEILING, 0.2),
            colors="0.88",
            linestyles="solid",
            linewidths=0.7,
            zorder=0,
        )
        above.plot(0, 0, marker="+", markersize=9, markeredgewidth=1.2, color="0.35", zorder=4)
        below.axhline(CEILING, color="0.35", linewidth=1.1, linestyle=":", zorder=0)
        for id_, colour in enumerate(COLOURS):
            trace = [row for row in rows if row.panel == panel.name and row.member == id_]
            # A thin line over a thick one: in two panels the members' Q are almost the same.
            _draw_trace(above, below, trace, colour, width=(2.8, 1.2)[id_])
        above.set_title(panel.title, fontsize=12, fontweight="bold", pad=8)
        above.set(xlim=(-0.06, 1.0), ylim=(-0.06, 1.0), aspect="equal", xlabel=r"$\theta_0$")
        below.set(xlim=(0, steps), ylim=(-0.5, 1.32), xlabel="gradient steps")
        below.text(
            0.97,
            0.08,
            f"$Q$ = {final_q(rows, panel):.3f}",
            transform=below.transAxes,
            horizontalalignment="right",
            fontsize=10,
        )
        for each in (above, below):
            each.spines[["top", "right"]].set_visible(False)
            each.tick_params(labelsize=8, length=3, color="0.5")
            each.set_xticks([0, 0.5, 1] if each is above else np.linspace(0, steps, 5))
    grid[0, 0].set_yticks([0, 0.5, 1])
    grid[0, 0].set_ylabel(r"$\theta_1$", rotation=0, labelpad=10)
    grid[1, 0].set_ylabel(r"$Q$", rotation=0, labelpad=10)
    grid[0, 0].annotate(
        "optimum", (0, 0), (7, 5), textcoords="offset points", color="0.35", fontsize=8
    )
    handles = [
        lines.Line2D([], [], color=colour, marker="o", markersize=3, label=f"member {id_}")
        for id_, colour in enumerate(COLOURS)
    ]
    handles.append(lines.Line2D([], [], color="0.35", label="copied", **COPIED))
    grid[1, 0].legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 0.16),
        frameon=False,
        fontsize=8,
        handlelength=2,
    )
    return drawing


def _draw_trace(above: Any, below: Any, trace: Sequence[Row], colour: str, width: float) -> None:
    """Draw one member: a line while it learnt, a dot per slice, a dashed line where it copied."""
    theta_0, theta_1, q, agent_steps = (
        [getattr(row, name) for row in trace] for name in ("theta_0", "theta_1", "q", "agent_steps")
    )
    copies = [i for i, row in enumerate(trace) if row.kind == "exploit"]
    for begin, end in itertools.pairwise([0, *copies, len(trace)]):
        learnt, copied = slice(begin, end), slice(end - 1, end + 1)
        above.plot(theta_0[learnt], theta_1[learnt], color=colour, linewidth=1.4)
        below.plot(agent_steps[learnt], q[learnt], color=colour, linewidth=width)
        above.plot(theta_0[copied], theta_1[copied], color=colour, **COPIED)
        below.plot(agent_steps[copied], q[copied], color=colour, **COPIED)
    slices = [i for i, row in enumerate(trace) if row.kind in ("initial", "slice")]
    above.plot(theta_0, theta_1, "o", markevery=slices, markersize=2.6, color=colour)


@cli.quiet
def main() -> None:
    """Train what is left of the four panels, then write the table and the figure."""
    settings = cli.read(ToyConfig, __doc__)
    try:
        check(settings)
        trained = [train_panel(settings, panel) for panel in PANELS]
        rows = [row for panel in PANELS for row in read_panel(settings.run_dir, panel)]
        report = settings.run_dir / "report"
        report.mkdir(exist_ok=True)
        write_table(report / "toy.csv", rows)
        draw(rows).savefig(report / "toy.png", dpi=200)
    except (ValueError, OSError, store.StoreError) as error:
        cli.fail(error)
    except KeyboardInterrupt:
        print("toy: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    if not any(trained):
        print(f"{settings.run_dir} was finished already; figure and table drawn again")
    print(f"Q of the better member after {settings.steps} steps (at most {CEILING}):")
    for panel in PANELS:
        print(f"  {panel.title:<13} {final_q(rows, panel):6.3f}")
    print(f"figure: {report / 'toy.png'}\ntable:  {report / 'toy.csv'}")


if __name__ == "__main__":
    main()
