"""Sentence pairs as token ids, and batches of them by length, for learners that translate.

Each sentence ends with `END`. Batches are padded with `PAD` at the right. A decoder starts with
`BEGIN`, which is in no sentence.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

PAD, BEGIN, END = 0, 1, 2
"""Ids that mean the same in every vocabulary."""
SPECIAL = 3
"""Number of these ids."""

Split = Literal["train", "validation", "test"]
"""Train to learn from, validation to compare members by, test to report."""

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Padded source ids [B, S] and target ids [B, T]."""


class Sentence(NamedTuple):
    """A sentence and its translation, as text."""

    source: str
    """The sentence to translate."""
    target: str
    """Its translation, with which BLEU compares."""


class Corpus(Protocol):
    """Sentences to learn from and to be scored on, with the vocabulary of both languages."""

    vocabulary: int
    """Number of token ids, those of `SPECIAL` included."""
    fingerprint: str
    """Digest of the vocabulary. Weights mean something only with the vocabulary they had."""
    training: "Pairs"
    """The training sentences, which are the same for every member."""

    def size(self, split: Split) -> int | None:
        """Return the number of sentences of a split, or None if they are generated."""

    def draw(self, split: Split, count: int, rng: np.random.Generator) -> list[Sentence]:
        """Return `count` different sentences of a split, as far as there are so many.

        Args:
            split: The split to draw from.
            count: Number of sentences.
            rng: Generator of the draws.
        """

    def all(self, split: Split) -> list[Sentence]:
        """Return all sentences of a split that has a size, in their order."""

    def encode(self, source: str) -> list[int]:
        """Return the token ids of a sentence to translate, `END` included."""

    def decode(self, target: Sequence[int]) -> str:
        """Return the text of a translation. Its ids include none of `SPECIAL`."""


def check_split(split: str) -> None:
    """Refuse a split that does not exist.

    Raises:
        ValueError: It does not.
    """
    if split not in get_args(Split):
        raise ValueError(f"split {split!r}: choose from {', '.join(get_args(Split))}")


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
    """Sentences of one language, one after another."""

    ids: NDArray[np.integer[Any]]
    """Token ids of all sentences, [tokens]."""
    ends: NDArray[np.int64]
    """Index in `ids` behind the last token of each sentence, [sentences]."""

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> "Tokens":
        """Put sentences one after another."""
        ends = np.cumsum([len(sentence) for sentence in sentences], dtype=np.int64)
        return cls(np.array([i for sentence in sentences for i in sentence], dtype=np.int32), ends)

    def lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of each sentence, `END` included, [sentences]."""
        return np.diff(self.ends, prepend=0)

    def sentence(self, index: int) -> NDArray[np.integer[Any]]:
        """Return the ids of one sentence, [tokens]."""
        return self.ids[self.ends[index - 1] if index else 0 : self.ends[index]]


class Pairs(NamedTuple):
    """Sentences of two languages. Sentence i of the one translates sentence i of the other."""

    source: Tokens
    """The sentences to translate."""
    target: Tokens
    """Their translations."""


def pad(sentences: Sequence[Sequence[int] | NDArray[np.integer[Any]]]) -> NDArray[np.int64]:
    """Return sentences as rows, [sentences, longest], padded with `PAD` at the right."""
    rows = np.full((len(sentences), max(map(len, sentences))), PAD, dtype=np.int64)
    for row, sentence in zip(rows, sentences, strict=True):
        row[: len(sentence)] = sentence
    return rows


class Batches:
    """Batches of sentences of similar length, epoch after epoch in another random order.

    A batch has as many sentences as fit into `batch_tokens` target tokens, padding included, and at
    least one. The order of an epoch is a function of `seed` and the epoch's number. So seed, epoch
    and batch are the whole state, and may be set at any time.

    Args:
        pairs: The sentences.
        batch_tokens: Most target tokens of a batch, padding included.
        max_length: Most tokens of a sentence, in either language. Longer pairs are left out.
        seed: Seed of the order.

    Raises:
        ValueError: No pair is short enough.
    """

    def __init__(self, pairs: Pairs, batch_tokens: int, max_length: int, seed: int) -> None:
        self._pairs = pairs
        self._batch_tokens = batch_tokens
        source, target = pairs.source.lengths(), pairs.target.lengths()
        self._kept = np.flatnonzero((source <= max_length) & (target <= max_length))
        if not self._kept.size:
            raise ValueError(
                f"none of the {len(source)} training pairs has at most {max_length} tokens in both "
                "languages: raise max_length"
            )
        self._source_length, self._target_length = source[self._kept], target[self._kept]
        self.seed = seed
        """Seed of the order."""
        self.epoch = 0
        """Number of passes over the sentences before this one."""
        self.batch = 0
        """Number of batches of this pass that have been taken."""
        self._laid_out: tuple[int, int] | None = None  # seed and epoch of what follows
        self._order = np.zeros(0, dtype=np.int64)
        self._bounds = np.zeros((0, 2), dtype=np.int64)

    @property
    def dropped(self) -> int:
        """Number of pairs that are left out as too long."""
        return len(self._pairs.source.ends) - len(self._kept)

    def take(self) -> Batch:
        """Return the next batch."""
        self._lay_out()
        if self.batch >= len(self._bounds):
            self.epoch, self.batch = self.epoch + 1, 0
            self._lay_out()
        begin, end = self._bounds[self.batch]
        self.batch += 1
        which = self._kept[self._order[begin:end]]
        return (
            pad([self._pairs.source.sentence(index) for index in which]),
            pad([self._pairs.target.sentence(index) for index in which]),
        )

    def _lay_out(self) -> None:
        """Sort the sentences by length, ties at random, and cut them into batches."""
        if self._laid_out == (self.seed, self.epoch):
            return
        rng = np.random.default_rng((self.seed, self.epoch))
        ties = rng.random(len(self._kept))
        self._order = np.lexsort((ties, self._source_length, self._target_length))
        lengths = self._target_length[self._order]
        bounds, begin = [], 0
        while begin < len(lengths):
            # The last sentence is the longest, so with its length there are fewer.
            most = max(1, self._batch_tokens // int(lengths[begin]))
            longest = int(lengths[min(begin + most, len(lengths)) - 1])
            end = min(begin + max(1, self._batch_tokens // longest), len(lengths))
            bounds.append((begin, end))
            begin = end
        self._bounds = rng.permutation(np.array(bounds))
        self._laid_out = (self.seed, self.epoch)
