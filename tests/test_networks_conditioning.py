"""Conditioning: every way is heard, through its own path alone; an adapter steers a prior that stays what it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_networks import wake
from torch import Generator

from tutorial_lib.data.captions import PHRASES, words
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.networks import UNet
from tutorial_lib.networks.conditioning import FACE_WAYS, AdaptedUNet, ConditionedUNet, Modulator, face_condition

LEVEL = torch.tensor([0.3, -1.0], dtype=torch.float64)
TOLD = [way for way in FACE_WAYS if way != "none"]
STACKED = ("concat", "reference", "vae")


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def pictures(seed=5, count=2):
    return torch.rand(count, 3, 32, 32, dtype=torch.float64, generator=Generator().manual_seed(seed))


def small():
    return wake(ConditionedUNet(channels=(6, 8), blocks=1, embedding=16))


def told(way, image, said=None):
    """What the network is told, typed again: state, one-hot way, words, constant over the picture."""
    said = torch.zeros(len(image), len(PHRASES)).double() if said is None else said.double()
    way = torch.eye(len(FACE_WAYS), dtype=torch.float64)[FACE_WAYS.index(way)].expand(len(image), -1)
    return torch.cat([image, torch.cat([way, said], 1)[:, :, None, None].expand(-1, -1, *image.shape[2:])], 1)


# ------------------------------------------------------------------------------------------------- face_condition


@pytest.mark.parametrize("way", TOLD)
def test_a_condition_is_the_image_in_state_units_and_constants(way):
    image, said = pictures(), words(["smiling, red hat", "glasses"])
    cond = face_condition(way, image, said)
    assert torch.equal(cond, told(way, 2 * image - 1, said))
    silent = face_condition(way, image)
    assert torch.equal(silent[:, :9], cond[:, :9]) and (silent[:, 9:] == 0).all()
    assert cond.shape[1] == 3 + len(FACE_WAYS) + len(PHRASES) == 46


def test_nothing_can_be_told_with_words_or_without():
    said = words(["smiling, red hat", "glasses", "bun"])
    torch.testing.assert_close(
        face_condition("none", words=said), told("none", torch.zeros(3, 3, 32, 32), said).float()
    )
    torch.testing.assert_close(face_condition("none", count=4), told("none", torch.zeros(4, 3, 32, 32)).float())
    assert face_condition("none", count=2, size=16).shape == (2, 46, 16, 16)


def test_bad_conditions_are_named():
    image = pictures()
    with pytest.raises(ValueError, match="way must be one of .* did you mean 'concat'"):
        face_condition("concatenate", image)
    with pytest.raises(ValueError, match="way 'film' needs an image, but no image came"):
        face_condition("film")
    with pytest.raises(ValueError, match="way 'none' takes no image, but an image came"):
        face_condition("none", image)
    with pytest.raises(ValueError, match="image must have 3 channels"):
        face_condition("concat", image[:, :1])
    with pytest.raises(ValueError, match=r"words must be \(2, 37\), one row per image, but \(1, 37\) came"):
        face_condition("concat", image, words(["smiling"]))
    network, z = small(), draw(2, 3, 32, 32)
    for cond, came in ((None, "None"), (image, r"the shape \(2, 3, 32, 32\)")):
        with pytest.raises(ValueError, match=rf"cond must be face_condition\(...\) of shape .* but {came} came"):
            network(z, LEVEL, cond)


# ---------------------------------------------------------------------------------------------------- one network


def by_hand(network, z, image, way, said, level=LEVEL):
    """What each way means, composed from the network's parts."""
    row = torch.cat([torch.eye(len(FACE_WAYS)).double()[[FACE_WAYS.index(way)] * len(z)], said.double()], 1)
    row = F.linear(row, network.told.weight, network.told.bias)
    nothing = torch.zeros(len(z), 24, 16, 16).double()
    if way in STACKED:
        return network.unet(z, level, torch.cat([F.pixel_unshuffle(image, 2), nothing], 1), row)
    if way == "features":
        shrunk = image.unflatten(3, (8, 4)).unflatten(2, (8, 4)).mean((3, 5))  # 4 x 4 blocks
        features = network.encoder((shrunk + 1) / 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return network.unet(z, level, torch.cat([nothing[:, :12], features], 1), row)
    pairs = network.modulator(image, level) if way == "film" else None
    return network.unet(z, level, torch.zeros(len(z), 36, 16, 16).double(), row, pairs)


@pytest.mark.parametrize("way", FACE_WAYS)
def test_every_way_takes_its_own_path_and_no_other(way):
    """The answer is the hand-made composition; gradients reach exactly the parts that the way passes through."""
    network, z = small(), draw(2, 3, 32, 32)
    image, said = 2 * pictures() - 1, words(["smiling, red hat", "glasses"])
    cond = told(way, image, said).requires_grad_(True)
    out = network(z, LEVEL, cond)
    torch.testing.assert_close(out, by_hand(network, z, image, way, said))
    out.square().sum().backward()

    def moved(*parameters):
        return any(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)

    heard = cond.grad[:, :3].abs().amax((1, 2, 3))
    assert (heard > 0).all() if way != "none" else (heard == 0).all()
    assert moved(*network.encoder.parameters()) == (way == "features")
    assert moved(*network.modulator.parameters()) == (way == "film")
    entered = network.unet.enter.weight.grad.abs().amax((0, 2, 3)).split([12, 12, 24])
    assert entered[0].min() > 0
    assert (entered[1].min() > 0) == (entered[1].max() > 0) == (way in STACKED)
    assert (entered[2].max() > 0) == (way == "features")
    assert network.told.weight.grad[:, FACE_WAYS.index(way)].abs().max() > 0


def test_ways_with_one_path_differ_by_the_word_for_the_way_alone():
    network, z, image = small(), draw(2, 3, 32, 32), 2 * pictures() - 1
    answers = {way: network(z, LEVEL, told(way, image)) for way in STACKED}
    assert not torch.allclose(answers["concat"], answers["reference"])
    i, j = FACE_WAYS.index("concat"), FACE_WAYS.index("reference")
    weight = network.told.weight.data
    weight[:, [i, j]] = weight[:, [j, i]].clone()
    torch.testing.assert_close(network(z, LEVEL, told("concat", image)), answers["reference"])
    torch.testing.assert_close(network(z, LEVEL, told("reference", image)), answers["concat"])


@pytest.mark.parametrize("way", ["none", "concat", "film"])
def test_every_phrase_is_heard(way):
    """One image told nothing and one told a phrase, for each: every column of the layer counts, and batch mates do not."""
    network, count = small(), len(PHRASES)
    z, image = draw(1, 3, 32, 32).expand(count, -1, -1, -1), (2 * pictures(count=1) - 1).expand(count, -1, -1, -1)
    level = LEVEL[:1].expand(count)
    out = network(z, level, told(way, image, torch.eye(count)))
    silent = network(z[:1], level[:1], told(way, image[:1]))
    assert ((out - silent).abs().amax((1, 2, 3)) > 1e-6).all()
    assert torch.pdist(out.flatten(1)).min() > 1e-6, "no two phrases are one"


def listens(network):
    """Whether every way of telling the image, and the words, change the answer."""
    z, image = draw(2, 3, 32, 32), 2 * pictures() - 1
    said = words(["smiling, red hat", "glasses"])
    for way in TOLD:
        here, there = (network(z, LEVEL, told(way, x, said)) for x in (image, image.flip(3)))
        if torch.allclose(here, there) or torch.allclose(here, network(z, LEVEL, told(way, image))):
            return False
    return True


def silence(part):
    """Mutants: a part whose answer is dropped on the way."""
    network = small()
    if part == "words and way":
        network.told = torch.nn.Linear(len(FACE_WAYS) + len(PHRASES), 16).double().requires_grad_(False)
        torch.nn.init.zeros_(network.told.weight)
    elif part == "modulation":
        heard = network.modulator.forward
        network.modulator.forward = lambda *seen: [(0 * gain, 0 * shift) for gain, shift in heard(*seen)]
    elif part == "features":
        network.encoder.forward = lambda lr: torch.zeros(len(lr), 24, *lr.shape[2:]).double()
    else:
        network.unet.enter.weight.data[:, 12:24] = 0
    return network


@pytest.mark.parametrize("part", ["words and way", "modulation", "features", "stack"])
def test_a_condition_dropped_silently_is_seen(part):
    assert not listens(silence(part))


def test_every_condition_is_heard():
    assert listens(small())


def test_a_fresh_network_says_nothing_until_it_learns_and_then_hears_every_way():
    """At the start everything is behind zeros; a little noise on the zeros must be enough to make every way count."""
    torch.manual_seed(0)
    network = ConditionedUNet(channels=(6, 8), blocks=1, embedding=16).double().requires_grad_(False)
    z = draw(2, 3, 32, 32)
    assert (network(z, LEVEL, told("concat", 2 * pictures() - 1)) == 0).all()
    source = Generator().manual_seed(0)
    for p in network.parameters():
        if (p == 0).all():
            p += 0.1 * torch.randn(p.shape, generator=source, dtype=p.dtype)
    assert listens(network)


def test_ways_mix_in_a_batch_and_mates_do_not_matter():
    network, count = small(), len(FACE_WAYS)
    z, image = draw(count, 3, 32, 32), 2 * pictures(count=count) - 1
    level = torch.linspace(-2, 2, count, dtype=torch.float64)
    cond = torch.cat([told(way, image[i : i + 1]) for i, way in enumerate(FACE_WAYS)])
    together = network(z, level, cond)
    for i in range(count):
        torch.testing.assert_close(together[i : i + 1], network(z[i : i + 1], level[i : i + 1], cond[i : i + 1]))


def test_faces_of_another_shape_pass():
    network, z, image = small(), draw(1, 3, 16, 24), draw(1, 3, 16, 24, seed=2)
    for way in FACE_WAYS:
        assert network(z, LEVEL[:1], told(way, image)).shape == z.shape


def test_a_denoiser_takes_the_condition():
    denoiser = NetworkDenoiser(small().float())
    z, cond = draw(2, 3, 32, 32).float(), face_condition("concat", pictures().float(), words(["smiling", "bun"]))
    assert not torch.allclose(denoiser(z, 0.5, cond), denoiser(z, 0.5, face_condition("none", count=2)))


# ------------------------------------------------------------------------------------------- adapter on a frozen prior


def adapted(fidelity=1.0, awake=True):
    prior = wake(UNet(3, 3, 0, (6, 8), 1, fold=2, embedding=16))
    adapter = Modulator((6, 8), fold=2, width=5, embedding=16).double()
    return AdaptedUNet(prior, wake(adapter) if awake else adapter, fidelity), prior


def test_without_fidelity_or_training_an_adapted_prior_is_the_prior_bit_for_bit():
    z, cond = draw(2, 3, 32, 32), draw(2, 3, 32, 32, seed=2)
    for fidelity, awake in ((0.0, True), (1.0, False), (0.4, False)):
        network, prior = adapted(fidelity, awake)
        assert torch.equal(network(z, LEVEL, cond), prior(z, LEVEL))


def test_fidelity_multiplies_gains_and_shifts():
    z, cond = draw(2, 3, 32, 32), draw(2, 3, 32, 32, seed=2)
    answers = {}
    for fidelity in (0.0, 0.5, 1.0):
        network, prior = adapted(fidelity)
        pairs = [(fidelity * gain, fidelity * shift) for gain, shift in network.adapter(cond, LEVEL)]
        answers[fidelity] = network(z, LEVEL, cond)
        torch.testing.assert_close(answers[fidelity], prior(z, LEVEL, modulation=pairs))
    near, far = ((answers[f] - answers[0.0]).square().mean() for f in (0.5, 1.0))
    assert 0 < near < far
    torch.testing.assert_close(network(z[1:], LEVEL[1:], cond[1:]), answers[1.0][1:])
    assert not torch.allclose(network(z, LEVEL, cond.flip(3)), answers[1.0])


def test_no_gradient_reaches_the_prior_and_every_weight_of_the_adapter_gets_one():
    network, prior = adapted()
    network(draw(2, 3, 32, 32), LEVEL, draw(2, 3, 32, 32, seed=2)).square().sum().backward()
    assert all(not p.requires_grad and p.grad is None for p in prior.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.adapter.parameters())


@pytest.mark.parametrize("channels", [(3,), (6, 8), (4, 5, 7)])
def test_pairs_fit_the_levels_of_the_prior(channels):
    modulator = wake(Modulator(channels, fold=2, width=5, embedding=16))
    image = draw(2, 3, 32, 48)
    pairs = modulator(image, LEVEL)
    for i, (count, (gain, shift)) in enumerate(zip(channels, pairs, strict=True)):
        assert gain.shape == shift.shape == (2, count, 16 >> i, 24 >> i)
        assert not torch.allclose(gain, shift)
    for ours, alone, later in zip(pairs, modulator(image[1:], LEVEL[1:]), modulator(image, LEVEL + 0.5), strict=True):
        torch.testing.assert_close(ours[0][1:], alone[0])
        assert not torch.allclose(ours[0], later[0]), "the noise level is told"
    for gain, shift in Modulator(channels, fold=2)(image.float(), LEVEL.float()):
        assert (gain == 0).all() and (shift == 0).all()


def test_bad_adapters_are_named():
    network, prior = adapted()
    for fidelity in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"fidelity must lie in \[0, 1\], but"):
            AdaptedUNet(prior, network.adapter, fidelity)
    with pytest.raises(ValueError, match="cond and z must have the same shape"):
        network(draw(2, 3, 32, 32), LEVEL, draw(2, 3, 8, 8))
    with pytest.raises(ValueError, match="modulation must hold 2 pairs, one a level, but 3 came"):
        AdaptedUNet(prior, Modulator((6, 8, 8), 2, 5, 16).double())(draw(2, 3, 32, 32), LEVEL, draw(2, 3, 32, 32))
