"""What stands between a damaged file and its user: one line that names the file, and nothing that has changed."""

import errno
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
import typer
from pyarrow import parquet
from scipy.io import savemat

from steelman import Plain, Training, checkpoint, fit
from steelman.cli.options import numbers, radius
from steelman.data import SVHN, Digits
from steelman.data.mat import read_mat
from steelman.files import decoding, parse_json, parse_toml, reason_of, refuse_bomb
from steelman.loading.weights import read_state
from steelman.networks import MLP
from steelman.networks.building import network_of
from steelman.table import Evaluation
from steelman.table.records import Record
from steelman.table.schema import COLUMNS, completed
from steelman.table.table import ABOUT


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("two\n  lines"), "two lines"),
        (ValueError(), "ValueError"),
        (MemoryError(), "MemoryError"),
        (RecursionError("deep"), "deep"),
        (struct.error("short"), "error: short"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"), "UnicodeDecodeError: 'utf-8' codec can't decode"),
        (OSError("no number"), "no number"),
        (ValueError("red \x1b[31m bell \x07"), "red \ufffd[31m bell \ufffd"),
        (OSError(errno.EINVAL, "Invalid argument"), "Invalid argument"),
        (RuntimeError("a" * 1000), "a" * 300 + " [...]"),
    ],
)
def test_what_a_library_raises_becomes_one_line(error: Exception, said: str) -> None:
    with pytest.raises(ValueError, match=r"^a\.bin is not a table: ") as caught, decoding("a.bin", "a table", "Again"):
        raise error
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is ValueError


