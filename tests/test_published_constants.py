"""Every constant that reproduces a paper, and every default of ours, in one table.

A source is a paper with its section, or says that the number is ours. "recalled" marks numbers of a
paper that were written down from memory.
"""

import dataclasses
import inspect

import numpy as np
import pytest
import scipy.stats
import torch
from ale_py import vector_env

from agents import (
    a3c,
    actor_critic,
    feudal,
    losses,
    networks,
    optimiser,
    policies,
    ppo,
    sequence_buffer,
    spatial,
    unreal,
)
from envs import atari, doom, first_person, lab, make, starcraft, toy
from experiments import cluster, config, presets
from experiments import toy as figure_2
from experiments.analysis import aggregates
from experiments.members import learner
from pbt import exploit, explore, run

A3C = "Mnih et al. 2016 (1602.01783)"
NATURE = "Mnih et al. 2015 (Human-level control), methods"
UNREAL = "Jaderberg et al. 2016 (1611.05397)"
PBT = "Jaderberg et al. 2017 (1711.09846)"
SC2LE = "Vinyals et al. 2017 (1708.04782)"
FUN = "Vezhnevets et al. 2017 (1703.01161)"
MACHADO = "Machado et al. 2018 (1709.06009)"
A2C = "OpenAI Baselines, A2C"
PPO = "Schulman et al. 2017 (1707.06347)"
BASELINES_PPO = "OpenAI Baselines, PPO2"
ZOO = "dqn_zoo, atari_data.py"
OURS = "ours"


def convolutions(kind):
    """(channels, kernel, stride) of each layer, and the width of the dense layer."""
    torso = networks.ConvTorso(kind, (4, 84, 84))
    layers = [(one.out_channels, one.kernel_size[0], one.stride[0]) for one in torso.convolutions]
    return (*layers, torso.dense.out_features)


def agent(obs_shape, **settings):
    return a3c.A3C(obs_shape, 6, False, actor_critic.AgentConfig(**settings), 1e-4, 0)


def changed(preset):
    """Fields of a preset that are not its class's defaults."""
    return {
        field.name: getattr(preset, field.name)
        for field in dataclasses.fields(preset)
        if getattr(preset, field.name) != getattr(type(preset)(), field.name)
    }


def two_sided(evidence):
    welch = scipy.stats.ttest_ind([1.0, 2.0, 4.0], [2.0, 3.0, 3.5], equal_var=False)
    return evidence["p"] == pytest.approx(welch.pvalue)


IMAGE = agent((4, 84, 84)).network
MANAGER_AND_WORKER = feudal.Feudal(
    (4, 84, 84), 6, False, actor_critic.AgentConfig(), feudal.FeudalConfig(), 1e-4, 0
).network
HEADS = unreal.Heads(256, 2_592, 6)
DECONVOLUTION = HEADS.pixel_control.streams
CHANGE = losses.pixel_change(torch.zeros(2, 1, 3, 84, 84, dtype=torch.uint8))
ALE = inspect.signature(vector_env.AtariVectorEnv).parameters
RUN = presets.ATARI["default"]["a3c"].run_config()
T_TEST = exploit.t_test(
    exploit.Candidate(0, (1.0, 2.0, 4.0), 2.3),
    [exploit.Candidate(1, (2.0, 3.0, 3.5), 2.8)],
    np.random.default_rng(0),
)
SPACE = {
    "learning_rate": config.Range((1e-3, 1e-2), (1e-5, 1e-1)),
    "entropy_cost": config.Range((1e-3, 2e-2), (1e-5, 1.0)),
    "unroll_length": config.Range((5, 20), (1, 50)),
}
SCALES = {"CartPole-v0": 0.05, "CartPole-v1": 0.05, "Pendulum-v1": 0.1}
LONG_RUN = {"total_steps": 100_000_000, "report_interval": 100_000, "ready_interval": 1_000_000}
LAB_COST = {
    "agent": "unreal",
    "pixel_control_cost": config.Range((1e-2, 1e-1), (1e-4, 1.0)),
    "auxiliary": unreal.UNREALConfig(least_reward=0.05),
}

