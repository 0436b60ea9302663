"""English sentences about numbers and their German translations, from a small grammar.

A sentence is one of `TEMPLATES` with words put in. Each has one number that is drawn from 0 to
999,999, spelled out: "because we have seen twenty-one houses" is "weil wir einundzwanzig Haeuser
gesehen haben". What makes it a task of translation is the order: units stand before tens, compounds
are one word, participles and infinitives stand last, subject and verb are exchanged behind an
adverbial, and "half past three" is "halb vier". German is written in ASCII: ae, oe, ue and ss.

**Splits.** A number from 100 on belongs to one split by a hash of it: 80 % to training, 10 % each
to validation and test. It occurs in sentences of that split only, also as an ordinal ("the three
hundred and twelfth tree") or a year. Numbers below 100 are the vocabulary: days, hours and cents
are among them. They occur in all splits, but every sentence of validation and test has a number
from 100 on. So a score says whether a learner composes numbers that it has never seen.

**Vocabulary.** A token of English is a word. A token of German is a word or a morpheme of a number:
"sechs", "hundert", "und", "zwan", "zig". Adjacent morphemes are joined into one word. Both
languages share one table of ids.

It is no natural language. Its grammar has no ambiguity, no rare words and no noise, its
vocabulary is closed, and nearly all that a learner can get wrong is a number. It stands in for
real text where a network must be trained in seconds and nothing can be downloaded. Scores say
nothing of WMT.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from envs import sentence_pairs

LARGEST = 999_999
"""Largest number of a sentence."""
SMALLEST_SPLIT = 100
"""Smallest number that belongs to one split only."""
TRAINING_SEED = 0
"""Seed of the training sentences, which are the same for every learner."""

_ENGLISH_UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_ENGLISH_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ENGLISH_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
    **{ten: f"{ten[:-1]}ieth" for ten in _ENGLISH_TENS},
}
_GERMAN_UNITS = [
    "null",
    "eins",
    "zwei",
    "drei",
    "vier",
    "fuenf",
    "sechs",
    "sieben",
    "acht",
    "neun",
    "zehn",
    "elf",
    "zwoelf",
]
_GERMAN_STEMS = ["-", "ein", "zwan", "drei", "vier", "fuenf", "sech", "sieb", "acht", "neun"]
"""Stems of tens, and of numbers from 13 to 19."""
_GERMAN_ORDINALS = {1: "erste", 3: "dritte", 7: "siebte", 8: "achte"}

_MARK = "+"
"""In front of a morpheme, so that the "und" of a number is another token than the word."""

_OBJECTS = (
    ("houses", "Haeuser"),
    ("books", "Buecher"),
    ("tables", "Tische"),
    ("trees", "Baeume"),
    ("letters", "Briefe"),
    ("cars", "Autos"),
    ("stones", "Steine"),
    ("birds", "Voegel"),
    ("ships", "Schiffe"),
    ("flowers", "Blumen"),
)
_THINGS = (  # with their articles
    ("house", "das Haus"),
    ("book", "das Buch"),
    ("tree", "der Baum"),
    ("letter", "der Brief"),
    ("car", "das Auto"),
    ("ship", "das Schiff"),
    ("city", "die Stadt"),
    ("street", "die Strasse"),
)
_SUBJECTS = (  # with the present of "have" and "want"
    ("i", "have", "want", "ich", "habe", "will"),
    ("we", "have", "want", "wir", "haben", "wollen"),
    ("he", "has", "wants", "er", "hat", "will"),
    ("she", "has", "wants", "sie", "hat", "will"),
    ("they", "have", "want", "sie", "haben", "wollen"),
)
_VERBS = (  # participle and infinitive
    ("seen", "see", "gesehen", "sehen"),
    ("bought", "buy", "gekauft", "kaufen"),
    ("sold", "sell", "verkauft", "verkaufen"),
    ("found", "find", "gefunden", "finden"),
    ("counted", "count", "gezaehlt", "zaehlen"),
    ("painted", "paint", "gemalt", "malen"),
)
_ADVERBS = (("today", "heute"), ("tomorrow", "morgen"), ("again", "wieder"), ("now", "jetzt"))
_ADJECTIVES = (("new", "neu"), ("old", "alt"), ("red", "rot"), ("big", "gross"), ("small", "klein"))
_MONTHS = (
    ("january", "Januar"),
    ("february", "Februar"),
    ("march", "Maerz"),
    ("april", "April"),
    ("may", "Mai"),
    ("june", "Juni"),
    ("july", "Juli"),
    ("august", "August"),
    ("september", "September"),
    ("october", "Oktober"),
    ("november", "November"),
    ("december", "Dezember"),
)

TEMPLATES = (
    ("{number}", "{number}"),
    ("the {number} {objects}", "die {number} {objects}"),
    ("{subject} {have} {seen} {number} {objects}", "{subject} {have} {number} {objects} {seen}"),
    (
        "because {subject} {have} {seen} {number} {objects}",
        "weil {subject} {number} {objects} {seen} {have}",
    ),
    (
        "{subject} {want} to {see} {number} {objects} {today}",
        "{subject} {want} {today} {number} {objects} {see}",
    ),
    (
        "{subject} {have} {seen} {number} {objects} at {hour} o'clock",
        "{subject} {have} um {hour} Uhr {number} {objects} {seen}",
    ),
    (
        "at half past {hour} {number} {objects} were {seen}",
        "um halb {next_hour} wurden {number} {objects} {seen}",
    ),
    (
        "on the {day} of {month} {number} {objects} were {seen}",
        "am {day} +n {month} wurden {number} {objects} {seen}",
    ),
    ("the {day} of {month} {year}", "der {day} {month} {year}"),
    ("the {ordinal} {thing} is {new}", "{the} {ordinal} {thing} ist {new}"),
    (
        "the {thing} costs {number} euros and {small} cents",
        "{the} {thing} kostet {number} Euro und {small} Cent",
    ),
    (
        "in the year {year} {subject} {have} {seen} {small} {objects}",
        "im Jahr {year} {have} {subject} {small} {objects} {seen}",
    ),
)
"""English and German. Words in braces are filled in; `{year}` is a number of 1100 to 1999."""

_CHOICES = {
    "template": len(TEMPLATES),
    "object": len(_OBJECTS),
    "thing": len(_THINGS),
    "subject": len(_SUBJECTS),
    "verb": len(_VERBS),
    "adverb": len(_ADVERBS),
    "adjective": len(_ADJECTIVES),
    "month": len(_MONTHS),
    "joined_1": 2,
    "joined_2": 2,
    "hour": 10,
    "day": 31,
    "small": 98,
    "digits": 12,
}
"""Numbers of choices for what a sentence leaves open."""


def split_of(number: int) -> sentence_pairs.Split | None:
    """Return the split of a number from `SMALLEST_SPLIT` on. Smaller ones are in all, hence None.

    Every tenth goes to validation and every tenth to test, by a hash of the number.
    """
    if number < SMALLEST_SPLIT:
        return None
    digest = hashlib.sha256(str(number).encode()).digest()
    tenth = int.from_bytes(digest[:4], "big") % 10
    return "validation" if tenth == 0 else "test" if tenth == 1 else "train"


def english(number: int, joined: tuple[bool, bool] = (True, True)) -> str:
    """Spell a number in English.

    Args:
        number: 0 to 999,999.
        joined: Whether "and" is said before the tens and units of the thousands, and of the rest.
            Speakers differ in this.

    Raises:
        ValueError: The number is out of range.
    """
    _check(number)
    thousands, rest = divmod(number, 1_000)
    if not thousands:
        return _english_hundreds(rest, joined[1])
    words = f"{_english_hundreds(thousands, joined[0])} thousand"
    if not rest:
        return words
    link = " and " if rest < 100 and joined[1] else " "
    return f"{words}{link}{_english_hundreds(rest, joined[1])}"


def _english_hundreds(number: int, joined: bool) -> str:
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _english_tens(rest)
    words = f"{_ENGLISH_UNITS[hundreds]} hundred"
    return f"{words}{' and' if joined else ''} {_english_tens(rest)}" if rest else words


def _english_tens(number: int) -> str:
    if number < 20:
        return _ENGLISH_UNITS[number]
    tens, units = divmod(number, 10)
    word = _ENGLISH_TENS[tens - 2]
    return f"{word}-{_ENGLISH_UNITS[units]}" if units else word


def english_ordinal(number: int, joined: tuple[bool, bool] = (True, True)) -> str:
    """Spell an ordinal number in English, such as "twenty-first". Arguments as in `english`."""
    words = english(number, joined)
    cut = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[cut:]
    return words[:cut] + _ENGLISH_ORDINALS.get(last, f"{last}th")


def english_year(year: int) -> str:
    """Spell a year of 1100 to 1999 in English, such as "nineteen oh five"."""
    century, rest = divmod(year, 100)
    if not rest:
        return f"{_ENGLISH_UNITS[century]} hundred"
    return f"{_ENGLISH_UNITS[century]} {'oh ' if rest < 10 else ''}{_english_tens(rest)}"


def german(number: int) -> str:
    """Spell a number in German, as one word in ASCII.

    At the beginning of the word, one hundred is "hundert" and one thousand "tausend", without
    "ein". A one at the end is "eins".

    Args:
        number: 0 to 999,999.

    Raises:
        ValueError: The number is out of range.
    """
    return "".join(_german(number))


def german_ordinal(number: int) -> str:
    """Spell an ordinal number of 1 to 999,999 in German, nominative with article: "dritte"."""
    return "".join(_german_ordinal(number))


def german_year(year: int) -> str:
    """Spell a year of 1100 to 1999 in German, such as "neunzehnhundertfuenf"."""
    return "".join(_german_year(year))


def _check(number: int) -> None:
    if not 0 <= number <= LARGEST:
        raise ValueError(f"number {number} must be in 0 to {LARGEST}")


def _german(number: int) -> list[str]:
    """Return the morphemes of a number."""
    _check(number)
    thousands, rest = divmod(number, 1_000)
    if not thousands:
        return _german_hundreds(rest, begins=True)
    pieces = [] if thousands == 1 else _german_hundreds(thousands, begins=True)
    if pieces and pieces[-1] == "eins":
        pieces[-1] = "ein"
    return [*pieces, "tausend", *(_german_hundreds(rest, begins=False) if rest else ())]


def _german_hundreds(number: int, begins: bool) -> list[str]:
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _german_tens(rest)
    digit = "ein" if hundreds == 1 else _GERMAN_UNITS[hundreds]
    pieces = ["hundert"] if hundreds == 1 and begins else [digit, "hundert"]
    return pieces + _german_tens(rest) if rest else pieces


def _german_tens(number: int) -> list[str]:
    if number < len(_GERMAN_UNITS):
        return [_GERMAN_UNITS[number]]
    tens, units = divmod(number, 10)
    if tens == 1:
        return [_GERMAN_STEMS[units], "zehn"]
    ten = [_GERMAN_STEMS[tens], "ssig" if tens == 3 else "zig"]
    if not units:
        return ten
    return ["ein" if units == 1 else _GERMAN_UNITS[units], "und", *ten]


def _german_ordinal(number: int) -> list[str]:
    pieces, last = _german(number), number % 100
    if last in _GERMAN_ORDINALS:
        return [*pieces[:-1], _GERMAN_ORDINALS[last]]
    return [*pieces, "te" if 0 < last < 20 else "ste"]


def _german_year(year: int) -> list[str]:
    century, rest = divmod(year, 100)
    return [*_german_tens(century), "hundert", *(_german_tens(rest) if rest else ())]


def _marked(morphemes: Sequence[str]) -> list[str]:
    return [_MARK + morpheme for morpheme in morphemes]


def join(pieces: Sequence[str]) -> str:
    """Return the text of German tokens: adjacent morphemes are one word."""
    text, after_morpheme = "", False
    for piece in pieces:
        is_morpheme = piece.startswith(_MARK)
        space = "" if not text or (is_morpheme and after_morpheme) else " "
        text += space + piece.removeprefix(_MARK)
        after_morpheme = is_morpheme
    return text


def _words(text: str) -> list[str]:
    """Return the tokens of an English text."""
    return text.replace("-", " ").split()


def _draw_number(
    split: sentence_pairs.Split, low: int, high: int, counts: bool, rng: np.random.Generator
) -> int:
    """Draw a number that a sentence of a split may have as its main one.

    Args:
        split: The split.
        low: Smallest number.
        high: One more than the largest number.
        counts: Whether things are counted by it. German inflects 1, 101 and so on then.
        rng: Generator of the draws.
    """
    while True:
        number = int(rng.integers(low, high))
        if counts and number % 100 == 1:
            continue
        home = split_of(number)
        if home == split or (home is None and split == "train"):
            return number


def _generate(split: sentence_pairs.Split, rng: np.random.Generator) -> tuple[str, list[str]]:
    """Draw a sentence, and return its English text and its German tokens."""
    at = {
        name: int(i)
        for name, i in zip(_CHOICES, rng.integers(list(_CHOICES.values())), strict=True)
    }
    source, target = TEMPLATES[at["template"]]
    thing, the_thing = _THINGS[at["thing"]]
    the, german_thing = the_thing.split()
    i, have, want, ich, habe, will = _SUBJECTS[at["subject"]]
    seen, see, gesehen, sehen = _VERBS[at["verb"]]
    hour, small, day = at["hour"] + 2, at["small"] + 2, at["day"] + 1
    english_words = {
        "objects": _OBJECTS[at["object"]][0],
        "thing": thing,
        "subject": i,
        "have": have,
        "want": want,
        "seen": seen,
        "see": see,
        "today": _ADVERBS[at["adverb"]][0],
        "new": _ADJECTIVES[at["adjective"]][0],
        "month": _MONTHS[at["month"]][0],
        "hour": english(hour),
        "day": english_ordinal(day),
        "small": english(small),
    }
    german_words = {
        "{objects}": [_OBJECTS[at["object"]][1]],
        "{the}": [the],
        "{thing}": [german_thing],
        "{subject}": [ich],
        "{have}": [habe],
        "{want}": [will],
        "{seen}": [gesehen],
        "{see}": [sehen],
        "{today}": [_ADVERBS[at["adverb"]][1]],
        "{new}": [_ADJECTIVES[at["adjective"]][1]],
        "{month}": [_MONTHS[at["month"]][1]],
        "{hour}": _marked(_german(hour)),
        "{next_hour}": _marked(_german(hour + 1)),
        "{day}": _marked(_german_ordinal(day)),
        "{small}": _marked(_german(small)),
    }
    joined = (bool(at["joined_1"]), bool(at["joined_2"]))
    # As many numbers of each length; those of a single split have three digits or more.
    digits = 1 + at["digits"] % 6 if split == "train" else 3 + at["digits"] % 4
    low, high = 10 ** (digits - 1), 10**digits
    if "{year}" in source:
        year = _draw_number(split, 1_100, 2_000, False, rng)
        english_words["year"] = english_year(year)
        german_words["{year}"] = _marked(_german_year(year))
    elif "{ordinal}" in source:
        number = _draw_number(split, low, high, False, rng)
        english_words["ordinal"] = english_ordinal(number, joined)
        german_words["{ordinal}"] = _marked(_german_ordinal(number))
    else:
        is_bare = source == "{number}"
        number = _draw_number(split, 0 if is_bare and digits == 1 else low, high, not is_bare, rng)
        english_words["number"] = english(number, joined)
        german_words["{number}"] = _marked(_german(number))
    pieces = [piece for word in target.split() for piece in german_words.get(word, [word])]
    return source.format(**english_words), pieces


def _vocabulary() -> tuple[list[str], list[str]]:
    """Return all English and all German tokens, sorted."""
    numbers = (*range(1, 100), 100, 101, 1_000)
    words = {word for n in numbers for word in _words(f"{english(n)} {english_ordinal(n)}")}
    pieces = {piece for n in numbers for piece in _marked(_german(n) + _german_ordinal(n))}
    words |= {"zero", "oh"}
    pieces.add(f"{_MARK}null")
    for source, target in TEMPLATES:
        words |= {word for word in source.split() if not word.startswith("{")}
        pieces |= {piece for piece in target.split() if not piece.startswith("{")}
    for row in (*_OBJECTS, *_THINGS, *_SUBJECTS, *_VERBS, *_ADVERBS, *_ADJECTIVES, *_MONTHS):
        half = len(row) // 2
        words.update(row[:half])
        pieces.update(word for entry in row[half:] for word in entry.split())
    return sorted(words), sorted(pieces)


class Corpus:
    """Generated sentences. Implements `envs.sentence_pairs.Corpus`.

    The training sentences are the same in every process. Sentences of the other splits are
    generated as they are drawn, so nearly all of them are new each time.

    Args:
        training_sentences: Number of training sentences.

    Raises:
        ValueError: There are none.
    """

    def __init__(self, training_sentences: int = 20_000) -> None:
        if training_sentences < 1:
            raise ValueError(f"training_sentences {training_sentences} must be at least 1")
        words, self._pieces = _vocabulary()
        self._first_piece = sentence_pairs.SPECIAL + len(words)
        self._word_ids = {word: sentence_pairs.SPECIAL + i for i, word in enumerate(words)}
        self.vocabulary = self._first_piece + len(self._pieces)
        self.fingerprint = hashlib.sha256("\n".join([*words, *self._pieces]).encode()).hexdigest()
        piece_ids = {piece: self._first_piece + i for i, piece in enumerate(self._pieces)}
        rng = np.random.default_rng(TRAINING_SEED)
        drawn = [_generate("train", rng) for _ in range(training_sentences)]
        self.training = sentence_pairs.Pairs(
            sentence_pairs.Tokens.of([self.encode(source) for source, _ in drawn]),
            sentence_pairs.Tokens.of(
                [[*map(piece_ids.__getitem__, pieces), sentence_pairs.END] for _, pieces in drawn]
            ),
        )

    def size(self, split: sentence_pairs.Split) -> int | None:
        """Return None, as sentences of every split are generated."""
        sentence_pairs.check_split(split)
        return None

    def draw(
        self, split: sentence_pairs.Split, count: int, rng: np.random.Generator
    ) -> list[sentence_pairs.Sentence]:
        """Return `count` different sentences of a split; see `envs.sentence_pairs.Corpus`."""
        sentence_pairs.check_split(split)
        drawn: dict[str, str] = {}
        while len(drawn) < count:
            source, pieces = _generate(split, rng)
            drawn[source] = join(pieces)
        return [sentence_pairs.Sentence(*pair) for pair in drawn.items()]

    def all(self, split: sentence_pairs.Split) -> list[sentence_pairs.Sentence]:
        """Refuse, as sentences are generated without end.

        Raises:
            ValueError: Always.
        """
        raise ValueError("generated sentences have no end: draw some")

    def encode(self, source: str) -> list[int]:
        """Return the ids of an English sentence, `END` included.

        Raises:
            ValueError: A word is not in the vocabulary.
        """
        try:
            return [*(self._word_ids[word] for word in _words(source)), sentence_pairs.END]
        except KeyError as error:
            raise ValueError(
                f"{error.args[0]!r} is no word of this corpus: see envs.number_words.TEMPLATES"
            ) from None

    def decode(self, target: Sequence[int]) -> str:
        """Return the German text of ids. English words among them are shown in brackets."""
        words = list(self._word_ids)
        return join(
            [
                self._pieces[i - self._first_piece]
                if i >= self._first_piece
                else f"[{words[i - sentence_pairs.SPECIAL]}]"
                for i in target
            ]
        )
