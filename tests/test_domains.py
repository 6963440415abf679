"""Domains: decode undoes encode, states are what the docstring says, diffusion does not notice a rotation, and the known
mistakes are caught."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pywt
import torch
import torch.nn.functional as F
from test_schedules import BUILT
from torch import Generator

from tutorial_lib.domains import (
    Latent,
    Pixel,
    Residual,
    Wavelet,
    band_names,
    join_bands,
    latent_moments,
    split_bands,
)
from tutorial_lib.images import resize
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import Haar
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, denoiser_for, gaussian_w2
from tutorial_lib.samplers import (
    analytic_dpm,
    annealed_langevin,
    ddim,
    ddpm,
    deis,
    dpm_solver_2,
    dpm_solver_pp_2m,
    invert,
    last,
    mean_square_eps,
    pndm,
    predictor_corrector,
    probability_flow,
    reverse_sde,
    unipc,
)
from tutorial_lib.schedules import log_snr_times, shifted_cosine, uniform_times

random = Generator().manual_seed(0)
SHAPES = [(1, 8, 8), (2, 8, 16), (3, 24, 8), (5, 16, 8)]
double = torch.float64


def draw(*shape, seed=0):
    return standard_normal(seed)(torch.empty(*shape, dtype=double))


# -------------------------------------------------------------------------------------------------- pixels, residuals


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_pixel_is_twice_the_image_minus_one(channels):
    hr = torch.rand(2, channels, 6, 9, generator=random)
    z_0 = Pixel().encode(hr)
    torch.testing.assert_close(z_0, hr + hr - torch.ones_like(hr))
    torch.testing.assert_close(Pixel().decode(z_0), hr)
    assert Pixel().encode(torch.zeros(1, 1, 1, 1)).item() == -1 and Pixel().encode(torch.ones(1, 1, 1, 1)).item() == 1


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [1.0, 0.05, lambda lr: 0.1 + resize(lr, 3).abs().mean(1, keepdim=True)])
def test_residual_round_trip_and_sign(channels, spread):
    hr, lr = torch.rand(2, channels, 6, 9, generator=random), torch.rand(2, channels, 2, 3, generator=random)
    domain = Residual(lambda x: resize(x, 3), spread)
    z_0 = domain.encode(hr, lr)
    size = spread(lr) if callable(spread) else spread
    torch.testing.assert_close(z_0 * size + resize(lr, 3), hr, atol=1e-6, rtol=0)
    torch.testing.assert_close(domain.decode(z_0, lr), hr, atol=1e-6, rtol=0)
    assert not torch.allclose(resize(lr, 3) - z_0 * size, hr, atol=1e-2), "the check must see a flipped sign"


def test_nothing_is_clipped():
    """Mutant: SRDiff's code clips twice the residual to [-1, 1]; a white dot on black shows it."""
    hr, lr = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 1, 1)
    hr[0, 0, 1, 1] = 1.0
    domain = Residual(lambda x: resize(x, 4), 0.5)
    assert domain.decode(domain.encode(hr, lr), lr)[0, 0, 1, 1].item() == pytest.approx(1.0)
    clipped = domain.encode(hr, lr).clamp(-1, 1)
    assert domain.decode(clipped, lr)[0, 0, 1, 1].item() == pytest.approx(0.5)


# ------------------------------------------------------------------------------------------------------- Haar bands


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_bands_are_those_of_pywavelets(shape, levels):
    """cA is LL, cH is H (changes down the rows), cV is V, cD is D; of every level, and back."""
    z = draw(2, *shape)
    found = Wavelet(levels).split(z)
    assert list(found) == list(band_names(levels))
    coarse, *details = pywt.wavedec2(z.numpy(), "haar", level=levels)
    expected = {"LL": coarse}
    for level, bands in zip(range(levels, 0, -1), details, strict=True):
        expected |= {f"{kind}{level}": band for kind, band in zip("HVD", bands, strict=True)}
    assert list(expected) == list(found)
    for name, band in expected.items():
        assert np.abs(found[name].numpy() - band).max() < 1e-13
    assert (Wavelet(levels).join(found) - z).abs().max() < 1e-13
    back = pywt.waverec2([coarse, *details], "haar")
    assert np.abs(Wavelet(levels).join(found).numpy() - back).max() < 1e-13


