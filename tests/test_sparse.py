"""Sparse coding against codes that are known, against scikit-learn and against loops; and what its pictures must obey."""

from __future__ import annotations

import hashlib
import itertools
import json

import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import orthogonal_mp
from torch import Generator

from tutorial_lib import cli, recipes
from tutorial_lib.images import crop_to_multiple, photo, resize, to_uint8
from tutorial_lib.metrics import lr_consistency, psnr
from tutorial_lib.operators import Bicubic
from tutorial_lib.pretrained import load_pretrained, sparse_dictionary
from tutorial_lib.recipes import DirectRecipe, photos
from tutorial_lib.sparse import (
    CoupledDictionary,
    coded_planes,
    couple,
    details_of,
    differences,
    example_based,
    learn_atoms,
    learn_dictionary,
    overlap_mean,
    sparse_code,
    sparse_super_resolve,
    window_features,
)
from tutorial_lib.training import solve


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=dtype)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=Generator().manual_seed(seed))


def dense(chosen, weights, count):
    """Codes as rows of a (N, count) matrix."""
    return weights.new_zeros(len(weights), count).scatter_add_(1, chosen, weights)


# ----------------------------------------------------------------------------------------------------- sparse codes


@pytest.mark.parametrize(("dimension", "count", "nonzeros"), [(12, 40, 1), (12, 40, 4), (9, 9, 9), (16, 50, 7)])
def test_codes_of_unit_atoms_are_scikit_learns(dimension, count, nonzeros):
    atoms = torch.nn.functional.normalize(draw(count, dimension), dim=1)
    x = draw(60, dimension, seed=1)
    codes = dense(*sparse_code(x, atoms, nonzeros), count)
    expected = orthogonal_mp(atoms.T.numpy(), x.T.numpy(), n_nonzero_coefs=nonzeros)
    torch.testing.assert_close(codes, torch.from_numpy(expected).T, atol=1e-8, rtol=0)


def pursue(x, atoms, nonzeros, length):
    """One vector, step by step, with least squares by lstsq; `length` is what a correlation is divided by."""
    support = []
    residual = x
    for _ in range(nonzeros):
        score = (atoms @ residual).abs() / length
        score[support] = -1
        support.append(score.argmax().item())
        weights = torch.linalg.lstsq(atoms[support].T, x[:, None]).solution[:, 0]
        residual = x - weights @ atoms[support]
    code = torch.zeros(len(atoms), dtype=x.dtype)
    code[support] = weights
    return code


def test_atoms_may_have_any_length():
    atoms = draw(30, 10) * torch.linspace(0.2, 5, 30).double()[:, None]
    x = draw(40, 10, seed=1)
    codes = dense(*sparse_code(x, atoms, 3), 30)
    expected = torch.stack([pursue(row, atoms, 3, atoms.norm(dim=1)) for row in x])
    torch.testing.assert_close(codes, expected, atol=1e-10, rtol=0)
    forgotten = torch.stack([pursue(row, atoms, 3, 1.0) for row in x])
    assert ((codes != 0) == (forgotten != 0)).all(1).float().mean() < 0.5, "a norm that is forgotten must be seen"


def test_the_support_is_the_best_of_all_where_atoms_are_orthogonal():
    atoms = torch.linalg.qr(draw(7, 7)).Q * torch.tensor([0.1, 3, 1, 0.5, 2, 7, 1]).double()[:, None]
    for x in draw(5, 7, seed=1):
        chosen, _ = sparse_code(x[None], atoms, 3)
        errors = {}
        for support in itertools.combinations(range(7), 3):
            basis = atoms[list(support)].T
            errors[support] = (x - basis @ torch.linalg.lstsq(basis, x[:, None]).solution[:, 0]).norm().item()
        assert tuple(sorted(chosen[0].tolist())) == min(errors, key=errors.get)


def test_what_needs_fewer_atoms_gets_zeros():
    atoms = draw(6, 5)
    atoms[3] = atoms[1]  # twice the same
    x = torch.stack([2 * atoms[1], torch.zeros(5).double(), -1e-9 * atoms[4]])
    chosen, weights = sparse_code(x, atoms, 4)
    assert chosen[0, 0] in (1, 3) and chosen[2, 0] == 4
    expected = torch.tensor([[2.0, 0, 0, 0], [0, 0, 0, 0], [-1e-9, 0, 0, 0]]).double()
    torch.testing.assert_close(weights, expected, atol=1e-14, rtol=1e-6)
    assert torch.isfinite(sparse_code(x.float(), atoms.float(), 4)[1]).all()


