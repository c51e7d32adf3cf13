"""Deep Defense on MNIST beside its paper: reads evaluated runs and writes docs/results/.

    for recipe in reference_mnist_mlp deep-defense_mnist_mlp reference_mnist_lenet deep-defense_mnist_lenet; do
        steelman train $recipe --data-dir DATA
    done
    for net in mlp lenet; do
        for kind in reference deep-defense; do
            steelman evaluate runs/${kind}_mnist_$net --eps-ref-of runs/deep-defense_mnist_$net --data-dir DATA
        done
    done
    python benchmarks/deep_defense_mnist.py --hardware "two cores of ..."

The paper's numbers are those of its table 1 (accuracy, rho_2, accuracy at .2, .5 and 1 of eps_ref) and table 2 (l_2).
"""

import argparse
import json
from datetime import date
from pathlib import Path

PAPER = {
    "reference_mnist_mlp": ("98.31", ".111", "72.76", "29.08", "3.31", ".81"),
    "deep-defense_mnist_mlp": ("98.65", ".225", "95.04", "88.93", "50.00", "1.64"),
    "reference_mnist_lenet": ("99.02", ".205", "90.95", "53.88", "19.75", "1.48"),
    "deep-defense_mnist_lenet": ("99.34", ".284", "96.51", "88.93", "50.00", "2.05"),
}
COLUMNS = (
    ("accuracy", "clean accuracy", 100, 2),
    ("rho_2", "rho_2, DeepFool 5 (preprocessed)", 1, 4),
    (".2 eps_ref", "accuracy, FGSM(0.2 eps_ref) (preprocessed)", 100, 2),
    (".5 eps_ref", "accuracy, FGSM(0.5 eps_ref) (preprocessed)", 100, 2),
    ("1 eps_ref", "accuracy, FGSM(1.0 eps_ref) (preprocessed)", 100, 2),
    ("l_2", "l_2, DeepFool 5 (preprocessed)", 1, 3),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--hardware", required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    head = " | ".join(name for name, *_ in COLUMNS)
    lines = [f"| run | | {head} |", f"|---|---|{'---|' * len(COLUMNS)}"]
    times = []
    for run, printed in PAPER.items():
        (model,) = json.loads((options.runs / run / "evaluation" / "results.json").read_text())["models"].values()
        found = {key: model[key] for key in ("images", "info", "measures")}
        log = [json.loads(line) for line in (options.runs / run / "log.jsonl").read_text().splitlines()]
        record = {
            "run": run,
            "paper": dict(zip([name for name, *_ in COLUMNS], printed, strict=True)),
            **found,
            "log": log,
        }
        (options.out / f"{run}.json").write_text(json.dumps(record, indent=1) + "\n")
        cells = []
        for _, measure, scale, digits in COLUMNS:
            value = found["measures"][measure]
            low, middle, high = (f"{scale * value[key]:.{digits}f}" for key in ("low", "value", "high"))
            cells.append(f"{middle} ({low} to {high})")
        lines.append(f"| `{run}` | paper | {' | '.join(printed)} |")
        lines.append(f"| | ours | {' | '.join(cells)} |")
        times.append(f"`{run}` {sum(line.get('seconds', 0) for line in log) / 60:.0f} min")
    commands = __doc__.split("\n\n")[1]
    (options.out / "deep-defense-mnist.md").write_text(
        "# Deep Defense on MNIST, beside the paper\n\n"
        "All 10,000 test images, mean-subtracted space, unclipped, one seed (1234); 95 % intervals in brackets are "
        "over images, not over seeds. Accuracies in percent; DeepFool of 5 steps away from the prediction, with its "
        "overshoot. `eps_ref` is that of our Deep Defense network, as the paper's is of theirs. Each run's JSON stands "
        "beside this page.\n\n"
        + "\n".join(lines)
        + f"\n\nTraining took {', '.join(times)}, on {options.hardware}, {date.today().isoformat()}.\n\n"
        f"```\n{commands}\n```\n"
    )


if __name__ == "__main__":
    main()