def test_names_of_the_bands_mean_what_they_say():
    """Stripes that change down the rows are in H alone, along the rows in V alone, a chessboard in D alone."""
    stripes = torch.tensor([1.0, -1.0]).repeat(4)
    patterns = {"H1": stripes[:, None].expand(8, 8), "V1": stripes.expand(8, 8), "D1": stripes[:, None] * stripes}
    for name, pattern in patterns.items():
        bands = Wavelet(2).split(pattern[None, None])
        assert {n for n, band in bands.items() if band.abs().max() > 1e-6} == {name}
        torch.testing.assert_close(bands[name], torch.full((1, 1, 4, 4), 2.0))
    assert band_names(1) == ("LL", "H1", "V1", "D1")
    assert band_names(3)[:5] == ("LL", "H3", "V3", "D3", "H2")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_bands_agree_with_the_haar_operator(shape, levels):
    """The operator puts the same numbers into Mallat's layout: sums first, so H (differences down the rows) lies below."""
    z, bands = draw(2, *shape), Wavelet(levels).split(draw(2, *shape))
    layout = Haar(levels)(z)
    for name, band in bands.items():
        height, width = band.shape[-2:]
        top = height if name[0] in "HD" else 0
        left = width if name[0] in "VD" else 0
        torch.testing.assert_close(layout[..., top : top + height, left : left + width], band, atol=1e-13, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_wavelets_lose_nothing_and_keep_lengths(shape, levels):
    hr, domain = torch.rand(2, *shape, generator=random, dtype=double), Wavelet(levels)
    z_0 = domain.encode(hr)
    channels, height, width = shape
    assert z_0.shape == (2, channels * 4**levels, height >> levels, width >> levels)
    assert (domain.decode(z_0) - hr).abs().max() < 1e-14 * 2**levels
    torch.testing.assert_close(z_0.square().sum((1, 2, 3)), (2 * hr - 1).square().sum((1, 2, 3)))  # Parseval
    u = draw(2, *z_0.shape[1:], seed=1)
    torch.testing.assert_close((z_0 * u).sum(), ((2 * hr - 1) * domain.unpack(u)).sum())  # the inverse is the transpose
    one = domain.encode(hr[1:])
    assert torch.equal(one, z_0[1:])  # batch mates do not matter


def test_packing_order_is_that_of_the_names():
    """All channels of LL, then of H2, ... each band folded by pixel unshuffle; counted by hand for one level and two."""
    z = draw(1, 3, 8, 12)
    assert torch.equal(Wavelet(1).pack(z), torch.cat(split_bands(z), 1))
    bands, packed = Wavelet(2).split(z), Wavelet(2).pack(z)
    assert torch.equal(packed[:, :12], torch.cat([bands[n] for n in ("LL", "H2", "V2", "D2")], 1))
    for i, name in enumerate(("H1", "V1", "D1")):
        part = packed[:, 12 + 12 * i : 24 + 12 * i]
        for channel in range(3):
            for row in range(2):
                for column in range(2):
                    folded = part[:, 4 * channel + 2 * row + column]
                    assert torch.equal(folded, bands[name][:, channel, row::2, column::2])
    assert [Wavelet(2).fold(name) for name in band_names(2)] == [1, 1, 1, 1, 2, 2, 2]


def test_each_band_can_have_its_own_scale():
    z, scales = draw(2, 2, 8, 8), {"LL": 2.5, "D1": 0.1}
    scaled, plain = Wavelet(2, scales=scales), Wavelet(2)
    sizes = torch.cat([torch.full((2 * plain.fold(n) ** 2,), scales.get(n, 1.0)) for n in band_names(2)])
    torch.testing.assert_close(scaled.pack(z) * sizes.view(1, -1, 1, 1).double(), plain.pack(z))
    torch.testing.assert_close(scaled.unpack(scaled.pack(z)), z)


KEPT = [("LL",), ("H1", "V1", "D1"), ("LL", "H2", "V2", "D2"), ("V2", "D1"), ("D1", "LL")]


@pytest.mark.parametrize("kept", KEPT, ids="-".join)
@pytest.mark.parametrize("scales", [None, {"LL": 3.0, "D1": 0.2}])
def test_keeping_some_bands_is_an_orthogonal_projection(kept, scales):
    domain = Wavelet(2, bands=kept, scales=scales)
    matrix = torch.stack(
        [domain.unpack(domain.pack(row))[0].flatten() for row in torch.eye(64).double().view(64, 1, 1, 8, 8)]
    )
    torch.testing.assert_close(matrix @ matrix, matrix)
    torch.testing.assert_close(matrix, matrix.T)
    share = sum(4.0 ** -(2 if n == "LL" else int(n[1])) for n in kept)
    assert matrix.trace().item() == pytest.approx(64 * share)
    z = draw(2, 3, 8, 12)
    assert domain.pack(z).shape[1] == 3 * 16 * share
    bands, back = Wavelet(2).split(z), Wavelet(2).split(domain.unpack(domain.pack(z)))
    for name, band in back.items():
        torch.testing.assert_close(band, bands[name] if name in kept else torch.zeros_like(band), atol=1e-14, rtol=0)
    torch.testing.assert_close(Wavelet(2).join({n: bands[n] for n in kept}), domain.unpack(domain.pack(z)))


def test_the_low_band_of_an_image_leaves_its_range():
    for levels in (1, 2, 3):
        low = Wavelet(levels).split(torch.ones(1, 1, 8, 8))["LL"]
        assert low.min().item() == low.max().item() == 2**levels
        assert Haar(levels)(torch.ones(1, 1, 8, 8))[0, 0, 0, 0].item() == 2**levels


# ------------------------------------------------------------------------------------------------------- composition


class Rotation:
    """The autoencoder that is an orthogonal matrix: every 2 x 2 block of every channel, turned; times `gain`, plus `offset`."""

    def __init__(self, channels, gain=1.0, offset=0.0, seed=0):
        self.matrix = torch.linalg.qr(draw(4 * channels, 4 * channels, seed=seed)).Q
        self.gain, self.offset = gain, offset

    def encode(self, y, cond=None):
        told = 0 if cond is None else F.pixel_unshuffle(cond, 2)
        folded = F.pixel_unshuffle(y, 2) - told
        return self.offset + self.gain * torch.einsum("ij,bjhw->bihw", self.matrix.to(y.dtype), folded)

    def decode(self, u, cond=None):
        told = 0 if cond is None else F.pixel_unshuffle(cond, 2)
        turned = torch.einsum("ji,bjhw->bihw", self.matrix.to(u.dtype), (u - self.offset) / self.gain)
        return F.pixel_shuffle(turned + told, 2)


def enlarge(lr):
    return resize(lr, 4)


def roughness(lr):
    return 0.1 + enlarge(lr).abs().mean(1, keepdim=True)


def compositions(channels):
    """Name -> domain; none of these loses anything."""
    residual, moments = Residual(enlarge, roughness), (torch.full((1, 4 * channels, 1, 1), s) for s in (0.3, -0.1))
    scale, shift = moments
    half = Latent(Rotation(channels), 0.5)
    return {
        "residual": residual,
        "wavelet": Wavelet(2),
        "wavelet of residual": Wavelet(2, scales={"LL": 0.5, "D1": 3.0}, of=residual),
        "latent": Latent(Rotation(channels, 3.0, 0.4), scale, shift),
        "latent of residual": Latent(Rotation(channels), of=residual),
        "latent of wavelet": Latent(Rotation(4 * channels), of=Wavelet(1)),
        "wavelet of latent": Wavelet(1, of=Latent(Rotation(channels), 2.0)),
        "latent told the enlarged image": Latent(Rotation(channels), condition=lambda lr: 2 * enlarge(lr) - 1),
        "residual of latent": Residual(lambda lr: half.encode(enlarge(lr)), 0.1, half),
    }


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("name", compositions(1))
def test_compositions_come_back(name, channels):
    generator = Generator().manual_seed(1)
    hr, lr = (torch.rand(2, channels, h, 2 * h, generator=generator, dtype=double) for h in (8, 2))
    domain = compositions(channels)[name]
    z_0 = domain.encode(hr, lr)
    assert (domain.decode(z_0, lr) - hr).abs().max() < 1e-13
    assert z_0[0].numel() == hr[0].numel()
    assert (domain.encode(hr[1:], lr[1:]) - z_0[1:]).abs().max() < 1e-14
    single = domain.encode(hr.float(), lr.float())
    assert single.dtype == torch.float32 and (single - z_0).abs().max() < 1e-4


def test_compositions_are_the_steps_one_after_the_other():
    hr, lr = torch.rand(2, 3, 8, 16, generator=random), torch.rand(2, 3, 2, 4, generator=random)
    residual = (hr - enlarge(lr)) / roughness(lr)
    torch.testing.assert_close(Wavelet(1, of=Residual(enlarge, roughness)).encode(hr, lr), Wavelet(1).pack(residual))
    turned = Rotation(3)
    torch.testing.assert_close(
        Latent(turned, 2.0, of=Residual(enlarge, roughness)).encode(hr, lr), turned.encode(residual) / 2
    )
    torch.testing.assert_close(
        Residual(lambda lr: turned.encode(2 * enlarge(lr) - 1), 0.1, Latent(turned)).encode(hr, lr),
        10 * (turned.encode(2 * hr - 1) - turned.encode(2 * enlarge(lr) - 1)),
        atol=1e-5,
        rtol=0,
    )


def test_bands_that_a_residual_drops_are_the_predictors():
    """With details only, the rest of the answer is the prediction: its low band comes back untouched."""
    hr, lr = torch.rand(1, 3, 8, 8, generator=random), torch.rand(1, 3, 2, 2, generator=random)
    domain = Wavelet(1, bands=("H1", "V1", "D1"), of=Residual(enlarge))
    back, predicted, true = (
        Wavelet(1).split(image) for image in (domain.decode(domain.encode(hr, lr), lr), enlarge(lr), hr)
    )
    torch.testing.assert_close(back["LL"], predicted["LL"])
    for name in ("H1", "V1", "D1"):
        torch.testing.assert_close(back[name], true[name])


# ------------------------------------------------------------------------------------------------------------- errors


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="hr and predictor"):
        Residual(lambda x: resize(x, 4)).encode(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 3, 3))
    with pytest.raises(ValueError, match="z_0 and predictor"):
        Residual(lambda x: resize(x, 4)).decode(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 3, 3))
    with pytest.raises(ValueError, match="the state and predictor"):
        Residual(enlarge, of=Wavelet(1)).encode(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 2, 2))
    with pytest.raises(ValueError, match="multiples of 4 for levels=2, but 6 x 8 came"):
        Wavelet(2).encode(torch.rand(1, 3, 6, 8))
    with pytest.raises(ValueError, match="multiples of 2 for levels=1, but 8 x 7 came"):
        Wavelet(1).encode(torch.rand(1, 3, 8, 7))
    with pytest.raises(
        ValueError, match="z_0 must have a multiple of 4 channels, for bands LL, H1, V1, D1, but 6 came"
    ):
        Wavelet(1).decode(torch.rand(1, 6, 4, 4))
    with pytest.raises(
        ValueError, match="z_0 must have a multiple of 13 channels, for bands LL, H1, V1, D1, but 16 came"
    ):
        Wavelet(2, bands=("LL", "H1", "V1", "D1")).decode(torch.rand(1, 16, 4, 4))
    with pytest.raises(ValueError, match=r"bands\['H1'\] and what fits bands\['LL'\] must have the same shape"):
        Wavelet(2).join({"LL": torch.rand(1, 1, 2, 2), "H1": torch.rand(1, 1, 2, 2)})
    with pytest.raises(ValueError, match="z_0 must have 4 channels as scale has, but 3 came"):
        Latent(Rotation(1), torch.ones(1, 4, 1, 1)).decode(torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match="the autoencoder's latent must have 3 channels as shift has, but 4 came"):
        Latent(Rotation(1), 1.0, torch.ones(1, 3, 1, 1)).encode(torch.rand(1, 1, 4, 4))


