"""Small files that claim to be huge, and what is nested deep: each is refused at once, in little memory.

Run as a script with a folder, this reads them all with little memory to spare, and prints what came of it as JSON.
"""

import gzip
import json
import pickle
import resource
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steelman import checkpoint
from steelman.attacks import Attack
from steelman.config import read_file
from steelman.data import CIFAR10, MNIST, SVHN, Arrays, ImageFolder
from steelman.data.memory import as_dataset
from steelman.experiments.compare import _left
from steelman.experiments.recipe import load_recipe
from steelman.experiments.sweep_results import SweepResults
from steelman.files import UNSEALED, sealed
from steelman.loading.images import table
from steelman.loading.onnx import Onnx
from steelman.loading.weights import read_state
from steelman.measures import Transfer
from steelman.table import Evaluation

SPARE = LARGE = 2**28
"""Bytes of memory to read them with, above what was there before; and how many zeros they hold."""


def npy(shape: tuple[int, ...], kind: str = "|u1", content: bytes = b"") -> bytes:
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def npz(path: Path, method: int = zipfile.ZIP_STORED, **arrays: bytes) -> None:
    x, y = npy((2, 2, 2), content=bytes(8)), npy((2,), content=bytes(2))
    small = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for name, content in (small | arrays).items():
            archive.writestr(f"{name}.npy", content)


def labels(path: Path, highest: int) -> None:
    numbers = np.array([0, highest], np.int64)
    np.savez(path, x_train=np.zeros((2, 2, 2)), y_train=numbers, x_test=np.zeros((2, 2, 2)), y_test=numbers)


def idx(path: Path, images: int, content: bytes) -> None:
    path = path / "mnist"
    path.mkdir()
    raw = struct.pack(">4I", 0x803, images, 28, 28) + content
    (path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(raw, 1))
    (path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">2I", 0x801, 2) + b"\0\1"))


def swollen(path: Path, damage: Callable[[bytes], bytes]) -> None:
    """An .npz file whose array is packed by LZMA, damaged."""
    npz(path, zipfile.ZIP_LZMA, x_train=npy((1000,), content=bytes(range(250)) * 4))
    path.write_bytes(damage(path.read_bytes()))


def flipped(raw: bytes) -> bytes:
    place = raw.index(b"x_train.npy") + 60
    return raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :]


def archive(path: Path, size: int) -> None:
    """A tar archive with a file that claims to be of this size, of which all but 300 MB are missing."""
    with gzip.open(path / "cifar-10-binary.tar.gz", "wb", 1) as stream:
        info = tarfile.TarInfo("cifar-10-batches-bin/rubbish.bin")
        info.size = size
        stream.write(info.tobuf())
        for _ in range(300):
            stream.write(bytes(2**20))


def picture(path: Path) -> None:
    (path / "train" / "cat").mkdir(parents=True)
    head = b"GIF89a" + struct.pack("<2H3B", 8000, 10_000, 0x80, 0, 0) + bytes(6)
    (path / "train" / "cat" / "1.png").write_bytes(
        head + b"," + struct.pack("<4HB", 0, 0, 8000, 10_000, 0) + b"\x02\x00;"
    )


def matlab(path: Path, claimed: int) -> None:
    """A matrix that claims to be of so many images; compressed, it holds a lot of zeros."""
    name, shape = struct.pack("<IHH", 1 | 1 << 16, ord("X"), 0), struct.pack("<4i", 32, 32, 3, claimed)
    inner = struct.pack("<4I", 6, 8, 9, 0) + struct.pack("<2I", 5, 16) + shape + name + struct.pack("<2I", 2, LARGE)
    squeeze = zlib.compressobj(9)
    packed = squeeze.compress(struct.pack("<2I", 14, LARGE + len(inner)) + inner)
    packed += b"".join(squeeze.compress(bytes(2**20)) for _ in range(LARGE >> 20)) + squeeze.flush()
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM")
    (path / "train_32x32.mat").write_bytes(header + struct.pack("<2I", 15, len(packed)) + packed)


def weights(path: Path) -> None:
    """An archive of torch whose tensor is joined by a lot of zeros."""
    torch.save({"a": torch.zeros(3)}, path)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as whole,
        whole.open("archive/data/9", "w") as stream,
    ):
        for _ in range(LARGE >> 20):
            stream.write(bytes(2**20))


def named(path: Path, zipped: bool) -> None:
    """A file of torch that asks for a class of a very long name, with the right checksum."""
    pickled = b"\x80\x02c" + b"a" * 10**6 + b"\nb\n."
    if not zipped:
        magic, other = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
        path.write_bytes(magic + other + pickle.dumps({}, 2) + pickled + pickle.dumps([], 2))
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")


