"""Train a plain PPO with an LSTM on Pong: CleanRL's `ppo_atari_lstm` by its published constants.

This is our own loop, not CleanRL's code. Its constants and network are those that
https://docs.cleanrl.dev/rl-algorithms/ppo/#ppo_atari_lstmpy documents: 8 environments of 128 steps,
single frames, Nature's convolutions, an LSTM of 128 units, 4 epochs, 4 minibatches of whole
environments, clipped value loss, Adam 2.5e-4 that falls to zero at 10 million agent steps.
Environments are the wrappers of Stable-Baselines3, which CleanRL copied, in one process.
"""

import ale_py
import gymnasium
import record
import torch
from stable_baselines3.common.env_util import make_atari_env
from torch import nn

STEPS, NUM_ENVS, LENGTH = 10_000_000, 8, 128
EPOCHS, MINIBATCHES = 4, 4
RATE, GAMMA, TRACE = 2.5e-4, 0.99, 0.95
CLIP, ENTROPY_COST, VALUE_COST, MAX_NORM = 0.1, 0.01, 0.5, 0.5


def _initialised(layer: nn.Linear | nn.Conv2d, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Network(nn.Module):
    """Nature's convolutions, an LSTM, a policy and a value head."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.torso = nn.Sequential(
            *(_initialised(nn.Conv2d(1, 32, 8, 4)), nn.ReLU()),
            *(_initialised(nn.Conv2d(32, 64, 4, 2)), nn.ReLU()),
            *(_initialised(nn.Conv2d(64, 64, 3, 1)), nn.ReLU(), nn.Flatten()),
            *(_initialised(nn.Linear(64 * 7 * 7, 512)), nn.ReLU()),
        )
        self.core = nn.LSTM(512, 128)
        for name, parameter in self.core.named_parameters():
            (nn.init.zeros_ if "bias" in name else nn.init.orthogonal_)(parameter)
        self.policy = _initialised(nn.Linear(128, num_actions), 0.01)
        self.value = _initialised(nn.Linear(128, 1), 1.0)

    def forward(self, obs, first, state):
        """Return distribution and values [T, B] of images [T, B, 1, 84, 84], and the last state."""
        length, batch = first.shape
        features = self.torso(obs.flatten(0, 1) / 255.0).view(length, batch, -1)
        outputs = []
        for x, begins in zip(features, first, strict=True):
            keep = (1 - begins).view(1, -1, 1)
            x, state = self.core(x.unsqueeze(0), (state[0] * keep, state[1] * keep))
            outputs.append(x)
        x = torch.cat(outputs)
        return torch.distributions.Categorical(logits=self.policy(x)), self.value(x)[..., 0], state


def main() -> None:
    """Train, and record every game."""
    parsed = record.arguments("cleanrl-ppo-lstm")
    torch.set_num_threads(1)
    torch.manual_seed(parsed.seed)
    gymnasium.register_envs(ale_py)
    sticky = parsed.protocol == "machado2018"
    envs = make_atari_env(
        "ALE/Pong-v5",
        n_envs=NUM_ENVS,
        seed=parsed.seed,
        env_kwargs={
            "frameskip": 1,
            "repeat_action_probability": 0.25 if sticky else 0.0,
            "full_action_space": sticky,
        },
    )
    network = Network(envs.action_space.n)
    optimiser = torch.optim.Adam(network.parameters(), RATE, eps=1e-5)

    def images(obs):
        return torch.as_tensor(obs).permute(0, 3, 1, 2).float()

    obs, first = images(envs.reset()), torch.zeros(NUM_ENVS)
    state = (torch.zeros(1, NUM_ENVS, 128), torch.zeros(1, NUM_ENVS, 128))
    games, taken = record.recorder(parsed), 0
    while taken < STEPS:
        optimiser.param_groups[0]["lr"] = RATE * (1 - taken / STEPS)
        begin, kept = state, []
        for _ in range(LENGTH):
            with torch.no_grad():
                policy, value, state = network(obs[None], first[None], state)
                action = policy.sample()
            following, reward, done, infos = envs.step(action[0].numpy())
            reward = torch.as_tensor(reward)
            kept.append((obs, first, action[0], policy.log_prob(action)[0], value[0], reward))
            obs, first = images(following), torch.as_tensor(done).float()
            taken += NUM_ENVS
            for info in infos:
                if "episode" in info:
                    games.add(taken, info["episode"]["r"])
        if games.is_over():
            return
        with torch.no_grad():
            next_value = network(obs[None], first[None], state)[1][0]
        all_obs, all_first, actions, log_probs, values, rewards = map(
            torch.stack, zip(*kept, strict=True)
        )
        advantages, last, next_first = torch.zeros_like(rewards), 0.0, first
        for t in reversed(range(LENGTH)):
            goes_on = 1 - next_first
            delta = rewards[t] + GAMMA * next_value * goes_on - values[t]
            advantages[t] = last = delta + GAMMA * TRACE * goes_on * last
            next_value, next_first = values[t], all_first[t]
        returns = advantages + values
        for _ in range(EPOCHS):
            for part in torch.randperm(NUM_ENVS).chunk(MINIBATCHES):
                policy, value, _ = network(
                    all_obs[:, part], all_first[:, part], tuple(one[:, part] for one in begin)
                )
                gain = advantages[:, part]
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                ratio = (policy.log_prob(actions[:, part]) - log_probs[:, part]).exp()
                surrogate = torch.max(-gain * ratio, -gain * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
                near = values[:, part] + (value - values[:, part]).clamp(-CLIP, CLIP)
                target = returns[:, part]
                error = 0.5 * torch.max((value - target) ** 2, (near - target) ** 2).mean()
                loss = surrogate + VALUE_COST * error - ENTROPY_COST * policy.entropy().mean()
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
                optimiser.step()


if __name__ == "__main__":
    main()
