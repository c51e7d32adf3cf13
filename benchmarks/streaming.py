"""Read, train on and evaluate made pictures of 224 x 224 that lie on disk: images per second, and memory.

    python -m benchmarks.streaming --images 20000 --form shards --workers 2 --json streaming.json

Each step is a process of its own; the peak of its memory is reported, that of its workers included. "nothing" only
imports what the others do, and tells what they add. "read" takes bytes from the files, "decode" makes tensors of them,
"train" is an epoch of a light network, plain, and "pgd" the same on images of PGD-3; "evaluate" attacks a quarter as
many test images by FGSM. Needs no data.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZE, CLASSES, QUALITY, A_SHARD = 224, 10, 90, 1000
STEPS = ("nothing", "load", "read", "decode", "train", "pgd", "evaluate")
BATCH = 64


def picture(place: int, split: str) -> tuple[bytes, int]:
    """A JPEG of smooth colours and some noise, about as large as a photograph's, and its label: where it is red."""
    from PIL import Image

    chance = np.random.default_rng([place, split == "test"])
    label = place % CLASSES
    coarse = chance.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    coarse[label : label + 3, :, 0] = 255
    fine = np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.int16)
    noise = chance.integers(-12, 13, (SIZE, SIZE, 1), np.int16)
    stream = io.BytesIO()
    Image.fromarray((fine + noise).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue(), label


def make(root: Path, form: str, split: str, count: int) -> int:
    """Write a split; returns its bytes."""
    written, archive = 0, None
    for place in range(count):
        content, label = picture(place, split)
        written += len(content)
        if form == "folder":
            file = root / split / f"class{label}" / f"{place:08}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            continue
        if place % A_SHARD == 0:
            if archive is not None:
                archive.close()
            archive = tarfile.open(root / f"{split}-{place // A_SHARD:05}.tar", "w")  # noqa: SIM115
        assert archive is not None
        for ending, member in (("jpg", content), ("cls", str(label).encode())):
            about = tarfile.TarInfo(f"{place:08}.{ending}")
            about.size = len(member)
            archive.addfile(about, io.BytesIO(member))
    if archive is not None:
        archive.close()
    return written


def step(name: str, root: Path, form: str, workers: int) -> dict[str, Any]:
    """One step, in this process: images, seconds, and the highest memory of all processes."""
    import torch
    from torch import nn

    from steelman import FGSM, PGD, AdversarialTraining, Plain, Training, evaluate, fit
    from steelman.data import ImageFolder, Shards

    def load(split: str) -> Any:
        source = ImageFolder if form == "folder" else Shards
        return source(str(root), workers=workers).load(split)

    torch.manual_seed(0)
    light = nn.Sequential(
        *(nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, CLASSES)),
    )
    few = torch.rand(4, 3, 8, 8), torch.arange(4)
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    fit(tiny, few, AdversarialTraining(PGD(eps=0.1, steps=1)), Training(epochs=1), progress=False)
    evaluate(tiny, few, [FGSM(eps=0.1)], progress=False)  # now all is imported
    peak, begun, found = Peak(), time.perf_counter(), {}
    if name == "nothing":
        count = 0
    elif name == "load":
        count = len(load("train"))
    elif name == "read":
        data = load("train")
        count = sum(len(_bytes(data.items.read(place))) > 0 for place in torch.randperm(len(data)).tolist())
    elif name == "decode":
        data = load("train")
        begun = time.perf_counter()
        count = sum(len(batch) for batch in data.batches(torch.randperm(len(data)).split(BATCH)))
    elif name in ("train", "pgd"):
        data = load("train")
        defence = Plain() if name == "train" else AdversarialTraining(PGD(eps=4 / 255, steps=3))
        history = fit(light, data, defence, Training(epochs=1, batch_size=BATCH), progress=False)
        count, found = len(data), {"loss": history.last["loss"], "epoch seconds": history.last["seconds"]}
    else:
        data = load("test")
        table = evaluate(light.eval(), data, [FGSM(eps=4 / 255)], batch_size=BATCH, progress=False)
        count = table.images
    seconds = time.perf_counter() - begun
    return {"step": name, "images": count, "seconds": seconds, "peak MB": peak.stop(), **found}


class Peak(threading.Thread):
    """The highest memory of this process and its workers, looked at five times a second; shared pages count once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self.ended = 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while True:
            self.highest = max(self.highest, sum(map(_memory, ["self", *_children()])))
            if self.ended.wait(0.2):
                return

    def stop(self) -> float:
        self.ended.set()
        self.join()
        return self.highest


def _children() -> list[str]:
    return [pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]


def _memory(pid: str) -> float:
    """MB of a process; a page that several share counts in parts."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return sum(int(each.split()[1]) for each in lines if each.startswith("Pss:")) / 1024


def _bytes(source: Any) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source


def measured(name: str, root: Path, form: str, workers: int) -> dict[str, Any]:
    """A step in a new process, so that its peak is its own."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--step", name, "--root", str(root), "--form", form]
    done = subprocess.run([*command, "--workers", str(workers)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")
    return {**json.loads(done.stdout.splitlines()[-1]), "workers": workers}


def line(row: dict[str, Any], base: float) -> str:
    rate = row["images"] / row["seconds"]
    return (
        f"{row['step']:<9}{row['workers']:>8}{row['images']:>8}{row['seconds']:>9.1f}{rate:>10.0f}"
        f"{row['peak MB']:>9.0f}{row['peak MB'] - base:>9.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.streaming", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="training images (default: 2000)")
    parser.add_argument("--form", choices=("folder", "shards"), default="folder")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="processes that read (default: 0 2)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table there")
    parser.add_argument(
        "--root", type=Path, help="made pictures of an earlier call; default: made in a temporary folder"
    )
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        print(json.dumps(step(asked.step, asked.root, asked.form, *asked.workers)))
        return
    with tempfile.TemporaryDirectory(prefix="streaming-") as temporary:
        root, begun = asked.root or Path(temporary), time.perf_counter()
        if asked.root is None or not asked.root.is_dir():
            root.mkdir(exist_ok=True)
            size = make(root, asked.form, "train", asked.images)
            make(root, asked.form, "test", asked.images // 4)
            print(f"{asked.images} JPEGs of {size / asked.images / 1024:.0f} KB, {time.perf_counter() - begun:.0f} s")
        decoded = asked.images * 3 * SIZE**2 / 2**20
        print(f"decoded, the training images would take {decoded:.0f} MB as bytes and {4 * decoded:.0f} MB as floats")
        print("step      workers  images  seconds  images/s  peak MB    added")
        rows, base = [], 0.0
        for name in asked.steps:
            for workers in asked.workers if name not in STEPS[:3] else (0,):
                rows.append(measured(name, root, asked.form, workers))
                base = base or rows[-1]["peak MB"]
                print(line(rows[-1], base), flush=True)
        if asked.json:
            about = {"images": asked.images, "form": asked.form, "decoded MB": decoded, "cores": os.cpu_count()}
            asked.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
