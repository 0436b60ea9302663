"""Actor-critic losses: pure functions, one equation each.

Each function checks the shape and dtype of its tensors, so that nothing is broadcast by accident.
The checks read no values, and so do not wait for a GPU.

Sources: "Asynchronous Methods for Deep Reinforcement Learning", Mnih et al. 2016
(https://arxiv.org/abs/1602.01783), algorithm S3 and section 4; "Reinforcement Learning with
Unsupervised Auxiliary Tasks" (UNREAL), Jaderberg et al. 2016 (https://arxiv.org/abs/1611.05397);
"High-Dimensional Continuous Control Using Generalized Advantage Estimation", Schulman et al. 2015
(https://arxiv.org/abs/1506.02438); "Proximal Policy Optimization Algorithms" (PPO), Schulman et al.
2017 (https://arxiv.org/abs/1707.06347).
"""

from collections.abc import Sequence

import torch


def check(
    name: str,
    tensor: torch.Tensor,
    axes: str,
    sizes: Sequence[int],
    dtype: torch.dtype | None = None,
) -> None:
    """Refuse a tensor of another shape or dtype.

    Args:
        name: Name of the tensor, for the message.
        tensor: Tensor to check.
        axes: Names of the wanted axes, for the message.
        sizes: Wanted sizes; -1 allows any.
        dtype: Wanted dtype; None allows any floating-point dtype.

    Raises:
        ValueError: The shape or the dtype differs.
    """
    shape = tuple(tensor.shape)
    fits = len(shape) == len(sizes) and all(
        wanted in (-1, size) for size, wanted in zip(shape, sizes, strict=True)
    )
    if not fits or not (tensor.dtype == dtype if dtype else tensor.is_floating_point()):
        known = "" if -1 in sizes else f" = {tuple(sizes)}"
        kind = dtype or "a floating-point tensor"
        raise ValueError(f"{name} is {tensor.dtype} {shape}, but must be {kind} [{axes}]{known}")


def n_step_returns(
    reward: torch.Tensor,
    discount: torch.Tensor,
    truncated: torch.Tensor,
    truncation_value: torch.Tensor,
    bootstrap_value: torch.Tensor,
    gamma: float,
) -> torch.Tensor:
    """Compute the longest n-step return that the unroll allows for each of its steps.

    R[t] = reward[t] + discount[t] * R[t + 1], with R[T] = bootstrap_value (Mnih et al. 2016,
    algorithm S3). After a truncated step the next episode begins, so there
    R[t] = reward[t] + gamma * truncation_value[t].

    Args:
        reward: Reward that followed the action of each step, [T, B].
        discount: gamma, or 0 where the step terminated the episode or lost a life, [T, B].
        truncated: Whether the step truncated its episode, bool [T, B].
        truncation_value: V(final observation) where truncated, [T, B]; ignored elsewhere.
        bootstrap_value: V(inputs after the last step), [B].
        gamma: Discount of a step that did not end its episode.

    Returns:
        Returns, [T, B], without graph.

    Raises:
        ValueError: A shape or dtype differs from the above.
    """
    reward, discount = _ended(reward, discount, truncated, truncation_value, bootstrap_value, gamma)
    with torch.no_grad():
        returns = torch.empty_like(reward)
        following = bootstrap_value
        for t in reversed(range(reward.shape[0])):
            following = reward[t] + discount[t] * following  # [B]
            returns[t] = following
    return returns


