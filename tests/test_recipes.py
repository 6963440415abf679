"""Recipes: batches depend on seed and step alone, patches are aligned, losses are zero at the truth and only there."""

from __future__ import annotations

import math
import re

import pytest
import pywt
import torch
import torch.nn.functional as F
from torch import Generator, nn
from torch.distributions import Normal, kl_divergence

from tutorial_lib.data import faces
from tutorial_lib.data.captions import PHRASES, words
from tutorial_lib.data.faces import NAMES
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.images import resize, to_uint8
from tutorial_lib.networks.classifier import CLASSIFIED
from tutorial_lib.networks.conditioning import FACE_WAYS
from tutorial_lib.networks.regression import SMALLEST_SPREAD, condition
from tutorial_lib.pretrained import LOCAL_SPREADS, WAVELET_SCALES, load_pretrained
from tutorial_lib.recipes import RECIPES, conditioning, corruption, digits, domains, photos, sr3
from tutorial_lib.recipes import faces as face_recipes
from tutorial_lib.recipes.base import velocity_loss
from tutorial_lib.recipes.photos import random_patch
from tutorial_lib.schedules import vp_cosine


@pytest.fixture
def pairs(monkeypatch):
    """Three small invented photos in place of BSDS500."""
    made = []
    for i in range(3):
        hr = resize(torch.rand(1, 3, 13, 15, generator=Generator().manual_seed(i)), 16).clamp(0, 1)
        made.append((to_uint8(resize(hr, 1 / 4))[0], to_uint8(hr)[0]))
    monkeypatch.setattr(photos, "training_pairs", lambda scale: made)
    halves = [(lr, to_uint8(resize(hr[None].float() / 255, 1 / 2))[0]) for lr, hr in made]
    halves += [(half, hr) for (_, half), (_, hr) in zip(list(halves), made, strict=True)]
    monkeypatch.setattr(sr3, "cascade_pairs", lambda: halves)
    monkeypatch.setattr(domains, "training_pairs", lambda scale: made)
    monkeypatch.setattr(domains, "whole_photos", lambda: [hr for _, hr in made])
    caches = (photos.residual_pairs, domains.srdiff_records, domains.latent_records)
    for cache in caches:
        cache.cache_clear()
    yield made
    for cache in caches:
        cache.cache_clear()


def test_patches_are_aligned(pairs):
    """Where an LR patch lies, its HR patch lies too: a coordinate image shows it through every flip and turn."""
    rows, columns = torch.meshgrid(torch.arange(60), torch.arange(52), indexing="ij")
    lr = torch.stack([rows, columns, rows * 0]).to(torch.uint8)
    hr = lr.repeat_interleave(4, 1).repeat_interleave(4, 2)
    seen = set()
    for seed in range(40):
        patch, fine = random_patch((lr, hr), 8, Generator().manual_seed(seed))
        assert patch.shape == (3, 8, 8) and fine.shape == (3, 32, 32)
        assert torch.equal(fine, patch.repeat_interleave(4, 1).repeat_interleave(4, 2))
        step = (patch[:2, 0, 1].int() - patch[:2, 0, 0].int()).tolist() + (
            patch[:2, 1, 0].int() - patch[:2, 0, 0].int()
        ).tolist()
        seen.add(tuple(step))
    assert len(seen) == 8, "all eight flips and turns must occur"


@pytest.fixture(autouse=True)
def few_faces(monkeypatch):
    """A few training faces in place of 65,536, and few and coarse flows in place of 512 a block."""
    face_recipes.training_faces.cache_clear()
    conditioning.face_facts.cache_clear()
    monkeypatch.setattr(face_recipes, "FACES", 24)
    monkeypatch.setattr(face_recipes, "LARGE_FACES", 24)
    monkeypatch.setattr(face_recipes, "PATHS", 4)
    monkeypatch.setattr(face_recipes, "FLOW_STEPS", 6)
    face_recipes.face_paths.cache_clear()
    yield
    face_recipes.training_faces.cache_clear()
    face_recipes.face_paths.cache_clear()
    conditioning.face_facts.cache_clear()


@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_depends_on_seed_and_step_alone(pairs, name):
    recipe = RECIPES[name]()
    again, after, other = RECIPES[name]().batch(5), recipe.batch(6), RECIPES[name](seed=1).batch(5)
    for key, value in recipe.batch(5).items():
        assert torch.equal(value, again[key])
        assert len(value) == recipe.batch_size
        assert not torch.equal(value, after[key])
        assert not torch.equal(value, other[key])


@pytest.mark.parametrize("name", RECIPES)
def test_a_fresh_network_takes_a_batch_and_gives_one_loss_per_sample(pairs, name):
    recipe = RECIPES[name]()
    torch.manual_seed(0)
    network = recipe.network()
    batch = {key: value[:2] for key, value in recipe.batch(0).items()}
    loss = recipe.loss(network, batch)
    assert loss.shape == (2,) and torch.isfinite(loss).all()
    loss.mean().backward()
    touched = [p for p in network.parameters() if p.grad is not None]
    learning = [p for p in network.parameters() if p.requires_grad]
    assert len(touched) == len(learning), "every parameter must take part, or several processes hang"
    assert recipe.data and recipe.description


def test_times_are_stratified_and_favour_the_middle(pairs):
    recipe = RECIPES["photo-residual-x4"]()
    edges = torch.linspace(0, 1, recipe.batch_size + 1, dtype=torch.float64)
    edges = edges + torch.sin(2 * torch.pi * edges) / (4 * torch.pi)
    for step in range(3):
        t = recipe.batch(step)["t"].double()
        assert ((t >= edges[:-1] - 1e-6) & (t <= edges[1:] + 1e-6)).all()
    widths = edges.diff()
    assert widths.max() / widths.min() == pytest.approx(3, rel=0.05)


