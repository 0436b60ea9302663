"""The learner in a counter environment, in which any misaligned state is a wrong integer."""

import dataclasses
import json
import math
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import safetensors.torch
import torch

from agents import actor_critic, losses, ppo, rollout
from envs import toy
from experiments import presets
from experiments.members import learner
from pbt import checkpoint, task

GAMMA = 0.5
AGENTS = ("a3c", "ppo")
FAST = {  # hyperparameters that learn small environments, by agent
    "a3c": {"learning_rate": 1e-2, "entropy_cost": 0.01, "unroll_length": 10},
    "ppo": {"learning_rate": 2e-3, "entropy_cost": 0.01, "unroll_length": 10},
}


class CounterAgent:
    """Its core state counts the steps since it was reset; its value spells out all that it saw."""

    config = actor_critic.AgentConfig(gamma=GAMMA)
    device = torch.device("cpu")
    hyperparameters: ClassVar = {"entropy_cost": 0.01}

    def __init__(self):
        self.batches = []
        self.states_before_update = []

    def initial_state(self, batch):
        return (torch.zeros(batch),)

    def rollout_length(self, unroll_length, most):
        return min(unroll_length, most)

    def keeps_graph(self, length, num_envs):
        return False

    def _step(self, inputs, state):
        count = torch.where(inputs.is_first, 0.0, state[0]) + 1
        slot, episode, t = inputs.obs.unbind(-1)
        return slot * 10_000 + episode * 100 + t * 10 + count, (count,)

    def act(self, inputs, state, keep_graph=False):
        value, state = self._step(inputs, state)
        slot, _, t = inputs.obs.unbind(-1)
        action = ((slot + t) % 4).long()
        return rollout.Step(action, torch.zeros(len(slot)), torch.zeros(len(slot)), value, state)

    def value(self, inputs, state):
        return self._step(inputs, state)[0]

    def update(self, batch, entropy_cost):
        self.batches.append(batch)
        return {}


def counter_task(monkeypatch, num_envs=4):
    agent = CounterAgent()
    monkeypatch.setattr(learner, "make_agent", lambda *arguments: agent)
    return learner.AgentTask(learner.LearnerConfig("Counter", num_envs), 0, 0), agent


def action_at(slot, t):
    return (slot + t) % 4


def reward_at(slot, episode, t):
    return 1000 * t + 100 * (slot % 10) + 10 * (episode % 10) + action_at(slot, t)


def walk(num_envs, steps):
    """(slot, episode, t) at each step of each slot, from the environment's written rules alone."""
    position = [(slot, 0, 0) for slot in range(num_envs)]
    for _ in range(steps):
        yield list(position)
        for slot, episode, t in list(position):
            ends = t + 1 == toy.Counter.episode_length(slot, episode)
            position[slot] = (slot, episode + 1, 0) if ends else (slot, episode, t + 1)


@pytest.mark.parametrize("unroll_length", [1, 3, 20])
def test_every_number_of_a_rollout_is_the_one_of_its_step(monkeypatch, unroll_length):
    learning, agent = counter_task(monkeypatch)
    learning.set_hyperparameters({"unroll_length": unroll_length})
    list(learning.train(240, 240))
    steps = walk(4, 61)
    now = next(steps)
    for batch in agent.batches:
        for t in range(batch.reward.shape[0]):
            following = next(steps)
            for b in range(4):
                slot, episode, k = now[b]
                length = toy.Counter.episode_length(slot, episode)
                ends = k + 1 == length
                truncated = ends and (slot + episode) % 2 == 1
                inputs, step = batch.inputs[t], batch.steps[t]
                assert inputs.obs[b].tolist() == [slot, episode, k]
                assert step.action[b] == action_at(slot, k)
                assert step.state[0][b] == k + 1  # the core's state is as old as the episode
                assert inputs.is_first[b] == (k == 0)
                assert inputs.last_reward[b] == (reward_at(slot, episode, k - 1) if k else 0)
                expected = torch.zeros(4)
                if k:
                    expected[action_at(slot, k - 1)] = 1
                assert inputs.last_action[b].tolist() == expected.tolist()
                assert batch.reward[t, b] == reward_at(slot, episode, k)
                assert batch.truncated[t, b] == truncated
                if not truncated:
                    assert batch.discount[t, b] == (0 if ends else GAMMA)
                # V(final observation) under the state before the reset.
                final = slot * 10_000 + episode * 100 + length * 10 + length + 1
                assert batch.truncation_value[t, b] == (final if truncated else 0)
            now = following
        for b, (slot, episode, k) in enumerate(now):
            assert batch.bootstrap_value[b] == slot * 10_000 + episode * 100 + k * 10 + k + 1


