"""Autoencoders: with silent blocks all is affine and known exactly; codes are the nearest, gradients go where they should."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from test_networks import wake
from torch import Generator
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from tutorial_lib.domains import Latent, latent_moments
from tutorial_lib.networks.autoencoder import KLAutoencoder, VQAutoencoder
from tutorial_lib.networks.regression import ResidualBlock
from tutorial_lib.oracles import Gaussian
from tutorial_lib.pretrained import photo_autoencoder

BOTH = pytest.mark.parametrize("kind", [KLAutoencoder, VQAutoencoder])


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def small(kind=KLAutoencoder, channels=2, latent=3, fold=1, levels=1, cond_channels=0, **options):
    network = kind(channels, latent, fold=fold, levels=levels, hidden=(5, 6), cond_channels=cond_channels, **options)
    return wake(network)


def same(y):
    """A noise source that was handed its draw."""
    return lambda like: y.to(like)


# ------------------------------------------------------------------------------------------- shapes, both kinds


@BOTH
@pytest.mark.parametrize(("fold", "levels"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_codes_are_coarser_by_fold_and_levels(kind, channels, fold, levels):
    network, f = small(kind, channels, 4, fold, levels), fold * 2**levels
    y = draw(2, channels, 2 * f, 3 * f)
    u = network.encode(y)
    assert u.shape == (2, 4, 2, 3) and network.decode(u).shape == y.shape
    torch.testing.assert_close(network.encode(y[1:]), u[1:])  # batch mates do not matter
    torch.testing.assert_close(network.decode(u[1:]), network.decode(u)[1:])
    loss = network(y, same(draw(2, 4, 2, 3))) if kind is KLAutoencoder else network(y)
    assert loss.shape == (2,) and torch.isfinite(loss).all()


@BOTH
def test_a_face_becomes_a_twelfth_of_its_numbers(kind):
    y = torch.zeros(1, 3, 32, 32)
    assert kind().encode(y).shape == (1, 4, 8, 8)


@BOTH
def test_the_condition_is_told_to_both_halves_on_the_folded_grid(kind):
    network = small(kind, cond_channels=2, fold=2)
    y, cond = draw(2, 2, 8, 12), draw(2, 2, 4, 6, seed=2)
    cond.requires_grad_(True)
    u = network.encode(y, cond)
    encoded = torch.autograd.grad(u.square().sum(), cond)[0]
    assert encoded.flatten(1).abs().amax(1).min() > 1e-6
    drawn = torch.autograd.grad(network.decode(u.detach(), cond).square().sum(), cond)[0]
    assert drawn.flatten(1).abs().amax(1).min() > 1e-6
    silent = small(kind, cond_channels=2, fold=2)
    torch.nn.init.zeros_(silent.tell.weight), torch.nn.init.zeros_(silent.tell.bias)
    torch.nn.init.zeros_(silent.enter.weight)
    assert torch.equal(silent.decode(u, cond), silent.decode(u, cond + 1)), "these are its only ways in"
    assert torch.equal(silent.encode(y, cond), silent.encode(y, cond + 1))


@BOTH
def test_bad_input_is_named(kind):
    network, told = small(kind, fold=2), small(kind, fold=2, cond_channels=2)
    y, u = draw(2, 2, 8, 4), draw(2, 3, 2, 1)
    for call, image in ((told.encode, y), (told.decode, u)):
        with pytest.raises(ValueError, match=r"cond must have the shape \(2, 2, 4, 2\), but None came"):
            call(image)
        with pytest.raises(ValueError, match=r"the shape \(2, 3, 4, 2\) came"):
            call(image, draw(2, 3, 4, 2))
        with pytest.raises(ValueError, match=r"the shape \(2, 2, 8, 4\) came"):
            call(image, draw(2, 2, 8, 4))
        with pytest.raises(ValueError, match=r"the shape \(1, 2, 4, 2\) came"):
            call(image, draw(1, 2, 4, 2))
    for call, image in ((network.encode, y), (network.decode, u)):
        with pytest.raises(ValueError, match="cond must be None, for cond_channels is 0"):
            call(image, draw(2, 2, 4, 2))
        with pytest.raises(ValueError, match="must have [23] channels"):
            call(image[:, :1])
    with pytest.raises(ValueError, match=r"y's height and width must be multiples of 4, but \(2, 2, 6, 4\) came"):
        network.encode(draw(2, 2, 6, 4))
    with pytest.raises(ValueError, match="std must be a positive number"):
        kind(std=0.0)
    with pytest.raises(ValueError, match="latent must be a whole number of at least 1"):
        kind(latent=0)
    with pytest.raises(ValueError, match="cond_channels must be a whole number of at least 0"):
        kind(cond_channels=-1)
    with pytest.raises(ValueError, match="codes must be a whole number"):
        VQAutoencoder(codes=0)
    with pytest.raises(ValueError, match="commitment must be a positive number"):
        VQAutoencoder(commitment=0.0)


# ------------------------------------------------------------------------------------------------------------- KL


def wrong_loss(divergence=None, std_power=2, drawn=True, half=0.5, per_value=True):
    """The loss typed again, with a place for every mistake."""

    def loss(network, y, noise, cond=None):
        mean, log_std = network.moments(y, cond)
        answer = network.decode(mean + log_std.exp() * noise(mean) * drawn, cond)
        kl = (divergence or true_divergence)(mean, log_std).flatten(1).sum(1)
        error = half * ((y - answer) ** 2 / network.std**std_power).flatten(1).mean(1)
        return error + kl / (y[0].numel() if per_value else 1)

    return loss


def true_divergence(mean, log_std):
    return kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0))


def of_log_variance(mean, log_std):
    return true_divergence(mean, log_std / 2)


MISTAKES = {
    "log of the variance": wrong_loss(of_log_variance),
    "no divergence": wrong_loss(lambda m, s: 0 * m),
    "divergence without the mean": wrong_loss(lambda m, s: true_divergence(0 * m, s)),
    "divergence subtracted": wrong_loss(lambda m, s: -true_divergence(m, s)),
    "divergence in nats, error per value": wrong_loss(per_value=False),
    "std for its square": wrong_loss(std_power=1),
    "no half": wrong_loss(half=1.0),
    "the mean is decoded, not a draw": wrong_loss(drawn=False),
}


def test_the_loss_is_the_negative_elbo_of_torchs_distributions():
    """Per value of y and without the decoder's constant; weights multiply the squared error alone."""
    network = small(cond_channels=2, std=0.4)
    y, cond, eps = draw(3, 2, 4, 6), draw(3, 2, 4, 6, seed=2), draw(3, 3, 2, 3, seed=3)
    mean, log_std = network.moments(y, cond)
    posterior = Independent(Normal(mean, log_std.exp()), 3)
    prior = Independent(Normal(torch.zeros_like(mean), 1.0), 3)
    decoder = Independent(Normal(network.decode(mean + log_std.exp() * eps, cond), 0.4), 3)
    constant = y[0].numel() * (math.log(0.4) + math.log(2 * math.pi) / 2)
    elbo = decoder.log_prob(y) + constant - kl_divergence(posterior, prior)
    loss = network(y, same(eps), cond)
    torch.testing.assert_close(loss, -elbo / y[0].numel())
    torch.testing.assert_close(wrong_loss()(network, y, same(eps), cond), loss)
    weight = torch.rand(3, 1, 4, 6, dtype=torch.float64, generator=Generator().manual_seed(4))
    extra = ((weight - 1) * (y - decoder.mean) ** 2).mean((1, 2, 3)) / (2 * 0.4**2)
    torch.testing.assert_close(network(y, same(eps), cond, weight), loss + extra)
    assert torch.equal(network.encode(y, cond), mean)