def test_wrong_settings_are_named():
    with pytest.raises(
        ValueError, match="bands and scales must be one of 'LL', 'H1', 'V1', 'D1', but 'LH1' came; did you mean 'H1'"
    ):
        Wavelet(1, bands=("LH1",))
    with pytest.raises(ValueError, match="but 'H3' came; did you mean 'H"):
        Wavelet(2, scales={"H3": 1.0})
    with pytest.raises(ValueError, match="did you mean 'LL'"):
        Wavelet(2).join({"L": torch.rand(1, 1, 2, 2)})
    with pytest.raises(ValueError, match=r"scales\['LL'\] must be a positive number, but 0.0 came"):
        Wavelet(1, scales={"LL": 0.0})
    with pytest.raises(ValueError, match="levels must be a whole number of at least 1, but 0 came"):
        Wavelet(0)
    with pytest.raises(ValueError, match="bands must keep at least one band, but it is empty"):
        Wavelet(1, bands=())
    with pytest.raises(ValueError, match="bands must hold at least one band, but it is empty"):
        Wavelet(1).join({})
    with pytest.raises(ValueError, match="spread must be a positive number, but -1.0 came"):
        Residual(enlarge, -1.0)
    for scale in (0.0, torch.tensor([1.0, -0.5]).view(1, 2, 1, 1)):
        with pytest.raises(ValueError, match="scale must be positive, but its least value is"):
            Latent(Rotation(1), scale)
    with pytest.raises(ValueError, match=r"latents must vary in every channel, but channels \[1\] do not"):
        latent_moments(torch.cat([draw(4, 1, 2, 2), torch.ones(4, 1, 2, 2)], 1))


