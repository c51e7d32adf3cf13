"""PGN's figure 3: accuracy against the mean norm of FGM, PGD and PGN attacks, on two frozen classifiers."""

from typing import Any

import torch
from benchmarks.learned.networks import Networks, fgm, name, pgd

from steelman.attacks import Attack
from steelman.data.dataset import Dataset
from steelman.measures import Axis, Line, Point
from steelman.types import Model

EPS = 1.0
"""Of the classifiers. The paper's is .5, on CIFAR-100."""
RADII = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
PRICES = (0.5, 0.3, 0.2, 0.15, 0.1)
"""c of PGN's attacks. At .05 the loss is worth any norm: the generator turns the whole image round."""
VICTIMS = ("FGM", "PGD")
NORM, ACCURACY = Axis("mean L2 norm of the perturbation"), Axis("accuracy", share=True)


def point(model: Model, test: Dataset, attack: Attack) -> dict[str, float]:
    """Accuracy, an image that was wrong counting as wrong, and the mean L2 norm over all images."""
    wrong = norm = 0.0
    for batch in test.in_order(250):
        with torch.no_grad():
            natural = model(batch.x).argmax(1) != batch.y
        found = attack.run(model, batch.x, batch.y, generator=batch.index)
        wrong += float((natural | found.success).sum())
        norm += float(found.l2.sum())
    return {"norm": norm / len(test), "accuracy": 1 - wrong / len(test)}


def strengths(networks: Networks, test: Dataset, victim: str) -> dict[str, list[dict[str, float]]]:
    """Of each attack, a point for every radius or price."""
    net = networks.classifier(victim, EPS)
    found: dict[str, list[dict[str, float]]] = {}
    for method, attack in (("FGM", fgm), ("PGD", pgd)):
        found[method] = [{"eps": eps, **point(net, test, attack(eps))} for eps in RADII]
    found["PGN"] = [{"c": c, **point(net, test, networks.attack(name(victim, EPS), net, c))} for c in PRICES]
    return found


def line(points: list[dict[str, float]]) -> Line:
    """Accuracy against the mean norm."""
    return Line(tuple(Point(each["norm"], each["accuracy"]) for each in points), NORM, ACCURACY)


def against(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """PGN's points beside the others' accuracy at the same mean norm; None outside of theirs."""
    rivals = {method: line(points) for method, points in found.items() if method != "PGN"}
    return [each | {method: _there(rival, each["norm"]) for method, rival in rivals.items()} for each in found["PGN"]]


def _there(rival: Line, norm: float) -> float | None:
    try:
        return rival.at(norm)
    except ValueError:
        return None
