"""Policies: distributions over actions, and the heads that make them.

A head turns features into the parameters of a distribution, one tensor [..., n]. The distribution
samples, and computes log-probabilities and entropies from these parameters.

An action may have several discrete parts. Its parts are independent given the features, so the
log-probabilities and entropies of the parts are summed. The first part may decide which of the
others count, as a function of StarCraft II decides which arguments it takes (Vinyals et al. 2017,
https://arxiv.org/abs/1708.04782, section 4.1). See `rollout.ActionParts`.

Where an environment says which actions are legal, the logits of all others are set to `ILLEGAL`
before the softmax. Their probability is exactly 0, they add nothing to the entropy,
and no gradient flows through them.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from agents import rollout

ILLEGAL = -1e9
"""Logit of an illegal action. Its exponential is 0. Minus infinity would make the entropy 0 * inf,
and the least finite number overflows in products."""


def masked(logits: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return logits [..., A] with `ILLEGAL` where the mask [..., A] is false."""
    return logits if mask is None else logits.masked_fill(~mask, ILLEGAL)


class Categorical(nn.Module):
    """A policy over discrete actions, given by log-probabilities."""

    def sample(self, log_probs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Sample actions, int64 [B], from log-probabilities [B, A]."""
        return torch.multinomial(log_probs.detach().exp(), 1, generator=generator).squeeze(-1)

    def mode(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Return the most likely actions, int64 [B], of log-probabilities [B, A]."""
        return log_probs.argmax(-1)

    def log_prob(self, log_probs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of `action` [...] under log-probabilities [..., A]."""
        return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Return the entropy [...] in nats."""
        return -(log_probs.exp() * log_probs).sum(-1)


class CategoricalHead(Categorical):
    """Softmax policy over discrete actions."""

    def __init__(self, width: int, num_actions: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_actions)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return log-probabilities [..., A] of features [..., width] under a mask [..., A]."""
        return functional.log_softmax(masked(self.linear(x), mask), dim=-1)


class MultiCategorical(nn.Module):
    """A policy over actions of several discrete parts, given by log-probabilities of each part.

    The log-probabilities of all parts lie side by side, [..., S] with S the sum of their sizes.

    Args:
        parts: Sizes of the parts, and which of them count.
    """

    offsets: torch.Tensor
    counts: torch.Tensor

    def __init__(self, parts: rollout.ActionParts) -> None:
        super().__init__()
        self.parts = parts
        # Neither is learned, so that no checkpoint has them.
        self.register_buffer("offsets", torch.tensor(parts.offsets), persistent=False)  # [P]
        counts = torch.tensor(parts.counts) if parts.used else None  # bool [functions, P]
        self.register_buffer("counts", counts, persistent=False)

    def log_probs(self, logits: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return log-probabilities [..., S] of logits [..., S] under a mask, bool [..., S]."""
        of_parts = self._split(masked(logits, mask))
        return torch.cat([functional.log_softmax(part, dim=-1) for part in of_parts], dim=-1)

    def sample(self, log_probs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Sample actions, int64 [B, P], from log-probabilities [B, S]; 0 in unused parts."""
        probs = self._split(log_probs.detach().exp())
        action = torch.cat([torch.multinomial(part, 1, generator=generator) for part in probs], -1)
        return self._in_use(action)

    def mode(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Return the most likely action of each part, int64 [B, P]; 0 in unused parts.

        Args:
            log_probs: Log-probabilities [B, S].
        """
        best = [part.argmax(-1) for part in self._split(log_probs)]
        return self._in_use(torch.stack(best, -1))

    def _in_use(self, action: torch.Tensor) -> torch.Tensor:
        """Return actions [B, P] with 0 in the parts that do not count."""
        return action if self.counts is None else action * self.counts[action[:, 0]]

    def log_prob(self, log_probs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return the log-probability [...] of `action` [..., P] under log-probabilities [..., S].

        It is the sum over the parts that count.
        """
        of_parts = log_probs.gather(-1, action + self.offsets)  # [..., P]
        if self.counts is not None:
            of_parts = of_parts.masked_fill(~self.counts[action[..., 0]], 0.0)
        return of_parts.sum(-1)

    def entropy(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Return the entropy [...] in nats, of the action as far as it counts.

        H = H(first part) + sum over the others of P(part counts) * H(part). With a table of used
        arguments this is the mean, over the functions that may be chosen, of the sum over the parts
        that count.
        """
        terms = -(log_probs.exp() * log_probs)  # [..., S]
        of_parts = torch.stack([part.sum(-1) for part in self._split(terms)], -1)  # [..., P]
        if self.counts is not None:
            function = log_probs[..., : self.parts.sizes[0]].exp()  # [..., functions]
            of_parts = of_parts * (function @ self.counts.to(function.dtype))  # [..., P]
        return of_parts.sum(-1)

    def _split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(x, list(self.parts.sizes), dim=-1)


class MultiCategoricalHead(MultiCategorical):
    """Softmax policies over the parts of an action, one head per part.

    Args:
        width: Length of the features.
        parts: As in `MultiCategorical`.
    """

    def __init__(self, width: int, parts: rollout.ActionParts) -> None:
        super().__init__(parts)
        self.linear = nn.Linear(width, parts.width)  # all heads side by side

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return log-probabilities [..., S] of features [..., width] under a mask [..., S]."""
        return self.log_probs(self.linear(x), mask)


class GaussianHead(nn.Module):
    """Diagonal Gaussian policy over continuous actions.

    The log-std is one parameter per dimension. It starts at 0, and a scaled tanh keeps it in
    [-4, 1], so that an entropy bonus cannot drive it to infinity. Actions are not clipped here: the
    environment clips them, and the log-probability is that of the sampled action.
    """

    LOG_STD_LOW, LOG_STD_HIGH = -4.0, 1.0

    def __init__(self, width: int, action_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, action_size)
        centre = (self.LOG_STD_LOW + self.LOG_STD_HIGH) / 2
        half = (self.LOG_STD_HIGH - self.LOG_STD_LOW) / 2
        self.raw_log_std = nn.Parameter(torch.full((action_size,), math.atanh(-centre / half)))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return mean and log-std, [..., 2, A], of features [..., width]; there is no mask."""
        mean = self.linear(x)
        half = (self.LOG_STD_HIGH - self.LOG_STD_LOW) / 2
        log_std = self.LOG_STD_LOW + half * (self.raw_log_std.tanh() + 1)
        return torch.stack((mean, log_std.expand_as(mean)), dim=-2)

    def sample(self, parameters: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Sample actions, float32 [B, A], from mean and log-std [B, 2, A]."""
        mean, log_std = parameters.detach().unbind(-2)  # [B, A] each
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + log_std.exp() * noise

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the most likely actions, float32 [B, A], of mean and log-std [B, 2, A]."""
        return parameters.detach()[..., 0, :]

    def log_prob(self, parameters: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return the log-density [...] of `action` [..., A]."""
        mean, log_std = parameters.unbind(-2)
        squared = ((action - mean) * (-log_std).exp()) ** 2
        return -(0.5 * squared + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the differential entropy [...] in nats; it may be negative."""
        _, log_std = parameters.unbind(-2)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


Policy = Categorical | MultiCategorical | GaussianHead
"""A policy of any kind."""


def make_head(
    width: int, action_size: rollout.ActionSize, continuous: bool
) -> CategoricalHead | MultiCategoricalHead | GaussianHead:
    """Return an untrained head for such actions. Arguments are those of `networks.ActorCritic`."""
    if isinstance(action_size, rollout.ActionParts):
        return MultiCategoricalHead(width, action_size)
    return GaussianHead(width, action_size) if continuous else CategoricalHead(width, action_size)