@pytest.mark.parametrize("domain", [Pixel(), Residual(enlarge), Wavelet(1), Latent(Rotation(1))])
def test_nan_and_missing_images_are_named(domain):
    hr, lr = torch.rand(1, 1, 8, 8), torch.rand(1, 1, 2, 2)
    hr[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="hr holds NaN"):
        domain.encode(hr, lr)
    with pytest.raises(ValueError, match="z_0 holds NaN"):
        domain.decode(domain.encode(torch.rand(1, 1, 8, 8), lr) * math.nan, lr)
    with pytest.raises(TypeError, match=r"hr must be a torch tensor|lr must be a torch tensor"):
        domain.encode(None, None)


# --------------------------------------------------------------------------- diffusion does not notice a rotation

SHAPE = (2, 4, 4)
SIZE = math.prod(SHAPE)


def matrix_of(function):
    """The matrix of a linear map of states (1, 2, 4, 4), column by column."""
    return torch.stack([function(unit.view(1, *SHAPE)).flatten() for unit in torch.eye(SIZE, dtype=double)], 1)


def mixture():
    """Three modes with correlated pixels: no symmetry that could hide a mistake."""
    roots = 0.3 * draw(3, SIZE, SIZE, seed=5) / math.sqrt(SIZE)
    covariances = roots @ roots.mT + 0.02 * torch.eye(SIZE, dtype=double)
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), draw(3, SIZE, seed=6), covariances, SHAPE)


def moved(prior, matrix, shape):
    """The law of the state after the linear map, built from the prior's parameters, not from its denoiser."""
    covariances = matrix @ prior.covariances @ matrix.T
    return GaussianMixture(prior.weights, prior.means @ matrix.T, (covariances + covariances.mT) / 2, shape)


