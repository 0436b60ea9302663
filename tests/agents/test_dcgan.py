"""DCGAN against a plain loop with PyTorch's Adam, and its losses against the paper's formulas."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from agents import dcgan


def make(channels=1, width=2, seed=0, rate=1e-3):
    return dcgan.DCGAN(channels, width, rate, seed)


def batches(steps=2, count=6, channels=1, seed=0):
    """Return uint8 images, [K, B, C, 32, 32], and noise, [K + 1, B, 100]."""
    rng = np.random.default_rng(seed)
    real = rng.integers(0, 256, (steps, count, channels, 32, 32), dtype=np.uint8)
    noise = rng.uniform(-1, 1, (steps + 1, count, dcgan.NOISE)).astype(np.float32)
    return torch.from_numpy(real), torch.from_numpy(noise)


def copied(state):
    return {name: tensor.clone() for name, tensor in state.items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


LOGITS = [-30.0, -2.0, 0.0, 0.7, 5.0]


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def test_the_losses_are_those_of_the_paper():
    """Goodfellow et al. 2014: equation 1 negated, and -log D(G(z)) of section 3."""
    real, fake = LOGITS, LOGITS[::-1]
    wanted = -sum(math.log(sigmoid(one)) for one in real) / 5
    wanted -= sum(math.log(1 - sigmoid(one)) for one in fake) / 5
    found = dcgan.discriminator_loss(*(torch.tensor(one).double() for one in (real, fake)))
    assert found.item() == pytest.approx(wanted)
    wanted = -sum(math.log(sigmoid(one)) for one in fake) / 5
    assert dcgan.generator_loss(torch.tensor(fake)).item() == pytest.approx(wanted)


def test_the_generators_loss_does_not_saturate():
    """Its slope is D - 1. That of log(1 - D) would vanish where D sees through the generator."""
    logits = torch.tensor(LOGITS, requires_grad=True)
    (gradient,) = torch.autograd.grad(dcgan.generator_loss(logits), logits)
    np.testing.assert_allclose(gradient, [(sigmoid(one) - 1) / 5 for one in LOGITS], rtol=1e-5)


def test_losses_of_extreme_logits_are_finite():
    extreme = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(dcgan.discriminator_loss(extreme, extreme))
    assert torch.isfinite(dcgan.generator_loss(extreme))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [1, 3])
def test_shapes_and_ranges(channels, width):
    gan = make(channels, width)
    noise = batches()[1][0]
    images = gan.generator(noise)
    assert images.shape == (6, channels, 32, 32)
    assert images.abs().max() <= 1
    assert gan.discriminator(images).shape == (6,)
    features, logits = dcgan.Classifier(channels, 7, width)(images)
    assert features.shape == (6, dcgan.FEATURES)
    assert (features >= 0).all()
    assert logits.shape == (6, 7)


def layers(network):
    return [one for one in network.modules() if not list(one.children())]


def test_the_layers_are_those_of_the_paper():
    """Radford et al. 2015, section 3: strides only, BatchNorm but at the ends, ReLU and its kin."""
    gan = make(width=4)
    generator, discriminator = layers(gan.generator), layers(gan.discriminator)
    kinds = [type(one) for one in generator]
    hidden = [nn.BatchNorm2d, nn.ReLU, nn.ConvTranspose2d]
    assert kinds == [nn.Linear, *hidden, *hidden, *hidden, nn.Tanh]
    inner = [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert [type(one) for one in discriminator] == [
        *(nn.Conv2d, nn.LeakyReLU),
        *inner,
        *inner,
        nn.Linear,
    ]
    for one in (*generator, *discriminator):
        if isinstance(one, nn.Conv2d | nn.ConvTranspose2d):
            assert (one.stride, one.kernel_size) == ((2, 2), (4, 4))
        if isinstance(one, nn.LeakyReLU):
            assert one.negative_slope == 0.2
    channels = [one.out_channels for one in generator if isinstance(one, nn.ConvTranspose2d)]
    assert channels == [8, 4, 1]
    channels = [one.out_channels for one in discriminator if isinstance(one, nn.Conv2d)]
    assert channels == [4, 8, 16]
    for adam in gan._optimisers.values():
        for group in adam.param_groups:
            assert group["betas"] == (0.5, 0.999)
            assert group["eps"] == 1e-8


def test_initial_weights_are_drawn_as_in_the_paper_and_repeat():
    gan = make(width=16)
    for part in (gan.generator, gan.discriminator):
        for one in layers(part):
            if isinstance(one, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                count = one.weight.numel()
                assert abs(one.weight.std().item() - 0.02) < 5 * 0.02 / math.sqrt(2 * count)
                assert abs(one.weight.mean().item()) < 5 * 0.02 / math.sqrt(count)
            if isinstance(one, nn.BatchNorm2d):
                assert abs(one.weight.mean().item() - 1) < 5 * 0.02 / math.sqrt(len(one.weight))
            if getattr(one, "bias", None) is not None:
                assert not one.bias.any()
    assert_equal(make(seed=3).state_dict(), make(seed=3).state_dict())
    other = make(seed=4)
    assert not torch.equal(make(seed=3).generator.project.weight, other.generator.project.weight)


def test_pixels_go_to_the_networks_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    values = dcgan.to_input(pixels)
    assert (values.min(), values.max(), values.dtype) == (-1, 1, torch.float32)
    assert torch.equal(dcgan.to_pixels(values), pixels)
    assert dcgan.to_pixels(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_update_is_the_plain_loop_with_pytorchs_adam(channels):
    gan = make(channels, rate=1e-3)
    gan.set_learning_rate("generator", 3e-3)
    generator, discriminator = (copy.deepcopy(one) for one in (gan.generator, gan.discriminator))
    of_generator = torch.optim.Adam(generator.parameters(), 3e-3, (0.5, 0.999))
    of_discriminator = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.5, 0.999))
    bce = nn.functional.binary_cross_entropy_with_logits
    for seed in range(3):
        real, noise = batches(channels=channels, seed=seed)
        costs = []
        for images, latent in zip(real, noise[:-1], strict=True):
            of_discriminator.zero_grad()
            logits = discriminator(images.float() / 127.5 - 1)
            fake = discriminator(generator(latent).detach())
            cost = bce(logits, torch.ones(6)) + bce(fake, torch.zeros(6))
            cost.backward()
            of_discriminator.step()
            costs.append(cost.item())
        of_generator.zero_grad()
        last = bce(discriminator(generator(noise[-1])), torch.ones(6))
        last.backward()
        of_generator.step()
        metrics = gan.update(real, noise)
        assert metrics["loss/discriminator"] == pytest.approx(np.mean(costs), rel=1e-4)
        assert metrics["loss/generator"] == pytest.approx(last.item(), rel=1e-4)
    for ours, theirs in ((gan.generator, generator), (gan.discriminator, discriminator)):
        wanted = theirs.state_dict()
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-5, msg=name)


def test_each_rate_moves_its_own_network_only():
    for part, other in (dcgan.PARTS, dcgan.PARTS[::-1]):
        gan = make()
        gan.set_learning_rate(part, 0.0)
        assert gan.learning_rate(part) == 0
        assert gan.learning_rate(other) == 1e-3
        before = {one: copied(dict(getattr(gan, one).named_parameters())) for one in dcgan.PARTS}
        gan.update(*batches())
        for name, tensor in getattr(gan, part).named_parameters():
            assert torch.equal(tensor, before[part][name]), name
        moved = [
            not torch.equal(tensor, before[other][name])
            for name, tensor in getattr(gan, other).named_parameters()
        ]
        assert all(moved)


def test_a_sample_depends_on_its_own_noise_and_changes_nothing():
    gan = make()
    gan.update(*batches())
    before = copied(gan.state_dict())
    noise = batches()[1][0]
    whole = gan.sample(noise)
    torch.testing.assert_close(gan.sample(noise[2:4]), whole[2:4])
    assert gan.generator.training
    assert_equal(gan.state_dict(), before)


def test_a_checkpoint_goes_on_exactly():
    gan, twin = make(), make(seed=9)
    gan.update(*batches())
    twin.load_state_dict(copied(gan.state_dict()))
    for one in (gan, twin):
        one.update(*batches(seed=1))
    assert_equal(gan.state_dict(), twin.state_dict())
    names = gan.state_dict().keys()
    assert {
        "generator.network.project.weight",
        "generator.network.deconvolutions.0.running_mean",
        "generator.exp_avg.project.weight",
        "discriminator.exp_avg_sq.logit.bias",
        "discriminator.step.logit.bias",
    } <= names
    assert names == make().state_dict().keys()  # also before any update


@pytest.mark.parametrize("part", dcgan.PARTS)
def test_one_network_can_be_loaded_alone(part):
    gan, donor = make(), make(seed=9)
    for seed, one in enumerate((gan, donor)):
        one.update(*batches(seed=seed))
    own = copied(gan.state_dict())
    gan.load_state_dict(copied(donor.state_dict()), (part,))
    (other,) = [one for one in dcgan.PARTS if one != part]
    assert_equal(gan.state_dict((part,)), donor.state_dict((part,)))
    kept = gan.state_dict((other,))
    assert_equal(kept, {name: own[name] for name in kept})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 3}, r"generator\.network\.project\.weight is \(192, 100\), not \(128, 100\)"),
        ({"channels": 3}, r"discriminator\.network\.convolutions\.0\.weight is \(2, 3, 4, 4\)"),
    ],
)
def test_another_shape_is_refused_and_nothing_changes(change, message):
    gan = make()
    before = copied(gan.state_dict())
    with pytest.raises(ValueError, match=message):
        gan.load_state_dict(make(**change).state_dict())
    assert_equal(gan.state_dict(), before)


def test_missing_names_are_told_also_of_a_network_that_is_not_loaded():
    gan = make()
    state = copied(gan.state_dict())
    del state["discriminator.network.logit.bias"]
    with pytest.raises(ValueError, match=r"missing discriminator\.network\.logit\.bias"):
        gan.load_state_dict(state, ("generator",))


def test_losses_that_are_not_finite_are_told():
    gan = make()
    with torch.no_grad():
        gan.generator.project.weight[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="non-finite losses: discriminator"):
        gan.update(*batches())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 2}, "channels 2: use 1 for grey images or 3"),
        ({"width": 0}, "width 0 must be at least 1"),
    ],
)
def test_refuses_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_refuses_noise_that_does_not_fit_the_steps():
    real, noise = batches()
    with pytest.raises(ValueError, match="2 batches of noise for 2 of real images: use one more"):
        make().update(real, noise[:-1])
