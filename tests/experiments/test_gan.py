"""A GAN as a task of the engine: contract, checkpoints, copies of one network, judge, learning."""

import dataclasses
import functools
import json
import logging
import math
import shutil
import threading
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import safetensors.torch
import torch

from agents import dcgan
from envs import cifar
from experiments.members import gan, judge
from pbt import checkpoint, create, decide, run, slices, space, task, worker

RATES = {"generator_learning_rate": 5e-3, "discriminator_learning_rate": 2e-4}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run's directory. Its classifier is trained once for all tests."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def config(run_dir):
    """A small GAN on glyphs."""
    return gan.GANConfig(
        width=2,
        classifier_width=8,
        classifier_steps=250,
        batch_size=4,
        discriminator_steps=2,
        evaluation_interval=4,
        samples=50,
        splits=5,
    )


@pytest.fixture
def make(run_dir):
    """Return a function that makes a member's task as a worker of the run does."""
    return functools.partial(made_in, run_dir)


def made_in(run_dir, config, member=0, seed=0, **changes):
    config = dataclasses.replace(config, **changes)
    stored = json.loads(json.dumps(config.to_json()))
    made = slices.build(gan.make_task, stored, member, seed, run_dir)
    made.set_hyperparameters(RATES)
    return made


def train(learner, steps):
    return list(learner.train(steps, steps))


def saved(learner, directory):
    directory.mkdir()
    learner.save(directory)
    return directory


def weights(directory, part=""):
    """Return the tensors of a checkpoint, or of one of its networks."""
    state = safetensors.torch.load_file(directory / "agent.safetensors")
    return {name: tensor for name, tensor in state.items() if name.startswith(part)}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert one
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def other_than(part):
    return next(one for one in dcgan.PARTS if one != part)


# The contract of a task.


def test_an_evaluation_gives_one_episode_per_split(config, make):
    learner = make(config)
    progress = train(learner, 6) + train(learner, 7)  # the interval goes on over slices
    with_episodes = [index for index, one in enumerate(progress) if one.episodes]
    assert with_episodes == [3, 7, 11]
    steps = [[episode.agent_steps for episode in progress[n].episodes] for n in with_episodes]
    assert steps == [[4] * 5, [2] * 5, [6] * 5]  # since `train` began
    for n in with_episodes:
        assert all(1 <= one.episode_return <= 10 for one in progress[n].episodes)
        assert all((one.length, one.counted) == (4, True) for one in progress[n].episodes)


def test_an_evaluation_counts_if_the_member_trained_the_whole_interval(config, tmp_path, make):
    learner, donor = make(config), make(config, member=1, seed=1)
    train(learner, 3)
    train(donor, 2)
    learner.load(saved(donor, tmp_path / "donor"))
    train(learner, 2)  # an evaluation after the first of them
    again = make(config, seed=9)
    again.load(saved(learner, tmp_path / "child"))
    for copied in (learner, again):
        episodes = [e for one in train(copied, 8) for e in one.episodes]
        assert [e.counted for e in episodes] == [True] * 10
    learner.load(saved(donor, tmp_path / "later"))  # in the middle of an interval
    episodes = [e for one in train(learner, 5) for e in one.episodes]
    assert [e.counted for e in episodes] == [False] * 5


def test_rates_are_read_back_from_the_optimisers(config, make):
    learner = make(config)
    assert learner.hyperparameters() == RATES
    learner.set_hyperparameters({"discriminator_learning_rate": 1e-6})
    assert learner.hyperparameters() == {**RATES, "discriminator_learning_rate": 1e-6}
    with pytest.raises(ValueError, match=r"unknown hyperparameters \['learning_rate'\].*generator"):
        learner.set_hyperparameters({"learning_rate": 1e-3})


def test_a_seed_repeats_and_another_one_differs(config, tmp_path, make):
    for number, seed in enumerate((1, 1, 2)):
        learner = make(config, seed=seed)
        train(learner, 4)
        saved(learner, tmp_path / str(number))
    assert_equal(weights(tmp_path / "0"), weights(tmp_path / "1"))
    one, other = (weights(tmp_path / number) for number in "02")
    assert not any(
        torch.equal(one[name], other[name]) for name in one if name.endswith("conv.weight")
    )


