"""A stand-in for `deepmind_lab`, which pip cannot install: its documented interface, no more."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest

LEVELS = ("nav_maze_static_01", "contributed/dmlab30/rooms_watermaze")
BOUNDS = ((-512, 512), (-512, 512), (-1, 1), (-1, 1), (0, 1), (0, 1), (0, 1))
"""Bounds of the seven integers of an action, from docs/users/actions.md."""


class Lab:
    """`deepmind_lab.Lab` of docs/users/python_api.md; everything else is refused.

    Frames depend on level, episode, seed, frame number and past actions. They are written into the
    same array every time. Each frame of going forward is rewarded with 1. An episode ends after 30
    to 49 frames.
    """

    def __init__(self, level, observations, config=None, renderer="software"):
        assert level in LEVELS, f"Invalid levelName flag '{level}'"
        assert type(observations) is list
        assert observations == ["RGB_INTERLEAVED"], "Unknown observation"
        assert set(config) == {"width", "height", "fps"}
        assert all(type(value) is str for value in config.values())
        assert renderer in ("software", "hardware")
        self.config, self.renderer = config, renderer
        self._level = level
        self._buffer = np.zeros((int(config["height"]), int(config["width"]), 3), np.uint8)
        self._status = "uninitialised"
        self.resets, self.actions = [], []
        Lab.made.append(self)

    def reset(self, episode=-1, seed=None):
        assert self._status != "closed"
        assert type(episode) is int
        assert type(seed) is int
        assert 0 <= seed < 2**31
        self.resets.append((episode, seed))
        self._frame, self._past = 0, 0
        self._length = 30 + seed % 20
        self._status = "running"
        return True

    def is_running(self):
        return self._status == "running"

    def step(self, action, num_steps=1):
        if self._status != "running":
            raise RuntimeError("Environment in wrong status to advance.")
        assert isinstance(action, np.ndarray)
        assert action.shape == (7,)
        assert action.dtype == np.intc
        assert type(num_steps) is int
        assert num_steps >= 1
        for value, (low, high) in zip(action.tolist(), BOUNDS, strict=True):
            assert low <= value <= high
        self.actions.append((tuple(action.tolist()), num_steps))
        reward = 0.0
        for _ in range(num_steps):
            self._frame += 1
            self._past = hash((self._past, *action.tolist()))
            reward += float(action[3])
            if self._frame == self._length:
                self._status = "terminated"
                break
        return reward

    def observations(self):
        if self._status != "running":
            raise RuntimeError("Environment in wrong status for call to observations()")
        where = (self._level, *self.resets[-1], self._frame, self._past)
        pixels = np.random.default_rng([abs(hash(one)) for one in where])
        self._buffer[:] = pixels.integers(256, size=self._buffer.shape)
        return {"RGB_INTERLEAVED": self._buffer}

    def close(self):
        assert self._status != "closed"
        self._status = "closed"
        return True


@pytest.fixture
def deepmind_lab(monkeypatch):
    """Make `import deepmind_lab` find the stand-in; return the list of Labs that were made."""
    module = types.ModuleType("deepmind_lab")
    module.__spec__ = importlib.machinery.ModuleSpec("deepmind_lab", None)
    module.Lab = Lab
    monkeypatch.setitem(sys.modules, "deepmind_lab", module)
    monkeypatch.setattr(Lab, "made", [], raising=False)
    return Lab.made
