"""Data sets as other libraries keep them, made on the spot: datasets, Parquet, tar shards, torchvision, dict items."""

import io
import json
import pickle
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from steelman import config
from steelman.data import Arrays, External, HuggingFace, ImageFolder, Parquet, Shards, Streamed, TorchVision
from steelman.data.dataset import Source
from steelman.data.pictures import picture, pixels
from steelman.data.stream import pair
from steelman.loading import source

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (7, 6, 5, 3), np.uint8)
LABELS = [0, 2, 1, 2, 0, 1, 1]
NAMES = ("cat", "dog", "eel")
EXPECTED = torch.from_numpy(PIXELS / np.float32(255)).permute(0, 3, 1, 2)


def encoded(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def whole(data: Any) -> tuple[Tensor, list[int]]:
    """All images and labels, read in another order than theirs."""
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    batches = list(data.batches(order.split(3)))
    back = order.argsort()
    return torch.cat([each.x for each in batches])[back], torch.cat([each.y for each in batches])[back].tolist()


def check(data: Streamed, classes: tuple[str, ...] = NAMES, expected: Tensor = EXPECTED) -> None:
    images, labels = whole(data)
    assert torch.equal(images, expected)
    assert labels == LABELS
    assert data.classes == classes
    assert data.labels is None or data.labels.tolist() == LABELS
    assert pickle.loads(pickle.dumps(data)).digest() == data.digest()
    part = next(data.subset(torch.tensor([5, 1])).in_order(2))
    assert part.y.tolist() == [1, 2]
    assert torch.equal(part.x, expected[[5, 1]])


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A DatasetDict on the disk."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=list(NAMES))})
    columns = {"img": [{"bytes": encoded(each), "path": None} for each in PIXELS], "fine": LABELS}
    test = datasets.Dataset.from_dict(columns, features)
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": test.select([6, 5, 4]), "validation": test}).save_to_disk(str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_data_set_of_hugging_face_on_the_disk(hub: Path):
    found = source(str(hub))
    assert found == HuggingFace(str(hub))
    check(HuggingFace(str(hub)).load("test"))
    train = HuggingFace(str(hub)).load("train")
    assert train.labels is not None
    assert train.labels.tolist() == [1, 1, 0]
    assert torch.equal(next(train.in_order(3)).x, EXPECTED[[6, 5, 4]])
    small = HuggingFace(str(hub), size=(3, 3), grey=True).load("test")
    assert small.shape == (1, 3, 3)
    with pytest.raises(ValueError, match=r"hub has no column 'colour' among img, fine: name it by image = \.\.\."):
        HuggingFace(str(hub), image="colour").load("test")
    with pytest.raises(ValueError, match=r"hub: the column 'img' must hold integers"):
        HuggingFace(str(hub), label="img").load("test")


def test_other_folders_of_hugging_face(hub: Path, tmp_path: Path):
    import datasets

    arrays = datasets.Dataset.from_dict({"pixel_values": PIXELS.tolist(), "labels": LABELS})
    arrays = arrays.cast_column("pixel_values", datasets.Array3D((6, 5, 3), "uint8"))
    arrays.save_to_disk(str(tmp_path / "alone"))
    with pytest.raises(ValueError, match=r"alone has no splits: save datasets\.DatasetDict"):
        source(str(tmp_path / "alone")).load("test")
    both = datasets.DatasetDict({"test": arrays, "train": arrays})
    both.save_to_disk(str(tmp_path / "both"))
    check(HuggingFace(str(tmp_path / "both")).load("test"), ("0", "1", "2"))  # pyright: ignore[reportArgumentType]
    datasets.DatasetDict({"extra": arrays}).save_to_disk(str(tmp_path / "extra"))
    with pytest.raises(ValueError, match=r"extra has no part for test \(test, validation, val, valid\); it has extra"):
        HuggingFace(str(tmp_path / "extra")).load("test")
    (hub / "dataset_dict.json").write_text("{")
    with pytest.raises(ValueError, match=r"hub is not a folder of datasets\.DatasetDict\.save_to_disk"):
        HuggingFace(str(hub)).load("test")


def test_items_of_hugging_face_from_a_function(hub: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    module = ModuleType("their_data")
    module.load = lambda split: datasets.load_from_disk(str(hub))["validation"].rename_column("fine", "label")  # pyright: ignore
    monkeypatch.setitem(sys.modules, "their_data", module)
    check(External("their_data:load").load("test"))  # pyright: ignore[reportArgumentType]


def write_parquet(path: Path, labels: list, struct: bool = True, about: dict | None = None) -> None:
    import pyarrow
    from pyarrow import parquet

    images = [encoded(each) for each in PIXELS]
    column = [{"bytes": each, "path": "a.png"} for each in images] if struct else images
    table = pyarrow.table({"image": column, "label": labels})
    if about is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    path.parent.mkdir(exist_ok=True, parents=True)
    parquet.write_table(table, path)


def test_parquet_of_the_hub(tmp_path: Path):
    about = {"info": {"features": {"label": {"names": list(NAMES), "_type": "ClassLabel"}}}}
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", LABELS, about=about)
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", LABELS, about=about)
    assert source(str(tmp_path)) == Parquet(str(tmp_path))
    check(Parquet(str(tmp_path)).load("test"))
    assert len(Parquet(str(tmp_path)).load("train")) == 7
    assert Parquet(str(tmp_path), size=(3, 4)).load("test").shape == (3, 3, 4)


def test_parquet_of_other_columns(tmp_path: Path):
    write_parquet(tmp_path / "words.parquet", [NAMES[each] for each in LABELS], struct=False)
    file = str(tmp_path / "words.parquet")
    assert source(file) == Parquet(file)
    check(Parquet(file).load("test"))
    write_parquet(tmp_path / "numbers.parquet", LABELS)
    check(Parquet(str(tmp_path / "numbers.parquet")).load("test"), ("0", "1", "2"))
    with pytest.raises(ValueError, match=r"words\.parquet has no part for train \(train\); it has test"):
        Parquet(file).load("train")
    with pytest.raises(ValueError, match=r"words\.parquet has no column 'face' among image, label: name it by image"):
        Parquet(file, image="face").load("test")
    for name, labels, message in (
        ("none", [None, *LABELS[1:]], r"the column 'label' has images without a label"),
        ("halves", [0.5] * 7, r"the column 'label' must hold integers or words; it holds float64"),
    ):
        write_parquet(tmp_path / f"{name}.parquet", labels)
        with pytest.raises(ValueError, match=message):
            Parquet(str(tmp_path / f"{name}.parquet")).load("test")
    (tmp_path / "cut.parquet").write_bytes(Path(file).read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cut\.parquet is not a Parquet file"):
        Parquet(str(tmp_path / "cut.parquet")).load("test")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_shards(folder: Path, split: str, label: str = "cls") -> None:
    folder.mkdir(exist_ok=True, parents=True)
    for number, places in enumerate((range(4), range(4, 7))):
        with tarfile.open(folder / f"{split}-{number:06}.tar", "w") as archive:
            for place in places:
                text = json.dumps({"label": LABELS[place]}) if label == "json" else f"{LABELS[place]}\n"
                add(archive, f"{split}/{place:06}.png", encoded(PIXELS[place]))
                add(archive, f"{split}/{place:06}.{label}", text.encode())
                add(archive, f"{split}/{place:06}.note", b"more that is not needed")


@pytest.mark.parametrize("label", ["cls", "txt", "json"])
def test_shards_are_read_by_place(label: str, tmp_path: Path):
    write_shards(tmp_path, "train", label)
    write_shards(tmp_path, "val", label)
    found = source(str(tmp_path))
    assert found == Shards(str(tmp_path))
    check(Shards(str(tmp_path)).load("test"), ("0", "1", "2"))
    (tmp_path / "classes.txt").write_text("cat\ndog\neel\n")
    check(Shards(str(tmp_path)).load("train"))
    two = Shards(str(tmp_path), workers=2).load("test")
    assert torch.equal(whole(two)[0], EXPECTED)


def test_shards_that_webdataset_has_written(tmp_path: Path):
    webdataset = pytest.importorskip("webdataset")
    (tmp_path / "test").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "test/%04d.tar"), maxcount=3, verbose=0) as sink:
        for place, image in enumerate(PIXELS):
            sink.write({"__key__": f"sample{place:04}", "png": encoded(image), "cls": LABELS[place]})
    check(Shards(str(tmp_path), classes=NAMES).load("test"))


def test_shards_that_are_damaged_are_named(tmp_path: Path):
    def one(name: str, *members: tuple[str, bytes], cut: int = 0, mode: str = "w") -> Path:
        home = tmp_path / name
        home.mkdir()
        with tarfile.open(home / "test-0.tar", mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
            for each in members:
                add(archive, *each)
        raw = (home / "test-0.tar").read_bytes()
        (home / "test-0.tar").write_bytes(raw[: len(raw) - cut])
        return home

    image = ("a.png", encoded(PIXELS[0]))
    for home, message in (
        (one("lone", image), r"test-0\.tar: a has no label: KEY\.jpg and KEY\.cls"),
        (one("blind", ("a.cls", b"1")), r"test-0\.tar: a has no image"),
        (one("words", image, ("a.cls", b"cat")), r"test-0\.tar: a\.cls has no whole number as a label"),
        (one("json", image, ("a.json", b"{}")), r"a\.json has no whole number as a label"),
        (one("packed", image, ("a.cls", b"1"), mode="w:gz"), r"test-0\.tar is not a tar file without compression"),
        (one("empty"), r"there are no images in .*test-0\.tar"),
        (one("cut", ("a.cls", b"1"), ("a.png", bytes(50_000)), cut=45_000), r"truncated|is not a tar file"),
        (one("noise", ("a.png", b"noise"), ("a.cls", b"1")), r"test-0\.tar: the image at byte 512 is not a picture"),
    ):
        with pytest.raises(ValueError, match=message):
            Shards(str(home), classes=NAMES).load("test")
    with pytest.raises(ValueError, match=r"lone has no part for train \(train\); it has test"):
        Shards(str(tmp_path / "lone")).load("train")


class Theirs:
    """A data set of torchvision: Pillow's pictures and whole numbers."""

    def __init__(self, root: str, split: str = "train", transform: object = None, download: bool = False) -> None:
        if split not in ("trainval", "test"):
            raise ValueError(f"Unknown value '{split}' for argument split.")
        if "offline" in root:
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        self.classes, self._labels = list(NAMES), LABELS

    def __len__(self) -> int:
        return 7

    def __getitem__(self, place: int) -> tuple[Image.Image, int]:
        return Image.fromarray(PIXELS[place]), LABELS[place]


def test_data_sets_of_torchvision_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package, library = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    library.Theirs, library.__all__ = Theirs, ("Theirs", "Splitless")  # pyright: ignore[reportAttributeAccessIssue]
    library.Splitless = lambda root: None  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", library)
    assert source("torchvision:Theirs") == TorchVision("Theirs")
    for split in ("train", "test"):
        check(TorchVision("Theirs").load(split, tmp_path))
    assert TorchVision("Theirs", size=(4, 4), grey=True).load("test", tmp_path).shape == (1, 4, 4)
    with pytest.raises(
        FileNotFoundError, match=r"TorchVision\('Theirs'\) is not in .*, and could not be fetched: Data"
    ):
        TorchVision("Theirs").load("test", tmp_path / "offline")
    for name, message in (("Their", r"no data set 'Their'; did you mean Theirs\?"), ("Splitless", r"has no splits")):
        with pytest.raises(ValueError, match=message):
            TorchVision(name).load("test", tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match=r"needs torchvision .*pip install 'steelman\[vision\]'"):
        TorchVision("Theirs").load("test", tmp_path)


@pytest.mark.parametrize(
    "item",
    [
        (PIXELS[0], 2),
        [PIXELS[0], 2],
        {"image": PIXELS[0], "label": 2},
        {"img": PIXELS[0], "labels": 2, "id": 7},
        {"pixel_values": PIXELS[0], "target": 2},
    ],
)
def test_items_are_pairs_or_mappings(item: object):
    image, label = pair(item)
    assert label == 2
    assert np.array_equal(image, PIXELS[0])


def test_items_that_are_neither_are_refused():
    with pytest.raises(ValueError, match=r"an item has 'photo', 'label': it needs an image \(image, img, "):
        pair({"photo": 1, "label": 2})
    for item in ((1, 2, 3), 7, "ab"):
        with pytest.raises(
            ValueError, match=r"an item is a (tuple|int|str): it must be \(image, label\), or a mapping"
        ):
            pair(item)


def test_lists_of_dicts_from_a_function(monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("their_items")
    items = [{"img": Image.fromarray(each), "labels": label} for each, label in zip(PIXELS, LABELS, strict=True)]
    module.load = lambda split: items  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "their_items", module)
    check(External("their_items:load", classes=NAMES).load("test"))  # pyright: ignore[reportArgumentType]


def test_an_image_in_any_form_is_one_tensor(tmp_path: Path):
    expected, raw = torch.from_numpy(PIXELS[0]).permute(2, 0, 1), encoded(PIXELS[0])
    (tmp_path / "a.png").write_bytes(raw)
    forms = (PIXELS[0], PIXELS[0].transpose(2, 0, 1), Image.fromarray(PIXELS[0]), raw, {"bytes": raw, "path": None})
    for form in (*forms, {"bytes": None, "path": str(tmp_path / "a.png")}, expected, PIXELS[0].tolist()):
        found = pixels(form)
        assert torch.equal(found.to(torch.uint8), expected)
    assert pixels(PIXELS[0, :, :, 0]).shape == (1, 6, 5)
    assert torch.equal(picture(PIXELS[0]), expected)
    grey = torch.from_numpy(np.asarray(Image.fromarray(PIXELS[0]).convert("L")).copy())[None]
    assert torch.equal(picture(PIXELS[0], mode="L"), grey)
    with pytest.raises(ValueError, match=r"it is torch.float64 of shape \(3, 6, 5\): only pictures and uint8 arrays"):
        picture(PIXELS[0] / 255, (3, 3), name="it")
    with pytest.raises(ValueError, match=r"it has neither bytes nor a path"):
        picture({"bytes": None, "path": None}, name="it")


def test_folders_are_told_apart(tmp_path: Path):
    (tmp_path / "train/cat").mkdir(parents=True)
    assert source(str(tmp_path)) == ImageFolder(str(tmp_path))
    assert source("a.npz") == Arrays("a.npz")
    for kind in (HuggingFace, Parquet, Shards):
        table = f'{{ kind = "{kind.__name__}", path = "there", size = [8, 8] }}'
        assert source(table) == kind("there", size=(8, 8))
        assert config.read(Source, config.write(kind("there", grey=True)), "data") == kind("there", grey=True)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("steelman.extras.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"HuggingFace\('there'\) needs datasets: pip install 'steelman\[hf\]'"):
        HuggingFace("there").load("test")
