"""Every reader of files, with a small right file for each."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from steelman import checkpoint
from steelman.attacks import FGSM
from steelman.data import CIFAR10, MNIST, SVHN, Arrays, Digits, ImageFolder, Parquet, Shards, cifar
from steelman.data.dataset import Dataset
from steelman.evaluation import evaluate
from steelman.evaluation.battery import load_battery
from steelman.experiments.compare import _left
from steelman.experiments.recipe import load_recipe
from steelman.experiments.sweep_results import EvaluationOptions, SweepResults, SweptNetwork
from steelman.loading.onnx import Onnx
from steelman.loading.weights import fill, read_state
from steelman.measures import Transfer, measures
from steelman.networks import MLP
from steelman.report.document import Document
from steelman.report.entry import Entry
from steelman.report.results import results_text
from steelman.table import Evaluation

PICTURES = ("png", "jpg", "webp", "tif", "bmp", "ppm", "pgm", "gif.png", "palette.png", "deep.png")
OLD = Path(__file__).parents[2] / "tests" / "data"


@dataclass(frozen=True)
class Reader:
    """A reader and a right file.

    write   makes the file, and what has to lie beside it, in a folder; returns the file that is damaged
    read    of the file; a value that can be compared
    sealed  whether the format has a checksum of its content: then no other value may come out
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    sealed: bool = False


def _images() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    return draws.integers(0, 256, (4, 28, 28), np.uint8), draws.integers(0, 10, 4, np.uint8)


