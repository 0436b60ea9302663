"""Score a member of a run by fresh episodes, sentences or images.

    python -m experiments.evaluate RUN_DIR
    python -m experiments.evaluate RUN_DIR --save             # for reports and comparisons
    python -m experiments.evaluate RUN_DIR --goals            # are a FeUdal Network's goals used?
    python -m experiments.evaluate RUN_DIR --member 3 --episodes 100 --video pong.mp4

A run reports this score. At the end of a run, the few members with the highest training scores play
fresh episodes, and the winner is its best member. Before that, it is the member with the highest
training score. Actions are sampled from the policy, as in training. Translators translate test
sentences with beam search, and GANs make fresh images.
"""

import dataclasses
from pathlib import Path

import tyro

from experiments import cli
from experiments.analysis import scores, tasks, units
from experiments.members import episodes, evaluation, goal_use, trust, video
from pbt import checkpoint, store
from pbt.records import Member


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Score a member of a run by fresh episodes, sentences or images."""

    run_dir: tyro.conf.Positional[Path]
    """Directory of the run, e.g. results/runs/atari-Pong."""
    member: str = "best"
    """A member's number, or "best"."""
    episodes: int = 30
    """Number of fresh episodes, rounded up to equally many in every parallel environment; or of a
    GAN's splits of images. Translators translate all test sentences."""
    seed: int = 0
    """Seed of environments and actions, or of sentences and images."""
    deterministic: bool = False
    """Take the policy's most likely action at each step. By default actions are sampled, as in
    training and in all scores of the suite."""
    video: Path | None = None
    """Also play one more episode and write it to this file (.mp4; needs the extra "video")."""
    save: bool = False
    """Write the score into RUN_DIR/report, where reports and comparisons find it. A saved score is
    never replaced."""
    goals: bool = False
    """Also play with permuted, constant and zeroed goals, to see whether the Worker of a FeUdal
    Network uses those of its Manager."""
    trust: bool = False
    """Play an environment of other code than the suite's and Gymnasium's: that code is executed."""

    def check(self) -> None:
        """Refuse arguments that make no sense.

        Raises:
            ValueError: One line with the value given and the values allowed.
        """
        if self.episodes < 1:
            raise ValueError(f"--episodes {self.episodes}: use 1 or more")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: use 0 or more")
        if self.deterministic and self.goals:
            raise ValueError(
                "--deterministic --goals: goals are compared by samples, leave one out"
            )


@cli.quiet
def main() -> None:
    """Parse the command line, play the episodes and print their score."""
    try:
        arguments = cli.read(Arguments, __doc__)
        arguments.check()
        with store.Store.open(arguments.run_dir) as run_store:
            words = units.of(run_store.config)
            is_agent = tasks.trained(run_store.config) not in (tasks.TRANSLATION, tasks.GAN)
            if arguments.video is not None:
                if not is_agent:
                    raise ValueError(
                        f"--video {arguments.video}: a {words.learner} plays no episodes to "
                        "record; leave it out"
                    )
                video.check(arguments.video)
            if arguments.deterministic and not is_agent:
                raise ValueError(f"--deterministic: a {words.learner} takes no actions")
            if is_agent and not arguments.trust:
                trust.check(run_store, episodes.learner_config(run_store).env_id)
            member = _find(run_store, arguments.member)
            written = scores.evaluation_path(arguments.run_dir, member)
            if arguments.save and written.exists():
                raise ValueError(
                    f"--save: {written} exists, and a saved score is never replaced; leave --save "
                    "out to print another one"
                )
            use = None
            if arguments.goals:
                use = goal_use.measure(
                    run_store, arguments.run_dir, member, arguments.episodes, arguments.seed
                )
            if arguments.video is not None:
                agent, played = episodes.load_agent(
                    run_store, arguments.run_dir, member, arguments.seed
                )
                agent.deterministic = arguments.deterministic
                score = video.record(agent, played, arguments.video, arguments.seed)
                print(f"{arguments.video}: one episode, return {score:g}")
            found = evaluation.evaluate(
                run_store,
                arguments.run_dir,
                member,
                arguments.episodes,
                arguments.seed,
                deterministic=arguments.deterministic,
            )
            if arguments.save:
                scores.write_evaluation(arguments.run_dir, member, found.to_json())
    except (ValueError, store.StoreError, checkpoint.CheckpointError, OSError) as error:
        cli.fail(error)
    print(found.text())
    if use is not None:
        print(use.text())


def _find(run_store: store.Store, name: str) -> Member:
    if name == "best":
        return evaluation.best_member(run_store)
    population = run_store.config.population
    if not name.isdecimal() or int(name) >= population:
        raise ValueError(f'--member {name}: use "best", or a number from 0 to {population - 1}')
    return run_store.member(int(name))


if __name__ == "__main__":
    main()
