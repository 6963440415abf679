"""The command line: pixels against the functions it calls, and one line for everything a user can get wrong."""

from __future__ import annotations

import subprocess
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tutorial_lib import cli, super_resolution
from tutorial_lib.image_files import load_with_bits
from tutorial_lib.images import load, resize, save
from tutorial_lib.pretrained import MODEL_CARDS


def picture(channels=3, height=6, width=9, seed=0):
    """A smooth random image, so that bicubic hardly overshoots."""
    noise = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(seed))
    return 0.2 + 0.6 * noise


def bicubic(images, scale=4):
    return resize(images, scale).clamp(0, 1)


def fake_super_resolve(lr, method="residual-diffusion", scale=4, seed=0, steps=None, progress=False):
    """Bicubic plus a grain that depends on the seed, the same in every channel (steps scales it)."""
    sr = bicubic(lr, scale)
    if method == "bicubic":
        return sr
    grain = torch.randn(1, 1, *sr.shape[-2:], generator=torch.Generator().manual_seed(seed))
    return (sr + 0.02 * (steps or 1) * grain).clamp(0, 1)


@pytest.fixture
def faked(monkeypatch):
    monkeypatch.setattr(super_resolution, "super_resolve", fake_super_resolve)


def upscale(*arguments):
    return cli.main(["upscale", *map(str, arguments)])


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def close(path, expected, bits=8):
    """The file holds `expected` to the rounding of its bits."""
    images, found = load_with_bits(path)
    assert found == bits
    torch.testing.assert_close(images, expected.clamp(0, 1), rtol=0, atol=0.5001 / (2**bits - 1) + 1e-6)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_upscale_keeps_channels_and_bits(tmp_path, channels, bits, suffix):
    save(picture(channels), tmp_path / f"in{suffix}", bits)
    assert upscale(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", "--method", "bicubic", "--scale", 3) == 0
    close(tmp_path / f"out{suffix}", bicubic(load(tmp_path / f"in{suffix}"), 3), bits)


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (3, 5), (1, 7), (8, 4)])
def test_upscale_takes_any_size(tmp_path, size):
    save(picture(3, *size), tmp_path / "in.png")
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--method", "bicubic") == 0
    close(tmp_path / "out.png", bicubic(load(tmp_path / "in.png")))


def test_sixteen_bits_become_eight_where_the_format_has_no_more(tmp_path):
    save(picture(), tmp_path / "in.png", 16)
    assert upscale(tmp_path / "in.png", tmp_path / "out.jpg", "--method", "bicubic") == 0
    images, bits = load_with_bits(tmp_path / "out.jpg")
    assert bits == 8 and images.shape == (1, 3, 24, 36)


def test_colours_go_through_the_method_and_alpha_through_bicubic(tmp_path, faked):
    save(picture(4), tmp_path / "in.png", 16)
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--seed", 5, "--steps", 3) == 0
    source = load(tmp_path / "in.png")
    colour = fake_super_resolve(source[:, :3], seed=5, steps=3)
    close(tmp_path / "out.png", torch.cat([colour, bicubic(source[:, 3:])], 1), 16)
    assert (colour - bicubic(source[:, :3])).abs().max() > 0.05  # the method did something that alpha did not get


def test_grey_goes_through_the_method_as_rgb(tmp_path, faked):
    save(picture(1), tmp_path / "in.png", 16)
    assert upscale(tmp_path / "in.png", tmp_path / "out.png") == 0
    source = load(tmp_path / "in.png")
    close(tmp_path / "out.png", fake_super_resolve(source.expand(1, 3, 6, 9))[:, :1], 16)


def test_orientation_is_applied_before_upscaling(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "in.png", exif=exif)
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--method", "bicubic") == 0
    upright = torch.tensor(np.rot90(pixels, -1).copy()).permute(2, 0, 1)[None] / 255
    close(tmp_path / "out.png", bicubic(upright))
    assert Image.open(tmp_path / "out.png").getexif().get(0x0112) is None


def test_samples_differ_and_their_mean_and_spread_are_written(tmp_path, faked, capsys):
    save(picture(4), tmp_path / "in.png", 16)
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--samples", 3, "--seed", 7) == 0
    assert names(tmp_path) == ["in.png", "out-1.png", "out-2.png", "out-3.png", "out-mean.png", "out-std.png"]
    source = load(tmp_path / "in.png")
    answers = torch.cat([fake_super_resolve(source[:, :3], seed=seed) for seed in (7, 8, 9)])
    alpha = bicubic(source[:, 3:])
    for index, answer in enumerate(answers):
        close(tmp_path / f"out-{index + 1}.png", torch.cat([answer[None], alpha], 1), 16)
    close(tmp_path / "out-mean.png", torch.cat([answers.mean(0, keepdim=True), alpha], 1), 16)
    spread = answers.std(0, keepdim=True).square().mean(1, keepdim=True).sqrt()
    images, _ = load_with_bits(tmp_path / "out-std.png")
    torch.testing.assert_close(images * spread.max(), spread, rtol=0, atol=1e-5)
    assert f"white is {spread.max():.4f}" in capsys.readouterr().out


