"""Batches by length."""

import numpy as np
import pytest

from envs import sentence_pairs


def pairs(lengths):
    """Sentences of given source and target lengths; the first token tells which pair it is."""
    sources = [[3 + i, *[1_000] * (source - 1)] for i, (source, _) in enumerate(lengths)]
    targets = [[3 + i, *[2_000] * (target - 1)] for i, (_, target) in enumerate(lengths)]
    return sentence_pairs.Pairs(
        sentence_pairs.Tokens.of(sources), sentence_pairs.Tokens.of(targets)
    )


@pytest.fixture
def some():
    rng = np.random.default_rng(0)
    return [(int(rng.integers(1, 30)), int(rng.integers(1, 25))) for _ in range(500)]


def epoch(batches):
    """Batches up to the end of the pass."""
    taken = [batches.take()]
    while batches.batch < len(batches._bounds):
        taken.append(batches.take())
    return taken


def test_tokens_keep_sentences_apart():
    tokens = sentence_pairs.Tokens.of([[5, 6, 2], [2], [7, 2]])
    assert [tokens.sentence(i).tolist() for i in range(3)] == [[5, 6, 2], [2], [7, 2]]
    assert tokens.lengths().tolist() == [3, 1, 2]
    assert sentence_pairs.pad([[5, 6, 2], [2]]).tolist() == [[5, 6, 2], [2, 0, 0]]


def test_an_epoch_has_every_pair_once_and_full_batches(some):
    batches = sentence_pairs.Batches(pairs(some), 100, 256, 0)
    met = []
    for source, target in (taken := epoch(batches)):
        assert target.size <= 100
        np.testing.assert_array_equal(source[:, 0], target[:, 0])  # pairs stay pairs
        for row, which in enumerate(source[:, 0] - 3):
            assert (source[row] != sentence_pairs.PAD).sum() == some[which][0]
            assert (target[row] != sentence_pairs.PAD).sum() == some[which][1]
        met.extend(source[:, 0] - 3)
    assert sorted(met) == list(range(500))
    padding = np.mean([(target == sentence_pairs.PAD).mean() for _, target in taken])
    assert padding < 0.05
    assert np.mean([target.size for _, target in taken]) > 80
    assert (batches.epoch, batches.batch) == (0, len(taken))
    batches.take()
    assert (batches.epoch, batches.batch) == (1, 1)


def test_order_depends_on_seed_and_epoch_alone(some):
    def firsts(seed, skip=0):
        batches = sentence_pairs.Batches(pairs(some), 100, 256, seed)
        batches.epoch = skip
        return [source[:, 0].tolist() for source, _ in epoch(batches)]

    assert firsts(0) == firsts(0)
    assert firsts(0) != firsts(1)
    assert firsts(0) != firsts(0, skip=1)


def test_any_position_can_be_taken_up_again(some):
    one = sentence_pairs.Batches(pairs(some), 100, 256, 5)
    for _ in range(130):
        one.take()
    assert one.epoch > 0
    other = sentence_pairs.Batches(pairs(some), 100, 256, 6)
    other.take()
    other.seed, other.epoch, other.batch = one.seed, one.epoch, one.batch
    for _ in range(150):
        for mine, its in zip(one.take(), other.take(), strict=True):
            np.testing.assert_array_equal(mine, its)


def test_long_sentences_are_left_out_or_stand_alone():
    lengths = [(3, 3), (3, 50), (60, 3), (3, 4)]
    batches = sentence_pairs.Batches(pairs(lengths), 10, 256, 0)
    assert sorted(source[0, 0] - 3 for source, _ in epoch(batches)) == [0, 1, 3]
    assert any(target.shape == (1, 50) for _, target in epoch(batches))
    batches = sentence_pairs.Batches(pairs(lengths), 10, 49, 0)
    assert batches.dropped == 2
    assert sorted(np.concatenate([source[:, 0] for source, _ in epoch(batches)]) - 3) == [0, 3]
    with pytest.raises(ValueError, match="none of the 4 training pairs has at most 2 tokens"):
        sentence_pairs.Batches(pairs(lengths), 10, 2, 0)