def test_a_checkpoint_holds_statistics_of_both_networks_and_plain_files_only(
    config, tmp_path, make
):
    directory = saved(make(config), tmp_path / "new")
    assert {path.name for path in directory.iterdir()} == {
        "agent.safetensors",
        "gan.json",
        "picture.png",
    }
    names = weights(directory).keys()
    for part in dcgan.PARTS:
        for end in ("running_mean", "running_var", "num_batches_tracked"):
            assert any(name.startswith(f"{part}.network") and name.endswith(end) for name in names)
        for statistic in ("exp_avg", "exp_avg_sq", "step"):
            assert any(name.startswith(f"{part}.{statistic}.") for name in names)


def test_evaluations_of_a_copy_keep_their_own_rhythm(config, tmp_path, make):
    donor, learner = make(config, member=1), make(config)
    train(donor, 3)
    train(learner, 2)
    learner.load(saved(donor, tmp_path / "donor"))
    assert [bool(one.episodes) for one in train(learner, 4)] == [False, True, False, False]


def test_a_state_that_is_not_finite_is_not_saved(config, tmp_path, make):
    learner = make(config)
    with torch.no_grad():
        learner._gan.discriminator.logit.bias[0] = math.inf
    with pytest.raises(task.Diverged, match=r"non-finite values in discriminator.*logit\.bias"):
        learner.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_foreign_checkpoints_are_refused(config, tmp_path, make):
    directory = saved(make(config), tmp_path / "whole")
    learner = make(config)
    before = weights(saved(learner, tmp_path / "before"))

    def broken(name, content):
        copy = tmp_path / f"broken-{name}-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(directory, copy)
        (copy / name).write_bytes(content)
        return copy

    header = json.loads((directory / "gan.json").read_text())
    for content in (b"", b"[]", b"{}", b"\xff", json.dumps({**header, "random": 1}).encode()):
        with pytest.raises(checkpoint.CheckpointError, match="unreadable checkpoint"):
            learner.load(broken("gan.json", content))
    with pytest.raises(checkpoint.CheckpointError, match="unreadable checkpoint"):
        learner.load(broken("agent.safetensors", b"nothing"))
    with pytest.raises(ValueError, match="has format 3, this code reads 2"):
        learner.load(broken("gan.json", json.dumps({**header, "format_version": 3}).encode()))
    wider = saved(make(config, width=3), tmp_path / "wider")
    with pytest.raises(ValueError, match=r"generator\.network\.project\.weight is \(192, 100\)"):
        learner.load(wider)
    assert_equal(weights(saved(learner, tmp_path / "after")), before)


# Copies of one network.


def trained_pair(make, config, tmp_path, **changes):
    """Return a trained member 0, and the checkpoint of a trained member 1."""
    learner, donor = make(config, **changes), make(config, member=1, seed=1, **changes)
    train(learner, 3)
    train(donor, 4)
    return learner, saved(donor, tmp_path / "donor")


def publish(root, source, member, version):
    """Publish a checkpoint's files as one of a member, as the engine does after a copy."""
    name = checkpoint.publish(
        root, member, version, lambda to: shutil.copytree(source, to, dirs_exist_ok=True), {}
    )
    return root / name


def test_by_default_both_networks_are_copied(config, tmp_path, make):
    learner, donor = trained_pair(make, config, tmp_path)
    learner.load(donor)
    assert_equal(weights(saved(learner, tmp_path / "child")), weights(donor))


@pytest.mark.parametrize("part", dcgan.PARTS)
def test_one_network_is_copied_and_the_other_one_stays(config, tmp_path, part, make):
    learner, donor = trained_pair(make, config, tmp_path, copied=part)
    own = saved(learner, tmp_path / "own")
    learner.load(donor)
    child = saved(learner, tmp_path / "child")
    assert_equal(weights(child, part), weights(donor, part))
    assert_equal(weights(child, other_than(part)), weights(own, other_than(part)))


@pytest.mark.parametrize("part", dcgan.PARTS)
def test_a_members_own_checkpoint_is_loaded_whole(config, tmp_path, part, make):
    learner, _ = trained_pair(make, config, tmp_path, copied=part)
    own = saved(learner, tmp_path / "own")
    train(learner, 2)
    for again in (learner, make(config, copied=part, seed=5)):
        again.load(own)
        copy = saved(again, tmp_path / f"copy{again is learner}")
        assert_equal(weights(copy), weights(own))


