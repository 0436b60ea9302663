import dataclasses
import re

import numpy as np
import pytest

from agents import actor_critic, feudal, ppo, unreal
from experiments import atari, cli, gym, lab, presets
from experiments.members import gan, translation
from pbt import local

AGENT_FLAGS = {
    "core": ["feedforward"],
    "torso": ["nature"],
    "width": ["17"],
    "package": ["paper"],
    "gamma": ["0.5"],
    "value-cost": ["0.25"],
    "graph-steps": ["123"],
    "precision": ["bfloat16"],
}
PPO_FLAGS = {
    "rollout-steps": ["99"],
    "minibatch-steps": ["77"],
    "trace": ["0.5"],
    "no-normalise-advantages": [],
    "adam-epsilon": ["0.25"],
}
UNREAL_FLAGS = {
    "replay-steps": ["4321"],
    "pixel-control-gamma": ["0.8"],
    "least-reward": ["0.125"],
    "no-shared-sequences": [],
}
FEUDAL_FLAGS = {
    "horizon": ["7"],
    "embedding-size": ["5"],
    "worker-gamma": ["0.8"],
    "random-goals": ["0.125"],
    "latent": ["linear"],
    "goals": ["fixed"],
}


FAMILIES = (presets.GYM, presets.ATARI, presets.LAB, presets.STARCRAFT)


def parse(*args):
    return cli.parse(presets.GYM, "", list(args))


@pytest.mark.parametrize("args", [["--preset", "quick"], ["--preset=quick"]])
def test_a_preset_is_where_the_other_flags_start_from(args):
    quick = presets.GYM["quick"]["ppo"]
    assert parse(*args) == quick
    changed = parse(*args, "--population", "3")
    assert (changed.population, changed.total_steps) == (3, quick.total_steps)
    assert parse().preset == "default"


@pytest.mark.parametrize(
    "settings",
    [one for family in FAMILIES for agents in family.values() for one in agents.values()],
    ids=lambda settings: f"{type(settings).__name__}-{settings.preset}",
)
def test_every_preset_makes_a_run(settings):
    settings.check()
    stored = settings.run_config()
    assert stored.step_multiple == settings.num_envs
    assert stored.min_episodes >= 2 * settings.num_envs
    adapted = {"learning_rate", "entropy_cost", "unroll_length"}
    if settings.agent == "feudal":
        adapted |= {"intrinsic_cost"}
        adapted -= {"unroll_length"} if settings.preset == "paper" else set()
    if isinstance(settings, presets.StarCraftConfig) and settings.preset == "paper":
        adapted = {"learning_rate"} if settings.agent != "feudal" else adapted
    assert set(stored.space.adapt) == adapted


def test_presets_are_named_by_what_they_are():
    for family in FAMILIES:
        for name, by_agent in family.items():
            for agent, settings in by_agent.items():
                assert (settings.preset, settings.agent) == (name, agent)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_agent_brings_the_defaults_that_fit_it(family):
    for agent, settings in family["default"].items():
        assert cli.parse(family, "", ["--agent", agent]) == settings
    assert cli.parse(family, "", []) == next(iter(family["default"].values()))
    of_ppo, of_a3c = family["default"]["ppo"], family["default"]["a3c"]
    assert of_ppo.learning_rate.prior[1] < of_a3c.learning_rate.prior[1]
    assert cli.parse(family, "", ["--agent=ppo", "--num-envs", "5"]).num_envs == 5


def test_an_unknown_agent_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit):
        parse("--agent", "dqn")
    assert capsys.readouterr().err == (
        "error: --agent dqn: choose from ppo, a3c, unreal-ppo, unreal, feudal\n"
    )


def test_ppos_hyperparameters_can_be_adapted_and_fixed():
    ranges = ("--epochs.prior", "1", "4", "--clip-range.prior", "0.05", "0.3")
    adapt = ("--adapt", "learning_rate", "clip_range", "epochs")
    space = parse("--agent", "ppo", *ranges, *adapt).search_space()
    assert set(space.adapt) == {"learning_rate", "clip_range", "epochs"}
    drawn = space.sample(np.random.default_rng(0))
    assert 0.05 <= drawn["clip_range"] <= 0.3
    assert space.used(drawn)["epochs"] in (1, 2, 3, 4)
    fixed = parse("--agent", "ppo", "--fixed", "epochs=2").search_space()
    assert fixed.dimensions["epochs"].value == 2
    for arguments in (("--adapt", "epochs"), ("--fixed", "clip_range=0.2")):
        with pytest.raises(SystemExit):
            parse("--agent", "a3c", *arguments)


