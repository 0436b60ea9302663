"""DCGAN: a generator and a discriminator of 32 x 32 images, and a classifier to score images with.

Source: Radford et al. 2015 (https://arxiv.org/abs/1511.06434), section 3: strided convolutions,
BatchNorm everywhere but in the generator's last and the discriminator's first layer, ReLU and tanh
in the generator, LeakyReLU in the discriminator. The losses are of Goodfellow et al. 2014
(https://arxiv.org/abs/1406.2661).
"""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from agents import actor_critic, optimiser

Part = Literal["generator", "discriminator"]

PARTS: tuple[Part, ...] = ("generator", "discriminator")
NOISE = 100
"""Dimensions of the noise, which is uniform in [-1, 1]. Radford et al. 2015, figure 1."""
SIZE = 32
"""Height and width of an image in pixels."""
FEATURES = 64
"""Number of the classifier's features. Ours."""
SLOPE = 0.2
"""Slope of LeakyReLU below 0. Radford et al. 2015, section 4."""
STANDARD_DEVIATION = 0.02
"""Standard deviation of the initial weights. Radford et al. 2015, section 4."""
BETAS = (0.5, 0.999)
"""Adam's decays. The first is of Radford et al. 2015, section 4, the second is Adam's default."""
EPSILON = 1e-8
"""Adam's epsilon, its default."""


