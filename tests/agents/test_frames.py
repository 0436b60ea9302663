"""Shared frames against a plain list of the same stacks; every frame shows its own number."""

import itertools

import numpy as np
import pytest
import torch

from agents import frames, rollout

BATCH, SIZE = 3, 2


def played(stack, channels, length, seed=0, first=0.25):
    """Inputs of environments whose episodes begin at different steps, with numbered frames."""
    rng, counter = np.random.default_rng(seed), itertools.count(1)

    def frame():
        return np.full((channels, SIZE, SIZE), next(counter) % 256, np.uint8)

    # An environment's first step in the unroll need not begin its episode.
    stacks = [[frame() for _ in range(stack)] for _ in range(BATCH)]
    steps = []
    for t in range(length):
        is_first = rng.random(BATCH) < first
        for slot in range(BATCH):
            if is_first[slot]:
                stacks[slot] = [frame() for _ in range(stack)]
            elif t > 0:
                stacks[slot] = [*stacks[slot][1:], frame()]
        obs = torch.tensor(np.stack([np.concatenate(one) for one in stacks]))
        steps.append(
            rollout.Inputs(
                obs.contiguous(memory_format=torch.channels_last),
                torch.tensor(rng.normal(size=(BATCH, 2))),
                torch.tensor(rng.normal(size=BATCH)),
                torch.tensor(is_first),
            )
        )
    return steps


@pytest.mark.parametrize(("stack", "channels"), [(4, 1), (2, 3), (1, 3)])
def test_it_reads_like_the_list_of_what_was_appended(stack, channels):
    expected = played(stack, channels, 40)
    assert sum(one.is_first.any().item() for one in expected[1:]) > 5
    found = frames.SharedFrames(channels)
    for one in expected:
        found.append(one)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))
        assert a.action_mask is b.action_mask is None
    for part in (slice(None), slice(3, 9), slice(-4, None), slice(0, 20, 8)):
        assert len(found[part]) == len(expected[part])
        for a, b in zip(found[part], expected[part], strict=True):
            assert torch.equal(a.obs, b.obs)
    assert torch.equal(found[-1].obs, expected[-1].obs)
    with pytest.raises(IndexError):
        found[40]
    plain = frames.without_obs(expected)
    assert [tuple(one.shape) for one in plain[1:4]] == [(40, BATCH, 2), (40, BATCH), (40, BATCH)]
    assert plain.obs.shape == (40, BATCH)
    found = frames.without_obs(found)
    assert all(torch.equal(a, b) for a, b in zip(found[:4], plain[:4], strict=True))


def test_each_frame_is_kept_once():
    expected = played(4, 1, 50, first=0.1)
    found = frames.SharedFrames(1)
    for one in expected:
        found.append(one)
    begun = BATCH + sum(int(one.is_first.sum()) for one in expected[1:])
    kept = torch.cat(found._new)
    assert len(kept) == 50 * BATCH + 3 * begun
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in found._new}
    assert sum(t.untyped_storage().nbytes() for t in storages.values()) == kept.numel()
