"""The hinge game: values by hand, two players that do not touch each other, and what the best discriminator says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, nn

from tutorial_lib.networks import Discriminator, adversarial_losses


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


class Plain(nn.Module):
    """Logits weight * hr + told * lr, so that every number can be followed by hand."""

    def __init__(self, weight=1.0, told=0.0):
        super().__init__()
        self.weight, self.told = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(told))

    def forward(self, hr, lr):
        return self.weight * hr + self.told * lr


REAL = torch.tensor([[2.0, 0.5], [-1.0, 1.0]]).reshape(2, 1, 1, 2)
FAKE = torch.tensor([[-3.0, 0.25], [0.0, 2.0]]).reshape(2, 1, 1, 2)
COND = torch.zeros(2, 1, 1, 2)


def flipped(discriminator, real, fake, cond):
    first, second = adversarial_losses(discriminator, real, fake, cond)
    return -first, -second


def real_and_fake_swapped(discriminator, real, fake, cond):
    wrong, _ = adversarial_losses(discriminator, fake, real, cond)
    return wrong, adversarial_losses(discriminator, real, fake, cond)[1]


def generator_flipped(discriminator, real, fake, cond):
    first, second = adversarial_losses(discriminator, real, fake, cond)
    return first, -second


def saturating(discriminator, real, fake, cond):
    """The generator's loss of the minimax game, log(1 - sigmoid(D(fake)))."""
    frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
    logits = torch.func.functional_call(discriminator, frozen, (fake, cond))
    return adversarial_losses(discriminator, real, fake, cond)[0], -F.softplus(logits).flatten(1).mean(1)


def hinged_generator(discriminator, real, fake, cond):
    """max(0, 1 + ...) for the generator as well: no gradient once the fakes are far behind, or far ahead."""
    frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
    logits = torch.func.functional_call(discriminator, frozen, (fake, cond))
    return adversarial_losses(discriminator, real, fake, cond)[0], -F.relu(1 + logits).flatten(1).mean(1)


def entangled(discriminator, real, fake, cond):
    """Nothing detached: each player pulls at the other's weights."""
    real_logits, fake_logits = discriminator(real, cond), discriminator(fake, cond)
    loss = F.relu(1 - real_logits).flatten(1).mean(1) + F.relu(1 + fake_logits).flatten(1).mean(1)
    return loss, -fake_logits.flatten(1).mean(1)


MUTANTS = [flipped, real_and_fake_swapped, generator_flipped, saturating, hinged_generator]


def values_are_right(losses):
    """Image 1: real (0 + 0.5)/2, fake (0 + 1.25)/2, generator (3 - 0.25)/2. Image 2: (2 + 0)/2, (1 + 3)/2, -(0 + 2)/2."""
    first, second = losses(Plain(), REAL, FAKE, COND)
    return torch.allclose(first, torch.tensor([0.875, 3.0])) and torch.allclose(second, torch.tensor([1.375, -1.0]))


def test_values_by_hand():
    assert values_are_right(adversarial_losses)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_values_are_seen(mutant):
    assert not values_are_right(mutant)


def players_are_apart(losses):
    """Each player's gradient with both losses summed is its gradient from its own loss, found without the other's."""
    torch.manual_seed(0)
    player, generator = Discriminator(2, 4, fold=1, halvings=1).eval(), nn.Conv2d(2, 2, 3, padding=1)
    real, lr, start = draw(3, 2, 8, 6), draw(3, 2, 4, 3, seed=2), draw(3, 2, 8, 6, seed=3)

    def gradients(loss, parameters):
        found = torch.autograd.grad(loss.sum(), parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in found])

    both = sum(losses(player, real, generator(start), lr))
    real_logits, fake_logits = player(real, lr), player(generator(start).detach(), lr)
    own = (F.relu(1 - real_logits) + F.relu(1 + fake_logits)).flatten(1).mean(1)
    followed = -player(generator(start), lr).flatten(1).mean(1)
    own, followed = gradients(own, list(player.parameters())), gradients(followed, list(generator.parameters()))
    assert own.abs().max() > 1e-3 and followed.abs().max() > 1e-3
    mine = gradients(both, [*player.parameters(), *generator.parameters()])
    return torch.allclose(mine, torch.cat([own, followed]), atol=1e-6)


def test_one_backward_pass_serves_both_players():
    assert players_are_apart(adversarial_losses)


@pytest.mark.parametrize("mutant", [flipped, real_and_fake_swapped, generator_flipped, saturating, entangled])
def test_players_that_are_not_apart_are_seen(mutant):
    assert not players_are_apart(mutant)


def test_each_loss_alone_leaves_the_other_player_without_gradient():
    fake, player = FAKE.clone().requires_grad_(), Plain()
    first, second = adversarial_losses(player, REAL, fake, COND)
    first.sum().backward()
    assert fake.grad is None and player.weight.grad.abs() > 0
    player.weight.grad = None
    second.sum().backward()
    assert player.weight.grad is None
    torch.testing.assert_close(fake.grad, torch.full_like(fake, -0.5))  # each logit is a half of its image's mean


