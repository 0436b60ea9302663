"""A Transformer with its optimiser: what learns to translate, and is saved and loaded."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from agents import actor_critic, decoding, optimiser, transformer

BETAS = (0.9, 0.98)
"""Decays of Adam's running means: Vaswani et al. 2017, section 5.3."""
EPSILON = 1e-9
"""Constant outside Adam's root: the same."""
DECODED_TOKENS = 8_192
"""Most source tokens of sentences that are translated together, padding and beams included."""


class Translator:
    """A Transformer that learns by Adam, without clipping.

    Dropout draws from `generator`, whose state is saved with the weights. So the same seed and
    batches repeat a training exactly on the same machine, also over a checkpoint.

    Args:
        vocabulary: Number of token ids.
        config: Sizes of the network.
        label_smoothing: See `agents.transformer.label_smoothing_loss`.
        learning_rate: Initial learning rate; change it with `set_learning_rate`.
        seed: Seed of the initial weights and of dropout.
        device: Torch device.

    Raises:
        ValueError: The label smoothing is not in [0, 1).
    """

    def __init__(
        self,
        vocabulary: int,
        config: transformer.TransformerConfig,
        label_smoothing: float,
        learning_rate: float,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing {label_smoothing} must be at least 0 and below 1")
        self.device = torch.device(device)
        self.label_smoothing = label_smoothing
        self.generator = torch.Generator(self.device).manual_seed(seed + 1)
        self.network = transformer.Transformer(vocabulary, config, seed, self.generator)
        self.network.to(self.device)
        self.optimiser = optimiser.Adam(self.network.parameters(), learning_rate, EPSILON, BETAS)

    def update(self, source: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
        """Take one step of Adam on the mean loss of the target tokens of a batch.

        Args:
            source: Token ids, padded at the right, [B, S].
            target: Token ids, padded at the right, [B, T].

        Returns:
            Loss in nats per target token, the gradient's norm, and the number of target tokens.

        Raises:
            FloatingPointError: The loss or the gradient is not finite, and was not applied.
        """
        source, target = source.to(self.device), target.to(self.device)
        self.network.train()
        logits = self.network(source, target)  # [N, V]
        words = target[target != transformer.PAD]
        loss = transformer.label_smoothing_loss(logits, words, self.label_smoothing).mean()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        metrics = torch.stack((loss.detach(), norm)).tolist()  # one transfer
        if not all(math.isfinite(metric) for metric in metrics):
            self.optimiser.zero_grad()
            raise FloatingPointError(
                f"non-finite update: loss {metrics[0]}, gradient norm {metrics[1]}"
            )
        self.optimiser.step()
        return {"loss": metrics[0], "gradient_norm": metrics[1], "target_tokens": len(words)}

    def translate(
        self, sentences: Sequence[Sequence[int]], extra: int, beam: int = 1, alpha: float = 0.6
    ) -> list[list[int]]:
        """Translate sentences, those of similar length together.

        Args:
            sentences: Token ids of the sentences, `END` included.
            extra: A translation has at most so many tokens more than its source, `END` included.
            beam: Beam size, 1 for greedy.
            alpha: Exponent of the length penalty of beam search, 0.6 in Vaswani et al. 2017.

        Returns:
            Token ids of the translations, in the order of the sentences, without `END`.

        Raises:
            ValueError: The beam is not at least 1.
        """
        if beam < 1:
            raise ValueError(f"beam {beam} must be at least 1")
        self.network.eval()
        translations: list[list[int]] = [[]] * len(sentences)
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        while order:
            # The last of these is the longest.
            longest = len(sentences[order[-1]])
            together = order[-max(1, DECODED_TOKENS // (longest * beam)) :]
            del order[-len(together) :]
            source = torch.full((len(together), longest), transformer.PAD)
            for row, i in enumerate(together):
                source[row, : len(sentences[i])] = torch.tensor(sentences[i])
            source = source.to(self.device)
            if beam == 1:
                tokens = decoding.greedy(self.network, source, extra)
            else:
                tokens = decoding.beam_search(self.network, source, extra, beam, alpha)
            for i, row_tokens in zip(together, tokens.tolist(), strict=True):
                translations[i] = [t for t in row_tokens if t > transformer.END]
        return translations

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of all later updates."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate

    def learning_rate(self) -> float:
        """Return the optimiser's learning rate."""
        return float(self.optimiser.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return weights, Adam's statistics and the state of the generator, by flat names.

        Learning rate and dropout rates are not among them: they are hyperparameters, set after
        loading.
        """
        state = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for statistic, tensor in self.optimiser.state[parameter].items():
                state[f"{statistic}.{name}"] = tensor
        state["generator"] = self.generator.get_state()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the `state_dict` of a translator of the same sizes, wholly or not at all.

        Raises:
            ValueError: Names, shapes or dtypes differ; the message lists them.
        """
        actor_critic.load(self.state_dict(), state)
        self.generator.set_state(state["generator"].cpu())
