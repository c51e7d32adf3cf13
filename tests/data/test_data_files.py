"""Every file format: read as written, found where promised, refused by name when damaged."""

import gzip
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from steelman.data import CIFAR10, CIFAR100, KMNIST, MNIST, SVHN, Arrays, FashionMNIST, cifar
from steelman.data.files import Remote, locate
from steelman.networks import SubtractMean

REAL = Path(__file__).parents[3] / "shared" / "data"
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found by chance, and every download is refused at once."""
    import pooch

    def refuse(url: str, *_: object) -> bool:
        raise ConnectionRefusedError("no network in tests")

    monkeypatch.delenv("STEELMAN_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path / "cache")
    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: refuse)


def idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()


def write_idx(home: Path, part: str = "train", zipped: bool = True) -> tuple[np.ndarray, np.ndarray]:
    images, labels = RANDOM.integers(0, 256, (30, 28, 28), np.uint8), RANDOM.integers(0, 10, 30, np.uint8)
    home.mkdir(parents=True, exist_ok=True)
    for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
        if zipped:
            (home / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
        else:
            (home / name).write_bytes(idx_bytes(values))
    return images, labels


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("source", "inside"),
    [
        (MNIST(), "mnist"),
        (MNIST(), "MNIST/raw"),
        (MNIST(), "."),
        (FashionMNIST(), "FashionMNIST/raw"),
        (FashionMNIST(), "fashion-mnist"),
        (KMNIST(), "kmnist"),
    ],
)
def test_idx_is_read_as_written(source, inside: str, zipped: bool, tmp_path: Path) -> None:
    write_idx(tmp_path / inside, "train", zipped)
    images, labels = write_idx(tmp_path / inside, "t10k", zipped)
    for folder in {tmp_path, tmp_path / inside}:
        dataset = source.load("test", folder)
        assert dataset.name == type(source).__name__
        (batch,) = dataset.in_order(30)
        assert torch.equal(batch.x, torch.from_numpy(images[:, None].astype(np.float32)) / 255)
        assert batch.y.tolist() == labels.tolist()


def test_look_alikes_do_not_read_each_others_files(tmp_path: Path) -> None:
    write_idx(tmp_path)
    write_idx(tmp_path / "mnist")
    MNIST().load("train", tmp_path)
    for source in (FashionMNIST(), KMNIST()):
        with pytest.raises(FileNotFoundError, match="missing: train-images"):
            source.load("train", tmp_path)


def test_folders_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "cache" / "mnist")
    MNIST().load("train")
    _, labels = write_idx(tmp_path / "env" / "mnist")
    monkeypatch.setenv("STEELMAN_DATA", str(tmp_path / "env"))
    assert MNIST().load("train").labels.tolist() == labels.tolist()
    _, labels = write_idx(tmp_path / "argument" / "mnist")
    assert MNIST().load("train", tmp_path / "argument").labels.tolist() == labels.tolist()


def test_missing_files_are_named_with_source_and_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        MNIST().load("test", tmp_path)
    message = str(caught.value)
    for part in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "https://ossci", str(tmp_path / "mnist")):
        assert part in message
    assert not (tmp_path / "mnist").exists()


def damage_idx(home: Path, kind: str) -> str:
    images, labels = home / "train-images-idx3-ubyte.gz", home / "train-labels-idx1-ubyte.gz"
    raw = gzip.decompress(images.read_bytes())
    match kind:
        case "magic":
            images.write_bytes(gzip.compress(b"\0\0\x08\x01" + raw[4:]))
        case "short":
            images.write_bytes(gzip.compress(raw[:-1]))
        case "long":
            images.write_bytes(gzip.compress(raw + b"\0"))
        case "header":
            images.write_bytes(gzip.compress(raw[:10]))
        case "truncated gzip":
            images.write_bytes(images.read_bytes()[:-20])
        case "checksum":
            content = bytearray(images.read_bytes())
            content[-8] ^= 1
            images.write_bytes(content)
        case "no gzip":
            images.write_bytes(raw)
        case "count":
            labels.write_bytes(gzip.compress(idx_bytes(np.zeros(29, np.uint8))))
            return labels.name
        case "label":
            labels.write_bytes(gzip.compress(idx_bytes(np.full(30, 10, np.uint8))))
            return labels.name
    return images.name


IDX_DAMAGE = ["magic", "short", "long", "header", "truncated gzip", "checksum", "no gzip", "count", "label"]


@pytest.mark.parametrize("kind", IDX_DAMAGE)
def test_damaged_idx_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    write_idx(tmp_path / "mnist")
    with pytest.raises(ValueError, match=damage_idx(tmp_path / "mnist", kind)):
        MNIST().load("train", tmp_path)


def write_cifar(home: Path, fine: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, np.ndarray], Path]:
    """Small files in the official layout; the official counts are patched to match."""
    monkeypatch.setattr(cifar, "_COUNTS", {"train": 20, "test": 4})
    folder = home / ("cifar-100-binary" if fine else "cifar-10-batches-bin")
    folder.mkdir(parents=True)
    width, classes = (3074, 100) if fine else (3073, 10)
    names = {"train.bin": 20, "test.bin": 4} if fine else {f"data_batch_{i}.bin": 4 for i in range(1, 6)}
    if not fine:
        names["test_batch.bin"] = 4
    written = {}
    for name, count in names.items():
        records = RANDOM.integers(0, 256, (count, width), np.uint8)
        records[:, : width - 3072] %= 20 if fine else 10
        records[:, width - 3073] = RANDOM.integers(0, classes, count)
        (folder / name).write_bytes(records.tobytes())
        written[name] = records
    (folder / ("fine_label_names.txt" if fine else "batches.meta.txt")).write_text(
        "\n".join(f"class{label}" for label in range(classes)) + "\n\n"
    )
    return written, folder


def pack(folder: Path) -> Path:
    archive = folder.parent / ("cifar-100-binary.tar.gz" if "100" in folder.name else "cifar-10-binary.tar.gz")
    with tarfile.open(archive, "w:gz") as writer:
        writer.add(folder, folder.name)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return archive


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("fine", [False, True])
def test_cifar_is_read_as_written(fine: bool, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, folder = write_cifar(tmp_path / "cifar10" if not fine else tmp_path, fine, monkeypatch)
    if packed:
        pack(folder)
    source = CIFAR100() if fine else CIFAR10()
    for split, names in (("train", [name for name in written if "test" not in name]), ("test", [[*written][-1]])):
        records = np.concatenate([written[name] for name in names])
        dataset = source.load(split, tmp_path)
        (batch,) = dataset.in_order(100)
        assert batch.y.tolist() == records[:, 1 if fine else 0].tolist()
        for image, record in zip(batch.x, records, strict=True):
            for channel, row, column in ((0, 0, 0), (1, 3, 5), (2, 31, 30)):
                value = record[(2 if fine else 1) + channel * 1024 + row * 32 + column]
                assert image[channel, row, column] == np.float32(value) / np.float32(255)
        assert dataset.classes[7] == "class7"


def test_cifar_leaves_images_out_and_keeps_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, False, monkeypatch)
    np.savez(tmp_path / "out.npz", train=np.array([0, 7]), test=np.array([], np.int64))
    assert CIFAR10(leave_out="out.npz").load("train", tmp_path).index.tolist() == [*range(1, 7), *range(8, 20)]
    assert len(CIFAR10(leave_out="out.npz").load("test", tmp_path)) == 4
    np.savez(tmp_path / "out.npz", train=np.array([20]))
    with pytest.raises(ValueError, match=r"out\.npz: train must be"):
        CIFAR10(leave_out="out.npz").load("train", tmp_path)
    with pytest.raises(ValueError, match=r"out\.npz needs the arrays test"):
        CIFAR10(leave_out="out.npz").load("test", tmp_path)


@pytest.mark.parametrize("kind", ["short", "record", "label", "names", "missing"])
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_cifar_is_refused_by_name(
    kind: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = write_cifar(tmp_path, False, monkeypatch)
    batch = folder / "data_batch_3.bin"
    content = bytearray(batch.read_bytes())
    match kind:
        case "short":
            batch.write_bytes(content[:-1])
        case "record":
            batch.write_bytes(content[:-3073])
        case "label":
            content[0] = 10
            batch.write_bytes(content)
        case "names":
            batch = folder / "batches.meta.txt"
            batch.write_text("one\ntwo\n")
        case "missing":
            batch.unlink()
    if packed:
        pack(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=batch.name):
        CIFAR10().load("train", tmp_path)


def test_a_truncated_archive_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = write_cifar(tmp_path, False, monkeypatch)
    archive = pack(folder)
    content = archive.read_bytes()
    for length in (5, len(content) // 2, len(content) - 5):
        archive.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz is"):
            CIFAR10().load("test", tmp_path)


def test_svhn_is_read_as_written(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 256, (32, 32, 3, 12), np.uint8)
    labels = np.array([[10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1]], np.uint8).T
    savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": labels}, do_compression=True)
    (batch,) = SVHN().load("test", tmp_path).in_order(100)
    assert batch.y.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert batch.x[3, 2, 10, 20] == np.float32(pixels[10, 20, 2, 3]) / np.float32(255)


@pytest.mark.parametrize("kind", ["truncated", "rubbish", "empty", "label", "count", "shape", "variable"])
def test_damaged_svhn_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    stored = {"X": RANDOM.integers(0, 256, (32, 32, 3, 12), np.uint8), "y": np.full((12, 1), 5, np.uint8)}
    match kind:
        case "label":
            stored["y"][3] = 0
        case "count":
            stored["y"] = stored["y"][:-1]
        case "shape":
            stored["X"] = stored["X"].transpose(3, 0, 1, 2)
        case "variable":
            del stored["y"]
    file = tmp_path / "train_32x32.mat"
    savemat(file, stored, do_compression=True)
    content = {"truncated": file.read_bytes()[:5000], "rubbish": b"rubbish" * 100, "empty": b""}
    file.write_bytes(content.get(kind, file.read_bytes()))
    with pytest.raises(ValueError, match=r"train_32x32\.mat"):
        SVHN().load("train", tmp_path)


def npz(file: Path, x: np.ndarray, y: np.ndarray) -> None:
    np.savez(file, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])


@pytest.mark.parametrize(("shape", "last"), [((6, 5, 4), False), ((6, 3, 5, 4), False), ((6, 5, 4, 3), True)])
def test_arrays_are_read_as_written(shape: tuple[int, ...], last: bool, tmp_path: Path) -> None:
    x, y = RANDOM.random(shape), np.array([[0], [2], [1], [3], [0], [1]])
    npz(tmp_path / "a.npz", x, y)
    dataset = Arrays("a.npz", channels_last=last).load("train", tmp_path)
    (batch,) = dataset.in_order(10)
    expected = x.reshape(6, -1, 5, 4) if not last else np.moveaxis(x, 3, 1)
    assert np.array_equal(batch.x.numpy(), expected.astype(np.float32))
    assert batch.y.tolist() == y[:, 0].tolist()
    assert dataset.classes == ("0", "1", "2", "3")
    assert Arrays("a.npz", channels_last=last).load("test", tmp_path).classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((6, 32, 32, 3)), np.zeros(6, int), "Is channels_last right"),
        (np.zeros((6, 4)), np.zeros(6, int), "should have shape"),
        (np.zeros((6, 4, 4)), np.zeros(6), "should hold integers"),
        (np.zeros((6, 4, 4)), np.zeros(5, int), "labels int64 of shape"),
        (np.full((6, 4, 4), 255.0), np.zeros(6, int), "pixels must lie"),
        (np.zeros((6, 4, 4), np.int32), np.zeros(6, int), "should be uint8"),
        (np.array([None] * 6), np.zeros(6, int), "is not an .npz file"),
    ],
)
def test_bad_arrays_are_refused_by_name(x: np.ndarray, y: np.ndarray, message: str, tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", x, y)
    with pytest.raises(ValueError, match=rf"a\.npz.*{message}"):
        Arrays("a.npz").load("train", tmp_path)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04rubbish"])
def test_what_is_no_npz_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz is not an"):
        Arrays("a.npz").load("train", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no b\.npz; looked for"):
        Arrays("b.npz").load("train", tmp_path)
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 2, 2)), y_train=np.zeros(2, int))
    with pytest.raises(ValueError, match=r"a\.npz needs the arrays"):
        Arrays("a.npz").load("train", tmp_path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A web server of this machine, with one file."""
    import pooch

    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path / "cache")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "file.bin").write_bytes(b"content")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web"))) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


