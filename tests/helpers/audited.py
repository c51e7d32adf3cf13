"""Tables of a cascade, a short Square and one on a sample, made up for the tests of audits and of what reports say."""

from typing import Any

import numpy as np

from made_up import Row, table_of
from steelman.attacks import FGSM, CascadeAttack, Square
from steelman.measures.audits import in_turn
from steelman.table import Evaluation

RUN = {
    "cascade": CascadeAttack(eps=0.1),
    "one step": FGSM(eps=0.1),
    "short": Square(eps=0.1, queries=200),
    "long": Square(eps=0.1, queries=5000),
}


def row(image: int, attack: str, *, broken: bool = False, margin: float = -1.0, **more: Any) -> Row:
    run = {} if attack == "clean" else {"run": RUN[attack]}
    return (
        {"image": image, "attack": attack, **run, "label": 0, "clean_prediction": 0, "prediction": int(broken)}
        | {"success": broken, "loss": 1.0, "l0": 1.0, "l1": 0.1, "l2": 0.1, "linf": 0.1, "margin": margin}
        | {"forwards": 1, "gradients": 1, "flat": 0, "pixels": 1 + image}
        | more
    )


def made(count: int, *others: Row, attacks: tuple[str, ...] = ("cascade", "one step", "short"), **columns: Any):
    cells = {(image, name): row(image, name, **columns) for name in ("clean", *attacks) for image in range(count)}
    cells |= {(each["image"], each["attack"]): each for each in others}
    order = {name: place for place, name in enumerate(["clean", *RUN])}
    return table_of(
        [cells[key] | {"run": cells[key].get("run", "")} for key in sorted(cells, key=lambda k: order[k[1]])]
    )


def sampled(table: Any, name: str = "long"):
    return table.recorded(lambda each: each.changed(asked="sample") if each.name == name else each)


def audited(count: int = 80, size: int = 30) -> Evaluation:
    """A table of images that nothing broke, on so many of which the long Square was run."""
    drawn = np.arange(count)[in_turn(np.arange(count), 0)]
    return sampled(made(count, *(row(image, "long") for image in drawn[:size].tolist())))
