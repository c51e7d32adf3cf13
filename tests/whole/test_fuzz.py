"""Damaged files: every reader refuses them in one line, or reads what was written. `make soak` has a long form."""

import resource

import pytest
from benchmarks.fuzz.damage import Found, fuzz
from benchmarks.fuzz.readers import READERS

SHARES = 4
EACH = 30
"""Damaged files for each reader: more than 1,000 in all."""


def peak() -> int:
    """Bytes of memory that this process has had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("share", range(SHARES))
def test_a_damaged_file_is_refused_in_one_line_or_read_as_it_was(share: int) -> None:
    names, before = list(READERS)[share::SHARES], peak()
    found = fuzz(names, EACH * len(names), seed=0)
    assert found.faults == []
    assert found.refused > EACH * len(names) / 2
    assert found.refused + found.same + found.other == EACH * len(names)
    assert peak() - before < 2**29


def test_there_are_a_thousand_damaged_files_and_all_formats() -> None:
    assert EACH * len(READERS) > 1000
    formats = (
        "idx",
        "cifar",
        "mat",
        "npz",
        "shards",
        "parquet",
        "picture",
        "safetensors",
        "checkpoint",
        "pt",
        "onnx",
        "recipe",
        "results",
    )
    for each in (*formats, "battery", "table", "sweep", "transfer"):
        assert any(name.startswith(each) for name in READERS)


def test_the_same_seed_makes_the_same_files() -> None:
    one, again = (fuzz(["idx images", "recipe"], 20, seed=3) for _ in range(2))
    assert (one.refused, one.same, one.other) == (again.refused, again.same, again.other)


@pytest.mark.parametrize(
    ("raised", "fault"),
    [
        (KeyError("x"), "KeyError at"),
        (ValueError("{path} is wrong\nin two lines"), "in two lines"),
        (ValueError("it does not name the file"), "does not name"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "{path}"), "UnicodeDecodeError at"),
        (None, "another value was let through"),
    ],
)
def test_a_bad_reader_is_caught(raised: Exception | None, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, calls = READERS["checkpoint"], []

    def read(path) -> object:
        calls.append(path)
        if len(calls) == 1:
            return "as it was written"
        if raised is not None:
            raise type(raised)(
                *(str(each).format(path=path) if isinstance(each, str) else each for each in raised.args)
            )
        return "other"

    monkeypatch.setitem(READERS, "checkpoint", type(reader)(reader.write, read, sealed=True))
    found: Found = fuzz(["checkpoint"], 3, seed=0)
    assert len(found.faults) == 3
    assert fault in found.faults[0]
