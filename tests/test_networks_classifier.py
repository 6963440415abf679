"""The classifier of noisy faces: logits in the order of its attributes, and log probabilities that are log probabilities."""

from __future__ import annotations

import pytest
import torch
from test_networks import wake
from torch import Generator

from tutorial_lib.data import faces
from tutorial_lib.data.faces import NAMES
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.networks.classifier import CLASSIFIED, FaceClassifier, attribute_log_prob
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.schedules import vp_cosine

COLUMNS = {"glasses": (0, 3), "hat": (3, 6), "beard": (6, 8), "hair_color": (8, 13), "background": (13, 21)}


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CLASSIFIED)
def test_log_probabilities_by_hand(name):
    """exp, divide by the sum over the attribute's own columns, log; shifts of one attribute's logits change nothing."""
    logits, (first, end) = 3 * draw(4, 21), COLUMNS[name]
    found = attribute_log_prob(logits, name)
    own = logits[:, first:end].exp()
    torch.testing.assert_close(found, (own / own.sum(1, keepdim=True)).log())
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4, dtype=torch.float64))
    moved = logits.clone()
    moved[:, :first], moved[:, end:] = 7.0, -7.0
    torch.testing.assert_close(attribute_log_prob(moved, name), found)
    moved[:, first:end] += 100
    torch.testing.assert_close(attribute_log_prob(moved, name), found)
    assert torch.isfinite(attribute_log_prob(1000 * logits, name)).all(), "exp of large logits must not overflow"


def test_the_columns_are_the_words_of_the_attributes_in_a_row():
    assert tuple(COLUMNS) == CLASSIFIED
    assert {name: end - first for name, (first, end) in COLUMNS.items()} == {n: len(NAMES[n]) for n in CLASSIFIED}
    logits = torch.arange(21.0)[None]
    for name, (first, end) in COLUMNS.items():
        differences = attribute_log_prob(logits, name)[0] - logits[0, first:end]
        torch.testing.assert_close(differences, differences[:1].expand(end - first))
    swapped = torch.cat([logits[:, 3:6], logits[:, :3], logits[:, 6:]], 1)
    torch.testing.assert_close(attribute_log_prob(swapped, "hat"), attribute_log_prob(logits, "glasses"))


def test_logits_depend_on_face_and_level_and_not_on_batch_mates():
    network = wake(FaceClassifier((6, 8), 16))
    u, level = draw(3, 3, 32, 32), torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    logits = network(u, level)
    assert logits.shape == (3, 21) and logits.dtype == torch.float32  # whatever the network works in
    torch.testing.assert_close(network(u[1:], level[1:]), logits[1:])
    assert not torch.allclose(network(u, level + 0.5), logits)
    u.requires_grad_(True)
    log_prob = attribute_log_prob(network(u, level), "hat")[:, 1]
    slope = torch.autograd.grad(log_prob[1], u)[0]
    assert slope[1].abs().min() > 0 and (slope[[0, 2]] == 0).all(), "it looks at every pixel of its own face"


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="name must be one of .* did you mean 'glasses'"):
        attribute_log_prob(torch.zeros(1, 21), "glases")
    with pytest.raises(ValueError, match="name must be one of"):
        attribute_log_prob(torch.zeros(1, 21), "clothes")
    with pytest.raises(ValueError, match=r"u must hold faces of 32 x 32 pixels, .* \(1, 3, 16, 32\) came"):
        FaceClassifier((6, 8), 16)(torch.zeros(1, 3, 16, 32), torch.zeros(1))
    with pytest.raises(ValueError, match="u must have 3 channels"):
        FaceClassifier((6, 8), 16)(torch.zeros(1, 1, 32, 32), torch.zeros(1))


def test_the_shipped_classifier_reads_clean_faces_and_grows_unsure_with_noise():
    """Faces that nobody trained on. In pure noise the best answer is the shares of the words; a nat more is far too sure."""
    people, network = faces(256, 32, seed=77), load_pretrained("faces-classifier-32")
    states, noise = 2 * people.images - 1, torch.randn(256, 3, 32, 32, generator=Generator().manual_seed(0))
    told, schedule = NetworkDenoiser(network, "v"), vp_cosine()
    right, score, entropy = {}, {}, {}
    for t in (0.02, 0.6, 1.0):
        time = torch.tensor(t, dtype=torch.float64)
        z = schedule.alpha(time).float() * states + schedule.sigma(time).float() * noise
        logits = network(*told.inputs(z, time))
        for name in CLASSIFIED:
            log_p, truth = attribute_log_prob(logits, name), people.attributes[name]
            right[t, name] = (log_p.argmax(1) == truth).float().mean().item()
            score[t, name] = -log_p.gather(1, truth[:, None]).mean().item()
            shares = torch.bincount(truth, minlength=len(NAMES[name])) / 256
            entropy[name] = -torch.xlogy(shares, shares).sum().item()
    for name in CLASSIFIED:
        assert right[0.02, name] > 0.9, name
        assert score[0.02, name] < score[0.6, name] < score[1.0, name], name
        assert score[1.0, name] < entropy[name] + 1, name
