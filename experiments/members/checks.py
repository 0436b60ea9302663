"""Refuse settings that do not fit each other, before a run is created."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from envs import make
from experiments.analysis import schedule, tasks
from experiments.members import gan, learner, translation
from pbt import run, slices, space, storage, store


class Description(NamedTuple):
    """What a run's members learn, for people."""

    protocol: str
    """What they learn, in one line."""
    frames_per_step: int | None = None
    """Emulator frames per step, where there is an emulator."""


def check(run_config: run.RunConfig) -> Description:
    """Refuse settings with which no member could be built, and describe what members learn.

    Raises:
        ValueError: One line with the value given and the way out.
    """
    check_device(run_config.task_config.get("device", "cpu"))
    if tasks.trained(run_config) == tasks.TRANSLATION:
        translating = translation.TranslationConfig.from_json(
            tasks.own_config(run_config.task_config)
        )
        translation.corpus(translating)  # raises if there is none
        return Description(f"translation: {translation.describe(translating)}")
    if tasks.trained(run_config) == tasks.GAN:
        generating = gan.GANConfig.from_json(tasks.own_config(run_config.task_config))
        gan.load_data(generating)  # raises if there is none
        return Description(f"images: {gan.describe(generating)}")
    if tasks.trained(run_config) != tasks.LEARNER:
        return Description(f"task: {run_config.task}")
    config = learner.LearnerConfig.from_json(run_config.task_config)
    spec = check_environment(config)
    config.check_unroll_length(*unroll_lengths(run_config))
    protocol = f"environment: {make.protocol(config.env_id, preset=config.preset)}"
    return Description(protocol, spec.frames_per_step if spec.is_atari else None)


def prepare(
    run_config: run.RunConfig,
    run_dir: Path,
    announce: Callable[[str], object] = lambda line: None,
) -> str | None:
    """Make what a run's members share and no worker should begin with; return a line about it.

    Only GANs share something: the classifier that scores them.

    Args:
        run_config: The run's settings.
        run_dir: The run's directory.
        announce: Called with one line before something that takes a while.

    Raises:
        OSError: It cannot be written.
    """
    if tasks.trained(run_config) != tasks.GAN:
        return None
    config = gan.GANConfig.from_json(tasks.own_config(run_config.task_config))
    if not gan.has_judge(run_dir):
        announce(f"training the classifier that scores images, {config.classifier_steps:,} steps")
    return f"classifier: {gan.load_judge(config, run_dir).accuracy:.1%} of held-out images right"


def check_environment(config: learner.LearnerConfig) -> make.EnvSpec:
    """Build a member's environment and agent once.

    Returns:
        The environment's description.

    Raises:
        ValueError: They cannot be built, or do not fit each other.
    """
    env_id, preset = config.env_id, config.preset
    try:
        spec = make.describe(env_id, preset=preset)
        envs = make.make_vec(env_id, 1, preset=preset)
    except ValueError:
        raise
    except Exception as error:  # an environment's own code may raise anything
        raise ValueError(f"{env_id} cannot be built: {type(error).__name__}: {error}") from error
    try:
        learner.make_agent(config, envs, seed=0)
    except ValueError as error:
        if "FlattenObservation" not in str(error):
            raise
        raise ValueError(f"{env_id}: {error}. {make.flattening(env_id)}") from error
    finally:
        envs.close()
    return spec


def check_device(name: str) -> None:
    """Refuse a torch device that is not here.

    Raises:
        ValueError: One line with the name and what to use.
    """
    if name.partition(":")[0] in ("gpu", "nvidia"):
        raise ValueError(f"--device {name}: unknown to PyTorch; did you mean cuda?")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # by kind of device
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(
                f"--device {name}: PyTorch finds no CUDA device on this machine; use cpu"
            ) from error
        said = str(error).partition(". ")[0].partition("\n")[0].rstrip(".")
        raise ValueError(f"--device {name}: {said}; use cpu, or cuda where there is one") from error


def unroll_lengths(run_config: run.RunConfig) -> tuple[int, int]:
    """Return the least and the largest unroll length that a member can come to have, in steps."""
    if (followed := schedule.followed(run_config)) is not None:
        lengths = [int(followed.used(steps)["unroll_length"]) for steps, _ in followed.rows]
        return min(lengths), max(lengths)
    unroll = run_config.space.dimensions["unroll_length"]
    if isinstance(unroll, space.IntUniform):
        if "unroll_length" in run_config.space.adapt:
            return int(unroll.reach[0]), int(unroll.reach[1])
        return unroll.low, unroll.high
    assert isinstance(unroll, space.Constant)
    return int(unroll.value), int(unroll.value)


def check_fork(run_config: run.RunConfig, fork: Path) -> None:
    """Load the checkpoint of a member of another run into a member of a new run.

    Args:
        run_config: The new run.
        fork: Directory of the other run.

    Raises:
        ValueError: The checkpoint does not fit the new run.
    """
    with store.Store.open(fork) as source:
        stored = source.config
        trained = [member for member in source.members() if member.checkpoint is not None]
    if tasks.current(stored.task) != tasks.current(run_config.task):
        raise ValueError(f"--fork {fork} trains {stored.task}, not {run_config.task}")
    if not trained:
        return  # `pbt.create.create_run` refuses such a run
    known = trained[0]
    assert known.checkpoint is not None
    weights = storage.of(fork).open_verified(known.checkpoint, known.id, known.version)
    factory = slices.named_factory(run_config.task)
    member = slices.build(factory, run_config.task_config, 0, 0)
    try:
        member.load(weights)
    except Exception as error:  # a task's own code may raise anything at foreign files
        said = textwrap.shorten(str(error), 200)
        raise ValueError(
            f"--fork {fork}: its members do not fit this run's ({said}): fork into the same "
            "environment, agent, core and package"
        ) from error
    finally:
        member.close()