def test_same_seed_same_file_and_the_first_sample_is_the_single_answer(tmp_path, faked):
    save(picture(), tmp_path / "in.png")
    for name, options in {"a": (), "b": (), "c": ("--samples", 2), "d": ("--seed", 1)}.items():
        assert upscale(tmp_path / "in.png", tmp_path / f"{name}.png", *options) == 0
    a, b, first, second, other = ((tmp_path / f"{n}.png").read_bytes() for n in ("a", "b", "c-1", "c-2", "d"))
    assert a == b == first and second == other and a != second


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_compare_puts_nearest_bicubic_and_method_side_by_side(tmp_path, faked, channels):
    save(picture(channels), tmp_path / "in.png", 16)
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--compare", "--scale", 2) == 0
    assert names(tmp_path) == ["in.png", "out-compare.png", "out.png"]
    source = load(tmp_path / "in.png")
    nearest = torch.tensor(np.kron(source.numpy(), np.ones((2, 2), np.float32)))
    expected = torch.cat([nearest, bicubic(source, 2), load(tmp_path / "out.png")], -1)
    close(tmp_path / "out-compare.png", expected, 16)


@pytest.mark.parametrize("scale", [1.43, 2.25, 3.33])
def test_scales_between_whole_numbers(tmp_path, scale):
    from PIL import Image

    save(picture(3), tmp_path / "in.png")
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--method", "bicubic", "--scale", scale, "--compare") == 0
    source = load(tmp_path / "in.png")
    expected = bicubic(source, scale)
    close(tmp_path / "out.png", expected)
    height, width = expected.shape[-2:]
    coordinates = (1 / scale, 0, 0, 0, 1 / scale, 0)
    nearest = Image.open(tmp_path / "in.png").transform((width, height), Image.Transform.AFFINE, coordinates)
    shown = load(tmp_path / "out-compare.png")[..., :width]
    inside = (
        slice(None),
        slice(None),
        slice(0, int(source.shape[-2] * scale)),
        slice(0, int(source.shape[-1] * scale)),
    )
    expected = torch.tensor(np.asarray(nearest)).movedim(-1, 0)[None].float() / 255
    torch.testing.assert_close(shown[inside], expected[inside])


@pytest.mark.parametrize("scale", ["0", "-2", "nan", "inf", "many"])
def test_scales_that_are_no_positive_number(tmp_path, capsys, scale):
    with pytest.raises(SystemExit):
        upscale(tmp_path / "in.png", tmp_path / "out.png", "--scale", scale)
    assert f"must be a positive number, but '{scale}' came" in capsys.readouterr().err


def test_folder_in_folder_out(tmp_path, capsys):
    photos = tmp_path / "in"
    photos.mkdir()
    save(picture(3), photos / "a.png")
    save(picture(1), photos / "b.TIF", 16)
    (photos / "notes.txt").write_text("not an image")
    assert upscale(photos, tmp_path / "out", "--method", "bicubic") == 0
    assert names(tmp_path / "out") == ["a.png", "b.TIF"]
    close(tmp_path / "out" / "b.TIF", bicubic(load(photos / "b.TIF")), 16)
    (photos / "c.png").write_bytes(b"broken")
    assert upscale(photos, tmp_path / "out", "--method", "bicubic") == 2
    error = capsys.readouterr().err.splitlines()
    assert "c.png is not an image" in error[0] and error[1] == "2 of 3 images were upscaled"
    assert names(tmp_path / "out") == ["a.png", "b.TIF"]


