"""UNREAL's losses against slow loops in the paper's notation, and where their gradients go."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from agents import a3c, actor_critic, losses, ppo, rollout, sequence_buffer, unreal

ACTIONS = 3
ALL = {"pixel_control_cost": 0.01, "reward_prediction_cost": 1.0, "value_replay_cost": 1.0}


def make(channels=2, frame_channels=1, seed=0, width=16, lr=1e-3, package="batched", **auxiliary):
    settings = actor_critic.AgentConfig(width=width, package=package)
    config = unreal.UNREALConfig(**{"replay_steps": 200, **auxiliary})
    obs_shape = (channels, 84, 84)
    base = a3c.A3C(obs_shape, ACTIONS, False, settings, lr, seed)
    return unreal.UNREAL(base, obs_shape, ACTIONS, False, config, seed, frame_channels)


def test_it_is_deterministic_if_its_base_is():
    agent = make()
    agent.deterministic = True
    assert agent.base.deterministic
    agent.deterministic = False
    assert not agent.base.deterministic


class Player:
    """Plays `env(t, action) -> (frame, reward, terminated)`, the same in all slots."""

    def __init__(self, agent, env, num_envs=4, channels=2):
        self.agent, self.env, self.num_envs, self.channels = agent, env, num_envs, channels
        self.state = agent.initial_state(num_envs)
        self.t = 0
        self.frames = [np.zeros((num_envs, 84, 84), np.uint8)] * (channels - 1)
        self.frames = [*self.frames, env(0, np.zeros(num_envs, int))[0]]
        self.inputs = self._inputs(torch.zeros(num_envs, ACTIONS), torch.zeros(num_envs), True)

    def _inputs(self, last_action, last_reward, first):
        obs = torch.from_numpy(np.stack(self.frames[-self.channels :], axis=1))
        is_first = torch.full((self.num_envs,), first)
        return rollout.Inputs(obs, last_action, last_reward, is_first)

    def unroll(self, length):
        begin, inputs, steps, rewards, discounts, endings = self.state, [], [], [], [], []
        for _ in range(length):
            step = self.agent.act(self.inputs, self.state, keep_graph=True)
            inputs.append(self.inputs)
            steps.append(step)
            self.t += 1
            frame, reward, terminated = self.env(self.t, step.action.numpy())
            reward = torch.from_numpy(np.float32(reward))
            self.frames.append(frame)
            rewards.append(reward)
            discounts.append(torch.full((self.num_envs,), 0.0 if terminated else 0.99))
            endings.append(None)
            if terminated:
                last = self._inputs(torch.zeros(self.num_envs, ACTIONS), reward, False).obs
                done = torch.ones(self.num_envs, dtype=torch.bool)
                endings[-1] = rollout.Ending(torch.arange(self.num_envs), last, done)
                self.frames = [np.zeros_like(frame)] * (self.channels - 1)
                self.frames = [*self.frames, self.env(0, step.action.numpy())[0]]
            one_hot = functional.one_hot(step.action, ACTIONS).float() * (not terminated)
            self.inputs = self._inputs(one_hot, reward * (not terminated), terminated)
            self.state = step.state
        self.state = tuple(part.detach() for part in self.state)
        nothing = torch.zeros(length, self.num_envs)
        return rollout.Rollout(
            tuple(inputs),
            begin,
            tuple(steps),
            torch.stack(rewards),
            torch.stack(discounts),
            nothing.bool(),
            nothing,
            self.agent.value(self.inputs, self.state),
            tuple(endings),
        )


def noise(seed=0, num_envs=4, episode=11):
    """Return an environment of noise with a reward now and then, in episodes of 11 steps."""
    rng = np.random.default_rng(seed)

    def env(t, actions):
        frame = rng.integers(0, 256, (num_envs, 84, 84)).astype(np.uint8)
        reward = rng.choice([0.0, 0.0, 1.0, -1.0], num_envs)
        return frame, reward, t > 0 and t % episode == 0

    return env


def filled(length=5, **settings):
    agent = make(**settings)
    player = Player(agent, noise())
    metrics = {}
    while metrics.get("replay/filled", 0) < 1:
        metrics = agent.update(player.unroll(length), entropy_cost=0.01, **ALL)
    return agent, player


def test_pixel_change_is_the_papers():
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        frames = rng.integers(0, 256, (4, 2, channels, 84, 84)).astype(np.uint8)
        expected = np.zeros((3, 2, 20, 20))
        for t, n, i, j in np.ndindex(3, 2, 20, 20):
            cell = np.s_[n, :, 2 + 4 * i : 6 + 4 * i, 2 + 4 * j : 6 + 4 * j]
            before, after = frames[t][cell].astype(float), frames[t + 1][cell].astype(float)
            expected[t, n, i, j] = np.mean(np.abs(after - before)) / 255
        found = losses.pixel_change(torch.from_numpy(frames))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    black, white = np.zeros((1, 1, 3, 84, 84), np.uint8), np.full((1, 1, 3, 84, 84), 255, np.uint8)
    assert (losses.pixel_change(torch.from_numpy(np.concatenate((black, white)))) == 1).all()
    border = black.copy()
    border[..., :2, :] = border[..., -2:, :] = border[..., :, :2] = border[..., :, -2:] = 255
    assert not losses.pixel_change(torch.from_numpy(np.concatenate((black, border)))).any()


def slow_returns(reward, discount, after, length):
    """sum_k (prod of discounts) r + (prod of discounts) * after, for one sequence."""
    returns = []
    for t in range(length):
        total, weight = 0.0, 1.0
        for k in range(t, length):
            total = total + weight * reward[k]
            weight = weight * discount[k]
        returns.append(total + weight * after)
    return returns


def test_sequence_returns_against_the_sum():
    rng = np.random.default_rng(0)
    reward, after = rng.normal(size=(7, 5, 2, 2)), rng.normal(size=(5, 2, 2))
    discount = np.where(rng.random((7, 5)) < 0.2, 0, 0.9)
    length = np.array([7, 1, 3, 6, 7])
    found = losses.sequence_returns(
        torch.from_numpy(reward),
        torch.from_numpy(discount),
        torch.from_numpy(after),
        torch.from_numpy(length),
    )
    for n in range(5):
        expected = slow_returns(reward[:, n], discount[:, n], after[n], length[n])
        np.testing.assert_allclose(found[: length[n], n].numpy(), expected, rtol=1e-6)


def sequences(seed=0, length=(6, 2, 4), channels=2):
    """Three sequences of up to 6 steps of noise."""
    rng = np.random.default_rng(seed)
    steps, count = 6, len(length)
    is_first = torch.zeros(steps + 1, count, dtype=torch.bool)
    is_first[0] = True
    return sequence_buffer.Sequences(
        rollout.Inputs(
            torch.from_numpy(
                rng.integers(0, 256, (steps + 1, count, channels, 84, 84)).astype(np.uint8)
            ),
            torch.from_numpy(rng.random((steps + 1, count, ACTIONS)).astype(np.float32)),
            torch.from_numpy(rng.normal(size=(steps + 1, count)).astype(np.float32)),
            is_first,
        ),
        torch.from_numpy(rng.integers(0, ACTIONS, (steps, count))),
        torch.from_numpy(rng.normal(size=(steps, count)).astype(np.float32)),
        torch.from_numpy(np.where(rng.random((steps, count)) < 0.2, 0, 0.99).astype(np.float32)),
        torch.from_numpy(rng.random((steps, count)) < 0.2),
        torch.tensor(length),
    )


def core(agent, drawn):
    return agent.base.network.core_outputs(
        drawn.inputs, agent.initial_state(drawn.inputs.is_first.shape[1])
    )


def test_pixel_control_is_n_step_q_learning():
    agent, drawn = make(pixel_control_gamma=0.8), sequences()
    x = core(agent, drawn)
    with torch.no_grad():
        found = agent.pixel_control_loss(drawn, x).item()
        q = agent.heads.pixel_control(x).numpy()  # [T + 1, N, A, 20, 20]
    change = losses.pixel_change(drawn.inputs.obs[:, :, -1:]).numpy()
    total = 0.0
    for n, length in enumerate(drawn.length.tolist()):
        after = q[length, n].max(0)
        discount = 0.8 * (1 - drawn.terminated[:, n].numpy())
        returns = slow_returns(change[:, n], discount, after, length)
        for t in range(length):
            total += ((returns[t] - q[t, n, drawn.action[t, n]]) ** 2).sum()
    assert found == pytest.approx(total / (6 * 3), rel=1e-4)


def test_pixel_control_head_is_dueling():
    agent = make()
    head = agent.heads.pixel_control
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        q = head(x)
        assert q.shape == (2, 3, ACTIONS, 20, 20)
        maps = functional.relu(head.dense(x)).view(2, 3, 9, 9, 32).movedim(-1, 2)
        streams = head.streams(maps.flatten(0, 1)).view(2, 3, 1 + ACTIONS, 20, 20)
    # The mean over actions is the value's stream; differences are the advantages'.
    torch.testing.assert_close(q.mean(2), streams[:, :, 0])
    torch.testing.assert_close(q[:, :, 0] - q[:, :, 1], streams[:, :, 1] - streams[:, :, 2])


def test_value_replay_regresses_on_n_step_returns():
    agent, drawn = make(), sequences()
    x = core(agent, drawn)
    with torch.no_grad():
        found = agent.value_replay_loss(drawn, x).item()
        value = agent.base.network.value(x)[..., 0].numpy()
    total = 0.0
    for n, length in enumerate(drawn.length.tolist()):
        returns = slow_returns(
            drawn.reward[:, n].numpy(), drawn.discount[:, n].numpy(), value[length, n], length
        )
        total += sum((returns[t] - value[t, n]) ** 2 for t in range(length))
    assert found == pytest.approx(total / (6 * 3), rel=1e-4)


def test_reward_prediction_is_cross_entropy_over_three_classes():
    agent = make(least_reward=0.1)
    rng = np.random.default_rng(0)
    obs = torch.from_numpy(rng.integers(0, 256, (5, 3, 2, 84, 84)).astype(np.uint8))
    reward = torch.tensor([0.0, 0.1, -3.0, 0.09, -0.09])
    with torch.no_grad():
        found = agent.reward_prediction_loss(obs, reward).item()
        seen = [agent.base.network.torso.convolve(obs[:, k]) for k in range(3)]
        logits = agent.heads.reward_prediction(torch.cat(seen, dim=1)).numpy()
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    none, positive, negative = 0, 1, 2
    kinds = [none, positive, negative, none, none]
    assert found == pytest.approx(-np.mean([log_probs[i, k] for i, k in enumerate(kinds)]))


@pytest.mark.parametrize("loss", ["pixel_control_loss", "value_replay_loss"])
def test_core_outputs_of_another_shape_are_refused(loss):
    agent, drawn = make(), sequences()
    x = core(agent, drawn)
    getattr(agent, loss)(drawn, x)
    for wrong in (x[:-1], x[:, :1], x[..., :1], x.unsqueeze(0), x.long()):
        with pytest.raises(ValueError, match=r"^x is .* \[T \+ 1, N, width\] = \(7, 3, 16\)"):
            getattr(agent, loss)(drawn, wrong)


def test_rewards_to_predict_of_another_shape_are_refused():
    agent = make()
    obs, reward = torch.zeros(5, 3, 2, 84, 84, dtype=torch.uint8), torch.zeros(5)
    agent.reward_prediction_loss(obs, reward)
    for wrong in (obs[:, :2], obs[:, :, :1], obs[0], obs.float()):
        with pytest.raises(ValueError, match=r"^obs is .* \[N, 3, C, H, W\]"):
            agent.reward_prediction_loss(wrong, reward)
    for wrong in (reward[:4], reward.unsqueeze(-1), reward.long()):
        with pytest.raises(ValueError, match=r"^reward is .* \[N\] = \(5,\)"):
            agent.reward_prediction_loss(obs, wrong)


def named_parameters(agent):
    return {
        **{f"network.{name}": p for name, p in agent.base.network.named_parameters()},
        **{f"heads.{name}": p for name, p in agent.heads.named_parameters()},
    }


CONVOLUTIONS, DENSE, CORE = "network.torso.convolutions", "network.torso.dense", "network.core"
REACH = {
    "pixel_control_cost": (CONVOLUTIONS, DENSE, CORE, "heads.pixel_control"),
    "value_replay_cost": (CONVOLUTIONS, DENSE, CORE, "network.value"),
    "reward_prediction_cost": (CONVOLUTIONS, "heads.reward_prediction"),
}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", REACH)
def test_each_task_reaches_exactly_its_parameters(name, shared):
    agent, _ = filled(shared_sequences=shared)
    agent.base.optimiser.zero_grad()
    costs = dict.fromkeys(ALL, 0.0) | {name: 1.0}
    metrics = agent._learn_from_replay(agent._replay, 5, 4, costs)
    assert list(metrics) == [f"loss/{name.removesuffix('_cost')}"]
    reached = {
        parameter
        for parameter, tensor in named_parameters(agent).items()
        if tensor.grad is not None and tensor.grad.abs().sum() > 0
    }
    assert reached == {p for p in named_parameters(agent) if p.startswith(REACH[name])}


@pytest.mark.parametrize(("package", "scale"), [("batched", 1), ("paper", 5)])
def test_the_gradient_is_the_weighted_sum_of_four(package, scale):
    """The optimiser's gradient, against the four losses differentiated one by one."""
    agent, player = filled(package=package)
    costs = {"pixel_control_cost": 0.3, "reward_prediction_cost": 0.7, "value_replay_cost": 1.3}
    batch = player.unroll(5)
    dice = agent.generator.get_state()
    agent.base.optimiser.zero_grad()
    agent.base.backward(batch, 0.01)
    agent._learn_from_replay(agent._replay, 5, 4, costs)
    parameters = named_parameters(agent)
    found = {name: p.grad.clone() for name, p in parameters.items()}

    agent.generator.set_state(dice)
    drawn = agent._replay.sample(5, 4, agent.generator)
    x = core(agent, drawn)
    total = scale * (
        0.3 * agent.pixel_control_loss(drawn, x)
        + 1.3 * agent.base.value_cost * agent.value_replay_loss(drawn, x)
    ) + scale / 5 * 0.7 * agent.reward_prediction_loss(
        *agent._replay.sample_rewards(7, 0.01, agent.generator)
    )
    agent.base.optimiser.zero_grad()
    total.backward()
    auxiliary = {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in parameters.items()
    }
    for name in parameters:
        if name.startswith("heads."):
            torch.testing.assert_close(found[name], auxiliary[name])
    # What is left is A3C's own, from the same unroll acted again.
    twin = make(package=package)
    twin.load_state_dict(agent.state_dict())
    inputs = rollout.stack(batch.inputs)
    log_probs, value = twin.base.network.unroll(inputs, batch.initial_state)
    action = torch.stack([step.action for step in batch.steps])
    returns = losses.n_step_returns(*batch[3:8], 0.99)
    policy = twin.base.network.policy
    loss = (
        -(policy.log_prob(log_probs, action) * (returns - value.detach())).mean()
        + agent.base.value_cost * ((returns - value) ** 2).mean()
        - 0.01 * policy.entropy(log_probs).mean()
    )
    (scale * loss).backward()
    for name, p in twin.base.network.named_parameters():
        own = torch.zeros_like(p) if p.grad is None else p.grad
        expected = auxiliary[f"network.{name}"] + own
        torch.testing.assert_close(found[f"network.{name}"], expected, rtol=1e-3, atol=1e-5)