def test_the_system_s_own_errors_stay(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), decoding("a", "b"):
        (tmp_path / "gone").read_bytes()
    with pytest.raises(OSError, match="No space left"), decoding("a", "b"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(KeyboardInterrupt), decoding("a", "b"):
        raise KeyboardInterrupt
    assert reason_of(ValueError("x")) == "x"


def test_texts_are_nested_a_hundred_deep_at_most() -> None:
    assert parse_json("[" * 100 + "]" * 100)
    assert parse_toml("a = " + "[" * 98 + "]" * 98)
    for parse, text in ((parse_json, "[" * 102 + "]" * 102), (parse_toml, "a = " + "[" * 102 + "]" * 102)):
        with pytest.raises(ValueError, match="nested more than 100 deep"):
            parse(text)
    for parse, text in ((parse_json, "[" * 100_000), (parse_json, b"\xff"), (parse_toml, "a = " + "[" * 100_000)):
        with pytest.raises(ValueError):  # noqa: PT011
            parse(text)


def test_a_small_file_may_be_all_zeros() -> None:
    refuse_bomb(2**26, 1)
    refuse_bomb(2**30, 2**30 // 200 + 1)
    with pytest.raises(ValueError, match=r"its 1 bytes claim to hold 67,108,865 bytes"):
        refuse_bomb(2**26 + 1, 1)


# --- MATLAB


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i2", "u4", "i8", "f4", "f8"])
def test_arrays_of_matlab_are_read_as_written(kind: str, compressed: bool, tmp_path: Path) -> None:
    wide, tall = np.arange(24).reshape(2, 3, 4).astype(kind), np.array([[7], [9]], kind)
    stored = {"text": "a", "X": wide, "cells": np.array([[1, "a"]], object), "y": tall, "table": {"z": 1}}
    savemat(tmp_path / "a.mat", stored, do_compression=compressed)
    for name, found in zip(("X", "y"), read_mat(tmp_path / "a.mat", "X", "y"), strict=True):
        assert found.dtype == kind
        assert np.array_equal(found, stored[name])


PLAIN = np.array([[1], [5], [10]])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (PLAIN + 0.5, "y should hold whole numbers"),
        (np.array([[1.0], [np.nan], [2.0]]), "y should hold whole numbers"),
        (np.array([[1.0], [np.inf], [2.0]]), "labels from|whole numbers"),
        (PLAIN * 1j, "y does not hold real numbers"),
        (np.array([["a", 1, 2]], object), "y does not hold real numbers"),
        (np.array(["one"]), "y does not hold real numbers"),
        (PLAIN * 10**9, "labels from 1000000000"),
        (PLAIN - 6, "labels from -5"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_labels_of_svhn_are_whole_numbers(labels: np.ndarray, message: str, compressed: bool, tmp_path: Path) -> None:
    stored = {"X": np.zeros((32, 32, 3, 3), np.uint8), "y": labels}
    savemat(tmp_path / "train_32x32.mat", stored, do_compression=compressed)
    with pytest.raises(ValueError, match=rf"train_32x32\.mat.*({message})") as caught:
        SVHN().load("train", tmp_path)
    assert "\n" not in str(caught.value)
    savemat(tmp_path / "train_32x32.mat", stored | {"y": PLAIN.astype(float)}, do_compression=compressed)
    assert SVHN().load("train", tmp_path).labels.tolist() == [1, 5, 0]


# --- weights


def test_every_changed_byte_of_a_tensor_is_found_in_an_archive(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(20.0)}, tmp_path / "a.pt")
    raw = (tmp_path / "a.pt").read_bytes()
    place = raw.index(torch.arange(20.0).numpy().tobytes())
    for at in range(place, place + 80, 7):
        (tmp_path / "b.pt").write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        with pytest.raises(
            ValueError, match=r"b\.pt is not a readable file of torch\.save: .*data/0.* fails its checksum"
        ):
            read_state(tmp_path / "b.pt")


def test_archives_without_checksums_and_old_files_are_read(tmp_path: Path) -> None:
    state = {"a": torch.arange(20.0)}
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert {member.CRC for member in zipfile.ZipFile(tmp_path / "a.pt").infolist()} == {0}
    torch.save(state, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "b.pt"):
        assert torch.equal(read_state(tmp_path / name)["a"], state["a"])


def test_a_file_that_holds_itself_ends(tmp_path: Path) -> None:
    held: dict[str, Any] = {"a": torch.zeros(1)}
    held["model"] = held
    torch.save(held, tmp_path / "a.pt")
    assert list(read_state(tmp_path / "a.pt")) == ["a"]


def test_weights_of_other_shapes_are_refused_in_one_line(tmp_path: Path) -> None:
    network = network_of({"kind": "MLP", "hidden": [4]}, (1, 8, 8), 10)
    for weights in (
        MLP(shape=(1, 8, 8), hidden=(5,)).state_dict(),
        {name: value for name, value in network.state_dict().items() if "bias" not in name},
        {"strange": torch.zeros(1)},
        {},
    ):
        checkpoint.save(tmp_path / "best.safetensors", {"nets": {"classifier": weights}}, {"classifier": network})
        with pytest.raises(ValueError, match=r"best\.safetensors is not a checkpoint of this MLP: ") as caught:
            checkpoint.network(tmp_path)
        assert "\n" not in str(caught.value)
    for state in ({"nets": {"classifier": 3}}, {"nets": 3}, {"nets": {}}, {}):
        checkpoint.save(tmp_path / "best.safetensors", state, {"classifier": network})
        with pytest.raises(
            ValueError, match=r"best\.safetensors(: its classifier is no state dict| has no classifier)"
        ):
            checkpoint.network(tmp_path)


def test_a_checkpoint_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    network = MLP(shape=(1, 8, 8), hidden=(4,))
    checkpoint.save(tmp_path / "last.safetensors", {"nets": {"classifier": network.state_dict()}})
    with pytest.raises(ValueError, match=r"last\.safetensors is a checkpoint of something else: it has no fingerprint"):
        fit(network, Digits().load("train"), Plain(), Training(epochs=1), folder=tmp_path, progress=False)


@pytest.mark.parametrize(
    "settings",
    [{"hidden": [-1]}, {"hidden": [10**15]}, {"hidden": [10**30]}, {"hidden": "ab"}, {"hidden": [[1]]}, {"hidden": 1}],
)
def test_sizes_of_a_network_that_cannot_be_are_refused_in_one_line(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^network: ") as caught:
        network_of({"kind": "MLP", **settings}, (1, 8, 8), 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["nan", ".5,inf", "-inf", "1e999", "x"])
def test_means_are_finite(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no list of numbers with commas between them"):
        numbers(text)


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "-.1", "0", "1/inf", "8/-255", "x", "1/0"])
def test_a_radius_of_the_command_is_finite_and_above_0(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is (no radius|not a number)"):
        radius(text)


# --- tables


def rows(**columns: list[Any]) -> pyarrow.Table:
    clean = Record("clean")
    plain = {"image": [0], "attack": ["clean"], "record": [clean.id], "label": [0], "clean_prediction": [0]}
    return completed(pyarrow.table(plain | {"prediction": [0], "success": [False]} | columns))[0]


def written(path: Path, table: pyarrow.Table, change: Callable[[dict[str, Any]], object] = lambda about: None) -> Path:
    """A table as another program writes it, which has no hash."""
    about = Evaluation.of(table, [Record("clean")]).about | {"file": ""}
    change(about)
    parquet.write_table(table.replace_schema_metadata({ABOUT: json.dumps(about).encode()}), path)
    return path


def test_a_table_of_another_program_is_brought_to_our_types(tmp_path: Path) -> None:
    table = rows()
    small = table.set_column(0, "image", table["image"].cast(pyarrow.int16()))
    small = small.set_column(1, "attack", small["attack"].dictionary_encode())
    found = Evaluation.load(written(tmp_path / "a.parquet", small)).table
    assert [found[name].type for name in COLUMNS] == [pyarrow.type_for_alias(each.kind) for each in COLUMNS.values()]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["zero"]}, "zero"),
        ({"image": [0.5]}, "0.5"),
        ({"label": [None]}, "the column label has empty cells"),
        ({"image": [1e30]}, "truncated"),
        ({"attack": ["other"]}, "rows are of the attack 'other', of which there is no record"),
        ({"record": ["other"]}, "rows are of the record 'other'"),
    ],
)
def test_a_table_with_other_values_is_refused(columns: dict[str, list[Any]], message: str, tmp_path: Path) -> None:
    table = rows()
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pyarrow.array(values))
    with pytest.raises(ValueError, match=rf"a\.parquet is not a whole evaluation table: .*{message}"):
        Evaluation.load(written(tmp_path / "a.parquet", table))


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.pop("records"),
        lambda about: about.update(records=3),
        lambda about: about["records"][0].update(steps="many"),
        lambda about: about["records"][0].update(name=None),
        lambda about: about["records"][0].update(made=[]),
        lambda about: about.update(probes=3),
        lambda about: about.update(file=64 * "0"),
    ],
)
def test_a_table_that_says_other_things_of_itself_is_refused(change: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.parquet is not a whole evaluation table: ") as caught:
        Evaluation.load(written(tmp_path / "a.parquet", rows(), change))
    assert "\n" not in str(caught.value)


def test_a_changed_table_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Evaluation.of(rows(), [Record("clean")]).save(tmp_path / "a.parquet")
    raw = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
    monkeypatch.setattr(parquet, "ParquetFile", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(ValueError, match="it has changed since it was written"):
        Evaluation.load(tmp_path / "a.parquet")
