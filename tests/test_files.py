"""Files: what is written is read back, what is broken is refused in one line, and nothing is left half-written."""

from __future__ import annotations

import hashlib
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tutorial_lib.files import sha256, write_atomically
from tutorial_lib.image_files import MAX_PIXELS, SUFFIXES, check_output, load_with_bits
from tutorial_lib.images import load, save

COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}


def pixels_of(channels, bits=8, height=5, width=7, seed=0):
    """Random whole numbers (H, W, C), the extremes among them."""
    values = np.random.default_rng(seed).integers(0, 2**bits, (height, width, channels))
    values[0, 0], values[0, 1] = 0, 2**bits - 1
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def as_images(pixels, bits=8):
    return torch.from_numpy(pixels.astype(np.float64) / (2**bits - 1)).permute(2, 0, 1)[None].float()


def png_bytes(pixels, bits, size=None):
    """A PNG written by hand from the specification: signature, IHDR, one IDAT with filter 0, IEND."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = pixels.shape
    rows = pixels.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    header = struct.pack(">IIBBBBB", *(size or (width, height)), bits, COLOUR_TYPE[channels], 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and text
    return text


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_load_reads_handmade_png_to_the_last_bit(tmp_path, channels, bits):
    pixels = pixels_of(channels, bits)
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(pixels, bits))
    images, found = load_with_bits(path)
    assert found == bits and images.dtype == torch.float32
    torch.testing.assert_close(images, as_images(pixels, bits), rtol=0, atol=2**-24)


def test_pillow_alone_would_lose_the_lower_byte(tmp_path):
    """The public trap: Pillow opens 16-bit colour without a word and keeps 8 bits."""
    pixels = pixels_of(3, 16)
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(pixels, 16))
    assert np.asarray(Image.open(path)).dtype == np.uint8
    assert len(np.unique(load(path).numpy())) == len(np.unique(pixels))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_save_then_load_is_exact(tmp_path, suffix, bits, channels):
    images = as_images(pixels_of(channels, bits), bits)
    save(images, tmp_path / f"a{suffix}", bits)
    again, found = load_with_bits(tmp_path / f"a{suffix}")
    assert found == bits
    torch.testing.assert_close(again, images, rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pillow_reads_what_save_wrote(tmp_path, suffix, channels):
    pixels = pixels_of(channels)
    save(as_images(pixels), tmp_path / f"a{suffix}")
    found = np.asarray(Image.open(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(np.atleast_3d(found), pixels)


def test_pillow_reads_16_bit_grey_that_save_wrote(tmp_path):
    pixels = pixels_of(1, 16)
    for suffix in (".png", ".tif"):
        save(as_images(pixels, 16), tmp_path / f"a{suffix}", 16)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"a{suffix}")), pixels[..., 0])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".bmp", ".JPG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_formats_come_close(tmp_path, suffix, channels):
    ramp = torch.linspace(0, 1, 24).view(1, 1, 1, 24).expand(1, channels, 16, 24)
    save(ramp, tmp_path / f"a{suffix}")
    again = load(tmp_path / f"a{suffix}")
    assert again.shape[-2:] == (16, 24)
    assert (again - ramp).abs().max() < 6 / 255


def test_webp_keeps_alpha(tmp_path):
    ramp = torch.linspace(0, 1, 24).view(1, 1, 1, 24).expand(1, 4, 16, 24)
    save(ramp, tmp_path / "a.webp")
    assert load(tmp_path / "a.webp").shape == (1, 4, 16, 24)


def test_values_are_clipped_and_rounded_half_up(tmp_path):
    images = torch.tensor([-0.2, 0.5 / 255 + 1e-6, 1.5 / 255 - 1e-6, 2.5 / 255 + 1e-6, 1.7]).view(1, 1, 1, 5)
    save(images, tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 1, 1, 3, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "png16", "tif", "tif16"])
def test_orientation_is_honoured(tmp_path, kind, orientation):
    """Pillow's exif_transpose of the upper bytes is the reference; a file that forgets the tag differs for 2 to 8."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8], pixels[8:, 16:] = (255, 0, 0), (0, 255, 0)  # blocks of 8, so that JPEG keeps them
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind[:3]}"
    if kind == "tif16":
        import tifffile

        tifffile.imwrite(
            path, pixels.astype(np.uint16) * 257, photometric="rgb", extratags=[(274, 3, 1, orientation, True)]
        )
    elif kind == "png16":
        raw = png_bytes(pixels.astype(np.uint16) * 257, 16)
        data = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
        path.write_bytes(raw[:33] + chunk + raw[33:])
    else:
        Image.fromarray(pixels).save(path, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "jpg" else {}))
    tagged = Image.fromarray(pixels)
    tagged.getexif()[0x0112] = orientation
    truth = np.asarray(ImageOps.exif_transpose(tagged))
    found = load(path)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, truth / 255, atol=4 / 255 if kind == "jpg" else 1e-6)