@pytest.mark.parametrize("part", dcgan.PARTS)
def test_a_task_built_after_a_copy_has_the_mixture_again(config, tmp_path, part, make):
    learner, donor = trained_pair(make, config, tmp_path, copied=part)
    learner.load(donor)
    mixture = saved(learner, tmp_path / "mixture")
    rebuilt = make(config, copied=part, seed=99)
    rebuilt.load(publish(tmp_path / "checkpoints", donor, 0, 2))
    assert_equal(weights(saved(rebuilt, tmp_path / "rebuilt")), weights(mixture))
    # Its evaluations keep their rhythm too: 3 updates were the member's own.
    progress = train(rebuilt, 1)
    assert progress[0].episodes
    assert "copied_whole" not in progress[0].metrics


def test_without_the_kept_network_both_are_the_donors_and_it_is_told(
    config, tmp_path, caplog, make, run_dir
):
    learner, donor = trained_pair(make, config, tmp_path, copied="generator")
    learner.load(donor)
    another = make(config, member=2, seed=2)
    train(another, 1)
    kept = run_dir / "shared/kept-0.safetensors"
    for number, spoil in enumerate(
        (
            lambda: learner.load(saved(another, tmp_path / "another")),  # kept beside that one now
            lambda: kept.write_bytes(b"damaged"),
            kept.unlink,
        )
    ):
        spoil()
        rebuilt = make(config, copied="generator", seed=99)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            rebuilt.load(publish(tmp_path / "checkpoints", donor, 0, number))
        assert "no kept network" in caplog.text
        assert_equal(weights(saved(rebuilt, tmp_path / str(number))), weights(donor))
        metrics = [one.metrics.get("copied_whole") for one in train(rebuilt, 2)]
        assert metrics == [1.0, None]


def test_a_member_that_replaces_a_dead_one_takes_both_networks(config, tmp_path, make):
    learner, source = trained_pair(make, config, tmp_path, copied="generator")
    donor = publish(tmp_path / "checkpoints", source, 1, 7)
    learner.load(donor)  # it keeps its discriminator, and diverges
    replaced = make(config, copied="generator", seed=99)
    replaced.load(donor)
    assert_equal(weights(saved(replaced, tmp_path / "replaced")), weights(donor))
    # Nor does the old one come back when that task is built again.
    rebuilt = make(config, copied="generator", seed=100)
    rebuilt.load(publish(tmp_path / "checkpoints", source, 0, 8))
    assert_equal(weights(saved(rebuilt, tmp_path / "rebuilt")), weights(donor))
    for one in (replaced, rebuilt):  # as the setting says, so nothing is told
        assert "copied_whole" not in train(one, 1)[0].metrics


@pytest.mark.parametrize("part", dcgan.PARTS)
def test_under_the_engine_a_member_never_loses_the_network_that_it_keeps(
    config, tmp_path, part, make, run_dir
):
    """Rates so small that no weight moves show whose each network is, over evicted tasks too."""
    tiny = space.Space(
        {name: space.LogUniform(1e-30, 2e-30) for name in gan.HYPERPARAMETERS},
        adapt=tuple(gan.HYPERPARAMETERS),
    )
    own = dataclasses.replace(config, evaluation_interval=2, copied=part)
    shutil.copytree(run_dir / "shared", tmp_path / "run/shared")
    settings = run.RunConfig(
        gan.TASK,
        tiny,
        task_config=own.to_json(),
        population=3,
        total_steps=20,
        report_interval=4,
        ready_interval=4,
        exploit="binary-tournament",
    )
    with create.open_or_create(tmp_path / "run", settings) as run_store:
        worker.run(run_store, tmp_path / "run", resident_limit=1, durable=False)
        members, events = run_store.members(), run_store.events()
        reports = [report for _, report in run_store.reports()]
    assert {member.state for member in members} == {"finished"}
    copies = [event for event in events if event.kind == "exploit"]
    assert copies
    assert not [one for one in reports if "copied_whole" in one.metrics]
    name = {
        "generator": "generator.network.project.weight",
        "discriminator": "discriminator.network.logit.weight",
    }
    first = []
    for member in range(3):
        seed = decide.task_seed(settings.seed, member, 0)
        first.append(weights(saved(make(own, member, seed), tmp_path / f"first{member}")))
    copied_ones = set()
    for member in members:
        last = weights(tmp_path / "run/checkpoints" / member.checkpoint)
        keeps, takes = name[other_than(part)], name[part]
        assert torch.equal(last[keeps], first[member.id][keeps])
        (whose,) = [n for n in range(3) if torch.equal(last[takes], first[n][takes])]
        if whose != member.id:
            copied_ones.add(member.id)
    assert copied_ones


