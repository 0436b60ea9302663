"""FullyConv-LSTM: an actor-critic network that points at places in what it sees.

"StarCraft II: A New Challenge for Reinforcement Learning", Vinyals et al. 2017
(https://arxiv.org/abs/1708.04782), section 4.3. Convolutions keep the resolution of the images, so
that a place in an action is a pixel of the network's planes:

    planes = [conv(image) for each image, embedding(vectors) at every pixel]     [C, H, W]
    features = relu(dense(planes))
    x = LSTM(features, last action, last reward)
    places = conv_1x1(relu(conv_1x1([planes, x at every pixel])))     one plane of logits per place
    all other parts of the action = linear(x)

Three things are not the paper's. Its memory is a convolutional LSTM, ours is the LSTM of the other
agents. It has no hidden layer before the logits of places. Without one, x would add the same number
to the logits of all pixels, and their softmax would not see it. The LSTM sees the last action
without its places, whose one-hot codes would have thousands of entries.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from agents import networks, policies, rollout

CONVOLUTIONS = ((16, 5), (32, 3))
"""Channels and kernel of each convolution of an image (Vinyals et al. 2017, section 4.3)."""
FEATURES = 256
"""Units of the dense layer before the core (Vinyals et al. 2017, section 4.3)."""
EMBEDDING = 16
"""Planes of all vectors together. The paper does not say."""
HIDDEN = 32
"""Channels before the logits of places; see above."""
GAINS: Mapping[str, float] = MappingProxyType({**networks.GAINS, "policy.places": 0.01})
"""Gains of the orthogonal initialisation of the heads."""


def unsupported(obs_shape: rollout.ObsShape, action_size: rollout.ActionSize) -> str | None:
    """Return why the network does not fit such observations and actions; None if it does."""
    sizes = {shape[1:] for shape in _shapes(obs_shape) if len(shape) == 3}
    if len(sizes) != 1:
        found = f"images of {len(sizes)} sizes, {sorted(sizes)}" if sizes else "no image"
        return (
            f"the 'fullyconv' torso takes images of one size, and observations of shape {obs_shape}"
            f" have {found}: use torso 'auto'"
        )
    if not isinstance(action_size, rollout.ActionParts) or not any(_places(obs_shape, action_size)):
        height, width = sizes.pop()
        has = action_size.sizes if isinstance(action_size, rollout.ActionParts) else action_size
        return (
            f"the 'fullyconv' torso takes actions of several parts, one of which is a place on the "
            f"images, with {height} x {width} = {height * width} values, and this action has {has}:"
            " use torso 'auto'"
        )
    return None


def _shapes(obs_shape: rollout.ObsShape) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of an observation's parts, or its own if it has none."""
    parts, shape = networks.split_shape(obs_shape)
    return parts or (shape,)


def _places(obs_shape: rollout.ObsShape, parts: rollout.ActionParts) -> list[bool]:
    """Return which parts of an action, functions apart, have one value per pixel."""
    pixels = {math.prod(shape[1:]) for shape in _shapes(obs_shape) if len(shape) == 3}
    return [size in pixels and not (parts.used and at == 0) for at, size in enumerate(parts.sizes)]