def test_waits_until_the_replay_is_filled_and_says_so():
    agent = make()
    player = Player(agent, noise())
    fractions = []
    for _ in range(30):
        metrics = agent.update(player.unroll(5), entropy_cost=0.01, **ALL)
        fractions.append(metrics["replay/filled"])
        learned = {name for name in metrics if name in ("loss/pixel_control", "loss/value_replay")}
        assert bool(learned) == (metrics["replay/filled"] == 1)
        if fractions[-1] == 1:
            break
    assert fractions[0] < 0.2
    assert fractions[-1] == 1
    assert "loss/reward_prediction" in metrics
    agent.load_state_dict(agent.state_dict())
    assert agent.update(player.unroll(5), entropy_cost=0.01, **ALL)["replay/filled"] < 0.2


def test_a_weight_of_zero_switches_a_task_off():
    agent, player = filled()
    for name in ALL:
        metrics = agent.update(player.unroll(5), entropy_cost=0.01, **(ALL | {name: 0.0}))
        assert f"loss/{name.removesuffix('_cost')}" not in metrics
        assert len([key for key in metrics if key.startswith("loss/")]) == 2 + 2
    before = {name: p.detach().clone() for name, p in agent.heads.named_parameters()}
    agent.update(player.unroll(5), entropy_cost=0.01, **dict.fromkeys(ALL, 0.0))
    assert all(torch.equal(before[name], p) for name, p in agent.heads.named_parameters())


