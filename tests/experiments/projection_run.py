"""Runs for tests of projections: random populations, written through the real store.

`python projection_run.py RUN_DIR DIRECTORY` is a child process that projects until it is killed.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pbt import decide, records, run, space, store, task

SPACE = space.Space(
    {
        "learning_rate": space.LogUniform(1e-5, 5e-3, (1e-6, 1e-2)),
        "entropy_cost": space.LogUniform(5e-4, 2e-2),
        "unroll_length": space.IntUniform(5, 50, (1, 100), log=True),
        "discount": space.Constant(0.99),
    },
    ("learning_rate", "entropy_cost", "unroll_length"),
)
INTERVAL = 3_200
NUM_ENVS = 32


def configuration(population=4, slices=10, **changes):
    settings = {
        "task": "nowhere:make_task",
        "space": SPACE,
        "population": population,
        "total_steps": slices * INTERVAL,
        "report_interval": INTERVAL,
        "ready_interval": 2 * INTERVAL,
        "step_multiple": NUM_ENVS,
        "exploit": "truncation",
        "task_config": {"env_id": "ALE/Pong-v5", "preset": "a3c2016"},
    }
    return run.RunConfig(**(settings | changes))


class Population:
    """A population whose training is made up; each slice is committed as a worker would."""

    def __init__(self, run_dir: Path, config: run.RunConfig, seed: int = 0) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.rng = np.random.default_rng(seed)
        members = [
            records.Member(number, 0, 0, config.space.sample(self.rng))
            for number in range(config.population)
        ]
        self._ahead_s = 0.0
        self.store = store.Store.create(
            run_dir / store.FILE_NAME,
            config,
            members,
            durable=False,
            clock=lambda: time.time() + self._ahead_s,
        )
        self.config = config
        self.skill = [0.0] * config.population

    def train(self, turns: int) -> None:
        for _ in range(turns):
            lease = self.store.claim("tester/boot/1/2")
            if lease is None:
                return
            self._slice(lease)

    def _slice(self, lease: records.Lease) -> None:
        old = lease.member
        skill = self.skill[old.id] = self.skill[old.id] + float(self.rng.uniform(0, 3))
        count = int(self.rng.integers(12, 25))
        # Of 32 parallel environments several end in the same step.
        ends = np.sort(self.rng.integers(1, INTERVAL // NUM_ENVS + 1, count)) * NUM_ENVS
        ends[:3] = ends[0]
        ends.sort()
        episodes = tuple(
            task.Episode(
                int(old.agent_steps + end), float(self.rng.normal(skill)), int(end), place > 1
            )
            for place, end in enumerate(ends)
        )
        window = (*old.window, *(e.episode_return for e in episodes if e.counted))[-10:]
        done = old.agent_steps + INTERVAL == self.config.total_steps
        new = replace(
            old,
            version=old.version + 1,
            agent_steps=old.agent_steps + INTERVAL,
            window=window,
            counted_episodes=old.counted_episodes + sum(e.counted for e in episodes),
            checkpoint=f"{old.id}/{old.version + 1}-x",
            state="finished" if done else "active",
            score=records.mean(window),
        )
        report = records.Report(
            new.id,
            new.version,
            new.agent_steps,
            INTERVAL,
            float(self.rng.uniform(1, 2)),
            old.hyperparameters,
            episodes,
            {"loss/policy": float(self.rng.normal()), "gradient_norm": 0.5},
        )
        is_ready = decide.is_ready(self.config, new)
        lease = self.store.commit(lease, new, kind="slice", report=report, release=not is_ready)
        if is_ready:
            self._exploit(lease)

    def _exploit(self, lease: records.Lease) -> None:
        me = lease.member
        decision = decide.choose_donor(self.config, me, self.store.members())
        if decision.donor is None:
            kept = replace(me, last_ready_steps=me.agent_steps)
            event = records.Event(
                "no-exploit", me.id, me.version, me.agent_steps, decision.evidence
            )
            self.store.commit(lease, kept, events=[event], release=True)
            return
        donor = self.store.member(decision.donor)
        explored = decide.explore_from(self.config, me, donor.hyperparameters)
        self.skill[me.id] = self.skill[donor.id]
        child = replace(
            me,
            version=me.version + 1,
            hyperparameters=explored.hyperparameters,
            window=(),
            counted_episodes=0,
            last_ready_steps=me.agent_steps,
            parent=(donor.id, donor.version),
            checkpoint=f"{me.id}/{me.version + 1}-x",
        )
        details = {**decision.evidence, "donor": donor.id}
        events = [
            records.Event("exploit", me.id, child.version, me.agent_steps, details),
            records.Event("explore", me.id, child.version, me.agent_steps, explored.evidence),
        ]
        self.store.commit(lease, child, kind="exploit", events=events, release=True)

    def crash(self, number: int, error: str, state: str) -> None:
        """Crash one member until it is in the given state."""
        while self.store.member(number).state != state:
            held = []
            while (lease := self.store.claim("tester/boot/1/2")).member.id != number:
                held.append(lease)
            self.store.crash(lease, error)
            for other in held:
                self.store.release(other)
            self.train(1)  # another member, so the fault is this one's own
            self._ahead_s += 61.0  # it has rested

    def restore(self, versions_back: int = 2) -> int:
        """Restore the next member from an older version, and return its id."""
        lease = self.store.claim("tester/boot/1/2")
        assert lease is not None
        me = lease.member
        slices = [v for v in self.store.versions(me.id) if v.kind == "slice"]
        old = slices[-versions_back]
        back = replace(
            me,
            version=me.version + 1,
            agent_steps=old.agent_steps,
            hyperparameters=old.hyperparameters,
            window=(),
            counted_episodes=0,
            last_ready_steps=min(me.last_ready_steps, old.agent_steps),
            parent=(me.id, old.version),
            checkpoint=f"{me.id}/{me.version + 1}-x",
        )
        event = records.Event("restored", me.id, back.version, back.agent_steps, {"error": "bits"})
        self.store.commit(lease, back, kind="restore", events=[event], release=True)
        return me.id


def main() -> None:
    from experiments.projections import tensorboard

    run_dir, directory = Path(sys.argv[1]), Path(sys.argv[2])
    with store.Store.open(run_dir, durable=False) as opened:
        projector = tensorboard.Projector(opened, directory, lease_seconds=0.3)
        while True:
            projector.update()
            print("updated", flush=True)


if __name__ == "__main__":
    main()