MD5 = "9a0364b9e99bb480dd25e1f0284c8555"  # of b"content", by md5sum


def test_downloads_try_mirrors_check_and_stay(server: str, tmp_path: Path) -> None:
    wanted = [Remote("file.bin", MD5, (f"{server}/lost.bin", f"{server}/file.bin"))]
    (file,) = locate(wanted, ("own",), tmp_path / "data")
    assert file == tmp_path / "data" / "own" / "file.bin"
    assert file.read_bytes() == b"content"
    (tmp_path / "web" / "file.bin").unlink()
    assert locate(wanted, ("own",), tmp_path / "data") == [file]


def test_a_download_with_a_wrong_checksum_is_not_kept(server: str, tmp_path: Path) -> None:
    wrong = [Remote("file.bin", MD5.replace("9", "8"), (f"{server}/file.bin",))]
    with pytest.raises(FileNotFoundError, match="hash of downloaded file"):
        locate(wrong, ("own",), tmp_path / "data")
    assert not (tmp_path / "data" / "own").exists()


@pytest.mark.skipif(not (REAL / "mnist").exists(), reason="no MNIST in ../shared/data")
def test_real_mnist() -> None:
    train, test = MNIST().load("train", REAL), MNIST().load("test", REAL)
    assert (len(train), len(test)) == (60_000, 10_000)
    counts = torch.bincount(train.images.flatten(), minlength=256).double()
    level = torch.arange(256).double() / 255
    mean = (counts @ level) / counts.sum()
    assert abs(mean - 0.1307) < 5e-5  # as torchvision's examples have them
    assert abs((counts @ (level - mean).square() / counts.sum()).sqrt() - 0.3081) < 5e-5
    assert torch.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    (batch,) = test.in_order(10_000)
    layer = SubtractMean(shape=train.shape).fit(train)
    away, raw = layer(batch.x).flatten(1).norm(dim=1).mean(), batch.x.flatten(1).norm(dim=1).mean()
    assert abs(away - 7.21) < 0.005  # the spaces in which Deep Defense measures, and does not
    assert abs(raw - 9.30) < 0.005