@pytest.mark.parametrize("flags", [("--fixed", "epochs=0.5"), ("--epochs.prior", "1.5", "3")])
def test_epochs_are_whole(flags, capsys):
    with pytest.raises(SystemExit):
        parse("--agent", "ppo", *flags)
    assert "whole number" in capsys.readouterr().err


def test_ppo_refuses_the_papers_package(capsys):
    with pytest.raises(SystemExit):
        parse("--agent", "ppo", "--package", "paper")
    assert capsys.readouterr().err.startswith("error: package 'paper' is A3C's: use package")


def test_flags_of_a_range():
    settings = parse("--learning-rate.prior", "1e-4", "1e-2", "--learning-rate.bounds", "1e-6", "1")
    dimension = settings.search_space().dimensions["learning_rate"]
    assert (dimension.low, dimension.high, dimension.bounds) == (1e-4, 1e-2, (1e-6, 1.0))


def test_flags_reach_every_setting_of_the_agents():
    def flags(given):
        return [argument for flag, values in given.items() for argument in (f"--{flag}", *values)]

    of_replay = {**AGENT_FLAGS, "package": ["batched"]} | PPO_FLAGS | UNREAL_FLAGS
    for family in FAMILIES:
        settings = cli.parse(family, "", [*flags(of_replay), "--agent", "unreal-ppo"])
        levels = cli.parse(family, "", [*flags(FEUDAL_FLAGS), "--agent", "feudal"])
        task_config = settings.run_config().task_config
        assert task_config["settings"] == {
            "core": "feedforward",
            "torso": "nature",
            "width": 17,
            "package": "batched",
            "gamma": 0.5,
            "value_cost": 0.25,
            "graph_steps": 123,
            "precision": "bfloat16",
        }
        assert dataclasses.asdict(settings.ppo_settings) == {
            "rollout_steps": 99,
            "minibatch_steps": 77,
            "trace": 0.5,
            "normalise_advantages": False,
            "adam_epsilon": 0.25,
        }
        assert task_config["auxiliary"] == {
            "replay_steps": 4321,
            "pixel_control_gamma": 0.8,
            "least_reward": 0.125,
            "shared_sequences": False,
        }
        assert dataclasses.asdict(levels.feudal_settings) == {
            "horizon": 7,
            "embedding_size": 5,
            "worker_gamma": 0.8,
            "random_goals": 0.125,
            "latent": "linear",
            "goals": "fixed",
        }
        # None of them is its default, so each flag has set its own.
        for given, default in (
            (settings.settings, actor_critic.AgentConfig()),
            (settings.ppo_settings, ppo.PPOConfig()),
            (settings.auxiliary, unreal.UNREALConfig()),
            (levels.feudal_settings, feudal.FeudalConfig()),
        ):
            for field in dataclasses.fields(default):
                if field.name != "package":
                    assert getattr(given, field.name) != getattr(default, field.name)
    assert parse("--agent", "a3c", "--package", "paper").settings.package == "paper"


GROUPS = {
    "agent options": (AGENT_FLAGS, "Settings of the agent, the same for all members"),
    "PPO options": (PPO_FLAGS, "Settings of PPO."),
    "UNREAL options": (UNREAL_FLAGS, "Settings of UNREAL's auxiliary tasks."),
    "FeUdal options": (FEUDAL_FLAGS, "Settings of FeUdal Networks."),
}
RANGES = {
    "PPO options": ("clip-range", "epochs"),
    "UNREAL options": ("pixel-control-cost", "reward-prediction-cost", "value-replay-cost"),
    "FeUdal options": ("intrinsic-cost",),
}


@pytest.mark.parametrize(
    ("module", "agent", "titles"),
    [
        (atari, "ppo", {"agent options", "PPO options"}),
        (gym, "a3c", {"agent options"}),
        (lab, "unreal", {"agent options", "UNREAL options"}),
        (gym, "unreal-ppo", set(GROUPS) - {"FeUdal options"}),
        (atari, "feudal", {"agent options", "FeUdal options"}),
    ],
)
def test_help_shows_the_flags_of_the_agent_and_of_no_other(command, here, module, agent, titles):
    result = command(module, "--agent", agent, "--help")
    assert result.code == 0
    _, *parts = re.split(r"^\W*((?:\S+ )?options) *\W*$", result.out, flags=re.MULTILINE)
    boxes = dict(zip(parts[::2], parts[1::2], strict=True))  # text by title
    assert "--population" in boxes["options"]
    for title, (flags, description) in GROUPS.items():
        for flag in flags:
            assert (title in titles) == (f"--{flag}" in boxes.get(title, ""))
        for flag in RANGES.get(title, ()):
            assert (title in titles) == (f"--{flag}.prior" in result.out)
        assert (title in titles) == (description in boxes.get(title, ""))


