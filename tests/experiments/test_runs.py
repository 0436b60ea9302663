"""Runs from Python: their tables, their agents, and policies without this suite."""

import inspect
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from gymnasium import spaces

import experiments
from agents import spatial
from envs import make
from experiments import export, gym, runs, toy
from experiments.members import actor, episodes, learner, policy, portable
from pbt import create, store

TINY = (
    *("--population", "1", "--workers", "1", "--num-envs", "4", "--total-steps", "800"),
    *("--report-interval", "400", "--ready-interval", "800", "--run-dir", "run"),
)


@pytest.fixture
def trained(command, here, one_process):
    """The directory of a run of one agent."""

    def train(*arguments):
        result = command(gym, *arguments, *TINY)
        assert result.code == 0, result
        return Path("run")

    return train


def cells(frame):
    """The values of a frame, row by row, with None for what is missing."""
    rows = frame.astype(object).to_numpy().tolist()
    return [[None if pd.isna(value) else value for value in row] for row in rows]


def test_a_run_is_read_as_its_export_writes_it(tmp_path, command):
    settings = toy.ToyConfig(run_dir=tmp_path, steps=40)
    assert toy.train_panel(settings, toy.PANELS[0])
    run_dir = tmp_path / toy.PANELS[0].name
    assert command(export, run_dir).code is None
    read = experiments.load_run(str(run_dir))
    for name in ("members", "versions", "reports", "episodes", "events"):
        frame = pd.DataFrame(getattr(read, name))
        written = pd.read_csv(run_dir / "export" / f"{name}.csv")
        assert list(frame.columns) == list(written.columns)
        assert cells(frame) == cells(written)
    with store.Store.open(run_dir) as run_store:
        best = max(run_store.members(), key=lambda member: member.score)
    assert read.best == best.id
    assert read.score.mean == best.score
    schedule = pd.DataFrame(read.schedule)
    assert list(schedule.columns) == ["agent_steps", "h_0", "h_1", "member", "version"]
    assert schedule["agent_steps"].iloc[-1] == read.members["training"][best.id]
    assert schedule["member"].iloc[-1] == best.id
    assert read.config.total_steps == 40


