"""Write a trained policy as files that need only PyTorch and NumPy.

| file | content |
|---|---|
| `policy.pt2` | the network's step with its weights, as `torch.export.load` reads it |
| `policy.safetensors` | its state dict, for `load_state_dict` of the same module |
| `policy.json` | what it sees and does, and which member of which run it is |
| `policy.py` | `experiments.members.policy`, which acts with these files |
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import safetensors.torch
import torch

from agents import rollout, unreal
from envs import make
from experiments.members import actor, learner, policy

FILES = (policy.PROGRAM, "policy.safetensors", policy.DESCRIPTION, "policy.py")
"""Names of the files."""
MAX_BATCH = 32
"""Most environments that the exported network takes at once. More would be convolved in parts."""


class Step(torch.nn.Module):
    """One step of a network, from tensors to tensors; see `experiments.members.policy.Policy`.

    Args:
        network: The network of an agent.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        obs: torch.Tensor,
        last_action: torch.Tensor,
        last_reward: torch.Tensor,
        is_first: torch.Tensor,
        state: rollout.CoreState,
    ) -> tuple[torch.Tensor, torch.Tensor, rollout.CoreState]:
        """Return policy parameters, values and the next state, [B, ...] each."""
        inputs = rollout.Inputs(obs, last_action, last_reward, is_first)
        parameters, value, state = self.network(inputs, state)
        return parameters, value, state


def step_of(agent: actor.Agent) -> Step:
    """Return the step of an agent's network."""
    base = agent.base if isinstance(agent, unreal.UNREAL) else agent
    return Step(base.network).eval()


def describe(agent: actor.Agent, config: learner.LearnerConfig) -> dict[str, Any]:
    """Return what a policy sees and does, as JSON for `experiments.members.policy.Policy`.

    Args:
        agent: The agent.
        config: The settings that it was trained with.

    Raises:
        ValueError: Observations or actions have several parts.
    """
    spec = make.describe(config.env_id, preset=config.preset)
    seen, action = spec.single_observation_space, spec.single_action_space
    size = actor.action_size(spec)
    if not isinstance(seen, gymnasium.spaces.Box) or not isinstance(size, int):
        raise ValueError(
            f"{spec.name} has observations {seen} and actions {action}: policies that act alone "
            "have one of each; play this one with `python -m experiments.evaluate`"
        )
    continuous = isinstance(action, gymnasium.spaces.Box)
    bounds: tuple[Any, Any] = (None, None)
    if isinstance(action, gymnasium.spaces.Box):
        bounds = (_finite(action.low), _finite(action.high))
    return {
        "environment": make.protocol(config.env_id, preset=config.preset),
        "observation_shape": list(seen.shape),
        "observation_dtype": str(seen.dtype),
        "continuous": continuous,
        "action_size": size,
        "action_low": bounds[0],
        "action_high": bounds[1],
        "reward_scale": config.reward_scale,
        "clip_rewards": config.clip_rewards,
        "state": [
            (list(part.shape), str(part.dtype).removeprefix("torch."))
            for part in agent.initial_state(1)
        ],
    }


def write(
    agent: actor.Agent, config: learner.LearnerConfig, origin: Mapping[str, Any], directory: Path
) -> list[Path]:
    """Write a policy into an existing directory, and replace the files of an earlier one.

    Args:
        agent: The agent, on the CPU.
        config: The settings that it was trained with.
        origin: What else the description says, such as the run and the member.
        directory: The directory.

    Returns:
        The paths of the files.

    Raises:
        ValueError: As in `describe`.
        OSError: A file cannot be written.
    """
    step = step_of(agent)
    described = {**describe(agent, config), **origin}
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    # Two of everything, since an example of one would be taken for a constant. One tensor in two
    # places would be taken for one input.
    state = tuple(part.clone() for part in agent.initial_state(2))
    dtype = getattr(torch, described["observation_dtype"])
    arguments = (
        torch.zeros(
            2, *described["observation_shape"], dtype=dtype if _is_image(described) else None
        ),
        torch.zeros(2, described["action_size"]),
        torch.zeros(2),
        torch.ones(2, dtype=torch.bool),
        state,
    )
    with torch.no_grad():
        program = torch.export.export(
            step,
            arguments,
            dynamic_shapes=(*({0: batch},) * 4, tuple({0: batch} for _ in state)),
        )
    weights = {name: tensor.contiguous() for name, tensor in step.state_dict().items()}
    torch.export.save(program, directory / policy.PROGRAM)
    safetensors.torch.save_file(weights, directory / "policy.safetensors")
    (directory / policy.DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")
    (directory / "policy.py").write_text(Path(policy.__file__).read_text())
    return [directory / name for name in FILES]


def _is_image(described: Mapping[str, Any]) -> bool:
    return len(described["observation_shape"]) == 3


def _finite(bounds: Any) -> list[float] | None:
    """Return bounds as JSON; None if one of them is infinite, so that nothing is clipped."""
    return bounds.tolist() if np.isfinite(bounds).all() else None
