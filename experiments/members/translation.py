"""Train a Transformer to translate behind the engine's interface, `pbt.task.Task`.

The machine translation of the PBT paper (Jaderberg et al. 2017, section 4.2): one agent step is one
step of Adam, and members are compared by BLEU on validation sentences. The default corpus is
`envs.number_words`, which takes seconds. `paper` has the paper's settings for text of one's own.
"""

import dataclasses
import functools
import importlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents import transformer, translator
from envs import number_words, parallel_text, sentence_pairs
from experiments.analysis import tasks
from experiments.members import settings, tensors
from pbt import checkpoint, task

_LOG = logging.getLogger(__name__)

TASK = tasks.TRANSLATION
"""Task factory of runs whose members translate."""
FORMAT_VERSION = 1
"""Format of the files that `TranslationTask.save` writes."""
HYPERPARAMETERS = ("learning_rate", *transformer.DROPOUTS)
"""What may change at any update."""
BEAM = 4
"""Beam of reported scores: Vaswani et al. 2017, section 6.1."""
GENERATED_SENTENCES = 1_000
"""Sentences of a reported score where they are generated."""

_INITIAL_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class TranslationConfig:
    """A member's corpus, network and evaluation. A run stores it as its `task_config`.

    Raises:
        ValueError: A value is out of its range.
    """

    data: str | None = None
    """Directory of parallel text, see `envs.parallel_text`; None for `envs.number_words`."""
    languages: tuple[str, str] = ("en", "de")
    """Endings of the names of the text files, source first. Generated sentences ignore it."""
    cache: str | None = None
    """Directory for subwords; default: `.subwords` in the directory of the text."""
    subwords: int = parallel_text.SUBWORDS
    """Number of subwords of parallel text."""
    training_sentences: int = 20_000
    """Number of training sentences, where they are generated."""
    model: transformer.TransformerConfig = dataclasses.field(
        default_factory=transformer.TransformerConfig
    )
    """Sizes of the network."""
    label_smoothing: float = 0.1
    """Probability that the loss takes from the right token: Vaswani et al. 2017, section 5.4."""
    batch_tokens: int = 192
    """Most target tokens of a batch, padding included."""
    max_length: int = 256
    """Most tokens of a training sentence in either language. Longer pairs are left out."""
    extra_length: int = 10
    """Most tokens that a translation is longer than its source."""
    evaluation_interval_steps: int = 100
    """Steps of Adam between two evaluations."""
    evaluation_batches: int = 10
    """Scores of an evaluation, each of which is an episode."""
    evaluation_sentences: int = 16
    """Sentences of a score."""
    device: str = "cpu"
    """Torch device of the network."""

    def __post_init__(self) -> None:
        settings.check_whole(
            self,
            subwords=1,
            training_sentences=1,
            batch_tokens=1,
            max_length=1,
            extra_length=1,
            evaluation_interval_steps=1,
            evaluation_batches=1,
            evaluation_sentences=1,
        )
        if len(self.languages) != 2 or self.languages[0] == self.languages[1]:
            raise ValueError(f"languages {self.languages}: name two, such as ('en', 'de')")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing {self.label_smoothing} must be at least 0 and below 1"
            )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON mapping that `from_json` takes back."""
        return dataclasses.asdict(self) | {"languages": list(self.languages)}

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> "TranslationConfig":
        """Return the settings that `to_json` wrote."""
        parts = {
            "languages": tuple(config["languages"]),
            "model": transformer.TransformerConfig(**config["model"]),
        }
        return cls(**{**config, **parts})


def describe(config: TranslationConfig) -> str:
    """Return in words what is translated, for people."""
    if config.data is None:
        return "number phrases, English to German, generated"
    return f"{Path(config.data).name}, {config.languages[0]} to {config.languages[1]}"


def corpus(config: TranslationConfig) -> sentence_pairs.Corpus:
    """Return the sentences that a configuration names, kept for all tasks of this process.

    Raises:
        ValueError: There is no such corpus; see `envs.parallel_text`.
    """
    if config.data is None:
        return _generated(config.training_sentences)
    cache = config.cache or str(Path(config.data) / ".subwords")
    return _parallel(config.data, config.languages, cache, config.subwords)


@functools.lru_cache(maxsize=1)
def _generated(training_sentences: int) -> number_words.Corpus:
    return number_words.Corpus(training_sentences)


@functools.lru_cache(maxsize=1)
def _parallel(
    data: str, languages: tuple[str, str], cache: str, subwords: int
) -> parallel_text.Corpus:
    made = parallel_text.Corpus(Path(data), languages, Path(cache), subwords)
    if any(made.dropped.values()):
        _LOG.warning("%s: pairs left out, as one side is empty: %s", data, made.dropped)
    return made


def make_task(config: Mapping[str, Any], member: int, seed: int) -> "TranslationTask":
    """Build a member's learner. Runs store this factory's name, `TASK`.

    Args:
        config: `TranslationConfig` as JSON.
        member: The member's number.
        seed: Seed of initial weights, dropout, batches and validation sentences.
    """
    return TranslationTask(TranslationConfig.from_json(config), member, seed)


def _bleu() -> Any:
    """Return the metric of sacrebleu (Post 2018, https://arxiv.org/abs/1804.08771)."""
    try:
        metrics = importlib.import_module("sacrebleu.metrics")
    except ImportError as error:
        raise ValueError(
            "BLEU needs the extra: pip install -c constraints.txt -e '.[translation]'"
        ) from error
    return metrics.BLEU(force=True)  # without its advice on tokenised text


def _translator(config: TranslationConfig, vocabulary: int, seed: int) -> translator.Translator:
    return translator.Translator(
        vocabulary, config.model, config.label_smoothing, _INITIAL_RATE, seed, config.device
    )


def _read(
    directory: Path, sentences: sentence_pairs.Corpus
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the header and the tensors of a checkpoint.

    Raises:
        ValueError: It was trained with another vocabulary, or by other code.
        pbt.checkpoint.CheckpointError: It is damaged.
    """
    try:
        header = json.loads((directory / "translator.json").read_text())
        if not isinstance(header, dict):
            raise ValueError(f"translator.json is {header!r:.40}")
    except (OSError, ValueError, RecursionError) as error:
        raise checkpoint.CheckpointError(f"unreadable checkpoint {directory}: {error}") from error
    state = tensors.load_state(directory)
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {directory} has format {header.get('format_version')}, "
            f"this code reads {FORMAT_VERSION}"
        )
    if header.get("vocabulary") != sentences.fingerprint:
        raise ValueError(
            f"checkpoint {directory} was trained with another vocabulary: the training text, the "
            "languages or the number of subwords have changed since"
        )
    return header, state


class TranslationTask:
    """A Transformer that learns to translate. Implements `pbt.task.Task`.

    An agent step is one step of Adam on a batch. The hyperparameters are `HYPERPARAMETERS`, and
    each acts at the next update. Every `evaluation_interval_steps` steps of the weights the member
    translates validation sentences greedily, other ones each time, in batches whose BLEU are the
    episodes. They count if this member has trained the weights for the whole interval before.

    A checkpoint holds weights, Adam's statistics, all generators and the position in the training
    sentences. A donor's leaves this member's own generators and position alone.

    Args:
        config: Corpus, network and evaluation.
        member: The member's number.
        seed: Seed of initial weights, dropout, batches and validation sentences.

    Raises:
        ValueError: The corpus cannot be used, or has too few validation sentences.
    """

    def __init__(self, config: TranslationConfig, member: int, seed: int) -> None:
        self._config = config
        self._member = member
        self._corpus = corpus(config)
        self._bleu = _bleu()
        needed = config.evaluation_batches * config.evaluation_sentences
        available = self._corpus.size("validation")
        if available is not None and available < needed:
            raise ValueError(
                f"an evaluation takes {config.evaluation_batches} batches of "
                f"{config.evaluation_sentences} sentences, but there are {available} validation "
                "sentences: take fewer or smaller batches"
            )
        weights, order, drawn = np.random.SeedSequence(seed).generate_state(3)
        self._translator = _translator(config, self._corpus.vocabulary, int(weights))
        self._batches = sentence_pairs.Batches(
            self._corpus.training, config.batch_tokens, config.max_length, int(order)
        )
        if self._batches.dropped:
            _LOG.warning(
                "member %d: %d training pairs are left out, as they have more than %d tokens",
                member,
                self._batches.dropped,
                config.max_length,
            )
        self._rng = np.random.default_rng(int(drawn))  # of the validation sentences
        self._steps = 0  # of the weights
        self._own_steps = 0  # since a donor's weights were loaded

    def train(self, agent_steps: int, limit: int) -> Iterator[task.Progress]:
        """See `pbt.task.Task.train`.

        Args:
            agent_steps: Steps of Adam to take.
            limit: Steps that must not be exceeded. Exactly `agent_steps` are taken.

        Yields:
            One entry per step.

        Raises:
            pbt.task.Diverged: A loss or gradient is not finite.
        """
        for taken in range(1, min(agent_steps, limit) + 1):
            source, target = self._batches.take()
            try:
                metrics = self._translator.update(
                    torch.from_numpy(source), torch.from_numpy(target)
                )
            except FloatingPointError as error:
                raise task.Diverged(str(error)) from error
            self._steps += 1
            self._own_steps += 1
            episodes: tuple[task.Episode, ...] = ()
            if self._steps % self._config.evaluation_interval_steps == 0:
                scores, exact = self._evaluate()
                interval = self._config.evaluation_interval_steps
                counted = self._own_steps >= interval
                episodes = tuple(task.Episode(taken, bleu, interval, counted) for bleu in scores)
                metrics["exact_match"] = exact
            yield task.Progress(1, episodes, metrics)

    def _evaluate(self) -> tuple[list[float], float]:
        """Return the BLEU of each batch of fresh validation sentences, and the exact matches."""
        size = self._config.evaluation_sentences
        count = self._config.evaluation_batches * size
        sentences = self._corpus.draw("validation", count, self._rng)
        texts = _translate(self._translator, self._corpus, self._config, sentences, beam=1)
        references = [sentence.target for sentence in sentences]
        scores = [
            float(self._bleu.corpus_score(texts[i : i + size], [references[i : i + size]]).score)
            for i in range(0, count, size)
        ]
        exact = [text == reference for text, reference in zip(texts, references, strict=True)]
        return scores, float(np.mean(exact))

    def set_hyperparameters(self, values: Mapping[str, float]) -> None:
        """Apply hyperparameters from the next update on.

        Args:
            values: New values by name; the others stay.

        Raises:
            ValueError: This learner has no such hyperparameter, or a rate is not in [0, 1).
        """
        unknown = values.keys() - set(HYPERPARAMETERS)
        if unknown:
            raise ValueError(
                f"unknown hyperparameters {sorted(unknown)}: this learner has "
                f"{', '.join(HYPERPARAMETERS)}"
            )
        for name, value in values.items():
            if name == "learning_rate":
                self._translator.set_learning_rate(float(value))
            else:
                self._translator.network.set_dropout(name, float(value))

    def hyperparameters(self) -> Mapping[str, float]:
        """Return the values in force, read from the optimiser and the layers."""
        rates = {kind: self._translator.network.dropout_rate(kind) for kind in transformer.DROPOUTS}
        return {"learning_rate": self._translator.learning_rate(), **rates}

    def save(self, directory: Path) -> None:
        """Write `agent.safetensors` and `translator.json`.

        Raises:
            pbt.task.Diverged: A weight or statistic is not finite. Nothing was written.
        """
        header = {
            "format_version": FORMAT_VERSION,
            "member": self._member,
            "vocabulary": self._corpus.fingerprint,
            "steps": self._steps,
            "own_steps": self._own_steps,
            "position": [self._batches.seed, self._batches.epoch, self._batches.batch],
            "validation_generator": self._rng.bit_generator.state,
        }
        tensors.save_state(directory, self._translator.state_dict())
        (directory / "translator.json").write_text(json.dumps(header))

    def load(self, directory: Path) -> None:
        """See `pbt.task.Task.load`.

        Raises:
            ValueError: It is no checkpoint of this network and vocabulary.
            pbt.checkpoint.CheckpointError: It is damaged, or its weights are not finite.
        """
        header, state = _read(directory, self._corpus)
        is_own = header.get("member") == self._member
        rng = np.random.default_rng()
        try:
            steps, own_steps = int(header["steps"]), int(header["own_steps"])
            seed, epoch, batch = (int(number) for number in header["position"])
            rng.bit_generator.state = header["validation_generator"]
        except (KeyError, TypeError, ValueError) as error:
            raise checkpoint.CheckpointError(
                f"unreadable checkpoint {directory}: {error!r}"
            ) from error
        own = self._translator.generator.get_state()
        # A generator on another device has a state of another shape.
        if not is_own or state["generator"].shape != own.shape:
            state["generator"] = own
        self._translator.load_state_dict(state)
        self._steps = steps
        self._own_steps = own_steps if is_own else 0
        if is_own:
            self._rng = rng
            self._batches.seed, self._batches.epoch, self._batches.batch = seed, epoch, batch

    def close(self) -> None:
        """Do nothing, since the memory is freed with the task."""


def _translate(
    model: translator.Translator,
    sentences_of: sentence_pairs.Corpus,
    config: TranslationConfig,
    sentences: Sequence[sentence_pairs.Sentence],
    beam: int,
) -> list[str]:
    """Return the text of the translation of each sentence."""
    sources = [sentences_of.encode(sentence.source) for sentence in sentences]
    translations = model.translate(sources, config.extra_length, beam)
    return [sentences_of.decode(translation) for translation in translations]


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a checkpoint translates sentences of a split."""

    split: sentence_pairs.Split
    """Where the sentences are from."""
    beam: int
    """Beam size; 1 is greedy."""
    bleu: float
    """BLEU of all sentences together, 0 to 100."""
    exact_match: float
    """Share of the sentences that equal their reference, 0 to 1."""
    sentences: int
    """Number of sentences."""
    signature: str
    """sacrebleu's description of how BLEU was computed."""
    exact: tuple[bool, ...]
    """Whether each sentence equals its reference."""
    statistics: tuple[tuple[int, ...], ...]
    """What `bleu_of` takes, of each sentence: length of translation and reference, then numbers of
    right n-grams and of all n-grams, for n from 1 to 4."""


def bleu_of(statistics: Sequence[Sequence[int]]) -> float:
    """Return the BLEU of sentences together, such as of those that a bootstrap has drawn.

    Args:
        statistics: Rows of `Score.statistics`.
    """
    total = [int(column) for column in np.sum(statistics, axis=0)]
    metric = _bleu()
    result = metric.compute_bleu(
        total[2:6], total[6:10], total[0], total[1], metric.smooth_method, metric.smooth_value
    )
    return float(result.score)


def compare(
    texts: Sequence[str], references: Sequence[str], split: sentence_pairs.Split, beam: int
) -> Score:
    """Return the score of translations.

    Args:
        texts: Translations.
        references: The text that each of them should be.
        split: Where the sentences are from.
        beam: Beam size that they were found with.
    """
    metric = _bleu()
    statistics = []
    for text, reference in zip(texts, references, strict=True):
        counts = metric.corpus_score([text], [[reference]])
        statistics.append((counts.sys_len, counts.ref_len, *counts.counts, *counts.totals))
    exact = tuple(text == reference for text, reference in zip(texts, references, strict=True))
    return Score(
        split,
        beam,
        bleu=float(metric.corpus_score(texts, [references]).score),
        exact_match=float(np.mean(exact)),
        sentences=len(exact),
        signature=str(metric.get_signature()),
        exact=exact,
        statistics=tuple(statistics),
    )


def score(
    directory: Path,
    config: TranslationConfig,
    split: sentence_pairs.Split,
    seed: int,
    beam: int = BEAM,
    sentences: int | None = None,
) -> Score:
    """Translate sentences of a split with a checkpoint, and compare them with their references.

    Args:
        directory: A checkpoint that `TranslationTask.save` wrote.
        config: The configuration that it was trained with. The device may be another one.
        split: "validation" or "test".
        seed: Seed of the sentences, where not all of a split are taken.
        beam: Beam size; 1 is greedy.
        sentences: Number of sentences; default: all of a text, and `GENERATED_SENTENCES` where they
            are generated.

    Raises:
        ValueError: The checkpoint does not fit the configuration, or the split or the number of
            sentences cannot be.
        pbt.checkpoint.CheckpointError: The checkpoint is damaged.
    """
    sentence_pairs.check_split(split)
    if sentences is not None and sentences < 1:
        raise ValueError(f"sentences {sentences} must be at least 1")
    sentences_of = corpus(config)
    _, state = _read(directory, sentences_of)
    model = _translator(config, sentences_of.vocabulary, seed=0)
    model.load_state_dict(state | {"generator": model.generator.get_state()})
    if sentences is None and sentences_of.size(split) is not None:
        chosen = sentences_of.all(split)
    else:
        count = GENERATED_SENTENCES if sentences is None else sentences
        chosen = sentences_of.draw(split, count, np.random.default_rng(seed))
    texts = _translate(model, sentences_of, config, chosen, beam)
    return compare(texts, [sentence.target for sentence in chosen], split, beam)
