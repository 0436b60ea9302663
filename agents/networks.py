"""Networks: torso -> core -> policy and value heads.

Sources: the A3C torso is of Mnih et al. 2016 (https://arxiv.org/abs/1602.01783), section 8 of the
supplement; the LSTM that also sees the last action and reward is of Jaderberg et al. 2016 (UNREAL,
https://arxiv.org/abs/1611.05397), section 4; the Nature torso is of Mnih et al. 2015, methods.
"""

import math
import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn import functional

from agents import policies, rollout

Torso = Literal["a3c", "nature", "mlp", "fullyconv"]

_CONVOLUTIONS = {
    # (channels, kernel, stride) per layer, then the width of the dense layer.
    "a3c": (((16, 8, 4), (32, 4, 2)), 256),
    "nature": (((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512),
}


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device has instructions for it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float32
    # Newer versions of torch have this function.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    has_products = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if device.type == "cpu" and has_products else torch.float32


class ConvTorso(nn.Module):
    """Convolutions and a dense layer, from uint8 images [N, C, H, W] to features [N, width].

    It is faster on CPUs than `(obs / 255).float()` in the default layout. Images become
    channels-last while they are still uint8, and 1/255 scales the first weight, not every pixel.

    A running mean image is subtracted. It is a buffer, part of the checkpoint, and zero until the
    first call of `observe`. Without it the parts of the screen that never change would dominate the
    gradient of the first layer, and limit the learning rate.

    In bfloat16 only the torso's products are rounded. Weights and features stay float32.

    Args:
        kind: "a3c" or "nature".
        obs_shape: (C, H, W) of the images.
        dtype: torch.float32, or torch.bfloat16 where the hardware multiplies it faster.

    Raises:
        ValueError: The images are smaller than a kernel.
    """

    MEAN_RATE = 1e-3
    """Least step of the running mean image, per call of `observe`. Early steps are larger, so that
    it begins as a plain average."""
    CHUNK = 32
    """Number of images that CPUs convolve at a time in float32. More do not fit the cache."""
    mean: torch.Tensor
    count: torch.Tensor

    def __init__(
        self,
        kind: Literal["a3c", "nature"],
        obs_shape: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        layers, width = _CONVOLUTIONS[kind]
        channels, height, image_width = obs_shape
        self.convolutions = nn.ModuleList()
        for out_channels, kernel, stride in layers:
            if min(height, image_width) < kernel:  # see `_is_convolved`
                raise ValueError(
                    f"images of {obs_shape[1]} x {obs_shape[2]} pixels are too small for the "
                    f"{kind!r} torso, made for 84 x 84: wrap the environment in Gymnasium's "
                    "FlattenObservation, to learn from their pixels as a vector"
                )
            self.convolutions.append(nn.Conv2d(channels, out_channels, kernel, stride))
            height = (height - kernel) // stride + 1
            image_width = (image_width - kernel) // stride + 1
            channels = out_channels
        self.convolved_size = channels * height * image_width
        self.dense = nn.Linear(self.convolved_size, width)
        self.width = width
        self.register_buffer("mean", torch.zeros(obs_shape))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def observe(self, obs: torch.Tensor, centre_images: bool = True) -> None:
        """Update the running mean image by images [N, C, H, W], unless images stay as they are."""
        if not centre_images:
            return
        self.count.add_(1)
        self.mean.lerp_(obs.float().mean(0), (1 / self.count).clamp(min=self.MEAN_RATE))

    def convolve(self, obs: torch.Tensor) -> torch.Tensor:
        """Return the convolved images, [N, convolved_size], of uint8 images [N, C, H, W].

        The result has the dtype in which the torso computes.
        """
        in_parts = obs.device.type == "cpu" and self.dtype == torch.float32
        if in_parts and obs.shape[0] > self.CHUNK:
            return torch.cat([self.convolve(part) for part in torch.split(obs, self.CHUNK)])
        layout, dtype = torch.channels_last, self.dtype
        mean = self.mean.unsqueeze(0).contiguous(memory_format=layout)  # [1, C, H, W], like x
        x = obs.contiguous(memory_format=layout).to(dtype).sub_(mean.to(dtype))
        scale = 1 / 255
        for layer in self.convolutions:
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            weight = (layer.weight * scale).to(dtype) if scale != 1 else layer.weight.to(dtype)
            x = functional.conv2d(x, weight, layer.bias.to(dtype), layer.stride)
            x = functional.relu(x, inplace=True)  # [N, channels, h, w]
            scale = 1
        return x.flatten(1)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Return the features, float32 [N, width], of uint8 images [N, C, H, W]."""
        dtype = self.dtype
        x = self.convolve(obs)  # [N, convolved_size]
        x = functional.linear(x, self.dense.weight.to(dtype), self.dense.bias.to(dtype))
        return functional.relu(x, inplace=True).float()


class MLPTorso(nn.Module):
    """Two dense tanh layers, from vectors [N, D] to features [N, width].

    Vectors are normalised by a running mean and variance, which are part of the checkpoint.

    Args:
        obs_size: Length D of the vectors.
        width: Units of each layer.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    count: torch.Tensor

    def __init__(self, obs_size: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(
            nn.Linear(obs_size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.register_buffer("mean", torch.zeros(obs_size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(obs_size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.width = width

    @torch.no_grad()
    def observe(self, obs: torch.Tensor, centre_images: bool = True) -> None:
        """Update the running statistics by observations [N, D] (Chan et al. 1979)."""
        obs = obs.double()
        n = obs.shape[0]
        delta = obs.mean(0) - self.mean
        total = self.count + n
        self.variance.mul_(self.count).add_(obs.var(0, correction=0) * n)
        self.variance.add_(delta**2 * self.count * n / total).div_(total)
        self.mean.add_(delta * n / total)
        self.count.copy_(total)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Return the features, [N, width], of vectors [N, D]."""
        scale = (self.variance + 1e-8).rsqrt()
        normalised = ((obs - self.mean) * scale).clamp(-10, 10).float()
        features: torch.Tensor = self.dense(normalised)
        return features


class PartsTorso(nn.Module):
    """One torso for each image among an observation's parts, and one for all that is left.

    The features of all torsos are concatenated. What is left is one vector: all vectors, and images
    that are too small for the convolutions.

    Args:
        kind: Convolutions for images; "mlp" sees their pixels as vectors.
        shapes: Shapes of the parts: (C, H, W) of uint8 images, or (D,) of vectors.
        width: Units of the MLP's layers.
        dtype: As in `ConvTorso`.

    Raises:
        ValueError: There is no image for the convolutions.
    """

    def __init__(
        self, kind: Torso, shapes: tuple[tuple[int, ...], ...], width: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        convolved = [kind != "mlp" and _is_convolved(kind, shape) for shape in shapes]
        if kind != "mlp" and not any(convolved):
            raise ValueError(
                f"the {kind!r} torso takes images (C, H, W), and none of the parts of shapes "
                f"{shapes} is one that is large enough: use torso 'mlp'"
            )
        self._images = [at for at, is_image in enumerate(convolved) if is_image]
        self._rest = [at for at, is_image in enumerate(convolved) if not is_image]
        self.images = nn.ModuleList(
            make_torso(kind, shapes[at], width, dtype) for at in self._images
        )
        size = sum(math.prod(shapes[at]) for at in self._rest)
        self.rest = MLPTorso(size, width) if self._rest else None
        self.width = sum(torso.width for torso in (*self.images, self.rest) if torso is not None)

    def observe(self, obs: tuple[torch.Tensor, ...], centre_images: bool = True) -> None:
        """Update the statistics of all torsos by observations [N, ...]; see `ConvTorso.observe`."""
        for at, torso in zip(self._images, self.images, strict=True):
            assert isinstance(torso, ConvTorso)
            torso.observe(obs[at][::8], centre_images)  # enough for a mean image
        if self.rest is not None:
            self.rest.observe(self._vector(obs))

    def forward(self, obs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the features, [N, width], of the parts of observations, [N, ...] each."""
        features = [torso(obs[at]) for at, torso in zip(self._images, self.images, strict=True)]
        if self.rest is not None:
            features.append(self.rest(self._vector(obs)))
        return torch.cat(features, dim=-1)

    def _vector(self, obs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return what no convolution sees, [N, D]."""
        return torch.cat([obs[at].flatten(1).float() for at in self._rest], dim=-1)


def split_shape(
    obs_shape: rollout.ObsShape,
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Return the shapes of an observation's parts, or none and its own shape if it has no parts."""
    return (
        tuple(part for part in obs_shape if isinstance(part, tuple)),
        tuple(size for size in obs_shape if isinstance(size, int)),
    )


def sees_images(obs_shape: rollout.ObsShape) -> bool:
    """Return whether an observation is an image, or has a part that convolutions fit."""
    parts, shape = split_shape(obs_shape)
    return len(shape) == 3 or any(_is_convolved("a3c", part) for part in parts)


def _is_convolved(kind: Torso, shape: tuple[int, ...]) -> bool:
    """Return whether a part is an image as large as the convolutions need."""
    if len(shape) != 3:
        return False
    side = min(shape[1:])
    for _, kernel, stride in _CONVOLUTIONS[kind][0]:
        if side < kernel:
            return False
        side = (side - kernel) // stride + 1
    return True


def make_torso(
    torso: Torso, obs_shape: rollout.ObsShape, width: int, dtype: torch.dtype
) -> ConvTorso | MLPTorso | PartsTorso:
    """Return a torso for such observations. Arguments and errors are those of `ActorCritic`."""
    if torso == "fullyconv":
        raise ValueError("only A3C and PPO have a 'fullyconv' torso: use agent 'a3c' or 'ppo'")
    parts, shape = split_shape(obs_shape)
    if parts:
        return PartsTorso(torso, parts, width, dtype)
    if torso == "mlp":
        if len(shape) != 1:
            raise ValueError(
                f"the 'mlp' torso takes vectors, not observations of shape {obs_shape}"
            )
        return MLPTorso(shape[0], width)
    if len(shape) != 3:
        raise ValueError(
            f"the {torso!r} torso takes images (C, H, W), not observations of shape {obs_shape}"
        )
    return ConvTorso(torso, (shape[0], shape[1], shape[2]), dtype)


class AnyTorso(Protocol):
    """What all torsos have in common."""

    width: int
    """Number of features."""

    def observe(self, obs: Any, centre_images: bool = True) -> None:
        """Update the statistics of the torso by observations [N, ...]."""

    def __call__(self, obs: Any) -> Any:
        """Return the features, [N, width], of observations [N, ...]."""


class Network(nn.Module):
    """A network that an agent can act and learn with: a torso, and a state between steps."""

    torso: AnyTorso
    gains: Mapping[str, float] = MappingProxyType({})
    """Gains of the orthogonal initialisation by module name; see `initialise`."""

    def initial_state(self, batch: int) -> rollout.CoreState:
        """Return the state before the first step, [batch, ...] each."""
        raise NotImplementedError

    def forward(
        self, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> tuple[torch.Tensor, torch.Tensor, rollout.CoreState]:
        """Take one step; return policy parameters and values, [B, ...] each, and the next state."""
        raise NotImplementedError


class CoreNetwork(Network):
    """Torso and optional LSTM core, on which subclasses put a policy head and a value head.

    The core's inputs are the torso's features, the last action and the last reward. Where
    `is_first` is true, the core's state is set to zero before the step.

    Args:
        torso: Layers before the core.
        action_width: Length of the last action as the core sees it.
        core: "lstm", or "feedforward", where the heads see the torso's features alone, as in A3C's
            feed-forward agent.
        width: Units of the LSTM.
    """

    policy: policies.Policy
    value: nn.Linear

    def __init__(
        self,
        torso: AnyTorso,
        action_width: int,
        core: Literal["lstm", "feedforward"],
        width: int,
    ) -> None:
        super().__init__()
        self.torso = torso
        self.core = nn.LSTMCell(torso.width + action_width + 1, width) if core == "lstm" else None
        self.core_width = torso.width if self.core is None else width
        self.width = width

    def initial_state(self, batch: int) -> rollout.CoreState:
        """Return the zero state: (h, c), each [batch, width], or () for a feed-forward agent."""
        if self.core is None:
            return ()
        zeros = self.value.weight.new_zeros(batch, self.width)
        return (zeros, zeros.clone())

    def forward(
        self, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> tuple[torch.Tensor, torch.Tensor, rollout.CoreState]:
        """See `Network.forward`."""
        return self.step(inputs, state)

    def step(
        self, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> tuple[torch.Tensor, torch.Tensor, rollout.CoreState]:
        """Take one step; return policy parameters [B, ...], values [B] and the next state."""
        raise NotImplementedError

    def unroll(
        self, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take T steps, [T, B, ...]; return policy parameters [T, B, ...] and values [T, B]."""
        raise NotImplementedError

    def core_outputs(self, inputs: rollout.Inputs, state: rollout.CoreState) -> torch.Tensor:
        """Return the inputs of the heads over T steps, [T, B, core_width]."""
        obs = rollout.map_obs(lambda part: part.flatten(0, 1), inputs.obs)  # [T * B, ...]
        return self.core_unroll(self.torso(obs), inputs, state)

    def core_unroll(
        self, features: torch.Tensor, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> torch.Tensor:
        """Return the core's outputs, [T, B, core_width], of features [T * B, features]."""
        length, batch = inputs.is_first.shape
        features = features.view(length, batch, -1)  # [T, B, features]
        if self.core is not None and not bool(inputs.is_first[1:].any()):
            return self._core_sequence(features, inputs, state)
        outputs = []
        for t in range(length):
            x, state = self.core_step(features[t], inputs.map(operator.itemgetter(t)), state)
            outputs.append(x)
        return torch.stack(outputs)

    def core_step(
        self, features: torch.Tensor, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> tuple[torch.Tensor, rollout.CoreState]:
        """Return the core's outputs, [B, core_width], of features [B, features]; and its state."""
        if self.core is None:
            return features, ()
        h, c = self.core(self.core_input(features, inputs), _kept(state, inputs))
        return h, (h, c)

    def _core_sequence(
        self, features: torch.Tensor, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> torch.Tensor:
        """Return the core's outputs by one call; no state may be reset on the way."""
        assert self.core is not None
        begin = _kept(state, inputs.map(operator.itemgetter(0)))
        return lstm_sequence(self.core, self.core_input(features, inputs), begin)[0]

    def core_input(self, features: torch.Tensor, inputs: rollout.Inputs) -> torch.Tensor:
        """Return what the core sees, [..., features + action_width + 1]."""
        return core_input(features, inputs)


class ActorCritic(CoreNetwork):
    """Torso, optional LSTM core, policy head and value head; see `CoreNetwork`.

    Args:
        obs_shape: (C, H, W) of uint8 images, (D,) of vectors, or the shapes of several such parts.
        action_size: Number of discrete actions, dimensions of a continuous one, or the parts of one
            of several.
        continuous: Whether actions are continuous.
        torso: "a3c" or "nature" for images, "mlp" for vectors. See `PartsTorso` for parts.
        core: As in `CoreNetwork`.
        width: Units of the LSTM and of the MLP torso.
        dtype: In which a torso for images computes; see `ConvTorso`.

    Raises:
        ValueError: The torso does not fit the observations.
    """

    def __init__(
        self,
        obs_shape: rollout.ObsShape,
        action_size: rollout.ActionSize,
        continuous: bool,
        torso: Torso,
        core: Literal["lstm", "feedforward"],
        width: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        layers = make_torso(torso, obs_shape, width, dtype)
        super().__init__(layers, rollout.action_width(action_size), core, width)
        self.policy = policies.make_head(self.core_width, action_size, continuous)
        self.value = nn.Linear(self.core_width, 1)
        self.gains = GAINS

    def step(
        self, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> tuple[torch.Tensor, torch.Tensor, rollout.CoreState]:
        """See `CoreNetwork.step`."""
        x = self.torso(inputs.obs)  # [B, features]
        x, state = self.core_step(x, inputs, state)  # [B, core_width]
        return self.policy(x, inputs.action_mask), self.value(x).squeeze(-1), state

    def unroll(
        self, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `CoreNetwork.unroll`."""
        x = self.core_outputs(inputs, state)  # [T, B, core_width]
        return self.policy(x, inputs.action_mask), self.value(x).squeeze(-1)


def core_input(features: torch.Tensor, inputs: rollout.Inputs) -> torch.Tensor:
    """Return features, last action and last reward, [..., features + A + 1]."""
    return torch.cat((features, inputs.last_action, inputs.last_reward.unsqueeze(-1)), dim=-1)


def lstm_sequence(
    core: nn.LSTMCell, x: torch.Tensor, state: rollout.CoreState
) -> tuple[torch.Tensor, rollout.CoreState]:
    """Return an LSTM's outputs [T, B, width] and last state; no state is reset on the way.

    Args:
        core: The LSTM.
        x: Its inputs, [T, B, features].
        state: (h, c) before the first step, each [B, width].
    """
    begin = [part.unsqueeze(0) for part in state]  # [1, B, width] each
    weights = [core.weight_ih, core.weight_hh, core.bias_ih, core.bias_hh]
    outputs, h, c = torch.lstm(x, begin, weights, True, 1, 0.0, core.training, False, False)
    return outputs, (h[0], c[0])


def _kept(state: rollout.CoreState, inputs: rollout.Inputs) -> rollout.CoreState:
    """Return the core's state, [B, width], with zeros where an episode starts."""
    keep = (~inputs.is_first).unsqueeze(-1).to(state[0].dtype)  # [B, 1]
    return tuple(part * keep for part in state)


GAINS: Mapping[str, float] = {"policy.linear": 0.01, "value": 1.0}
"""Gains of the orthogonal initialisation of the heads, as in OpenAI Baselines' A2C."""


@torch.no_grad()
def initialise(
    network: nn.Module,
    how: Literal["fan-in", "orthogonal"],
    generator: torch.Generator,
    gains: Mapping[str, float] = GAINS,
) -> None:
    """Draw all weights, and lay convolutions out channels-last.

    Args:
        network: Module to initialise in place.
        how: "fan-in" is uniform in +-1/sqrt(fan_in). "orthogonal" has biases of 0, and gain 1 in
            the core.
        generator: Source of all draws.
        gains: Gains of "orthogonal" by module name; sqrt(2) for all others.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.LSTMCell):
            if how == "fan-in":
                fan_in = (
                    module.hidden_size
                    if isinstance(module, nn.LSTMCell)
                    else module.weight[0].numel()
                )
                for parameter in module.parameters(recurse=False):
                    parameter.uniform_(
                        -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator
                    )
            elif isinstance(module, nn.LSTMCell):
                for weight in (module.weight_ih, module.weight_hh):
                    for gate in weight.chunk(4):
                        nn.init.orthogonal_(gate, generator=generator)
                module.bias_ih.zero_()
                module.bias_hh.zero_()
            else:
                gain = gains.get(name, math.sqrt(2))
                nn.init.orthogonal_(module.weight, gain, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
    # Only now: orthogonal_ refuses channels-last weights.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