def test_no_return_mixes_two_episodes(monkeypatch):
    learning, agent = counter_task(monkeypatch)
    learning.set_hyperparameters({"unroll_length": 20})
    list(learning.train(240, 240))
    positions = list(walk(4, 61))
    begin = 0
    for batch in agent.batches:
        returns = losses.n_step_returns(*batch[3:8], GAMMA)
        length = returns.shape[0]
        for t in range(length):
            for b in range(4):
                expected, factor = 0.0, 1.0
                for later in range(t, length):
                    slot, episode, k = positions[begin + later][b]
                    expected += factor * reward_at(slot, episode, k)
                    factor *= GAMMA
                    if k + 1 == toy.Counter.episode_length(slot, episode):
                        if (slot + episode) % 2 == 1:
                            expected += factor * (slot * 10_000 + episode * 100 + 11 * (k + 1) + 1)
                        break
                else:
                    slot, episode, k = positions[begin + length][b]
                    expected += factor * (slot * 10_000 + episode * 100 + k * 10 + k + 1)
                assert returns[t, b].item() == pytest.approx(expected, rel=1e-6)
        begin += length


def test_episodes_are_reported_with_their_step_length_and_raw_return(monkeypatch):
    learning, _ = counter_task(monkeypatch)
    learning.set_hyperparameters({"unroll_length": 7})
    got = [e for progress in learning.train(240, 240) for e in progress.episodes]
    expected = []
    for step, position in enumerate(walk(4, 60)):
        for slot, episode, k in position:
            if k + 1 == toy.Counter.episode_length(slot, episode):
                total = sum(reward_at(slot, episode, j) for j in range(k + 1))
                expected.append(task.Episode(4 * (step + 1), total, k + 1, True))
    assert got == expected


def test_after_a_load_running_episodes_do_not_count_and_the_core_starts_anew(tmp_path):
    config = learner.LearnerConfig("Counter", 4)
    learning = learner.AgentTask(config, 0, 0)
    learning.save(tmp_path)
    learning.set_hyperparameters({"unroll_length": 2})
    list(learning.train(8, 8))  # two steps of each environment: all episodes are running
    learning.load(tmp_path)
    assert (learning._actor.inputs.is_first).all()
    assert not learning._actor.inputs.last_action.any()
    assert not learning._actor.inputs.last_reward.any()
    assert all(not part.any() for part in learning._actor.state)
    seen = {}
    for progress in learning.train(200, 200):
        for episode in progress.episodes:
            seen.setdefault(episode.counted, []).append(episode.length)
    # Episode 0 of slot i lasts 3 + i mod 5 steps; each was running at the load.
    assert sorted(seen[False]) == sorted(toy.Counter.episode_length(slot, 0) for slot in range(4))
    assert len(seen[True]) > 4


def test_a_load_before_the_first_step_lets_all_episodes_count(tmp_path):
    config = learner.LearnerConfig("Counter", 4)
    learning = learner.AgentTask(config, 0, 0)
    learning.save(tmp_path)
    learning.load(tmp_path)
    assert all(e.counted for p in learning.train(100, 100) for e in p.episodes)


def test_steps_are_exact_and_only_the_last_unroll_is_cut():
    learning = learner.AgentTask(learner.LearnerConfig("Catch", 4), 0, 0)
    learning.set_hyperparameters({"unroll_length": 7})
    assert [p.agent_steps for p in learning.train(100, 1_000)] == [28, 28, 28, 28]
    assert [p.agent_steps for p in learning.train(100, 100)] == [28, 28, 28, 16]
    with pytest.raises(
        ValueError, match="limit 3 leaves 3 agent steps, fewer than the 4 environments"
    ):
        list(learning.train(3, 3))