def bad_inputs(folder):
    """name -> (arguments, what the line must say)."""
    save(picture(), folder / "good.png")
    save(picture(4), folder / "alpha.png")
    save(picture(), folder / "big.png")
    data = (folder / "big.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "text.png").write_text("I am not an image")
    Image.new("RGB", (1, 1)).save(folder / "one.png")
    (folder / "none.png").write_bytes(b"")
    bomb = bytearray(data)
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(bomb)
    (folder / "empty").mkdir()
    (folder / "file.txt").write_text("x")
    out = folder / "out.png"
    return {
        "missing file": ((folder / "no.png", out), "no such file"),
        "missing output folder": ((folder / "good.png", folder / "no" / "out.png"), "does not exist"),
        "unknown extension": ((folder / "good.png", folder / "out.xyz"), ".png, .jpg"),
        "no extension": ((folder / "good.png", folder / "out"), "missing"),
        "truncated": ((folder / "cut.png", out), "truncated"),
        "not an image": ((folder / "text.png", out), "not an image"),
        "bomb": ((folder / "bomb.png", out), "decompression bomb"),
        "one pixel": ((folder / "one.png", out), "two pixels"),
        "no bytes": ((folder / "none.png", out), "empty"),
        "unknown method": ((folder / "good.png", out, "--method", "bicubik"), "did you mean 'bicubic'"),
        "output is a folder": ((folder / "good.png", folder / "empty"), "is a folder"),
        "output is the input": ((folder / "good.png", folder / "good.png"), "IN itself"),
        "empty folder": ((folder / "empty", folder / "out"), "no image file"),
        "folder into file": ((folder, folder / "file.txt"), "is a file"),
        "folder into itself": ((folder, folder), "IN itself"),
        "folder into nowhere": ((folder, folder / "no" / "out"), "does not exist"),
        "alpha in JPEG": ((folder / "alpha.png", folder / "out.jpg"), "alpha"),
        "samples of one answer": ((folder / "good.png", out, "--method", "bicubic", "--samples", 2), "one answer"),
        "scale without weights": ((folder / "good.png", out, "--scale", 3), "scale"),
    }


def test_bad_input_is_one_line_status_2_and_no_file(tmp_path, capsys):
    for case, (arguments, message) in bad_inputs(tmp_path).items():
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
        assert upscale(*arguments) == 2, case
        output = capsys.readouterr()
        lines = output.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], (case, lines)
        assert output.out == "", case
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before, case


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["upscle"],
        ["upscale"],
        ["upscale", "a.png"],
        ["upscale", "a.png", "b.png", "--scale", "0"],
        ["upscale", "a.png", "b.png", "--scale", "two"],
        ["upscale", "a.png", "b.png", "--samples", "-1"],
        ["upscale", "a.png", "b.png", "--steps", "0"],
        ["upscale", "a.png", "b.png", "--seed", "x"],
        ["upscale", "a.png", "b.png", "--seed", "-1"],
        ["upscale", "a.png", "b.png", "--seed", str(2**70)],
        ["upscale", "a.png", "b.png", "--no-such-option"],
    ],
)
def test_wrong_arguments_take_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_unwritable_output_is_found_before_the_work(tmp_path, monkeypatch, capsys):
    save(picture(), tmp_path / "in.png")

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr(super_resolution, "super_resolve", None)  # would fail if it were called
    assert upscale(tmp_path / "in.png", tmp_path / "out.png") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'out.png'} cannot be written: Permission denied\n"
    assert names(tmp_path) == ["in.png"]


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nto allocate"), 2, "not enough memory"),
        (RuntimeError("photo.safetensors has\nSHA-256 1"), 2, "error: photo.safetensors has SHA-256 1"),
        (OSError(28, "No space left on device", "out.png"), 2, "error: out.png: No space left on device"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_failure_in_the_middle_leaves_no_file(tmp_path, monkeypatch, capsys, error, status, says):
    save(picture(), tmp_path / "in.png")

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(super_resolution, "super_resolve", fail)
    assert upscale(tmp_path / "in.png", tmp_path / "out.png") == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and says in lines[0]
    assert names(tmp_path) == ["in.png"]


def test_demo_writes_pictures_and_prints_the_table(tmp_path, faked, capsys, monkeypatch):
    hr = resize(picture(3, 8, 11), 8).clamp(0, 1)  # 64 x 88
    monkeypatch.setattr("tutorial_lib.images.photo", lambda name: hr)
    assert cli.main(["demo", "--out", str(tmp_path / "deep" / "out")]) == 0
    methods = ["bicubic", "regression", "residual-diffusion"]
    assert names(tmp_path / "deep" / "out") == sorted(
        f"{name}.png" for name in ["original", "low-resolution", "side-by-side", *methods]
    )
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:5]}
    assert list(rows) == ["original", *methods]
    sr = bicubic(load(tmp_path / "deep" / "out" / "low-resolution.png"))
    from skimage.metrics import peak_signal_noise_ratio

    luma = [
        (image[0, :, 4:-4, 4:-4].double() * torch.tensor([65.481, 128.553, 24.966])[:, None, None]).sum(0)
        for image in (hr, sr)
    ]
    expected = peak_signal_noise_ratio(luma[0].numpy(), luma[1].numpy(), data_range=255)
    assert float(rows["bicubic"][1]) == pytest.approx(expected, abs=0.011)
    assert float(rows["residual-diffusion"][3]) > float(rows["bicubic"][3])  # grain sharpens
    assert rows["original"][:2] == ["-", "-"]
    sheet = load(tmp_path / "deep" / "out" / "side-by-side.png")
    assert sheet.shape[-1] > 4 * 88 and sheet.shape[-2] > 64


def test_unknown_photo_is_one_line(capsys, tmp_path):
    assert cli.main(["demo", "--photo", "chelsee", "--out", str(tmp_path)]) == 2
    assert "did you mean 'chelsea'" in capsys.readouterr().err