def of_ppo(seed=0, **auxiliary):
    settings, reuse = actor_critic.AgentConfig(width=16), ppo.PPOConfig(minibatch_steps=20)
    base = ppo.PPO((2, 84, 84), ACTIONS, False, settings, reuse, 1e-3, seed)
    config = unreal.UNREALConfig(**{"replay_steps": 200, **auxiliary})
    return unreal.UNREAL(base, (2, 84, 84), ACTIONS, False, config, seed)


OF_PPO = {"entropy_cost": 0.01, "unroll_length": 5, "clip_range": 0.1, "epochs": 2}


def test_with_ppo_every_minibatch_is_joined_by_as_many_replayed_steps():
    agent = of_ppo()
    player = Player(agent, noise())
    drawn = []
    learn = agent._learn_from_replay

    def spy(replay, length, count, costs):
        drawn.append((length, count))
        return learn(replay, length, count, costs)

    agent._learn_from_replay = spy
    for _ in range(8):
        metrics = agent.update(player.unroll(10), **OF_PPO, **ALL)
    # 10 steps of 4 environments: 8 sequences of 5, 4 in a minibatch, twice 2 minibatches.
    assert drawn[-4:] == [(5, 4)] * 4
    assert metrics["replay/filled"] == 1
    for name in ("loss/pixel_control", "loss/value_replay", "kl", "clip_fraction"):
        assert np.isfinite(metrics[name])
    before = {name: p.detach().clone() for name, p in agent.heads.named_parameters()}
    agent.update(player.unroll(10), **OF_PPO, **ALL)
    assert all(not torch.equal(before[name], p) for name, p in agent.heads.named_parameters())
    twin = of_ppo(seed=5)
    twin.load_state_dict({name: tensor.clone() for name, tensor in agent.state_dict().items()})
    assert "exp_avg.heads.pixel_control.dense.weight" in twin.state_dict()