# The judge.


def test_the_judge_gives_real_images_nearly_10_and_noise_nearly_1(config, run_dir):
    data, judging = gan.load_data(config), gan.load_judge(config, run_dir)
    real = dcgan.to_input(torch.from_numpy(data.held_out))
    assert judging.accuracy > 0.95
    assert np.mean(judging.scores(real, 5)) > 8
    generator = torch.Generator().manual_seed(0)
    for noise in (
        torch.rand(500, 1, 32, 32, generator=generator) * 2 - 1,
        torch.randn(500, 1, 32, 32, generator=generator).clamp(-1, 1),
        torch.zeros(500, 1, 32, 32),
    ):
        assert np.mean(judging.scores(noise, 5)) < 1.8
    # Images of one digit are as certain, but all alike.
    zeros = real[torch.from_numpy(data.held_out_labels) == 0]
    assert np.mean(judging.scores(zeros, 1)) < 1.5


def test_the_accuracy_is_that_on_held_out_images(config, run_dir):
    data, judging = gan.load_data(config), gan.load_judge(config, run_dir)
    right = 0
    with torch.no_grad():
        for image, label in zip(data.held_out[:300], data.held_out_labels[:300], strict=True):
            _, logits = judging.network(torch.from_numpy(image[None]).float() / 127.5 - 1)
            right += int(logits.argmax() == label)
    assert right / 300 == pytest.approx(judging.accuracy, abs=0.03)
    assert gan.load_judge(config, run_dir).accuracy == judging.accuracy


def test_training_and_held_out_images_are_not_the_same(config):
    data = judge.load_data(None, 0)
    known = {image.tobytes() for image in data.training.glyphs}
    assert not known & {image.tobytes() for image in data.held_out}


def classifiers(directory):
    return {path.name: path.stat().st_ino for path in Path(directory).glob("classifier-*")}