def test_many_vectors_are_coded_like_one(monkeypatch):
    atoms, x = draw(20, 8), draw(50, 8, seed=1)
    whole = sparse_code(x, atoms, 3)
    monkeypatch.setattr("tutorial_lib.sparse.CHUNK", 7)
    parts = sparse_code(x, atoms, 3)
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], parts[1])


# ------------------------------------------------------------------------------------- a known pair of dictionaries


def hadamard(n):
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < n:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / n**0.5


LOW = torch.cat([torch.eye(16, dtype=torch.float64), hadamard(16)])  # coherence 1/4: codes of two atoms are found
HIGH = draw(32, 25, seed=5)


def known_codes(count, seed):
    generator = Generator().manual_seed(seed)
    support = torch.stack([torch.randperm(32, generator=generator)[:2] for _ in range(count)])
    weights = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return torch.zeros(count, 32, dtype=torch.float64).scatter_(1, support, weights + weights.sign())


def test_codes_of_a_known_dictionary_are_found_and_give_the_details_exactly():
    codes, fresh = known_codes(400, 0), known_codes(100, 1)
    torch.testing.assert_close(dense(*sparse_code(codes @ LOW, LOW, 2), 32), codes, atol=1e-12, rtol=0)
    high = couple(codes @ LOW, codes @ HIGH, LOW, 2, ridge=1e-13)
    torch.testing.assert_close(high, HIGH, atol=1e-9, rtol=0)
    guess = details_of(*sparse_code(fresh @ LOW, LOW, 2), high)
    torch.testing.assert_close(guess, fresh @ HIGH, atol=1e-8, rtol=0)
    uncoupled = details_of(*sparse_code(fresh @ LOW, LOW, 2), high.roll(1, 0))
    assert (uncoupled - fresh @ HIGH).norm() > 0.5 * (fresh @ HIGH).norm(), "atoms that lost their partner must be seen"


def test_the_details_are_the_best_that_the_codes_allow():
    """Without noise-free codes too: no other HR atoms have a smaller error, and the ridge pulls them towards zero."""
    x, details = draw(300, 16), draw(300, 25, seed=1)
    codes = dense(*sparse_code(x, LOW, 3), 32)
    expected = torch.linalg.lstsq(codes, details).solution
    torch.testing.assert_close(couple(x, details, LOW, 3, ridge=1e-13), expected, atol=1e-8, rtol=0)
    assert couple(x, details, LOW, 3, ridge=1.0).norm() < 0.8 * expected.norm()


def test_learned_atoms_are_the_ones_that_the_data_were_made_of():
    generator = Generator().manual_seed(0)
    which = torch.randint(32, (2000,), generator=generator)
    x = (LOW[which] * torch.randn(2000, 1, generator=generator, dtype=torch.float64)).float()
    atoms = learn_atoms(x + 1e-3 * draw(2000, 16, seed=2, dtype=torch.float32), 130)
    torch.testing.assert_close(atoms.norm(dim=1), torch.ones(130), atol=1e-5, rtol=0)
    cosine = (atoms.double() @ LOW.T).abs()
    assert cosine.max(1).values.min() > 0.98 and cosine.max(0).values.min() > 0.999


# ------------------------------------------------------------------------------------------- windows of a picture