def onnx(path: Path, batch: int) -> None:
    """A model for so many images at once."""
    from onnx import TensorProto, helper, save

    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 8]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", *([each] for each in ends))
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def safetensors(path: Path, length: int, header: bytes) -> None:
    path.write_bytes(struct.pack("<Q", length) + header)


def ours(path: Path, state: str) -> None:
    """A checkpoint with a right seal, and a header that somebody wrote."""
    inner = '{"digest":"' + UNSEALED + '","version":"0","networks":{},"state":' + state + "}"
    header = json.dumps({"__metadata__": {checkpoint.FORMAT: inner}}, separators=(",", ":")).encode()
    path.write_bytes(sealed(struct.pack("<Q", len(header)) + header))


def rows(path: Path) -> None:
    """A small file of a table of 40 million rows."""
    import pyarrow
    from pyarrow import parquet

    chunk = pyarrow.table({"image": pyarrow.DictionaryArray.from_arrays(np.zeros(10**6, np.int32), [7])})
    with parquet.ParquetWriter(path, chunk.schema, compression="zstd") as writer:
        for _ in range(40):
            writer.write_table(chunk)


def deep(brackets: str = "[]", levels: int = 3000) -> str:
    return brackets[0] * levels + brackets[-1] * levels


def results(path: Path, text: str) -> None:
    """A folder of results with a right table."""
    import pyarrow

    from steelman.table.records import Record
    from steelman.table.schema import completed

    clean = Record("clean")
    columns = {"image": [0], "attack": ["clean"], "record": [clean.id], "label": [0], "clean_prediction": [0]}
    columns |= {"prediction": [0], "success": [False]}
    Evaluation.of(completed(pyarrow.table(columns))[0], [clean]).save(path / "table.parquet")
    (path / "results.json").write_text(text)


def to(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


HUGE = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}'