def test_ppo_takes_whole_sequences_and_its_own_hyperparameters():
    learning = learner.AgentTask(learner.LearnerConfig("Catch", 4, agent="ppo"), 0, 0)
    learning.set_hyperparameters({"unroll_length": 30, "clip_range": 0.3, "epochs": 1.5})
    used = learning.hyperparameters()
    assert (used["unroll_length"], used["clip_range"], used["epochs"]) == (30, 0.3, 2)
    assert [p.agent_steps for p in learning.train(500, 5_000)] == [480, 480]  # 4 x 30 of each
    assert [p.agent_steps for p in learning.train(500, 500)] == [480, 20]  # one short sequence
    seen = []
    learning._agent.update = lambda batch, **values: seen.append(values) or {}
    list(learning.train(480, 480))
    assert seen == [{"entropy_cost": 0.01, "unroll_length": 30, "clip_range": 0.3, "epochs": 2}]
    with pytest.raises(ValueError, match="unknown hyperparameters"):
        learner.AgentTask(learner.LearnerConfig("Catch", 4), 0, 0).set_hyperparameters(
            {"clip_range": 0.1}
        )


def test_training_may_be_closed_between_updates_and_settings_changed_at_any():
    learning = learner.AgentTask(learner.LearnerConfig("Catch", 4), 0, 0)
    sizes = []
    for unroll_length in (1.4, 2.5, 9.0):
        values = {"learning_rate": 1e-3, "entropy_cost": 0.02, "unroll_length": unroll_length}
        learning.set_hyperparameters(values)
        in_use = {"unroll_length": math.floor(unroll_length + 0.5)}
        assert learning.hyperparameters() == values | in_use
        training = learning.train(1_000, 1_000)
        sizes.append(next(training).agent_steps)
        training.close()
    assert sizes == [4, 12, 36]
    with pytest.raises(ValueError, match=r"unknown hyperparameters \['momentum'\]"):
        learning.set_hyperparameters({"momentum": 0.9})


@pytest.mark.slow  # about three minutes
@pytest.mark.parametrize("seed", [0, 1])
def test_pendulum_is_learned_with_the_settings_of_its_command(seed):
    """A random policy scores about -1,200, and one that balances about -150."""
    config = dataclasses.replace(presets.GYM["default"]["ppo"], env="Pendulum-v1").learner_config()
    learning = learner.AgentTask(config, 0, seed)
    learning.set_hyperparameters({**FAST["ppo"], "entropy_cost": 1e-3, "unroll_length": 16})
    learning.set_hyperparameters({"epochs": 4, "clip_range": 0.2})
    returns = []
    for progress in learning.train(400_000, 400_000):
        returns += [e.episode_return for e in progress.episodes]
        if np.mean(returns[-20:]) > -250 and len(returns) > 100:
            break
    assert np.mean(returns[:20]) < -900
    assert np.mean(returns[-20:]) > -250


@pytest.mark.parametrize(
    ("agent", "env_id", "core", "solved"),
    [
        ("a3c", "Catch", "lstm", True),
        pytest.param("ppo", "Catch", "lstm", True, marks=pytest.mark.slow),
        *((agent, "MemoryChain", "lstm", True) for agent in AGENTS),
        *((agent, "MemoryChain", "feedforward", False) for agent in AGENTS),
    ],
)
def test_learning_happens_and_memory_needs_the_lstm(agent, env_id, core, solved):
    settings = actor_critic.AgentConfig(core=core)
    config = learner.LearnerConfig(env_id, 16, agent=agent, settings=settings)
    learning = learner.AgentTask(config, 0, 1)
    learning.set_hyperparameters(FAST[agent])
    most = 40_000 if solved else 20_000  # with memory the chain takes less than 17,000
    returns = []
    for progress in learning.train(most, most):
        returns += [e.episode_return for e in progress.episodes]
        if solved and len(returns) > 200 and np.mean(returns[-100:]) > 0.95:
            break
    assert np.mean(returns[:50]) < 0.3
    if solved:
        assert np.mean(returns[-100:]) > 0.9
    else:
        assert abs(np.mean(returns[-500:])) < 0.2  # no memoryless agent can do better than 0