def test_velocity_loss_is_zero_at_the_true_velocity_and_not_at_its_negative():
    schedule = vp_cosine()
    source = Generator().manual_seed(0)
    batch = {
        "z_0": torch.randn(4, 3, 8, 8, generator=source),
        "noise": torch.randn(4, 3, 8, 8, generator=source),
        "weight": torch.rand(4, 1, 8, 8, generator=source),
        "cond": torch.zeros(4, 1, 2, 2),
        "t": torch.tensor([0.1, 0.4, 0.7, 0.99]),
    }
    t = batch["t"].double().view(-1, 1, 1, 1)
    truth = (schedule.alpha(t) * batch["noise"] - schedule.sigma(t) * batch["z_0"]).float()

    class Fixed(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, z, level, cond):
            expected = schedule.alpha(t) * batch["z_0"] + schedule.sigma(t) * batch["noise"]
            torch.testing.assert_close(z, expected.float(), atol=1e-5, rtol=0)
            return self.value

    assert velocity_loss(Fixed(truth), batch).max() < 1e-9
    assert velocity_loss(Fixed(-truth), batch).min() > 0.1
    assert velocity_loss(Fixed(torch.zeros_like(truth)), batch).min() > 0.1
    expected = (truth**2 * batch["weight"]).mean((1, 2, 3))
    torch.testing.assert_close(velocity_loss(Fixed(torch.zeros_like(truth)), batch), expected)
    del batch["weight"], batch["cond"]
    torch.testing.assert_close(velocity_loss(Fixed(torch.zeros_like(truth)), batch), (truth**2).mean((1, 2, 3)))


@pytest.mark.parametrize(("size", "least"), [(32, 10), (64, 5)])
def test_a_batch_of_faces_is_made_of_training_faces_and_their_mirror_images(size, least):
    batch = RECIPES[f"faces-unconditional-{size}"]().batch(3)
    states = faces(24, size, seed=0).images * 2 - 1
    every = torch.cat([states, states.flip(3)])
    distances = (batch["z_0"][:, None] - every).abs().amax((2, 3, 4))
    nearest, which = distances.min(1)
    assert nearest.max() <= 1 / 255 + 1e-6, "nothing but rounding to 8 bits may change a face"
    assert least < (which >= 24).sum() < len(which) - least, "about half of 64, or of 32, are mirrored"
    assert len(set(which.tolist())) > len(which) / 2 - 2


def test_a_batch_of_flows_is_made_of_points_and_ends_of_the_blocks_in_turn():
    """Step 255 chooses from blocks 0 to 3, step 256 from 1 to 4."""
    recipe, times = RECIPES["faces-distilled-32"](), face_recipes.flow_times()
    for step in (face_recipes.BLOCK - 1, face_recipes.BLOCK):
        batch, first = recipe.batch(step), step // face_recipes.BLOCK
        paths = torch.cat([face_recipes.face_paths(first + k, 0) for k in range(face_recipes.POOL)]).float()
        seen = set()
        for z, t, z_0 in zip(batch["z"], batch["t"], batch["z_0"], strict=True):
            which = (paths[:, -1] - z_0).abs().amax((1, 2, 3)).argmin()
            index = (times - t).abs().argmin()
            assert torch.equal(paths[which, -1], z_0) and torch.equal(paths[which, index], z)
            seen.add(which.item() // face_recipes.PATHS)
        assert seen == set(range(face_recipes.POOL))
        assert (batch["t"] == 1).sum().item() == pytest.approx(32 * (1 / 6) ** 0.5, abs=1)  # index = floor(6 u^2) is 0
        assert 0 < batch["t"].min() < 0.1
    assert not torch.equal(face_recipes.face_paths(0, 0), face_recipes.face_paths(0, 1))


def test_solved_flows_lead_from_noise_to_faces():
    paths = face_recipes.face_paths(0, 0).float()
    assert paths.shape == (4, face_recipes.FLOW_STEPS + 1, 3, 32, 32)
    assert paths[:, 0].std().item() == pytest.approx(1, abs=0.026)  # four standard errors of 12,288 draws
    assert paths[:, -1].abs().max() < 1.5 and (paths[:, -1].clamp(-1, 1) - paths[:, -1]).abs().mean() < 0.02


def test_the_students_loss_is_zero_at_the_ends_and_it_starts_as_its_teacher():
    recipe = RECIPES["faces-distilled-32"]()
    network, batch = recipe.network(), recipe.batch(0)
    teacher = NetworkDenoiser(load_pretrained("faces-unconditional-32"))
    answer = teacher(batch["z"], batch["t"].double())
    assert recipe.loss(network, batch | {"z_0": answer}).max() < 1e-6
    assert recipe.loss(network, batch | {"z_0": -answer}).min() > 0.05
    assert recipe.loss(network, batch | {"z_0": answer + 1})[0].item() == pytest.approx(
        math.hypot(1, 0.03) - 0.03, abs=1e-5
    )
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in load_pretrained("faces-unconditional-32").parameters())


def test_a_batch_of_digits_is_dequantised_and_holds_none_of_the_held_out():
    train, held_out = digits.split_digits()
    assert (len(train), len(held_out)) == (1437, 360)
    batch = RECIPES["digits-likelihood"]().batch(5)
    place = (batch["z_0"] + 1) / 2 * 17
    assert batch["z_0"].min() >= -1 and batch["z_0"].max() < 1
    assert 0.4 < (place - place.floor()).mean() < 0.6, "levels must be spread over their bins"
    known = {tuple(image.flatten().tolist()) for image in (train * 16).round()}
    hidden = {tuple(image.flatten().tolist()) for image in (held_out * 16).round()} - known
    assert all(tuple(image.flatten().tolist()) in known - hidden for image in place.floor())