# name: (what makes it in a folder, what reads it)
BOMBS: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any]]] = {
    "npz with a header of 10^12 images": (
        lambda at: npz(at / "a.npz", x_train=npy((10**12, 32, 32, 3))),
        lambda at: Arrays(str(at / "a.npz")).load("train"),
    ),
    "npz with a header that overflows": (
        lambda at: npz(at / "a.npz", x_train=npy((2**62, 2**62, 4))),
        lambda at: Arrays(str(at / "a.npz")).load("train"),
    ),
    "npz that holds a lot of zeros": (
        lambda at: npz(at / "a.npz", zipfile.ZIP_DEFLATED, x_train=npy((LARGE,), content=bytes(LARGE))),
        lambda at: Arrays(str(at / "a.npz")).load("train"),
    ),
    "npz with damaged LZMA": (
        lambda at: swollen(at / "a.npz", flipped),
        lambda at: Arrays(str(at / "a.npz")).load("train"),
    ),
    "npz with LZMA that is cut": (
        lambda at: swollen(at / "a.npz", lambda raw: raw[:400] + raw[-600:]),
        lambda at: Arrays(str(at / "a.npz")).load("train"),
    ),
    "npz with a label of 10^9": (
        lambda at: labels(at / "a.npz", 10**9),
        lambda at: Arrays(str(at / "a.npz")).load("train"),
    ),
    "npz with a label of 10^18": (
        lambda at: labels(at / "a.npz", 10**18),
        lambda at: Arrays(str(at / "a.npz")).load("test"),
    ),
    "tensors with a label of 10^9": (
        lambda at: None,
        lambda at: as_dataset((torch.zeros(2, 1, 2, 2), torch.tensor([0, 10**9]))),
    ),
    "idx with a header of 2^32 images": (
        lambda at: idx(at, 2**32 - 1, b"\0" * 100),
        lambda at: MNIST().load("train", at),
    ),
    "idx that holds a lot of zeros": (
        lambda at: idx(at, LARGE // 784, bytes(LARGE // 784 * 784)),
        lambda at: MNIST().load("train", at),
    ),
    "idx with more than its header says": (
        lambda at: idx(at, 2, bytes(LARGE)),
        lambda at: MNIST().load("train", at),
    ),
    "picture of 32 bytes and 80 million pixels": (
        lambda at: picture(at),
        lambda at: list(ImageFolder(str(at)).load("train").in_order(1)),
    ),
    "tar with a file of 100 GB": (lambda at: archive(at, 10**11), lambda at: CIFAR10().load("train", at)),
    "tar with a file of 300 MB": (lambda at: archive(at, 300 << 20), lambda at: CIFAR10().load("test", at)),
    "mat with a header of 2^31 images": (lambda at: matlab(at, 2**31 - 1), lambda at: SVHN().load("train", at)),
    "mat that holds a lot of zeros": (lambda at: matlab(at, LARGE // 3072), lambda at: SVHN().load("train", at)),
    "pt of 0 bytes": (to("a.pt", b""), lambda at: read_state(at / "a.pt")),
    "pth of 0 bytes": (to("a.pth", b""), lambda at: read_state(at / "a.pth")),
    "pt that holds a lot of zeros": (lambda at: weights(at / "a.pt"), lambda at: read_state(at / "a.pt")),
    "pt with a name of a million letters": (lambda at: named(at / "a.pt", True), lambda at: read_state(at / "a.pt")),
    "pth with a name of a million letters": (
        lambda at: named(at / "a.pth", False),
        lambda at: read_state(at / "a.pth"),
    ),
    "safetensors of 0 bytes": (to("a.safetensors", b""), lambda at: read_state(at / "a.safetensors")),
    "safetensors with a header of 10^18 bytes": (
        lambda at: safetensors(at / "a.safetensors", 10**18, b"{}"),
        lambda at: read_state(at / "a.safetensors"),
    ),
    "safetensors with a tensor of 10^12 numbers": (
        lambda at: safetensors(at / "a.safetensors", len(HUGE), HUGE),
        lambda at: read_state(at / "a.safetensors"),
    ),
    "safetensors that is nested deep": (
        lambda at: safetensors(at / "a.safetensors", 6005, b'{"a":' + deep().encode()),
        lambda at: read_state(at / "a.safetensors"),
    ),
    "checkpoint that is nested deep": (
        lambda at: ours(at / "a.safetensors", deep()),
        lambda at: checkpoint.load(at / "a.safetensors"),
    ),
    "checkpoint whose state is a list": (
        lambda at: ours(at / "a.safetensors", "[1]"),
        lambda at: checkpoint.load(at / "a.safetensors"),
    ),
    "checkpoint whose state has another's tensor": (
        lambda at: ours(at / "a.safetensors", '{"classifier":{"$tensor":"x"}}'),
        lambda at: checkpoint.load(at / "a.safetensors"),
    ),
    "toml that is nested deep": (
        to("a.toml", f"data = {deep()}".encode()),
        lambda at: load_recipe(at / "a.toml"),
    ),
    "toml with a table that is nested deep": (
        to("a.toml", b"data = " + b"{a=" * 3000 + b"1" + b"}" * 3000),
        lambda at: read_file(at / "a.toml", "battery", lambda settings: settings),
    ),
    "a table on the command line that is nested deep": (
        lambda at: None,
        lambda at: table("{a = " + deep() + "}", "--data"),
    ),
    "results that are nested deep": (lambda at: results(at, deep()), _left),
    "results of another kind": (lambda at: results(at, "[]"), _left),
    "results without models": (lambda at: results(at, "{}"), _left),
    "results without what a model has": (lambda at: results(at, '{"models": {"a": {}}}'), _left),
    "results that are no JSON": (lambda at: results(at, '{"models": {"a": {"checkup"'), _left),
    "sweep that is nested deep": (to("sweep.json", deep().encode()), SweepResults.load),
    "sweep without networks": (to("sweep.json", b"{}"), SweepResults.load),
    "transfer that is nested deep": (to("transfer.json", deep().encode()), Transfer.load),
    "transfer without tables": (to("transfer.json", b'{"attack": "a"}'), Transfer.load),
    "transfer that names a table elsewhere": (
        to("transfer.json", b'{"attack": "a", "tables": {"b": "../../etc"}}'),
        Transfer.load,
    ),
    "table of 0 bytes": (to("a.parquet", b""), lambda at: Evaluation.load(at / "a.parquet")),
    "table of 40 million rows": (lambda at: rows(at / "a.parquet"), lambda at: Evaluation.load(at / "a.parquet")),
}
if find_spec("onnx") and find_spec("onnxruntime"):
    BOMBS |= {
        "onnx of 0 bytes": (to("a.onnx", b""), lambda at: Onnx(at / "a.onnx")),
        "onnx with a batch of 10^12 images": (
            lambda at: onnx(at / "a.onnx", 10**12),
            lambda at: Onnx(at / "a.onnx"),
        ),
    }


def main(root: Path) -> None:
    attack: Any = Attack  # what is imported late is imported before memory is counted
    assert attack
    for number, (make, _) in enumerate(BOMBS.values()):
        (root / str(number)).mkdir()
        make(root / str(number))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, used + SPARE))
    found = {}
    for number, (name, (_, read)) in enumerate(BOMBS.items()):
        start = time.perf_counter()
        try:
            said = f"it was read: {read(root / str(number))!r:.100}"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        found[name] = said, time.perf_counter() - start
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