AGENTS = [
    ("A3C: discount", actor_critic.AgentConfig().gamma, 0.99, f"{A3C}, section 5 and supplement 8"),
    ("A3C: core", actor_critic.AgentConfig().core, "lstm", f"{A3C}, section 4: A3C LSTM"),
    ("A3C: torso", actor_critic.AgentConfig().torso, "auto", OURS),
    ("A3C: width by default", actor_critic.AgentConfig().width, None, OURS),
    ("A3C: package", actor_critic.AgentConfig().package, "batched", OURS),
    ("A3C: value cost by default", actor_critic.AgentConfig().value_cost, None, OURS),
    ("A3C: largest kept graph", actor_critic.AgentConfig().graph_steps, 2_000, OURS),
    ("A3C: precision", actor_critic.AgentConfig().precision, "float32", OURS),
    ("PPO: rollout", ppo.PPOConfig().rollout_steps, 128, f"{PPO}, table 5 (Atari): horizon"),
    ("PPO: minibatch", ppo.PPOConfig().minibatch_steps, 128, f"{OURS}; 256 in {PPO}, table 5"),
    ("PPO: lambda", ppo.PPOConfig().trace, 0.95, f"{PPO}, table 5"),
    ("PPO: normalised advantages", ppo.PPOConfig().normalise_advantages, True, BASELINES_PPO),
    ("PPO: Adam's epsilon", ppo.PPOConfig().adam_epsilon, 1e-5, BASELINES_PPO),
    ("FeUdal: horizon", feudal.FeudalConfig().horizon, 10, f"{FUN}, section 4.1: c = r = 10"),
    ("FeUdal: embedding", feudal.FeudalConfig().embedding_size, 16, f"{FUN}, section 4: k = 16"),
    ("FeUdal: latent width", MANAGER_AND_WORKER.width, 256, f"{FUN}, section 4: d = 256"),
    ("FeUdal: latent state", feudal.FeudalConfig().latent, "relu", f"{FUN}, section 4"),
    ("FeUdal: Worker's discount", feudal.FeudalConfig().worker_gamma, 0.95, f"{FUN}, section 5.2"),
    ("FeUdal: Manager's discount", actor_critic.AgentConfig().gamma, 0.99, f"{FUN}, section 5.2"),
    ("FeUdal: random goals", feudal.FeudalConfig().random_goals, 0.01, f"{OURS}; small in {FUN}"),
    ("FeUdal: goals", feudal.FeudalConfig().goals, "learned", FUN),
    ("FeUdal: phi has no bias", MANAGER_AND_WORKER.worker.phi.bias, None, f"{FUN}, section 3"),
    (
        "FeUdal: units of both LSTMs",
        [one.core.hidden_size for one in (MANAGER_AND_WORKER.manager, MANAGER_AND_WORKER.worker)],
        [256, 256],
        f"{FUN}, section 4",
    ),
    (
        "FeUdal: first values",
        dict(feudal.Feudal.hyperparameters),
        {"entropy_cost": 0.01, "intrinsic_cost": 0.5},
        f"{OURS}; alpha is uniform from 0 to 1 in {FUN}, section 5",
    ),
    ("FeUdal: steps of a second pass", feudal.TORSO_STEPS, 32, OURS),
    (
        "PPO: first values",
        dict(ppo.PPO.hyperparameters),
        {"entropy_cost": 0.01, "unroll_length": 16, "clip_range": 0.1, "epochs": 2},
        f"{PPO}, table 5: entropy, clip; unroll length and epochs (3 there) are {OURS}",
    ),
    ("paper: time", optimiser.PAPER.time_reduction, "sum", f"{A3C}, algorithm S3"),
    ("paper: value cost", optimiser.PAPER.value_cost, 0.5, f"{A3C}, as implemented"),
    ("paper: RMSProp decay", optimiser.PAPER.decay, 0.99, f"{A3C}, supplement 8"),
    ("paper: RMSProp epsilon", optimiser.PAPER.epsilon, 0.1, f"{UNREAL}, replicas"),
    ("paper: gradient norm", optimiser.PAPER.max_gradient_norm, 40.0, f"{UNREAL}, replicas"),
    ("paper: centred images", optimiser.PAPER.centre_images, False, f"{A3C}, supplement 8"),
    ("paper: initialisation", optimiser.PAPER.initialisation, "fan-in", "torch's default"),
    ("batched: time", optimiser.BATCHED.time_reduction, "mean", A2C),
    ("batched: value cost", optimiser.BATCHED.value_cost, 0.25, f"{OURS}; half of {A2C}"),
    ("batched: RMSProp decay", optimiser.BATCHED.decay, 0.99, A2C),
    ("batched: RMSProp epsilon", optimiser.BATCHED.epsilon, 1e-5, A2C),
    ("batched: gradient norm", optimiser.BATCHED.max_gradient_norm, 0.5, A2C),
    ("batched: centred images", optimiser.BATCHED.centre_images, True, OURS),
    ("batched: initialisation", optimiser.BATCHED.initialisation, "orthogonal", A2C),
    ("packages", optimiser.PACKAGES["paper"] is optimiser.PAPER, True, OURS),
    ("head gains", dict(networks.GAINS), {"policy.linear": 0.01, "value": 1.0}, A2C),
    (
        "epsilon inside the root",
        [group["epsilon"] for group in agent((5,), package="paper").optimiser.param_groups],
        [0.1],
        f"{A3C}, equation S2; tests/agents/test_optimiser.py tests the root",
    ),
    (
        "A3C: convolutions",
        convolutions("a3c"),
        ((16, 8, 4), (32, 4, 2), 256),
        f"{A3C}, supplement 8",
    ),
    (
        "Nature: convolutions",
        convolutions("nature"),
        ((32, 8, 4), (64, 4, 2), (64, 3, 1), 512),
        NATURE,
    ),
    (
        "FullyConv: padded convolutions, with the kernels' side",
        spatial.CONVOLUTIONS,
        ((16, 5), (32, 3)),
        f"{SC2LE}, section 4.3",
    ),
    ("FullyConv: dense layer", spatial.FEATURES, 256, f"{SC2LE}, section 4.3"),
    ("FullyConv: planes of vectors", spatial.EMBEDDING, 16, OURS),
    ("FullyConv: hidden layer of places", spatial.HIDDEN, 32, f"{OURS}; none in {SC2LE}"),
    ("FullyConv: head gains", dict(spatial.GAINS), {**networks.GAINS, "policy.places": 0.01}, OURS),
    ("A3C: LSTM", IMAGE.core.hidden_size, 256, f"{A3C}, supplement 8"),
    ("A3C: torso of images", IMAGE.torso.width, 256, f"{A3C}, supplement 8"),
    ("LSTM inputs", IMAGE.core.input_size, 256 + 6 + 1, f"{UNREAL}, section 4"),
    ("width for vectors", agent((5,)).network.core_width, 64, OURS),
    ("rate of the mean image", networks.ConvTorso.MEAN_RATE, 1e-3, OURS),
    ("least log-std", policies.GaussianHead.LOG_STD_LOW, -4.0, OURS),
    ("largest log-std", policies.GaussianHead.LOG_STD_HIGH, 1.0, OURS),
    ("UNREAL: replay", unreal.UNREALConfig().replay_steps, 2_000, f"{UNREAL}, section 4"),
    (
        "UNREAL: pixel control discount",
        unreal.UNREALConfig().pixel_control_gamma,
        0.9,
        f"{UNREAL}, supplement 4",
    ),
    ("UNREAL: least reward", unreal.UNREALConfig().least_reward, 0.01, OURS),
    (
        "UNREAL: shared sequences",
        unreal.UNREALConfig().shared_sequences,
        True,
        f"{OURS}; {UNREAL} draws two sets",
    ),
    ("UNREAL: cells", tuple(CHANGE.shape[-2:]), (20, 20), f"{UNREAL}, supplement"),
    ("UNREAL: pixels per cell", 80 // CHANGE.shape[-1], 4, f"{UNREAL}, supplement"),
    (
        "UNREAL: maps",
        (HEADS.pixel_control.dense.out_features, DECONVOLUTION.in_channels),
        (32 * 9 * 9, 32),
        f"{UNREAL}, supplement",
    ),
    (
        "UNREAL: deconvolution",
        (DECONVOLUTION.kernel_size, DECONVOLUTION.stride, DECONVOLUTION.out_channels),
        ((4, 4), (2, 2), 1 + 6),
        f"{UNREAL}, supplement",
    ),
    (
        "UNREAL: frames of reward prediction",
        HEADS.reward_prediction[0].in_features // 2_592,
        3,
        f"{UNREAL}, section 3.2",
    ),
    (
        "UNREAL: units of reward prediction",
        HEADS.reward_prediction[0].out_features,
        128,
        f"{UNREAL}, supplement; recalled",
    ),
    (
        "UNREAL: classes of reward",
        HEADS.reward_prediction[2].out_features,
        3,
        f"{UNREAL}, section 3.2",
    ),
    ("UNREAL: skewed sampling", sequence_buffer.REWARDING_SHARE, 0.5, f"{UNREAL}, section 3.2"),
    (
        "UNREAL: head gains",
        dict(unreal.Heads.GAINS),
        {"pixel_control.streams": 0.01, "reward_prediction.2": 0.01},
        OURS,
    ),
]

ENVS = [
    ("Atari: frame skip", atari.FRAMES_PER_STEP, 4, NATURE),
    ("Atari: maximum over 2 frames", ALE["maxpool"].default, True, NATURE),
    (
        "Atari: observations",
        make.describe("Pong").single_observation_space.shape,
        (4, 84, 84),
        NATURE,
    ),
    ("Atari: frames in a stack", ALE["stack_num"].default, 4, NATURE),
    ("a3c2016: sticky actions", atari.A3C2016.repeat_action_probability, 0.0, f"{A3C}, section 5"),
    ("a3c2016: no-ops", atari.A3C2016.max_noops, 30, NATURE),
    ("a3c2016: all actions", atari.A3C2016.full_action_space, False, NATURE),
    ("a3c2016: FIRE reset", atari.A3C2016.fire_reset, False, OURS),
    ("a3c2016: longest episode", atari.A3C2016.max_frames, 108_000, "30 minutes of 60 Hz"),
    (
        "machado2018: sticky actions",
        atari.MACHADO2018.repeat_action_probability,
        0.25,
        f"{MACHADO}, section 5",
    ),
    ("machado2018: no-ops", atari.MACHADO2018.max_noops, 0, f"{MACHADO}, section 5"),
    ("machado2018: all actions", atari.MACHADO2018.full_action_space, True, f"{MACHADO}, table 5"),
    (
        "machado2018: number of actions",
        int(make.describe("Pong", preset="machado2018").single_action_space.n),
        18,
        f"{MACHADO}, section 5",
    ),
    ("machado2018: FIRE reset", atari.MACHADO2018.fire_reset, False, f"{MACHADO}, section 5"),
    (
        "machado2018: longest episode",
        atari.MACHADO2018.max_frames,
        18_000,
        f"{MACHADO}, section 5: 5 minutes of 60 Hz",
    ),
    (
        "machado2018: signal of lost lives",
        atari.MACHADO2018.life_loss_signal,
        False,
        f"{MACHADO}, section 4",
    ),
    ("ale-v5: signal of lost lives", atari.ALE_V5.life_loss_signal, False, "ale-py's registration"),
    ("presets", list(atari.PRESETS), ["a3c2016", "machado2018", "ale-v5"], OURS),
    ("first person: frames per step", first_person.FRAMES_PER_STEP, 4, f"{UNREAL}; recalled"),
    ("first person: observations", first_person.OBSERVATION_SHAPE, (3, 84, 84), f"{UNREAL}, 4"),
    ("Lab: frames per second", lab.FRAMES_PER_SECOND, 60, "DeepMind Lab's default"),
    (
        "Lab: actions",
        list(lab.ACTIONS.values()),
        [
            (-20, 0, 0, 0, 0, 0, 0),
            (20, 0, 0, 0, 0, 0, 0),
            (0, 0, -1, 0, 0, 0, 0),
            (0, 0, 1, 0, 0, 0, 0),
            (0, 0, 0, 1, 0, 0, 0),
            (0, 0, 0, -1, 0, 0, 0),
        ],
        f"the replica miyosuda/unreal; {UNREAL} does not list its actions",
    ),
    (
        "Doom: (actions, tics, reward scale)",
        {
            level.name: (len(level.actions), level.max_tics, level.reward_scale)
            for level in doom.LEVELS.values()
        },
        {
            "MyWayHome": (6, 2_100, 1.0),
            "HealthGathering": (6, 2_100, 0.01),
            "HealthGatheringSupreme": (6, 2_100, 0.01),
            "DeadlyCorridor": (7, 2_100, 0.01),
            "TakeCover": (3, 2_100, 0.01),
            "DefendCenter": (4, 2_100, 1.0),
            "DefendLine": (4, 2_100, 1.0),
            "PredictPosition": (4, 300, 1.0),
            "Basic": (4, 300, 0.01),
        },
        f"tics of ViZDoom's scenarios; actions and scales are {OURS}",
    ),
    ("StarCraft II: resolution", starcraft.RESOLUTION, 64, f"{SC2LE}; recalled"),
    ("StarCraft II: game loops per step", starcraft.GAME_LOOPS_PER_STEP, 8, f"{SC2LE}, section 4"),
    (
        "StarCraft II: time limits of maps that may end before, in seconds",
        {one.name: one.time_limit_s for one in starcraft.MINI_GAMES.values() if one.time_limit_s},
        {
            "FindAndDefeatZerglings": 180,
            "DefeatRoaches": 120,
            "DefeatZerglingsAndBanelings": 120,
        },
        "PySC2, docs/mini_games.md",
    ),
    (
        "Catch: board",
        inspect.signature(toy.Catch).parameters["rows"].default
        * inspect.signature(toy.Catch).parameters["columns"].default,
        10 * 5,
        "Osband et al. 2020 (1908.03568), Catch",
    ),
    ("Catch: columns", inspect.signature(toy.Catch).parameters["columns"].default, 5, "as above"),
]

ENGINE = [
    ("PBT: factors", explore.FACTORS, (0.8, 1.2), f"{PBT}, section 4.1"),
    ("PBT: factors of a run", RUN.perturb_factors, (0.8, 1.2), f"{PBT}, section 4.1"),
    ("PBT: resampling", RUN.resample_probability, 0.25, f"{OURS}; {PBT} says 'some probability'"),
    ("PBT: truncation", RUN.truncation_fraction, 0.2, f"{PBT}, section 4.1"),
    ("PBT: returns compared", RUN.window, 10, f"{PBT}, section 4.1"),
    ("PBT: returns by default", run.RunConfig.window, 10, f"{PBT}, section 4.1"),
    ("PBT: least episodes by default", run.RunConfig.min_episodes, 10, OURS),
    ("PBT: least episodes of 16 envs", RUN.min_episodes, 32, OURS),
    ("PBT: t-test level", RUN.significance, 0.05, f"{OURS}; {PBT} names none"),
    ("PBT: t-test is two-sided", two_sided(T_TEST.evidence), True, f"{OURS}; {PBT} is silent"),
    ("PBT: exploit", RUN.exploit, "t-test", f"{PBT}, section 4.1"),
    ("PBT: explore", RUN.explore, "perturb", f"{PBT}, section 4.1"),
    ("PBT: copied", RUN.copy, "both", f"{PBT}, section 4.1"),
    ("PBT: explores after a copy", RUN.explore_at, "exploit", f"{PBT}, algorithm 1"),
    ("PBT: noise", RUN.standard_deviation, 0.1, f"{PBT}, figure 2"),
    ("PBT: crashes allowed", RUN.max_attempts, 3, OURS),
    ("PBT: lease", RUN.lease_seconds, 60.0, OURS),
]

TOY = [
    ("toy: start", figure_2.START, (0.9, 0.9), f"{PBT}, figure 2"),
    ("toy: largest Q", figure_2.objective((0.0, 0.0)), 1.2, f"{PBT}, figure 2"),
    ("toy: dotted line", figure_2.CEILING, 1.2, f"{PBT}, figure 2"),
    (
        "toy: Q of grid search",
        round(figure_2.objective((0.0, 0.9)), 12),
        0.39,
        f"{PBT}, figure 2; recalled as 0.4",
    ),
    ("toy: step size", figure_2.LEARNING_RATE, 0.01, f"{PBT}, figure 2"),
    (
        "toy: gradient",
        figure_2.descend((1.0, 0.5), (1.0, 0.5)),
        (1.0 - 0.01 * 2, 0.5 - 0.01 * 2 * 0.5 * 0.5),
        f"{PBT}, figure 2: h * theta^2",
    ),
    ("toy: members", figure_2.FIRST_H, ((1.0, 0.0), (0.0, 1.0)), f"{PBT}, figure 2"),
    ("toy: ready interval", figure_2.READY_INTERVAL, 4, f"{PBT}, figure 2"),
    ("toy: steps", figure_2.ToyConfig().steps, 200, f"{PBT}, figure 2"),
    ("toy: noise", figure_2.ToyConfig().standard_deviation, 0.1, f"{PBT}, figure 2"),
    ("toy: exploit", figure_2.ToyConfig().exploit, "truncation", OURS),
    ("toy: copied", figure_2.ToyConfig().copy, "weights", f"{OURS}; replicas disagree"),
    ("toy: t-test level", figure_2.ToyConfig().significance, 0.05, OURS),
    ("toy: seed", figure_2.ToyConfig().seed, 0, OURS),
    (
        "toy: panels (exploit, explore)",
        {panel.name: (panel.exploits, panel.explores) for panel in figure_2.PANELS},
        {
            "pbt": (True, True),
            "explore-only": (False, True),
            "exploit-only": (True, False),
            "grid-search": (False, False),
        },
        f"{PBT}, figure 2",
    ),
    *(
        (
            f"toy: {panel.name}: (exploit, explore, at)",
            (told.exploit, told.explore, told.explore_at),
            expected,
            OURS,
        )
        for panel, expected in zip(
            figure_2.PANELS,
            (
                ("truncation", "gaussian", "ready"),
                ("none", "gaussian", "ready"),
                ("truncation", "none", "exploit"),
                ("none", "none", "exploit"),
            ),
            strict=True,
        )
        for told in [figure_2.run_config(figure_2.ToyConfig(), panel)]
    ),
]

DEFAULTS = {
    "preset": ("default", OURS),
    "agent": ("a3c", f"{PBT}, section 4.1, on StarCraft; {OURS} elsewhere"),
    "settings": (actor_critic.AgentConfig(), "rows above"),
    "ppo_settings": (ppo.PPOConfig(), "rows above"),
    "auxiliary": (unreal.UNREALConfig(), "rows above"),
    "feudal_settings": (feudal.FeudalConfig(), "rows above"),
    "population": (8, OURS),
    "workers": (None, OURS),
    "where": (cluster.THIS_MACHINE, OURS),
    "store": (None, OURS),
    "checkpoints": (None, OURS),
    "total_steps": (2_000_000, OURS),
    "report_interval": (20_000, OURS),
    "ready_interval": (100_000, OURS),
    "num_envs": (16, OURS),
    "exploit": ("t-test", f"{PBT}, section 4.1"),
    "explore": ("perturb", f"{PBT}, section 4.1"),
    "explore_at": ("exploit", f"{PBT}, algorithm 1"),
    "copy": ("both", f"{PBT}, section 4.1"),
    "significance": (0.05, OURS),
    "truncation_fraction": (0.2, f"{PBT}, section 4.1"),
    "perturb_factors": ((0.8, 1.2), f"{PBT}, section 4.1"),
    "resample_probability": (0.25, f"{OURS}; {PBT} says 'some probability'"),
    "learning_rate": (SPACE["learning_rate"], f"{OURS}; {PBT} published no priors"),
    "entropy_cost": (SPACE["entropy_cost"], f"{OURS}; {PBT} published no priors"),
    "unroll_length": (SPACE["unroll_length"], f"{OURS}; {PBT} published no priors"),
    "clip_range": (config.Range((0.1, 0.1), (0.01, 1.0)), f"{PPO}, table 5; bounds are {OURS}"),
    "epochs": (config.Range((2, 2), (1, 10)), f"{OURS}; 3 in {PPO}, table 5"),
    "pixel_control_cost": (
        config.Range((1e-4, 1e-2), (1e-6, 1.0)),
        f"{UNREAL}, supplement, Atari; the bounds are {OURS}",
    ),
    "reward_prediction_cost": (config.Range((1.0, 1.0), (1e-2, 100.0)), f"{UNREAL}, supplement"),
    "value_replay_cost": (config.Range((1.0, 1.0), (1e-2, 100.0)), f"{UNREAL}, supplement"),
    "intrinsic_cost": (
        config.Range((1e-2, 1.0), (1e-4, 10.0)),
        f"{FUN}, section 5: up to 1, uniform; lower end, logarithm and bounds are {OURS}",
    ),
    "adapt": (None, f"{PBT}, table 1: learning rate, entropy cost and unroll length"),
    "fixed": ((), OURS),
    "seed": (0, OURS),
    "device": ("cpu", OURS),
    "run_dir": (None, OURS),
    "fork": (None, OURS),
}
PRESETS = [
    *(
        (f"default: {name}", getattr(config.PopulationConfig(), name), value, source)
        for name, (value, source) in DEFAULTS.items()
    ),
    (
        "adapted",
        presets.LAB["default"]["unreal"].search_space().adapt,
        ("learning_rate", "entropy_cost", "unroll_length"),
        f"{PBT}, section 4.1.1",
    ),
    *(
        (f"GAN: {name}", getattr(presets.GAN["paper"]["gan"], name), value, source)
        for name, value, source in (
            ("population", 45, f"{PBT}, section 4.3, recalled"),
            ("ready_interval", 5_000, f"{PBT}, section 4.3: every 5,000 steps"),
            ("discriminator_steps", 5, f"{PBT}, section 4.3: 5 steps to 1 of the generator"),
            ("exploit", "truncation", f"{PBT}, section 4.3"),
            ("perturb_factors", (0.5, 2.0), f"{PBT}, section 4.3"),
            ("truncation_fraction", 0.2, f"{PBT}, section 3"),
            ("batch_size", 128, "Radford et al. 2015, section 4"),
        )
    ),
    (
        "GAN: adapted",
        presets.GAN["paper"]["gan"].search_space().adapt,
        ("generator_learning_rate", "discriminator_learning_rate"),
        f"{PBT}, section 4.3",
    ),
    ("Atari: default", changed(presets.ATARI["default"]["a3c"]), {}, OURS),
    ("Atari: game", presets.ATARI["default"]["a3c"].game, "Pong", OURS),
    ("Atari: protocol", presets.ATARI["default"]["a3c"].played_protocol(), "a3c2016", A3C),
    (
        "Atari: paper",
        changed(presets.ATARI["paper"]["a3c"]),
        {**LONG_RUN, "preset": "paper", "population": 80, "total_steps": 80_000_000},
        f"{PBT}, section 4.1.2: 80 members, recalled; ready after 1 to 10 million steps, supplement"
        f" A.1; steps of {A3C}, section 5; the report interval is {OURS}",
    ),
    (
        "Atari: FeUdal",
        changed(presets.ATARI["default"]["feudal"]),
        {
            "agent": "feudal",
            "unroll_length": config.Range((20, 80), (10, 400)),
            "settings": actor_critic.AgentConfig(graph_steps=1_000),
        },
        OURS,
    ),
    ("Atari: the paper's agent", next(iter(presets.ATARI["paper"])), "feudal", PBT),
    (
        "Atari: FeUdal in the paper",
        changed(presets.ATARI["paper"]["feudal"]),
        {
            **LONG_RUN,
            "preset": "paper",
            "agent": "feudal",
            "population": 80,
            "total_steps": 80_000_000,
            "unroll_length": config.Range((400, 400), (10, 400)),
            "settings": actor_critic.AgentConfig(package="paper", graph_steps=1_000),
            "learning_rate": config.Range((10**-4.5, 10**-3.5), (1e-6, 1e-1)),
            "entropy_cost": config.Range((1e-4, 1e-3), (1e-5, 1.0)),
            "adapt": ("learning_rate", "entropy_cost", "intrinsic_cost"),
        },
        f"{FUN}, section 5: unroll and priors; the bounds are {OURS}; the rest as Atari: paper",
    ),
    (
        "Atari: FeUdal's adapted hyperparameters in the paper",
        presets.ATARI["paper"]["feudal"].search_space().adapt,
        ("learning_rate", "entropy_cost", "intrinsic_cost"),
        f"{PBT}, section 4.1.2",
    ),
    ("Gym: default", changed(presets.GYM["default"]["a3c"]), {}, OURS),
    ("Gym: environment", presets.GYM["default"]["a3c"].env, "CartPole-v1", OURS),
    ("Gym: reward scale", presets.GYM["default"]["a3c"].reward_scale, None, OURS),
    ("Gym: scales", presets.REWARD_SCALES, SCALES, OURS),
    (
        "Gym: quick",
        changed(presets.GYM["quick"]["a3c"]),
        {
            "preset": "quick",
            "total_steps": 160_000,
            "report_interval": 4_000,
            "ready_interval": 16_000,
        },
        OURS,
    ),
    (
        "Gym: paper",
        changed(presets.GYM["paper"]["a3c"]),
        {**LONG_RUN, "preset": "paper", "population": 40},
        f"{PBT}, section 4.1.1, as on DeepMind Lab; steps and report interval are {OURS}",
    ),
    (
        "Lab: default",
        changed(presets.LAB["default"]["unreal"]),
        LAB_COST,
        f"{PBT}, section 4.1.1: UNREAL; pixel control on Labyrinth of {UNREAL}, supplement",
    ),
    ("Lab: level", presets.LAB["default"]["unreal"].level, "MyWayHome", OURS),
    (
        "Lab: paper",
        changed(presets.LAB["paper"]["unreal"]),
        {**LAB_COST, **LONG_RUN, "preset": "paper", "population": 40},
        f"{PBT}, section 4.1.1: 40 members, recalled; ready after 1 to 10 million steps, supplement"
        f" A.1; steps and report interval are {OURS}",
    ),
    (
        "StarCraft II: default",
        changed(presets.STARCRAFT["default"]["a3c"]),
        {"num_envs": 8, "settings": actor_critic.AgentConfig(graph_steps=1_000)},
        OURS,
    ),
    (
        "StarCraft II: paper",
        changed(presets.STARCRAFT["paper"]["a3c"]),
        {
            "preset": "paper",
            "num_envs": 8,
            "population": 30,
            "total_steps": 600_000_000,
            "report_interval": 100_000,
            "ready_interval": 1_000_000,
            "resolution": 64,
            "learning_rate": config.Range((1e-5, 1e-3), (1e-6, 1e-1)),
            "entropy_cost": config.Range((1e-3, 1e-3), (1e-5, 1.0)),
            "unroll_length": config.Range((40, 40), (1, 50)),
            "settings": actor_critic.AgentConfig(package="paper", graph_steps=1_000),
            "adapt": ("learning_rate",),
        },
        f"{PBT}, section 4.1: 30 members, recalled; the learning rate alone is adapted; {SC2LE}: "
        "unroll 40, entropy cost 0.001, 600 million steps; learning rate and resolution recalled; "
        f"report interval, environments and bounds are {OURS}",
    ),
    (
        "names",
        [list(one) for one in (presets.ATARI, presets.GYM, presets.LAB, presets.STARCRAFT)],
        [["default", "paper"], ["default", "quick", "paper"], *[["default", "paper"]] * 2],
        OURS,
    ),
    (
        "clipped rewards on Atari",
        presets.ATARI["default"]["a3c"].learner_config().clip_rewards,
        True,
        NATURE,
    ),
    (
        "clipped rewards in Gym",
        presets.GYM["default"]["a3c"].learner_config().clip_rewards,
        False,
        OURS,
    ),
    (
        "learned reward scale",
        presets.GYM["default"]["a3c"].learner_config().reward_scale,
        0.05,
        OURS,
    ),
    (
        "learner's defaults",
        dataclasses.asdict(learner.LearnerConfig("Pong", 1)),
        {
            "env_id": "Pong",
            "num_envs": 1,
            "preset": "a3c2016",
            "agent": "a3c",
            "settings": dataclasses.asdict(actor_critic.AgentConfig()),
            "ppo_settings": dataclasses.asdict(ppo.PPOConfig()),
            "auxiliary": dataclasses.asdict(unreal.UNREALConfig()),
            "feudal_settings": dataclasses.asdict(feudal.FeudalConfig()),
            "clip_rewards": False,
            "reward_scale": 1.0,
            "device": "cpu",
            "max_rebuilds": 3,
        },
        OURS,
    ),
]

SCORES = [
    (f"random and human score: {game}", aggregates.HUMAN_SCORES.get(game), scores, ZOO)
    for game, scores in {
        "Amidar": (5.8, 1719.5),
        "Breakout": (1.7, 30.5),
        "Enduro": (0.0, 860.5),
        "Gravitar": (173.0, 3351.4),
        "MsPacman": (307.3, 6951.6),
        "Pong": (-20.7, 14.6),
    }.items()
]

ROWS = [*AGENTS, *ENVS, *ENGINE, *TOY, *PRESETS, *SCORES]


@pytest.mark.parametrize(
    ("value", "expected", "source"),
    [row[1:] for row in ROWS],
    ids=[row[0] for row in ROWS],
)
def test_constant(value, expected, source):
    assert value == expected, source
    assert type(value) is type(expected), source


@pytest.mark.parametrize(
    ("listed", "existing"),
    [
        (DEFAULTS, [field.name for field in dataclasses.fields(config.PopulationConfig)]),
        (
            [row[0] for row in SCORES],
            [f"random and human score: {game}" for game in aggregates.HUMAN_SCORES],
        ),
        ([row[0] for row in ROWS], {row[0] for row in ROWS}),
    ],
    ids=["defaults", "scores", "names"],
)
def test_the_table_is_complete_and_names_each_row_once(listed, existing):
    assert sorted(listed) == sorted(existing)
