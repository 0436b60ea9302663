"""How a run was made, in words: environment, agent, population and hyperparameters."""

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from envs import atari
from experiments.analysis import schedule, tasks, units, wording
from pbt import run, space

Rows = list[tuple[str, str]]
"""Pairs of a setting's name and its value."""


def environment(config: run.RunConfig) -> str | None:
    """Return the environment's id in its shortest form; None for a task of another project."""
    env_id = config.task_config.get("env_id")
    if not isinstance(env_id, str):
        return None
    return _game(env_id) or env_id


def is_game(config: run.RunConfig) -> bool:
    """Return whether the environment is an Atari game."""
    return _game(environment(config) or "") is not None


def comparable(config: run.RunConfig) -> tuple[str, ...]:
    """Return what two runs must share for their scores to compare.

    That is the environment and, for an Atari game, the preset. For translators and GANs it is the
    data, and what else their score depends on.
    """
    name, settings = environment(config), config.task_config
    trained = tasks.trained(config)
    if trained == tasks.TRANSLATION:
        return ("translation", _text(settings))
    if trained == tasks.GAN:
        classifier = f"classifier {settings['classifier_width']} x {settings['classifier_steps']}"
        size = f"splits of {settings['samples'] // settings['splits']}"
        return ("images", _images(settings), f"seed {settings['data_seed']}", classifier, size)
    if name is None:
        return (config.task,)
    if _game(name) is None:
        return (name,)
    return (name, str(config.task_config.get("preset")))


def task_rows(config: run.RunConfig) -> Rows:
    """Describe what the members learn, in which environment or from which data, and themselves."""
    trained = tasks.trained(config)
    if trained == tasks.TRANSLATION:
        return _translator_rows(config.task_config)
    if trained == tasks.GAN:
        return _gan_rows(config.task_config)
    return _environment_rows(config) + _agent_rows(config)


def _text(settings: Mapping[str, Any]) -> str:
    if settings["data"] is None:
        return "generated number phrases, English to German"
    return f"{settings['data']}, {' to '.join(settings['languages'])}"


def _images(settings: Mapping[str, Any]) -> str:
    return "generated digits" if settings["data"] is None else f"CIFAR-10 in {settings['data']}"


def _translator_rows(settings: Mapping[str, Any]) -> Rows:
    model = settings["model"]
    return [
        ("Text", _text(settings)),
        ("Network", f"Transformer, {model['layers']} layers of width {model['width']}"),
        ("Batches", f"at most {settings['batch_tokens']:,} target tokens"),
        (
            "Scores",
            f"BLEU of batches of {settings['evaluation_sentences']:,} validation sentences, "
            f"translated greedily every {settings['evaluation_interval_steps']:,} steps",
        ),
    ]


def _gan_rows(settings: Mapping[str, Any]) -> Rows:
    steps, copied = settings["discriminator_steps"], settings["copied"]
    return [
        ("Images", _images(settings)),
        ("Networks", f"DCGAN of width {settings['width']}"),
        (
            "Update",
            f"{wording.counted(steps, 'step')} of the discriminator's Adam and 1 of the "
            f"generator's, each on {settings['batch_size']:,} images",
        ),
        ("Copied networks", "generator and discriminator" if copied == "both" else copied),
        (
            "Scores",
            f"Inception scores of {settings['splits']} splits of {settings['samples']:,} fresh "
            f"images every {settings['evaluation_interval']:,} updates, by a classifier that was "
            f"trained on the same data for {settings['classifier_steps']:,} steps",
        ),
    ]


def _environment_rows(config: run.RunConfig) -> Rows:
    """Describe the environment and how it is played."""
    settings, env_id = config.task_config, config.task_config.get("env_id")
    if not isinstance(env_id, str):
        return [("Task", f"{config.task}, not one of this suite's")]
    game = _game(env_id)
    preset = None
    with contextlib.suppress(ValueError, TypeError):
        preset = atari.find_preset(settings.get("preset", ""), env_id)
    rows = [("Environment", f"{game}, Atari" if game else env_id)]
    if game and preset is not None:
        sticky, lives = preset.repeat_action_probability, preset.life_loss_signal
        rows += [
            ("Preset", preset.name),
            ("Sticky actions", f"yes, with probability {sticky:g}" if sticky else "no"),
            ("No-op starts", f"0 to {preset.max_noops} frames" if preset.max_noops else "no"),
            ("Actions", "all 18" if preset.full_action_space else "those the game uses"),
            ("A lost life", f"ends {'the return learned from' if lives else 'nothing'}"),
            (
                "Frames",
                f"{atari.FRAMES_PER_STEP} per agent step; at most {preset.max_frames:,} a game",
            ),
        ]
    learned = [] if settings.get("reward_scale", 1.0) == 1.0 else [f"x {settings['reward_scale']}"]
    learned += ["clipped to [-1, 1]"] if settings.get("clip_rewards") else []
    rows.append(("Rewards learned from", ", then ".join(learned) or "raw"))
    rows.append(("Scores", "raw, undiscounted returns of whole games"))
    return rows


def _agent_rows(config: run.RunConfig) -> Rows:
    """Describe the agent."""
    settings: Mapping[str, Any] = config.task_config
    rows = []
    if "agent" in settings:
        fixed = settings.get("settings")
        core = fixed.get("core") if isinstance(fixed, Mapping) else None
        rows.append(("Agent", f"{settings['agent']}, {core} core" if core else settings["agent"]))
    if "num_envs" in settings:
        rows.append(("Environments per member", str(settings["num_envs"])))
    return [(what, str(how)) for what, how in rows]


