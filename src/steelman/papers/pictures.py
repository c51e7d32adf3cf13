"""Figures of images: what attacks make of a few test images on several models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steelman.evaluation.task import space_of
from steelman.experiments.run import Run
from steelman.norms import L2
from steelman.papers import drawings
from steelman.papers.jobs import Jobs, Measured
from steelman.papers.paper import Figure, Panel, Paper
from steelman.papers.results import Results
from steelman.report.plots import save_figure
from steelman.types import Batch

DRAWN = {"toy_study": drawings.toy_study}
"""What draws a figure of kind "drawn", by the name that a paper's file gives it."""


def draw_pictures(
    paper: Paper, results: Results, runs: Path, data: Path | None, folder: Path, figures: Sequence[Figure]
) -> dict[str, dict[str, Any]]:
    """Draw the figures of images whose networks are trained, and return what stands under each.

    A figure whose entry there is, with the same settings, is left as it is.
    """
    found = {}
    for figure in figures:
        path = folder / f"{paper.name}-figure-{figure.name}.png"
        if figure.kind == "drawn" and figure.name not in results.pictures:
            found[figure.name] = {"facts": DRAWN[figure.by](path)}
        elif figure.kind == "images":
            jobs = _jobs(paper, figure, runs)
            digest = "-".join(job.digest for job in jobs)
            known = results.pictures.get(figure.name, {}).get("digest") == digest
            if not known and all((runs / job.network.name / "best.safetensors").is_file() for job in jobs):
                facts = _draw(figure, Jobs(paper, "paper", 0, runs), runs, data, paper, path)
                found[figure.name] = {"digest": digest, "facts": facts}
    return found


def _jobs(paper: Paper, figure: Figure, runs: Path) -> list[Measured]:
    made = Jobs(paper, "paper", 0, runs)
    return [
        made.measured(networks[0], paper.evaluations[panel.evaluation])
        for panel in figure.panels
        for networks in panel.curves.values()
    ]


def _draw(figure: Figure, made: Jobs, runs: Path, data: Path | None, paper: Paper, path: Path) -> list[str]:
    """One grid per panel: a row for the images themselves and one for each model and attack, a column per image."""
    lines: list[list[Tensor]] = []
    names: list[str] = []
    texts: list[list[str]] = []
    for panel in figure.panels:
        for curve, (network, *_) in panel.curves.items():
            job = made.measured(network, paper.evaluations[panel.evaluation])
            x, found = _attacked(job, panel, runs, data)
            if not lines:
                names, lines, texts = ["image"], [list(x)], [[""] * len(x)]
            for attack, (x_adv, texted) in found.items():
                names.append(curve if len(found) == 1 else f"{curve}, {attack}")
                lines.append(list(x_adv))
                texts.append(texted)
    save_figure(_grid(lines, names, texts), path)
    return [f"{name}: {'; '.join(text)}" for name, text in zip(names[1:], texts[1:], strict=True)]


def _attacked(
    job: Measured, panel: Panel, runs: Path, data: Path | None
) -> tuple[Tensor, Mapping[str, tuple[Tensor, list[str]]]]:
    subject = Run.open(runs / job.network.name).subject(data)
    batch: Batch = next(subject.test.batches([torch.tensor(panel.images)]))
    space = subject.space if job.evaluation.space == "preprocessed" else "pixels"
    found = {}
    with space_of(subject.model, space) as (preprocess, network):
        x = preprocess(batch.x)
        for name, attack in job.attacks().items():
            if panel.attack in ("", name):
                result = attack.run(network, x, batch.y)
                change = result.x_adv - x
                share = L2.size(change) / L2.size(x)
                texts = [
                    f"taken for {subject.test.classes[int(each)]}, ρ {float(rho):.3g}" if bool(success) else "not found"
                    for each, rho, success in zip(result.prediction, share, result.success, strict=True)
                ]
                found[name] = ((batch.x + change).clamp(0, 1).cpu(), texts)
    return batch.x.cpu(), found


def _grid(lines: list[list[Tensor]], names: list[str], texts: list[list[str]]) -> Any:
    """Images with names at the left and texts below; of one image each, side by side."""
    from matplotlib.figure import Figure as Drawing

    if len(lines[0]) == 1:
        lines, texts = [[line[0] for line in lines]], [[f"{n}\n{t[0]}" for n, t in zip(names, texts, strict=True)]]
        names = [""]
    rows, columns = len(lines), len(lines[0])
    figure = Drawing(figsize=(1.25 * columns + 1.2, 1.35 * rows), layout="constrained")
    for row in range(rows):
        for column in range(columns):
            axes = figure.add_subplot(rows, columns, row * columns + column + 1)
            image = lines[row][column]
            axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(texts[row][column].replace(", ", "\n"), fontsize=6)
            if column == 0:
                axes.set_ylabel(names[row], fontsize=7, rotation=0, ha="right", va="center")
    figure.set_label("adversarial images")
    return figure
