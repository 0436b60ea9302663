"""Train one member of this suite on Pong until its score is reached.

    python results/time-to-score/ours.py ppo --protocol machado2018 --seed 1

The environments, the agent and its training loop are those of `python -m experiments.atari`. PPO's
learning rate falls linearly, as in all implementations that it is compared with.
"""

import record
import torch

from experiments import presets
from experiments.members import learner

SETTINGS = {
    "ppo": {"learning_rate": 1.5e-3, "entropy_cost": 0.01, "unroll_length": 16},
    "a3c": {"learning_rate": 5e-3, "entropy_cost": 0.01, "unroll_length": 5},
}
DECAY_STEPS = {"a3c2016": 500_000, "machado2018": 1_000_000}
"""Agent steps after which PPO's learning rate would be 0; it stays at a fiftieth."""


def main() -> None:
    """Train, and record every game."""
    parsed = record.arguments(*SETTINGS)
    torch.set_num_threads(1)
    preset = presets.ATARI["default"][parsed.learner]
    config = preset.in_environment("Pong", parsed.protocol, clip_rewards=True)
    member = learner.AgentTask(config, 0, parsed.seed)
    settings = SETTINGS[parsed.learner]
    member.set_hyperparameters(settings)
    games, taken = record.recorder(parsed), 0
    for progress in member.train(10**9, 10**9):
        for episode in progress.episodes:
            games.add(episode.agent_steps, episode.episode_return)
        if games.is_over():
            return
        taken += progress.agent_steps
        if parsed.learner == "ppo":
            left = max(0.02, 1 - taken / DECAY_STEPS[parsed.protocol])
            member.set_hyperparameters({"learning_rate": settings["learning_rate"] * left})


if __name__ == "__main__":
    main()
