"""Images with their smallest perturbations, as in Deep Defense's figure 7."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelman.attacks.core.attack import Attack
from steelman.data.dataset import Data
from steelman.evaluation.task import seeds_of
from steelman.norms import L2
from steelman.table.records import CLEAN, record_of
from steelman.table.schema import misclassified
from steelman.table.table import Evaluation
from steelman.types import Batch, Images, Labels, Model, PerImage

PICTURED = 60
"""Gallery images on the page, over all models, so that the file stays small."""
SIDE = 96
"""Pixels to which the sides of larger images are shrunk."""


@dataclass(frozen=True)
class Gallery:
    """A few images and the nearest adversarial ones, the smallest perturbation first.

    index       the image's place in its data set
    prediction  of `x_adv`; `x` is classified right
    size        the perturbation's L2 norm
    attack      by image, the name of the attack that found it
    """

    index: Labels
    x: Images
    x_adv: Images
    label: Labels
    prediction: Labels
    size: PerImage
    attack: tuple[str, ...]

    @staticmethod
    def of(
        model: Model,
        dataset: Data,
        evaluation: Evaluation,
        attacks: Mapping[str, Attack],
        *,
        count: int = 20,
    ) -> "Gallery | None":
        """The smallest perturbations in a table, made again; None where no image that was right was broken.

        Images are chosen in turn from each class: first the nearest of each, then the second nearest. An image is shown
        with its smallest L2 perturbation over the minimal attacks in L2, or over all attacks where there is none of
        these. That attack is run again with the noise of the evaluation, so that the images are those of the table's
        rows, but for rounding.

        model, dataset, attacks   as they were given to `evaluate` in pixels; attacks that differ from the table's are
                                  left out
        count                     at most so many images; default 20

        Cost: each attack's own, on its images alone.

        Raises:
            ValueError: a count below 1, or the table has images that the data set has not.
        """
        if count < 1:
            raise ValueError(f"count is how many images to show, at least 1; got {count}")
        chosen = _nearest(_shared(evaluation, attacks), count)
        found = []
        for name in dict.fromkeys(attack for _, attack in chosen):
            batch = _batch(dataset, [image for image, attack in chosen if attack == name])
            seeds = seeds_of(evaluation.record(name).seed, name, batch.index)
            result = attacks[name].run(model, batch.x, batch.y, generator=seeds)
            parts = (batch.index, batch.x, result.x_adv, batch.y, result.prediction, result.l2)
            found += [(*one, name) for one in zip(*(part.cpu() for part in parts if part is not None), strict=True)]
        if not found:
            return None
        *columns, names = zip(*sorted(found, key=lambda one: float(one[5])), strict=True)
        index, x, x_adv, label, prediction, size = (torch.stack(column) for column in columns)
        return Gallery(index, x, x_adv, label, prediction, size, names)


def _shared(evaluation: Evaluation, attacks: Mapping[str, Attack]) -> Evaluation:
    """The rows of the attacks that do not differ from these."""
    there = [
        name
        for name in evaluation.attacks
        if name in attacks
        and (record := evaluation.record(name)).call
        and not record.differs(record_of(name, attacks[name], seed=record.seed))
    ]
    return evaluation.only([CLEAN, *there])


def _nearest(evaluation: Evaluation, count: int) -> list[tuple[int, str]]:
    """Images, each with the attack that came nearest, in turn from each class."""
    names = np.array(evaluation.table["attack"].to_pylist(), object)
    records = {name: evaluation.record(name) for name in evaluation.attacks}
    minimal = np.isin(names, [name for name, each in records.items() if each.norm == repr(L2) and not each.bounded])
    label, size = evaluation["label"], evaluation["l2"]
    right, wrong = evaluation["clean_prediction"] == label, misclassified(evaluation["prediction"], label)
    broken = (names != CLEAN) & right & wrong
    if (broken & minimal).any():
        broken &= minimal
    nearest: dict[int, tuple[int, str]] = {}
    turns: dict[int, list[tuple[int, float, int]]] = {}
    for row in np.flatnonzero(broken)[np.argsort(size[broken], kind="stable")]:
        image, of = int(evaluation["image"][row]), int(label[row])
        if image not in nearest:
            nearest[image] = (image, str(names[row]))
            turns.setdefault(of, []).append((len(turns.get(of, ())), float(size[row]), image))
    return [nearest[image] for _, _, image in sorted(turn for each in turns.values() for turn in each)[:count]]


def _batch(dataset: Data, images: Sequence[int]) -> Batch:
    index = torch.tensor(images)
    if isinstance(dataset, tuple):
        x, y = dataset
        if len(x) <= int(index.max()):
            raise ValueError(f"the table has an image {int(index.max())}, and there are {len(x)}: give the same data")
        return Batch(x[index.to(x.device)], y[index.to(y.device)], index)
    place = {image: place for place, image in enumerate(dataset.index.tolist())}
    missing = [image for image in images if image not in place]
    if missing:
        raise ValueError(f"the table has an image {missing[0]}, which {dataset.name} lacks: give the same data")
    return next(dataset.batches([torch.tensor([place[image] for image in images])]))


def amplification(change: Tensor) -> int:
    """The whole number that brings the largest change of a pixel near full contrast around grey, at least 1."""
    large = float(change.abs().max())
    return max(1, int(0.5 / large)) if large else 1


def png(image: Tensor) -> bytes:
    """One image of shape (channels, height, width) in [0, 1], grey or colour, as PNG."""
    from PIL import Image

    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"a picture needs 1 or 3 channels, height and width; got shape {tuple(image.shape)}")
    levels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(np.squeeze(levels, 2) if levels.shape[2] == 1 else levels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def data_uri(image: Tensor) -> str:
    """The image itself as the address of an `<img>`."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def cards(galleries: "Mapping[str, Gallery | None]", classes: Sequence[str]) -> dict[str, Any] | None:
    """A card per model and image for the page: the image as it is, attacked, and the difference."""
    shown = {name: each for name, each in galleries.items() if each is not None and each.x.shape[1] in (1, 3)}
    if not shown:
        return None

    def named(label: Tensor) -> str:
        return classes[int(label)] if int(label) < len(classes) else str(int(label))

    most = max(4, PICTURED // len(shown))
    found = []
    for name, each in shown.items():
        for i in range(min(most, len(each.index))):
            change = each.x_adv[i] - each.x[i]
            factor = amplification(change)
            found.append(
                {
                    "model": name,
                    "image": int(each.index[i]),
                    "x": data_uri(_shrunk(each.x[i])),
                    "x_adv": data_uri(_shrunk(each.x_adv[i])),
                    "difference": data_uri(_shrunk(0.5 + factor * change)),
                    "factor": factor,
                    "label": named(each.label[i]),
                    "number": int(each.label[i]),
                    "prediction": named(each.prediction[i]),
                    "size": float(each.size[i]),
                    "attack": each.attack[i],
                }
            )
    return {
        "cards": sorted(found, key=lambda card: card["size"]),
        "models": list(shown),
        "classes": [label for _, label in sorted({(card["number"], card["label"]) for card in found})],
    }


def _shrunk(image: Tensor) -> Tensor:
    high, wide = image.shape[-2:]
    scale = SIDE / max(high, wide)
    if scale >= 1:
        return image
    return torch.nn.functional.adaptive_avg_pool2d(image, (max(1, int(high * scale)), max(1, int(wide * scale))))