ROTATIONS = {
    "one level": (Wavelet(1).pack, Wavelet(1).unpack),
    "two levels": (Wavelet(2).pack, Wavelet(2).unpack),
    "Mallat's layout": (Haar(2), Haar(2).adjoint),
    "orthogonal autoencoder": (Rotation(2).encode, Rotation(2).decode),
    "fold": (lambda z: F.pixel_unshuffle(z, 2), lambda u: F.pixel_shuffle(u, 2)),
}
SAMPLERS = {
    "ddim, eta 0": lambda d, s, z, t, n: ddim(d, s, z, t, 0.0, n),
    "ddim, eta 0.5": lambda d, s, z, t, n: ddim(d, s, z, t, 0.5, n),
    "ddpm, posterior": lambda d, s, z, t, n: ddpm(d, s, z, t, noise=n),
    "ddpm, beta": lambda d, s, z, t, n: ddpm(d, s, z, t, "beta", noise=n),
    "heun": lambda d, s, z, t, n: probability_flow(d, s, z, t),
    "invert": lambda d, s, z, t, n: invert(d, s, z, t[:-1]),
    "dpm_solver_2": lambda d, s, z, t, n: dpm_solver_2(d, s, z, t),
    "dpm_solver_pp_2m": lambda d, s, z, t, n: dpm_solver_pp_2m(d, s, z, t),
    "unipc": lambda d, s, z, t, n: unipc(d, s, z, t),
    "pndm": lambda d, s, z, t, n: pndm(d, s, z, t),
    "deis": lambda d, s, z, t, n: deis(d, s, z, t),
    "reverse_sde": lambda d, s, z, t, n: reverse_sde(d, s, z, t, n),
    "predictor_corrector": lambda d, s, z, t, n: predictor_corrector(d, s, z, t, noise=n),
    "annealed_langevin": lambda d, s, z, t, n: annealed_langevin(d, s, z, t, steps=3, noise=n),
    "analytic_dpm": lambda d, s, z, t, n: analytic_dpm(d, s, z, t, torch.full((len(t) - 1,), 0.7), noise=n),
}


def both_samples(forward, backward, sampler, schedule, times):
    """The sample in pixels, and the one drawn elsewhere with the exact denoiser of that place and the same noise, moved
    there; both as seen elsewhere."""
    prior = mixture()
    shape = forward(torch.zeros(1, *SHAPE, dtype=double)).shape[1:]
    elsewhere = moved(prior, matrix_of(forward), shape)
    source, same = standard_normal(0), standard_normal(0)

    def there(like):
        return forward(same(torch.empty(len(like), *SHAPE, dtype=double)))

    t = times[0]
    z = schedule.sigma(t) * source(torch.empty(3, *SHAPE, dtype=double))
    u = schedule.sigma(t) * there(z)
    here = last(sampler(denoiser_for(prior, schedule), schedule, z, times, source))
    return forward(here), last(sampler(denoiser_for(elsewhere, schedule), schedule, u, times, there))


