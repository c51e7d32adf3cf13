"""docs/results/learned-cost.md, from what benchmarks.learned.step and benchmarks.learned.epoch have measured."""

import json
from typing import Any

from benchmarks.learned import epoch, step

PAGE = step.OUT.with_name("learned-cost.md")


def ratio(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def step_part(found: dict[str, Any]) -> str:
    cases: dict[str, Any] = found["cases"]
    lines = [
        "| classifier, generator | ms a step | ms of its passes | ratio | turns |",
        "|---|---:|---:|---:|---:|",
    ]
    parts = ["| classifier, generator | images | s an iteration | of its passes | ratio |", "|---|---:|---:|---|---:|"]
    for name, case in cases.items():
        own = case["attack"]
        times = f"{own['ms a step']['median']:.0f} | {own['ms of its passes']['median']:.0f}"
        lines.append(f"| {name} | {times} | {ratio(own['ratio'])} | {own['turns']} |")
        if "training" in case:
            own = case["training"]
            passes = ", ".join(f"{part} {seconds:.2f}" for part, seconds in own["s of its parts"].items())
            parts.append(
                f"| {name} | {own['images']} | {own['s an iteration']:.2f} | {passes} | {ratio(own['ratio'])} |"
            )
    alive = next(case["training"]["classifier's activations"] for case in cases.values() if "training" in case)
    return (
        "## A recursive step of L2L-DA\n\n"
        f"As an attack, {step.BATCH} images: a call of {step.STEPS} steps, against {step.STEPS} times one forward and "
        "gradient pass of the classifier and one pass of the generator on inputs that lie ready. Processor time, in "
        "turns; medians and quartiles of the turns' ratios. The bound that was set is 1.25.\n\n"
        + "\n".join(lines)
        + "\n\nIn training, where the passes are those of an iteration with its backward passes and optimiser steps "
        f"(two trajectories of {step.STEPS} steps for each image):\n\n"
        + "\n".join(parts)
        + "\n\nNo graph of the classifier is kept for the generator's descent, so memory does not grow with the "
        f"classifier's activations times steps: of the {alive['made']} outputs of LeNet-5's layers that were made for "
        f"it, {alive['alive']} are alive when the generator descends (as a check: of the {alive['of one pass']} of one "
        f"pass whose graph is kept, {alive['of these alive in its graph']} are)." + signed(found["told"])
    )


def epoch_part(found: dict[str, Any]) -> str:
    width, paper = found["told"]["width"], found["paper"]
    lines = [
        f"| training | s an epoch, width {width} | against plain | operations, width {width} | operations, width 64 | "
        "paper |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    narrow, wide = found[f"operations, width {width}"], found["operations, width 64"]
    for name, each in found["PGN"].items():
        printed = paper.get(name.removesuffix(", not detached")) if name not in ("FGM", "PGD-10") else None
        cells = [f"{each['epoch']:.0f}", ratio(each["ratio"])]
        cells += [f"{counted[name] / counted['plain']:.2f}" for counted in (narrow, wide)]
        cells.append(f"{printed / paper['plain']:.1f}" if printed else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    l2lda = ["| training | s an epoch | against plain | against PGD-10 |", "|---|---:|---:|---:|"]
    for name, each in found["L2L-DA"].items():
        against = each["epoch"] / found["L2L-DA"]["PGD-10"]["epoch"]
        l2lda.append(f"| {name} | {each['epoch']:.0f} | {ratio(each['ratio'])} | {against:.2f} |")
    return (
        "## An epoch\n\n"
        f"PGN's comparison: a ConvPool-CNN of width {width} (paper: 64) and a generator of width {2 * width} (paper: "
        f"128), batches of {found['told']['batch']} images of CIFAR-10's shape, {found['told']['turns']} turns; "
        "processor seconds for 50,000 images. Operations are those of the convolutions and matrix products of a batch "
        "of 128, counted and not timed, against plain training. The ratio of PGN depends on how large the generator is "
        "beside the classifier.\n\n"
        + "\n".join(lines)
        + "\n\nThe paper's FGM and PGD are not detached: the classifier's loss is differentiated through the attack, "
        "to second order, at about twice to three times the cost of training on the same images as constants, which is "
        "what FGM and PGD training are here and elsewhere. Counted so, its 3.1 and 21.5 come out; its 6.3 for PGN is "
        "above our count: here a map is made once for each class and not for each image, and both players' losses "
        "share one pass.\n\n"
        "L2L-DA's comparison: LeNet-5, batches of 100 images of MNIST, 60,000 an epoch, PGD of 10 steps.\n\n"
        + "\n".join(l2lda)
        + signed(found["told"])
    )


def signed(told: dict[str, Any]) -> str:
    return f"\n\n{told['hardware']}, {told['date']}, torch {told['torch']}."


def main() -> None:
    parts = [
        write(json.loads(source.read_text()))
        for source, write in ((step.OUT, step_part), (epoch.OUT, epoch_part))
        if source.exists()
    ]
    PAGE.write_text(
        "# Learned adversaries: cost\n\n" + "\n\n".join(parts) + "\n\n```\nmake learned-cost\n```\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
