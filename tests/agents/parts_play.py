"""Agents on random observations and actions of several parts."""

import dataclasses
import math

import numpy as np
import torch

from agents import a3c, actor_critic, ppo, rollout

STEPS, ENVS = 6, 4


def inputs_of(shapes, parts, rng, first=False, masked=True, batch=ENVS):
    obs = tuple(
        torch.tensor(rng.integers(0, 256, (batch, *shape), dtype=np.uint8))
        if len(shape) == 3
        else torch.tensor(rng.normal(size=(batch, *shape)), dtype=torch.float32)
        for shape in shapes
    )
    mask = torch.tensor(rng.random((batch, parts.width)) < 0.6)
    mask[:, [last - 1 for last in np.cumsum(parts.sizes)]] = True  # each part has a legal value
    return rollout.Inputs(
        obs,
        torch.tensor(rng.random((batch, parts.width)) < 0.1).float(),
        torch.tensor(rng.normal(size=batch), dtype=torch.float32),
        torch.tensor(rng.random(batch) < 0.2) | first,
        mask if masked else None,
    )


def make(kind, shapes, parts, **settings):
    config = actor_critic.AgentConfig(**settings)
    if kind == "a3c":
        return a3c.A3C(shapes, parts, False, config, 1e-2, 0)
    once = ppo.PPOConfig(STEPS, STEPS * ENVS, trace=1.0, normalise_advantages=False)
    return ppo.PPO(shapes, parts, False, config, once, 1e-2, 0)


def play(agent, shapes, parts, keep_graph, masked=True):
    rng = np.random.default_rng(0)
    state = agent.initial_state(ENVS)
    inputs, steps = [], []
    for t in range(STEPS):
        inputs.append(inputs_of(shapes, parts, rng, t == 0, masked))
        steps.append(agent.act(inputs[-1], state, keep_graph))
        state = steps[-1].state
    reward = torch.tensor(rng.normal(size=(STEPS, ENVS)), dtype=torch.float32)
    return rollout.Rollout(
        inputs=inputs,
        initial_state=agent.initial_state(ENVS),
        steps=tuple(steps),
        reward=reward,
        discount=torch.full((STEPS, ENVS), 0.99),
        truncated=torch.zeros(STEPS, ENVS, dtype=torch.bool),
        truncation_value=torch.zeros(STEPS, ENVS),
        bootstrap_value=torch.zeros(ENVS),
    )


def gradients(agent):
    return [parameter.grad.clone() for parameter in agent.network.parameters()]


def check_gradients(shapes, parts, **settings):
    """Compare A3C's gradient by the kept graph, by a second pass, and PPO's in one epoch."""
    found = []
    for kind, keep_graph in (("a3c", True), ("a3c", False), ("ppo", False)):
        graph_steps = 100 if keep_graph else 2 * STEPS
        agent = make(kind, shapes, parts, graph_steps=graph_steps, **settings)
        batch = play(agent, shapes, parts, keep_graph)
        if kind == "a3c":
            agent.backward(batch, 0.01)
        else:
            agent.package = dataclasses.replace(agent.package, max_gradient_norm=math.inf)
            agent.update(batch, 0.01, STEPS, 1e9, 1)
        found.append(gradients(agent))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)
