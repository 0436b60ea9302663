"""Generated sentences against words checked by hand and a parser of German numbers."""

import re

import numpy as np
import pytest

from envs import number_words, sentence_pairs

NUMBERS = [  # checked by hand
    (0, "zero", "null"),
    (1, "one", "eins"),
    (7, "seven", "sieben"),
    (10, "ten", "zehn"),
    (11, "eleven", "elf"),
    (12, "twelve", "zwoelf"),
    (13, "thirteen", "dreizehn"),
    (16, "sixteen", "sechzehn"),
    (17, "seventeen", "siebzehn"),
    (20, "twenty", "zwanzig"),
    (21, "twenty-one", "einundzwanzig"),
    (30, "thirty", "dreissig"),
    (36, "thirty-six", "sechsunddreissig"),
    (60, "sixty", "sechzig"),
    (67, "sixty-seven", "siebenundsechzig"),
    (77, "seventy-seven", "siebenundsiebzig"),
    (99, "ninety-nine", "neunundneunzig"),
    (100, "one hundred", "hundert"),
    (101, "one hundred and one", "hunderteins"),
    (112, "one hundred and twelve", "hundertzwoelf"),
    (121, "one hundred and twenty-one", "hunderteinundzwanzig"),
    (700, "seven hundred", "siebenhundert"),
    (999, "nine hundred and ninety-nine", "neunhundertneunundneunzig"),
    (1_000, "one thousand", "tausend"),
    (1_001, "one thousand and one", "tausendeins"),
    (1_100, "one thousand one hundred", "tausendeinhundert"),
    (2_016, "two thousand and sixteen", "zweitausendsechzehn"),
    (10_010, "ten thousand and ten", "zehntausendzehn"),
    (21_000, "twenty-one thousand", "einundzwanzigtausend"),
    (100_000, "one hundred thousand", "hunderttausend"),
    (
        101_101,
        "one hundred and one thousand one hundred and one",
        "hunderteintausendeinhunderteins",
    ),
    (
        123_456,
        "one hundred and twenty-three thousand four hundred and fifty-six",
        "hundertdreiundzwanzigtausendvierhundertsechsundfuenfzig",
    ),
    (
        999_999,
        "nine hundred and ninety-nine thousand nine hundred and ninety-nine",
        "neunhundertneunundneunzigtausendneunhundertneunundneunzig",
    ),
]


@pytest.mark.parametrize(("number", "english", "german"), NUMBERS)
def test_numbers_are_spelled_as_by_hand(number, english, german):
    assert number_words.english(number) == english
    assert number_words.german(number) == german


def test_and_may_be_left_out_in_either_half():
    assert number_words.english(123_456, (True, False)) == (
        "one hundred and twenty-three thousand four hundred fifty-six"
    )
    assert number_words.english(123_456, (False, True)) == (
        "one hundred twenty-three thousand four hundred and fifty-six"
    )
    assert number_words.english(2_005, (True, False)) == "two thousand five"


@pytest.mark.parametrize(
    ("number", "english", "german"),
    [
        (1, "first", "erste"),
        (2, "second", "zweite"),
        (3, "third", "dritte"),
        (7, "seventh", "siebte"),
        (8, "eighth", "achte"),
        (12, "twelfth", "zwoelfte"),
        (19, "nineteenth", "neunzehnte"),
        (20, "twentieth", "zwanzigste"),
        (31, "thirty-first", "einunddreissigste"),
        (100, "one hundredth", "hundertste"),
        (103, "one hundred and third", "hundertdritte"),
        (308, "three hundred and eighth", "dreihundertachte"),
        (1_000, "one thousandth", "tausendste"),
    ],
)
def test_ordinals_are_spelled_as_by_hand(number, english, german):
    assert number_words.english_ordinal(number) == english
    assert number_words.german_ordinal(number) == german


@pytest.mark.parametrize(
    ("year", "english", "german"),
    [
        (1100, "eleven hundred", "elfhundert"),
        (1905, "nineteen oh five", "neunzehnhundertfuenf"),
        (1812, "eighteen twelve", "achtzehnhundertzwoelf"),
        (1996, "nineteen ninety-six", "neunzehnhundertsechsundneunzig"),
    ],
)
def test_years_are_spelled_as_by_hand(year, english, german):
    assert number_words.english_year(year) == english
    assert number_words.german_year(year) == german


_SMALL = {number_words.german(n): n for n in range(13)} | {"ein": 1, "": 0}
_TENS = {"zwan": 20, "dreis": 30, "vier": 40, "fuenf": 50, "sech": 60, "sieb": 70}
_TENS |= {"acht": 80, "neun": 90}
_TEENS = {"sech": 6, "sieb": 7}