@pytest.mark.parametrize("name", ROTATIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_noise_turned_gives_the_same_sample(sampler, name):
    schedule = BUILT["vp_linear"]
    here, there = both_samples(*ROTATIONS[name], SAMPLERS[sampler], schedule, log_snr_times(schedule, 9))
    assert (here - there).abs().max() < 1e-12 * max(1, here.abs().max().item())
    assert here.abs().max() > 0.1


@pytest.mark.parametrize("schedule", [k for k in BUILT if k not in ("from_betas", "zero_terminal_snr")])
@pytest.mark.parametrize("sampler", ["ddim, eta 0", "ddpm, beta"])
def test_on_every_schedule(schedule, sampler):
    schedule = BUILT[schedule]
    here, there = both_samples(*ROTATIONS["two levels"], SAMPLERS[sampler], schedule, uniform_times(7, 0.95))
    assert (here - there).abs().max() < 1e-12 * max(1, here.abs().max().item())


def test_the_noise_statistics_of_analytic_dpm_are_the_same():
    prior, domain, schedule, times = mixture(), Wavelet(2), BUILT["vp_linear"], uniform_times(5)
    data, same = prior.sample(8, standard_normal(3)), standard_normal(4)
    elsewhere = moved(prior, matrix_of(domain.pack), (32, 1, 1))
    here = mean_square_eps(denoiser_for(prior, schedule), schedule, data, times, standard_normal(4))
    there = mean_square_eps(
        denoiser_for(elsewhere, schedule), schedule, domain.pack(data), times, lambda u: domain.pack(same(data))
    )
    torch.testing.assert_close(here, there, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "pack",
    [
        Wavelet(1, scales={"LL": 2.0, "D1": 0.5}).pack,  # unit variance helps a network, but it is another diffusion
        lambda z: torch.cat(split_bands(z), 1) / 2,  # the Haar transform with means: not orthonormal
        lambda z: 3 * F.pixel_unshuffle(z, 2),
    ],
    ids=["scaled bands", "means instead of sums", "a gain"],
)
def test_what_is_no_rotation_is_seen(pack):
    """Scaling bands keeps the law of the exact sampler's limit, yet not the sample: noise is white in one place only."""
    schedule = BUILT["vp_linear"]
    here, there = both_samples(pack, None, SAMPLERS["ddim, eta 0"], schedule, uniform_times(9))
    assert (here - there).abs().max() > 1e-3


# ------------------------------------------------------------------------- nor a shift, and a scale is another schedule


def gaussian_pair(mean, scale):
    """The same Gaussian law as z_0 = (y - mean) / scale; y has its own mean and correlated pixels."""
    roots = draw(SIZE, SIZE, seed=2) / SIZE
    covariance = roots @ roots.T + 0.01 * torch.eye(SIZE, dtype=double)
    return Gaussian((draw(SIZE, seed=3) - mean) / scale, covariance / scale**2, SHAPE)


@pytest.mark.parametrize("sampler", ["ddim, eta 0", "ddim, eta 0.5", "ddpm, posterior", "dpm_solver_pp_2m"])
def test_subtracting_a_known_prediction_changes_no_sample(sampler):
    """z_t' = z_t - alpha_t mean in every step that is exact in z_0: a residual is the image, relabelled."""
    schedule, mean = BUILT["vp_linear"], draw(SIZE, seed=4)
    times, z = log_snr_times(schedule, 8), draw(3, *SHAPE)
    here = last(
        SAMPLERS[sampler](denoiser_for(gaussian_pair(0.0, 1.0), schedule), schedule, z, times, standard_normal(1))
    )
    start = z - schedule.alpha(times[0]) * mean.view(SHAPE)
    there = last(
        SAMPLERS[sampler](denoiser_for(gaussian_pair(mean, 1.0), schedule), schedule, start, times, standard_normal(1))
    )
    assert (here - there - mean.view(SHAPE)).abs().max() < 1e-12
    assert mean.abs().max() > 1


@pytest.mark.parametrize("scale", [0.1, 0.12, 3.0])
def test_dividing_by_a_scale_is_shifting_the_schedule(scale):
    """DDIM on y with log-SNR moved by -2 log(scale) ends where DDIM on y / scale ends, times scale."""
    plain, moved_schedule, times, z = BUILT["vp_cosine"], shifted_cosine(scale), uniform_times(7), draw(3, *SHAPE)
    scaled = last(ddim(denoiser_for(gaussian_pair(0.0, scale), plain), plain, z, times))
    pixels = last(ddim(denoiser_for(gaussian_pair(0.0, 1.0), moved_schedule), moved_schedule, z, times))
    assert (scale * scaled - pixels).abs().max() < 1e-12
    other = last(ddim(denoiser_for(gaussian_pair(0.0, 1.0), plain), plain, z, times))
    assert (other - pixels).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------------------ latents


def photo_like():
    """Means and covariance of a 2 x 2 block (flattened a, b, c, d) of a bright, smooth image in [0, 1]."""
    place = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=double)
    return torch.full((4,), 0.7, dtype=double), 0.04 * 0.9 ** torch.cdist(place, place)


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (5.0, -0.4), (0.2, 3.0)])
def test_measured_moments_are_those_of_the_law(gain, offset):
    """Blocks of 2 x 2 pixels, independent of each other: mean and variance of every latent channel are known."""
    mean, covariance = photo_like()
    blocks = Gaussian(mean, covariance).sample(40_000, standard_normal(0))
    hr = F.pixel_shuffle(blocks.view(100, 20, 20, 4).permute(0, 3, 1, 2), 2)
    autoencoder = Rotation(1, gain, offset)
    shift, scale = latent_moments(autoencoder.encode(Pixel().encode(hr)))
    expected_mean = offset + gain * autoencoder.matrix @ (2 * mean - 1)
    expected_std = gain * (4 * autoencoder.matrix @ covariance @ autoencoder.matrix.T).diagonal().sqrt()
    assert shift.shape == scale.shape == (1, 4, 1, 1)
    error = expected_std / math.sqrt(40_000)  # of a mean; of a standard deviation: this over sqrt(2)
    assert ((shift.flatten() - expected_mean).abs() < 5 * error).all()
    assert ((scale.flatten() - expected_std).abs() < 5 * error / math.sqrt(2)).all()
    z_0 = Latent(autoencoder, scale, shift).encode(hr)
    assert z_0.mean((0, 2, 3)).abs().max() < 1e-12 and (z_0.std((0, 2, 3)) - 1).abs().max() < 1e-12


def law_in_pixels(encode, decode, prior, n=12, sampler=ddim):
    """Exact law of decode(sample): `prior` is the law of the latent that the denoiser has learnt. Images (1, 1, 2, 2)."""
    schedule = BUILT["vp_linear"]
    denoiser, times = denoiser_for(prior, schedule), log_snr_times(schedule, n)

    def run(noise):
        z = noise(torch.empty(1, *prior.shape, dtype=double))
        return decode(last(sampler(denoiser, schedule, z, times, noise=noise))).flatten(1)

    return affine_law(run, 4)


