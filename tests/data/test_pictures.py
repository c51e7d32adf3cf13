"""Every kind of picture: read as it was drawn, or refused by name with the remedy."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steelman.data import ImageFolder

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (6, 8, 3), np.uint8)
DEEP = RANDOM.integers(0, 65536, (6, 8)).astype(np.uint16)
PALETTE = Image.fromarray(COLOURS).quantize(8)
GREY = np.asarray(Image.fromarray(COLOURS).convert("L"))
ALPHA = np.dstack([COLOURS, np.full((6, 8), 254, np.uint8)])


def one(home: Path, name: str, write: Callable[[Path], object], **settings) -> torch.Tensor:
    """What is read of one picture."""
    (home / "pets/train/cat").mkdir(parents=True)
    write(home / "pets/train/cat" / name)
    (batch,) = ImageFolder(str(home / "pets"), **settings).load("train").in_order(10)
    return batch.x[0]


def saved(picture: Image.Image, **options) -> Callable[[Path], None]:
    return lambda path: picture.save(path, **options)


def opaque(mode: str) -> Image.Image:
    return Image.fromarray(COLOURS).convert(mode)


def rotated(path: Path) -> None:
    """Drawn upright, stored lying on its side, with a word of EXIF that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(COLOURS, 1).copy()).save(path, exif=exif)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_colours(path: Path) -> None:
    """A PNG of 16 bits per colour, which Pillow cannot write."""
    rows = zlib.compress(b"".join(b"\0" + bytes(6 * 8) for _ in range(6)))
    header = struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def planes(values: np.ndarray) -> torch.Tensor:
    """As a data set hands them out."""
    return torch.from_numpy(values.astype(np.float32) / np.float32(255)).permute(2, 0, 1)


READ = {
    "palette.png": (saved(PALETTE), planes(np.asarray(PALETTE.convert("RGB")))),
    "palette.gif.png": (saved(PALETTE, format="GIF"), planes(np.asarray(PALETTE.convert("RGB")))),
    "grey.png": (saved(opaque("L")), planes(np.dstack([GREY] * 3))),
    "bits.png": (saved(opaque("1")), planes(np.asarray(opaque("1").convert("RGB")))),
    "opaque.png": (saved(opaque("RGBA")), planes(COLOURS)),
    "opaque.webp": (saved(opaque("RGBA"), lossless=True), planes(COLOURS)),
    "rotated.png": (rotated, planes(COLOURS)),
    "rotated.tif": (rotated, planes(COLOURS)),
    "deep.png": (saved(Image.fromarray(DEEP)), torch.from_numpy(DEEP / np.float32(65535)).expand(3, 6, 8)),
    "deep.pgm": (saved(Image.fromarray(DEEP)), torch.from_numpy(DEEP / np.float32(65535)).expand(3, 6, 8)),
}


def test_a_camera_s_preview_is_no_animation(tmp_path: Path) -> None:
    flat = Image.new("RGB", (8, 6), (200, 100, 50))
    write = saved(flat, format="MPO", save_all=True, append_images=[Image.new("RGB", (8, 6))])
    assert (one(tmp_path, "photo.jpg", write) * 255 - torch.tensor([200, 100, 50])[:, None, None]).abs().max() < 4


@pytest.mark.parametrize("name", READ)
def test_a_picture_is_read_as_it_was_drawn(name: str, tmp_path: Path) -> None:
    write, expected = READ[name]
    assert torch.equal(one(tmp_path, name, write), expected.to(torch.float32))


def test_sixteen_bits_are_read_in_one_channel_and_scaled(tmp_path: Path) -> None:
    halves = np.repeat(np.array([[0, 65535]], np.uint16), 8, 0).repeat(4, 1)
    small = one(tmp_path, "deep.png", saved(Image.fromarray(halves)), grey=True, size=(2, 2))
    assert small.shape == (1, 2, 2)
    assert (small[0, :, 0] < 0.2).all()
    assert (small[0, :, 1] > 0.8).all()


def test_a_folder_may_mix_bits(tmp_path: Path) -> None:
    (tmp_path / "pets/train/cat").mkdir(parents=True)
    Image.fromarray(DEEP).save(tmp_path / "pets/train/cat/0.png")
    Image.fromarray(GREY).save(tmp_path / "pets/train/cat/1.png")
    (batch,) = ImageFolder(str(tmp_path / "pets"), grey=True).load("train").in_order(10)
    assert torch.equal(batch.x[0, 0], torch.from_numpy(DEEP / np.float32(65535)))
    assert torch.equal(batch.x[1, 0], torch.from_numpy(GREY / np.float32(255)))


