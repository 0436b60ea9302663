"""Parallel text from real files, with all that can be wrong with them."""

import concurrent.futures
import json
import os

import numpy as np
import pytest

from envs import parallel_text, sentence_pairs

LANGUAGES = ("en", "de")
TEXTS = {
    "train": [
        ("The house is new.", "Das Haus ist neu."),
        ("I see two old houses.", "Ich sehe zwei alte Häuser."),
        ("She has bought a book.", "Sie hat ein Buch gekauft."),
        ("Two books are new.", "Zwei Bücher sind neu."),
        ("<s> is a tag, </s> and <pad> as well", "<s> ist ein Zeichen, </s> und <pad> auch"),
    ],
    "valid": [("An old book.", "Ein altes Buch."), ("A house.", "Ein Haus.")],
    "test": [("Two houses.", "Zwei Häuser."), ("She sees a book.", "Sie sieht ein Buch.")],
}


def write(directory, texts=TEXTS, languages=LANGUAGES):
    directory.mkdir(exist_ok=True)
    for name, pairs in texts.items():
        for side, language in enumerate(languages):
            lines = "".join(f"{pair[side]}\n" for pair in pairs)
            (directory / f"{name}.{language}").write_bytes(lines.encode())
    return directory


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "data")


def corpus(data, subwords=300, cache="cache"):
    return parallel_text.Corpus(data, LANGUAGES, data.parent / cache, subwords)


def test_texts_are_read_and_come_back_from_subwords(data):
    made = corpus(data)
    assert (made.size("train"), made.size("validation"), made.size("test")) == (5, 2, 2)
    assert made.all("validation") == TEXTS["valid"]
    assert made.all("test") == TEXTS["test"]
    assert made.all("train") == TEXTS["train"]  # through ids and back, tags included
    assert made.vocabulary == 300 + sentence_pairs.SPECIAL
    for text in ("Straße, naïve 漢字", "</s>", "a\u2028b", "two  spaces"):
        ids = made.encode(text)
        assert ids[-1] == sentence_pairs.END
        assert min(ids[:-1]) >= sentence_pairs.SPECIAL
        assert max(ids) < made.vocabulary
        assert made.decode(ids[:-1]) == text
    source, target = made.training
    for i, (english, german) in enumerate(TEXTS["train"]):
        assert source.sentence(i).tolist() == made.encode(english)
        assert target.sentence(i).tolist() == made.encode(german)


def test_frequent_words_are_fewer_tokens_than_bytes(data):
    assert len(corpus(data, 300).encode("new house")) < len("new house") / 2
    assert len(corpus(data, 256).encode("new house")) > len("new house")


def test_draws_are_different_sentences_by_the_generator(data):
    made = corpus(data)
    drawn = made.draw("train", 4, np.random.default_rng(0))
    assert len(set(drawn)) == 4
    assert set(drawn) < set(TEXTS["train"])
    assert made.draw("train", 4, np.random.default_rng(0)) == drawn
    assert made.draw("test", 99, np.random.default_rng(1)) != []
    assert len(made.draw("test", 99, np.random.default_rng(1))) == 2


def test_pairs_with_an_empty_side_are_dropped_and_counted(data):
    holes = [("", "leer"), ("empty", "  \t"), ("", "")]
    texts = {name: [holes[0], *pairs, *holes[1:]] for name, pairs in TEXTS.items()}
    write(data, texts)
    made = corpus(data)
    assert made.dropped == {"train": 3, "validation": 3, "test": 3}
    assert made.all("train") == TEXTS["train"]
    assert made.all("test") == TEXTS["test"]


def test_only_newlines_break_lines(data):
    (data / "valid.en").write_bytes("\ufeffone\u2028two\r\nthree\x85four\n".encode())
    (data / "valid.de").write_bytes(b"eins\r\nzwei")  # no newline at the end
    assert corpus(data).all("validation") == [("one\u2028two", "eins"), ("three\x85four", "zwei")]


def test_other_languages_have_other_files(tmp_path):
    data = write(tmp_path / "data", languages=("french", "latin"))
    made = parallel_text.Corpus(data, ("latin", "french"), tmp_path / "cache", 300)
    assert made.all("test")[0] == ("Zwei Häuser.", "Two houses.")


def one_line(error):
    return "\n" not in str(error.value)


