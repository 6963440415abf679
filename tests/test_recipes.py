"""Recipes: batches depend on seed and step alone, patches are aligned, losses are zero at the truth and only there."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, nn

from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.images import resize, to_uint8
from tutorial_lib.networks.regression import SMALLEST_SPREAD
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.recipes import RECIPES, digits, photos, sr3
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
    photos.residual_pairs.cache_clear()
    yield made
    photos.residual_pairs.cache_clear()


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
    monkeypatch.setattr(face_recipes, "FACES", 24)
    monkeypatch.setattr(face_recipes, "PATHS", 4)
    monkeypatch.setattr(face_recipes, "FLOW_STEPS", 6)
    face_recipes.face_paths.cache_clear()
    yield
    face_recipes.training_faces.cache_clear()
    face_recipes.face_paths.cache_clear()


@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_depends_on_seed_and_step_alone(pairs, name):
    first, again, later = RECIPES[name](), RECIPES[name](), RECIPES[name](seed=1)
    for key, value in first.batch(5).items():
        assert torch.equal(value, again.batch(5)[key])
        assert len(value) == first.batch_size
        assert not torch.equal(value, first.batch(6)[key])
        assert not torch.equal(value, later.batch(5)[key])


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


def test_a_batch_of_faces_is_made_of_training_faces_and_their_mirror_images():
    batch = RECIPES["faces-unconditional-32"]().batch(3)
    states = faces(24, 32, seed=0).images * 2 - 1
    every = torch.cat([states, states.flip(3)])
    distances = (batch["z_0"][:, None] - every).abs().amax((2, 3, 4))
    nearest, which = distances.min(1)
    assert nearest.max() <= 1 / 255 + 1e-6, "nothing but rounding to 8 bits may change a face"
    assert 10 < (which >= 24).sum() < 54, "about half of 64 are mirrored"
    assert len(set(which.tolist())) > 30


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
    from tutorial_lib.networks.regression import condition

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