def test_benchmark_prints_means_and_where_the_full_tables_are(faked, capsys):
    assert cli.main(["benchmark"]) == 0
    out = capsys.readouterr().out
    assert "benchmarks/quality.py" in out and all(method in out for method in super_resolution.METHODS)


@pytest.fixture
def training(monkeypatch):
    """Recipes and a `fit` that only notes how it was called and makes 10 steps of a recipe of `steps`."""
    calls = []
    recipe = SimpleNamespace(name="tiny", steps=10)
    monkeypatch.setattr("tutorial_lib.recipes.RECIPES", {"tiny": lambda: recipe})

    def fit(recipe, out, resume, minutes):
        calls.append((recipe.name, out, resume, minutes))
        out.mkdir(parents=True, exist_ok=True)
        (out / "state.safetensors").write_bytes(b"state")
        return SimpleNamespace(step=10, checkpoint=out / "state.safetensors")

    def export(recipe, state, folder):
        path = folder / f"{recipe.name}.safetensors"
        path.write_bytes(state.read_bytes())
        return path

    monkeypatch.setattr("tutorial_lib.training.fit", fit)
    monkeypatch.setattr("tutorial_lib.training.export", export)
    return SimpleNamespace(calls=calls, recipe=recipe)


def test_train_writes_weights_and_does_not_start_over_by_accident(tmp_path, training, capsys):
    out = tmp_path / "run"
    assert cli.main(["train", "tiny", "--out", str(out)]) == 0
    assert names(out) == ["state.safetensors", "tiny.safetensors"]
    assert cli.main(["train", "tiny", "--out", str(out)]) == 2
    assert "--resume" in capsys.readouterr().err
    training.recipe.steps = 20
    (out / "tiny.safetensors").unlink()
    assert cli.main(["train", "tiny", "--out", str(out), "--resume", "--minutes", "0.5"]) == 0
    assert "step 10 of 20" in capsys.readouterr().out and names(out) == ["state.safetensors"]
    assert training.calls == [("tiny", out, False, None), ("tiny", out, True, 0.5)]
    assert cli.main(["train", "tinny"]) == 2
    assert "did you mean 'tiny'" in capsys.readouterr().err


def test_data_downloads_one_or_all(monkeypatch, capsys):
    from tutorial_lib.data import DATASETS

    asked = []

    def download(name, source=None, progress=False):
        asked.append((name, source))
        if name == "Set14":
            raise ConnectionError("the address could not be fetched")
        return "there"

    monkeypatch.setattr("tutorial_lib.data.download", download)
    assert cli.main(["data", "Set5", "--source", "a.zip"]) == 0
    assert asked == [("Set5", "a.zip")]
    assert cli.main(["data"]) == 2
    assert [name for name, _ in asked[1:]] == list(DATASETS)
    assert capsys.readouterr().err == "error: the address could not be fetched\n"
    assert cli.main(["data", "Set6"]) == 2
    assert cli.main(["data", "--source", "a.zip"]) == 2


def test_doctor_passes_its_status_on(monkeypatch, capsys):
    monkeypatch.setattr("tutorial_lib.doctor.examine", lambda: [("FAIL", "kernel", "gone")])
    assert cli.main(["doctor"]) == 1
    monkeypatch.setattr("tutorial_lib.doctor.examine", lambda: [("WARN", "data folder", "empty")])
    assert cli.main(["doctor"]) == 0
    assert "gone" in capsys.readouterr().out


def test_as_a_program(tmp_path):
    """python -m tutorial_lib: the exit status reaches the shell, and wrong arguments answer without loading torch."""
    command = [sys.executable, "-X", "importtime", "-m", "tutorial_lib", "upscale", "a.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tutorial_lib.cli" in loaded and "torch" not in loaded
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: ")


def test_import_stays_light(tmp_path):
    """Everything that `import tutorial_lib` or the modules of images load, beyond torch and numpy, loads on use."""
    heavy = (
        "matplotlib skimage sklearn scipy accelerate PIL tifffile imagecodecs IPython ipywidgets pandas diffusers tqdm"
    )
    code = (
        "import sys, torch; before = set(sys.modules); import tutorial_lib, tutorial_lib.cli, tutorial_lib.images;"
        f"print([m for m in {heavy.split()!r} if m in sys.modules and m not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not MODEL_CARDS, reason="no weights are installed")
def test_the_real_method_end_to_end(tmp_path, capsys):
    save(resize(picture(1, 3, 4), 4).clamp(0, 1), tmp_path / "in.png", 16)
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--steps", 2) == 0
    images, bits = load_with_bits(tmp_path / "out.png")
    assert images.shape == (1, 1, 48, 64) and bits == 16
    assert "%" in capsys.readouterr().err  # the progress bar
