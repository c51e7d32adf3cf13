"""Carlini and Wagner's tables III and IV, measured anew on MNIST with their network, beside the printed numbers.

    steelman train plain_mnist_carlini
    python benchmarks/carlini_tables.py --data-dir DATA [--only III|IV] [--page]

Every cell is an attack on every image towards each of its nine wrong classes, or untargeted where it has no targets. A
finished cell is kept in the JSON file, so that the run can be stopped and called again; --page writes the page from what
is there.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelman import CarliniWagner, DeepFool
from steelman.attacks import Attack
from steelman.attacks.over_targets import over_targets
from steelman.data import MNIST
from steelman.data.dataset import Dataset
from steelman.norms import L0, L2, Linf, Norm
from steelman.runs import Run

RESULTS = Path("docs/results/carlini-wagner-tables.json")
CASES = ("best", "average", "worst")
OBJECTIVES = ("f1", "f2", "f3", "f4", "f5", "f6", "f7")
ENCODINGS = {"tanh": "change of variable", "clipped": "clipped descent", "projected": "projected descent"}

III = {  # mean L2 and success in per cent, of tanh, clipped and projected
    "best": [
        *[(2.46, 100, 2.93, 100, 2.31, 100), (4.55, 80, 3.97, 83, 3.49, 83), (4.54, 77, 4.07, 81, 3.76, 82)],
        *[(5.01, 86, 6.52, 100, 7.53, 100), (1.97, 100, 2.20, 100, 1.94, 100), (1.94, 100, 2.18, 100, 1.95, 100)],
        (1.96, 100, 2.21, 100, 1.94, 100),
    ],
    "average": [
        *[(4.35, 100, 5.21, 100, 4.11, 100), (3.22, 44, 8.99, 63, 15.06, 74), (3.47, 44, 9.55, 63, 15.84, 74)],
        *[(4.03, 55, 7.49, 71, 7.60, 71), (3.58, 100, 4.20, 100, 3.47, 100), (3.47, 100, 4.11, 100, 3.41, 100)],
        (3.53, 100, 4.14, 100, 3.43, 100),
    ],
    "worst": [
        *[(7.76, 100, 9.48, 100, 7.37, 100), (2.93, 18, 10.22, 40, 18.90, 53), (3.09, 17, 11.91, 41, 24.01, 59)],
        *[(3.55, 24, 4.25, 35, 4.10, 35), (6.42, 100, 7.86, 100, 6.12, 100), (6.03, 100, 7.50, 100, 5.89, 100)],
        (6.20, 100, 7.57, 100, 5.94, 100),
    ],
}

IV = {  # mean size and success in per cent, of best, average and worst
    "C&W L0": ((8.5, 100), (16, 100), (33, 100)),
    "JSMA-Z": ((20, 100), (56, 100), (180, 98)),
    "JSMA-F": ((17, 100), (45, 100), (100, 100)),
    "C&W L2": ((1.36, 100), (1.76, 100), (2.60, 100)),
    "DeepFool": ((2.11, 100), None, None),
    "C&W Linf": ((0.13, 100), (0.16, 100), (0.23, 100)),
    "FGS": ((0.22, 100), (0.26, 42), (None, 0)),
    "I-FGS": ((0.14, 100), (0.19, 100), (0.26, 100)),
}

SEARCH = {"search_steps": 4, "steps": 60, "c": 0.5}
STEP_SIZE = {"tanh": 0.2, "clipped": 0.05, "projected": 0.05}


def grid() -> dict[str, tuple[Attack, Norm]]:
    """Table III: the classical search, each search step from the image itself. The paper's f6 first, f2 to f4 last."""
    cells = {}
    for objective in ("f6", "f7", "f5", "f1", "f4", "f2", "f3"):
        for encoding in ENCODINGS:
            settings: dict[str, Any] = {"objective": objective, "encoding": encoding, "step_size": STEP_SIZE[encoding]}
            cells[f"III {objective} {encoding}"] = (CarliniWagner(**SEARCH, **settings, warm_start=False), L2)
    return cells


Sizes = list[list[float | None]]
"""By image and target; None is a failure."""


def attacked(attack: Attack, norm: Norm, model: nn.Module, x: Tensor, y: Tensor, targeted: bool) -> Sizes:
    if targeted:
        size = over_targets(attack, model, x, y, norm=norm, batch_size=100).size
    else:
        result = attack.run(model, x, y)
        size = norm.size(result.x_adv - x).where(result.success, torch.inf)[:, None]
    return [[value if value < float("inf") else None for value in row] for row in size.tolist()]


def summary(sizes: Sizes, case: str) -> tuple[float | None, float]:
    """Mean size of the successes and their share in per cent, of the easiest target, of all pairs or of the hardest."""
    if case == "average":
        values = [value for row in sizes for value in row]
    else:
        values = [
            min((value for value in row if value is not None), default=None)
            if case == "best"
            else (None if None in row else max(value for value in row if value is not None))
            for row in sizes
        ]
    won = [value for value in values if value is not None]
    return (statistics.mean(won) if won else None), 100 * len(won) / len(values)


def run(cells: dict[str, Any], model: nn.Module, x: Tensor, y: Tensor, path: Path) -> None:
    """Fill in the cells that are not there, one by one."""
    kept = json.loads(path.read_text()) if path.exists() else {"cells": {}}
    for name, (attack, norm, *untargeted) in cells.items():
        if name in kept["cells"]:
            continue
        start = time.process_time()
        sizes = attacked(attack, norm, model, x, y, targeted=not untargeted)
        kept["images"] = len(x)
        kept["cells"][name] = {
            "attack": str(attack),
            "seconds": round(time.process_time() - start, 1),
            "sizes": [[value and round(value, 5) for value in row] for row in sizes],
        }
        path.write_text(json.dumps(kept))
        told = ", ".join("{} {} {:.0f}%".format(case, *summary(sizes, case)) for case in CASES)
        print(f"{name:20} {kept['cells'][name]['seconds']:7.1f} s  {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's files; default STEELMAN_DATA, then a cache")
    parser.add_argument("--network", type=Path, default=Path("runs/plain_mnist_carlini"), help="the trained run")
    parser.add_argument("--images", type=int, default=100, help="of the test set, the first that are classified rightly")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", choices=("III", "IV"))
    options = parser.parse_args()

    test: Dataset = MNIST().load("test", options.data_dir)
    batch = next(iter(test.batches([torch.arange(2 * options.images)])))
    model = Run.open(options.network).network(test).eval().requires_grad_(False)
    with torch.no_grad():
        right = torch.where(model(batch.x).argmax(1) == batch.y)[0][: options.images]
    cells = grid()
    run(cells, model, batch.x[right], batch.y[right], options.results)


if __name__ == "__main__":
    main()
