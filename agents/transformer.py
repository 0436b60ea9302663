"""The Transformer that translates, and its loss.

"Attention Is All You Need", Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762), in the form of
Tensor2Tensor at November 2017, which the PBT paper trained: a sublayer normalises its input
("pre-norm"), and one table embeds source and target and makes the logits. Sublayers have three
kinds of dropout, whose rates may change at any time.
"""

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

PAD, BEGIN, END = 0, 1, 2
"""Token ids: padding at the right, what a decoder sees first, and what ends a sentence."""

ATTENTION, RELU, RESIDUAL = "attention_dropout", "relu_dropout", "residual_dropout"
DROPOUTS = (ATTENTION, RELU, RESIDUAL)
"""Where elements are dropped: weights of attention, hidden units behind the ReLU, and what is added
to the residual stream, embeddings included."""

_HIDDEN = -1e30
"""Added to scores of attention that must not count. Unlike -inf, it leaves no NaN anywhere."""


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the network.

    Raises:
        ValueError: A value is out of its range.
    """

    layers: int = 2
    """Layers of the encoder, and of the decoder."""
    width: int = 64
    """Width of the residual stream and of the embeddings (the paper's d_model)."""
    filter_width: int = 256
    """Hidden units of the feed-forward sublayers (d_ff)."""
    heads: int = 4
    """Heads of each attention, a divisor of the width."""

    def __post_init__(self) -> None:
        for name in ("layers", "filter_width", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.width < 2 or self.width % 2 or self.width % self.heads:
            raise ValueError(
                f"width {self.width} must be even, and a multiple of the {self.heads} heads"
            )


PAPER = TransformerConfig(layers=6, width=512, filter_width=2_048, heads=8)
"""`transformer_base_single_gpu` of Tensor2Tensor at November 2017, the base model of Vaswani et al.
2017, table 3."""


def label_smoothing_loss(
    logits: torch.Tensor, target: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """Return the cross-entropy of each token with a smoothed target distribution.

    The right token has probability 1 - smoothing, and the others share the rest equally: section
    5.4 of Vaswani et al. 2017 as in Tensor2Tensor. (Szegedy et al. 2016 give a share to the right
    token as well.)

    Args:
        logits: Unnormalised log-probabilities, [N, V].
        target: Ids of the right tokens, [N].
        smoothing: Probability that is taken from the right token.

    Returns:
        Losses in nats, [N]. They are not 0 at the best prediction, unless the smoothing is 0.
    """
    log_probs = functional.log_softmax(logits, -1)
    right = log_probs.gather(1, target.unsqueeze(1)).squeeze(1)
    others = log_probs.sum(1) - right
    return -(1 - smoothing) * right - smoothing / (logits.shape[1] - 1) * others


def positions(length: int, width: int) -> torch.Tensor:
    """Return the sinusoidal encoding of the positions 0 to length - 1, [length, width].

    Vaswani et al. 2017, section 3.5: dimension 2i is sin(pos / 10000^(2i / width)), and dimension
    2i + 1 the cosine.
    """
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angle = torch.arange(length).unsqueeze(1) * frequency  # [length, width / 2]
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)


class Dropout(nn.Module):
    """Dropout that draws from a given generator, at a rate that may change at any time.

    `torch.nn.Dropout` draws from torch's global generator, which other code may use as well. 16
    random bits decide about an element, so the rate is exact to 1/65,536. Four elements share a
    64-bit number, since drawing is what makes dropout slow.

    Args:
        generator: Generator on the device of the inputs.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.rate = 0.0
        """Probability that an element is set to 0. The others are divided by 1 - rate."""
        self._generator = generator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` with elements dropped if the module is in training, else `x` itself."""
        if not self.training or self.rate == 0:
            return x
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self._generator)  # all 64 bits
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)  # -2^15 to 2^15 - 1
        kept = bits >= min(round(self.rate * 2**16), 2**16 - 1) - 2**15
        return x * kept.to(x.dtype).mul_(1 / (1 - self.rate))