def generalised_advantages(
    reward: torch.Tensor,
    discount: torch.Tensor,
    truncated: torch.Tensor,
    truncation_value: torch.Tensor,
    value: torch.Tensor,
    bootstrap_value: torch.Tensor,
    gamma: float,
    trace: float,
) -> torch.Tensor:
    """Compute generalised advantage estimates (Schulman et al. 2015, equation 16).

    delta[t] = reward[t] + discount[t] * V[t + 1] - V[t], with V[T] = bootstrap_value, and
    A[t] = delta[t] + discount[t] * trace * A[t + 1], with A[T] = 0. A truncated step ends the
    recursion, and its delta is reward[t] + gamma * truncation_value[t] - V[t].

    Args:
        reward: As in `n_step_returns`.
        discount: As in `n_step_returns`.
        truncated: As in `n_step_returns`.
        truncation_value: As in `n_step_returns`.
        value: V(inputs, state) of each step, [T, B]; no gradient flows through it.
        bootstrap_value: As in `n_step_returns`.
        gamma: As in `n_step_returns`.
        trace: The paper's lambda, from 0 to 1. With 1 the estimates are `n_step_returns` - V.

    Returns:
        Advantages, [T, B], without graph.

    Raises:
        ValueError: A shape or dtype differs from the above.
    """
    reward, discount = _ended(reward, discount, truncated, truncation_value, bootstrap_value, gamma)
    check("value", value, "T, B", reward.shape, reward.dtype)
    with torch.no_grad():
        following = torch.cat((value[1:], bootstrap_value.unsqueeze(0)))  # [T, B]
        delta = reward + discount * following - value
        advantages = torch.empty_like(reward)
        advantage = torch.zeros_like(bootstrap_value)
        for t in reversed(range(reward.shape[0])):
            advantage = delta[t] + discount[t] * trace * advantage  # [B]
            advantages[t] = advantage
    return advantages


