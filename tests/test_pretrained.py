"""Shipped weights: present, small, described, checked before they are read."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tutorial_lib import pretrained
from tutorial_lib.files import sha256
from tutorial_lib.pretrained import MODEL_CARDS, NETWORKS, load_pretrained, weights_path

LIMITS = {
    "photo-regression-x4": 2_000_000,
    "photo-residual-x4": 4_000_000,
    "faces-unconditional-32": 2_500_000,
    "faces-distilled-32": 2_500_000,
    "faces-unconditional-64": 1_800_000,
    "photo-unconditional": 2_500_000,
    "digits-likelihood": 1_000_000,
    "photo-sparse-x4": 300_000,
    "photo-gan-x4": 2_000_000,
    "photo-flow-x4": 1_500_000,
    "photo-sr3-x4": 2_000_000,
    "photo-sr3-x2": 2_000_000,
    "faces-regression-x4": 1_000_000,
    "faces-gan-x4": 1_000_000,
    "faces-flow-x4": 1_500_000,
    "faces-sr3-x4": 1_500_000,
    "photo-srdiff-x4": 2_000_000,
    "photo-wavelet-x4": 2_000_000,
    "photo-autoencoder-x4": 1_500_000,
    "photo-latent-x4": 2_500_000,
    "photo-cold-x4": 1_000_000,
    "photo-continuous": 1_000_000,
    "faces-conditions-x4": 1_500_000,
    "faces-vae-x4": 500_000,
    "faces-adapter-x4": 300_000,
    "faces-classifier-32": 600_000,
    "faces-kl-32": 500_000,
    "faces-vq-32": 500_000,
}  # parameters


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_what_their_card_says(name):
    card, path = MODEL_CARDS[name], weights_path(name)
    assert sha256(path) == card["sha256"]
    assert path.stat().st_size <= 8_000_000
    network = load_pretrained(name)
    assert sum(p.numel() for p in network.parameters()) == card["parameters"] <= LIMITS[name]
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert all(torch.isfinite(p).all() for p in network.parameters())
    for key in ("data", "recipe", "command", "steps", "seconds", "machine", "licence", "quality"):
        assert card[key], key


def test_every_card_has_its_network():
    assert set(MODEL_CARDS) == set(NETWORKS)


def test_a_network_first_loaded_under_inference_mode_can_be_differentiated():
    load_pretrained.cache_clear()
    with torch.inference_mode():
        network = load_pretrained("digits-likelihood")
    z = torch.zeros(1, 1, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(network(z, torch.zeros(1)).sum(), z)
    assert slope.isfinite().all() and slope.any()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    name = "photo-regression-x4"
    shutil.copy(weights_path(name), tmp_path)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    load_pretrained.cache_clear()
    yield tmp_path / f"{name}.safetensors"
    load_pretrained.cache_clear()


def test_a_changed_file_is_refused(folder):
    content = bytearray(folder.read_bytes())
    content[-1] ^= 1
    folder.write_bytes(content)
    with pytest.raises(RuntimeError, match="its card says"):
        load_pretrained("photo-regression-x4")


def test_a_missing_file_names_the_command_that_rebuilds_it(folder):
    folder.unlink()
    with pytest.raises(FileNotFoundError, match="python -m tutorial_lib train photo-regression-x4"):
        load_pretrained("photo-regression-x4")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'photo-residual-x4'"):
        load_pretrained("photo-residual")


def test_cards_are_json_objects():
    for name in NETWORKS:
        assert json.loads(weights_path(name).with_suffix(".json").read_text()) == MODEL_CARDS[name]
