"""Settings and presets of the population commands: agents by environment, translators, GANs."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from agents import actor_critic, transformer, unreal
from envs import atari, doom, ids, lab, make, starcraft
from experiments import config
from experiments.members import gan, learner, translation
from pbt import run, space


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtariConfig(config.PopulationConfig):
    """Atari games. An agent step is 4 emulator frames. Scores are raw, learning clips rewards."""

    preset: Literal["default", "paper"] = "default"
    """Set of defaults that all other flags start from; described above."""
    game: str = "Pong"
    """Any of ALE's games by name (Pong, MsPacman) or id (ALE/Pong-v5), which sets the protocol."""
    protocol: Literal["a3c2016", "machado2018", "ale-v5"] | None = None
    """"a3c2016": no sticky actions, up to 30 no-ops, minimal action set. "machado2018": sticky
    actions 0.25, all 18 actions, 18,000 frames. "ale-v5": sticky actions 0.25, minimal action set,
    108,000 frames. Only in the first does a lost life end the return that members learn from.
    Default: "ale-v5" for an id like ALE/Pong-v5, else "a3c2016". See
    envs/atari.py."""

    def check(self) -> None:
        """See `PopulationConfig.check`."""
        super().check()
        find_game(self.game)

    def played_protocol(self) -> str:
        """Return the protocol in force."""
        return self.protocol or atari.usual_preset(self.game).name

    def labels(self, usual: config.EngineConfig) -> list[str]:
        """See `EngineConfig.labels`: the protocol comes first."""
        protocol = self.played_protocol()
        own = [] if protocol == atari.A3C2016.name else [protocol]
        return [*own, *super().labels(usual)]

    def learner_config(self) -> learner.LearnerConfig:
        """See `PopulationConfig.learner_config`."""
        return self.in_environment(find_game(self.game), self.played_protocol(), clip_rewards=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GymConfig(config.PopulationConfig):
    """Gymnasium environments and the suite's own small ones. Rewards are not clipped.

    Raises:
        ValueError: The environment has a command of its own, with other settings.
    """

    env: str = "CartPole-v1"
    """Any Gymnasium id, or module:EnvId if importing the module registers it."""
    env_kwargs: tuple[str, ...] = ()
    """Arguments of the environment's constructor, such as is_slippery=False."""
    reward_scale: float | None = None
    """Factor of the rewards that members learn from; default: a factor that is known to work in
    this environment, else 1. With discounted returns far above 1, the value's gradient drowns the
    policy's. Scores are raw."""

    def check(self) -> None:
        """See `PopulationConfig.check`."""
        super().check()
        plain, _ = ids.split(ids.join(self.env, self.env_kwargs))
        if own := _own_command(plain):
            raise ValueError(f"--env {self.env}: its settings are those of python -m {own}")
        if self.reward_scale is not None:
            check_reward_scale(self.reward_scale)

    def learned_scale(self) -> float:
        """Return the factor of rewards in force."""
        if self.reward_scale is None:
            return REWARD_SCALES.get(ids.split(self.env)[0], 1.0)
        return self.reward_scale

    def learner_config(self) -> learner.LearnerConfig:
        """See `PopulationConfig.learner_config`."""
        env_id = ids.join(self.env, self.env_kwargs)
        return self.in_environment(env_id, reward_scale=self.learned_scale())


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabConfig(config.PopulationConfig):
    """First-person levels. An agent step is 4 frames. Scores are raw, learning clips rewards."""

    preset: Literal["default", "paper"] = "default"
    """Set of defaults that all other flags start from; described above."""
    level: str = "MyWayHome"
    """Any of ViZDoom's levels by name; or Lab/NAME for a level of DeepMind Lab, which must be
    built."""

    def check(self) -> None:
        """See `PopulationConfig.check`."""
        super().check()
        find_level(self.level)

    def learner_config(self) -> learner.LearnerConfig:
        """See `PopulationConfig.learner_config`."""
        level = find_level(self.level)
        prefix = doom.PREFIX if isinstance(level, doom.Level) else lab.PREFIX
        return self.in_environment(
            prefix + level.name, clip_rewards=True, reward_scale=level.reward_scale
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StarCraftConfig(config.PopulationConfig):
    """StarCraft II mini-games. An agent step is 8 game loops. Rewards are not clipped."""

    preset: Literal["default", "paper"] = "default"
    """Set of defaults that all other flags start from; described above."""
    map: str = "MoveToBeacon"
    """Any of the seven mini-games, listed above."""
    resolution: int = 32
    """Pixels a side of screen and minimap."""
    reward_scale: float = 1.0
    """Factor of the rewards that members learn from. Scores are raw."""

    def check(self) -> None:
        """See `PopulationConfig.check`."""
        super().check()
        find_mini_game(self.map, self.resolution)
        check_reward_scale(self.reward_scale)

    def learner_config(self) -> learner.LearnerConfig:
        """See `PopulationConfig.learner_config`."""
        mini_game = find_mini_game(self.map, self.resolution)
        return self.in_environment(mini_game.env_id, reward_scale=self.reward_scale)


REWARD_SCALES = {"CartPole-v0": 0.05, "CartPole-v1": 0.05, "Pendulum-v1": 0.1}
"""Factors of rewards by environment. CartPole pays 1 per step, so discounted returns reach 100, and
Pendulum pays as little as -16. Unscaled, the gradient's norm is far above the clip of 0.5, and
policies that had learned to balance unlearned it."""

Family = TypeVar("Family", AtariConfig, GymConfig, LabConfig, StarCraftConfig)


def by_agent(*settings: Family) -> Mapping[str, Family]:
    """Return settings by agent: those given, and what follows from them.

    UNREAL's are the same with its auxiliary tasks. Those of FeUdal Networks are A3C's with longer
    unrolls.

    Args:
        *settings: Settings with the agents "a3c" and "ppo", the preset's own first.
    """
    own: dict[str, Family] = {one.agent: one for one in settings}
    for one in settings:
        agent: learner.AgentName = "unreal" if one.agent == "a3c" else "unreal-ppo"
        own[agent] = dataclasses.replace(one, agent=agent)
    for one in settings:
        if one.agent == "a3c":
            changes = _FEUDAL_PAPER if one.preset == "paper" else _FEUDAL
            own["feudal"] = dataclasses.replace(one, agent="feudal", **changes)
    return own


def _led_by(agent: str, agents: Mapping[str, Family]) -> Mapping[str, Family]:
    """Return the settings with those of one agent first, the preset's own."""
    return {agent: agents[agent], **agents}


def _ppo(settings: Family, **changes: Any) -> Family:
    """Return settings for PPO, with changes of the preset's own."""
    changed: Family = dataclasses.replace(settings, **{**_PPO, **changes})
    return changed


# The Manager looks 10 steps ahead, so unrolls are longer than that. Their graphs are kept up to a
# smaller size, since the same memory is spent on longer unrolls.
_FEUDAL: Mapping[str, Any] = {
    "unroll_length": config.Range((20, 80), (10, 400)),
    "settings": actor_critic.AgentConfig(graph_steps=1_000),
}
# Vezhnevets et al. 2017 (https://arxiv.org/abs/1703.01161), section 5, unroll 400 steps. Learning
# rate and entropy cost are drawn as there, which takes A3C's own loss scale and RMSProp. PBT adapts
# what Jaderberg et al. 2017 name for FuN (section 4.1).
_FEUDAL_PAPER: Mapping[str, Any] = {
    "unroll_length": config.Range((400, 400), (10, 400)),
    "settings": actor_critic.AgentConfig(package="paper", graph_steps=1_000),
    "learning_rate": config.Range((10**-4.5, 10**-3.5), (1e-6, 1e-1)),
    "entropy_cost": config.Range((1e-4, 1e-3), (1e-5, 1.0)),
    "adapt": ("learning_rate", "entropy_cost", "intrinsic_cost"),
}

_PPO: Mapping[str, Any] = {
    "agent": "ppo",
    "num_envs": 8,
    "learning_rate": config.Range((3e-4, 3e-3), (1e-6, 1e-1)),
    "unroll_length": config.Range((8, 32), (1, 64)),
    "settings": actor_critic.AgentConfig(precision="auto"),
}

# "paper" has the agent, population and ready interval of Jaderberg et al. 2017: 80 FuN agents per
# game. It publishes no priors: FuN has those of its own paper, the other agents have ours.
_ATARI_PAPER = AtariConfig(
    preset="paper",
    population=80,
    total_steps=80_000_000,
    report_interval=100_000,
    ready_interval=1_000_000,
)
ATARI: Mapping[str, Mapping[str, AtariConfig]] = {
    "default": by_agent(
        _ppo(AtariConfig(), total_steps=409_600, report_interval=10_240, ready_interval=20_480),
        AtariConfig(),
    ),
    "paper": _led_by("feudal", by_agent(_ATARI_PAPER, _ppo(_ATARI_PAPER))),
}

# In small environments a step costs little and learning from it is cheap: more epochs, more clip.
_GYM_PPO: Mapping[str, Any] = {
    "num_envs": 16,
    "epochs": config.Range((4, 4), (1, 10)),
    "clip_range": config.Range((0.2, 0.2), (0.01, 1.0)),
}
_GYM_QUICK = GymConfig(
    preset="quick",
    total_steps=160_000,
    report_interval=4_000,
    ready_interval=16_000,
)
_GYM_PAPER = GymConfig(
    preset="paper",
    population=40,
    total_steps=100_000_000,
    report_interval=100_000,
    ready_interval=1_000_000,
)
GYM: Mapping[str, Mapping[str, GymConfig]] = {
    "default": by_agent(
        _ppo(GymConfig(), **_GYM_PPO, total_steps=500_000, ready_interval=40_000), GymConfig()
    ),
    "quick": by_agent(_ppo(_GYM_QUICK, **_GYM_PPO, total_steps=96_000), _GYM_QUICK),
    "paper": by_agent(_GYM_PAPER, _ppo(_GYM_PAPER, **_GYM_PPO)),
}

# UNREAL is the paper's agent on DeepMind Lab. The prior of its pixel control cost is that of
# Jaderberg et al. 2016 (https://arxiv.org/abs/1611.05397) on Labyrinth.
# Some of ViZDoom's levels give 1 per tic for living, which is 0.04 per step as members learn it.
_LAB = LabConfig(
    pixel_control_cost=config.Range((1e-2, 1e-1), bounds=(1e-4, 1.0)),
    auxiliary=unreal.UNREALConfig(least_reward=0.05),
)
# Population and the shortest of the ready intervals are the paper's; priors as for Atari.
_LAB_PAPER = dataclasses.replace(
    _LAB,
    preset="paper",
    population=40,
    total_steps=100_000_000,
    report_interval=100_000,
    ready_interval=1_000_000,
)


LAB: Mapping[str, Mapping[str, LabConfig]] = {
    "default": _led_by("unreal", by_agent(_LAB, _ppo(_LAB))),
    "paper": _led_by("unreal", by_agent(_LAB_PAPER, _ppo(_LAB_PAPER))),
}


# Every environment is a game process of its own, so there are fewer of them.
_STARCRAFT = StarCraftConfig(num_envs=8, settings=actor_critic.AgentConfig(graph_steps=1_000))
# Population and ready interval are those of Jaderberg et al. 2017, whose A3C agents on StarCraft II
# adapt the learning rate alone (section 4.1). Unroll, entropy cost, resolution, steps and the prior
# of the learning rate are those of Vinyals et al. 2017 (https://arxiv.org/abs/1708.04782).
_STARCRAFT_PAPER = dataclasses.replace(
    _STARCRAFT,
    preset="paper",
    population=30,
    total_steps=600_000_000,
    report_interval=100_000,
    ready_interval=1_000_000,
    resolution=64,
    learning_rate=config.Range((1e-5, 1e-3), (1e-6, 1e-1)),
    entropy_cost=config.Range((1e-3, 1e-3), (1e-5, 1.0)),
    unroll_length=config.Range((40, 40), (1, 50)),
    settings=actor_critic.AgentConfig(package="paper", graph_steps=1_000),
    adapt=("learning_rate",),
)
STARCRAFT: Mapping[str, Mapping[str, StarCraftConfig]] = {
    "default": by_agent(_STARCRAFT, _ppo(_STARCRAFT)),
    "paper": by_agent(_STARCRAFT_PAPER),
}


_ADAM_RATE = config.Range((1e-4, 1e-1), (1e-6, 1.0))
_DROPOUT = config.Range((1e-3, 0.2), (1e-4, 0.9))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslationPopulation(config.EngineConfig):
    """A population of Transformers that translate. Counts are steps of Adam *per member*."""

    preset: Literal["default", "paper"] = "default"
    """Set of defaults that all other flags start from; described above."""
    total_steps: int = 1_200
    """Steps of each member, exact."""
    report_interval: int = 100
    """Steps between two commits to the store."""
    ready_interval: int = 100
    """Steps between two comparisons with other members."""
    data: Path | None = None
    """Directory of parallel text: train.en, train.de, valid.en, ...; default: generated number
    phrases."""
    languages: tuple[str, str] = ("en", "de")
    """Endings of the names of the text files, source first."""
    model: transformer.TransformerConfig = dataclasses.field(
        default_factory=transformer.TransformerConfig
    )
    """Sizes of the network."""
    batch_tokens: int = 192
    """Most target tokens of a batch, padding included."""
    label_smoothing: float = 0.1
    """Probability that the loss takes from the right token."""
    extra_length: int = 10
    """Most tokens that a translation is longer than its source."""
    evaluation_interval: int = 100
    """Steps between two evaluations, of ten batches of fresh validation sentences."""
    evaluation_sentences: int = 16
    """Sentences of each of these batches."""
    learning_rate: config.Range = _ADAM_RATE
    """Learning rate of Adam."""
    attention_dropout: config.Range = _DROPOUT
    """Dropout of the weights of attention."""
    relu_dropout: config.Range = _DROPOUT
    """Dropout of the hidden units of feed-forward layers."""
    residual_dropout: config.Range = _DROPOUT
    """Dropout of what is added to the residual stream."""

    def name(self) -> str:
        """See `EngineConfig.name`."""
        return "translation" if self.data is None else f"translation-{self.data.name}"

    def task(self) -> tuple[str, Mapping[str, Any]]:
        """See `EngineConfig.task`."""
        settings = translation.TranslationConfig(
            data=None if self.data is None else str(self.data),
            languages=self.languages,
            model=self.model,
            batch_tokens=self.batch_tokens,
            label_smoothing=self.label_smoothing,
            extra_length=self.extra_length,
            evaluation_interval_steps=self.evaluation_interval,
            evaluation_sentences=self.evaluation_sentences,
            device=self.device,
        )
        return translation.TASK, settings.to_json()

    def search_space(self) -> space.Space:
        """See `EngineConfig.search_space`."""
        dimensions = self.log_uniform(translation.HYPERPARAMETERS)
        return self.adapted(dimensions, translation.HYPERPARAMETERS)

    def check(self) -> None:
        """See `EngineConfig.check`."""
        super().check()
        self.task()
        if self.data is None and self.preset == "paper":
            raise ValueError("--preset paper: name the directory of the text with --data")


# "paper" is transformer_base_single_gpu of Tensor2Tensor at November 2017 with the population and
# ready interval of Jaderberg et al. 2017, section 4.2. Members are evaluated as often as they are
# ready, on about as many sentences as newstest2012 has. Decoding may add 50 tokens, as in Vaswani
# et al. 2017 (https://arxiv.org/abs/1706.03762), section 6.1.
TRANSLATION: Mapping[str, Mapping[str, TranslationPopulation]] = {
    "default": {"translator": TranslationPopulation()},
    "paper": {
        "translator": TranslationPopulation(
            preset="paper",
            population=32,
            total_steps=400_000,
            report_interval=2_000,
            ready_interval=2_000,
            model=transformer.PAPER,
            batch_tokens=2_048,
            extra_length=50,
            evaluation_interval=2_000,
            evaluation_sentences=300,
            device="cuda",
        )
    },
}


_GENERATOR_RATE = config.Range((1e-4, 1e-2), (1e-7, 1e-1))
_DISCRIMINATOR_RATE = config.Range((3e-5, 3e-3), (1e-7, 1e-1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GANPopulation(config.EngineConfig):
    """A population of GANs. Counts are updates, of 5 and 1 Adam steps by default, *per member*."""

    preset: Literal["default", "paper"] = "default"
    """Set of defaults that all other flags start from; described above."""
    population: int = 8
    """Number of members."""
    total_steps: int = 800
    """Updates of each member, exact."""
    report_interval: int = 40
    """Updates between two commits to the store, each with a picture of samples."""
    ready_interval: int = 80
    """Updates between two comparisons with other members."""
    exploit: run.Exploit = "truncation"
    """How a member chooses whom to copy; "none" is random search with equal budget."""
    perturb_factors: tuple[float, ...] = (0.5, 2.0)
    """Factors, one of which multiplies each adapted hyperparameter after a copy."""
    copy: Annotated[run.Copy, tyro.conf.Suppress] = "both"
    """What the engine copies: see `copied`."""
    copied: Annotated[gan.Copied, tyro.conf.arg(name="copy")] = "both"
    """Networks that a member copies from the better one, figure 5e of the paper. Hyperparameters
    are always copied."""
    data: Path | None = None
    """Directory of CIFAR-10's six binary files; default: generated images of digits."""
    width: int = 16
    """Channels of the widest images inside both networks. Layers with smaller images have more."""
    classifier_width: int = 16
    """The same of the classifier that scores the images."""
    classifier_steps: int = 600
    """Steps of training of this classifier, once per run."""
    batch_size: int = 64
    """Images of each step of either network."""
    discriminator_steps: int = 5
    """Steps of the discriminator in an update, before the one of the generator."""
    evaluation_interval: int = 40
    """Updates between two evaluations."""
    samples: int = 2_000
    """Fresh images of an evaluation."""
    splits: int = 10
    """Parts of these images, each of which gives one Inception score."""
    generator_learning_rate: config.Range = _GENERATOR_RATE
    """Learning rate of the generator's Adam."""
    discriminator_learning_rate: config.Range = _DISCRIMINATOR_RATE
    """Learning rate of the discriminator's Adam."""

    def name(self) -> str:
        """See `EngineConfig.name`."""
        return "gan" if self.data is None else f"gan-{self.data.name}"

    def task(self) -> tuple[str, Mapping[str, Any]]:
        """See `EngineConfig.task`."""
        settings = gan.GANConfig(
            data=None if self.data is None else str(self.data),
            width=self.width,
            classifier_width=self.classifier_width,
            classifier_steps=self.classifier_steps,
            batch_size=self.batch_size,
            discriminator_steps=self.discriminator_steps,
            evaluation_interval=self.evaluation_interval,
            samples=self.samples,
            splits=self.splits,
            copied=self.copied,
            device=self.device,
        )
        return gan.TASK, settings.to_json()

    def search_space(self) -> space.Space:
        """See `EngineConfig.search_space`."""
        names = tuple(gan.HYPERPARAMETERS)
        return self.adapted(self.log_uniform(names), names)

    def check(self) -> None:
        """See `EngineConfig.check`."""
        super().check()
        self.task()
        if self.data is None and self.preset == "paper":
            raise ValueError(
                "--preset paper: name the directory of CIFAR-10's binary files with --data"
            )


# "paper" has the population, exploit, explore and ready interval of Jaderberg et al. 2017, section
# 4.3, and the batches of Radford et al. 2015, section 4. The budget, the widths, the priors and the
# classifier's training are ours, since the paper leaves them open.
GAN: Mapping[str, Mapping[str, GANPopulation]] = {
    "default": {"gan": GANPopulation()},
    "paper": {
        "gan": GANPopulation(
            preset="paper",
            population=45,
            total_steps=100_000,
            report_interval=5_000,
            ready_interval=5_000,
            width=64,
            classifier_width=64,
            classifier_steps=20_000,
            batch_size=128,
            evaluation_interval=5_000,
            samples=10_000,
            device="cuda",
        )
    },
}


def find_game(name: str) -> str:
    """Return an Atari game's plain name, from that name or its id.

    Raises:
        ValueError: There is no such game; the message names close matches.
    """
    game = atari.find_game(name)
    if game is None:
        hint = _close_matches(name, {one.lower(): one for one in atari.games()})
        raise ValueError(
            f"--game {name}: unknown Atari game{hint} Names are like Pong or MsPacman. Other "
            "environments: python -m experiments.gym --env"
        )
    return game


def find_level(name: str) -> doom.Level | lab.Level:
    """Return a first-person level, from its plain name or its id.

    Raises:
        ValueError: There is no such level; the message names close matches.
    """
    if name in doom.LEVELS:
        return doom.LEVELS[name]
    try:
        level = make.find_level(name)
    except ValueError as error:
        raise ValueError(f"--level {name}: {error}") from error
    if level is not None:
        return level
    known = {one.lower(): one for one in doom.LEVELS}
    known |= {one.lower(): lab.PREFIX + one for one in lab.PUBLISHED}
    raise ValueError(
        f"--level {name}: unknown level{_close_matches(name, known)} There are "
        f"{', '.join(doom.LEVELS)}, and {lab.PREFIX}NAME for DeepMind Lab's. Other environments: "
        "python -m experiments.gym --env"
    )


def _own_command(env_id: str) -> str | None:
    """Return the command that trains in an environment if it is not `experiments.gym`."""
    if atari.find_game(env_id) is not None:
        return f"experiments.atari --game {env_id}"
    level = make.find_level(env_id)
    if level is not None:
        return f"experiments.lab --level {level.env_id}"
    mini_game = starcraft.find_mini_game(env_id)
    return None if mini_game is None else f"experiments.starcraft --map {mini_game.name}"


def find_mini_game(name: str, resolution: int) -> starcraft.MiniGame:
    """Return a mini-game, from its plain name or its id, with screen and minimap of this size.

    Raises:
        ValueError: There is no such mini-game or resolution; the message names close matches.
    """
    plain = name.removeprefix(starcraft.PREFIX)
    known = starcraft.MINI_GAMES
    if plain not in known:
        hint = _close_matches(plain, {one.lower(): one for one in known})
        raise ValueError(f"--map {name}: unknown mini-game{hint} There are {', '.join(known)}")
    least, most = starcraft.RESOLUTIONS
    if not least <= resolution <= most:
        raise ValueError(f"--resolution {resolution}: use {least} to {most}")
    return dataclasses.replace(known[plain], resolution=resolution)


def check_reward_scale(reward_scale: float) -> None:
    """Refuse a factor that is not above 0.

    Raises:
        ValueError: One line with the value given and the values allowed.
    """
    if not 0 < reward_scale < math.inf:
        raise ValueError(f"--reward-scale {reward_scale}: use a number above 0")


def _close_matches(name: str, known: Mapping[str, str]) -> str:
    """Return the end of a sentence that names close matches of a name, if there are any.

    Args:
        name: The unknown name.
        known: Names to suggest, by their form in lower case.
    """
    matches = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if not matches:
        return "."
    return f"; did you mean {' or '.join(known[match] for match in matches)}?"