def _ended(
    reward: torch.Tensor,
    discount: torch.Tensor,
    truncated: torch.Tensor,
    truncation_value: torch.Tensor,
    bootstrap_value: torch.Tensor,
    gamma: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check the arguments of `n_step_returns`; return rewards and discounts that end there, [T, B].

    A truncated step ends the recursion, whatever its discount, and is rewarded by the value of its
    final observation.
    """
    check("reward", reward, "T, B", (-1, -1))
    check("discount", discount, "T, B", reward.shape, reward.dtype)
    check("truncated", truncated, "T, B", reward.shape, torch.bool)
    check("truncation_value", truncation_value, "T, B", reward.shape, reward.dtype)
    check("bootstrap_value", bootstrap_value, "B", reward.shape[1:], reward.dtype)
    with torch.no_grad():
        return (
            torch.where(truncated, reward + gamma * truncation_value, reward),
            torch.where(truncated, torch.zeros_like(discount), discount),
        )


def policy_gradient_loss(log_prob: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """Compute -log pi(a|s) * advantage of each step (Mnih et al. 2016, section 4).

    Args:
        log_prob: Log-probability of the action taken, [T, B].
        advantage: Advantage of that action, [T, B]; no gradient flows through it.

    Returns:
        Loss of each step, [T, B].

    Raises:
        ValueError: A shape or dtype differs from the above.
    """
    check("log_prob", log_prob, "T, B", (-1, -1))
    check("advantage", advantage, "T, B", log_prob.shape, log_prob.dtype)
    return -log_prob * advantage.detach()


def clipped_surrogate_loss(
    log_prob: torch.Tensor,
    acted_log_prob: torch.Tensor,
    advantage: torch.Tensor,
    clip_range: float,
) -> torch.Tensor:
    """Compute PPO's policy loss of each step (Schulman et al. 2017, equation 7).

    -min(r * A, clip(r, 1 - clip_range, 1 + clip_range) * A), with r = pi(a|s) / pi_acted(a|s).

    Args:
        log_prob: Log-probability of the action taken under the present policy, [T, B].
        acted_log_prob: Log-probability of the same action when it was taken, [T, B]; no gradient
            flows through it.
        advantage: Advantage of that action, [T, B]; no gradient flows through it.
        clip_range: The paper's epsilon, above 0.

    Returns:
        Loss of each step, [T, B].

    Raises:
        ValueError: A shape or dtype differs from the above.
    """
    check("log_prob", log_prob, "T, B", (-1, -1))
    check("acted_log_prob", acted_log_prob, "T, B", log_prob.shape, log_prob.dtype)
    check("advantage", advantage, "T, B", log_prob.shape, log_prob.dtype)
    advantage = advantage.detach()
    ratio = (log_prob - acted_log_prob.detach()).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def value_loss(value: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """Compute (R - V(s))^2 of each step (Mnih et al. 2016, algorithm S3).

    Args:
        value: V(s), [T, B].
        returns: R, [T, B]; no gradient flows through it.

    Returns:
        Loss of each step, [T, B].

    Raises:
        ValueError: A shape or dtype differs from the above.
    """
    check("value", value, "T, B", (-1, -1))
    check("returns", returns, "T, B", value.shape, value.dtype)
    return (returns.detach() - value) ** 2


def sequence_returns(
    reward: torch.Tensor,
    discount: torch.Tensor,
    bootstrap: torch.Tensor,
    length: torch.Tensor,
) -> torch.Tensor:
    """Compute n-step returns of replayed sequences of different lengths.

    R[t] = reward[t] + discount[t] * R[t + 1], with R[length] = bootstrap. This is the target of
    value replay if bootstrap is the state's value, and of pixel control if it is max_a Q, cell by
    cell (Jaderberg et al. 2016, sections 3.1 and 3.3).

    Args:
        reward: Rewards, [T, N, ...].
        discount: Discounts, [T, N]; 0 where the episode terminated.
        bootstrap: Value of the state after each sequence's last step, [N, ...].
        length: Steps of each sequence, 1 to T, int64 [N].

    Returns:
        Returns, [T, N, ...], without graph; meaningless from `length` on.

    Raises:
        ValueError: A shape or dtype differs from the above.
    """
    check("reward", reward, "T, N, ...", (-1,) * max(reward.dim(), 2))
    check("discount", discount, "T, N", reward.shape[:2], reward.dtype)
    check("bootstrap", bootstrap, "N, ...", reward.shape[1:], reward.dtype)
    check("length", length, "N", reward.shape[1:2], torch.int64)
    with torch.no_grad():
        each = (-1,) + (1,) * (reward.dim() - 2)  # one number per sequence, [N, 1, ...]
        returns = torch.empty_like(reward)
        following = bootstrap
        for t in reversed(range(reward.shape[0])):
            before = reward[t] + discount[t].view(each) * following  # [N, ...]
            following = torch.where((t < length).view(each), before, following)
            returns[t] = following
    return returns


def pixel_change(frames: torch.Tensor) -> torch.Tensor:
    """Compute the rewards of pixel control: how much each cell of the image changed.

    The image is cropped by 2 pixels on each side, to 80 x 80. A cell is 4 x 4 pixels. Its reward is
    the mean absolute difference of consecutive frames over its pixels and channels (Jaderberg et
    al. 2016, section 3.1 and supplement).

    Args:
        frames: Consecutive frames, uint8 [T + 1, N, c, 84, 84].

    Returns:
        Rewards in [0, 1], float32 [T, N, 20, 20].

    Raises:
        ValueError: The shape or dtype differs from the above.
    """
    check("frames", frames, "T + 1, N, c, 84, 84", (-1, -1, -1, 84, 84), torch.uint8)
    before, after = frames[:-1, ..., 2:-2, 2:-2], frames[1:, ..., 2:-2, 2:-2]
    # Bytes, then 16 bits, and rows before columns: much faster than floats and one sum.
    change = torch.maximum(before, after) - torch.minimum(before, after)  # [T, N, c, 80, 80]
    rows = change.view(*change.shape[:-2], 20, 4, 80).sum(-2, dtype=torch.int16)
    cells = rows.view(*rows.shape[:-1], 20, 4).sum(-1, dtype=torch.int16)  # [T, N, c, 20, 20]
    return cells.sum(2, dtype=torch.int32).float() / (16 * 255 * frames.shape[2])
