"""Faces under every condition: each shortcut equals the same thing written out, and refuses what it cannot do."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from tutorial_lib.conditioning import (
    adapted_denoiser,
    face_log_prob,
    read_attribute,
    sample_faces,
    way_image,
)
from tutorial_lib.data import faces
from tutorial_lib.data.captions import words
from tutorial_lib.data.faces import NAMES
from tutorial_lib.denoisers import NetworkDenoiser, count_calls
from tutorial_lib.images import resize
from tutorial_lib.networks.classifier import CLASSIFIED
from tutorial_lib.networks.conditioning import face_condition
from tutorial_lib.noise import standard_normal
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.schedules import uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import ddim_step

DRAWN = faces(3, 32, seed=11)
LR = resize(DRAWN.images, 1 / 4).clamp(0, 1)
COND = face_condition("concat", resize(LR, 4), words(DRAWN.captions))
NULL = face_condition("concat", resize(LR, 4))


def by_hand(cond, seeds, steps, eta, denoise):
    """DDIM written out, one face at a time, so no face can depend on another."""
    schedule, out = vp_cosine(), []
    times = uniform_times(steps)
    for i, seed in enumerate(seeds):
        noise = standard_normal(Generator().manual_seed(seed))
        z = noise(torch.empty(1, 3, 32, 32))
        for t, s in zip(times[:-1], times[1:], strict=True):
            with torch.no_grad():
                z = ddim_step(z, denoise(z, t, cond[i : i + 1], i), schedule, t, s, eta, noise)
        out.append((z + 1) / 2)
    return torch.cat(out).clamp(0, 1)


def network(name="faces-conditions-x4"):
    return NetworkDenoiser(load_pretrained(name), "v", vp_cosine())


@pytest.mark.parametrize("way", ["concat", "film", "features"])
@pytest.mark.parametrize("pixels", [4, 8])
def test_lr_ways_are_told_the_bicubic_enlargement(way, pixels):
    lr = resize(DRAWN.images, pixels / 32)
    torch.testing.assert_close(way_image(way, lr), resize(lr, 32 // pixels))


def test_the_other_ways():
    assert way_image("none", LR) is None
    regression = load_pretrained("faces-regression-x4")
    torch.testing.assert_close(way_image("reference", LR), regression(LR))
    features = regression.features(LR)
    mean, spread = regression.mean(LR, features), regression.spread(features)
    told = torch.cat([LR - 0.5, torch.nn.functional.pixel_unshuffle(mean, 4) - 0.5, features], 1)
    latent = standard_normal(5)(torch.empty(3, 2, 8, 8))
    residual = torch.nn.functional.pixel_shuffle(load_pretrained("faces-vae-x4").decode(latent, told), 4)
    drawn = way_image("vae", LR, standard_normal(5))
    torch.testing.assert_close(drawn, mean + spread * residual, atol=1e-5, rtol=0)
    assert (drawn - mean).abs().max() > 0.02  # the draw says something
    assert not torch.equal(drawn, way_image("vae", LR, standard_normal(6)))


@pytest.mark.parametrize(
    ("way", "lr", "told"),
    [
        ("concatt", LR, "'concat'"),
        ("reference", LR[..., :4, :4], "needs lr of 8 x 8 pixels"),
        ("vae", LR, "needs `noise`"),
        ("film", LR[:, :1], "lr"),
    ],
)
def test_ways_that_cannot_be_gone(way, lr, told):
    with pytest.raises(ValueError, match=told):
        way_image(way, lr)


@pytest.mark.parametrize(("eta", "seed"), [(1.0, 0), (0.3, [7, 7, 2])])
def test_samples_are_ddim_face_by_face(eta, seed):
    denoiser = network()
    found = sample_faces(COND, seed, steps=3, eta=eta)
    seeds = [0, 1, 2] if seed == 0 else seed
    expected = by_hand(COND, seeds, 3, eta, lambda z, t, cond, _: denoiser(z, t, cond))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert (found - by_hand(NULL, seeds, 3, eta, lambda z, t, cond, _: denoiser(z, t, cond))).abs().max() > 0.01


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_guided_samples(scale):
    denoiser = network()

    def guided(z, t, cond, i):
        told, untold = denoiser(z, t, cond), denoiser(z, t, NULL[i : i + 1])
        return untold + scale * (told - untold)

    expected = by_hand(COND, [4, 5, 6], 3, 1.0, guided)
    torch.testing.assert_close(sample_faces(COND, 4, 3, scale=scale, null=NULL), expected, atol=3e-4, rtol=0)


def test_guidance_without_a_null_is_refused():
    with pytest.raises(ValueError, match="null must be"):
        sample_faces(COND, steps=1, scale=2.0)


def test_another_denoiser_takes_the_networks_place():
    counted = count_calls(lambda z, t, cond=None: 0.5 + 0 * z)
    torch.testing.assert_close(sample_faces(COND, steps=2, denoiser=counted), torch.full((3, 3, 32, 32), 0.75))
    assert counted.calls == 2


def test_an_adapter_without_fidelity_is_the_prior():
    z = standard_normal(0)(torch.empty(2, 3, 32, 32))
    prior, cond = network("faces-unconditional-32"), 2 * resize(LR[:2], 4) - 1
    assert torch.equal(adapted_denoiser(0.0)(z, 0.5, cond), prior(z, 0.5))
    far = [(adapted_denoiser(f)(z, 0.5, cond) - prior(z, 0.5)).square().mean() for f in (0.25, 1.0)]
    assert 0 < far[0] < far[1]


@pytest.mark.parametrize("schedule", [vp_cosine(), vp_linear()], ids=["cosine", "linear"])
@pytest.mark.parametrize("noise_aware", [True, False])
def test_log_prob_is_the_classifiers(schedule, noise_aware):
    z, t, start = standard_normal(3)(torch.empty(2, 3, 32, 32)), 0.4, 0
    level = (schedule.log_snr(t) / 8).float() if noise_aware else torch.tensor(2.5)
    logits = load_pretrained("faces-classifier-32")(z, level.expand(2))
    for name in CLASSIFIED:
        count = len(NAMES[name])
        expected = logits[:, start : start + count].log_softmax(1)
        for word in range(count):
            found = face_log_prob(name, word, schedule, noise_aware)(z, t)
            torch.testing.assert_close(found, expected[:, word], atol=1e-4, rtol=0)
        start += count
    both = torch.tensor([1, 0])  # one word for each face
    expected = torch.stack([face_log_prob("hat", int(w), schedule, noise_aware)(z, t)[i] for i, w in enumerate(both)])
    torch.testing.assert_close(face_log_prob("hat", both, schedule, noise_aware)(z, t), expected)


def test_attributes_are_read_off_clean_faces():
    drawn = faces(100, 32, seed=2025)
    for name in ("glasses", "hat", "beard", "background"):
        right = (read_attribute(drawn.images, name) == drawn.attributes[name]).float().mean().item()
        assert right > 0.9, name  # always naming the commonest word: 0.68, 0.76, 0.84, 0.125
