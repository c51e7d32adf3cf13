"""The standard battery beside AutoAttack's own code: which leaves fewer images correct, and in what time.

`make evaluate DATA=folder`: two LeNets on MNIST, plain and PGD-trained, Linf .3, the first 1,000 test images. Both
sides get the same network, the same images and one thread; they are run one after the other in one process, and time is
that thread's own. Every returned image is judged here, in a fresh forward pass, inside box and ball. AutoAttack's code
asks for the worst case alone, so the battery does too (`survivors_only=True`). It collects the correct images
from all batches, the battery from four batches.

Our tables stay in runs/evaluate: `steelman evaluate RUN --battery standard --images 1000 --folder runs/evaluate/RUN`
makes the report of one without attacking again, `steelman compare runs/evaluate/*` that of both.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steelman.evaluation import evaluate
from steelman.evaluation.battery import named_battery
from steelman.experiments.run import train
from steelman.measures import clean_accuracy, robust_accuracy
from steelman.measures.accuracies import still_correct
from steelman.measures.waterfalls import waterfall
from steelman.norms import Linf
from steelman.table import Evaluation

NETWORKS = {"plain LeNet": "evaluate_mnist_plain", "PGD-trained LeNet": "evaluate_mnist_pgd"}
EPS = 0.3
BATCH = 250
"""AutoAttack's default, and ours."""
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the two networks are, or are trained")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/evaluate-mnist", help="without a suffix")
    parser.add_argument("--hardware", default="one core of an x86-64 machine", help="what the page says it was run on")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = {name: _measured(recipe, chosen) for name, recipe in NETWORKS.items()}
    found = {
        "command": f"python -m benchmarks.evaluate --data-dir DATA --images {chosen.images}",
        "date": date.today().isoformat(),
        "hardware": chosen.hardware,
        "torch": torch.__version__,
        "images": chosen.images,
        "networks": rows,
    }
    chosen.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    chosen.out.with_suffix(".md").write_text(page(found))


def _measured(recipe: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """One network's row; kept beside our table, so that a run that was stopped goes on with the next network."""
    run = train(recipe, chosen.runs, chosen.data_dir)
    folder = chosen.runs / "evaluate" / recipe
    kept = folder / f"beside-{chosen.images}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    test = run.data("test", chosen.data_dir)
    test = test.subset(torch.arange(chosen.images))
    model = run.network(test)
    (batch,) = test.batches([torch.arange(len(test))])
    table, ours = timed(lambda: _ours(model, test))
    table.save(folder / "table.parquet")
    x_adv, theirs = timed(lambda: _theirs(model, batch.x, batch.y))
    row = _row(table, ours, theirs, _standing(model, batch.x, batch.y, x_adv))
    kept.write_text(json.dumps(row, indent=1))
    return row


def timed(work: Any) -> tuple[Any, float]:
    """What came of it, and the seconds of this thread."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def _ours(model: nn.Module, test: Any) -> Evaluation:
    attacks = named_battery("standard", norm=Linf, eps=EPS).attacks
    return evaluate(model, test, attacks, survivors_only=True, batch_size=BATCH, progress=False)


def _theirs(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    from pyautoattack import AutoAttack  # pyright: ignore

    attack = AutoAttack(model, norm="Linf", eps=EPS, version="standard", seed=0, device="cpu")
    return attack.run_standard_evaluation(x, y, batch_size=BATCH)[0]


def _standing(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> np.ndarray:
    """Which images are still right; raises where one has left the box or the ball."""
    if x_adv.min() < 0 or x_adv.max() > 1 or float((x_adv.double() - x.double()).abs().max()) > EPS * (1 + 1e-6):
        raise RuntimeError("AutoAttack's own code has left the box or the ball")
    with torch.no_grad():
        return ((model(x).argmax(1) == y) & (model(x_adv).argmax(1) == y)).numpy()


def _row(table: Evaluation, ours: float, theirs: float, left: np.ndarray) -> dict[str, Any]:
    worst, mine = robust_accuracy(table, Linf, EPS), still_correct(table, Linf, EPS)
    cascade = waterfall(table, Linf, EPS)
    return {
        "clean": clean_accuracy(table).value,
        "ours": {"worst case": worst.value, "low": worst.low, "high": worst.high, "seconds": ours},
        "theirs": {"worst case": float(left.mean()), "seconds": theirs},
        "fell to theirs only": int((mine & ~left).sum()),
        "fell to ours only": int((~mine & left).sum()),
        "met": {name: len(table.only(name)) for name in table.attacks},
        "broken": {name: cascade.broken.get(name, 0) for name in table.attacks},
        "seconds": {name: float(table.only(name)["seconds"].sum()) for name in table.attacks},
    }


def page(found: dict[str, Any]) -> str:
    """The figures as a page."""
    lines = [
        "# The standard battery beside AutoAttack's own code",
        "",
        f"{found['date']}, `{found['command']}` (`make evaluate`): {found['hardware']}, one thread, PyTorch "
        f"{found['torch']}. The first {found['images']:,} test images of MNIST, Linf {EPS}. Plain: Deep Defense's "
        "LeNet; PGD-trained: the same network, trained on from there with PGD of 10 steps (`evaluate_mnist_pgd`). "
        "AutoAttack's code is pyautoattack's 0.2.0, version `standard`. Both were asked for the "
        "worst case alone, in one process; seconds are the thread's own.",
        "",
        "| network | clean | worst case, ours | theirs | time, ours : theirs | fell to ours only | to theirs only |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found["networks"].items():
        ours, theirs = row["ours"], row["theirs"]
        lines.append(
            f"| {name} | {100 * row['clean']:.1f} % | {100 * ours['worst case']:.1f} % "
            f"[{100 * ours['low']:.1f}, {100 * ours['high']:.1f}] | {100 * theirs['worst case']:.1f} % "
            f"| 1 : {theirs['seconds'] / ours['seconds']:.2f} | {row['fell to ours only']} "
            f"| {row['fell to theirs only']} |"
        )
    lines += [
        "",
        "How many images each attack was run on, how many it broke within the radius, and its share of the time:",
        "",
    ]
    lines += ["| network | attack | images | broken | time |", "|---|---|---|---|---|"]
    for name, row in found["networks"].items():
        whole = sum(row["seconds"].values())
        lines += [
            f"| {name} | {attack} | {met} | {row['broken'][attack]} | {100 * row['seconds'][attack] / whole:.0f} % |"
            for attack, met in row["met"].items()
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
