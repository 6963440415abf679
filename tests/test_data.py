"""Built-in, generated and downloaded images: laws in closed form, a loopback server, hostile archives."""

from __future__ import annotations

import http.server
import io
import json
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutorial_lib import data
from tutorial_lib.data import download, folder, leaves, photos, require_folder, verify
from tutorial_lib.data.download import fetch, manifest, pixel_sha256
from tutorial_lib.images import PHOTOS


def picture(seed, size=(12, 8), grey=False):
    pixels = np.random.default_rng(seed).integers(0, 256, size if grey else (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(seed):
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


# Photos


def test_photos_by_name():
    chosen = photos(["chelsea", "coins"])
    assert list(chosen) == ["chelsea", "coins"]
    for image in chosen.values():
        assert image.shape[:2] == (1, 3) and image.dtype == torch.float32
        assert 0 <= image.min() < image.max() <= 1
    assert list(photos()) == list(PHOTOS)
    with pytest.raises(ValueError, match="chelsea"):
        photos(["chelsae"])
    with pytest.raises(TypeError, match="list of names"):
        photos("chelsea")


# Dead leaves


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_leaves_shapes_range_and_seeds(channels):
    images = leaves(3, (20, 33), seed=0, channels=channels)
    assert images.shape == (3, channels, 20, 33) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert torch.equal(images, leaves(3, (20, 33), seed=0, channels=channels))
    assert torch.equal(images[:1], leaves(1, (20, 33), seed=0, channels=channels))
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images, leaves(3, (20, 33), seed=1, channels=channels))


def same_leaf(distance, radius):
    """P(two points at this distance lie in the same leaf) = B(d) / (2 B(0) - B(d)), by quadrature over the radius."""
    r = np.geomspace(*radius, 2001)
    half = np.clip(np.asarray(distance)[..., None] / (2 * r), 0, 1)
    overlap = 2 * r**2 * (np.arccos(half) - half * np.sqrt(1 - half**2))
    shared = np.trapezoid(overlap * r**-3, r, axis=-1)
    alone = np.trapezoid(np.pi * r**2 * r**-3, r)
    return shared / (2 * alone - shared)


@pytest.mark.parametrize(
    ("n", "size", "radius"), [(120, 64, (2.0, 32.0)), (120, 64, (6.0, 12.0)), (1000, 20, (2.0, 40.0))]
)
def test_leaves_have_the_mean_and_covariance_of_the_dead_leaves_model(n, size, radius):
    images = leaves(n, size, seed=0, radius=radius, channels=1)[:, 0].double().numpy() - 0.5
    means = images.mean((1, 2))
    assert abs(means.mean()) < 4 * means.std() / np.sqrt(n)
    # A pixel is the mean over its square, so a covariance is averaged over the difference of two uniform points.
    u = np.linspace(-1, 1, 41)[1:-1]
    triangle = (1 - abs(u)) / (1 - abs(u)).sum()
    for d in (3, 5, 9, 17):
        expected = triangle @ same_leaf(np.hypot(d + u[:, None], u), radius) @ triangle / 12
        products = np.concatenate(
            [(images[:, :, d:] * images[:, :, :-d]).mean((1, 2)), (images[:, d:] * images[:, :-d]).mean((1, 2))]
        )
        per_image = products.reshape(2, -1).mean(0)
        uneven = products.reshape(2, -1)[0] - products.reshape(2, -1)[1]
        assert abs(uneven.mean()) < 4 * uneven.std() / np.sqrt(n)  # discs are round
        error = per_image.std(ddof=1) / np.sqrt(len(per_image))
        assert abs(per_image.mean() - expected) < 4 * error, (d, per_image.mean(), expected, error)
        assert error < 0.1 * same_leaf(0, radius) / 12


def test_leaves_have_soft_edges():
    # One huge leaf against another: along a straight cut through an edge, some pixel lies strictly between.
    image = leaves(1, 64, radius=(20.0, 30.0), channels=1)[0, 0]
    values, counts = image.unique(return_counts=True)
    plain = values[counts > 40]  # the leaves' own colours
    between = (image[..., None] - plain).abs().amin(-1) > 1e-3
    assert 0.01 < between.float().mean() < 0.25


@pytest.mark.parametrize(
    "bad",
    [{"n": 0}, {"size": 0}, {"size": (4, -1)}, {"seed": -1}, {"radius": (5, 2)}, {"radius": (0, 2)}, {"channels": 0}],
)
def test_leaves_refuse_bad_arguments(bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} must"):
        leaves(**{"n": 1, **bad})


# Folders


def test_folder_reads_lazily_sorted_and_as_rgb(tmp_path):
    picture(1).save(tmp_path / "b.png")
    picture(2, grey=True).save(tmp_path / "a.PNG")
    (tmp_path / "c.jpg").write_bytes(b"not an image")
    (tmp_path / "notes.txt").write_text("skip me")
    (tmp_path / "._b.png").write_bytes(b"hidden")
    images = folder(tmp_path)
    assert [p.name for p in images.paths] == ["a.PNG", "b.png", "c.jpg"] and len(images) == 3
    expected = np.asarray(picture(2, grey=True))
    assert images[0].shape == (1, 3, 12, 8) and images[0].dtype == torch.float32
    np.testing.assert_array_equal((images[0][0, 1] * 255).round().numpy(), expected)
    np.testing.assert_array_equal((images[1][0] * 255).round().permute(1, 2, 0).numpy(), np.asarray(picture(1)))
    assert folder(tmp_path, rgb=False)[0].shape == (1, 1, 12, 8)
    assert len(images[:2]) == 2 and [i.shape for i in images[:2]] == [(1, 3, 12, 8)] * 2
    with pytest.raises(ValueError, match=r"c\.jpg"):  # only when it is asked for
        images[2]


def test_folder_drops_alpha_and_goes_into_folders_when_asked(tmp_path):
    (tmp_path / "sub").mkdir()
    colour = picture(3)
    colour.putalpha(picture(4, grey=True))
    colour.save(tmp_path / "sub" / "x.png")
    image = folder(tmp_path, recursive=True)[0]
    np.testing.assert_array_equal((image[0] * 255).round().permute(1, 2, 0).numpy(), np.asarray(picture(3)))
    with pytest.raises(ValueError, match="holds no image"):
        folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        folder(tmp_path / "absent")
    with pytest.raises(NotADirectoryError, match="a folder of images was expected"):
        folder(tmp_path / "sub" / "x.png")


def test_data_folder_obeys_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TUTORIAL_LIB_DATA", str(tmp_path / "mine"))
    assert data.data_folder() == tmp_path / "mine"
    monkeypatch.delenv("TUTORIAL_LIB_DATA")
    monkeypatch.setattr(Path, "is_dir", lambda self: False)
    assert data.data_folder() == Path.home() / ".cache" / "tutorial_lib"


def test_require_folder_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TUTORIAL_LIB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="python -m tutorial_lib data Set5"):
        require_folder("Set5")
    (tmp_path / "Set5").mkdir()
    for file in list(manifest()["Set5"])[1:]:
        (tmp_path / "Set5" / file).write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="lacks 1 images"):
        require_folder("Set5")
    (tmp_path / "Set5" / "img_001.png").write_bytes(b"x")
    assert require_folder("Set5") == tmp_path / "Set5"
    assert len(verify("Set5")) == 5
    with pytest.raises(ValueError, match="did you mean 'Set5'"):
        require_folder("set5")