def test_with_ppo_and_without_tasks_it_is_ppo():
    agent = of_ppo()
    settings, reuse = actor_critic.AgentConfig(width=16), ppo.PPOConfig(minibatch_steps=20)
    alone = ppo.PPO((2, 84, 84), ACTIONS, False, settings, reuse, 1e-3, 0)
    one, two = Player(agent, noise()), Player(alone, noise())
    for _ in range(6):
        agent.update(one.unroll(10), **OF_PPO, **dict.fromkeys(ALL, 0.0))
        alone.update(two.unroll(10), **OF_PPO)
    for own, expected in zip(
        agent.base.network.state_dict().values(), alone.network.state_dict().values(), strict=True
    ):
        assert torch.equal(own, expected)


def test_without_tasks_it_is_a3c():
    """Weight for weight: the composed agent's own learning is untouched."""
    agent = make()
    alone = a3c.A3C((2, 84, 84), ACTIONS, False, actor_critic.AgentConfig(width=16), 1e-3, 0)
    one, two = Player(agent, noise()), Player(alone, noise())
    for _ in range(12):
        agent.update(one.unroll(5), entropy_cost=0.01, **dict.fromkeys(ALL, 0.0))
        alone.update(two.unroll(5), 0.01)
    for own, expected in zip(
        agent.base.network.state_dict().values(), alone.network.state_dict().values(), strict=True
    ):
        assert torch.equal(own, expected)


