"""The data of the learned adversaries' figures, and their pictures: again and again until it is done.

    make learned-figures DATA=folder ARGS='--hardware "one core of ..."'

PGN's figure 3 (strength) and robustness curve (curve) train small networks into the folder of runs, each of which is
trained once; L2L-DA's figure 2 (steps) takes classifiers of `make learned` and generators trained on them, where they
are. Every figure that is done goes at once into docs/results/learned-figures.json and onto the page beside it.
"""

import argparse
import json
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from benchmarks.learned import curve, strength
from benchmarks.learned.networks import Networks
from benchmarks.learned.page import write_page
from benchmarks.learned.steps import ways

from steelman.data import MNIST
from steelman.files import write_text

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "results" / "learned-figures.json"
Work: TypeAlias = tuple[str, str, Callable[[], Any]]
CLASSIFIERS = ("learned_mnist_l2lda", "learned_mnist_pgd-10")


def missing(found: dict[str, Any], networks: Networks, options: argparse.Namespace) -> list[Work]:
    """What is still to do: a figure, a key in it, and how it is made."""
    count = torch.arange(options.images)
    whole = MNIST().load("test", options.data_dir)
    test, few = whole.subset(count), whole.subset(count[: options.nearest])
    work: list[Work] = [
        ("strength", victim, partial(strength.strengths, networks, test, victim)) for victim in strength.VICTIMS
    ]
    for method, value in curve.SWEEP:
        work.append(("curve", f"{method} {value:g}", partial(curve.point, networks, whole, few, method, value)))
    for name in CLASSIFIERS:
        folder = options.classifiers / name
        if (folder / "best.safetensors").is_file():
            work.append(("steps", name, partial(ways, folder, options.data_dir, options.images, options.draws)))
    return [each for each in work if each[1] not in found.get(each[0], {}) and options.only in (None, each[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "learned-figures")
    parser.add_argument("--classifiers", type=Path, default=ROOT / "runs" / "learned", help="runs that have figure 2's")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", choices=("strength", "curve", "steps"))
    parser.add_argument("--iterations", type=int, default=600, help="batches of a classifier")
    parser.add_argument("--generator-iterations", type=int, default=300, help="batches of a generator")
    parser.add_argument("--images", type=int, default=300, help="test images that are attacked")
    parser.add_argument("--nearest", type=int, default=100, help="of these, for C&W")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--hardware", default="hardware not told")
    parser.add_argument("--page", action="store_true", help="write the page, and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.page:
        write_page(found, options.out)
        return
    networks = Networks(
        MNIST().load("train", options.data_dir), options.folder, options.iterations, options.generator_iterations
    )
    for figure, key, make in missing(found, networks, options):
        found.setdefault(figure, {})[key] = make()
        found.setdefault("told", {})[figure] = {
            "hardware": options.hardware,
            "date": date.today().isoformat(),
            "iterations": options.iterations,
            "generator iterations": options.generator_iterations,
        }
        write_text(options.out, json.dumps(found, indent=1) + "\n")
        print(figure, key, "done", flush=True)
    write_page(found, options.out)


if __name__ == "__main__":
    main()
