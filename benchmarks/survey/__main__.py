"""Train, attack and table every defence: python -m benchmarks.survey [names ...], again and again until it is done.

Runs go into runs/survey; a finished one, or its evaluation, is not done again. --cost measures costs, --budget SECONDS
writes into the recipes as many iterations as that buys of processor time. --page writes the table from what is there.
"""

import argparse
import json
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from benchmarks.survey.cost import Cost, measure
from benchmarks.survey.page import write_page
from benchmarks.survey.work import do

from steelman.experiments.recipe import load_recipe
from steelman.experiments.run import train

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
COSTS = ROOT / "docs" / "results" / "survey-mnist-cost.json"
PREFIX = "survey_mnist_"
START = f"{PREFIX}start"


def names(chosen: list[str]) -> list[str]:
    """The recipes of the survey, without those that only serve others."""
    found = sorted(path.stem.removeprefix(PREFIX) for path in RECIPES.glob(f"{PREFIX}*.toml"))
    return [name for name in found if name != "start" and "teacher" not in name and (not chosen or name in chosen)]


def cost(name: str, runs: Path, data: Path | None) -> Cost:
    return measure(load_recipe(RECIPES / f"{PREFIX}{name}.toml"), runs / START, data)


def budgeted(text: str, found: Cost, seconds: float, images: int) -> str:
    """The recipe with the iterations that a budget of processor time buys, to two digits."""
    batches = max((seconds - found.once * images * found.plain / 100) / (found.batch * found.plain), 1)
    digits = 10 ** max(len(str(int(batches))) - 2, 0)
    bought = int(batches) // digits * digits
    return re.sub(r"^((?:training\.)?iterations) = \d+", rf"\1 = {bought}", text, flags=re.M)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of recipes, without survey_mnist_; default all")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "survey")
    parser.add_argument("--images", type=int, default=200, help="test images that are attacked")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cost", action="store_true", help="measure costs, and stop")
    parser.add_argument("--budget", type=float, help="write the iterations that so many seconds buy, and stop")
    parser.add_argument("--page", action="store_true", help="write the page, and stop")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = names(given.names)
    if given.page:
        return write_page(chosen, given.runs, PREFIX, COSTS)
    train(START, given.runs, given.data_dir)
    known = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    for name in chosen:
        if given.cost or name not in known:
            known[name] = asdict(cost(name, given.runs, given.data_dir))
            print(name, known[name], flush=True)
            COSTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    if given.cost:
        return None
    if given.budget:
        for name in chosen:
            path = RECIPES / f"{PREFIX}{name}.toml"
            images = load_recipe(path).training.images or 60_000
            # The student of a teacher has half of the budget, and its teacher the other half.
            share = 0.5 if name == "distillation" else 1.0
            path.write_text(budgeted(path.read_text(), Cost(**known[name]), share * given.budget, images))
        return None
    work = partial(do, start=START, runs=given.runs, data=given.data_dir, images=given.images)
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(work, f"{PREFIX}{name}") for name in chosen]):
            print(done.result(), flush=True)
    write_page(chosen, given.runs, PREFIX, COSTS)
    return None


if __name__ == "__main__":
    main()