AFFINE = [(2, 1, 1, 1, 2, 2), (2, 2, 1, 1, 2, 4), (1, 2, 2, 1, 4, 4), (3, 1, 1, 2, 4, 4)]


def affine(channels, latent, fold, levels, height, width):
    """An autoencoder whose blocks are silent, so that q's moments and the decoder are affine; and an image."""
    network = small(KLAutoencoder, channels, latent, fold, levels, std=0.6)
    for block in network.modules():
        if isinstance(block, ResidualBlock):
            torch.nn.init.zeros_(block.second.weight)
            torch.nn.init.zeros_(block.second.bias)
    return network.requires_grad_(False), 2 * draw(1, channels, height, width)


def average(loss, network, y):
    """The mean of the loss over its noise, exact for a quadratic: over the points +-sqrt(d) times each unit vector."""
    d = network.encode(y).numel()
    points = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)]).double()
    shape = (2 * d, *network.encode(y).shape[1:])
    return loss(network, y.expand(2 * d, -1, -1, -1), same(points.reshape(shape))).mean().item()


def expected(network, y):
    """-(log p(y) - KL(q || p(u | y))) per value, from Bayes' rule with dense matrices, plus the decoder's constant."""
    mean, log_std = (part.flatten() for part in network.moments(y))
    zero = torch.zeros_like(network.encode(y))
    offset = network.decode(zero).flatten()
    units = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *zero.shape[1:])
    matrix = network.decode(units).flatten(1).T - offset[:, None]
    eye = torch.eye(len(matrix), dtype=torch.float64)
    marginal = Gaussian(offset, matrix @ matrix.T + network.std**2 * eye)
    prior = Gaussian(torch.zeros(zero.numel()).double(), torch.eye(zero.numel()).double())
    posterior = prior.posterior(matrix, y.flatten() - offset, network.std)
    q = MultivariateNormal(mean, scale_tril=torch.diag(log_std.exp()))
    gap = kl_divergence(q, MultivariateNormal(posterior.mean.double(), posterior.covariance.double()))
    elbo = marginal.log_prob(y.reshape(1, -1)).item() - gap.item()
    return -(elbo / y.numel() + math.log(network.std) + math.log(2 * math.pi) / 2)