class SpatialTorso(nn.Module):
    """Planes that keep the resolution of the images, and features of them.

    Vectors are normalised and embedded as in `networks.MLPTorso`. Images have no mean subtracted,
    so that all pixels are seen alike.

    Args:
        obs_shape: Shapes of the parts: (C, H, W) of uint8 images of one size, or (D,) of vectors.
        dtype: As in `networks.ConvTorso`.
    """

    def __init__(self, obs_shape: rollout.ObsShape, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        shapes = _shapes(obs_shape)
        self._images = [at for at, shape in enumerate(shapes) if len(shape) == 3]
        self._vectors = [at for at, shape in enumerate(shapes) if len(shape) != 3]
        self.images = nn.ModuleList()
        for at in self._images:
            channels, layers = shapes[at][0], nn.ModuleList()
            for out_channels, kernel in CONVOLUTIONS:
                layers.append(nn.Conv2d(channels, out_channels, kernel, padding="same"))
                channels = out_channels
            self.images.append(layers)
        size = sum(math.prod(shapes[at]) for at in self._vectors)
        self.embedding = networks.MLPTorso(size, EMBEDDING) if self._vectors else None
        self.resolution = shapes[self._images[0]][1:]
        self.channels = CONVOLUTIONS[-1][0] * len(self._images)
        self.channels += EMBEDDING if self._vectors else 0
        self.dense = nn.Linear(self.channels * math.prod(self.resolution), FEATURES)
        self.width = FEATURES

    def observe(self, obs: Any, centre_images: bool = True) -> None:
        """Update the statistics of vectors by observations [N, ...]."""
        if self.embedding is not None:
            self.embedding.observe(self._vector(obs))

    def planes(self, obs: rollout.Obs) -> torch.Tensor:
        """Return the planes, [N, channels, H, W] in the torso's dtype, of observations [N, ...]."""
        parts = obs if isinstance(obs, tuple) else (obs,)
        planes = []
        for at, layers in zip(self._images, self.images, strict=True):
            assert isinstance(layers, nn.ModuleList)
            x = parts[at].contiguous(memory_format=torch.channels_last).to(self.dtype)
            scale = 1 / 255
            for layer in layers:
                assert isinstance(layer, nn.Conv2d)
                x = functional.relu(_convolved(layer, x, layer.weight * scale), inplace=True)
                scale = 1
            planes.append(x)
        if self.embedding is not None:
            embedded = self.embedding(self._vector(obs)).to(self.dtype)  # [N, EMBEDDING]
            planes.append(embedded[..., None, None].expand(-1, -1, *self.resolution))
        return torch.cat(planes, dim=1)

    def features(self, planes: torch.Tensor) -> torch.Tensor:
        """Return the features, float32 [N, width], of planes [N, channels, H, W]."""
        x = planes.permute(0, 2, 3, 1).flatten(1)  # [N, H * W * channels], as they lie in memory
        weight, bias = self.dense.weight.to(self.dtype), self.dense.bias.to(self.dtype)
        return functional.relu(functional.linear(x, weight, bias), inplace=True).float()

    def forward(self, obs: rollout.Obs) -> torch.Tensor:
        """Return the features, float32 [N, width], of observations [N, ...]."""
        return self.features(self.planes(obs))

    def _vector(self, obs: rollout.Obs) -> torch.Tensor:
        """Return all vectors as one, [N, D]."""
        return torch.cat([obs[at].flatten(1).float() for at in self._vectors], dim=-1)


class SpatialHead(policies.MultiCategorical):
    """Softmax policies over the parts of an action, some of which are places.

    Args:
        width: Length of the core's outputs.
        channels: Number of planes.
        parts: As in `MultiCategorical`.
        places: Which parts are places, [P].
    """

    def __init__(
        self, width: int, channels: int, parts: rollout.ActionParts, places: list[bool]
    ) -> None:
        super().__init__(parts)
        self._is_place = places
        self._others = [s for s, place in zip(parts.sizes, places, strict=True) if not place]
        self.linear = nn.Linear(width, sum(self._others))  # all other heads side by side
        self.hidden = nn.Conv2d(channels + width, HIDDEN, 1)
        self.places = nn.Conv2d(HIDDEN, sum(places), 1)

    def forward(
        self, x: torch.Tensor, planes: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return log-probabilities [N, S] of the values of all parts side by side.

        Args:
            x: The core's outputs, float32 [N, width].
            planes: Planes, [N, channels, H, W].
            mask: Which values are legal, bool [N, S].
        """
        channels = planes.shape[1]
        of_planes, of_x = self.hidden.weight[:, :channels], self.hidden.weight[:, channels:]
        # The convolution of x at every pixel, without making the planes of x.
        shift = functional.linear(x, of_x.flatten(1), self.hidden.bias)  # [N, HIDDEN]
        seen = functional.conv2d(planes, of_planes.to(planes.dtype)).float()  # [N, HIDDEN, H, W]
        hidden = functional.relu(seen + shift[..., None, None])
        places = iter(self.places(hidden).flatten(2).unbind(1))  # [N, H * W] each
        others = iter(self.linear(x).split(self._others, dim=-1))  # [N, size] each
        logits = [next(places if place else others) for place in self._is_place]
        return self.log_probs(torch.cat(logits, dim=-1), mask)


class SpatialActorCritic(networks.CoreNetwork):
    """Convolutions that keep the resolution, optional LSTM core, heads for places and all else.

    Args:
        obs_shape: As in `SpatialTorso`, or (C, H, W) of one image.
        action_size: Parts of an action. Those with H * W values are places, y times W plus x.
        core: As in `networks.CoreNetwork`.
        width: Units of the LSTM.
        dtype: As in `networks.ConvTorso`.

    Raises:
        ValueError: The network does not fit the observations or actions; see `unsupported`.
    """

    torso: SpatialTorso
    seen: torch.Tensor

    def __init__(
        self,
        obs_shape: rollout.ObsShape,
        action_size: rollout.ActionSize,
        core: Literal["lstm", "feedforward"],
        width: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        problem = unsupported(obs_shape, action_size)
        if problem is not None:
            raise ValueError(problem)
        assert isinstance(action_size, rollout.ActionParts)
        places = _places(obs_shape, action_size)
        sizes = torch.tensor(action_size.sizes)
        seen = (~torch.tensor(places)).repeat_interleave(sizes).nonzero().squeeze(-1)
        torso = SpatialTorso(obs_shape, dtype)
        super().__init__(torso, len(seen), core, width)
        self.policy = SpatialHead(self.core_width, torso.channels, action_size, places)
        self.value = nn.Linear(self.core_width, 1)
        self.gains = GAINS
        self.register_buffer("seen", seen, persistent=False)

    def step(
        self, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> tuple[torch.Tensor, torch.Tensor, rollout.CoreState]:
        """See `CoreNetwork.step`."""
        planes = self.torso.planes(inputs.obs)  # [B, channels, H, W]
        x, state = self.core_step(self.torso.features(planes), inputs, state)  # [B, core_width]
        return self.policy(x, planes, inputs.action_mask), self.value(x).squeeze(-1), state

    def unroll(
        self, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `CoreNetwork.unroll`."""
        flat = inputs.map(lambda x: x.flatten(0, 1))  # [T * B, ...]
        planes = self.torso.planes(flat.obs)  # [T * B, channels, H, W]
        x = self.core_unroll(self.torso.features(planes), inputs, state)  # [T, B, core_width]
        log_probs = self.policy(x.flatten(0, 1), planes, flat.action_mask)  # [T * B, S]
        return log_probs.unflatten(0, x.shape[:2]), self.value(x).squeeze(-1)

    def core_input(self, features: torch.Tensor, inputs: rollout.Inputs) -> torch.Tensor:
        """See `CoreNetwork.core_input`; the last action is seen without its places."""
        last_action = inputs.last_action[..., self.seen]
        return networks.core_input(features, inputs._replace(last_action=last_action))


def _convolved(layer: nn.Conv2d, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return a layer's convolution of x with this weight, in the dtype of x."""
    assert layer.bias is not None
    return functional.conv2d(x, weight.to(x.dtype), layer.bias.to(x.dtype), padding="same")