@pytest.mark.slow  # other tests learn from images, vectors and memory in a fifth of the time
def test_cartpole_is_learned():
    learning = learner.AgentTask(learner.LearnerConfig("CartPole-v1", 16), 0, 0)
    learning.set_hyperparameters({"learning_rate": 1e-2, "entropy_cost": 1e-3, "unroll_length": 3})
    returns = []
    for progress in learning.train(150_000, 150_000):
        returns += [e.episode_return for e in progress.episodes]
        if np.mean(returns[-20:] or 0) > 450:
            return
    raise AssertionError(f"the last 20 episodes: {returns[-20:]}")


@pytest.mark.parametrize("agent", AGENTS)
def test_the_same_seed_learns_the_same_and_another_does_not(agent):
    def run(seed):
        config = learner.LearnerConfig("CartPole-v1", 4, agent=agent)
        learning = learner.AgentTask(config, 0, seed)
        learning.set_hyperparameters({"learning_rate": 1e-3, "unroll_length": 5})
        return [(p.episodes, dict(p.metrics)) for p in learning.train(400, 400)]

    assert run(3) == run(3)
    assert run(3) != run(4)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_checkpoint_goes_on_exactly_and_a_donors_does_not_bring_its_dice(agent, tmp_path):
    config = learner.LearnerConfig("Catch", 4, agent=agent)
    donor = learner.AgentTask(config, 1, 1)
    list(donor.train(100, 100))
    donor.save(tmp_path)
    own, child = learner.AgentTask(config, 1, 5), learner.AgentTask(config, 2, 6)
    dice = child._agent.generator.get_state().clone()
    own.load(tmp_path)
    child.load(tmp_path)
    expected = donor._agent.state_dict()
    for loaded in (own, child):
        got = loaded._agent.state_dict()
        assert all(torch.equal(got[n], expected[n]) for n in expected if n != "generator")
    assert torch.equal(own._agent.generator.get_state(), expected["generator"])
    assert torch.equal(child._agent.generator.get_state(), dice)


def test_what_is_no_checkpoint_of_this_agent_is_refused_and_changes_nothing(tmp_path):
    learning = learner.AgentTask(learner.LearnerConfig("Catch", 4), 0, 0)
    before = {name: t.clone() for name, t in learning._agent.state_dict().items()}
    other = learner.AgentTask(learner.LearnerConfig("MemoryChain", 4), 0, 0)
    other.save(tmp_path)
    with pytest.raises(
        ValueError, match=r"network.torso.dense.0.weight is \(64, 3\), not \(64, 50\)"
    ):
        learning.load(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="unreadable checkpoint"):
        learning.load(tmp_path / "nowhere")
    canary = tmp_path / "canary"
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "learner.json").write_text(json.dumps({"format_version": 1, "member": 0}))
    (evil / "agent.safetensors").write_bytes(
        b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    )
    with pytest.raises(checkpoint.CheckpointError, match="unreadable checkpoint"):
        learning.load(evil)
    assert not canary.exists()
    (evil / "learner.json").write_text(json.dumps({"format_version": 99, "member": 0}))
    safetensors.torch.save_file(before, evil / "agent.safetensors")
    with pytest.raises(ValueError, match="has format 99, this code reads 1"):
        learning.load(evil)
    after = learning._agent.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


