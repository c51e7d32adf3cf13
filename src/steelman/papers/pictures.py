"""Figures of images: what attacks make of a few test images on several models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steelman.evaluation.task import space_of
from steelman.experiments.run import Run
from steelman.norms import L2
from steelman.papers import drawings
from steelman.papers.jobs import Jobs, Measured
from steelman.papers.paper import SCALES, Figure, Panel, Paper
from steelman.papers.results import Results
from steelman.report.plots import save_figure
from steelman.types import Batch

DRAWN = {"toy_study": drawings.toy_study}
"""What draws a figure of kind "drawn", by the name that a paper's file gives it."""


@dataclass(frozen=True)
class Line:
    """A row of a picture: its name, its images, and a text below each."""

    name: str
    images: list[Tensor]
    texts: list[str]


def draw_pictures(
    paper: Paper, results: Results, runs: Path, data: Path | None, folder: Path, figures: Sequence[Figure]
) -> dict[str, dict[str, Any]]:
    """Draw the figures of images, and return what stands under each.

    They are of the largest scale at which all networks are trained. A figure whose entry there is, with the same
    settings or of a larger scale, is left as it is.
    """
    found = {}
    for figure in figures:
        path = folder / f"{paper.name}-figure-{figure.name}.png"
        if figure.kind == "drawn" and figure.name not in results.pictures:
            found[figure.name] = {"facts": DRAWN[figure.by](path)}
        elif figure.kind == "images":
            known = results.pictures.get(figure.name, {})
            made = _trained(paper, figure, runs)
            if made is None or (known and SCALES.index(known.get("scale", "paper")) < SCALES.index(made.scale)):
                continue
            jobs = _jobs(paper, figure, made)
            digest = "-".join(job.digest for job in jobs)
            if known.get("digest") != digest:
                facts = _draw(figure, made, runs, data, paper, path)
                reduced = {f"Scale {made.scale}: {job.network.reduced}." for job in jobs if job.network.reduced}
                found[figure.name] = {"digest": digest, "scale": made.scale, "facts": [*facts, *sorted(reduced)]}
    return found


def _trained(paper: Paper, figure: Figure, runs: Path) -> Jobs | None:
    """The jobs of the largest scale at which all of a figure's networks are trained."""
    for scale in SCALES:
        if scale == "paper" or scale in paper.reduced:
            made = Jobs(paper, scale, 0, runs)
            jobs = _jobs(paper, figure, made)
            if all((runs / job.network.name / "best.safetensors").is_file() for job in jobs):
                return made
    return None


def _jobs(paper: Paper, figure: Figure, made: Jobs) -> list[Measured]:
    return [
        made.measured(networks[0], paper.evaluations[panel.evaluation])
        for panel in figure.panels
        for networks in panel.curves.values()
    ]


def _draw(figure: Figure, made: Jobs, runs: Path, data: Path | None, paper: Paper, path: Path) -> list[str]:
    """A grid: a row for the images themselves and one for each model and attack, a column per image.

    Of one image, there is a row for each panel, and a column for each model.
    """
    grid: list[Line] = []
    for panel in figure.panels:
        lines: list[Line] = []
        for curve, (network, *_) in panel.curves.items():
            x, found = _attacked(made.measured(network, paper.evaluations[panel.evaluation]), panel, runs, data)
            lines = lines or [Line("image", list(x), [""] * len(x))]
            lines += [
                Line(curve if len(found) == 1 else f"{curve}, {attack}", list(x_adv), texts)
                for attack, (x_adv, texts) in found.items()
            ]
        if len(panel.images) == 1:
            texts = [f"{line.name}: {line.texts[0]}" if line.texts[0] else line.name for line in lines]
            lines = [Line(panel.title, [line.images[0] for line in lines], texts)]
        grid += lines
    save_figure(_grid(grid), path)
    return [f"{line.name}. {'; '.join(text for text in line.texts if text)}" for line in grid if any(line.texts)]


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


def _grid(lines: Sequence[Line]) -> Any:
    """Images with the names of their lines at the left and texts below."""
    from matplotlib.figure import Figure as Drawing

    rows, columns = len(lines), len(lines[0].images)
    figure = Drawing(figsize=(1.3 * columns + 1.2, 1.45 * rows), layout="constrained")
    for row, line in enumerate(lines):
        for column, (image, text) in enumerate(zip(line.images, line.texts, strict=True)):
            axes = figure.add_subplot(rows, columns, row * columns + column + 1)
            axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(text.replace(": ", "\n").replace(", ", "\n"), fontsize=6)
            if column == 0:
                axes.set_ylabel(line.name, fontsize=7, rotation=0, ha="right", va="center")
    figure.set_label("adversarial images")
    return figure
