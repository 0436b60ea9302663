"""Translate with a Transformer: greedily, or by beam search. Both work on batches."""

import torch

from agents.transformer import BEGIN, END, PAD, Transformer


def _limits(source: torch.Tensor, extra: int) -> torch.Tensor:
    """Return the most target tokens of each sentence, `END` included, [B]."""
    return (source != PAD).sum(1) + extra


def _without_special(log_probs: torch.Tensor) -> torch.Tensor:
    """Forbid what no translation has."""
    log_probs[:, [PAD, BEGIN]] = -torch.inf
    return log_probs


@torch.no_grad()
def greedy(network: Transformer, source: torch.Tensor, extra: int) -> torch.Tensor:
    """Translate by taking the most probable token each time.

    Args:
        network: The network, in evaluation mode.
        source: Token ids, padded at the right, [B, S].
        extra: A translation has at most so many tokens more than its source, `END` included.

    Returns:
        Token ids, [B, T]. What follows `END` is padding. Without `END` the limit was reached.
    """
    limits = _limits(source, extra)
    state = network.start(source)
    token = torch.full_like(source[:, 0], BEGIN)
    is_running = torch.ones_like(token, dtype=torch.bool)
    tokens = []
    for length in range(1, int(limits.max()) + 1):
        best = _without_special(network.step(state, token)).argmax(1)
        token = torch.where(is_running, best, PAD)
        tokens.append(token)
        is_running &= (token != END) & (limits > length)
        if not is_running.any():
            break
    return torch.stack(tokens, 1)


def length_penalty(length: int | torch.Tensor, alpha: float) -> float | torch.Tensor:
    """Return the divisor of the log-probability of a translation.

    Wu et al. 2016 (https://arxiv.org/abs/1609.08144), equation 14: ((5 + length) / 6)^alpha.

    Args:
        length: Number of tokens, `END` included.
        alpha: 0 for none.
    """
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def beam_search(
    network: Transformer, source: torch.Tensor, extra: int, beam: int = 4, alpha: float = 0.6
) -> torch.Tensor:
    """Translate by following the `beam` most probable beginnings.

    Each step ranks all continuations of all beginnings of a sentence, and keeps the best `beam`.
    One that ends is finished, and from then on there is one place less in the beam. A sentence is
    over once all places are used up, no beginning can beat the best finished translation any more,
    or its limit is reached. So a beam of 1 is greedy, and the most probable beginning always goes
    on, however many improbable ones end early.

    Args:
        network: The network, in evaluation mode.
        source: Token ids, padded at the right, [B, S].
        extra: A translation has at most so many tokens more than its source, `END` included.
        beam: Number of beginnings.
        alpha: Exponent of `length_penalty`.

    Returns:
        For each sentence the finished translation with the highest log P / length_penalty, or, if
        none is finished at the limit, the most probable beginning. Token ids, [B, T], padded.
    """
    limits = _limits(source, extra)
    batch, longest = len(source), int(limits.max())
    state = network.start(source)
    state.repeat(beam)
    first_row = torch.arange(batch, device=source.device).unsqueeze(1) * beam  # [B, 1]
    sentence = torch.arange(batch, device=source.device)
    scores = torch.full((batch, beam), -torch.inf, device=source.device)
    scores[:, 0] = 0.0  # all beginnings are equal, so only one counts
    tokens = torch.full((batch, beam, longest), PAD, device=source.device)
    last = torch.full((batch * beam,), BEGIN, device=source.device)
    best = torch.full((batch,), -torch.inf, device=source.device)
    best_tokens = torch.full((batch, longest), PAD, device=source.device)
    finished = torch.zeros(batch, dtype=torch.long, device=source.device)
    is_over = torch.zeros(batch, dtype=torch.bool, device=source.device)
    rank = torch.arange(2 * beam, device=source.device)
    for length in range(1, longest + 1):
        log_probs = _without_special(network.step(state, last).log_softmax(1))  # [B * beam, V]
        vocabulary = log_probs.shape[1]
        totals = (scores.unsqueeze(2) + log_probs.view(batch, beam, -1)).flatten(1)
        # One continuation of each beginning ends, so twice the beam holds enough that do not.
        top, index = totals.topk(2 * beam, 1)  # [B, 2 * beam]
        origin, token = index // vocabulary, index % vocabulary
        is_kept = (top > -torch.inf) & (rank < (beam - finished).unsqueeze(1))
        is_end = token == END

        ended = torch.where(is_kept & is_end, top / length_penalty(length, alpha), -torch.inf)
        value, which = ended.max(1)
        is_better = (value > best) & ~is_over
        text = tokens[sentence, origin[sentence, which]]  # a copy, [B, longest]
        text[:, length - 1] = END
        best = torch.where(is_better, value, best)
        best_tokens = torch.where(is_better.unsqueeze(1), text, best_tokens)
        finished += (is_kept & is_end).sum(1)

        scores, which = torch.where(is_kept & ~is_end, top, -torch.inf).topk(beam, 1)  # [B, beam]
        origin, token = origin.gather(1, which), token.gather(1, which)
        tokens = tokens[sentence.unsqueeze(1), origin]
        tokens[:, :, length - 1] = token
        at_limit = limits <= length
        is_unfinished = at_limit & ~is_over & (best == -torch.inf)
        best_tokens = torch.where(is_unfinished.unsqueeze(1), tokens[:, 0], best_tokens)
        # A log-probability only falls, and at the limit it has the largest divisor.
        can_win = scores[:, 0] / length_penalty(limits, alpha) > best
        is_over |= at_limit | ~can_win
        if is_over.all():
            break
        state.reorder((first_row + origin).flatten())
        last = token.flatten()
    return best_tokens