class Attention(nn.Module):
    """Multi-head attention without biases; Vaswani et al. 2017, section 3.2.

    Args:
        config: Sizes.
        generator: Generator of the dropout of the weights.
    """

    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key_value = nn.Linear(config.width, 2 * config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)
        self.dropout = Dropout(generator)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, T, width] as heads, [B, heads, T, width / heads]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def keys_and_values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values of what is attended to, each [B, heads, S, width / heads]."""
        key, value = self.key_value(x).chunk(2, -1)
        return self._split(key), self._split(value)

    def forward(
        self,
        x: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            x: What attends, [B, T, width].
            keys: Keys, [B, heads, S, width / heads].
            values: Values, likewise.
            mask: Added to the scores, of a shape that fits [B, heads, T, S]; None for 0.

        Returns:
            What was attended to, [B, T, width].
        """
        query = self._split(self.query(x)) * (x.shape[-1] // self.heads) ** -0.5
        scores = query @ keys.transpose(-1, -2)  # [B, heads, T, S]
        if mask is not None:
            scores = scores + mask
        weights = self.dropout(scores.softmax(-1))
        return self.output((weights @ values).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them; Vaswani et al. 2017, section 3.3."""

    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.width, config.filter_width)
        self.output = nn.Linear(config.filter_width, config.width)
        self.dropout = Dropout(generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of each position, [B, T, width]."""
        return self.output(self.dropout(functional.relu(self.hidden(x))))  # type: ignore[no-any-return]


def _norm(config: TransformerConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.width, eps=1e-6)  # Tensor2Tensor's epsilon


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward sublayer, each added to its input."""

    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.attention_norm, self.attention = _norm(config), Attention(config, generator)
        self.feed_norm, self.feed = _norm(config), FeedForward(config, generator)
        self.dropout = Dropout(generator)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the next residual stream, [B, S, width]."""
        normed = self.attention_norm(x)
        attended = self.attention(normed, *self.attention.keys_and_values(normed), mask)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed(self.feed_norm(x)))  # type: ignore[no-any-return]


@dataclasses.dataclass
class Seen:
    """Keys and values that one decoder layer keeps while a translation grows."""

    keys: torch.Tensor
    """Keys of the target so far, [B, heads, t, width / heads]."""
    values: torch.Tensor
    """Values of the target so far, likewise."""
    source_keys: torch.Tensor
    """Keys of the source, [B, heads, S, width / heads]."""
    source_values: torch.Tensor
    """Values of the source, likewise."""


class DecoderLayer(nn.Module):
    """Self-attention, attention to the source and a feed-forward sublayer."""

    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.attention_norm, self.attention = _norm(config), Attention(config, generator)
        self.source_norm, self.source = _norm(config), Attention(config, generator)
        self.feed_norm, self.feed = _norm(config), FeedForward(config, generator)
        self.dropout = Dropout(generator)

    def forward(
        self, x: torch.Tensor, seen: Seen, mask: torch.Tensor | None, source_mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the next residual stream, [B, T, width], and append to what was seen.

        Args:
            x: Residual stream of the new positions, [B, T, width].
            seen: Keys and values of the source and of earlier positions.
            mask: Added to the scores of all positions so far; None for 0.
            source_mask: Added to the scores of the source.
        """
        normed = self.attention_norm(x)
        keys, values = self.attention.keys_and_values(normed)
        seen.keys = torch.cat((seen.keys, keys), 2)
        seen.values = torch.cat((seen.values, values), 2)
        x = x + self.dropout(self.attention(normed, seen.keys, seen.values, mask))
        attended = self.source(
            self.source_norm(x), seen.source_keys, seen.source_values, source_mask
        )
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed(self.feed_norm(x)))  # type: ignore[no-any-return]


@dataclasses.dataclass
class State:
    """What a decoder knows of translations that grow together."""

    layers: list[Seen]
    """Keys and values of each layer."""
    source_mask: torch.Tensor
    """Added to the scores of the source, [B, 1, 1, S]."""
    length: int = 0
    """Number of positions so far."""

    def repeat(self, count: int) -> None:
        """Have each sentence `count` times, next to each other."""
        for seen in self.layers:
            for field in dataclasses.fields(seen):
                repeated = getattr(seen, field.name).repeat_interleave(count, 0)
                setattr(seen, field.name, repeated)
        self.source_mask = self.source_mask.repeat_interleave(count, 0)

    def reorder(self, rows: torch.Tensor) -> None:
        """Continue from other rows, each of which translates the same sentence as before."""
        for seen in self.layers:
            seen.keys = seen.keys.index_select(0, rows)
            seen.values = seen.values.index_select(0, rows)


class Transformer(nn.Module):
    """Encoder and decoder. All dropout rates are 0 at first.

    Args:
        vocabulary: Number of token ids.
        config: Sizes.
        seed: Seed of the initial weights, which are those of Tensor2Tensor: embeddings normal with
            deviation width^-0.5, the others uniform with variance 2 / (inputs + outputs), biases 0.
        generator: Generator of all dropout, on the device that the network will be on.
    """

    _positions: torch.Tensor

    def __init__(
        self, vocabulary: int, config: TransformerConfig, seed: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.dropout = Dropout(generator)
        self.encoder = nn.ModuleList(EncoderLayer(config, generator) for _ in range(config.layers))
        self.encoder_norm = _norm(config)
        self.decoder = nn.ModuleList(DecoderLayer(config, generator) for _ in range(config.layers))
        self.decoder_norm = _norm(config)
        self.register_buffer("_positions", positions(256, config.width), persistent=False)
        weights = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, Attention):
                for weight in (
                    module.query.weight,
                    *module.key_value.weight.chunk(2),
                    module.output.weight,
                ):
                    nn.init.xavier_uniform_(weight, generator=weights)
            elif isinstance(module, FeedForward):
                for layer in (module.hidden, module.output):
                    nn.init.xavier_uniform_(layer.weight, generator=weights)
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(self.embedding.weight, 0.0, config.width**-0.5, generator=weights)

    def _dropouts(self, kind: str) -> Iterator[Dropout]:
        """Yield the modules of one of `DROPOUTS`."""
        owners: dict[str, tuple[type[nn.Module], ...]] = {
            ATTENTION: (Attention,),
            RELU: (FeedForward,),
            RESIDUAL: (Transformer, EncoderLayer, DecoderLayer),
        }
        for module in self.modules():
            if isinstance(module, owners[kind]):
                yield module.dropout  # type: ignore[misc]

    def set_dropout(self, kind: str, rate: float) -> None:
        """Set the rate of one of `DROPOUTS` in all layers, from the next forward pass on.

        Raises:
            ValueError: The kind does not exist, or the rate is not in [0, 1).
        """
        if kind not in DROPOUTS:
            raise ValueError(f"dropout {kind!r}: choose from {', '.join(DROPOUTS)}")
        if not 0 <= rate < 1:
            raise ValueError(f"{kind} {rate} must be at least 0 and below 1")
        for module in self._dropouts(kind):
            module.rate = rate

    def dropout_rate(self, kind: str) -> float:
        """Return the rate of one of `DROPOUTS`, read from the layers in which it acts."""
        (rate,) = {module.rate for module in self._dropouts(kind)}
        return rate

    def _embed(self, tokens: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Return the residual stream of tokens at positions from `first` on, [B, T, width]."""
        end = first + tokens.shape[1]
        if end > len(self._positions):
            self._positions = positions(2 * end, self.config.width).to(self._positions)
        scaled = self.embedding(tokens) * self.config.width**0.5
        return self.dropout(scaled + self._positions[first:end])  # type: ignore[no-any-return]

    def start(self, source: torch.Tensor) -> State:
        """Read sentences, and return a decoder's state before the first target token.

        Args:
            source: Token ids, padded at the right, [B, S].
        """
        mask = torch.where(source == PAD, _HIDDEN, 0.0)[:, None, None]  # [B, 1, 1, S]
        x = self._embed(source)
        for layer in self.encoder:
            x = layer(x, mask)
        x = self.encoder_norm(x)
        heads = self.config.heads
        nothing = x.new_zeros((len(source), heads, 0, self.config.width // heads))
        layers = [
            Seen(nothing, nothing, *layer.source.keys_and_values(x))  # type: ignore[union-attr,operator]
            for layer in self.decoder
        ]
        return State(layers, mask)

    def _decode(
        self, state: State, tokens: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the decoder's output for the next target tokens, [B, T, width]."""
        x = self._embed(tokens, state.length)
        state.length += tokens.shape[1]
        for layer, seen in zip(self.decoder, state.layers, strict=True):
            x = layer(x, seen, mask, state.source_mask)
        return self.decoder_norm(x)  # type: ignore[no-any-return]

    def step(self, state: State, tokens: torch.Tensor) -> torch.Tensor:
        """Read one target token of each sentence, and return the logits of the next, [B, V].

        Args:
            state: The decoder's state, which is updated.
            tokens: Token ids, [B]; `BEGIN` at first.
        """
        x = self._decode(state, tokens.unsqueeze(1), None)
        return x.squeeze(1) @ self.embedding.weight.T

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the logits of every target token given the source and the tokens before it.

        Args:
            source: Token ids, padded at the right, [B, S].
            target: Token ids, padded at the right, [B, T], without `BEGIN`.

        Returns:
            Logits of the N target tokens that are no padding, sentence by sentence, [N, V].
        """
        state = self.start(source)
        shifted = functional.pad(target, (1, 0), value=BEGIN)[:, :-1]
        length = target.shape[1]
        # Later positions are hidden. Padding comes last, so it is hidden from the rest too.
        mask = torch.full((length, length), _HIDDEN, device=target.device).triu(1)
        x = self._decode(state, shifted, mask)
        return x[target != PAD] @ self.embedding.weight.T
