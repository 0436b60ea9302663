"""Train Sample Factory's APPO with an LSTM on Pong, in one process.

Hyperparameters are Sample Factory's own for Atari (sf_examples/atari/atari_params.py), with its
LSTM switched on over whole rollouts, and its serial mode, since it has one core here.
"""

import os
import sys
import tempfile

import gymnasium
import record
import torch
from sample_factory.envs import env_utils
from sample_factory.train import run_rl
from sf_examples.atari import atari_utils, train_atari

PROTOCOL = "TIME_TO_SCORE_PROTOCOL"
_games: record.Recorder
_taken = 0


class Counted(gymnasium.Wrapper):
    """Counts the steps of all environments together, and records games with their raw returns."""

    def step(self, action):
        """Step, and record the game if it has ended."""
        global _taken
        result = self.env.step(action)
        _taken += 1
        info = result[-1]
        if "episode" in info:
            _games.add(_taken, float(info["episode"]["r"]))
            if _games.is_over():
                sys.stdout.flush()
                raise SystemExit(0)
        return result


def make(name, cfg, env_config, render_mode=None):
    """Build an environment; also called in a process that only asks for its spaces."""
    sticky = os.environ[PROTOCOL] == "machado2018"
    gymnasium.register(
        "PongNoFrameskip-v4",
        entry_point="ale_py.env:AtariEnv",
        kwargs={
            "game": "pong",
            "frameskip": 1,
            "repeat_action_probability": 0.25 if sticky else 0.0,
            "full_action_space": sticky,
            "max_num_frames_per_episode": 108_000,
        },
        disable_env_checker=True,
    )
    return Counted(atari_utils.make_atari_env(name, cfg, env_config, render_mode))


def main() -> None:
    """Train, and record every game."""
    global _games
    parsed = record.arguments("sample-factory-appo-lstm")
    os.environ[PROTOCOL] = parsed.protocol
    torch.set_num_threads(1)
    env_utils.register_env("atari_pong", make)
    flags = [
        *("--env=atari_pong", "--device=cpu", "--serial_mode=True", "--async_rl=False"),
        *("--num_workers=1", "--num_envs_per_worker=8", "--worker_num_splits=1"),
        *("--use_rnn=True", "--rnn_type=lstm", "--recurrence=128", f"--seed={parsed.seed}"),
        *(f"--experiment=pong-{parsed.protocol}-{parsed.seed}", "--restart_behavior=overwrite"),
        f"--train_dir={tempfile.mkdtemp()}",
    ]
    cfg = train_atari.parse_atari_args(flags)
    _games = record.recorder(parsed)
    run_rl(cfg)


if __name__ == "__main__":
    main()