def test_a_rotated_latent_run_is_the_pixel_run():
    """The autoencoder that is orthogonal and linear: exact law, and sample by sample."""
    mean, covariance = 2 * photo_like()[0] - 1, 4 * photo_like()[1]
    pixels = Gaussian(mean, covariance, (1, 2, 2))
    autoencoder = Rotation(1)
    q = autoencoder.matrix
    latents = Gaussian(q @ mean, q @ covariance @ q.T, (4, 1, 1))
    domain = Latent(autoencoder)
    for sampler in (ddim, ddpm, reverse_sde):
        here = law_in_pixels(Pixel().encode, Pixel().decode, pixels, sampler=sampler)
        there = law_in_pixels(domain.encode, domain.decode, latents, sampler=sampler)
        torch.testing.assert_close(here[0], there[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(here[1], there[1], rtol=0, atol=1e-12)
    source, same = standard_normal(0), standard_normal(0)
    schedule, times = BUILT["vp_linear"], uniform_times(9)
    z = source(torch.empty(5, 1, 2, 2, dtype=double))
    u = autoencoder.encode(same(z))
    here = last(ddim(denoiser_for(pixels, schedule), schedule, z, times, 1.0, source))
    there = last(ddim(denoiser_for(latents, schedule), schedule, u, times, 1.0, lambda u: autoencoder.encode(same(z))))
    assert (Pixel().decode(here) - domain.decode(there)).abs().max() < 1e-12


# ------------------------------------------------------------------------------------- the mistakes that people make


def test_clamping_the_low_band_costs_brightness():
    """State value s comes back as s min(1, 2^-levels / |s|): white (s = 1) after two levels is 1/4, so 0.625 of 1."""
    for levels in (1, 2, 3):
        domain = Wavelet(levels)
        for grey in (0.0, 0.3, 0.55, 0.8, 1.0):
            hr = torch.full((1, 3, 8, 8), grey, dtype=double)
            clamped = domain.decode(domain.encode(hr).clamp(-1, 1))
            state = 2 * grey - 1
            expected = (1 + math.copysign(min(abs(state), 0.5**levels), state)) / 2
            torch.testing.assert_close(clamped, torch.full_like(hr, expected))
    lost = 1 - Wavelet(2).decode(Wavelet(2).encode(torch.ones(1, 3, 8, 8)).clamp(-1, 1))
    torch.testing.assert_close(lost, torch.full((1, 3, 8, 8), 0.375))


class ClampedBands(Wavelet):
    def encode(self, hr, lr=None):
        return super().encode(hr, lr).clamp(-1, 1)


class SwappedBands(Wavelet):
    """Another author's LH and HL."""

    def split(self, z):
        bands = super().split(z)
        return bands | {"H1": bands["V1"], "V1": bands["H1"]}


class MeansNotSums(Wavelet):
    """(a + b + c + d) / 4 on the way in, the orthonormal inverse on the way out."""

    def pack(self, z):
        return super().pack(z) / 2**self.levels


class ScaledOnce(Wavelet):
    """Divided on the way in, not multiplied on the way out."""

    def unpack(self, packed):
        return Wavelet(self.levels, self.bands, None, self.of).unpack(packed)


class FlippedSign(Residual):
    """ResShift's x - y on the way in, SRDiff's up(x) + residual on the way out."""

    def encode(self, hr, lr):
        return -super().encode(hr, lr)


class OtherUpsampler(Residual):
    def decode(self, z_0, lr):
        nearest = F.interpolate(lr, scale_factor=4, mode="nearest")
        return Residual(lambda lr: nearest, self.spread).decode(z_0, lr)


class NotRescaled(Latent):
    """Trained on latents of unit variance, decoded as if they were raw."""

    def decode(self, z_0, lr=None):
        return super().decode((z_0 - self.shift) / self.scale, lr)


class RescaledTheWrongWay(Latent):
    def encode(self, hr, lr=None):
        return self.autoencoder.encode(self.of.encode(hr, lr), None) * self.scale


class RescaledPerImage(Latent):
    """Moments of each image: the sampler, which has no image yet, cannot undo them."""

    def encode(self, hr, lr=None):
        latent = self.autoencoder.encode(self.of.encode(hr, lr), None)
        return (latent - latent.mean((1, 2, 3), keepdim=True)) / latent.std((1, 2, 3), keepdim=True)


SCALES = {"LL": 1.5, "H1": 0.4, "V1": 0.5, "D1": 0.2}
MUTANTS = {
    "LL clamped": (Wavelet, ClampedBands, {"levels": 2}),
    "means, not sums": (Wavelet, MeansNotSums, {"levels": 1}),
    "bands scaled on one side": (Wavelet, ScaledOnce, {"levels": 1, "scales": SCALES}),
    "residual sign flipped": (Residual, FlippedSign, {"predictor": enlarge, "spread": roughness}),
    "another upsampler on the way back": (Residual, OtherUpsampler, {"predictor": enlarge}),
    "latents not rescaled": (Latent, NotRescaled, {"autoencoder": Rotation(1, 5.0, 0.4), "scale": 2.0, "shift": 0.4}),
    "latents rescaled the wrong way": (Latent, RescaledTheWrongWay, {"autoencoder": Rotation(1, 5.0), "scale": 2.0}),
    "latents rescaled per image": (Latent, RescaledPerImage, {"autoencoder": Rotation(1, 5.0), "scale": 2.0}),
}


def bright_pair():
    texture = torch.rand(1, 1, 8, 8, generator=Generator().manual_seed(2), dtype=double)
    hr = torch.linspace(0.98, 0.5, 8, dtype=double) - 0.2 * texture
    return hr, resize(hr, 1 / 4)


@pytest.mark.parametrize("name", MUTANTS)
def test_known_mistakes_do_not_come_back(name):
    """decode(encode(y)) = y for the package's class; each mutant is off by far more than rounding."""
    right, wrong, settings = MUTANTS[name]
    hr, lr = bright_pair()
    domain, mutant = right(**settings), wrong(**settings)
    assert (domain.decode(domain.encode(hr, lr), lr) - hr).abs().max() < 1e-13
    assert (mutant.decode(mutant.encode(hr, lr), lr) - hr).abs().max() > 0.02


def test_bands_of_another_order_come_back_but_are_not_pywavelets():
    """A round trip cannot see swapped names, for both ways are wrong alike; weights trained elsewhere can."""
    hr, _ = bright_pair()
    expected = pywt.dwt2(hr.numpy(), "haar")[1][0]
    for domain, right in ((Wavelet(1), True), (SwappedBands(1), False)):
        assert (np.abs(domain.split(hr)["H1"].numpy() - expected).max() < 1e-13) == right


GAIN = 5.0


def accurate(denoiser, schedule, z, times, noise):
    """Heun on the probability flow: what is left of the discretisation is below the tolerances here."""
    return probability_flow(denoiser, schedule, z, times)


def latent_law(domain, prior):
    """W2 to the true law, in pixel units, of what decode makes of samples of `prior`, the law that the model has learnt."""
    mean, covariance = photo_like()
    return gaussian_w2(*law_in_pixels(domain.encode, domain.decode, prior, 60, accurate), mean, covariance)


def test_the_law_of_a_latent_model_and_of_its_mistakes():
    """Latents of gain 5; the model knows the law of what encode gives it. Divided in and multiplied out: right, but for 40
    steps. Divided in only: contrast and mean shrink by the scale, W2 in closed form. Multiplied out only: they grow."""
    mean, covariance = photo_like()
    autoencoder = Rotation(1, GAIN)
    q, centre, spread = autoencoder.matrix, GAIN * (2 * mean - 1), 4 * GAIN**2 * covariance
    scale = math.sqrt((q @ spread @ q.T).diagonal().mean())
    raw = Gaussian(q @ centre, q @ spread @ q.T, (4, 1, 1))
    unit = Gaussian(q @ centre / scale, q @ spread @ q.T / scale**2, (4, 1, 1))
    right = latent_law(Latent(autoencoder, scale), unit)
    assert right < 0.01
    for forgotten, factor in (
        (latent_law(Latent(autoencoder), unit), 1 / scale),
        (latent_law(Latent(autoencoder, scale), raw), scale),
    ):
        expected = gaussian_w2((1 + factor * (2 * mean - 1)) / 2, factor**2 * covariance, mean, covariance)
        assert forgotten == pytest.approx(expected, abs=2 * factor * right + 0.01)
        assert forgotten > 20 * right


def test_a_flipped_residual_mirrors_the_law():
    """The sampler draws -(y - mean): the law keeps its spread, and its mean is mirrored at the prediction."""
    mean, covariance = photo_like()
    lr = torch.full((1, 1, 1, 1), 0.5, dtype=double)
    for domain, sign in (
        (Residual(lambda lr: resize(lr, 2), 0.2), 1),
        (FlippedSign(lambda lr: resize(lr, 2), 0.2), -1),
    ):
        learnt = Gaussian(sign * (mean - 0.5) / 0.2, covariance / 0.2**2, (1, 2, 2))  # the law of encode(y)
        y = Gaussian(mean, covariance, (1, 2, 2)).sample(4)
        one = domain.encode(y, lr.expand(4, 1, 1, 1))
        torch.testing.assert_close(one, sign * (y - 0.5) / 0.2)
        found = law_in_pixels(None, lambda z, domain=domain: domain.decode(z, lr), learnt, 60, accurate)
        torch.testing.assert_close(found[0], 0.5 + sign * (mean - 0.5), atol=5e-3, rtol=0)  # alpha(1) = 0.007
        distance = gaussian_w2(*found, mean, covariance)
        assert (distance < 0.01) == (sign == 1) and distance == pytest.approx(0 if sign == 1 else 2 * 0.2 * 2, abs=0.01)


def test_the_inverse_transform_of_one_level_is_the_transpose():
    bands = [draw(1, 2, 4, 6, seed=i) for i in range(4)]
    z = draw(1, 2, 8, 12, seed=9)
    inner = sum((band * other).sum() for band, other in zip(bands, split_bands(z), strict=True))
    torch.testing.assert_close(inner, (join_bands(*bands) * z).sum())