@pytest.mark.parametrize(("scale", "window"), [(4, 3), (2, 3), (3, 2), (4, 1)])
def test_features_are_differences_of_the_bicubic_picture_in_a_window(scale, window):
    """Far from the border, pixel by pixel: entry [i, j] is the window that starts at LR pixel (i, j) - (window - 1)."""
    plane = draw(1, 1, 14, 13)
    up = resize(plane, scale)[0, 0]
    size = scale * window
    features = window_features(plane, torch.eye(4 * size**2, dtype=torch.float64), scale, window)
    assert features.shape[-2:] == (14 + window - 1, 13 + window - 1)
    top, left = 5, 6
    expected = []
    for dy, dx in ((0, scale), (scale, 0)):
        for second in (False, True):
            for y, x in itertools.product(
                range(top * scale, top * scale + size), range(left * scale, left * scale + size)
            ):
                step = up[y + dy, x + dx] - up[y, x]
                expected.append((step + up[y - dy, x - dx] - up[y, x]) / 2 if second else step)
    expected = torch.stack(expected).view(4, -1)[[0, 2, 1, 3]].flatten()
    found = features[0, :, top + window - 1, left + window - 1]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("height", "width", "scale", "window"), [(3, 5, 4, 3), (1, 1, 4, 3), (4, 2, 2, 2), (2, 3, 3, 1)]
)
def test_overlaps_are_averaged(height, width, scale, window):
    size = scale * window
    count = (height + window - 1) * (width + window - 1)
    patches = draw(count, size**2)
    total = torch.zeros(height * scale, width * scale, dtype=torch.float64)
    times = torch.zeros_like(total)
    for n, patch in enumerate(patches):
        i, j = divmod(n, width + window - 1)
        for y, x in itertools.product(range(size), range(size)):
            row, column = (i - window + 1) * scale + y, (j - window + 1) * scale + x
            if 0 <= row < height * scale and 0 <= column < width * scale:
                total[row, column] += patch.view(size, size)[y, x]
                times[row, column] += 1
    torch.testing.assert_close(overlap_mean(patches, height, width, scale, window)[0, 0], total / times)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_differences_of_constant_pictures_are_zero(channels):
    planes = coded_planes(torch.full((2, channels, 4, 3), 0.7, dtype=torch.float64))
    assert len(planes) == (2 if channels == 3 else 2 * channels)
    torch.testing.assert_close(planes, torch.full_like(planes, 0.7))
    assert differences(planes, 4, 3).abs().max() < 1e-14


# ---------------------------------------------------------------------------------------------------- super-resolution


def photo_pair(name, size=96):
    image = photo(name)
    top, left = ((n - size) // 2 for n in image.shape[-2:])
    hr = image[..., top : top + size, left : left + size]
    return resize(hr, 1 / 4), hr


@pytest.fixture(scope="module")
def learned():
    return learn_dictionary([photo_pair(n, 192) for n in ("astronaut", "coffee", "china")], atoms=64, patches=1500)


def test_a_dictionary_learned_from_photos_helps_on_another(learned):
    lr, hr = photo_pair("coins", 192)
    answers = {"sparse": sparse_super_resolve(lr, learned), "consistent": Bicubic(4).pinv(lr), "bicubic": resize(lr, 4)}
    score = {name: psnr(sr.clamp(0, 1), hr, crop=4).item() for name, sr in answers.items()}
    assert score["sparse"] > score["consistent"] + 0.15 > score["bicubic"] + 0.4
    uncoupled = CoupledDictionary(4, 3, 64, 32, 3)
    uncoupled.load_state_dict(learned.state_dict() | {"high": learned.high.roll(1, 0)})
    assert psnr(sparse_super_resolve(lr, uncoupled), hr, crop=4).item() < score["consistent"]


def test_learning_depends_on_the_seed_alone():
    pairs = [photo_pair("coffee")]
    first, again, other = (learn_dictionary(pairs, atoms=16, patches=300, seed=s) for s in (0, 0, 1))
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert not torch.equal(value, other.state_dict()[name])
    assert not first.training and not any(p.requires_grad for p in first.parameters())
    torch.testing.assert_close(first.analysis @ first.analysis.T, torch.eye(32), atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_downsampling_gives_the_lr_image_back(learned, channels):
    lr = 0.4 + 0.2 * uniform(2, channels, 7, 9)
    sr = sparse_super_resolve(lr, learned)
    assert (Bicubic(4)(sr) - lr).abs().max() < 1e-5 and sr.min() > 0 and sr.max() < 1, "nothing was clipped"
    assert (Bicubic(4)(resize(lr, 4)) - lr).abs().max() > 1e-2, "which bicubic does not"


def test_brightness_and_contrast_pass_through(learned):
    """Features do not see the mean and codes are homogeneous, so f(a x + b) = a f(x) + b."""
    lr = 0.3 + 0.2 * uniform(1, 3, 8, 6)
    sr = sparse_super_resolve(lr, learned)
    torch.testing.assert_close(sparse_super_resolve(0.5 * lr + 0.3, learned), 0.5 * sr + 0.3, atol=1e-4, rtol=0)
    details = sr - resize(lr, 4)
    moved = sparse_super_resolve(lr + 0.3, learned) - resize(lr, 4)
    assert (moved - details).mean().item() == pytest.approx(0.3, abs=1e-4)


def test_colour_keeps_its_chroma(learned):
    """The luma's details are the same for three channels, so differences of channels know nothing of them."""
    lr = 0.4 + 0.2 * uniform(1, 3, 8, 6)
    sr = sparse_super_resolve(lr, learned)
    difference = lr[:, :1] - lr[:, 1:2]
    torch.testing.assert_close(sr[:, :1] - sr[:, 1:2], Bicubic(4).pinv(difference), atol=1e-5, rtol=0)
    grey = sparse_super_resolve(lr[:, :1], learned)
    torch.testing.assert_close(
        sparse_super_resolve(lr[:, :1].expand(-1, 3, -1, -1), learned)[:, 1:2], grey, atol=1e-4, rtol=0
    )


METHODS = {
    "sparse": sparse_super_resolve,
    "examples": lambda lr, _: example_based(lr, [photo_pair("coffee")], patches=200),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 1, 1, 6), (2, 2, 5, 2), (1, 5, 3, 3), (2, 3, 40, 3)])