def pull_when_losing(losses):
    """|d generator loss / d fake| where the discriminator is sure, D(fake) = -20."""
    fake = torch.full((1, 1, 1, 1), -20.0, requires_grad=True)
    losses(Plain(), -fake.detach(), fake, COND[:1, :, :, :1])[1].sum().backward()
    return fake.grad.abs().item()


def test_the_generator_is_pulled_when_it_loses():
    assert pull_when_losing(adversarial_losses) == 1
    assert pull_when_losing(saturating) < 1e-6
    assert pull_when_losing(hinged_generator) == 0


def test_equal_laws_leave_the_discriminator_nothing():
    """Where real = fake, max(0, 1 - D) + max(0, 1 + D) is at least 2, whatever D, and 2 for |D| <= 1."""
    for weight in (-3.0, -0.2, 0.0, 0.5, 4.0):
        loss, _ = adversarial_losses(Plain(weight), REAL, REAL, COND)
        assert (loss >= 2 - 1e-6).all()
        if abs(weight) * REAL.abs().max() <= 1:
            torch.testing.assert_close(loss, torch.full((2,), 2.0))


def test_the_best_discriminator_measures_total_variation():
    """min over D of the loss is 2 (1 - TV), reached at D = sign(p - q); the generator's loss is then E_q[-D]."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.1, 0.7])
    images = torch.eye(3).reshape(3, 3, 1, 1)
    real, fake = (images.repeat_interleave((10 * law).round().long(), 0) for law in (p, q))
    table = nn.Conv2d(3, 1, 1, bias=False)

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = table

        def forward(self, hr, lr):
            return self.table(hr)

    player, cond = Table(), torch.zeros(10, 1, 1, 1)
    nn.init.zeros_(table.weight)
    optimizer = torch.optim.SGD(player.parameters(), 0.05)
    for _ in range(120):
        optimizer.zero_grad()
        adversarial_losses(player, real, fake, cond)[0].mean().backward()
        optimizer.step()
    first, second = adversarial_losses(player, real, fake, cond)
    variation = (p - q).abs().sum() / 2
    torch.testing.assert_close(first.mean(), 2 * (1 - variation), atol=0.02, rtol=0)
    torch.testing.assert_close(table.weight.flatten(), (p - q).sign(), atol=0.05, rtol=0)
    torch.testing.assert_close(second.mean(), -(q * (p - q).sign()).sum(), atol=0.05, rtol=0)


def test_the_generators_pass_moves_nothing():
    """The power iteration of the spectral norm advances for real and fake in training, and never in the frozen pass."""
    torch.manual_seed(0)
    player, twin = Discriminator(1, 4, 1, 1), Discriminator(1, 4, 1, 1)
    twin.load_state_dict(player.state_dict())
    real, fake, lr = draw(2, 1, 6, 4), draw(2, 1, 6, 4, seed=2), draw(2, 1, 3, 2, seed=3)
    adversarial_losses(player, real, fake, lr)
    twin(real, lr), twin(fake, lr)
    assert player.training
    for (name, mine), other in zip(player.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine, other, msg=name)
    adversarial_losses(player.eval(), real, fake, lr)
    assert not player.training


@pytest.mark.parametrize("colors", [1, 2, 3, 5])
@pytest.mark.parametrize(("size", "scale"), [((8, 8), 4), ((8, 20), 4), ((12, 6), 2), ((9, 15), 3)])
def test_discriminator_shapes_and_batches(colors, size, scale):
    fold = 1 if size[0] % 2 else 2
    player = Discriminator(colors, 4, fold, halvings=1).eval()
    hr = draw(3, colors, *size)
    lr = draw(3, colors, size[0] // scale, size[1] // scale, seed=2)
    out = player(hr, lr)
    assert out.shape == (3, 1, size[0] // fold // 2, size[1] // fold // 2)
    torch.testing.assert_close(player(hr[2:], lr[2:]), out[2:])
    assert not torch.allclose(player(hr, lr + 1), out) and not torch.allclose(player(hr + 1, lr), out)


def test_tiny_images_need_no_halving():
    assert Discriminator(1, 4, fold=1, halvings=0)(draw(2, 1, 1, 2), draw(2, 1, 1, 2)).shape == (2, 1, 1, 2)


def test_spectral_norms_are_one():
    """Every layer but the last: its weight, as a matrix (outputs, the rest), has largest singular value 1."""
    torch.manual_seed(0)
    player = Discriminator(3, 8)
    for _ in range(100):  # each advances the power iteration by one step
        player(draw(1, 3, 8, 8), draw(1, 3, 2, 2))
    layers = [layer for layer in player.layers if isinstance(layer, nn.Conv2d)]
    norms = torch.stack([torch.linalg.matrix_norm(layer.weight.flatten(1), 2) for layer in layers[:-1]])
    assert len(norms) == 5
    torch.testing.assert_close(norms, torch.ones(5), atol=0.02, rtol=0)