def test_the_manifest_names_every_image():
    sizes = {name: len(files) for name, files in manifest().items()}
    assert sizes == {"Set5": 5, "Set14": 14, "BSD100": 100, "bsds500": 400}
    digests = [digest for files in manifest().values() for digest in files.values()]
    assert len(set(digests)) == len(digests)  # nothing is both trained and judged on
    assert all(len(digest) == 64 for digest in digests)


def test_pixel_hash_ignores_the_file_format_and_sees_one_level(tmp_path):
    image = picture(5)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.bmp")
    changed = np.asarray(image).copy()
    changed[3, 4, 1] ^= 1
    Image.fromarray(changed).save(tmp_path / "b.png")
    Image.fromarray(np.asarray(image).reshape(8, 12, 3)).save(tmp_path / "c.png")
    digests = [pixel_sha256(tmp_path / name) for name in ("a.png", "a.bmp", "b.png", "c.png")]
    assert digests[0] == digests[1] and len(set(digests)) == 3


# Downloads, from a server on the loopback interface


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; cuts the first answer for a path in `cut` short; writes down every Range header."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.ranges, self.ignore_range = {}, {}, [], False
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.server.files.get(self.path.lstrip("/"))
        if body is None:
            return self.send_error(404)
        start, asked = 0, self.headers.get("Range")
        self.server.ranges.append(asked)
        if asked and not self.server.ignore_range:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = self.server.cut.pop(self.path.lstrip("/"), len(body))
        self.wfile.write(body[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def small(monkeypatch, tmp_path, server):
    """A manifest of two sets of small images, served from the loopback, and an empty data folder."""
    module = sys.modules["tutorial_lib.data.download"]
    images = {"img_001.png": png(1), "img_002.png": png(2)}
    photos_ = {"train/11.jpg": png(3), "test/22.jpg": png(4)}
    digests = {}
    for name, files in (("Set5", images), ("bsds500", photos_)):
        digests[name] = {}
        for file, content in files.items():
            (tmp_path / "one").write_bytes(content)
            digests[name][file] = pixel_sha256(tmp_path / "one")
    monkeypatch.setattr(module, "manifest", lambda: digests)
    monkeypatch.setattr(module, "TEST_SETS", server.url + "{name}/{stem}_SRF_4_HR.png")
    monkeypatch.setattr(module, "BSDS500", server.url + "BSR.tgz")
    monkeypatch.setenv("TUTORIAL_LIB_DATA", str(tmp_path / "data"))
    server.files.update({f"Set5/{Path(f).stem}_SRF_4_HR.png": content for f, content in images.items()})
    server.files["BSR.tgz"] = tar_bytes(
        {f"BSR/BSDS500/data/images/{f}": c for f, c in photos_.items()} | {"BSR/readme": b"x"}
    )
    return tmp_path / "data"


def tar_bytes(files, extra=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return buffer.getvalue()


def zip_bytes(files, links=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name, to in links:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, to)
    return buffer.getvalue()


def nothing_left(root):
    return not [p for p in root.rglob("*") if p.is_file()]


def test_download_file_by_file(small, server):
    assert len(verify("Set5")) == 2
    path = download("Set5")
    assert path == small / "Set5" and sorted(p.name for p in path.iterdir()) == ["img_001.png", "img_002.png"]
    assert verify("Set5") == [] and [p.name for p in small.iterdir()] == ["Set5"]
    asked = len(server.ranges)
    download("Set5")
    assert len(server.ranges) == asked  # whole already
    (path / "img_002.png").write_bytes(png(9))
    assert "pixels differ" in verify("Set5")[0]
    download("Set5")
    assert len(server.ranges) == asked + 1 and verify("Set5") == []


def test_download_an_archive(small):
    assert download("bsds500") == small / "bsds500"
    files = {str(p.relative_to(small)) for p in small.rglob("*") if p.is_file()}
    assert files == {"bsds500/train/11.jpg", "bsds500/test/22.jpg"} and verify("bsds500") == []


@pytest.mark.parametrize("make", [zip_bytes, tar_bytes])
def test_download_from_an_archive_on_disk_or_elsewhere(small, server, tmp_path, make):
    files = {"Set5/image_SRF_4/img_001_SRF_4_HR.png": png(1), "Set5/image_SRF_4/img_002_SRF_4_HR.png": png(2)}
    archive = tmp_path / "mine.archive"
    archive.write_bytes(make(files | {"Set5/image_SRF_2/img_001_SRF_2_HR.png": png(7)}))
    download("Set5", source=archive)
    assert verify("Set5") == [] and archive.exists()
    server.files["elsewhere"] = archive.read_bytes()
    download("Set5", root=tmp_path / "again", source=server.url + "elsewhere")
    assert verify("Set5", tmp_path / "again") == []


def test_a_broken_download_goes_on_where_it_stopped(small, server):
    server.cut["BSR.tgz"] = 100
    with pytest.raises(ConnectionError, match="after 100 of .* bytes; call again to go on"):
        download("bsds500")
    assert not (small / "bsds500").exists()
    download("bsds500")
    assert server.ranges == [None, "bytes=100-"] and verify("bsds500") == []


def test_resuming_survives_servers_that_ignore_ranges_and_stale_parts(server, tmp_path):
    server.files["x"] = bytes(range(200))
    (tmp_path / "x.part").write_bytes(b"old")
    server.ignore_range = True
    fetch(server.url + "x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == server.files["x"]
    server.ignore_range = False
    (tmp_path / "y.part").write_bytes(b"z" * 500)  # longer than the file: 416
    fetch(server.url + "x", tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == server.files["x"] and server.ranges == ["bytes=3-", "bytes=500-", None]


def test_a_download_beyond_the_limit_stops(server, tmp_path):
    server.files["x"] = bytes(1000)
    with pytest.raises(ValueError, match="more than the 999 bytes"):
        fetch(server.url + "x", tmp_path / "x", limit=999)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["Set5", "bsds500"])
def test_wrong_pixels_leave_nothing(small, server, name):
    server.files["Set5/img_002_SRF_4_HR.png"] = png(8)
    server.files["BSR.tgz"] = tar_bytes({"images/train/11.jpg": png(3), "images/test/22.jpg": png(8)})
    with pytest.raises(ValueError, match=r"nothing of it was kept|1 of 2 images of bsds500"):
        download(name)
    assert nothing_left(small) and verify(name) != []


GOOD = {"img_001.png": png(1), "img_002.png": png(2)}


def link(kind, name="img_002.png"):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zip_bytes(GOOD | {"../evil.png": b"x"}), "points outside"),
        (zip_bytes(GOOD | {"/evil.png": b"x"}), "points outside"),
        (zip_bytes(GOOD | {"C:evil.png": b"x"}), "points outside"),
        (zip_bytes({"img_001.png": png(1)}, [("img_002.png", "/etc/passwd")]), "link or a device"),
        (tar_bytes(GOOD | {"a/../../evil.png": b"x"}), "points outside"),
        (tar_bytes(GOOD | {"/evil.png": b"x"}), "points outside"),
        (tar_bytes({"img_001.png": png(1)}, [link(tarfile.SYMTYPE)]), "link or a device"),
        (tar_bytes({"img_001.png": png(1)}, [link(tarfile.LNKTYPE)]), "link or a device"),
        (tar_bytes({"img_001.png": png(1)}, [link(tarfile.CHRTYPE)]), "link or a device"),
        (tar_bytes(GOOD | {"other/img_001.png": png(1)}), "twice"),
        (zip_bytes(GOOD | {"other/img_001.png": bytes(2**26 + 1)}), "twice"),
        (zip_bytes({"img_001.png": png(1)}), "1 of 2 images"),
        (tar_bytes(GOOD)[:300], "not a whole zip or tar"),
        (b"<html>not found</html>", "not a whole zip or tar"),
    ],
)
def test_hostile_and_broken_archives_are_refused(small, tmp_path, content, message):
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        download("Set5", source=archive)
    assert "\n" not in str(error.value)
    assert nothing_left(small) and not list(tmp_path.rglob("evil*"))


def test_an_archive_bomb_is_refused_before_unpacking(small, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("img_001.png", bytes(2**26 + 1))
    (tmp_path / "bomb").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="makes it too large"):
        download("Set5", source=tmp_path / "bomb")
    assert nothing_left(small)


def test_offline_and_unwritable_are_one_clear_line(small, server, monkeypatch, tmp_path):
    del server.files["Set5/img_002_SRF_4_HR.png"]
    with pytest.raises(ConnectionError, match="404 .*put the 2 images into .*Set5 by hand") as error:
        download("Set5")
    assert "\n" not in str(error.value)
    module = sys.modules["tutorial_lib.data.download"]
    monkeypatch.setattr(module, "TEST_SETS", "http://127.0.0.1:9/{name}/{stem}")
    with pytest.raises(ConnectionError, match="could not be fetched"):
        download("Set5", root=tmp_path / "fresh")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PermissionError, match="TUTORIAL_LIB_DATA"):
        download("Set5", root=tmp_path / "file")
    with pytest.raises(ValueError, match="name must be one of"):
        download("ImageNet")
    with pytest.raises(ValueError, match="source must be"):
        download("Set5", source="nowhere.zip")


@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_what_lies_in_the_data_folder_is_what_the_manifest_says(name):
    try:
        require_folder(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert verify(name) == []


def test_the_manifest_is_small_and_readable():
    path = Path(data.__file__).with_name("manifest.json")
    assert path.stat().st_size < 60_000 and json.loads(path.read_text()).keys() == data.DATASETS.keys()
