"""Labels that cannot be a model's classes, or probably are not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.checkup.findings import Finding
from steelman.data.dataset import Dataset
from steelman.measures.chance import LEVEL, above_chance, chance_level, more_hits
from steelman.types import Flags, Labels

SURE = 0.001
"""The p-value below which labels count as shifted by one."""


@dataclass(frozen=True)
class Known:
    """What is known of labels without asking a model.

    classes  of the data set, how many; None of a pair of tensors
    lowest, highest  of all labels; where the data set does not have them at hand, of those of some images and classes
    """

    classes: int | None
    lowest: int
    highest: int

    @staticmethod
    def of(dataset: Dataset | tuple[Tensor, Tensor], some: Labels) -> "Known":
        """`some`: the labels of images that were read."""
        labels = dataset.labels if isinstance(dataset, Dataset) else dataset[1]
        classes = len(dataset.classes) if isinstance(dataset, Dataset) else None
        if labels is None:
            return Known(classes, int(some.min()), max(int(some.max()), (classes or 0) - 1))
        return Known(classes, int(labels.min()), int(labels.max()))

    def refuse(self, name: str, answer: Tensor) -> None:
        """Raises ValueError where a label has no class among a model's logits."""
        if not answer.is_floating_point() or answer.ndim != 2 or self.highest < answer.shape[1]:
            return
        logits = answer.shape[1]
        begins = f"Labels begin with {self.lowest}: subtract it, so that" if self.lowest > 0 else "Make sure that"
        raise ValueError(
            f"{name} answers with {logits} logits, for the classes 0 to {logits - 1}, and label {self.highest} has no "
            f"class among them. {begins} the labels are the model's classes, counted from 0"
        )


def label_findings(known: Known, predicted: Labels, y: Labels) -> list[Finding]:
    """Warnings where predictions are classes that the data do not have, or labels seem to be counted from 1."""
    found, right = [], predicted == y
    if known.classes is not None and bool((outside := predicted >= known.classes).any()):
        text = f"{percent(outside)} of the predictions are none of the data set's {known.classes} classes"
        found.append(Finding("classes", text, "warning", "Was the model trained on other classes than these?"))
    if known.lowest < 1:
        return found
    shifted = predicted == y - 1
    text = ""
    if more_hits(shifted.cpu().numpy(), right.cpu().numpy()) < SURE:
        text = f"{percent(shifted)} of the predictions are the label less 1"
    elif not_above_chance(predicted, y, known.classes):
        text = "predictions are right no more often than by chance"
    if text:
        advice = "Perhaps they are counted from 1: subtract 1"
        found.append(Finding("labels", f"the lowest is {known.lowest}, and {text}", "warning", advice))
    return found


def not_above_chance(predicted: Labels, y: Labels, classes: int | None) -> bool:
    """Whether a one-sided binomial test finds the accuracy not above chance; False where the images are too few."""
    level = chance_level(y.cpu().numpy(), classes)
    if above_chance(len(y), len(y), level) >= LEVEL:
        return False
    return above_chance(int((predicted == y).sum()), len(y), level) >= LEVEL


def percent(flags: Flags) -> str:
    return f"{100 * float(flags.to(torch.float32).mean()):.3g} %"
