"""docs/results/survey-mnist.md, from the runs' tables; what is written by hand between its headings stays."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from steelman import L2
from steelman.experiments.recipe import load_recipe
from steelman.experiments.run import Run
from steelman.measures import accuracy, clean_accuracy, median_norm, robust_accuracy, worst_case
from steelman.table import Evaluation

PAGE = Path(__file__).parents[2] / "docs" / "results" / "survey-mnist.md"
FIGURES = PAGE.with_suffix(".json")
BEGIN, END = "<!-- table: written by `make survey` -->", "<!-- end of table -->"
ACCURACIES = ("FGSM .1", "FGSM .2", "PGD .1", "PGD .2", "PGD L2 2", "transfer .2", "noise .3")
BOUNDED = ("FGSM .2", "PGD .2", "worst .2", "transfer .2")


def write_page(names: list[str], runs: Path, prefix: str, costs: Path) -> None:
    """Put the figures of all runs that are done into the page and beside it."""
    known = json.loads(costs.read_text())
    found = {
        name: figures(Run.open(runs / f"{prefix}{name}"), known[name])
        for name in names
        if (runs / f"{prefix}{name}" / "survey.parquet").exists()
    }
    FIGURES.write_text(json.dumps(found, indent=1) + "\n")
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else f"# All defences on MNIST\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{after}", encoding="utf-8")


def figures(run: Run, cost: dict[str, float]) -> dict[str, Any]:
    """Shares of images that are still right; the L2 distance within which half of them fall."""
    table = Evaluation.load(run.folder / "survey.parquet")
    recipe = load_recipe(run.folder / "recipe.toml")
    values = {name: accuracy(table, name).value for name in ACCURACIES}
    own = {name: accuracy(table, name).value for name in table.attacks if name.endswith(("filter", "box"))}
    for name in [name for name in table.attacks if "threshold" in name]:
        own[f"{name}, within L2 2"] = robust_accuracy(table, L2, 2.0, [name]).value
        own[f"{name}, median L2"] = median_norm(table, name, L2).value
    return {
        "defence": " + ".join(map(str, (*recipe.prepare, recipe.defence))),
        "network": " ".join(f"{value}" for value in recipe.network.values()),
        "epoch": cost["batch"] * cost["images"],
        "once": cost["once"],
        "batches": recipe.training.iterations,
        "seconds": sum(line.get("seconds", 0) for line in run.log),
        "images": table.images,
        "clean": clean_accuracy(table).value,
        **values,
        "worst .2": worst_case(table, BOUNDED).value,
        "DeepFool": median_norm(table, "DeepFool").value,
        **own,
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    columns = ("clean", *ACCURACIES[:4], "worst .2", *ACCURACIES[4:])
    head = ["defence", "epoch", "once", "batches", *columns, "DeepFool L2"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for name, each in sorted(found.items(), key=lambda item: -item[1]["worst .2"]):
        cells = [f"{each['epoch']:.1f}", f"{each['once']:.1f}" if each["once"] else "", str(each["batches"])]
        cells += [f"{100 * each[column]:.0f}" for column in columns]
        median = f"{each['DeepFool']:.2f}" if np.isfinite(each["DeepFool"]) else "none"
        lines.append(f"| {name} | {' | '.join(cells)} | {median} |")
    filtered = [
        f"- {name}, {key}: " + (f"{value:.2f}." if "median" in key else f"{100 * value:.0f} %.")
        for name, each in found.items()
        for key, value in each.items()
        if "filter" in key
    ]
    return "\n".join([*lines, *(["", *filtered] if filtered else [])])