def test_the_classifier_is_trained_once_also_by_two_at_the_same_time(tmp_path, caplog):
    data = judge.load_data(None, 0)
    found = []

    def build():
        found.append(judge.trained(data, tmp_path / "cache", 2, 30))

    with caplog.at_level(logging.INFO):
        threads = [threading.Thread(target=build) for _ in range(3)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        files = classifiers(tmp_path / "cache")
        build()
    assert caplog.text.count("classifier trained") == 1
    assert classifiers(tmp_path / "cache") == files
    assert len(files) == 1
    assert len({one.accuracy for one in found}) == 1
    for one in found:
        assert_equal(one.network.state_dict(), found[0].network.state_dict())
    assert {path.name for path in (tmp_path / "cache").iterdir()} == files.keys()


def test_a_damaged_classifier_is_trained_again_to_the_same(tmp_path, caplog):
    data = judge.load_data(None, 0)
    first = judge.trained(data, tmp_path, 2, 30)
    (path,) = tmp_path.glob("classifier-*")
    path.write_bytes(path.read_bytes()[:1_000])
    again = judge.trained(data, tmp_path, 2, 30)
    assert "is made again" in caplog.text
    assert again.accuracy == first.accuracy
    assert_equal(again.network.state_dict(), first.network.state_dict())


# Scores and pictures of a checkpoint.


def test_a_checkpoint_is_scored_by_fresh_images_of_its_generator(config, tmp_path, make, run_dir):
    learner = make(config, member=3)
    train(learner, 2)
    directory = saved(learner, tmp_path / "checkpoint")
    wanted = dataclasses.replace(config, samples=103, splits=4)
    found = gan.score(directory, wanted, 5, run_dir)
    assert found == gan.score(directory, wanted, 5, run_dir)
    assert found.splits != gan.score(directory, wanted, 6, run_dir).splits
    assert len(found.splits) == 4
    assert found.mean == pytest.approx(sum(found.splits) / 4)
    assert found.compared == 103
    assert found.classifier_accuracy == gan.load_judge(config, run_dir).accuracy
    assert 6 < found.held_out_score <= 10  # splits of 25 images, so few digits are in each
    assert all(1 <= one < 3 for one in found.splits)  # it has learned nothing yet
    noise = torch.from_numpy(2 * np.random.default_rng(5).random((103, 100), np.float32) - 1)
    judging = gan.load_judge(config, run_dir)
    assert found.splits == judging.scores(learner._gan.sample(noise), 4)


def test_the_frechet_distance_tells_real_images_from_an_untrained_generators(
    config, tmp_path, make, run_dir
):
    data, judging = gan.load_data(config), gan.load_judge(config, run_dir)
    _, features = judging.classify(dcgan.to_input(torch.from_numpy(data.held_out)))
    images, _ = data.training.batch(np.random.default_rng(0), 2_000)
    _, known = judging.classify(dcgan.to_input(torch.from_numpy(images)))
    near = gan.image_scores.frechet_distance(features, known)
    far = gan.score(saved(make(config), tmp_path / "new"), config, 0, run_dir).frechet
    assert far > 50 * near


def test_a_checkpoint_has_a_picture_of_what_its_generator_makes(config, tmp_path, make):
    learner = make(config)
    train(learner, 1)
    directory = saved(learner, tmp_path / "checkpoint")
    seen = matplotlib.image.imread(directory / "picture.png")
    noise = torch.from_numpy(2 * np.random.default_rng(0).random((36, 100), np.float32) - 1)
    images = dcgan.to_pixels(learner._gan.sample(noise))[:, 0].numpy()
    for n, image in enumerate(images):
        row, column = 32 * (n // 6), 32 * (n % 6)
        found = np.round(255 * seen[row : row + 32, column : column + 32])
        np.testing.assert_array_equal(found, image)


# Learning.


def test_the_score_rises(config, make):
    learner = make(
        config, width=8, batch_size=32, discriminator_steps=5, samples=200, evaluation_interval=10
    )
    scores = [
        np.mean([episode.episode_return for episode in one.episodes])
        for one in train(learner, 60)
        if one.episodes
    ]
    assert scores[0] < 1.8
    assert np.mean(scores[-2:]) > scores[0] + 0.8


# Other data, last, since a process keeps only one set.


def test_other_settings_or_data_have_a_classifier_of_their_own(tmp_path):
    data = judge.load_data(None, 0)
    other = judge.load_data(None, 1)
    assert not np.array_equal(data.held_out, other.held_out)
    for images, width, steps in ((data, 2, 3), (data, 3, 3), (data, 2, 4), (other, 2, 3)):
        judge.trained(images, tmp_path, width, steps)
    assert len(classifiers(tmp_path)) == 4


def test_coloured_images_are_learned_scored_and_shown(config, tmp_path, monkeypatch, make, run_dir):
    monkeypatch.setattr(cifar, "RECORDS", 30)
    rng = np.random.default_rng(0)
    for name in (*cifar.TRAINING, *cifar.TEST):
        records = rng.integers(0, 256, (30, 3_073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(tmp_path / name)
    changes = {"data": str(tmp_path), "classifier_steps": 3}
    coloured = dataclasses.replace(config, **changes)
    learner = make(coloured)
    assert len(train(learner, 4)[-1].episodes) == 5
    directory = saved(learner, tmp_path / "checkpoint")
    assert math.isfinite(gan.score(directory, coloured, 0, run_dir).frechet)
    assert matplotlib.image.imread(directory / "picture.png").shape == (192, 192, 3)
    nowhere = dataclasses.replace(coloured, data=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"data_batch_1\.bin cannot be read"):
        gan.load_data(nowhere)


# Settings.


def test_settings_go_to_json_and_back(config):
    changed = dataclasses.replace(config, copied="discriminator", data="somewhere", device="cpu")
    for one in (config, changed):
        stored = json.loads(json.dumps(one.to_json()))
        assert gan.GANConfig.from_json(stored) == one


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("width", 0, "width 0: use a whole number from 1 on"),
        ("batch_size", 1, "batch_size 1: use a whole number from 2 on"),
        ("discriminator_steps", 0, "discriminator_steps 0: use a whole number from 1"),
        ("evaluation_interval", 2.5, r"evaluation_interval 2\.5: use a whole number from 1"),
        ("classifier_steps", True, "classifier_steps True: use a whole number"),
        ("data_seed", -1, "data_seed -1: use a whole number from 0"),
        ("samples", 4, r"samples 4: use at least one per split \(5\)"),
        ("copied", "neither", "copied 'neither': use one of both, generator, discriminator"),
    ],
)
def test_refuses_bad_settings(config, setting, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **{setting: value})