def test_a_run_that_has_not_begun_has_columns(tmp_path):
    create.create_run(tmp_path / "run", toy.run_config(toy.ToyConfig(), toy.PANELS[0])).close()
    read = experiments.load_run(tmp_path / "run")
    assert read.best is None
    assert read.score is None
    assert "mean_return" in pd.DataFrame(read.reports).columns
    assert len(pd.DataFrame(read.members)) == 2
    assert pd.DataFrame(read.schedule).empty
    with pytest.raises(store.StoreError, match="does not exist"):
        experiments.load_run(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_an_agent_acts_as_it_does_in_training(trained):
    """The actor of training and evaluation, in the same environment, is the second version."""
    run_dir = trained("--env", "RepeatPrevious", "--agent", "a3c")
    with store.Store.open(run_dir) as run_store:
        agent, config = episodes.load_agent(run_store, run_dir, run_store.member(0), 7)
    player = actor.Actor(
        agent, make.make_vec(config.env_id, 1), config.clip_rewards, config.reward_scale
    )
    loaded = experiments.load_agent(run_dir, 0, seed=7)
    env = loaded.make_env()
    for seed in (5, 6):
        player.reset([seed])
        obs, _ = env.reset(seed=seed)
        reward, done, total = 0.0, False, 0.0
        loaded.reset()
        while not done:
            action = loaded.act(obs, reward)
            obs, reward, terminated, truncated, _ = env.step(action)
            transition = player.step()
            assert action == int(transition.step.action)
            for mine, its in zip(loaded._state, transition.step.state, strict=True):
                torch.testing.assert_close(mine, its, rtol=0, atol=0)
            done, total = terminated or truncated, total + reward
        ((_, episode_return, _),) = transition.finished
        assert total == episode_return
    env.close()
    player.envs.close()


@pytest.mark.parametrize("agent", ["a3c", "feudal"])
def test_a_deterministic_agent_never_draws(trained, agent):
    run_dir = trained("--env", "RepeatPrevious", "--agent", agent)
    played = []
    for seed, deterministic in ((0, True), (1, True), (1, False)):
        loaded = experiments.load_agent(run_dir, 0, seed=seed, deterministic=deterministic)
        env = loaded.make_env()
        obs, _ = env.reset(seed=3)
        actions, reward, done = [], 0.0, False
        while not done:
            actions.append(int(loaded.act(obs, reward)))
            obs, reward, terminated, truncated, _ = env.step(actions[-1])
            done = terminated or truncated
        played.append(actions)
    assert played[0] == played[1] != played[2]


def test_the_example_on_the_page_works(trained, here, capsys):
    text = (Path(__file__).parents[2] / "docs/run-directory.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text.partition("## From Python")[2], re.DOTALL)
    run_dir = here / "results/runs/gym-CartPole-v1"
    run_dir.parent.mkdir(parents=True)
    trained("--env", "CartPole-v1", "--agent", "a3c").rename(run_dir)
    names = {}
    exec(compile(block, "run-directory.md", "exec"), names)
    assert names["done"]
    assert names["run"].score.is_fresh
    assert "metric/value/mean" in capsys.readouterr().out


def test_an_agent_says_what_it_lacks(trained):
    run_dir = trained("--env", "Catch", "--agent", "a3c")
    agent = experiments.load_agent(run_dir, 0)
    env = agent.make_env()
    obs, _ = env.reset(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.act(obs)  # there is no last reward at the first step
        agent.act(obs, 0.0)
        agent.act(obs, first=True)
    with pytest.warns(UserWarning, match=r"write act\(observation, reward\)"):
        agent.act(obs)
    with pytest.raises(ValueError, match=r"has the shape \(3,\)"):
        agent.act([1, 2, 3])
    with pytest.raises(ValueError, match="member 1: use a number from 0 to 0, or leave it out"):
        experiments.load_agent(run_dir, 1)


def test_a_foreign_environment_is_refused_without_trust(trained):
    run_dir = trained("--env", "small_envs:Length-v0", "--agent", "a3c")
    with pytest.raises(ValueError, match=r"executes the module 'small_envs'.*trust=True"):
        experiments.load_agent(run_dir)
    assert experiments.load_agent(run_dir, 0, trust=True).act([0.0]) in (0, 1)


ALONE = """
import sys
for name in ("agents", "envs", "pbt", "experiments"):
    sys.modules[name] = None  # importing it fails
import torch
import policy
loaded = policy.load(".")
inputs = torch.load("inputs.pt", weights_only=True)
outputs = []
state = inputs["state"]
with torch.no_grad():
    for one in inputs["steps"]:
        parameters, value, state = loaded.step(*one, state)
        outputs.append((parameters, value))
torch.save(outputs, "outputs.pt")
(obs,) = loaded.description["observation"]
print(type(loaded.act(torch.zeros(obs["shape"]).numpy())).__name__)
"""


def test_an_exported_policy_needs_nothing_of_the_suite(trained, command):
    run_dir = trained("--env", "Catch", "--agent", "a3c")
    result = command(export, run_dir, "--to", "torch", "--member", "0")
    assert result.code is None, result
    out = run_dir / "export" / "policy"
    assert {path.name for path in out.iterdir()} == set(portable.FILES)
    described = json.loads((out / "policy.json").read_text())
    assert (described["run"], described["member"], described["agent_steps"]) == ("run", 0, 800)
    loaded = experiments.load_agent(run_dir, 0)
    rng = np.random.default_rng(0)
    (obs,) = described["observation"]
    steps, expected = [], []
    state = loaded.agent.initial_state(3)
    given = {"state": state, "steps": steps}
    for at in range(4):
        one = (
            torch.tensor(rng.normal(size=(3, *obs["shape"])).astype(np.float32)),
            torch.eye(described["action_size"])[rng.integers(described["action_size"], size=3)],
            torch.tensor(rng.normal(size=3).astype(np.float32)),
            torch.tensor([at == 0, at == 2, False]),
        )
        steps.append(one)
        with torch.no_grad():
            parameters, value, state = loaded.step(*one, state)
        expected.append((parameters, value))
    torch.save(given, out / "inputs.pt")
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=out, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "int"
    for (logits, value), (wanted, wanted_value) in zip(
        torch.load(out / "outputs.pt", weights_only=True), expected, strict=True
    ):
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(value, wanted_value, rtol=0, atol=1e-6)
    state_dict = safetensors.torch.load_file(out / "policy.safetensors")
    assert loaded.step.load_state_dict(state_dict) is not None


def play(agent, env):
    """Return 60 actions of an agent, its last state, and what it was given."""
    reward, done, actions, given = 0.0, True, [], []
    for _ in range(60):
        if first := done:
            obs, info = env.reset(seed=len(given))
        given.append((obs, reward, first, info["action_mask"]))
        action = agent.act(obs, reward, first=first, action_mask=info["action_mask"])
        actions.append(action.tolist())
        obs, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    return actions, [part.tolist() for part in agent._state], given


LOADS = """
import json
import sys
for name in ("agents", "envs", "pbt", "experiments"):
    sys.modules[name] = None  # importing it fails
import torch
import policy
loaded = policy.load(".", seed=8)
"""
PLAYS = f"""{LOADS}
import environment
import gymnasium
import small_envs
{inspect.getsource(play)}
actions, state, _ = play(loaded, environment.Normalised(gymnasium.make("Parts-v0")))
print(json.dumps([actions, state]))
"""
ACTS = f"""{LOADS}
actions = []
for obs, reward, first, mask in torch.load("given.pt", weights_only=False):
    actions.append(loaded.act(obs, reward, first=first, action_mask=mask).tolist())
print(json.dumps([actions, [part.tolist() for part in loaded._state]]))
"""


@pytest.mark.parametrize(
    ("env_id", "agent", "sizes", "used", "program"),
    [
        pytest.param(*("small_envs:Parts-v0", "a3c", [2, 3, 2], [], PLAYS), marks=pytest.mark.slow),
        ("small_places:Places-v0", "ppo", [3, 144, 2], [[1, 0], [1, 1], [0, 1]], ACTS),
    ],
)
def test_an_exported_policy_of_several_parts_acts_as_its_member(
    trained, command, env_id, agent, sizes, used, program
):
    run_dir = trained("--env", env_id, "--agent", agent)
    result = command(export, run_dir, "--to", "torch", "--member", "0", "--trust")
    assert result.code is None, result
    out = run_dir / "export" / "policy"
    assert {path.name for path in out.iterdir()} == {*portable.FILES, "environment.py"}
    described = json.loads((out / "policy.json").read_text())
    assert [one["key"] for one in described["observation"]] == [0, 1]
    assert (described["action_parts"], described["action_used"]) == (sizes, used)
    loaded = experiments.load_agent(run_dir, 0, trust=True, seed=7)  # its actions have seed 8
    points = isinstance(loaded.agent.network, spatial.SpatialActorCritic)
    assert points == (144 in sizes)
    env = loaded.make_env()
    actions, state, given = play(loaded, env)
    env.close()
    torch.save(given, out / "given.pt")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=out,
        env={**os.environ, "PYTHONPATH": str(run_dir.resolve().parents[1] / "modules")},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    its_actions, its_state = json.loads(done.stdout)
    assert its_actions == actions
    for mine, its in zip(state, its_state, strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-5)
    assert len({tuple(action) for action in actions}) > 3


@pytest.mark.parametrize(("agent", "env_id"), [("feudal", "Catch"), ("ppo", "Pendulum-v1")])
def test_a_deterministic_policy_acts_as_its_deterministic_agent(agent, env_id):
    config = learner.LearnerConfig(env_id, 1, agent=agent)
    made = learner.make_agent(config, make.describe(env_id), seed=0)
    made.deterministic = True
    described = portable.describe(made, config)
    alone = policy.Policy(described, portable.step_of(made), deterministic=True)
    member = runs.Agent(made, config)
    env = member.make_env()
    obs, _ = env.reset(seed=0)
    for t in range(8):  # Catch ends after 9
        action = alone.act(obs, reward=t / 10)
        np.testing.assert_array_equal(action, member.act(obs, reward=t / 10))
        obs, *_ = env.step(action)
    env.close()


def test_each_dimension_of_a_continuous_action_has_its_own_bounds():
    space = spaces.Box(np.float32([-1, -np.inf]), np.float32([np.inf, 2]))
    described = {
        "action_low": portable._bounds(space.low),
        "action_high": portable._bounds(space.high),
        "observation": [{"key": None, "shape": [1], "dtype": "float32"}],
        **{"continuous": True, "action_size": 2, "action_parts": [], "action_used": []},
        **{"state": [], "reward_scale": 1.0, "clip_rewards": False},
    }
    assert json.loads(json.dumps(described["action_low"])) == [-1.0, None]
    for mean, bounded in (([-9.0, -9.0], [-1.0, -9.0]), ([9.0, 9.0], [9.0, 2.0])):
        parameters = torch.tensor([[mean, [0.0, 0.0]]])
        alone = policy.Policy(described, lambda *_, p=parameters: (p, None, ()), deterministic=True)
        assert alone.act([0.0]).tolist() == bounded


@pytest.mark.parametrize(
    ("agent", "env_id"),
    [
        ("feudal", "Catch"),
        ("ppo", "Pendulum-v1"),
        pytest.param("unreal-ppo", "Pong", marks=pytest.mark.slow),
        pytest.param("a3c", "Pong", marks=pytest.mark.slow),
    ],
)
def test_policies_of_all_kinds_act_as_their_agents(tmp_path, agent, env_id):
    config = learner.LearnerConfig(env_id, 1, agent=agent)
    made = learner.make_agent(config, make.describe(env_id), seed=0)
    portable.write(made, config, {}, tmp_path)
    exported, own = (
        policy.load(tmp_path),
        policy.Policy(portable.describe(made, config), portable.step_of(made)),
    )
    env = make.make_single(env_id)
    obs, _ = env.reset(seed=0)
    reward = 0.0
    for _ in range(12):
        action = exported.act(obs, reward)
        np.testing.assert_allclose(action, own.act(obs, reward), atol=1e-5)
        assert env.action_space.contains(action)
        for mine, its in zip(exported._state, own._state, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
        obs, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
            exported.reset()
            own.reset()
    env.close()