class Generator(nn.Module):
    """Turns noise into images.

    Args:
        channels: Channels of the images.
        width: Channels of the last hidden layer. Each layer before it has twice as many.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Linear(NOISE, 16 * 4 * width, bias=False)
        self.deconvolutions = nn.Sequential(
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        """Return images in [-1, 1], [B, C, 32, 32], for noise, [B, 100]."""
        small = self.project(noise).reshape(-1, 4 * self.width, 4, 4)
        images: torch.Tensor = self.deconvolutions(small)
        return images


class Discriminator(nn.Module):
    """Says how real images look.

    Args:
        channels: Channels of the images.
        width: Channels of the first layer. Each layer after it has twice as many.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(SLOPE),
        )
        self.logit = nn.Linear(16 * 4 * width, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the log odds that each image is real, [B], for images in [-1, 1]."""
        logits: torch.Tensor = self.logit(self.convolutions(images).flatten(1))  # [B, 1]
        return logits.squeeze(1)


class Classifier(nn.Module):
    """A small convolutional classifier, whose last hidden layer gives an image's features.

    Args:
        channels: Channels of the images.
        classes: Number of classes.
        width: Channels of the first layer.
    """

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
        )
        self.features = nn.Linear(16 * 4 * width, FEATURES)
        self.logits = nn.Linear(FEATURES, classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features, [B, 64], and logits, [B, classes], of images in [-1, 1]."""
        features = functional.relu(self.features(self.convolutions(images).flatten(1)))
        return features, self.logits(features)


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights from N(0, 0.02), and set all biases to 0.

    Radford et al. 2015, section 4. The scales of BatchNorm are drawn from N(1, 0.02), as in the
    code of that paper.
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.normal_(1.0, STANDARD_DEVIATION, generator=generator)
            part.bias.zero_()
        elif isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            part.weight.normal_(0.0, STANDARD_DEVIATION, generator=generator)
            if part.bias is not None:
                part.bias.zero_()


def to_input(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as the networks take them: float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Return images in [-1, 1] as uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Return -E log D(x) - E log(1 - D(G(z))), with D the sigmoid of the logits.

    Goodfellow et al. 2014, equation 1, negated.

    Args:
        real_logits: Logits of real images, [B].
        fake_logits: Logits of generated images, [B].
    """
    return functional.softplus(-real_logits).mean() + functional.softplus(fake_logits).mean()


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """Return -E log D(G(z)), the loss that does not saturate, with D the sigmoid of the logits.

    Goodfellow et al. 2014, section 3.

    Args:
        fake_logits: Logits of generated images, [B].
    """
    return functional.softplus(-fake_logits).mean()


class DCGAN:
    """Both networks, each with an Adam of its own, that are trained, saved and loaded.

    Args:
        channels: Channels of the images, 1 or 3.
        width: Width of both networks, see `Generator` and `Discriminator`.
        learning_rate: Adam's step size of both networks; see `set_learning_rate`.
        seed: Seed of the initial weights.
        device: Torch device of the networks.

    Raises:
        ValueError: There are other than 1 or 3 channels, or the width is below 1.
    """

    def __init__(
        self, channels: int, width: int, learning_rate: float, seed: int, device: str = "cpu"
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels {channels}: use 1 for grey images or 3 for coloured ones")
        if width < 1:
            raise ValueError(f"width {width} must be at least 1")
        self.device = torch.device(device)
        self.generator = Generator(channels, width)
        self.discriminator = Discriminator(channels, width)
        self._networks: dict[Part, nn.Module] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
        }
        draws = torch.Generator().manual_seed(seed)
        self._optimisers: dict[Part, optimiser.Adam] = {}
        for part, network in self._networks.items():
            initialise(network, draws)
            # The format in which convolutions are fastest here. It changes no number's meaning.
            network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._optimisers[part] = optimiser.Adam(
                network.parameters(), learning_rate, EPSILON, BETAS
            )

    def update(self, real: torch.Tensor, noise: torch.Tensor) -> dict[str, float]:
        """Take K Adam steps of the discriminator, then one of the generator.

        Real and generated images are normalised as batches of their own.

        Args:
            real: Real images for each step of the discriminator, uint8 [K, B, C, 32, 32].
            noise: Noise for each of these steps and for the generator's, [K + 1, B, 100].

        Returns:
            The mean loss of the discriminator's steps and the generator's loss, by name.

        Raises:
            ValueError: There is not one batch of noise more than of real images.
            FloatingPointError: A loss is not finite. The weights cannot be used any more.
        """
        if len(noise) != len(real) + 1:
            raise ValueError(
                f"{len(noise)} batches of noise for {len(real)} of real images: use one more, for "
                "the generator"
            )
        noise = noise.to(self.device)
        losses = [
            self._discriminator_step(to_input(images.to(self.device)), latent)
            for images, latent in zip(real, noise[:-1], strict=True)
        ]
        generator_cost = self._generator_step(noise[-1])
        *costs, last = torch.stack((*losses, generator_cost)).tolist()  # one transfer
        metrics = {"loss/discriminator": sum(costs) / max(1, len(costs)), "loss/generator": last}
        if not all(map(math.isfinite, (*costs, last))):
            raise FloatingPointError(
                f"non-finite losses: discriminator {costs}, generator {last}: lower the rates"
            )
        return metrics

    def _discriminator_step(self, real: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            fake = self.generator(noise)
        loss = discriminator_loss(self.discriminator(real), self.discriminator(fake))
        self._step("discriminator", loss)
        return loss.detach()

    def _generator_step(self, noise: torch.Tensor) -> torch.Tensor:
        loss = generator_loss(self.discriminator(self.generator(noise)))
        self._step("generator", loss)
        return loss.detach()

    def _step(self, part: Part, loss: torch.Tensor) -> None:
        adam = self._optimisers[part]
        adam.zero_grad()
        # Only of this part, which spares the other's gradients.
        loss.backward(inputs=list(self._networks[part].parameters()))  # type: ignore[no-untyped-call]
        adam.step()

    @torch.no_grad()
    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """Return images in [-1, 1], [B, C, 32, 32], for noise, [B, 100].

        BatchNorm uses its running statistics, so an image depends on its own noise alone.
        """
        self.generator.eval()
        try:
            images: torch.Tensor = self.generator(noise.to(self.device))
        finally:
            self.generator.train()
        return images

    def set_learning_rate(self, part: Part, learning_rate: float) -> None:
        """Set the learning rate of one network for all later updates."""
        for group in self._optimisers[part].param_groups:
            group["lr"] = learning_rate

    def learning_rate(self, part: Part) -> float:
        """Return the learning rate of one network, as its optimiser has it."""
        return float(self._optimisers[part].param_groups[0]["lr"])

    def state_dict(self, parts: Iterable[Part] = PARTS) -> dict[str, torch.Tensor]:
        """Return weights, and the statistics of BatchNorm and Adam, by flat names.

        The names begin with the part. The learning rates are not among them: they are
        hyperparameters, set after loading.

        Args:
            parts: Networks to return the state of.
        """
        state = {}
        for part in parts:
            network, adam = self._networks[part], self._optimisers[part]
            for name, tensor in network.state_dict().items():
                state[f"{part}.network.{name}"] = tensor
            for name, parameter in network.named_parameters():
                for statistic, tensor in adam.state[parameter].items():
                    state[f"{part}.{statistic}.{name}"] = tensor
        return state

    def load_state_dict(
        self, state: Mapping[str, torch.Tensor], parts: Iterable[Part] = PARTS
    ) -> None:
        """Load the `state_dict` of a DCGAN of the same shape, or one of its networks, or nothing.

        Args:
            state: The state of both networks.
            parts: Networks to load. The other one stays as it is.

        Raises:
            ValueError: Names, shapes or dtypes differ; the message lists them.
        """
        own = self.state_dict()
        kept = own.keys() - self.state_dict(parts).keys()
        actor_critic.load(
            own, {name: own[name] if name in kept else tensor for name, tensor in state.items()}
        )