def still_then_moving(num_envs=4):
    """Only the upper left quarter of the screen changes, and only after action 1."""
    frame = np.full((num_envs, 84, 84), 100, np.uint8)

    def env(t, actions):
        nonlocal frame
        frame = frame.copy()
        frame[:, :42, :42] = np.where(actions == 1, 255 - frame[:, 0, 0], frame[:, 0, 0])[
            :, None, None
        ]
        return frame, np.zeros(num_envs), False

    return env


def lights(num_envs=4, seed=0):
    """A light announces the reward that follows two steps later."""
    rng = np.random.default_rng(seed)
    coming = [np.zeros(num_envs), np.zeros(num_envs)]

    def env(t, actions):
        frame = np.full((num_envs, 84, 84), 20, np.uint8)
        sign = rng.choice([0.0, 0.0, 0.0, 1.0, -1.0], num_envs)
        frame[:, 30:50, 10:40] += (100 * (sign > 0)).astype(np.uint8)[:, None, None]
        frame[:, 30:50, 45:75] += (100 * (sign < 0)).astype(np.uint8)[:, None, None]
        coming.append(sign)
        return frame, coming[-2], t > 0 and t % 20 == 0

    return env


def day_and_night(num_envs=4):
    """Episodes of 4 steps: bright ones pay 1 at each, dark ones cost 1."""
    day = False

    def env(t, actions):
        nonlocal day
        if t == 0:
            day = not day
        frame = np.full((num_envs, 84, 84), 200 if day else 50, np.uint8)
        return frame, np.full(num_envs, 1.0 if day else -1.0), t > 0 and t % 4 == 0

    return env


