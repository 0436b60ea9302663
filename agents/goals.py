"""What the goals of a FeUdal Network mean: pooling, intrinsic reward, transition policy gradient.

"FeUdal Networks for Hierarchical Reinforcement Learning", Vezhnevets et al. 2017
(https://arxiv.org/abs/1703.01161), equations 4, 7 and 8. All are pure functions. A sequence that
looks back has `past` more entries in front, those of the steps before the unroll. The age of a step
is the number of steps that its episode took before it. Nothing older than that is ever used, so
nothing crosses the start of an episode.
"""

import torch

from agents import losses

SMALLEST_NORM = 1e-3
"""Norm below which a vector has no direction. It then counts as zero and gets no gradient."""


def unit(x: torch.Tensor) -> torch.Tensor:
    """Return vectors [..., d] scaled to length 1, and zero where they are nearly zero."""
    norm = x.norm(dim=-1, keepdim=True)  # [..., 1]
    has_direction = norm > SMALLEST_NORM
    scaled: torch.Tensor = x / torch.where(has_direction, norm, 1)
    return torch.where(has_direction, scaled, 0)


def ages(before: torch.Tensor, is_first: torch.Tensor) -> torch.Tensor:
    """Compute the age of each step.

    Args:
        before: Steps that the running episodes have taken before the unroll, int64 [B].
        is_first: Whether an episode starts at a step, bool [T, B].

    Returns:
        Ages, int64 [T, B].

    Raises:
        ValueError: A shape or dtype differs from the above.
    """
    losses.check("is_first", is_first, "T, B", (-1, -1), torch.bool)
    losses.check("before", before, "B", is_first.shape[1:], torch.int64)
    found = []
    for first in is_first:
        found.append(torch.where(first, 0, before))
        before = found[-1] + 1
    return torch.stack(found)


def pool(x: torch.Tensor, age: torch.Tensor, count: int) -> torch.Tensor:
    """Sum the last `count` entries at each step, those of the same episode.

    pooled[t] = sum of x[t - i] over i = 0 .. count - 1, for i <= age[t]. With goals and a count of
    c + 1 this is the sum over t - c .. t that the Worker sees (equation 4 of the paper).

    Args:
        x: Sequence with its past, [past + T, B, d], past >= count - 1.
        age: Ages of the last T entries, int64 [T, B].
        count: Entries to sum.

    Returns:
        Sums, [T, B, d].

    Raises:
        ValueError: A shape or dtype differs from the above.
    """
    losses.check("x", x, "past + T, B, d", (-1, *age.shape[1:], -1))
    losses.check("age", age, "T, B", (-1, -1), torch.int64)
    past = _past(x, age, count - 1)
    pooled = x[past:]
    for i in range(1, count):
        inside = (age >= i).unsqueeze(-1).to(x.dtype)  # [T, B, 1]
        pooled = pooled + inside * x[past - i : x.shape[0] - i]
    return pooled


def intrinsic_reward(
    latent: torch.Tensor, goal: torch.Tensor, age: torch.Tensor, horizon: int
) -> torch.Tensor:
    """Compute how well each state follows the goals of the steps before it (equation 8).

    r[t] = 1/c * sum over i = 1 .. c of cos(s[t] - s[t - i], g[t - i]), for i <= age[t]. It is 0
    where an episode starts. r[t + 1] is a consequence of the action at step t.

    Args:
        latent: States s with their past, [past + T, B, d], past >= c.
        goal: Goals g with their past, unit vectors [past + T - 1, B, d].
        age: Ages of the last T states, int64 [T, B].
        horizon: The paper's c.

    Returns:
        Rewards from -1 to 1, [T, B], without graph.

    Raises:
        ValueError: A shape or dtype differs from the above.
    """
    losses.check("latent", latent, "past + T, B, d", (-1, *age.shape[1:], -1))
    losses.check("goal", goal, "past + T - 1, B, d", (latent.shape[0] - 1, *latent.shape[1:]))
    losses.check("age", age, "T, B", (-1, -1), torch.int64)
    past, length = _past(latent, age, horizon), age.shape[0]
    with torch.no_grad():
        total = torch.zeros_like(latent[past:, :, 0])  # [T, B]
        for i in range(1, horizon + 1):
            at = slice(past - i, past - i + length)
            change = unit(latent[past:] - latent[at])  # [T, B, d]
            total += (change * goal[at]).sum(-1) * (age >= i)
        return total / horizon


def transition_cosine(
    latent: torch.Tensor, goal: torch.Tensor, age: torch.Tensor, horizon: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute cos(s[t + c] - s[t], g[t]), where step t + c is in the unroll and the same episode.

    Args:
        latent: States s, [T + 1, B, d]; no gradient flows through them.
        goal: Goals g, unit vectors [T, B, d].
        age: Ages of the states, int64 [T + 1, B].
        horizon: The paper's c.

    Returns:
        The cosine [T, B], 0 elsewhere, and where it is defined, bool [T, B].

    Raises:
        ValueError: A shape or dtype differs from the above.
    """
    losses.check("goal", goal, "T, B, d", (-1, -1, -1))
    length, batch, width = goal.shape
    losses.check("latent", latent, "T + 1, B, d", (length + 1, batch, width))
    losses.check("age", age, "T + 1, B", (length + 1, batch), torch.int64)
    count = max(0, length + 1 - horizon)  # steps whose step t + c is in the unroll
    inside = torch.zeros(length, batch, dtype=torch.bool, device=goal.device)
    inside[:count] = age[horizon:] >= horizon
    change = unit(latent[horizon:] - latent[:count]).detach()  # [count, B, d]
    cosine = (change * goal[:count]).sum(-1) * inside[:count]
    return torch.cat((cosine, torch.zeros_like(goal[count:, :, 0]))), inside


def transition_policy_gradient_loss(cosine: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """Compute -A * cos(s[t + c] - s[t], g[t]) of each step (equation 7).

    Args:
        cosine: As `transition_cosine` returns it, [T, B].
        advantage: Advantage of the Manager, [T, B]; no gradient flows through it.

    Returns:
        Loss of each step, [T, B].

    Raises:
        ValueError: A shape or dtype differs from the above.
    """
    losses.check("cosine", cosine, "T, B", (-1, -1))
    losses.check("advantage", advantage, "T, B", cosine.shape, cosine.dtype)
    return -cosine * advantage.detach()


def _past(x: torch.Tensor, age: torch.Tensor, least: int) -> int:
    """Return the number of entries before the unroll; refuse fewer than `least`."""
    past = x.shape[0] - age.shape[0]
    if past < least:
        raise ValueError(f"{past} steps before the unroll are given, but {least} are looked back")
    return past