TWICE = {"save_all": True, "append_images": [Image.fromarray(COLOURS[::-1].copy())]}
REFUSED = {
    "floats.tif": (saved(Image.fromarray(DEEP.astype(np.float32))), "white is not known: save it"),
    "deep.tif": (saved(Image.fromarray(DEEP)), "white is not known: save it"),
    "integers.tif": (saved(Image.fromarray(DEEP.astype(np.int32))), "white is not known: save it"),
    "deep-colours.png": (deep_colours, "16 bits per colour.*save it"),
    "deep-colours.ppm": (lambda path: path.write_bytes(b"P6\n8 6\n65535\n" + bytes(288)), "16 bits per colour"),
    "see-through.png": (saved(Image.fromarray(ALPHA)), "is transparent.*save it"),
    "see-through.webp": (saved(Image.fromarray(ALPHA)), "is transparent.*save it"),
    "see-through-palette.png": (saved(PALETTE, transparency=int(np.asarray(PALETTE)[0, 0])), "is transparent"),
    "see-through-colour.png": (saved(opaque("RGB"), transparency=tuple(map(int, COLOURS[0, 0]))), "is transparent"),
    "see-through-grey.png": (saved(opaque("L"), transparency=int(GREY[0, 0])), "is transparent"),
    "animated.png": (saved(opaque("RGB"), **TWICE), "has 2 pictures.*save the right one"),
    "animated.webp": (saved(opaque("RGB"), **TWICE), "has 2 pictures"),
    "animated.gif.png": (saved(opaque("RGB"), format="GIF", **TWICE), "has 2 pictures"),
    "pages.tif": (saved(opaque("RGB"), **TWICE), "has 2 pictures"),
    "inks.jpg": (saved(opaque("CMYK")), "colours of type CMYK.*save it as RGB"),
    "program.png": (lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n"), "not a picture"),
    "empty.png": (lambda path: path.write_bytes(b""), "not a picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unclear_picture_is_refused_by_name(name: str, tmp_path: Path) -> None:
    write, message = REFUSED[name]
    with pytest.raises(ValueError, match=rf"{name} .*{message}") as caught:
        one(tmp_path, name, write)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [10_000, 60_000])  # above one limit of Pillow's, and above twice that
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(side: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was unpacked"))
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(9))
    with pytest.raises(ValueError, match=r"bomb\.png is not a picture: .*exceeds limit"):
        one(tmp_path, "bomb.png", lambda path: path.write_bytes(bomb))


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog", ".git", ".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / "pets/train" / name).mkdir(parents=True)
        for file in ("1.png", "._1.png"):
            Image.fromarray(COLOURS).save(tmp_path / "pets/train" / name / file)
    data = ImageFolder(str(tmp_path / "pets")).load("train")
    assert data.classes == ("cat", "dog")
    assert len(data) == 2


def test_settings_that_cannot_be_are_refused() -> None:
    for settings, needed in (
        ({"size": (0, 8)}, "size >= 1"),
        ({"size": (8, -1)}, "size >= 1"),
        ({"workers": -1}, "workers >= 0"),
    ):
        with pytest.raises(ValueError, match=f"ImageFolder needs {needed}; got "):
            ImageFolder("pets", **settings)


def pictures(home: Path) -> dict[str, np.ndarray]:
    written = {}
    for part in ("train", "val"):
        for name in ("dog", "cat"):
            (home / part / name).mkdir(parents=True)
            for number in range(2):
                written[f"{part}/{name}/{number}"] = RANDOM.integers(0, 256, (6, 8, 3), np.uint8)
                Image.fromarray(written[f"{part}/{name}/{number}"]).save(home / part / name / f"{number}.png")
    (home / "train" / "dog" / "notes.txt").write_text("not a picture")
    return written


def test_a_folder_of_pictures_is_read_as_written(tmp_path: Path) -> None:
    written = pictures(tmp_path / "pets")
    dataset = ImageFolder("pets").load("test", tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.shape == (3, 6, 8)
    assert dataset.labels is not None
    (batch,) = dataset.in_order(10)
    assert batch.y.tolist() == dataset.labels.tolist() == [0, 0, 1, 1]
    expected = np.stack([written[f"val/{name}"] for name in ("cat/0", "cat/1", "dog/0", "dog/1")])
    assert np.array_equal(batch.x.numpy(), expected.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
    grey = ImageFolder("pets", size=(4, 4), grey=True).load("train", tmp_path)
    (small,) = grey.in_order(10)
    assert small.x.shape == (4, 1, 4, 4)


def test_bad_folders_are_refused_by_name(tmp_path: Path) -> None:
    source = ImageFolder(str(tmp_path / "pets"))
    with pytest.raises(FileNotFoundError, match="pets"):
        source.load("train")
    pictures(tmp_path / "pets")
    Image.new("RGB", (9, 6)).save(tmp_path / "pets" / "train" / "cat" / "2.png")
    with pytest.raises(ValueError, match="image 2 has shape"):
        list(source.load("train").in_order(10))
    picture = tmp_path / "pets" / "val" / "cat" / "1.png"
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"1\.png is not a picture"):
        list(source.load("test").in_order(10))
    (tmp_path / "pets" / "val" / "bird").mkdir()
    with pytest.raises(ValueError, match="lacks: bird"):
        source.load("test")