def test_any_size_and_number_of_channels(learned, method, shape):
    lr = uniform(*shape)
    sr = METHODS[method](lr, learned)
    assert sr.shape == (*shape[:2], 4 * shape[2], 4 * shape[3])
    assert torch.isfinite(sr).all() and sr.min() >= 0 and sr.max() <= 1
    for i in range(len(lr)):
        assert torch.equal(METHODS[method](lr[i : i + 1], learned), sr[i : i + 1]), (
            "an image depends on its batch mates"
        )


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_without_details_it_is_the_pseudo_inverse(channels, scale):
    """A^+ takes A's part of every picture, and bicubic has no other: a mean that was not added back would come back here."""
    silent = CoupledDictionary(scale, 3, 64, 32, 3)
    silent.load_state_dict(silent.state_dict() | {"low": draw(64, 32), "analysis": draw(*silent.analysis.shape)})
    lr, operator = 0.4 + 0.2 * uniform(2, channels, 6, 5), Bicubic(scale)
    torch.testing.assert_close(sparse_super_resolve(lr, silent), operator.pinv(lr), atol=1e-5, rtol=0)
    up = resize(lr, scale)
    torch.testing.assert_close(operator.pinv(operator(up)), up, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_black_and_white_stay_black_and_white(learned, channels):
    for value in (0.0, 0.5, 1.0):
        flat = torch.full((1, channels, 4, 5), value)
        torch.testing.assert_close(sparse_super_resolve(flat, learned), torch.full((1, channels, 16, 20), value))


def test_other_scales_come_from_the_dictionary():
    hr = photo_pair("coffee")[1]
    dictionary = learn_dictionary([(resize(hr, 1 / 2), hr)], scale=2, atoms=24, features=20, patches=500)
    lr = resize(photo_pair("chelsea")[1], 1 / 2)
    sr = sparse_super_resolve(lr, dictionary)
    assert sr.shape == (1, 3, 96, 96) and lr_consistency(sr, lr, 2).item() > 50


# ------------------------------------------------------------------------------------------------------- examples


def test_a_photo_among_its_own_examples_comes_back():
    """With every window of the photo drawn, the nearest is the window itself; near the border windows lie half outside."""
    lr, hr = photo_pair("coffee", 64)
    pairs = [(lr[:, :1], hr[:, :1])]
    sr = example_based(lr[:, :1], pairs, patches=6000)  # 196 windows: all but certainly every one is drawn
    inner = slice(20, -20)
    assert (sr - hr[:, :1])[..., inner, inner].abs().max() < 2e-3
    assert (resize(lr[:, :1], 4) - hr[:, :1])[..., inner, inner].abs().max() > 0.05


def test_examples_give_their_details_at_the_contrast_that_is_asked_for():
    lr, hr = photo_pair("coffee", 64)
    same = (0.25 * lr[:, :1] + 0.5, 0.25 * hr[:, :1] + 0.5)
    pairs = [tuple(1 - image for image in same), same]  # what points the opposite way is not similar
    sr = example_based(lr[:, :1], pairs, patches=6000, floor=1e-6)
    assert (sr - hr[:, :1])[..., 20:-20, 20:-20].abs().max() < 5e-3


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sparse_code(draw(3, 4), draw(6, 5), 2), r"one D, but they are \(3, 4\) and \(6, 5\)"),
        (
            lambda: sparse_code(draw(3, 4), draw(6, 4), 5),
            "nonzeros must be at most 4 for 6 atoms of 4 features, but 5 came",
        ),
        (lambda: sparse_code(draw(3, 4), draw(6, 4), 0), "nonzeros must be a whole number of at least 1, but 0 came"),
        (lambda: sparse_code(draw(3, 4), draw(6, 4) * (torch.arange(6) != 2)[:, None], 2), "zero, but atom 2 is"),
        (lambda: learn_atoms(draw(9, 4), 7), "7 atoms need at least 7 windows above the median contrast, but 5 came"),
        (lambda: CoupledDictionary(window=0), "window must be a whole number of at least 1, but 0 came"),
        (lambda: CoupledDictionary(atoms=2), "nonzeros must be at most 2 for 2 atoms of 32 features, but 3 came"),
        (lambda: CoupledDictionary(2, 1), "features must be at most 16 for 1 x 1 LR pixels at scale 2, but 32 came"),
        (lambda: example_based(uniform(1, 3, 8, 8), [], floor=0), "floor must be a positive number, but 0 came"),
        (lambda: example_based(uniform(1, 3, 8, 8), [], scale=0), "scale must be a whole number"),
        (lambda: learn_dictionary([]), "at least one .lr, hr., but it is empty"),
        (lambda: learn_dictionary([(uniform(1, 3, 8, 8), uniform(1, 3, 16, 16))]), r"\(1, C, 4h, 4w\)"),
        (lambda: learn_dictionary([(uniform(1, 3, 2, 8), uniform(1, 3, 8, 32))]), "h and w at least 3"),
        (lambda: learn_dictionary([(uniform(1, 3, 8, 8), uniform(1, 1, 32, 32))]), "hr must have 3 channels"),
        (lambda: example_based(uniform(1, 3, 8, 8), []), "at least one"),
        (lambda: sparse_super_resolve(uniform(3, 8, 8), sparse_dictionary()), "lr must have shape"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------- recipe and weights


def test_the_recipe_learns_a_dictionary_of_the_shape_that_is_shipped(monkeypatch, tmp_path):
    pairs = [tuple(to_uint8(image)[0] for image in photo_pair(name)) for name in ("astronaut", "coffee")]
    monkeypatch.setattr(photos, "training_pairs", lambda scale: pairs)
    monkeypatch.setattr("tutorial_lib.recipes.sparse.sparse_dictionary", lambda: CoupledDictionary(atoms=48))
    recipe = recipes.DIRECT_RECIPES["photo-sparse-x4"]()
    path = solve(recipe, tmp_path / "new")
    card = json.loads(path.with_suffix(".json").read_text())
    assert path.stem == card["name"] == "photo-sparse-x4" and card["data"] and card["recipe"]
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    network = CoupledDictionary(atoms=48)
    network.load_state_dict(load_file(path))
    assert card["parameters"] == sum(p.numel() for p in network.parameters())


def test_train_computes_a_direct_recipe_in_one_go(monkeypatch, tmp_path, capsys):
    tiny = DirectRecipe("tiny", lambda: CoupledDictionary(2, 1, 5, 4, 1))
    monkeypatch.setattr("tutorial_lib.recipes.DIRECT_RECIPES", {"tiny": lambda: tiny})
    assert cli.main(["train", "tiny", "--out", str(tmp_path / "run")]) == 0
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["tiny.json", "tiny.safetensors"]
    assert "in one go" not in capsys.readouterr().out
    assert cli.main(["train", "tiny", "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert "--resume and --minutes change nothing" in capsys.readouterr().out
    assert cli.main(["train", "tinny"]) == 2
    assert "did you mean 'tiny'" in capsys.readouterr().err


def test_the_shipped_dictionary_beats_consistent_bicubic():
    """On photos that it never saw; its atoms have length 1 but for the rounding to half precision."""
    dictionary = load_pretrained("photo-sparse-x4")
    torch.testing.assert_close(dictionary.low.norm(dim=1), torch.ones(len(dictionary.low)), atol=2e-3, rtol=0)
    for name in ("astronaut", "coffee", "camera", "coins"):
        hr = crop_to_multiple(photo(name), 4)[..., :256, :256]
        lr = to_uint8(resize(hr, 1 / 4)).float() / 255
        sr = sparse_super_resolve(lr, dictionary)
        consistent = Bicubic(4).pinv(lr).clamp(0, 1)
        assert psnr(sr, hr, crop=4).item() > psnr(consistent, hr, crop=4).item() + 0.3
        assert lr_consistency(sr, lr, 4).item() > 45