def test_other_modes(tmp_path):
    rgb = Image.fromarray(pixels_of(3, height=8, width=9))
    palette = rgb.quantize(16)
    palette.save(tmp_path / "p.png")
    np.testing.assert_allclose(
        load(tmp_path / "p.png")[0].permute(1, 2, 0) * 255, np.asarray(palette.convert("RGB")), atol=1e-4
    )
    palette.save(tmp_path / "t.png", transparency=0)
    clear = load(tmp_path / "t.png")
    assert clear.shape == (1, 4, 8, 9)
    np.testing.assert_array_equal(clear[0, 3] == 0, np.asarray(palette) == 0)
    Image.fromarray(pixels_of(1)[..., 0] > 100).save(tmp_path / "one.png")
    one_bit = load(tmp_path / "one.png")
    assert one_bit.shape == (1, 1, 5, 7) and set(one_bit.unique().tolist()) == {0.0, 1.0}
    rgb.convert("CMYK").save(tmp_path / "c.tif")
    np.testing.assert_allclose(load(tmp_path / "c.tif")[0].permute(1, 2, 0) * 255, np.asarray(rgb), atol=1.001)


def test_unusual_tiffs(tmp_path):
    import tifffile

    pixels = pixels_of(3, 16)
    for name, options in {
        "lzw": {"compression": "lzw", "predictor": True},
        "big": {"byteorder": ">"},
        "deflate": {"compression": "zlib", "predictor": True},
    }.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric="rgb", **options)
        torch.testing.assert_close(load(tmp_path / f"{name}.tif"), as_images(pixels, 16), rtol=0, atol=2**-24)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "planar.tif", planes, photometric="rgb", planarconfig="separate")
    torch.testing.assert_close(load(tmp_path / "planar.tif"), as_images(pixels, 16), rtol=0, atol=2**-24)
    tifffile.imwrite(tmp_path / "white.tif", pixels[..., 0], photometric="miniswhite")
    torch.testing.assert_close(load(tmp_path / "white.tif"), 1 - as_images(pixels[..., :1], 16), rtol=0, atol=2**-23)
    half = np.full((4, 6, 4), 32768, np.uint16)
    tifffile.imwrite(tmp_path / "multiplied.tif", half, photometric="rgb", extrasamples=["assocalpha"])
    torch.testing.assert_close(load(tmp_path / "multiplied.tif")[:, :3], torch.ones(1, 3, 4, 6))
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((4, 6), np.float32))
    with pytest.raises(ValueError, match="float32") as error:
        load(tmp_path / "float.tif")
    one_line(error)


