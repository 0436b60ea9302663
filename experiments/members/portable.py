"""Write a trained policy as files that need only PyTorch and NumPy.

| file | content |
|---|---|
| `policy.pt2` | the network's step with its weights, as `torch.export.load` reads it |
| `policy.safetensors` | its state dict, for `load_state_dict` of the same module |
| `policy.json` | what it sees and does, and which member of which run it is |
| `policy.py` | `experiments.members.policy`, which acts with these files |
| `environment.py` | `envs.parts`, which gives a Gymnasium environment the spaces of the policy |
"""

import json
import math
from collections.abc import Iterable, Mapping
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
"""Names of the files of every policy."""
WRAPPER = "environment.py"
"""Name of the file of the wrapper, which only policies for Gymnasium's environments have."""
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
        obs: rollout.Obs,
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
    """
    spec = make.describe(config.env_id, preset=config.preset)
    action, size = spec.single_action_space, actor.action_size(spec)
    parts = size if isinstance(size, rollout.ActionParts) else None
    box = action if isinstance(action, gymnasium.spaces.Box) else None
    return {
        "environment": make.protocol(config.env_id, preset=config.preset),
        "observation": [
            {"key": key, "shape": list(part.shape or ()), "dtype": str(part.dtype)}
            for key, part in _keys(spec.single_observation_space)
        ],
        "continuous": box is not None,
        "action_size": rollout.action_width(size),
        "action_parts": [] if parts is None else list(parts.sizes),
        "action_used": [] if parts is None else [list(row) for row in parts.used],
        "action_low": [] if box is None else _bounds(box.low),
        "action_high": [] if box is None else _bounds(box.high),
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
        agent: The agent, on the CPU. Its weights become contiguous in memory.
        config: The settings that it was trained with.
        origin: What else the description says, such as the run and the member.
        directory: The directory.

    Returns:
        The paths of the files.

    Raises:
        OSError: A file cannot be written.
    """
    step = step_of(agent)
    # `torch.export.save` warns of weights that are not.
    step.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    described = {**describe(agent, config), **origin}
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    # Two of everything, since an example of one would be taken for a constant. One tensor in two
    # places would be taken for one input.
    state = tuple(part.clone() for part in agent.initial_state(2))
    obs = tuple(
        policy.seen_obs(np.zeros((2, *one["shape"]), one["dtype"]), agent.device).contiguous()
        for one in described["observation"]
    )
    has_parts = described["observation"][0]["key"] is not None
    arguments = (
        obs if has_parts else obs[0],
        torch.zeros(2, described["action_size"]),
        torch.zeros(2),
        torch.ones(2, dtype=torch.bool),
        state,
    )
    rows = {0: batch}
    shapes = (
        tuple(rows for _ in obs) if has_parts else rows,
        rows,
        rows,
        rows,
        tuple(rows for _ in state),
    )
    with torch.no_grad():
        program = torch.export.export(step, arguments, dynamic_shapes=shapes)
    weights = {name: tensor.contiguous() for name, tensor in step.state_dict().items()}
    torch.export.save(program, directory / policy.PROGRAM)
    safetensors.torch.save_file(weights, directory / "policy.safetensors")
    (directory / policy.DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")
    (directory / "policy.py").write_text(Path(policy.__file__).read_text())
    written = [directory / name for name in FILES]
    (directory / WRAPPER).unlink(missing_ok=True)
    if (wrapper := make.wrapper_file(config.env_id)) is not None:
        (directory / WRAPPER).write_text(wrapper.read_text())
        written.append(directory / WRAPPER)
    return written


def _keys(
    space: gymnasium.Space[Any],
) -> list[tuple[str | int | None, gymnasium.Space[Any]]]:
    """Return the parts of an observation with their keys; None is the key of one without parts."""
    if isinstance(space, gymnasium.spaces.Dict):
        return list(space.items())
    if isinstance(space, gymnasium.spaces.Tuple):
        return list(enumerate(space))
    return [(None, space)]


def _bounds(values: Iterable[float]) -> list[float | None]:
    """Return bounds of a continuous action as JSON, [A]; None where there is none."""
    return [float(value) if math.isfinite(value) else None for value in values]
