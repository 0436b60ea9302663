"""Parallel text from a directory, in subwords that both languages share.

A corpus is two text files for each split, UTF-8, with one sentence per line. For English to German
they are `train.en`, `train.de`, `valid.en`, `valid.de`, `test.en` and `test.de`. Line i of the one
translates line i of the other. A pair with an empty side is left out and counted.

The PBT paper (Jaderberg et al. 2017, section 4.2) learns from WMT'14 English to German, tunes on
newstest2012 and tests on newstest2014. For that, make `train.*` of Europarl v7, Common Crawl and
News Commentary, `valid.*` of newstest2012 and `test.*` of newstest2014, as plain text without tags.

Subwords are merged pairs of bytes (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909) of the
training text of both languages, so any text can be written with them. They and the training text in
ids are kept in a cache, which may take minutes to fill and then serves all processes:

    CACHE/<digest>/subwords.json      the subwords, in the format of the `tokenizers` library
    CACHE/<digest>/corpus.json        numbers of pairs, kept and dropped
    CACHE/<digest>/<side>-<part>.npy  training text: ids of all sentences, and where each ends

The digest is that of the training files and of the settings. A changed corpus gets another one.
"""

import fcntl
import hashlib
import importlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs import sentence_pairs

SUBWORDS = 32_768
"""Subwords of Tensor2Tensor's English-German problem, 2^15."""
FORMAT_VERSION = 1
"""Format of the cache."""

_NAMES: dict[sentence_pairs.Split, str] = {"train": "train", "validation": "valid", "test": "test"}
_BYTES = 256  # tokens from which all others are merged
_LINES_AT_ONCE = 10_000
_NO_PAIR = "{} and {} have no line with text on both sides"


def _import_tokenizers() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ValueError(
            "text from a directory needs the extra: "
            "pip install -c constraints.txt -e '.[translation]'"
        ) from error


def paths(
    directory: Path, split: sentence_pairs.Split, languages: tuple[str, str]
) -> tuple[Path, Path]:
    """Return the source and the target file of a split.

    Raises:
        ValueError: One of them does not exist, or is empty.
    """
    sentence_pairs.check_split(split)
    source, target = (directory / f"{_NAMES[split]}.{language}" for language in languages)
    for path in (source, target):
        if not path.is_file():
            needed = ", ".join(f"{name}.{end}" for name in _NAMES.values() for end in languages)
            raise ValueError(f"no file {path}: a corpus has the files {needed}")
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty: it needs one sentence per line")
    return source, target


def _text(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8; convert the "
            "file, for example with iconv"
        ) from error


def _pairs(
    directory: Path, split: sentence_pairs.Split, languages: tuple[str, str]
) -> Iterator[sentence_pairs.Sentence]:
    """Yield the pairs of a split, those with empty sides included; see `read`."""
    source, target = paths(directory, split, languages)
    # In binary mode, since other characters than newlines would break lines in text mode.
    with source.open("rb") as sources, target.open("rb") as targets:
        for number, line in enumerate(sources, 1):
            translation = targets.readline()
            if not translation:
                break
            yield sentence_pairs.Sentence(
                _text(source, number, line), _text(target, number, translation)
            )
        else:
            if not targets.readline():
                return
    counts = [sum(1 for _ in path.open("rb")) for path in (source, target)]
    raise ValueError(
        f"{source} has {counts[0]} lines, but {target} has {counts[1]}: line i of the one must "
        "translate line i of the other"
    )


def read(
    directory: Path, split: sentence_pairs.Split, languages: tuple[str, str]
) -> tuple[list[sentence_pairs.Sentence], int]:
    """Read a split of a corpus into memory.

    Args:
        directory: The directory of the corpus.
        split: The split.
        languages: Endings of the file names, source first, such as ("en", "de").

    Returns:
        Pairs of which neither side is empty, and the number of the others.

    Raises:
        ValueError: A file is missing or empty or is not UTF-8, the numbers of lines differ, or no
            pair is left.
    """
    pairs = list(_pairs(directory, split, languages))
    kept = [pair for pair in pairs if all(pair)]
    if not kept:
        source, target = paths(directory, split, languages)
        raise ValueError(_NO_PAIR.format(source, target))
    return kept, len(pairs) - len(kept)