def test_the_digits_loss_is_the_elbo_up_to_a_constant():
    """Its mean over a batch, times (high - low) / 4 a number, is the ELBO's rate: the same noise through the library."""
    from tutorial_lib.denoisers import NetworkDenoiser
    from tutorial_lib.likelihood import continuous_loss, learned_schedule

    batch = RECIPES["digits-likelihood"]().batch(0)
    torch.manual_seed(0)
    network = digits.digit_network()
    torch.nn.init.normal_(network.leave.weight, std=0.1)
    low, high = digits.DIGIT_LOG_SNR
    straight = learned_schedule(torch.zeros(1), high, low)
    t = straight.time_at(vp_cosine().log_snr(batch["t"]))
    denoiser = NetworkDenoiser(network.requires_grad_(False), "v", straight)
    rate = continuous_loss(denoiser, straight, batch["z_0"], t, lambda like: batch["noise"])
    torch.testing.assert_close(velocity_loss(network, batch) * 64 * (high - low) / 4, rate, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize(("ratio", "sign"), [(0.5, -1), (1.0, 0), (2.0, 1)])
def test_spread_is_pulled_to_the_root_mean_square_of_the_error(ratio, sign):
    """The gradient with respect to the spread's bias vanishes where the spread is right, and points away elsewhere."""
    network = photos.RegressionWithSpread()
    lr = torch.rand(2, 3, 6, 6, generator=Generator().manual_seed(0))
    error = torch.tensor([0.03, -0.06, 0.09]).view(1, 3, 1, 1)
    right = error.square().mean().sqrt().item()
    bias = network.regression.unsure[-1].bias
    torch.nn.init.constant_(bias, math.log(ratio * right - SMALLEST_SPREAD))
    network(lr, resize(lr, 4) + error).mean().backward()  # a fresh network's mean is bicubic
    slope = bias.grad.sum().item()
    assert (abs(slope) < 1e-6) if sign == 0 else (slope * sign > 1e-3)
    assert network.regression.unsure[0].weight.grad is not None


def test_the_spread_does_not_disturb_the_regression():
    """No gradient of the likelihood reaches the features: with the error at zero the L1 term alone would be flat there."""
    network = photos.RegressionWithSpread()
    for p in network.regression.unsure.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=Generator().manual_seed(1))
    lr = torch.rand(2, 3, 6, 6, generator=Generator().manual_seed(0))
    network(lr, network.regression(lr).detach()).mean().backward()
    assert network.regression.head.weight.grad.abs().max() == 0
    assert network.regression.unsure[0].weight.grad.abs().max() > 0


def test_states_of_the_shipped_residual_are_normalised(pairs):
    """encode and decode agree with what `super_resolve` does with mean and spread (Residual with the regression)."""
    from tutorial_lib.domains import Residual

    regression = load_pretrained("photo-regression-x4")
    lr, hr = (p[None].float() / 255 for p in pairs[0])
    domain = Residual(lambda x: condition(regression, x)[0], lambda x: condition(regression, x)[1])
    z_0 = domain.encode(hr, lr)
    torch.testing.assert_close(photos.residual_pairs()[0][1].float(), z_0[0], atol=2e-2, rtol=2e-3)
    torch.testing.assert_close(domain.decode(z_0, lr), hr, atol=1e-5, rtol=0)


class Answers(nn.Module):
    """A network that always gives the same answer, and remembers what it was shown."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, *shown):
        self.shown = shown
        return self.answer


@pytest.mark.parametrize("name", sr3.RECIPES)
def test_sr3s_loss_is_zero_at_the_true_noise_and_shows_the_network_what_sampling_will(pairs, name):
    """The image and not the condition is noised, the level told is the image's, and no error of eps goes unpunished."""
    recipe = RECIPES[name]()
    batch = {key: value[:4] for key, value in recipe.batch(3).items()}
    network = Answers(batch["noise"])
    assert recipe.loss(network, batch).max() == 0
    u, level, cond = network.shown
    alpha = (8 * level).double().sigmoid().sqrt().view(-1, 1, 1, 1)
    clean = u - (1 - alpha**2).sqrt() * batch["noise"]
    torch.testing.assert_close(clean, alpha * batch["z_0"].double(), atol=1e-6, rtol=0)
    assert torch.equal(cond, batch["cond"])
    for wrong in (-batch["noise"], torch.zeros_like(batch["noise"])):
        assert recipe.loss(Answers(wrong), batch).min() > 0.1


@pytest.mark.parametrize("name", ["photo-sr3-x4", "faces-sr3-x4"])
def test_sr3s_loss_is_that_of_v_of_the_normalised_residual_times_its_spread(pairs, name):
    """Typed from the derivation: eps = sigma' r' + alpha' v' with alpha' = s alpha / size, sigma' = sigma / size."""
    batch = {key: value[:5] for key, value in RECIPES[name]().batch(1).items()}
    s = sr3.LOCAL_SPREADS[name](batch["cond"])
    log_snr = batch["log_snr"].view(-1, 1, 1, 1).double()
    alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
    per_v = s * alpha / (s**2 * alpha**2 + sigma**2).sqrt()
    wrong_by = torch.randn(batch["noise"].shape, generator=Generator().manual_seed(0))
    loss = sr3.sr3_loss(Answers(batch["noise"].double() + per_v * wrong_by), batch)
    expected = (s / sr3.SPREADS[name] * wrong_by**2).mean((1, 2, 3))
    torch.testing.assert_close(loss.float(), expected, rtol=2e-3, atol=1e-6)