def population_rows(config: run.RunConfig) -> Rows:
    """Describe how many members train, for how long, and how they exploit and explore."""
    words = units.of(config)
    rows = [
        ("Members", f"{config.population}"),
        (
            words.steps.capitalize(),
            f"{config.total_steps:,} each, {config.population * config.total_steps:,} in all",
        ),
    ]
    if config.exploit == "none":
        alone = "none: there is nobody to copy"
        search = "none: every member keeps its own draw (random search)"
        if schedule.followed(config) is not None:
            search = "none: all members follow one schedule (replay)"
        elif all(isinstance(one, space.Constant) for one in config.space.dimensions.values()):
            search = "none: all members have the same hyperparameters"
        rows.append(("Exploit", alone if config.population == 1 else search))
    else:
        how = {
            "t-test": f"t-test: Welch's, p below {config.significance:g} (two-sided), against one "
            "other member drawn at random",
            "truncation": f"truncation: the worst {config.truncation_fraction:.0%} copy one of the "
            f"best {config.truncation_fraction:.0%}",
            "binary-tournament": "binary tournament, against one other member drawn at random",
        }
        rows += [
            ("Ready", f"every {wording.counted(config.ready_interval, words.step, words.steps)}"),
            ("Exploit", how.get(config.exploit, config.exploit)),
            ("Copied", {"both": "weights and hyperparameters"}.get(config.copy, config.copy)),
            ("Explore", _explore(config)),
        ]
    rows.append(
        (
            "Training score",
            f"{units.of_last(config.window, words)}, once "
            f"{config.min_episodes} {'has' if config.min_episodes == 1 else 'have'} been counted "
            "since the last copy",
        )
    )
    return rows


def hyperparameter_rows(config: run.RunConfig) -> Rows:
    """Describe the prior and the bounds of each hyperparameter, and the schedule of a replay."""
    given, hyper = schedule.followed(config), config.space
    rows = []
    if given is not None:
        count = wording.counted(len(given.rows), "row")
        for name in given.names:
            first, last = (wording.value(given.used(at)[name]) for at in (0, given.length))
            how = f"{first} at first, {last} at last, on a schedule of {count}"
            rows.append((name.replace("_", " "), how))
    for name, dimension in hyper.dimensions.items():
        how = _dimension(dimension)
        if not isinstance(dimension, space.Constant) and name not in hyper.adapt:
            how += "; explore leaves it alone"
        rows.append((name.replace("_", " "), how))
    return rows


def flat(config: run.RunConfig) -> dict[str, str]:
    """Return every setting by name, as exact text.

    The prior and the bounds of a hyperparameter are one setting.
    """
    values = config.to_json()
    hyper = values.pop("space")
    given = schedule.followed(config)
    if given is not None:  # too long to be read, and shown in a figure
        digest = hashlib.sha256(json.dumps(given.to_json()).encode()).hexdigest()[:8]
        told = f"{wording.counted(len(given.rows), 'row')}, digest {digest}"
        values["task_config"] = {**values["task_config"], "schedule": told}
    found = _flat(values)
    for name, dimension in hyper["dimensions"].items():
        found[f"prior of {name}"] = ", ".join(
            f"{what} {_exact(value)}" for what, value in dimension.items() if value is not None
        ).removeprefix("kind ")
    found["adapted"] = _exact(list(hyper["adapt"]))
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    result: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            result |= _flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = _exact(value)
    return result


def _exact(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_exact, value)) or "none"
    return str(value)


def _explore(config: run.RunConfig) -> str:
    factors = " or ".join(f"{factor:g}" for factor in config.perturb_factors)
    how = {
        "perturb": f"perturb: each times {factors}",
        "resample": f"each anew from its prior with probability {config.resample_probability:g}, "
        f"else times {factors}",
        "gaussian": f"Gaussian noise, standard deviation {config.standard_deviation:g}",
    }
    names = ", ".join(name.replace("_", " ") for name in config.space.adapt)
    text = how.get(config.explore, config.explore)
    if config.explore == "none":
        return text
    when = ", whenever a member is ready" if config.explore_at == "ready" else ""
    return f"{text} ({names}){when}" if names else text + when


def _dimension(dimension: space.Dimension) -> str:
    if isinstance(dimension, space.Constant):
        return f"{wording.value(dimension.value)}, the same for all"
    if isinstance(dimension, space.Choice):
        return "one of " + ", ".join(f"{wording.value(value)}" for value in dimension.values)
    if isinstance(dimension, space.LogUniform | space.Uniform | space.IntUniform):
        is_log = isinstance(dimension, space.LogUniform) or getattr(dimension, "log", False)
        kind = ("log-uniform" if is_log else "uniform") + (
            ", rounded where used" if isinstance(dimension, space.IntUniform) else ""
        )
        low, high = dimension.reach
        limits = [wording.value(end) if math.isfinite(end) else "no limit" for end in (low, high)]
        return (
            f"drawn from {wording.value(dimension.low)} to {wording.value(dimension.high)} "
            f"({kind}); stays within {limits[0]} to {limits[1]}"
        )
    return str(dimension.to_json())


def _game(env_id: str) -> str | None:
    """Return the plain name of an Atari game; None for any other environment."""
    with contextlib.suppress(ValueError):
        return atari.find_game(env_id)
    return None
