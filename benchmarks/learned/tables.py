"""L2L-DA beside PGD-10 training on MNIST, LeNet-5, eps .3, under white-box attacks: the paper's table 2 in small.

    make learned DATA=folder ARGS='--hardware "two cores of ..."'

Trains the classifiers (recipes/learned_mnist_*.toml: an hour each on a core), then each adversary's generator against
each classifier as it is (`steelman attack-train`, minutes), then attacks. What is done is kept in the folder of runs,
so a call goes on where the last one stopped. Writes docs/results/learned-mnist.json and the tables on the page beside
it.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import torch

from steelman import FGSM, PGD
from steelman.adversaries import GAP, L2LDA, Adversary, AdvGAN, AttackTraining
from steelman.attacks import Attack
from steelman.evaluation import accuracy_over_draws, evaluate
from steelman.experiments.attack_train import attack_train
from steelman.experiments.run import Run, train
from steelman.losses import Margin
from steelman.measures import accuracy, clean_accuracy, paired, worst_case
from steelman.norms import Linf
from steelman.table import Evaluation

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "learned-mnist.md"
BEGIN, END = "<!-- tables: written by `make learned` -->", "<!-- end of tables -->"
CLASSIFIERS = {"plain": "Plain", "pgd-10": "PGD-10", "l2lda": "L2L-DA"}
ADVERSARIES: dict[str, type[Adversary]] = {"advgan": AdvGAN, "gap": GAP, "l2lda": L2LDA}
EPS = 0.3
BATTERY: dict[str, Attack] = {
    "FGSM": FGSM(EPS),
    "PGD-10": PGD(EPS, steps=10, step_size=EPS / 4),
    "PGD-100": PGD(EPS, steps=100, step_size=EPS / 12),
    "C&W loss": PGD(EPS, steps=100, step_size=EPS / 12, loss=Margin()),
}
COLUMNS = ("natural", *BATTERY, "AdvGAN", "GAP", "L2L-DA", "min", "worst case")
PAPER = {
    "plain": (99.14, 0.90, 0.0, 0.0, 0.85, 0.47, 3.94, 0.0, 0.0),
    "pgd-10": (98.52, 96.14, 92.21, 90.22, 88.92, 98.30, 96.56, 89.49, 88.92),
    "l2lda": (98.47, 97.87, 95.70, 95.15, 95.26, 95.72, 96.92, 94.61, 94.61),
}
"""Table 2, MNIST: natural, FGSM, PGD10, PGD100, C&W1000, AdvGAN, GAP, L2L-DA, Min."""


def generator(adversary: str, victim: Run, runs: Path, data: Path | None) -> Run:
    """The adversary's run against a classifier; L2L-DA's begins with the generator of the defence."""
    begin = [f"defence.adversary.generator='{runs / 'learned_mnist_l2lda'}'"] if adversary == "l2lda" else []
    called = f"{adversary}-on-{victim.folder.name}"
    return attack_train(victim.folder, f"learned_mnist_attack-{adversary}", runs, data, begin, called)


def attacks(victim: Run, runs: Path, data: Path | None) -> dict[str, Attack]:
    """Those that see one draw of chance each; the learned ones by their generators against this classifier."""
    found = dict(BATTERY)
    for name, kind in ADVERSARIES.items():
        run = generator(name, victim, runs, data)
        game = run.recipe.defence
        assert isinstance(game, AttackTraining)
        network = run.generator(game.adversary, run.data("test", data))
        found["L2L-DA" if kind is L2LDA else kind.__name__] = game.adversary.with_generator(network)
    return found


def measure(victim: Run, runs: Path, data: Path | None, images: int, draws: int) -> dict[str, Any]:
    """Accuracies in percent, and L2L-DA beside PGD with as many steps over as many draws."""
    test = victim.data("test", data)
    test = test.subset(torch.arange(min(images, len(test))))
    net, chosen = victim.network(test), attacks(victim, runs, data)
    kept = victim.folder / f"learned-{images}.parquet"
    if not kept.exists():
        evaluate(net, test, chosen).save(kept)
    table = Evaluation.load(kept)
    values = {name: 100 * accuracy(table, name).value for name in chosen}
    over = {name: accuracy_over_draws(net, test, chosen[name], draws) for name in ("L2L-DA", "PGD-10")}
    return {
        "natural": 100 * clean_accuracy(table).value,
        **values,
        "min": min(values.values()),
        "worst case": 100 * worst_case(table).value,
        "loss": {name: float(table["loss"][table["attack"] == name].mean()) for name in over},
        "draws": {
            name: [100 * each for each in (one.best.value, one.mean, one.worst.value, one.worst_case.value)]
            for name, one in over.items()
        },
        "images": len(test),
        "seconds": sum(line.get("seconds", 0.0) for line in victim.log),
        "iterations": victim.recipe.training.iterations,
    }


def image_by_image(runs: Path, images: int) -> str:
    """L2L-DA's network against PGD-10's on the same images, where both have been attacked."""
    tables = [runs / f"learned_mnist_{key}" / f"learned-{images}.parquet" for key in ("l2lda", "pgd-10")]
    if not all(table.exists() for table in tables):
        return ""
    ours, theirs = map(Evaluation.load, tables)
    return paired(ours, theirs, (Linf, 0.3)).sentence("L2L-DA", "PGD-10 training")


def write_page(found: dict[str, Any], told: str) -> None:
    shown = [key for key in CLASSIFIERS if key in found]
    head = "| trained by | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS)
    ours = [
        f"| {CLASSIFIERS[key]} | " + " | ".join(f"{found[key][name]:.1f}" for name in COLUMNS) + " |" for key in shown
    ]
    paper = [
        f"| {CLASSIFIERS[key]}, paper | " + " | ".join(f"{value:.2f}" for value in PAPER[key]) + " | |" for key in shown
    ]
    cost = [f"| {CLASSIFIERS[key]} | {found[key]['iterations']} | {found[key]['seconds'] / 60:.0f} |" for key in shown]
    way = [
        f"| {CLASSIFIERS[key]} | {name} | "
        + " | ".join(f"{each:.1f}" for each in found[key]["draws"][name])
        + f" | {found[key]['loss'][name]:.3f} |"
        for key in shown
        for name in ("L2L-DA", "PGD-10")
    ]
    text = "\n".join(
        [
            told,
            "\n## White-box accuracies, %\n",
            head,
            *(row for pair in zip(ours, paper, strict=True) for row in pair),
            *(["", found["paired"]] if found.get("paired") else []),
            "\n## L2L-DA's attack beside PGD of as many steps, accuracy over ten draws, %\n",
            "| classifier | attack | best draw | mean | worst draw | worst per image | mean loss of one draw |",
            "|---|---|---|---|---|---|---|",
            *way,
            "\n## Training\n",
            "| | batches of 100 | minutes by the clock |",
            "|---|---|---|",
            *cost,
        ]
    )
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else f"# Learned adversaries on MNIST\n\n{BEGIN}\n{END}\n"
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "learned")
    parser.add_argument("--images", type=int, default=1000, help="the first so many test images")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--only", choices=CLASSIFIERS, help="one classifier's row, such as for another process")
    parser.add_argument("--hardware", default="hardware not told")
    options = parser.parse_args()
    figures = PAGE.with_suffix(".json")
    for key in [options.only] if options.only else CLASSIFIERS:
        victim = train(f"learned_mnist_{key}", options.runs, options.data_dir)
        row = measure(victim, options.runs, options.data_dir, options.images, options.draws)
        found = json.loads(figures.read_text()) if figures.exists() else {}
        found[key] = row
        found["paired"] = image_by_image(options.runs, options.images)
        figures.write_text(json.dumps(found, indent=1) + "\n")
        told = (
            f"`make learned`, MNIST, the first {options.images} test images, one seed, {options.hardware}, "
            f"{date.today()}. Every figure is of one network. The paper's rows are of all 10,000 images under its own "
            "attacks, where C&W loss is its C&W1000."
        )
        write_page(found, told)
        print(f"{key}: " + ", ".join(f"{name} {row[name]:.1f}" for name in COLUMNS), flush=True)


if __name__ == "__main__":
    main()
