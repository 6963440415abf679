"""The flow: invertible to rounding, with the determinant of its true Jacobian, so that its density has mass one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

from tutorial_lib.networks import ConditionalFlow
from tutorial_lib.networks.flow import Mixing
from tutorial_lib.noise import standard_normal

GRIDS = [(1, 1), (1, 2), (3, 2), (2, 4)]
every_grid = pytest.mark.parametrize("grid", GRIDS)
every_channels = pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def awake(channels, steps=3, hidden=6, size=0.8):
    """A flow of random weights; the mixings are no rotations, so their determinants count."""
    source = Generator().manual_seed(0)
    flow = ConditionalFlow(channels, 2, steps, hidden).double()
    for p in flow.parameters():
        p.data = torch.randn(p.shape, generator=source, dtype=p.dtype) * (size / max(1, p[0].numel()) ** 0.5)
    for mixing in flow.mixings:
        mixing.weight.data += 1.5 * torch.eye(channels)
    return flow.requires_grad_(False)


def case(channels, grid, n=1):
    return awake(channels), draw(n, channels, *grid), draw(n, 2, *grid, seed=2)


def round_trip(inverse, channels, grid):
    flow, y, cond = case(channels, grid, 3)
    return (inverse(flow, flow(y, cond)[0], cond) - y).abs().max().item()


@every_channels
@every_grid
def test_the_inverse_undoes_the_flow(channels, grid):
    assert round_trip(ConditionalFlow.inverse, channels, grid) < 1e-10
    flow, z, cond = case(channels, grid, 3)
    torch.testing.assert_close(flow(flow.inverse(z, cond), cond)[0], z, atol=1e-10, rtol=0)


def steps_in_forward_order(flow, z, cond):
    told = flow.prepare(cond)
    for mixing, coupling in zip(flow.mixings, flow.couplings, strict=True):
        z = mixing.inverse(coupling.inverse(z, told))
    return z


def mixing_undone_first(flow, z, cond):
    told = flow.prepare(cond)
    for mixing, coupling in reversed(list(zip(flow.mixings, flow.couplings, strict=True))):
        z = coupling.inverse(mixing.inverse(z), told)
    return z


def without_bias(flow, z, cond):
    for mixing in flow.mixings:
        mixing.bias.data = -mixing.bias
    return flow.inverse(z, cond)


@pytest.mark.parametrize("mutant", [steps_in_forward_order, mixing_undone_first, without_bias])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_wrong_inverse_is_seen(mutant, channels):
    assert round_trip(mutant, channels, (3, 2)) > 1e-2


def determinant_error(forward, channels, grid):
    """How far the claimed log-determinant is from the one of the Jacobian that autograd finds."""
    flow, y, cond = case(channels, grid)
    jacobian = torch.autograd.functional.jacobian(lambda y: flow(y, cond)[0], y).reshape(y.numel(), y.numel())
    return (forward(flow, y, cond)[1] - torch.linalg.slogdet(jacobian)[1]).abs().item()


@every_channels
@every_grid
def test_log_det_is_that_of_the_jacobian(channels, grid):
    assert determinant_error(ConditionalFlow.forward, channels, grid) < 1e-10


def mixing_terms(flow, y):
    return sum(torch.linalg.slogdet(mixing.weight)[1] for mixing in flow.mixings) * y[0, 0].numel()


def changed(change):
    def forward(flow, y, cond):
        z, log_det = flow(y, cond)
        return z, change(log_det, mixing_terms(flow, y), y[0, 0].numel())

    return forward


WRONG_DETERMINANTS = {
    "sign": changed(lambda log_det, mixing, pixels: -log_det),
    "no mixing": changed(lambda log_det, mixing, pixels: log_det - mixing),
    "mixing counted for one pixel": changed(lambda log_det, mixing, pixels: log_det - mixing + mixing / pixels),
    "no coupling": changed(lambda log_det, mixing, pixels: mixing),
    "coupling subtracted": changed(lambda log_det, mixing, pixels: 2 * mixing - log_det),
    "averaged": changed(lambda log_det, mixing, pixels: log_det / pixels),
}


@pytest.mark.parametrize("mutant", WRONG_DETERMINANTS)
@every_channels
def test_a_wrong_log_det_is_seen(mutant, channels):
    assert determinant_error(WRONG_DETERMINANTS[mutant], channels, (3, 2)) > 1e-2


def plane(channels, grid, half=8.0, n=161):
    """log_prob on a fine grid of all y with two numbers, the points, and the area of one cell."""
    flow, cond = awake(channels, steps=4), draw(1, 2, *grid, seed=2)
    axis = torch.linspace(-half, half, n, dtype=torch.float64)
    y = torch.cartesian_prod(axis, axis).reshape(-1, channels, *grid)
    return flow, y, cond, (2 * half / (n - 1)) ** 2


def whole(log_prob, channels, grid):
    flow, y, cond, area = plane(channels, grid)
    return (log_prob(flow, y, cond.expand(len(y), -1, -1, -1)).exp().sum() * area).item()


FLAT = [(2, (1, 1)), (1, (1, 2)), (1, (2, 1))]  # channels and grid of images with two numbers


@pytest.mark.parametrize(("channels", "grid"), FLAT)
def test_the_density_has_mass_one(channels, grid):
    assert whole(ConditionalFlow.log_prob, channels, grid) == pytest.approx(1, abs=1e-6)


def flipped_density(flow, y, cond):
    z, log_det = flow(y, cond)
    return flow.log_prob(y, cond) - 2 * log_det


def unnormalised_density(flow, y, cond):
    return flow.log_prob(y, cond) + math.log(2 * math.pi) * y[0].numel() / 2


def averaged_density(flow, y, cond):
    z, log_det = flow(y, cond)
    return log_det - 0.5 * (z**2 + math.log(2 * math.pi)).mean((1, 2, 3))


@pytest.mark.parametrize("mutant", [flipped_density, unnormalised_density, averaged_density])
def test_a_wrong_density_is_seen(mutant):
    assert abs(whole(mutant, 2, (1, 1)) - 1) > 1e-2


@pytest.mark.parametrize(("channels", "grid"), FLAT)
def test_samples_have_the_density(channels, grid):
    """E log p over samples is the integral of p log p, within four standard errors; so is E y that of p y."""
    flow, y, cond, area = plane(channels, grid)
    log_p = flow.log_prob(y, cond.expand(len(y), -1, -1, -1))
    weights = log_p.exp() * area
    n = 10_000
    cond = cond.expand(n, -1, -1, -1)
    samples = flow.sample(cond, standard_normal(0))
    pairs = [(flow.log_prob(samples, cond), weights @ log_p)]
    pairs += [(samples.flatten(1)[:, i], weights @ y.flatten(1)[:, i]) for i in range(2)]
    for found, expected in pairs:
        assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(n)


@every_channels
def test_it_starts_as_a_rotation(channels):
    torch.manual_seed(0)
    flow, y, cond = ConditionalFlow(channels, 2, 4, 8), draw(3, channels, 2, 3).float(), draw(3, 2, 2, 3).float()
    z, log_det = flow(y, cond)
    torch.testing.assert_close(log_det, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.square().sum((1, 2, 3)), y.square().sum((1, 2, 3)))
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(y).sum((1, 2, 3))
    torch.testing.assert_close(flow.log_prob(y, cond), normal, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.8, 0.0])
def test_temperature_scales_the_noise(temperature):
    flow, eps, cond = case(3, (3, 2), 2)
    sample = flow.sample(cond, lambda like: eps, temperature)
    torch.testing.assert_close(flow(sample, cond)[0], temperature * eps, atol=1e-10, rtol=0)


@every_channels
def test_batch_mates_do_not_matter_and_the_condition_does(channels):
    flow, y, cond = case(channels, (3, 2), 4)
    for function in (lambda y, c: flow(y, c)[0], lambda y, c: flow(y, c)[1], flow.inverse, flow.log_prob):
        together = function(y, cond)
        torch.testing.assert_close(function(y[2:], cond[2:]), together[2:])
        assert not torch.allclose(function(y, cond + 1), together)
    assert flow.log_prob(y, cond).shape == (4,)


def test_every_parameter_is_trained():
    torch.manual_seed(0)
    flow, y, cond = ConditionalFlow(3, 2, 3, 8), draw(4, 3, 2, 3).float(), draw(4, 2, 2, 3).float()
    optimizer = torch.optim.SGD(flow.parameters(), 1e-2)
    for _ in range(2):  # the first step wakes the last layers, which start at zero
        optimizer.zero_grad()
        (-flow.log_prob(y, cond).mean()).backward()
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for p in flow.parameters())


def test_mixing_is_one_matrix_at_every_pixel():
    mixing, y = Mixing(3).double(), draw(2, 3, 2, 5)
    expected = torch.einsum("ij,bjhw->bihw", mixing.weight, y) + mixing.bias.reshape(1, 3, 1, 1)
    torch.testing.assert_close(mixing(y)[0], expected)