def test_load_refuses_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file") as error:
        load(tmp_path / "missing.png")
    one_line(error)
    with pytest.raises(IsADirectoryError, match="is a folder") as error:
        load(tmp_path)
    one_line(error)
    cases = {"text.png": (b"hello, I am text", "not an image"), "empty.jpg": (b"", "is empty")}
    cases["bomb.png"] = (png_bytes(np.zeros((2, 2, 3)), 8, size=(40_000, 40_000)), "bomb")
    cases["bomb16.png"] = (png_bytes(np.zeros((2, 2, 3)), 16, size=(40_000, 40_000)), "bomb")
    cases["one.png"] = (png_bytes(np.zeros((1, 1, 3)), 8), "at least two pixels")
    cases["one16.png"] = (png_bytes(np.zeros((1, 1, 1)), 16), "at least two pixels")
    cases["none.png"] = (png_bytes(np.zeros((1, 1, 3)), 8, size=(0, 0)), "broken|pixels")
    header = struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0)
    cases["none.bmp"] = (b"BM" + header, "damaged|pixels")
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=message) as error:
            load(tmp_path / name)
        assert name in one_line(error)
    assert MAX_PIXELS < 40_000**2


@pytest.mark.parametrize("kind", ["png", "png16", "jpg", "tif", "tif16", "webp", "bmp", "pillow.tif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, kind, share):
    suffix = kind.removesuffix("16").removeprefix("pillow.")
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    images = as_images(pixels_of(3, 16, 40, 50), 16)
    if kind == "pillow.tif":
        Image.fromarray(pixels_of(3, 8, 40, 50)).convert("CMYK").save(whole, compression="tiff_lzw")
    else:
        save(images, whole, 16 if kind.endswith("16") else 8)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    load(whole)
    with pytest.raises(ValueError, match="truncated|broken|not an image") as error:
        load(cut)
    one_line(error)


def test_save_refuses_in_one_line(tmp_path):
    images = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    cases = [
        (images, "a.xyz", 8, ValueError, ".png, .jpg"),
        (images, "a", 8, ValueError, "missing"),
        (images, "no/a.png", 8, FileNotFoundError, "folder .*no does not exist"),
        (images, "a.jpg", 16, ValueError, "8 bits"),
        (images, "a.png", 12, ValueError, "bits must be 8 or 16"),
        (images[:, [0, 1, 2, 0]], "a.jpg", 8, ValueError, "alpha"),
        (images[:, [0, 1, 2, 0, 1]], "a.png", 8, ValueError, "1 to 4 channels"),
        (images.expand(2, 3, 4, 5), "a.png", 8, ValueError, "one image"),
        (images[0], "a.png", 8, ValueError, r"\(B, C, H, W\)"),
    ]
    for wrong, name, bits, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            save(wrong, tmp_path / name, bits)
        one_line(error)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        save(images, tmp_path / "folder.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.png"]
    assert all(check_output(tmp_path / f"a{suffix}") for suffix in SUFFIXES)


def test_unwritable_place_is_refused(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=r"a\.png cannot be written: Permission denied") as error:
        save(torch.zeros(1, 3, 4, 5), tmp_path / "a.png")
    one_line(error)


@pytest.mark.parametrize(("name", "writer"), [("a.png", "PIL.Image.Image.save"), ("a.tif", "tifffile.imwrite")])
def test_save_on_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch, name, writer):
    save(torch.ones(1, 1, 4, 5), tmp_path / name)
    old = (tmp_path / name).read_bytes()

    def full(*arguments, **options):
        next(a for a in arguments if hasattr(a, "write_bytes")).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, full)
    with pytest.raises(OSError, match="cannot be written: No space left on device") as error:
        save(torch.zeros(1, 1, 4, 5), tmp_path / name)
    one_line(error)
    assert (tmp_path / name).read_bytes() == old and len(list(tmp_path.iterdir())) == 1


def test_write_atomically_keeps_the_old_file_when_the_writer_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half(temporary):
        assert temporary.parent == tmp_path and temporary.suffix == ".txt" and temporary != path
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_sha256_of_the_standard_example(tmp_path):
    """FIPS 180-2's message "abc", and a file longer than one read."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "long").write_bytes(b"\1" * 3_000_000)
    assert sha256(tmp_path / "long") == hashlib.sha256(b"\1" * 3_000_000).hexdigest()
