"""Agents in environments of several parts: alignment, masks, checkpoints, and that they learn."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents import actor_critic, ppo
from envs import function_call, make
from experiments.members import learner, policy, portable

AGENTS = ("a3c", "ppo")
FAST = {  # hyperparameters that learn small environments, by agent
    "a3c": {"learning_rate": 1e-2, "entropy_cost": 0.01, "unroll_length": 10},
    "ppo": {"learning_rate": 5e-3, "entropy_cost": 0.01, "unroll_length": 10},
}
OFTEN = ppo.PPOConfig(rollout_steps=10, minibatch_steps=80)


class Tally(gymnasium.Env):
    """Every observation, reward and mask spells out when it was made; illegal actions raise."""

    observation_space = spaces.Dict(
        {
            "screen": spaces.Box(0, 255, (24, 20, 3), np.uint8),
            "clock": spaces.Tuple((spaces.Discrete(9), spaces.Box(0, 1e6, (1,)))),
        }
    )
    action_space = spaces.MultiDiscrete([3, 4, 2], start=[1, 0, 0])

    def __init__(self, masks=True):
        self.masks, self.episode, self.number = masks, -1, 0

    def seen(self):
        screen = np.full((24, 20, 3), self.t + 10 * self.number, np.uint8)
        count = 100 * self.episode + self.t
        return {"screen": screen, "clock": (self.t, np.array([count], np.float32))}

    @staticmethod
    def legal(episode, t):
        """Return the masks of the three parts."""
        first, second = np.zeros(3, np.int8), np.zeros(4, np.int8)
        first[[t % 3, (t + 1) % 3]] = 1
        second[(episode + t) % 4] = 1
        return first, second, np.ones(2, np.int8)

    def info(self):
        return {"action_mask": self.legal(self.episode, self.t)} if self.masks else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.seen(), self.info()

    def step(self, action):
        numbers = action - self.action_space.start
        of_parts = zip(self.legal(self.episode, self.t), numbers, strict=True)
        if self.masks and not all(part[number] for part, number in of_parts):
            raise RuntimeError(f"{action} is illegal at {self.t}")
        reward = 1000 * self.t + numbers @ [100, 10, 1]
        self.t += 1
        over = self.t == 3 + (self.number + self.episode) % 4
        return self.seen(), reward, over and self.episode % 2 == 0, over, self.info()


class Told(gymnasium.Env):
    """Each part of the action is told by one part of the observation; 3 right are worth 3."""

    observation_space = spaces.Dict(
        {
            "side": spaces.Box(0, 255, (20, 20), np.uint8),
            "number": spaces.Discrete(3, start=1),
            "lights": spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-1, 1, (1,)))),
        }
    )
    action_space = spaces.Dict(
        {"number": spaces.Discrete(3, start=1), "rest": spaces.Tuple((spaces.MultiBinary(2),))}
    )

    def seen(self):
        self.told = self.observation_space.sample()
        self.right = int(self.np_random.integers(2))
        self.told["side"][:] = 0
        self.told["side"][:, 10 * self.right : 10 * self.right + 10] = 255
        return self.told

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space = type(self).observation_space
            self.observation_space.seed(seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action):
        (bits,) = action["rest"]
        score = int(action["number"] == self.told["number"])
        score += int(bits[0] == self.told["lights"][0][0]) + int(bits[1] == self.right)
        self.t += 1
        return self.seen(), float(score), self.t == 8, False, {}


class Calls(gymnasium.Env):
    """Function i is right where i is shown, with its own argument equal to what is shown beside."""

    observation_space = spaces.MultiDiscrete([3, 2])
    action_space = function_call.FunctionCall([4, 2, 2], [[1, 0], [0, 1], [0, 0], [1, 1]])

    def seen(self):
        self.shown = self.np_random.integers([3, 2])
        mask = (np.array([1, 1, 1, 0], np.int8), None, None)
        return self.shown, {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.seen()

    def step(self, action):
        function, *arguments = action
        assert function < 3, "illegal"
        used = self.action_space.used[function]
        assert not np.any(np.array(arguments)[~used]), "what does not count is 0"
        right = function == self.shown[0] and (arguments == self.shown[1])[used].all()
        self.t += 1
        obs, info = self.seen()
        return obs, float(right), self.t == 8, False, info


class Looking(Told):
    """Only one part of the action is left."""

    action_space = spaces.Discrete(3)

    def step(self, action):
        return super().step({"number": action + 1, "rest": (np.zeros(2),)})


ENVIRONMENTS = (Tally, Told, Calls, Looking)


@pytest.fixture(autouse=True)
def registered():
    for env in ENVIRONMENTS:
        gymnasium.register(f"{env.__name__}-v0", env, disable_env_checker=True)
    yield
    for env in ENVIRONMENTS:
        gymnasium.registry.pop(f"{env.__name__}-v0")


def task_of(env_id, agent, num_envs=4, seed=0, **settings):
    config = learner.LearnerConfig(env_id, num_envs, agent=agent, **settings)
    return learner.AgentTask(config, 0, seed)


def tally(**keywords):
    envs = make.make_vec("Tally-v0", 4, **keywords)
    for number, env in enumerate(envs.unwrapped.envs):
        env.unwrapped.number = number
    return envs


@pytest.mark.parametrize("masks", [True, False])
def test_actions_masks_and_rewards_belong_to_their_observations(masks):
    config = learner.LearnerConfig("Tally-v0", 4)
    task = learner.AgentTask(config, 0, 0, make_envs=lambda: tally(masks=masks))
    batch, _ = task._unroll(26, 0)
    steps = zip(batch.inputs, batch.steps, batch.reward, batch.endings, strict=True)
    before = None
    for inputs, step, reward, ending in steps:
        screen, vector = inputs.obs
        assert (screen.dtype, screen.shape) == (torch.uint8, (4, 3, 24, 20))
        assert vector.shape == (4, 9 + 1)
        t = vector[:, :9].argmax(1)
        episode = (vector[:, 9] / 100).long()
        assert torch.equal(vector[:, 9].long(), 100 * episode + t)
        assert torch.equal(screen.flatten(1).amax(1).long(), t + 10 * torch.arange(4))
        assert torch.equal(reward.long(), 1000 * t + step.action @ torch.tensor([100, 10, 1]))
        if masks:
            expected = [np.concatenate(Tally.legal(int(e), int(i))) for e, i in zip(episode, t)]  # noqa: B905
            assert inputs.action_mask.tolist() == np.array(expected, bool).tolist()
        else:
            assert inputs.action_mask is None
        assert torch.equal(inputs.is_first, t == 0)
        codes = torch.split(inputs.last_action, [3, 4, 2], dim=1)
        for slot in range(4):
            if inputs.is_first[slot]:
                assert not inputs.last_action[slot].any()
            else:
                assert [int(code[slot].argmax()) for code in codes] == before[slot].tolist()
                assert [int(code[slot].sum()) for code in codes] == [1, 1, 1]
        if ending is not None:
            last_screen, last_vector = ending.obs
            counted = 100 * episode[ending.slots] + t[ending.slots] + 1
            assert torch.equal(last_vector[:, 9].long(), counted)
            shown = last_screen.flatten(1).amax(1).long()
            assert torch.equal(shown, t[ending.slots] + 1 + 10 * ending.slots)
        before = step.action
    assert batch.truncated.any()
    assert any(ending is not None and ending.terminated.any() for ending in batch.endings)
    task.close()


TAXI = "Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3"  # gives masks of its own


@pytest.mark.parametrize(
    ("env_id", "agent", "settings"),
    [
        ("Tally-v0", "a3c", {}),
        ("Tally-v0", "a3c", {"graph_steps": 8}),
        ("Tally-v0", "ppo", {}),
        (TAXI, "a3c", {}),
        (TAXI, "feudal", {}),
        (TAXI, "feudal", {"graph_steps": 8}),
    ],
)
def test_no_illegal_action_is_played_or_learned(env_id, agent, settings):
    settings = actor_critic.AgentConfig(width=16, **settings)
    task = task_of(env_id, agent, settings=settings, max_rebuilds=0)
    for progress in task.train(320, 320):  # `Tally` raises at an illegal action
        assert np.isfinite(list(progress.metrics.values())).all()
    batch, _ = task._unroll(8, 0)
    sizes = [3, 4, 2] if env_id == "Tally-v0" else [6]
    for inputs, step in zip(batch.inputs, batch.steps, strict=True):
        masks = torch.split(inputs.action_mask, sizes, dim=1)
        for mask, numbers in zip(masks, step.action.reshape(4, -1).T, strict=True):
            assert mask.gather(1, numbers.unsqueeze(1)).all()
        assert (step.log_prob > -20).all()
    assert not all(inputs.action_mask.all() for inputs in batch.inputs)
    task.close()


def returns(task, agent_steps):
    """Train, and return the returns of all episodes."""
    found = [e.episode_return for p in task.train(agent_steps, agent_steps) for e in p.episodes]
    task.close()
    return found


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    ("env_id", "agent_steps", "by_chance", "bar"),
    [("Told-v0", 4_000, 8 * (1 / 3 + 1), 8 * 2.7), ("Calls-v0", 4_000, 8 * 2 / 9, 8 * 0.9)],
)
def test_agents_learn_every_part(agent, env_id, agent_steps, by_chance, bar):
    settings = actor_critic.AgentConfig(width=32, gamma=0.0, core="feedforward")
    task = task_of(env_id, agent, num_envs=16, settings=settings, ppo_settings=OFTEN)
    task.set_hyperparameters(FAST[agent])
    assert np.mean(returns(task, agent_steps)[-40:]) > bar > by_chance


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_agents_learn_blackjack(agent):
    """Drawing at random loses 0.39 per hand, the basic strategy about 0.05."""
    task = task_of("Blackjack-v1", agent, num_envs=16, ppo_settings=OFTEN)
    task.set_hyperparameters(FAST[agent] | {"learning_rate": 2e-3})
    found = returns(task, 40_000)
    assert np.mean(found[:500]) < -0.25
    assert np.mean(found[-10_000:]) > -0.15


@pytest.mark.parametrize("agent", AGENTS)
def test_checkpoints_hold_all_parts(agent, tmp_path):
    task, other = task_of("Tally-v0", agent), task_of("Tally-v0", agent, seed=1)
    list(task.train(160, 160))
    task.save(tmp_path)
    other.load(tmp_path)
    torch.testing.assert_close(other._agent.state_dict(), task._agent.state_dict())
    assert other._actor.inputs.action_mask is not None, "the running episodes go on under masks"
    list(other.train(160, 160))
    task.close()
    other.close()


@pytest.mark.parametrize(
    ("agent", "env_id", "words"),
    [
        ("feudal", "Calls-v0", "use agent 'a3c' or 'ppo' where actions have several parts"),
        ("unreal", "Tally-v0", "one image.*use agent 'a3c' or 'ppo'"),
        ("unreal-ppo", "Calls-v0", "pixels"),
    ],
)
def test_agents_without_parts_refuse_them(agent, env_id, words):
    with pytest.raises(ValueError, match=words):
        learner.make_agent(learner.LearnerConfig(env_id, 2, agent=agent), make.describe(env_id), 0)


def test_feudal_networks_see_parts():
    task = task_of("Looking-v0", "feudal", settings=actor_critic.AgentConfig(width=16))
    list(task.train(320, 320))
    assert len(task._agent.network.torso.images) == 1
    task.close()


@pytest.mark.parametrize("agent", ["a3c", "feudal"])
def test_policies_that_act_alone_keep_to_a_mask(agent):
    config = learner.LearnerConfig(TAXI, 1, agent=agent)
    made = learner.make_agent(config, make.describe(TAXI), seed=0)
    alone = policy.Policy(portable.describe(made, config), portable.step_of(made))
    env = make.make_single(TAXI)
    obs, info = env.reset(seed=0)
    illegal = 0
    for _ in range(60):
        assert info["action_mask"][alone.act(obs, -1.0, action_mask=info["action_mask"])]
        illegal += not info["action_mask"][alone.act(obs, -1.0)]
        legal = np.flatnonzero(info["action_mask"])
        obs, _, terminated, _, info = env.step(legal[0])
        assert not terminated
    assert illegal
    env.close()


def test_policies_that_act_alone_say_what_they_see():
    config = learner.LearnerConfig("Tally-v0", 1)
    made = learner.make_agent(config, make.describe("Tally-v0"), seed=0)
    alone = policy.Policy(portable.describe(made, config), portable.step_of(made))
    env = make.make_single("Tally-v0")
    (screen, clock), info = env.reset(seed=0)
    for wrong, words in (
        ((screen, clock[:2]), r"part 1 of .* has the shape \(2,\).* learned from \(10,\)"),
        ((screen, "noon"), r"part 1 of .* is no array of float64: use an environment"),
        ((screen,), "part 1 of the observation is missing"),
        ({"screen": screen}, "part 0 of the observation is missing"),
        (0.0, "part 0 of the observation is missing"),
    ):
        with pytest.raises(ValueError, match=words):
            alone.act(wrong)
    with pytest.raises(ValueError, match=r"mask has the shape \(3,\).*9 in all"):
        alone.act((screen, clock), action_mask=info["action_mask"][:3])
    action = alone.act((screen, clock), action_mask=info["action_mask"])
    assert env.action_space.contains(action)
    env.close()


def test_one_environment_has_the_parts_of_many():
    env, envs = make.make_single("Tally-v0"), make.make_vec("Tally-v0", 1)
    (obs, info), (many, many_info) = env.reset(seed=3), envs.reset(seed=3)
    terminated = truncated = False
    while not (terminated or truncated):
        for one, row in zip(obs, many, strict=True):
            assert np.array_equal(one, row[0])
        assert np.array_equal(info["action_mask"], many_info["action_mask"][0])
        masks = np.split(info["action_mask"], [3, 7])
        action = np.array([np.flatnonzero(mask)[0] for mask in masks])
        obs, reward, terminated, truncated, info = env.step(action)
        many, many_reward, *_, many_info = envs.step(action[None])
        assert reward == many_reward[0]
    assert not np.array_equal(obs[1], many[1][0]), "the last one, and the first of the next episode"
    for wrong in ([0, 0], [3, 0, 0], [0, -1, 0], [0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match="integers"):
            envs.step(np.array([wrong]))
    env.close()
    envs.close()


class Wrong(Tally):
    """The fourth step is not what the space promises."""

    def seen(self):
        seen = super().seen()
        if self.t == 3:
            seen["clock"] = (self.t, np.array([np.nan], np.float32))
        return seen


def test_a_wrong_part_is_named():
    config = learner.LearnerConfig("Tally-v0", 1, max_rebuilds=0)
    gymnasium.register("Wrong-v0", Wrong, disable_env_checker=True)
    task = learner.AgentTask(config, 0, 0, make_envs=lambda: make.make_vec("Wrong-v0", 1))
    with pytest.raises(RuntimeError, match="non-finite observation"):
        list(task.train(20, 20))
    gymnasium.registry.pop("Wrong-v0")
