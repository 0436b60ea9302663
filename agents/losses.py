"""Actor-critic losses: pure functions, one equation each. Tensors are [T, B] unless stated.

See "Asynchronous Methods for Deep Reinforcement Learning", Mnih et al. 2016
(https://arxiv.org/abs/1602.01783), algorithm S3 and section 4.
"""

import torch


def n_step_returns(
    reward: torch.Tensor,
    discount: torch.Tensor,
    truncated: torch.Tensor,
    truncation_value: torch.Tensor,
    bootstrap_value: torch.Tensor,
    gamma: float,
) -> torch.Tensor:
    """The longest n-step return each step of the unroll allows (Mnih et al. 2016, algorithm S3).

    R[t] = reward[t] + discount[t] * R[t + 1], with R[T] = bootstrap_value. Where step t was
    truncated the future belongs to another episode: R[t] = reward[t] + gamma * truncation_value[t].

    Args:
        reward: Reward that followed the action of step t, [T, B].
        discount: gamma, or 0 where step t terminated the episode or lost a life, [T, B].
        truncated: Whether step t cut its episode short, bool [T, B].
        truncation_value: V(final observation of the cut episode) [T, B]; used only where truncated.
        bootstrap_value: V(inputs after the last step), [B].
        gamma: The discount of a step that did not end its episode.

    Returns:
        Returns [T, B], without graph.
    """
    if not reward.shape == discount.shape == truncated.shape == truncation_value.shape:
        raise ValueError(
            f"reward {tuple(reward.shape)}, discount {tuple(discount.shape)}, truncated "
            f"{tuple(truncated.shape)} and truncation_value {tuple(truncation_value.shape)} "
            "must all be [T, B]"
        )
    if bootstrap_value.shape != reward.shape[1:]:
        raise ValueError(
            f"bootstrap_value {tuple(bootstrap_value.shape)} must be [B] = "
            f"{tuple(reward.shape[1:])}"
        )
    with torch.no_grad():
        # A truncated step ends the recursion, whatever discount says.
        reward = torch.where(truncated, reward + gamma * truncation_value, reward)
        discount = torch.where(truncated, torch.zeros_like(discount), discount)
        returns = torch.empty_like(reward)
        following = bootstrap_value
        for t in reversed(range(reward.shape[0])):
            following = reward[t] + discount[t] * following
            returns[t] = following
    return returns


def policy_gradient_loss(log_prob: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """-log pi(a|s) * advantage, elementwise; no gradient flows through the advantage."""
    return -log_prob * advantage.detach()


def value_loss(value: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """(R - V(s))^2, elementwise; no gradient flows through the returns. A3C weighs it 0.5."""
    return (returns.detach() - value) ** 2


def sequence_returns(
    reward: torch.Tensor,
    discount: torch.Tensor,
    bootstrap: torch.Tensor,
    length: torch.Tensor,
) -> torch.Tensor:
    """n-step returns of replayed sequences, each as long as its own episode allows.

    R[t] = reward[t] + discount[t] * R[t + 1] with R[length] = bootstrap, for each sequence. With
    the state's value as bootstrap this is the target of value replay; with max_a Q, cell by cell,
    the n-step Q target of pixel control (Jaderberg et al. 2016, https://arxiv.org/abs/1611.05397,
    sections 3.1 and 3.3).

    Args:
        reward: [T, N, ...].
        discount: 0 where the episode terminated, [T, N, ...]; may lack trailing dimensions of 1.
        bootstrap: What the state after a sequence's last step is worth, [N, ...].
        length: Steps of each sequence, int64 [N], 1 to T.

    Returns:
        Returns [T, N, ...], without graph; from `length` on they mean nothing.
    """
    with torch.no_grad():
        returns = torch.empty_like(reward)
        following = bootstrap
        for t in reversed(range(reward.shape[0])):
            inside = (t < length).view(-1, *(1,) * (reward.dim() - 2))
            following = torch.where(inside, reward[t] + discount[t] * following, following)
            returns[t] = following
    return returns


def pixel_change(frames: torch.Tensor) -> torch.Tensor:
    """How much the picture changed, cell by cell: the rewards of pixel control.

    Two pixels are cut off each border of 84 x 84; then the mean absolute difference of consecutive
    frames over channels and over cells of 4 x 4 pixels (Jaderberg et al. 2016, section 3.1 and
    supplement).

    Args:
        frames: uint8 [T + 1, N, c, 84, 84].

    Returns:
        [T, N, 20, 20] in [0, 1].
    """
    before, after = frames[:-1, ..., 2:-2, 2:-2], frames[1:, ..., 2:-2, 2:-2]
    # Bytes, then 16 bits, and rows before columns: ten times as fast as floats and one sum.
    change = torch.maximum(before, after) - torch.minimum(before, after)
    rows = change.view(*change.shape[:-2], 20, 4, 80).sum(-2, dtype=torch.int16)
    cells = rows.view(*rows.shape[:-1], 20, 4).sum(-1, dtype=torch.int16)  # [T, N, c, 20, 20]
    return cells.sum(2, dtype=torch.int32).float() / (16 * 255 * frames.shape[2])