def value_of(word):
    """Read a German number."""
    if "tausend" in word:
        thousands, rest = word.split("tausend")
        return 1_000 * (value_of(thousands) if thousands else 1) + value_of(rest)
    if "hundert" in word:
        hundreds, rest = word.split("hundert")
        return 100 * (value_of(hundreds) if hundreds else 1) + value_of(rest)
    if word.endswith(("zig", "sig")):
        *unit, tens = word[:-3].split("und")
        return _TENS[tens] + (_SMALL[unit[0]] if unit else 0)
    if word.endswith("zehn") and word != "zehn":
        stem = word.removesuffix("zehn")
        return 10 + _TEENS.get(stem, _SMALL.get(stem))
    return _SMALL[word]


def test_german_numbers_can_be_read_back():
    rng = np.random.default_rng(0)
    for number in (*range(2_000), *rng.integers(2_000, 1_000_000, 3_000)):
        assert value_of(number_words.german(int(number))) == number


@pytest.mark.parametrize("number", [-1, 1_000_000])
def test_numbers_out_of_range_are_refused(number):
    for spell in (number_words.english, number_words.german):
        with pytest.raises(ValueError, match=f"number {number} must be in 0 to 999999"):
            spell(number)


def test_a_tenth_of_the_numbers_is_for_validation_and_a_tenth_for_test():
    numbers = range(100, 20_000)
    splits = [number_words.split_of(number) for number in numbers]
    assert splits.count("validation") / len(numbers) == pytest.approx(0.1, abs=0.01)
    assert splits.count("test") / len(numbers) == pytest.approx(0.1, abs=0.01)
    # A number never changes its split, or old scores would mean something else.
    assert [n for n in range(100, 150) if number_words.split_of(n) == "validation"] == [
        112,
        121,
        127,
    ]
    assert {number_words.split_of(number) for number in range(100)} == {None}


@pytest.fixture(scope="module")
def corpus():
    return number_words.Corpus(4_000)


def training_sentences(corpus):
    source, target = corpus.training
    words = list(corpus._word_ids)
    for i in range(len(source.ends)):
        english = [words[token - sentence_pairs.SPECIAL] for token in source.sentence(i)[:-1]]
        yield " ".join(english), corpus.decode(target.sentence(i)[:-1].tolist())


def numbers_of(text):
    """Numbers from 100 on in a German text, cardinals, ordinals and years."""
    values = set()
    for word in text.split():
        if "hundert" in word or "tausend" in word:
            for end, last in (("erste", "eins"), ("dritte", "drei"), ("siebte", "sieben")):
                if word.endswith(end):
                    word = word.removesuffix(end) + last
            if word.endswith("achte"):
                word = word.removesuffix("e")
            if word.endswith("te"):
                word = word.removesuffix("te")
                if word.endswith("s") and not word.endswith("sechs"):
                    word = word.removesuffix("s")
            values.add(value_of(word))
    return values


def test_numbers_of_validation_and_test_are_in_no_training_sentence(corpus):
    seen = set()
    for _, german in training_sentences(corpus):
        seen |= numbers_of(german)
    assert len(seen) > 2_000
    rng = np.random.default_rng(0)
    met = {"validation": set(), "test": set()}
    for split, numbers in met.items():
        for sentence in corpus.draw(split, 1_500, rng):
            found = numbers_of(sentence.target)
            assert len(found) == 1, sentence  # else it would not test anything new
            numbers |= found
        assert {number_words.split_of(number) for number in numbers} == {split}
    assert not met["validation"] & met["test"]
    assert not seen & (met["validation"] | met["test"])
    assert min(met["validation"]) < 1_000 < 500_000 < max(met["validation"])


HOURS = [number_words.english(hour) for hour in range(1, 13)]
STUNDEN = [number_words.german(hour) for hour in range(1, 13)]


def test_words_stand_where_german_has_them(corpus):
    kinds = set()
    for english, german in corpus.draw("validation", 1_000, np.random.default_rng(1)):
        words, woerter = english.split(), german.split()
        if english.startswith("because"):
            kinds.add("because")
            assert (woerter[0], woerter[-1][:2]) == ("weil", "ha")  # habe, hat, haben
            assert words[2][:2] == "ha"
        elif "half past" in english:
            kinds.add("half past")
            assert STUNDEN.index(woerter[2]) == HOURS.index(words[3]) + 1
            assert woerter[3] == "wurden"
        elif "want" in english:
            kinds.add("want")
            assert words[2] == "to"
            assert woerter[1] in ("will", "wollen")
            assert woerter[-1] in ("sehen", "kaufen", "verkaufen", "finden", "zaehlen", "malen")
        elif english.startswith("in the year"):
            kinds.add("year")
            assert woerter[:2] == ["im", "Jahr"]
            assert woerter[3] in ("habe", "hat", "haben")  # the verb before the subject
        elif english.startswith("on the"):
            kinds.add("on the")
            assert woerter[1].endswith("ten")
        elif "euros" in english:
            kinds.add("euros")
            assert re.fullmatch(r"(das|der|die) \w+ kostet \w+ Euro und \w+ Cent", german)
    assert len(kinds) == 6


