"""Every learner against the contract of `pbt.task.Task`, the documented one included."""

import dataclasses
import importlib
import json
import math
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import safetensors.numpy
import torch

from agents import transformer, unreal
from experiments import toy
from experiments.members import gan, learner, own, translation
from pbt import checkpoint, slices, task

DOCUMENTED = Path(__file__).parents[2] / "docs/writing-a-learner.md"


@dataclasses.dataclass(frozen=True)
class Case:
    """A learner, and what the suite must know of it."""

    config: Mapping[str, Any]
    first: Mapping[str, float]
    second: Mapping[str, float]
    """Two settings of all hyperparameters."""
    ruinous: Mapping[str, float]
    """Hyperparameters with which its numbers soon overflow."""
    factory: Callable[..., task.Task]
    steps: int = 4
    """Steps of a short slice."""
    multiple: int = 1
    """Steps that come together."""
    has_environments: bool = False
    """Whether environments run on over a load."""
    draws: bool = True
    """Whether it draws anything."""
    refuses: bool = True
    """Whether it refuses hyperparameters that it does not know."""


class Brightness(gymnasium.Env):
    """Ten steps of images that brighten."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def image(self):
        return np.full((84, 84, 1), 25 * self.time, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.image(), {}

    def step(self, action):
        self.time += 1
        return self.image(), float(action), self.time == 10, False, {}


def agent(name, env_id="Catch", num_envs=4, steps=80, **more):
    replay = unreal.UNREALConfig(replay_steps=60)
    config = learner.LearnerConfig(env_id, num_envs, agent=name, auxiliary=replay).to_json()
    first = {"learning_rate": 1e-3, "entropy_cost": 0.01, "unroll_length": 5.0} | more
    return Case(
        config,
        first,
        first | {"learning_rate": 2e-3, "entropy_cost": 0.02},
        first | {"entropy_cost": math.inf},
        learner.make_task,
        steps=steps,
        multiple=num_envs,
        has_environments=True,
    )


class Slope(own.Learner):
    """Fits a slope to noisy points, with momentum and whole repetitions."""

    learning_rate, repeats = 0.1, 1
    saved = ("model", "optimiser", "count")

    def __init__(self, width=1):
        self.model = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Dropout(0.1))
        self.optimiser = torch.optim.Adam(self.model.parameters())
        self.count = 0

    def step(self):
        self.optimiser.param_groups[0]["lr"] = self.learning_rate
        assert isinstance(self.repeats, int)
        for _ in range(self.repeats):
            x = torch.rand(8, 1) + random.random()
            loss = (self.model(x) - 2 * x).square().mean()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
        self.count += 1
        self.metrics = {"loss": loss.item()}
        return -loss.detach()


def documented(config, member, seed):
    """Make the learner of docs/writing-a-learner.md. The fixture has put its module on the path."""
    return importlib.import_module("my_network").make_task(config, member, seed)


DROPOUT = dict.fromkeys(transformer.DROPOUTS, 0.1)
TRANSLATION = translation.TranslationConfig(
    training_sentences=150,
    model=transformer.TransformerConfig(1, 16, 24, 2),
    batch_tokens=60,
    evaluation_interval_steps=3,
    evaluation_batches=2,
    evaluation_sentences=2,
)
GAN = gan.GANConfig(
    width=1,
    classifier_width=1,
    classifier_steps=1,
    batch_size=4,
    discriminator_steps=2,
    evaluation_interval=3,
    samples=20,
)
RATES = {"generator_learning_rate": 1e-3, "discriminator_learning_rate": 2e-3}
DECAY = {"learning_rate": 1e-3, "weight_decay": 1e-2}
CASES = {
    "a3c": agent("a3c"),
    "ppo": agent("ppo", clip_range=0.2, epochs=2.0),
    "unreal": agent(
        "unreal",
        "Brightness-v0",
        num_envs=2,
        steps=20,
        pixel_control_cost=0.01,
        reward_prediction_cost=1.0,
        value_replay_cost=1.0,
    ),
    "translation": Case(
        TRANSLATION.to_json(),
        {"learning_rate": 1e-3} | DROPOUT,
        {"learning_rate": 3e-3} | DROPOUT,
        {"learning_rate": math.inf} | DROPOUT,
        translation.make_task,
    ),
    "gan": Case(
        GAN.to_json(),
        RATES,
        {name: 2 * rate for name, rate in RATES.items()},
        dict.fromkeys(RATES, math.inf),
        gan.make_task,
    ),
    "toy": Case(
        {},
        {"h_0": 0.5, "h_1": 1.0},
        {"h_0": 0.2, "h_1": 0.1},
        {"h_0": math.inf, "h_1": 0.0},
        toy.make_task,
        draws=False,
    ),
    "own": Case(
        {"settings": {"width": 2}, "whole": ["repeats"]},
        {"learning_rate": 0.01, "repeats": 1.0},
        {"learning_rate": 0.02, "repeats": 3.0},
        {"learning_rate": math.inf, "repeats": 1.0},
        Slope.make_task,
    ),
    "documented": Case(
        {"width": 4},
        DECAY,
        DECAY | {"learning_rate": 1e-2},
        DECAY | {"learning_rate": math.inf},
        documented,
        steps=12,
        refuses=False,
    ),
}


@pytest.fixture(params=CASES)
def case(request, monkeypatch, tmp_path_factory):
    if request.param == "unreal" and "Brightness-v0" not in gymnasium.registry:
        gymnasium.register("Brightness-v0", Brightness)
    if request.param == "documented":
        blocks = re.findall(r"```python\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL)
        (block,) = [block for block in blocks if '"my_network:make_task"' in block]
        folder = tmp_path_factory.mktemp("documented")
        (folder / "my_network.py").write_text(block)
        monkeypatch.syspath_prepend(folder)
    return CASES[request.param]


@pytest.fixture
def make(case, tmp_path):
    """Return a function that makes a member's task as a worker does."""

    def made(member=0, seed=0, values=None):
        stored = json.loads(json.dumps(case.config))
        built = slices.build(case.factory, stored, member, seed, tmp_path / "run")
        built.set_hyperparameters(values or case.first)
        return built

    return made


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a task into a directory of its own."""
    count = 0

    def save(one):
        nonlocal count
        count += 1
        directory = tmp_path / f"checkpoint-{count}"
        directory.mkdir()
        one.save(directory)
        return directory

    return save


def train(one, steps):
    """Return all that a slice yields, comparable."""
    return [(p.agent_steps, p.episodes, dict(p.metrics)) for p in one.train(steps, steps)]


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_slice_has_the_steps_that_it_was_asked_for(case, make):
    one, unit = make(), case.multiple
    for steps, limit in ((unit, unit), (case.steps, case.steps), (case.steps, 100 * case.steps)):
        progress = list(one.train(steps, limit))
        assert steps <= sum(p.agent_steps for p in progress) <= limit
        assert all(p.agent_steps > 0 for p in progress)
        # It ends with the update that reaches the steps.
        assert sum(p.agent_steps for p in progress[:-1]) < steps
    one.close()


def test_samples_have_finite_scores_and_steps_within_the_slice(case, make):
    one = make()
    taken, episodes = 0, []
    for progress in one.train(3 * case.steps, 3 * case.steps):
        before, taken = taken, taken + progress.agent_steps
        episodes += progress.episodes
        assert all(before < e.agent_steps <= taken for e in progress.episodes)
        assert all(math.isfinite(e.episode_return) and e.counted for e in progress.episodes)
        assert all(isinstance(value, float | int) for value in progress.metrics.values())
    assert episodes


def test_training_may_be_closed_between_two_updates(case, make):
    one = make()
    training = one.train(10 * case.steps, 10 * case.steps)
    next(training)
    training.close()
    one.set_hyperparameters(case.second)
    assert sum(progress[0] for progress in train(one, case.steps)) == case.steps


def test_hyperparameters_are_in_force_after_setting_training_and_loading(case, make, saved):
    donor, one = make(1), make(2, seed=2)
    train(donor, case.steps)
    for values in (case.second, case.first):
        one.set_hyperparameters(values)
        assert dict(one.hyperparameters()).items() >= values.items()
        train(one, case.steps)
        assert dict(one.hyperparameters()).items() >= values.items()
    one.load(saved(donor))
    one.set_hyperparameters(case.second)
    assert dict(one.hyperparameters()).items() >= case.second.items()


def test_hyperparameters_that_it_does_not_know_are_refused(case, make):
    if not case.refuses:
        pytest.skip("a learner of one's own need not know what the run does not set")
    one = make()
    with pytest.raises(ValueError, match=r"unknown hyperparameters \['momentum'\]"):
        one.set_hyperparameters({**case.second, "momentum": 0.9})
    assert dict(one.hyperparameters()).items() >= case.first.items()


def test_a_checkpoint_is_taken_back_whole_and_goes_on_exactly(case, make, saved):
    one = make(seed=1)
    train(one, 2 * case.steps)
    directory = saved(one)
    again = [make(seed=2), make(seed=2)]
    for loaded in again:
        loaded.load(directory)
        loaded.set_hyperparameters(case.first)
    assert content(saved(again[0])) == content(directory)
    if case.has_environments:  # which go on elsewhere than those of the first
        one = again.pop()
    assert train(one, 2 * case.steps) == train(again[0], 2 * case.steps)
    assert content(saved(one)) == content(saved(again[0]))


def test_a_donor_does_not_bring_its_dice(case, make, saved):
    if not case.draws:
        pytest.skip("it draws nothing")
    donor = make(1, seed=1)
    train(donor, case.steps)
    directory = saved(donor)
    children = [make(member, seed=member) for member in (2, 3)]
    for child in children:
        child.load(directory)
        child.set_hyperparameters(case.first)
        train(child, case.steps)
    assert content(saved(children[0])) != content(saved(children[1]))


def test_a_checkpoint_is_plain_data(case, make, saved):
    for path in saved(make()).iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            assert safetensors.numpy.load_file(path)
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "replaced"])
def test_a_damaged_checkpoint_is_said_and_changes_nothing(case, make, saved, damage):
    donor, one = make(1, seed=1), make(2, seed=2)
    train(donor, case.steps)
    before = content(saved(one))
    for name in content(saved(donor)):
        if name.endswith(".png"):
            continue  # nothing reads it
        directory = saved(donor)
        path = directory / name
        whole = path.read_bytes()
        path.unlink()
        if damage != "missing":
            path.write_bytes(
                {"empty": b"", "cut": whole[: len(whole) // 2], "replaced": b"cposix\nsystem\n."}[
                    damage
                ]
            )
        with pytest.raises(checkpoint.CheckpointError):
            one.load(directory)
        assert content(saved(one)) == before
    assert dict(one.hyperparameters()).items() >= case.first.items()


def test_numbers_that_are_not_finite_are_a_divergence(case, make, tmp_path):
    one = make(values=case.ruinous)

    def train_and_save():
        for _ in range(10):
            slices.train(one, 2 * case.steps, 2 * case.steps, lambda: None, lambda: 0)
            slices.save(one, tmp_path)

    with pytest.raises(task.Diverged):
        train_and_save()