@pytest.mark.parametrize("size", AFFINE, ids=str)
def test_an_affine_autoencoders_loss_is_the_closed_form(size):
    network, y = affine(*size)
    wanted = expected(network, y)
    assert average(lambda n, *rest: n(*rest), network, y) == pytest.approx(wanted, rel=1e-10)
    assert average(wrong_loss(), network, y) == pytest.approx(wanted, rel=1e-10)
    for name, mistake in MISTAKES.items():
        assert abs(average(mistake, network, y) - wanted) > 1e-4, name


def test_the_spread_of_a_code_is_held_between_sensible_numbers():
    network = small(latent=2)
    last = network.bottom[-1]
    last.bias.data = torch.tensor([0.0, 0.0, 50.0, -50.0], dtype=torch.float64)
    log_std = network.moments(draw(1, 2, 4, 4))[1]
    assert (log_std[:, 0] == 3).all() and (log_std[:, 1] == -10).all()


def test_latents_rescaled_by_their_moments_have_unit_variance():
    network = small(cond_channels=0)
    y = draw(64, 2, 4, 4)
    shift, scale = latent_moments(network.encode(y))
    domain = Latent(network, scale, shift)
    z_0 = domain.encode((y + 1) / 2)
    torch.testing.assert_close(z_0.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(z_0.std((0, 2, 3)), torch.ones(3).double())
    torch.testing.assert_close(domain.decode(z_0), (network.decode(network.encode(y)) + 1) / 2)


def test_the_photo_autoencoder_has_a_sixth_of_the_numbers():
    network = photo_autoencoder()
    y, cond = torch.zeros(1, 3, 16, 24), torch.zeros(1, 115, 4, 6)
    assert network.encode(y, cond).shape == (1, 32, 2, 3) and y.numel() == 6 * 32 * 2 * 3
    assert network.decode(torch.zeros(1, 32, 2, 3), cond).shape == y.shape


# ------------------------------------------------------------------------------------------------------------- VQ


def quantiser(codes=7, latent=3, commitment=0.25):
    network = VQAutoencoder(2, latent, codes, fold=1, levels=1, hidden=(5, 6), commitment=commitment)
    network = wake(network)
    network.book.data = draw(codes, latent, seed=8)
    return network


def test_a_place_becomes_its_nearest_vector():
    """Brute force over places and vectors; mistakes: the farthest, the largest inner product."""
    network, u = quantiser(codes=37), draw(2, 3, 4, 5)
    vectors, codes, _ = network.quantise(u)
    assert vectors.shape == u.shape and codes.shape == (2, 4, 5) and codes.dtype == torch.int64
    distances = cdist(u.movedim(1, -1).reshape(-1, 3).numpy(), network.book.detach().numpy())
    expected = torch.from_numpy(distances.argmin(1)).view(2, 4, 5)
    assert torch.equal(codes, expected)
    for b in range(2):
        for i in range(4):
            for j in range(5):
                torch.testing.assert_close(vectors[b, :, i, j], network.book[codes[b, i, j]])
    assert not torch.equal(codes, torch.from_numpy(distances.argmax(1)).view(2, 4, 5))
    product = torch.einsum("bchw,kc->bhwk", u, network.book)
    assert not torch.equal(codes, product.argmax(-1)), "lengths differ, so the largest product is not the nearest"
    again, same_codes, loss = network.quantise(vectors.detach())
    torch.testing.assert_close(again, vectors)
    assert torch.equal(same_codes, codes) and loss.max() < 1e-12
    assert torch.equal(network.nearest(u[1:]), codes[1:])


def test_gradients_pass_straight_through_and_never_from_the_picture_to_the_book():
    network, u = quantiser(), draw(2, 3, 2, 4).requires_grad_(True)
    vectors, _, _ = network.quantise(u)
    direction = draw(*u.shape, seed=5)
    to_u, to_book = torch.autograd.grad((vectors * direction).sum(), (u, network.book), allow_unused=True)
    torch.testing.assert_close(to_u, direction)
    assert to_book is None or to_book.abs().max() == 0


@pytest.mark.parametrize("commitment", [0.25, 2.0])
def test_the_book_goes_to_the_encoder_and_the_encoder_is_held_to_the_book(commitment):
    """Derived by hand: dL/dv_k = sum over its places 2 (v_k - u) / n, dL/du = commitment 2 (u - v) / n, n numbers a sample."""
    network, u = quantiser(commitment=commitment), draw(2, 3, 2, 4).requires_grad_(True)
    _, codes, loss = network.quantise(u)
    to_u, to_book = torch.autograd.grad(loss.sum(), (u, network.book))
    chosen = network.book[codes].movedim(-1, 1).detach()
    torch.testing.assert_close(loss, (1 + commitment) * ((u - chosen) ** 2).mean((1, 2, 3)))
    torch.testing.assert_close(to_u, commitment * 2 * (u - chosen).detach() / u[0].numel())
    expected = torch.zeros_like(network.book)
    for place, k in zip(u.detach().movedim(1, -1).reshape(-1, 3), codes.flatten().tolist(), strict=True):
        expected[k] += 2 * (network.book[k].detach() - place) / u[0].numel()
    torch.testing.assert_close(to_book, expected)
    assert (to_book.abs().amax(1) == 0).any(), "a vector that nobody chose does not move"


def test_decoding_replaces_first():
    network, u = quantiser(), draw(2, 3, 2, 4)
    vectors = network.quantise(u)[0]
    torch.testing.assert_close(network.decode(u), network.draw(vectors))
    torch.testing.assert_close(network.decode(u + 1e-4), network.decode(u))  # too little to be nearer to another vector
    assert not torch.allclose(network.decode(u), network.draw(u)), "the check must see a decoder that does not replace"


def test_the_vq_loss_is_its_parts():
    network = small(VQAutoencoder, cond_channels=2, std=0.3, codes=5)
    y, cond = draw(3, 2, 4, 6), draw(3, 2, 4, 6, seed=2)
    vectors, _, book = network.quantise(network.encode(y, cond))
    answer = network.draw(vectors, cond)
    wanted = ((y - answer) ** 2).flatten(1).mean(1) / (2 * 0.3**2) + book
    torch.testing.assert_close(network(y, cond), wanted)
    weight = torch.full((3, 1, 4, 6), 3.0, dtype=torch.float64)
    torch.testing.assert_close(network(y, cond, weight), 3 * wanted - 2 * book)
    network(y, cond).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


@BOTH
def test_what_is_drawn_is_the_bare_convolutions(kind):
    """The decoder typed again with torch.nn.functional on the weights: top, up by pixel shuffle, the condition, finish."""
    network = small(kind, cond_channels=2, fold=2, levels=1)
    state, u, cond = network.state_dict(), draw(2, 3, 2, 3), draw(2, 2, 4, 6, seed=2)

    def conv(name, x, padding=1):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    def block(name, x):
        return x + conv(f"{name}.second", F.relu(conv(f"{name}.first", x)))

    x = block("top.1", conv("top.0", u))
    x = block("up.0.2", F.pixel_shuffle(conv("up.0.0", x, 0), 2))
    x = block("finish.0", x + conv("tell", cond))
    torch.testing.assert_close(network.draw(u, cond), F.pixel_shuffle(conv("leave", x), 2))
    y = draw(2, 2, 8, 12)
    x = block("down.0.0", conv("enter", torch.cat([F.pixel_unshuffle(y, 2), cond], 1)))
    x = conv("down.0.2", F.pixel_unshuffle(x, 2), 0)
    torch.testing.assert_close(network.features(y, cond), conv("bottom.1", block("bottom.0", x)))
