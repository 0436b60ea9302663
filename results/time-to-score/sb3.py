"""Train Stable-Baselines3's PPO or A2C, or sb3-contrib's RecurrentPPO, on Pong.

Hyperparameters are those that RL Zoo gives for Atari (rl-baselines3-zoo, hyperparams/ppo.yml and
a2c.yml). The Zoo has none for RecurrentPPO on Atari, so it takes PPO's. Schedules fall to zero at
10 million agent steps, as there. Environments are SB3's AtariWrapper in one process.
"""

import ale_py
import gymnasium
import record
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecFrameStack

STEPS = 10_000_000
_PPO = {
    "n_steps": 128,
    "n_epochs": 4,
    "batch_size": 256,
    "learning_rate": lambda left: 2.5e-4 * left,
    "clip_range": lambda left: 0.1 * left,
    "vf_coef": 0.5,
    "ent_coef": 0.01,
}
LEARNERS = {
    "sb3-ppo": (PPO, "CnnPolicy", 8, _PPO),
    "sb3-recurrent-ppo": (RecurrentPPO, "CnnLstmPolicy", 8, _PPO),
    "sb3-a2c": (
        A2C,
        "CnnPolicy",
        16,
        {
            "ent_coef": 0.01,
            "vf_coef": 0.25,
            "policy_kwargs": {
                "optimizer_class": RMSpropTFLike,
                "optimizer_kwargs": {"eps": 1e-5},
            },
        },
    ),
}


class Games(BaseCallback):
    """Records games as the Monitor wrapper tells them: raw returns of whole games."""

    def __init__(self, games: record.Recorder) -> None:
        super().__init__()
        self._games = games

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self._games.add(self.num_timesteps, info["episode"]["r"])
        return not self._games.is_over()


def main() -> None:
    """Train, and record every game."""
    parsed = record.arguments(*LEARNERS)
    torch.set_num_threads(1)
    gymnasium.register_envs(ale_py)
    algorithm, policy, num_envs, settings = LEARNERS[parsed.learner]
    sticky = parsed.protocol == "machado2018"
    envs = make_atari_env(
        "ALE/Pong-v5",
        n_envs=num_envs,
        seed=parsed.seed,
        env_kwargs={
            "frameskip": 1,
            "repeat_action_probability": 0.25 if sticky else 0.0,
            "full_action_space": sticky,
        },
    )
    model = algorithm(policy, VecFrameStack(envs, 4), seed=parsed.seed, device="cpu", **settings)
    model.learn(STEPS, callback=Games(record.recorder(parsed)))


if __name__ == "__main__":
    main()