def test_sr3s_conditions_are_the_enlarged_lr_images_in_state_units(pairs):
    batch = RECIPES["photo-sr3-x4"]().batch(2)
    lr = photos.random_patches(2, 4, 24, 16, 0)["lr"]
    torch.testing.assert_close(batch["cond"], 2 * resize(lr, 4) - 1)
    faces_batch = RECIPES["faces-sr3-x4"]().batch(2)
    shrunk = resize(resize(faces_batch["cond"], 1 / 4), 4)
    assert (faces_batch["z_0"] - faces_batch["cond"]).square().mean() < (faces_batch["z_0"] - shrunk).square().mean()
    assert faces_batch["cond"].mean() == pytest.approx(faces_batch["z_0"].mean().item(), abs=2e-3)


def test_the_cascades_conditions_hold_as_much_noise_as_they_say(pairs):
    """A quarter of them none; sqrt(1 - gamma) is what the last channel says. Four standard errors of a chi-square."""
    told, found = [], []
    for step in range(3):
        generator = sr3.step_generator(0, step)
        chosen = torch.randint(len(sr3.cascade_pairs()), (16,), generator=generator).tolist()
        lr = torch.stack([random_patch(sr3.cascade_pairs()[i], 28, generator)[0] for i in chosen]).float() / 255
        cond = sr3.cascade_patches(step, 28, 16, 0)["cond"]
        std = cond[:, 3, 0, 0]
        assert torch.equal(cond[:, 3:], std.view(-1, 1, 1, 1).expand_as(cond[:, 3:]))
        rest = cond[:, :3] - (1 - std**2).sqrt().view(-1, 1, 1, 1) * (2 * resize(lr, 2) - 1)
        told.append(std)
        found.append(rest.square().mean((1, 2, 3)).sqrt())
    told, found = torch.cat(told), torch.cat(found)
    numbers = 3 * 56 * 56
    assert ((found - told).abs() <= 4 * told / (2 * numbers) ** 0.5 + 1e-6).all()
    assert 0 < told.max() <= sr3.STRONGEST_AUGMENTATION
    assert 3 <= (told == 0).sum() <= 23  # 12 of 48 expected, four standard deviations


def test_the_flows_states_are_normalised_residuals_with_a_grey_level_of_noise(pairs):
    """mean + spread y is an original up to half a grey level, uniformly."""
    batch = RECIPES["photo-flow-x4"]().batch(0)
    generator = sr3.step_generator(0, 0)
    cond, residual, spread = photos.residual_pieces(24, 16, generator)
    level = (batch["y"] - residual) * spread * 255
    assert torch.equal(batch["cond"], cond)
    assert level.abs().max() <= 0.5 + 1e-3 and level.std() == pytest.approx((1 / 12) ** 0.5, rel=0.01)


def test_the_game_freezes_the_spread_and_starts_from_the_regression(pairs):
    """The content term alone is left when the generator's answer is the original and the discriminator says nothing."""
    game = RECIPES["photo-gan-x4"]().network()
    lr = torch.rand(2, 3, 8, 8, generator=Generator().manual_seed(0))
    regression = load_pretrained("photo-regression-x4")
    with torch.no_grad():
        answer = regression(lr)
        torch.testing.assert_close(game.generator(lr), answer)
    for p in game.discriminator.layers[-1].parameters():
        nn.init.zeros_(p)
    torch.testing.assert_close(game(lr, answer), torch.full((2,), 2.0))  # the hinge's value for a silent discriminator
    torch.testing.assert_close(game(lr, answer + 0.1), torch.full((2,), 2.1))
    game(lr, answer + 0.1).mean().backward()
    assert all(p.grad is None for p in game.generator.unsure.parameters())
    assert game.generator.detail.weight.grad.abs().max() > 0


# -------------------------------------------------------------------------------- faces that are told things


def shrunk(hr, pixels):
    """An LR face and its enlargement, typed again: bicubic, whole grey levels, bicubic."""
    lr = (resize(hr, pixels / 32).clamp(0, 1) * 255 + 0.5).floor() / 255
    return lr, resize(lr, 32 / pixels)


def in_images(states):
    return (states + 1) / 2


def test_chosen_faces_come_with_their_own_words_and_left_is_right_in_the_mirror():
    people = faces(24, 32, seed=0)
    hr, said, index = conditioning.chosen_faces(64, Generator().manual_seed(0))
    mirrored = 0
    for image, row, i in zip(hr, said, index.tolist(), strict=True):
        plain, flipped = (
            (x - image).abs().max() < 0.5 / 255 + 1e-6 for x in (people.images[i], people.images[i].flip(2))
        )
        assert plain != flipped
        mirrored += int(flipped)
        caption = people.captions[i]
        if flipped:
            caption = re.sub("left|right", lambda match: "left" if match.group() == "right" else "right", caption)
        assert torch.equal(row, words([caption])[0])
    assert 16 <= mirrored <= 48  # four standard deviations
    looking = [phrase.startswith("looking") for phrase in PHRASES]
    assert said[:, looking].sum() > 10