BY_HAND = [  # one sentence of each template; German checked by hand
    ("five thousand two hundred and twenty-five", "fuenftausendzweihundertfuenfundzwanzig"),
    ("the one hundred seventy-three letters", "die hundertdreiundsiebzig Briefe"),
    (
        "she has bought one thousand five hundred and thirty-four birds",
        "sie hat tausendfuenfhundertvierunddreissig Voegel gekauft",
    ),
    ("because we have painted thirty letters", "weil wir dreissig Briefe gemalt haben"),
    ("we want to find seventy-four ships today", "wir wollen heute vierundsiebzig Schiffe finden"),
    (
        "they have counted five hundred forty-four trees at five o'clock",
        "sie haben um fuenf Uhr fuenfhundertvierundvierzig Baeume gezaehlt",
    ),
    (
        "at half past five sixty-two letters were counted",
        "um halb sechs wurden zweiundsechzig Briefe gezaehlt",
    ),
    (
        "on the twentieth of october five stones were sold",
        "am zwanzigsten Oktober wurden fuenf Steine verkauft",
    ),
    (
        "the first of december seventeen thirty-nine",
        "der erste Dezember siebzehnhundertneununddreissig",
    ),
    (
        "the seven thousand one hundred and seventy-fifth tree is small",
        "der siebentausendeinhundertfuenfundsiebzigste Baum ist klein",
    ),
    (
        "the house costs eight hundred and ninety-two euros and ninety-nine cents",
        "das Haus kostet achthundertzweiundneunzig Euro und neunundneunzig Cent",
    ),
    (
        "in the year eighteen oh six i have counted ninety-two cars",
        "im Jahr achtzehnhundertsechs habe ich zweiundneunzig Autos gezaehlt",
    ),
]


def test_a_sentence_of_each_template_is_translated_as_by_hand():
    assert len(BY_HAND) == len(number_words.TEMPLATES)
    pairs = dict(number_words.Corpus(1).draw("train", 3_000, np.random.default_rng(2)))
    for english, german in BY_HAND:
        assert pairs[english] == german


def test_the_same_generator_draws_the_same_sentences_and_training_is_always_the_same(corpus):
    def draw(seed):
        return corpus.draw("test", 50, np.random.default_rng(seed))

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert len(set(draw(3))) == 50
    again = number_words.Corpus(4_000)
    for one, other in zip(corpus.training, again.training, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.ends, other.ends)
    assert corpus.fingerprint == again.fingerprint


def test_texts_and_ids_belong_together(corpus):
    met = set()
    for i, (english, german) in enumerate(training_sentences(corpus)):
        ids = corpus.encode(english)
        np.testing.assert_array_equal(ids, corpus.training.source.sentence(i))
        assert ids[-1] == corpus.training.target.sentence(i)[-1] == sentence_pairs.END
        met |= {*ids, *corpus.training.target.sentence(i).tolist()}
        assert "+" not in german
        assert "  " not in german
    assert min(met) == sentence_pairs.END
    assert max(met) < corpus.vocabulary
    assert corpus.encode("the twenty-one houses") == corpus.encode("the twenty one houses")
    with pytest.raises(ValueError, match="'aardvarks' is no word of this corpus"):
        corpus.encode("twenty-one aardvarks")


def test_the_vocabulary_holds_every_word_that_may_be_drawn(corpus):
    rng = np.random.default_rng(5)
    for split in ("train", "validation", "test"):
        for sentence in corpus.draw(split, 2_000, rng):
            corpus.encode(sentence.source)  # raises otherwise
    number_words.Corpus(8_000)  # encodes the pieces of both languages


def test_what_does_not_exist_is_refused(corpus):
    with pytest.raises(ValueError, match="split 'dev': choose from train, validation, test"):
        corpus.draw("dev", 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="training_sentences 0 must be at least 1"):
        number_words.Corpus(0)
    with pytest.raises(ValueError, match="have no end"):
        corpus.all("test")
    assert corpus.size("test") is None
