"""The words for what a run's members do: their steps, the samples of their score, and the score."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.analysis import tasks
from pbt import run


@dataclass(frozen=True)
class Units:
    """Words for the steps and scores of one kind of learner, in the singular."""

    learner: str
    """A member without its hyperparameters."""
    step: str
    """A step of training, which budgets and intervals count."""
    sample: str
    """What has a score of its own. A training score is the mean of the last few."""
    score: str
    """The score, as the label of an axis."""
    samples: str = ""
    """Plural of `sample`, if it is not made by adding an s."""

    @property
    def steps(self) -> str:
        """The plural of `step`."""
        return f"{self.step}s"

    @property
    def many(self) -> str:
        """The plural of `sample`."""
        return self.samples or f"{self.sample}s"


AGENTS = Units("agent", "agent step", "episode", "episode return")
"""Agents in environments."""
OTHERS = Units("learner", "step", "evaluation", "score")
"""Learners of which the suite knows nothing."""
TRANSLATORS = Units(
    "translator", "Adam step", "batch of sentences", "BLEU", samples="batches of sentences"
)
"""Transformers that translate."""
GANS = Units("GAN", "update", "split of images", "Inception score", samples="splits of images")
"""GANs. An update is several steps of Adam."""
MIXED = Units("learner", "step", "sample", "score")
"""Learners of several kinds."""
WITHOUT_EPISODES = (TRANSLATORS, GANS)
"""Learners whose scores are no returns of episodes."""
KNOWN = {tasks.LEARNER: AGENTS, tasks.TRANSLATION: TRANSLATORS, tasks.GAN: GANS}


NAME = "units"
"""Key of a `task_config` under which a learner of somebody else says what its words are."""


def of(config: run.RunConfig) -> Units:
    """Return the words for the learners of a run. Learners with an environment are agents.

    Learners of which the suite knows nothing may name their own: `{"units": {"score": "accuracy",
    "step": "epoch"}}` in their `task_config`.
    """
    if isinstance(config.task_config.get("env_id"), str):
        return AGENTS
    return KNOWN.get(tasks.trained(config)) or _named(config.task_config.get(NAME))


def has_own_names(words: Units) -> bool:
    """Return whether these are the words of a learner of which the suite knows nothing else."""
    return words not in (OTHERS, MIXED, *KNOWN.values())


def heading(words: Units) -> str:
    """Return the name of the training score in the narrow columns of the live table."""
    return words.score if has_own_names(words) else "score"


def training_score(words: Units) -> str:
    """Return the name of the training score on pages."""
    return words.score if has_own_names(words) else "training score"


def of_last(count: int, words: Units) -> str:
    """Say over how many of the last samples a training score is the mean."""
    if count == 1:
        return f"of the last counted {words.sample}"
    return f"mean of the last {count} counted {words.many}"


def _named(given: Any) -> Units:
    names = given if isinstance(given, Mapping) else {}
    known = ("learner", "step", "sample", "score")
    return replace(
        OTHERS,
        **{
            name: word
            for name, word in names.items()
            if name in known and isinstance(word, str) and word.strip()
        },
    )