def test_conditions_are_what_their_way_says():
    """none: no image; the reference and the VAE's face for their ways alone; else the enlarged LR face of either size."""
    seen, smaller, told_words, kept, spoken = [], 0, 0, [], 0
    regression = load_pretrained("faces-regression-x4")
    for step in range(6):
        batch = conditioning.conditions_batch(step, 48, 0)
        hr, cond = in_images(batch["z_0"]), batch["cond"]
        assert torch.equal(cond[:, 3:], cond[:, 3:, :1, :1].expand_as(cond[:, 3:]))
        said = cond[:, 3:, 0, 0]
        assert torch.equal(said.sort(1).values.unique(), torch.tensor([0.0, 1.0]))
        assert (said[:, :6].sum(1) == 1).all()
        way = said[:, :6].argmax(1)
        (lr, large), (_, small) = shrunk(hr, 8), shrunk(hr, 4)
        image = in_images(cond[:, :3])
        reference = regression(lr)
        for i, name in enumerate(FACE_WAYS):
            of = {"large": large, "small": small, "reference": reference, "nothing": torch.full_like(large, 0.5)}
            here = way == i
            near = {key: (image - x).abs().amax((1, 2, 3))[here] < 1e-4 for key, x in of.items()}
            if name == "none":
                assert near["nothing"].all()
            elif name == "reference":
                assert near["reference"].all()
            elif name == "vae":
                assert not (near["large"] | near["small"] | near["reference"] | near["nothing"]).any()
                assert ((image - hr).square().mean((1, 2, 3))[here] < 0.02).all(), "a face like this one"
            else:
                assert (near["large"] ^ near["small"]).all()
                smaller += int(near["small"].sum())
                told_words += int(here.sum())
        seen.append(way)
        generator = sr3.step_generator(0, step)
        whole = conditioning.chosen_faces(48, generator)[1]
        speaks = said[:, 6:].sum(1) > 0
        spoken += int(speaks.sum())
        assert (said[:, 6:] <= whole).all(), "nothing that is not true is said"
        kept.append(said[:, 6:][speaks].sum() / whole[speaks].sum())
        assert torch.equal(hr, in_images(2 * conditioning.chosen_faces(48, sr3.step_generator(0, step))[0] - 1))
    counts = torch.bincount(torch.cat(seen), minlength=6)
    assert counts.sum() == 288 and ((counts - 48).abs() < 4 * (288 * 5 / 36) ** 0.5).all()
    for found, total, chance in (
        (smaller, told_words, conditioning.SMALLER),
        (spoken, 288, 1 - conditioning.SPEECHLESS),
    ):
        assert abs(found - total * chance) < 4 * (total * chance * (1 - chance)) ** 0.5
    assert torch.stack(kept).mean().item() == pytest.approx(1 - conditioning.DROPPED, abs=0.06)


def test_ways_and_times_have_nothing_to_do_with_each_other():
    """Times are stratified in the order of the batch; shuffled, each place of the batch sees them all."""
    t = torch.stack([conditioning.conditions_batch(step, 6, 0)["t"] for step in range(24)])
    assert t.argsort(1).float().mean(0).sub(2.5).abs().max() < 4 * (35 / 12 / 24) ** 0.5
    assert not (t.diff(dim=1) > 0).all()


