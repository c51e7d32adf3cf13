"""What is streamed takes memory by the batch, and a few bytes for each image."""

import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import streaming

from scripts import run_script
from steelman.data import ImageFolder, Shards, dataset, stream

FEW, MANY, SIDE = 100, 500, 64
HELD = (MANY - FEW) * 3 * SIDE**2
"""Bytes that the further images would take, one for each number; four as floating point."""
FORMS = {"folder": ImageFolder, "shards": Shards}
STEPS = {"train": HELD, "evaluate": 9 * HELD}
"""With bounds: between two times at which an evaluation gives memory back, it takes some 30 MB."""
forms = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(scope="module")
def growth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """By step and number of images, the bytes by which a process grew."""
    root = tmp_path_factory.mktemp("streaming")
    run_script(__file__, str(root))
    lines = (line.split() for line in (root / "growth").read_text().splitlines())
    return {" ".join(words): int(size) for *words, size in lines}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("step", STEPS)
def test_memory_does_not_grow_with_the_number_of_images(growth: dict[str, int], step: str):
    few, many = (growth[f"{step} {count}"] for count in (FEW, MANY))
    assert many - few < STEPS[step]
    assert many > 0  # it is measured


@forms
def test_an_image_takes_few_bytes_in_every_process_that_reads(form: str, tmp_path: Path):
    sizes = []
    for count in (20, 120):
        made(tmp_path / str(count), form, count)
        items = FORMS[form](str(tmp_path / str(count))).load("train").items
        assert len(items) == count
        again = pickle.loads(pickle.dumps(items))  # as a process that is not forked gets it
        assert torch.equal(again[7][0], items[7][0])
        sizes.append(len(pickle.dumps(items)))
    assert sizes[1] - sizes[0] <= 40 * 100


def made(root: Path, form: str, count: int) -> Path:
    root.mkdir()
    streaming.SIZE = SIDE
    streaming.make(root, form, "train", count)
    streaming.make(root, form, "test", count)
    return root


def main(root: Path) -> None:
    torch.set_num_threads(1)
    # Its images are a twelfth of those of 224 x 224, and so are these bounds.
    dataset.NUMBERS, stream.READ_BEFORE_TRIM = dataset.NUMBERS // 64, stream.READ_BEFORE_TRIM // 16
    small = made(root / "small", "shards", 20)
    for step in STEPS:
        streaming.step(step, small, "shards", 0)  # imports, and first allocations
    for count in (FEW, MANY):
        folder = made(root / str(count), "shards", count)
        for step in STEPS:
            child = os.fork()
            if child == 0:
                Path("/proc/self/clear_refs").write_text("5")  # the highest is that from here on
                before = memory()["VmRSS"]
                streaming.step(step, folder, "shards", 0)
                with (root / "growth").open("a") as file:
                    file.write(f"{step} {count} {memory()['VmHWM'] - before}\n")
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0


def memory() -> dict[str, int]:
    """Bytes of this process, by the names of /proc."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines() if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(size) for name, size, _ in lines}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