@pytest.mark.parametrize(
    ("name", "env", "cost"),
    [
        ("pixel_control", still_then_moving, 1.0),
        ("reward_prediction", lights, 1.0),
        ("value_replay", day_and_night, 5.0),
    ],
)
def test_each_auxiliary_loss_falls_in_an_environment_made_for_it(name, env, cost):
    agent = make(width=32, lr=3e-3, replay_steps=100)
    player = Player(agent, env())
    costs = dict.fromkeys(ALL, 0.0) | {f"{name}_cost": cost}
    measured = []
    for _ in range(100):
        metrics = agent.update(player.unroll(5), entropy_cost=0.01, **costs)
        if f"loss/{name}" in metrics:
            measured.append(metrics[f"loss/{name}"])
        if len(measured) > 40 and np.mean(measured[-20:]) < 0.5 * np.mean(measured[:10]):
            break
    first, last = np.mean(measured[:10]), np.mean(measured[-20:])
    assert last < 0.6 * first, (first, last)


def test_acting_costs_no_replay():
    agent = make()
    player = Player(agent, noise())
    player.unroll(3)
    assert agent._replay is None


def test_state_round_trip_and_refusal():
    agent, _ = filled()
    twin = make(seed=5)
    twin.load_state_dict({name: tensor.clone() for name, tensor in agent.state_dict().items()})
    for (name, one), two in zip(
        agent.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two), name
    alone = a3c.A3C((2, 84, 84), ACTIONS, False, actor_critic.AgentConfig(width=16), 1e-3, 0)
    with pytest.raises(ValueError, match=r"another agent: missing heads\.pixel_control"):
        agent.load_state_dict(alone.state_dict())
    with pytest.raises(ValueError, match=r"another agent: unexpected heads"):
        alone.load_state_dict(agent.state_dict())


def test_learning_rate_is_everywhere():
    agent, _ = filled()
    agent.set_learning_rate(0.25)
    assert agent.learning_rate() == 0.25
    assert {group["lr"] for group in agent.base.optimiser.param_groups} == {0.25}


def test_the_norm_is_clipped_over_all_parameters():
    agent, player = filled(package="batched")
    metrics = agent.update(
        player.unroll(5), entropy_cost=0.01, **(ALL | {"pixel_control_cost": 100.0})
    )
    assert metrics["gradient_norm"] > 10
    norm = torch.cat([p.grad.flatten() for p in named_parameters(agent).values()]).norm()
    assert norm.item() == pytest.approx(0.5, rel=1e-3)


def test_divergence_is_told_and_nothing_applied():
    agent, player = filled()
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    with pytest.raises(FloatingPointError, match="non-finite"):
        agent.update(
            player.unroll(5), entropy_cost=0.01, **(ALL | {"pixel_control_cost": float("inf")})
        )
    for name, tensor in agent.state_dict().items():
        assert name == "generator" or torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("obs_shape", "continuous", "message"),
    [
        ((8,), False, r"observations of shape \(8,\) have none: use agent 'a3c'"),
        ((3, 96, 96), False, "84 x 84, not 96 x 96: resize"),
        ((3, 84, 84), True, "actions are continuous"),
    ],
)
def test_refuses_environments_without_pixels_or_discrete_actions(obs_shape, continuous, message):
    base = a3c.A3C(obs_shape, 4, continuous, actor_critic.AgentConfig(), 1e-3, 0)
    with pytest.raises(ValueError, match=message):
        unreal.UNREAL(base, obs_shape, 4, continuous, unreal.UNREALConfig(), 0)


def test_replay_bounds_the_unroll():
    unreal.check_replay(2_000, 16, 50, 4)
    with pytest.raises(ValueError, match=r"keeps 31 steps of each .* up to 21, .* 3840"):
        unreal.check_replay(2_000, 64, 50, 4)
    unreal.check_replay(2_000, 64, 21, 4)
    unreal.check_replay(3_840, 64, 50, 4)
    agent = make()
    with pytest.raises(ValueError, match="too few for an unroll_length up to 60"):
        agent.update(Player(agent, noise()).unroll(60), entropy_cost=0.01, **ALL)
    for setting in ({"replay_steps": 0}, {"pixel_control_gamma": 2.0}, {"least_reward": 0.0}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            unreal.UNREALConfig(**setting)