def test_files_that_are_no_corpus_are_refused_in_one_line(data):
    with pytest.raises(ValueError, match=f"no directory {data}x") as error:
        corpus(data.with_name("datax"))
    assert one_line(error)
    for name in ("train.de", "valid.en", "test.de"):
        path = data / name
        content = path.read_bytes()
        path.unlink()
        wanted = f"no file {path}: a corpus has the files train.en, train.de, valid.en, valid.de,"
        with pytest.raises(ValueError, match=wanted) as error:
            corpus(data)
        assert one_line(error)
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=f"{path} is empty: it needs one sentence per line"):
            corpus(data)
        path.write_bytes(content.replace(b"\n", b"\n\n", 1))
        with pytest.raises(ValueError, match=r" has \d lines, but .* has \d: line i") as error:
            corpus(data)
        assert one_line(error)
        assert str(path) in str(error.value)
        path.write_bytes(content + b"caf\xe9\n")
        other = path.with_suffix({".de": ".en", ".en": ".de"}[path.suffix])
        as_before = other.read_bytes()
        other.write_bytes(as_before + b"coffee\n")
        number = content.count(b"\n") + 1
        wanted = f"{path}, line {number}: byte 0xe9 is not UTF-8; convert"
        with pytest.raises(ValueError, match=wanted) as error:
            corpus(data)
        assert one_line(error)
        path.write_bytes(b" \n \n")
        other.write_bytes(b"a\nb\n")
        with pytest.raises(ValueError, match="no line with text on both sides") as error:
            corpus(data)
        assert one_line(error)
        path.write_bytes(content)
        other.write_bytes(as_before)
    with pytest.raises(ValueError, match="subwords 100: there are 256 bytes to begin with"):
        corpus(data, 100)
    assert corpus(data).size("train") == 5


def test_utf_16_is_refused(data):
    for language in LANGUAGES:
        path = data / f"test.{language}"
        path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(ValueError, match=r"test.en, line 1: byte 0xff is not UTF-8"):
        corpus(data)


def stamps(cache):
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def test_the_cache_is_filled_once_and_a_changed_text_is_noticed(data):
    cache = data.parent / "cache"
    first = corpus(data)
    assert sorted(path.name for path in next(cache.glob("[!.]*")).iterdir()) == [
        "corpus.json",
        "source-ends.npy",
        "source-ids.npy",
        "subwords.json",
        "target-ends.npy",
        "target-ids.npy",
    ]
    before = stamps(cache)
    assert corpus(data).fingerprint == first.fingerprint
    assert stamps(cache) == before
    write(data, TEXTS | {"test": TEXTS["valid"]})  # what is not trained on changes no subword
    assert corpus(data).fingerprint == first.fingerprint
    assert stamps(cache) == before
    write(data, TEXTS | {"train": TEXTS["train"][:4]})
    changed = corpus(data)
    assert changed.fingerprint != first.fingerprint
    assert changed.size("train") == 4
    assert len(list(cache.glob("[!.]*"))) == 2
    assert corpus(data, 280).vocabulary != changed.vocabulary
    assert len(list(cache.glob("[!.]*"))) == 3


def test_the_same_text_gives_the_same_subwords(data):
    one, other = corpus(data), corpus(data, cache="other")
    assert one.fingerprint == other.fingerprint
    np.testing.assert_array_equal(one.training.target.ids, other.training.target.ids)


def test_several_may_ask_for_a_cache_at_once(data):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: corpus(data).fingerprint, range(4)))
    assert len(set(made)) == 1
    assert not list((data.parent / "cache").glob("*.tmp"))
    assert not list((data.parent / "cache").glob(".*.tmp"))


def test_a_text_that_fails_leaves_no_cache(data):
    (data / "train.en").write_bytes((data / "train.en").read_bytes() + b"\xff\n")
    (data / "train.de").write_bytes((data / "train.de").read_bytes() + b"x\n")
    with pytest.raises(ValueError, match="line 6: byte 0xff is not UTF-8"):
        corpus(data)
    assert [path.name for path in (data.parent / "cache").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["subwords.json", "corpus.json", "target-ids.npy"])
def test_a_damaged_cache_says_so(data, name):
    corpus(data)
    (path,) = (data.parent / "cache").glob(f"*/{name}")
    os.truncate(path, 9)
    with pytest.raises(ValueError, match=r"the cache .* is damaged \(.*\): delete it"):
        corpus(data)


def test_the_cache_says_how_many_pairs_it_has(data):
    corpus(data)
    (path,) = (data.parent / "cache").glob("*/corpus.json")
    assert json.loads(path.read_text()) == {"format_version": 1, "kept": 5, "dropped": 0}