def _pixels(data: Dataset) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images and labels of a data set, which promises their ranges."""
    batches = list(data.in_order(100))
    x, y = torch.cat([each.x for each in batches]), torch.cat([each.y for each in batches])
    if not (bool(((x >= 0) & (x <= 1)).all()) and bool(((y >= 0) & (y < len(data.classes))).all())):
        raise AssertionError("pixels or labels out of their range")
    return x, y, data.classes


def _idx(part: str, zipped: bool) -> Reader:
    def write(folder: Path) -> Path:
        folder = folder / "mnist"
        folder.mkdir()
        images, labels = _images()
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = [0x0800 + values.ndim, *values.shape]
            raw = b"".join(number.to_bytes(4, "big") for number in header) + values.tobytes()
            name = f"train-{name}-ubyte"
            (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(raw) if zipped else raw)
        return next(folder.glob(f"*{part}*"))

    return Reader(write, lambda path: _pixels(MNIST().load("train", path.parent.parent)), sealed=zipped)


def _cifar(file: str) -> Reader:
    """A file of the folder, or the archive; of two images for each batch."""

    def write(folder: Path) -> Path:
        home = folder / "cifar-10-batches-bin"
        home.mkdir()
        draws = np.random.default_rng(0)
        for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
            records = draws.integers(0, 256, (2, 3073), np.uint8)
            records[:, 0] %= 10
            (home / name).write_bytes(records.tobytes())
        (home / "batches.meta.txt").write_text("\n".join(f"class{number}" for number in range(10)))
        if file != "archive":
            return home / file
        with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as writer:
            writer.add(home, home.name)
        for each in home.iterdir():
            each.unlink()
        home.rmdir()
        return folder / "cifar-10-binary.tar.gz"

    def read(path: Path) -> Any:
        before = dict(cifar._COUNTS)
        cifar._COUNTS.update(train=10, test=2)
        try:
            return _pixels(CIFAR10().load("train", path.parent if file == "archive" else path.parent.parent))
        finally:
            cifar._COUNTS.update(before)

    return Reader(write, read, sealed=file == "archive")


def _mat(compressed: bool) -> Reader:
    def write(folder: Path) -> Path:
        draws = np.random.default_rng(0)
        stored = {"X": draws.integers(0, 256, (32, 32, 3, 3), np.uint8), "y": np.array([[1], [5], [10]], np.uint8)}
        savemat(folder / "train_32x32.mat", stored, do_compression=compressed)
        return folder / "train_32x32.mat"

    return Reader(write, lambda path: _pixels(SVHN().load("train", path.parent)), sealed=compressed)


def _npz(save: Callable[..., None]) -> Reader:
    def write(folder: Path) -> Path:
        images, labels = _images()
        save(folder / "a.npz", x_train=images, y_train=labels, x_test=images[:2] / 255, y_test=labels[:2])
        return folder / "a.npz"

    return Reader(write, lambda path: _pixels(Arrays(str(path)).load("train")), sealed=True)


def _encoded() -> list[bytes]:
    """Three small pictures in files of PNG."""
    streams = [io.BytesIO() for _ in range(3)]
    for stream, pixels in zip(streams, np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8), strict=True):
        Image.fromarray(pixels).save(stream, "PNG")
    return [stream.getvalue() for stream in streams]


def _shards() -> Reader:
    def write(folder: Path) -> Path:
        (folder / "pets").mkdir()
        with tarfile.open(folder / "pets/test-0.tar", "w") as archive:
            for place, picture in enumerate(_encoded()):
                for ending, content in (("png", picture), ("cls", b"%d" % place)):
                    member = tarfile.TarInfo(f"{place}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return folder / "pets/test-0.tar"

    return Reader(write, lambda path: _pixels(Shards(str(path.parent), classes=("a", "b", "c")).load("test")))


def _parquet() -> Reader:
    def write(folder: Path) -> Path:
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.table({"image": [{"bytes": each} for each in _encoded()], "label": [0, 1, 2]})
        parquet.write_table(table, folder / "a.parquet", write_page_checksum=True)
        return folder / "a.parquet"

    return Reader(write, lambda path: _pixels(Parquet(str(path)).load("test")))


def _picture(ending: str) -> Reader:
    def write(folder: Path) -> Path:
        path = folder / "pets" / "train" / "cat" / f"1.{ending}"
        path.parent.mkdir(parents=True)
        shown = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
        if ending == "deep.png":
            shown = Image.fromarray((np.arange(48).reshape(6, 8) * 1300).astype(np.uint16))
        elif ending in ("palette.png", "gif.png"):
            shown = shown.quantize(8)
        elif ending == "pgm":
            shown = shown.convert("L")
        shown.save(path, "GIF" if ending == "gif.png" else None)
        return path

    def read(path: Path) -> Any:
        return _pixels(ImageFolder(str(path.parents[2])).load("train"))

    return Reader(write, read, sealed=ending.endswith("png") and not ending.startswith("gif"))


def _network() -> MLP:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return MLP(shape=(1, 8, 8), hidden=(4,)).eval()


def _checkpoint(folder: Path) -> Path:
    network = _network()
    checkpoint.save(folder / "best.safetensors", {"classifier": network.state_dict(), "log": [{"epoch": 1}]}, {})
    return folder / "best.safetensors"


def _foreign(ending: str, wrapped: bool = False, old: bool = False) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import safetensors.torch

        path, state = folder / f"net.{ending}", _network().state_dict()
        if ending == "safetensors":
            safetensors.torch.save_file(state, path)
        else:
            held = {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}} if wrapped else state
            torch.save(held, path, _use_new_zipfile_serialization=not old)
        return path

    return write


def _filled(path: Path) -> Any:
    """The weights, as they are in a network that they fit."""
    network, state = _network(), read_state(path)
    fill(network, state, str(path))
    return network.state_dict()


def _onnx(folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draws = np.random.default_rng(0)
    weight = numpy_helper.from_array(draws.normal(size=(64, 10)).astype(np.float32), "w")
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])
    scores = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "net", [images], [scores], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(folder / "net.onnx"))
    return folder / "net.onnx"


def _answers(path: Path) -> Any:
    answer = Onnx(path)(torch.linspace(0, 1, 3 * 64).reshape(3, 1, 8, 8))
    if len(answer) != 3:
        raise AssertionError(f"{len(answer)} answers for 3 images")
    return answer


RECIPE = """data = "Digits"
start = "other.toml"
[network]
kind = "MLP"
hidden = [16, 8]
preprocess = { kind = "Normalise", mean = [0.5], std = [0.25] }
[defence]
kind = "AdversarialTraining"
clean_weight = 0.5
attack = { kind = "PGD", eps = 0.1, steps = 3, norm = "L2", box = [0.0, 1.0] }
[training]
epochs = 2
optimiser = { kind = "Adam", lr = 2e-2 }
schedule = { kind = "Linear", end = 0.1 }
[evaluation.attacks]
"FGSM .05" = { kind = "FGSM", eps = 0.05 }
"""
BATTERY = """images = 40
[attacks]
"FGSM .05" = { kind = "FGSM", eps = 0.05 }
"DeepFool" = { kind = "DeepFool", p = inf, overshoot = 0.02 }
"Margin" = { kind = "PGD", eps = 0.3, step_size = 0.01, loss = { kind = "Margin", confidence = 50.0 } }
"""


def _text(name: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return write


def _table() -> Evaluation:
    return evaluate(_network(), Digits().load("test").subset(torch.arange(6)), {"FGSM": FGSM(0.1)}, progress=False)


def _ours(folder: Path) -> Path:
    _table().save(folder / "table.parquet")
    return folder / "table.parquet"


def _rewritten(folder: Path) -> Path:
    """A table that another program has written again, without our hash."""
    from pyarrow import parquet

    table = _table()
    about = json.dumps(table.about | {"file": ""}).encode()
    parquet.write_table(table.table.replace_schema_metadata({b"steelman": about}), folder / "table.parquet")
    return folder / "table.parquet"


def _copied(source: str) -> Callable[[Path], Path]:
    """What an older version wrote."""

    def write(folder: Path) -> Path:
        path = folder / Path(source).name
        path.write_bytes((OLD / source).read_bytes())
        return path

    return write


def _rows(path: Path) -> Any:
    found = Evaluation.load(path)
    measures(found)
    return found.table.to_pydict(), [record.plain() for record in found.records]


def _results(folder: Path) -> Path:
    table = _table()
    table.save(folder / "table.parquet")
    entry = Entry("net", table, log=[{"epoch": 0, "loss": 2.3}], info={"data": "Digits"})
    (folder / "results.json").write_text(results_text(Document([entry], on="2026-01-01")), encoding="utf-8")
    return folder / "results.json"


def _entry(path: Path) -> Any:
    found = _left(path.parent)
    return found.name, list(found.log), dict(found.info), str(found.checkup), found.recipe


def _sweep(folder: Path) -> Path:
    found = measures(_table())
    outcomes = (
        SweptNetwork("a", {"training.epochs": "1"}, found, 2.0),
        SweptNetwork("b", {"training.epochs": "2"}, found, 3.0),
    )
    SweepResults(folder, "tiny", EvaluationOptions(images=6), next(iter(found)), outcomes).save()
    return folder / SweepResults.FILE


def _swept(path: Path) -> Any:
    found = SweepResults.load(path.parent)
    found.csv()
    return found.recipe, found.options, found.measure, [dict(vars(each)) for each in found.networks]


def _transfer(folder: Path) -> Path:
    Transfer("FGSM", {"a": _table(), "b": _table()}).save(folder)
    return folder / "transfer.json"


def _transferred(path: Path) -> Any:
    found = Transfer.load(path.parent)
    return found.attack, list(found.tables)


READERS: dict[str, Reader] = {
    "idx images": _idx("images", False),
    "idx labels": _idx("labels", False),
    "idx images, gzip": _idx("images", True),
    "idx labels, gzip": _idx("labels", True),
    "cifar": _cifar("data_batch_2.bin"),
    "cifar names": _cifar("batches.meta.txt"),
    "cifar, archive": _cifar("archive"),
    "mat": _mat(False),
    "mat, compressed": _mat(True),
    "npz": _npz(np.savez),
    "npz, compressed": _npz(np.savez_compressed),
    "shards": _shards(),
    "parquet": _parquet(),
    **{f"picture {ending}": _picture(ending) for ending in PICTURES},
    "checkpoint": Reader(_checkpoint, checkpoint.load, sealed=True),
    "safetensors": Reader(_foreign("safetensors"), _filled),
    "pt": Reader(_foreign("pt", wrapped=True), _filled, sealed=True),
    "pth": Reader(_foreign("pth", old=True), _filled),
    "recipe": Reader(_text("recipe.toml", RECIPE), load_recipe),
    "battery": Reader(_text("battery.toml", BATTERY), load_battery),
    "table": Reader(_ours, _rows, sealed=True),
    "table, rewritten": Reader(_rewritten, _rows),
    "table, older": Reader(_copied("old/two-spaces.parquet"), _rows),
    "transfer, older": Reader(_copied("old/transfer.parquet"), lambda path: list(Transfer.load(path).tables)),
    "checkpoint, older": Reader(_copied("old-run/best.safetensors"), checkpoint.load),
    "results": Reader(_results, _entry),
    "sweep": Reader(_sweep, _swept),
    "transfer": Reader(_transfer, _transferred),
    **({"onnx": Reader(_onnx, _answers)} if find_spec("onnx") and find_spec("onnxruntime") else {}),
}