class Faulty(gymnasium.Env):
    """CartPole-like noise that fails as told: `faults` holds one entry per step still to fail."""

    observation_space = gymnasium.spaces.Box(-10, 10, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    faults: ClassVar[list] = []
    seeds: ClassVar[list] = []
    t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Faulty.seeds += [] if seed is None else [seed]
        return self.np_random.normal(size=3).clip(-9, 9).astype(np.float32), {}

    def step(self, action):
        Faulty.t += 1
        obs, reward = self.np_random.normal(size=3).clip(-9, 9).astype(np.float32), 1.0
        fault = Faulty.faults.pop(0) if Faulty.faults and Faulty.t > 40 else None
        if fault == "raise":
            raise OSError("the simulator fell over")
        if fault == "nan-obs":
            obs[1] = math.nan
        if fault == "short-obs":
            obs = obs[:2]
        if fault == "inf-reward":
            reward = math.inf
        return obs, reward, self.np_random.random() < 0.05, False, {}


@pytest.fixture
def faulty_env():
    gymnasium.register("FaultyForTest-v0", Faulty)
    Faulty.faults, Faulty.seeds, Faulty.t = [], [], 0
    yield "FaultyForTest-v0"
    del gymnasium.registry["FaultyForTest-v0"]


@pytest.mark.parametrize("fault", ["raise", "nan-obs", "short-obs", "inf-reward"])
def test_a_failing_environment_is_built_again_and_training_goes_on(faulty_env, fault, caplog):
    learning = learner.AgentTask(learner.LearnerConfig(faulty_env, 2), 0, 0)
    Faulty.faults = [fault]
    assert sum(p.agent_steps for p in learning.train(400, 400)) == 400
    assert not Faulty.faults
    assert "FaultyForTest-v0 failed" in caplog.text
    assert len(set(Faulty.seeds[-4:])) == 4  # of two environments, twice


def test_an_environment_that_keeps_failing_fails_the_member_with_its_own_words(faulty_env):
    learning = learner.AgentTask(learner.LearnerConfig(faulty_env, 2), 0, 0)
    Faulty.faults = ["raise"] * 1_000
    with pytest.raises(RuntimeError, match=r"failed 4 times in a row.*simulator fell over") as info:
        list(learning.train(4_000, 4_000))
    assert isinstance(info.value.__cause__.__cause__, OSError)


@pytest.mark.parametrize("agent", AGENTS)
def test_divergence_is_said_and_not_applied(agent):
    learning = learner.AgentTask(learner.LearnerConfig("Catch", 4, agent=agent), 0, 0)
    before = {name: t.clone() for name, t in learning._agent.state_dict().items()}
    learning.set_hyperparameters({"entropy_cost": math.inf})
    with pytest.raises(task.Diverged, match="non-finite update"):
        list(learning.train(400, 400))
    after = learning._agent.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before if n != "generator")


@pytest.mark.parametrize("agent", AGENTS)
def test_non_finite_weights_are_never_saved(agent, tmp_path):
    learning = learner.AgentTask(learner.LearnerConfig("Catch", 4, agent=agent), 0, 0)
    with torch.no_grad():
        learning._agent.network.value.bias.fill_(math.nan)
    with pytest.raises(task.Diverged, match=r"non-finite values in network.value.bias"):
        learning.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_config_round_trips_through_json():
    for settings in (
        actor_critic.AgentConfig(core="feedforward"),
        actor_critic.AgentConfig(precision="auto"),
    ):
        for agent in ("a3c", "ppo", "unreal", "unreal-ppo", "feudal"):
            reuse = ppo.PPOConfig(trace=0.5 if "ppo" in agent else 0.95)
            config = learner.LearnerConfig(
                "Pong", 8, agent=agent, settings=settings, ppo_settings=reuse
            )
            stored = json.loads(json.dumps(config.to_json()))
            assert learner.LearnerConfig.from_json(stored) == config


class EndsAtItsLimit(gymnasium.Env):
    """Terminates at its third step, where a time limit of three cuts it as well."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 1.0, self.t == 3, False, {}


def test_an_episode_that_ends_on_its_last_allowed_step_has_no_future():
    gymnasium.register("EndsForTest-v0", EndsAtItsLimit, max_episode_steps=3)
    try:
        learning = learner.AgentTask(learner.LearnerConfig("EndsForTest-v0", 2), 0, 0)
        batch, episodes = learning._unroll(3, 0)
    finally:
        del gymnasium.registry["EndsForTest-v0"]
    assert len(episodes) == 2
    assert not batch.truncated.any()
    returns = losses.n_step_returns(*batch[3:8], 0.99)
    assert returns[-1].tolist() == [1.0, 1.0]


def test_a_rebuilt_environment_says_that_all_episodes_are_new(faulty_env):
    learning = learner.AgentTask(learner.LearnerConfig(faulty_env, 2), 0, 0)
    learning.set_hyperparameters({"unroll_length": 5})
    assert not any(p.restarted for p in learning.train(60, 60))
    Faulty.faults = ["raise"]
    assert sum(p.restarted for p in learning.train(100, 100)) == 1