def test_one_number_holds_a_hyperparameter_and_two_are_its_prior():
    fixed = parse("--learning-rate", "1e-3", "--unroll-length=7", "--population", "3")
    assert fixed == parse("--fixed", "learning_rate=1e-3", "unroll_length=7", "--population", "3")
    assert fixed.search_space().adapt == ("entropy_cost",)
    both = parse("--fixed", "entropy_cost=0", "--learning_rate", "1e-3")
    assert set(both.fixed) == {"entropy_cost=0", "learning_rate=1e-3"}
    assert parse("--learning-rate", "1e-4", "1e-3") == parse(
        "--learning-rate.prior", "1e-4", "1e-3"
    )


def test_whole_numbers_may_be_written_with_an_exponent():
    assert parse("--total-steps", "1e6", "--workers", "2e0").total_steps == 1_000_000
    assert parse("--total-steps", "1_000_000") == parse("--total-steps", "1000000")


def test_fixed_hyperparameters_are_constant_and_not_adapted():
    space = parse("--fixed", "learning_rate=7e-4", "entropy_cost=0").search_space()
    assert space.adapt == ("unroll_length",)
    drawn = space.sample(np.random.default_rng(0))
    assert (drawn["learning_rate"], drawn["entropy_cost"]) == (7e-4, 0.0)
    everything = parse("--fixed", "learning_rate=1", "entropy_cost=1", "unroll_length=7")
    assert everything.search_space().adapt == ()


def test_adapt_chooses_what_explore_changes():
    space = parse("--agent", "a3c", "--adapt", "entropy_cost").search_space()
    assert space.adapt == ("entropy_cost",)
    assert len(space.dimensions) == 3


def test_the_strategies_have_flags():
    stored = parse(
        *("--perturb-factors", "0.5", "2", "--truncation-fraction", "0.25"),
        *("--resample-probability", "0.1", "--exploit", "truncation"),
    ).run_config()
    assert (stored.perturb_factors, stored.truncation_fraction) == ((0.5, 2.0), 0.25)
    assert (stored.resample_probability, stored.exploit) == (0.1, "truncation")


def test_fixing_one_hyperparameter_does_not_change_the_others_first_draws():
    free, fixed = parse(), parse("--fixed", "unroll_length=5")
    drawn = [one.search_space().sample(np.random.default_rng(3)) for one in (free, fixed)]
    # Drawn in the order of names, of which unroll_length is the last.
    assert drawn[0]["learning_rate"] == drawn[1]["learning_rate"]


def test_workers_are_at_most_one_per_member_unless_given():
    assert parse("--population", "1").num_workers() == 1
    assert parse("--population", "1", "--workers", "3").num_workers() == 3
    assert parse("--population", "1000").num_workers() == local.available_cores()


def test_help_is_readable(capsys):
    with pytest.raises(SystemExit) as error:
        parse("--help")
    assert error.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--env", "--population", "--fixed", "--learning-rate.prior", "--fork", "--adapt"):
        assert flag in text
    assert max(map(len, text.splitlines())) < 130


@pytest.mark.parametrize("name", ["Pong", "ALE/Pong-v5"])
def test_a_game_has_one_name(name):
    assert presets.find_game(name) == "Pong"


@pytest.mark.parametrize(
    ("args", "protocol"),
    [
        (["--game", "Pong"], "a3c2016"),
        (["--game", "ALE/Pong-v5"], "ale-v5"),
        (["--game", "ALE/Pong-v5", "--protocol", "a3c2016"], "a3c2016"),
        (["--protocol", "machado2018"], "machado2018"),
    ],
)
def test_an_id_of_ale_asks_for_its_protocol(args, protocol):
    made = cli.parse(presets.ATARI, "", args).learner_config()
    assert (made.env_id, made.preset) == ("Pong", protocol)


def test_rewards_are_scaled_where_a_scale_is_known_unless_told():
    assert presets.GYM["quick"]["a3c"].learned_scale() == presets.REWARD_SCALES["CartPole-v1"] < 1
    assert parse("--env", "Acrobot-v1").learned_scale() == 1.0
    assert parse("--reward-scale", "0.5").learned_scale() == 0.5


def test_a_population_and_its_learners_have_the_same_defaults():
    assert presets.GANPopulation().task()[1] == gan.GANConfig().to_json()
    assert presets.TranslationPopulation().task()[1] == translation.TranslationConfig().to_json()