class Corpus:
    """Text from a directory. Implements `envs.sentence_pairs.Corpus`.

    Args:
        directory: The directory with the text files.
        languages: Endings of the file names, source first.
        cache: Directory for the subwords, which is made if it does not exist.
        subwords: Number of subwords, single bytes included. A small corpus yields fewer.

    Raises:
        ValueError: The files are no corpus, the cache is damaged, or `tokenizers` is missing.
    """

    def __init__(
        self,
        directory: Path,
        languages: tuple[str, str],
        cache: Path,
        subwords: int = SUBWORDS,
    ) -> None:
        if subwords < _BYTES:
            raise ValueError(f"subwords {subwords}: there are {_BYTES} bytes to begin with")
        if not directory.is_dir():
            raise ValueError(
                f"no directory {directory}: name the one that has train.{languages[0]}, "
                f"train.{languages[1]} and so on"
            )
        tokenizers = _import_tokenizers()
        for split in _NAMES:
            paths(directory, split, languages)
        read_splits = {s: read(directory, s, languages) for s in ("validation", "test")}
        self._sentences = {split: sentences for split, (sentences, _) in read_splits.items()}
        folder = _prepared(directory, languages, cache, subwords)
        try:
            text = (folder / "subwords.json").read_text(encoding="utf-8")
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
            dropped = json.loads((folder / "corpus.json").read_text())["dropped"]
            self.training = sentence_pairs.Pairs(_load(folder, "source"), _load(folder, "target"))
        except Exception as error:  # `tokenizers` raises plain ones
            raise ValueError(f"the cache {folder} is damaged ({error}): delete it") from error
        self.dropped = {"train": dropped} | {s: count for s, (_, count) in read_splits.items()}
        """Number of pairs with an empty side, by split."""
        self.vocabulary: int = sentence_pairs.SPECIAL + self._tokenizer.get_vocab_size()
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def size(self, split: sentence_pairs.Split) -> int | None:
        """Return the number of sentences of a split."""
        sentence_pairs.check_split(split)
        if split == "train":
            return len(self.training.source.ends)
        return len(self._sentences[split])

    def draw(
        self, split: sentence_pairs.Split, count: int, rng: np.random.Generator
    ) -> list[sentence_pairs.Sentence]:
        """Return `count` different sentences of a split, or all if there are fewer."""
        size = self.size(split)
        assert size is not None
        chosen = rng.choice(size, min(count, size), replace=False)
        return [self._sentence(split, int(index)) for index in chosen]

    def all(self, split: sentence_pairs.Split) -> list[sentence_pairs.Sentence]:
        """Return all sentences of a split, in their order."""
        size = self.size(split)
        assert size is not None
        return [self._sentence(split, index) for index in range(size)]

    def _sentence(self, split: sentence_pairs.Split, index: int) -> sentence_pairs.Sentence:
        if split != "train":
            return self._sentences[split][index]
        source, target = (side.sentence(index)[:-1].tolist() for side in self.training)
        return sentence_pairs.Sentence(self.decode(source), self.decode(target))

    def encode(self, source: str) -> list[int]:
        """Return the subwords of a sentence, `END` included."""
        return _ids(self._tokenizer.encode(source))

    def decode(self, target: Sequence[int]) -> str:
        """Return the text of subwords. Bytes that are no UTF-8 become replacement characters."""
        shifted = [index - sentence_pairs.SPECIAL for index in target]
        return str(self._tokenizer.decode(shifted)).strip()


def _ids(encoding: Any) -> list[int]:
    """Return the ids of an encoding, behind those that every vocabulary has."""
    # The library never sees special tokens, so no text can spell one.
    return [*(index + sentence_pairs.SPECIAL for index in encoding.ids), sentence_pairs.END]


def _load(folder: Path, side: str) -> sentence_pairs.Tokens:
    """Return one side of the training text, whose ids stay on disk until they are used."""
    ids = np.load(folder / f"{side}-ids.npy", mmap_mode="r", allow_pickle=False)
    ends = np.load(folder / f"{side}-ends.npy", allow_pickle=False)
    return sentence_pairs.Tokens(ids, ends)


def _prepared(directory: Path, languages: tuple[str, str], cache: Path, subwords: int) -> Path:
    """Return the folder of the cache for these files. The first process to ask fills it."""
    settings = [FORMAT_VERSION, subwords, *languages]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for path in paths(directory, "train", languages):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    folder = cache / digest.hexdigest()[:16]
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released with the file
        if not folder.is_dir():
            partial = cache / f".{folder.name}.{os.getpid()}.tmp"
            partial.mkdir()
            try:
                _fill(partial, directory, languages, subwords)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def _fill(folder: Path, directory: Path, languages: tuple[str, str], subwords: int) -> None:
    """Find the subwords of the training text, and write them and the text in ids."""
    tokenizers = _import_tokenizers()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=subwords, initial_alphabet=sorted(byte_level.alphabet()), show_progress=False
    )
    pairs = _pairs(directory, "train", languages)
    texts = (text for pair in pairs if all(pair) for text in pair)
    tokenizer.train_from_iterator(texts, trainer)

    parts: dict[str, list[sentence_pairs.Tokens]] = {"source": [], "target": []}
    kept, dropped = 0, 0
    pairs = _pairs(directory, "train", languages)
    while some := list(itertools.islice(pairs, _LINES_AT_ONCE)):
        full = [pair for pair in some if all(pair)]
        kept, dropped = kept + len(full), dropped + len(some) - len(full)
        for side, part in parts.items():
            encodings = tokenizer.encode_batch([getattr(pair, side) for pair in full])
            part.append(sentence_pairs.Tokens.of([_ids(encoding) for encoding in encodings]))
    if not kept:
        source, target = paths(directory, "train", languages)
        raise ValueError(_NO_PAIR.format(source, target))
    for side, part in parts.items():
        lengths = np.concatenate([tokens.lengths() for tokens in part])
        np.save(folder / f"{side}-ids.npy", np.concatenate([tokens.ids for tokens in part]))
        np.save(folder / f"{side}-ends.npy", np.cumsum(lengths))
    (folder / "subwords.json").write_text(tokenizer.to_str(), encoding="utf-8")
    counts = {"format_version": FORMAT_VERSION, "kept": kept, "dropped": dropped}
    (folder / "corpus.json").write_text(json.dumps(counts))