def test_the_vae_of_faces_is_trained_on_the_normalised_residual_of_its_regression():
    batch = RECIPES["faces-vae-x4"]().batch(3)
    hr = conditioning.chosen_faces(64, sr3.step_generator(0, 3))[0]
    lr = shrunk(hr, 8)[0]
    mean, spread, cond = condition(load_pretrained("faces-regression-x4"), lr)
    torch.testing.assert_close(mean + spread * F.pixel_shuffle(batch["y"], 4), hr, atol=1e-5, rtol=0)
    torch.testing.assert_close(batch["cond"], cond)
    assert batch["eps"].std().item() == pytest.approx(1, abs=0.04)
    recipe = RECIPES["faces-vae-x4"]()
    network = recipe.network()
    loss = recipe.loss(network, batch)
    q_mean, log_std = network.vae.encode(batch["y"], cond)
    decoder = Normal(network.vae.decode(q_mean + log_std.exp() * batch["eps"], cond), network.vae.log_std.exp())
    elbo = decoder.log_prob(batch["y"]).sum((1, 2, 3))
    elbo = elbo - kl_divergence(Normal(q_mean, log_std.exp()), Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(loss, -elbo / 3072)
    assert recipe.shipped(network) is network.vae


def test_a_reference_in_training_is_the_vaes_view_of_the_face_itself():
    hr = faces(8, 32, seed=5).images
    lr = shrunk(hr, 8)[0]
    vae = load_pretrained("faces-vae-x4")
    mean, spread, cond = condition(load_pretrained("faces-regression-x4"), lr)
    latent, log_std = vae.encode(F.pixel_unshuffle((hr - mean) / spread, 4), cond)
    eps = torch.randn(8, 2, 8, 8, generator=Generator().manual_seed(3))
    wanted = mean + spread * F.pixel_shuffle(vae.decode(latent + log_std.exp() * eps, cond), 4)
    found = conditioning.vae_reconstruction(hr, lr, Generator().manual_seed(3))
    torch.testing.assert_close(found, wanted)
    blind = mean + spread * F.pixel_shuffle(vae.decode(eps, cond), 4)
    assert (found - hr).square().mean() < (blind - hr).square().mean(), "a draw of the prior has not seen the face"


def test_the_adapters_prior_is_a_copy_and_only_the_adapter_is_shipped():
    recipe = RECIPES["faces-adapter-x4"]()
    network, batch = recipe.network(), recipe.batch(2)
    prior = load_pretrained("faces-unconditional-32")
    assert network.prior is not prior and recipe.shipped(network) is network.adapter
    shared = {p.data_ptr() for p in prior.parameters()}
    assert not shared & {p.data_ptr() for p in network.prior.parameters()}
    hr = in_images(batch["z_0"])
    torch.testing.assert_close(batch["cond"], 2 * shrunk(hr, 8)[1] - 1, atol=1e-5, rtol=0)
    few = {key: value[:4] for key, value in batch.items()}
    alone = velocity_loss(lambda z, level, cond: prior(z, level), few)
    torch.testing.assert_close(recipe.loss(network, few), alone)  # at the start an adapter says nothing
    recipe.loss(network, few).mean().backward()
    assert all(p.grad is None for p in network.prior.parameters())


def test_the_classifiers_loss_is_the_cross_entropy_of_all_attributes():
    batch, people = RECIPES["faces-classifier-32"]().batch(1), faces(24, 32, seed=0)
    hr, _, index = conditioning.chosen_faces(64, sr3.step_generator(0, 1))
    assert torch.equal(in_images(batch["z_0"]), in_images(2 * hr - 1))
    for column, name in enumerate(CLASSIFIED):
        assert torch.equal(batch["truth"][:, column], people.attributes[name][index])
    logits = torch.randn(64, 21, generator=Generator().manual_seed(0))
    network = Answers(logits)
    loss = conditioning.classifier_loss(network, batch)
    wanted, first = torch.zeros(64), 0
    for column, name in enumerate(CLASSIFIED):
        end = first + len(NAMES[name])
        wanted += F.cross_entropy(logits[:, first:end], batch["truth"][:, column], reduction="none")
        first = end
    torch.testing.assert_close(loss, wanted)
    u, level = network.shown
    alpha, sigma = (f(batch["t"].double()).float() for f in (vp_cosine().alpha, vp_cosine().sigma))
    seen = alpha.view(-1, 1, 1, 1) * batch["z_0"] + sigma.view(-1, 1, 1, 1) * batch["noise"]
    torch.testing.assert_close(u, seen, atol=1e-5, rtol=0)
    torch.testing.assert_close(level, ((alpha / sigma).log() * 2 / 8).clamp(-2.5, 2.5), atol=1e-4, rtol=1e-4)
    certain = torch.full((64, 21), -50.0)
    first = 0
    for column, name in enumerate(CLASSIFIED):
        certain.scatter_(1, first + batch["truth"][:, column : column + 1], 50.0)
        first += len(NAMES[name])
    assert conditioning.classifier_loss(Answers(certain), batch).max() < 1e-6


# ----------------------------------------------------------------------------------------------- state domains


def places(photo, patch, stride):
    """Where a patch lies in a photo (both (C, H, W)), as a list of (top, left): windows at multiples of the stride."""
    size, found = patch.shape[-1], []
    height, width = (n - size + 1 for n in photo.shape[1:])
    fits = torch.ones(-(-height // stride), -(-width // stride), dtype=torch.bool)
    for y, x in ((0, 0), (0, size - 1), (size - 1, 0), (size - 1, size - 1), (size // 2, size // 3)):
        pixels = photo[:, y : y + height : stride, x : x + width : stride]
        fits &= (pixels - patch[:, y, x].view(-1, 1, 1)).abs().amax(0) < 0.02
    for top, left in fits.nonzero().tolist():
        window = photo[:, stride * top : stride * top + size, stride * left : stride * left + size]
        if (window - patch).abs().max() < 0.02:
            found.append((top, left))
    return found


def test_srdiffs_states_are_what_bicubic_leaves_over_the_local_spread(pairs):
    """base + spread z_0 is a patch of a photo or its mirror image; the features are those of the place where it lies."""
    batch = RECIPES["photo-srdiff-x4"]().batch(4)
    assert batch["z_0"].shape == (16, 3, 96, 96) and batch["cond"].shape == (16, 112, 24, 24)
    base = F.pixel_shuffle(batch["cond"][:, :48], 4) + 0.5
    hr = base + batch["weight"] * photos.TYPICAL_SPREAD * batch["z_0"]
    regression = load_pretrained("photo-regression-x4")
    for i in range(3):
        found = []
        for lr, photo in pairs:
            for flip in (False, True):
                x, y = ((p.flip(2) if flip else p).float() / 255 for p in (lr, photo))
                found += [(x, place) for place in places(y, hr[i], 4)]
        assert len(found) == 1
        x, (top, left) = found[0]
        cut = (..., slice(top, top + 24), slice(left, left + 24))
        torch.testing.assert_close(batch["cond"][i, 48:], regression.features(x[None])[0][cut], atol=2e-3, rtol=2e-3)
        spread = LOCAL_SPREADS["photo-sr3-x4"](2 * resize(x[None], 4) - 1)[0] / 2
        fine = (..., slice(4 * top, 4 * top + 96), slice(4 * left, 4 * left + 96))
        torch.testing.assert_close(batch["weight"][i] * 0.04, spread[fine], atol=1e-4, rtol=2e-3)


@pytest.mark.parametrize("records", [domains.srdiff_records, photos.residual_pairs])
def test_every_photo_is_recorded_with_its_mirror_image(pairs, records):
    """Bicubic has no left and right, and a network's answer is what it says of the mirrored photo."""
    made, regression = records(), load_pretrained("photo-regression-x4")
    assert len(made) == 2 * len(pairs)
    for i, (lr, hr) in enumerate(pairs):
        for (_, residual, spread), x, y in zip(
            made[2 * i : 2 * i + 2], (lr, lr.flip(2)), (hr, hr.flip(2)), strict=True
        ):
            x, y = x[None].float() / 255, y[None].float() / 255
            base = resize(x, 4) if records is domains.srdiff_records else regression(x)
            torch.testing.assert_close(base[0] + spread.float() * residual.float(), y[0], atol=2e-3, rtol=0)


def test_wavelet_batches_are_residual_batches_in_haar_bands(pairs):
    """Unpacked by PyWavelets they are the residuals; the weight is the mean spread under a band times the band's scale."""
    batch = RECIPES["photo-wavelet-x4"]().batch(2)
    cond, residual, spread = photos.residual_pieces(24, 16, sr3.step_generator(0, 2))
    assert torch.equal(batch["cond"], cond)
    scales = torch.tensor([WAVELET_SCALES[b] for b in ("LL", "H2", "V2", "D2", "H1", "V1", "D1")])
    scale = scales.repeat_interleave(torch.tensor([3, 3, 3, 3, 12, 12, 12])).view(1, 48, 1, 1)
    bands = (batch["z_0"] * scale).split([3, 3, 3, 3, 12, 12, 12], 1)
    coarse, *second = (band.numpy() for band in bands[:4])
    first = [F.pixel_shuffle(band, 2).numpy() for band in bands[4:]]
    image = pywt.waverec2([coarse, tuple(second), tuple(first)], "haar")
    torch.testing.assert_close(torch.from_numpy(image), residual, atol=1e-5, rtol=0)
    expected = spread.unflatten(3, (24, 4)).unflatten(2, (24, 4)).mean((3, 5)) / photos.TYPICAL_SPREAD * scale
    torch.testing.assert_close(batch["weight"], expected)


def test_cold_batches_are_wavelet_batches(pairs):
    for step, seed in ((2, 0), (3, 1)):
        ours, theirs = (RECIPES[f"photo-{name}-x4"](seed=seed).batch(step) for name in ("cold", "wavelet"))
        assert ours.keys() == theirs.keys() == {"z_0", "noise", "cond", "t", "weight"}
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    few = RECIPES["photo-cold-x4"](batch_size=3, size=8).batch(0)
    assert few["z_0"].shape == (3, 48, 8, 8) and few["cond"].shape == (3, 115, 8, 8)


def check_cold_loss(loss_of):
    """By hand: the 36 fine channels fade in the first half of the time and the 12 coarse ones in the second, noise of 0.2
    comes in; the mean of weighted absolute errors."""
    source = Generator().manual_seed(0)
    z_0, noise, answer = (torch.randn(4, 48, 6, 5, generator=source) for _ in range(3))
    weight, cond = torch.rand(4, 48, 6, 5, generator=source), torch.rand(4, 115, 6, 5, generator=source)
    t = torch.tensor([0.1, 0.4, 0.7, 1.0])
    network = Answers(answer)
    loss = loss_of(network, {"z_0": z_0, "noise": noise, "weight": weight, "cond": cond, "t": t})
    torch.testing.assert_close(loss, (weight * (answer - z_0).abs()).sum((1, 2, 3)) / (48 * 6 * 5))
    u, level, told = network.shown
    coarse, fine = torch.tensor([1, 1, 0.6, 0]).view(4, 1, 1, 1), torch.tensor([0.8, 0.2, 0, 0]).view(4, 1, 1, 1)
    faded = torch.cat([coarse * z_0[:, :12], fine * z_0[:, 12:]], 1)
    torch.testing.assert_close(u, faded + 0.2 * t.view(4, 1, 1, 1) * noise, atol=1e-5, rtol=0)
    torch.testing.assert_close(level, torch.tensor([2.0, 0.5, -1.0, -2.5]), atol=1e-5, rtol=0)
    assert torch.equal(told, cond) and loss.dtype == torch.float32


def test_the_cold_loss_is_the_weighted_absolute_error_of_z_0():
    check_cold_loss(corruption.cold_loss)
    z_0 = torch.randn(2, 48, 3, 3, generator=Generator().manual_seed(1))
    batch = {"z_0": z_0, "noise": 3 * z_0, "weight": 1 + z_0.abs(), "cond": None, "t": torch.tensor([0.3, 0.9])}
    assert torch.equal(corruption.cold_loss(Answers(z_0), batch), torch.zeros(2))
    assert corruption.cold_loss(Answers(-z_0), batch).min() > 0.5


def cold_squared(network, batch):
    corruption.cold_loss(network, batch)
    return ((network.answer - batch["z_0"]).square() * batch["weight"]).mean((1, 2, 3))


COLD_MUTANTS = {
    "squared": cold_squared,
    "unweighted": lambda network, b: corruption.cold_loss(network, b | {"weight": torch.ones(1)}),
    "noise left out": lambda network, b: corruption.cold_loss(network, b | {"noise": 0 * b["noise"]}),
    "noise of full size": lambda network, b: corruption.cold_loss(network, b | {"noise": 5 * b["noise"]}),
    "time counted backwards": lambda network, b: corruption.cold_loss(network, b | {"t": 1 - b["t"]}),
    "one value for all": lambda network, b: corruption.cold_loss(network, b).mean().expand(4),
}


@pytest.mark.parametrize("mutant", COLD_MUTANTS)
def test_wrong_cold_losses_are_seen(mutant):
    with pytest.raises(AssertionError):
        check_cold_loss(COLD_MUTANTS[mutant])


def test_the_autoencoders_batches_are_residuals_and_its_loss_takes_the_noise_from_them(pairs):
    recipe = RECIPES["photo-autoencoder-x4"]()
    batch = recipe.batch(2)
    cond, residual, spread = photos.residual_pieces(24, 16, sr3.step_generator(0, 2))
    assert torch.equal(batch["y"], residual) and torch.equal(batch["cond"], cond)
    assert torch.equal(batch["weight"], spread / photos.TYPICAL_SPREAD)
    assert batch["eps"].std().item() == pytest.approx(1, abs=0.02)
    network = recipe.network()
    mean, log_std = network.autoencoder.moments(residual, cond)
    assert batch["eps"].shape == mean.shape
    answer = network.autoencoder.decode(mean + log_std.exp() * batch["eps"], cond)
    error = (batch["weight"] * (residual - answer) ** 2).mean((1, 2, 3)) / (2 * 0.2**2)
    gap = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum((1, 2, 3)) / residual[0].numel()
    torch.testing.assert_close(recipe.loss(network, batch), error + gap)
    assert recipe.shipped(network) is network.autoencoder


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_latents_are_divided_by_their_scale_and_lie_where_their_condition_lies(pairs, monkeypatch, scale):
    monkeypatch.setattr(domains, "LATENT_SCALE", scale)
    batch = RECIPES["photo-latent-x4"]().batch(3)
    assert batch["z_0"].shape == (16, 32, 20, 20) and batch["cond"].shape == (16, 460, 20, 20) and "weight" not in batch
    told = F.pixel_shuffle(batch["cond"], 2)
    autoencoder = load_pretrained("photo-autoencoder-x4")
    for i in range(2):
        found = []
        for cond, residual, _ in photos.residual_pairs():
            for top, left in places(cond[:3].float(), told[i, :3], 2):
                found.append((cond, residual, 2 * top, 2 * left))
        assert len(found) == 1
        cond, residual, top, left = found[0]
        cut = (..., slice(top, top + 40), slice(left, left + 40))
        torch.testing.assert_close(told[i], cond[cut].float())
        latent = autoencoder.encode(residual[None].float(), cond[None].float())[0]  # 52 x 60 LR pixels, both even
        half = (..., slice(top // 2, top // 2 + 20), slice(left // 2, left // 2 + 20))
        torch.testing.assert_close(batch["z_0"][i] * scale, latent[half], atol=1e-2, rtol=1e-2)


def test_odd_photos_lose_their_last_row_before_they_are_encoded(monkeypatch):
    """Sides of 41 and 43 LR pixels: the latents are those of 40 x 42."""
    source = Generator().manual_seed(0)
    cond, residual = torch.rand(115, 41, 43, generator=source).half(), torch.randn(3, 164, 172, generator=source).half()
    monkeypatch.setattr(domains, "residual_pairs", lambda: [(cond, residual, residual[:1].exp())])
    domains.latent_records.cache_clear()
    ((told, latent),) = domains.latent_records()
    domains.latent_records.cache_clear()
    assert torch.equal(told, cond[:, :40, :42]) and latent.shape == (32, 20, 21)
    autoencoder = load_pretrained("photo-autoencoder-x4")
    wanted = autoencoder.encode(residual[None, :, :160, :168].float(), told[None].float())[0]
    torch.testing.assert_close(latent.float(), wanted, atol=1e-2, rtol=1e-2)


def test_continuous_batches_are_photos_at_every_scale_from_two_to_four(pairs):
    """base + spread z_0 is a patch of a photo, turned; base and features come from its LR image of 20 x 20."""
    sides, regression = set(), load_pretrained("photo-regression-x4")
    turned = [torch.rot90(hr, k, (1, 2)).float() / 255 for _, hr in pairs for k in range(4)]
    turned += [photo.flip(2) for photo in turned]
    for step in (0, 1, 2):
        batch = domains.continuous_patches(step, 20, 3, 0)
        side = batch["z_0"].shape[-1]
        sides.add(side)
        scale = side / 20
        assert 40 <= side <= 80 and torch.equal(batch["scale"], torch.full((3,), scale))
        base, spread = batch["cond"] + 0.5, batch["weight"] * photos.TYPICAL_SPREAD
        hr = base + spread * batch["z_0"]
        lr = to_uint8(resize(hr, 20 / side)).float() / 255
        assert lr.shape[-2:] == (20, 20)
        torch.testing.assert_close(base, resize(lr, scale), atol=1e-5, rtol=0)
        torch.testing.assert_close(batch["features"], regression.features(lr), atol=1e-4, rtol=1e-4)
        grey = (hr * 255).round()
        assert (hr - grey / 255).abs().max() < 1e-4, "whole grey levels come back"
        assert all(any(places(photo, patch / 255, 1) for photo in turned) for patch in grey)
    assert len(sides) == 3
    fine = [int(torch.randint(40, 81, (), generator=sr3.step_generator(0, step))) for step in range(300)]
    assert min(fine) == 40 and max(fine) == 80


def test_the_continuous_loss_shows_the_network_features_base_and_scale(pairs):
    batch = domains.continuous_patches(1, 20, 3, 0)
    network = Answers(torch.zeros_like(batch["z_0"]))
    loss = domains.continuous_loss(network, batch)
    u, level, (features, base, scale) = network.shown
    alpha, sigma = (f(batch["t"].double()).view(-1, 1, 1, 1) for f in (vp_cosine().alpha, vp_cosine().sigma))
    v = (alpha * batch["noise"] - sigma * batch["z_0"]).float()
    torch.testing.assert_close(loss, (batch["weight"] * v**2).mean((1, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(u, (alpha * batch["z_0"] + sigma * batch["noise"]).float(), atol=1e-5, rtol=0)
    assert torch.equal(features, batch["features"]) and torch.equal(base, batch["cond"])
    assert isinstance(scale, float) and scale == batch["scale"][0] and level.shape == (3,)
    assert domains.continuous_loss(Answers(v), batch).max() < 1e-6


def test_codes_of_faces_are_learned_from_the_states_of_the_other_models():
    for name in ("faces-kl-32", "faces-vq-32"):
        batch = RECIPES[name]().batch(3)
        assert torch.equal(batch["y"], face_recipes.face_batch(3, 32, 48, 0)["z_0"])
        assert batch["eps"].shape == (48, 4, 8, 8) and batch["eps"].std().item() == pytest.approx(1, abs=0.03)
        recipe = RECIPES[name]()
        torch.manual_seed(0)
        network = recipe.network()
        inner = recipe.shipped(network)
        few = {key: value[:4] for key, value in batch.items()}
        wanted = inner(few["y"], lambda like, few=few: few["eps"]) if name == "faces-kl-32" else inner(few["y"])
        torch.testing.assert_close(recipe.loss(network, few), wanted)
        assert inner.std == 0.1
