"""The rows of one attack, and what kind of attack it is, told from the table alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from steelman import attacks as rooms
from steelman.attacks import Attack
from steelman.evaluation.table import CLEAN, ROUNDING, Evaluation

How: TypeAlias = Literal["white", "black", "chance", "mixed"]
"""By gradients; by scores, decisions or another model; by random draws; by several of these, or not known."""

_MIXED = {"AutoAttack"}
_CHANCE = {"GaussianNoise", "SaltAndPepper", "UniformNoise"}


@dataclass(frozen=True)
class Rows:
    """One attack's rows. Arrays are over the images that are right unattacked, in order."""

    name: str
    kind: str
    """The class of the attack; that of the inner one where only randomness or a bound is added to it."""
    how: How
    family: str
    """The call that makes it, without radius and step size."""
    steps: int
    norm: str | None
    eps: float
    met: np.ndarray
    fell: np.ndarray
    sizes: np.ndarray
    images: int

    @property
    def whole(self) -> bool:
        return bool(self.met.all())

    @property
    def minimal(self) -> bool:
        return bool(np.isnan(self.eps))

    def within(self, eps: float) -> np.ndarray:
        """Who fell within a radius."""
        return self.fell & ((self.eps <= eps) | (self.sizes <= eps * ROUNDING))

    def told(self, eps: float = np.inf) -> str:
        left = len(self.fell) - int(self.within(eps).sum())
        return f"{self.name} leaves {percent(left / self.images)}"


def rows_of(evaluation: Evaluation, black: Sequence[str] = ()) -> list[Rows]:
    """Every attack of the table; those of the names `black` are black boxes, whatever they were on their source."""
    clean = evaluation.only(CLEAN)
    right = np.sort(clean["image"][clean["prediction"] == clean["label"]])
    found = []
    for name in evaluation.attacks:
        rows = evaluation.only(name)
        norm, eps, text = rows["norm"][0], float(rows["eps"][0]), rows["parameters"][0] or name
        kind, how, steps = _read(text)
        how = "black" if name in black else how
        family = re.sub(r"\b(eps|radius|step_size)=[^,)]*", "", text)
        here = np.isin(rows["image"], right)
        place = np.searchsorted(right, rows["image"][here])
        met, fell, sizes = np.zeros(len(right), bool), np.zeros(len(right), bool), np.full(len(right), np.inf)
        met[place], fell[place] = True, (rows["prediction"] != rows["label"])[here]
        sizes[place] = rows[(norm or "L2").lower()][here]
        found.append(Rows(name, kind, how, family, steps, norm, eps, met, fell, sizes, evaluation.images))
    return found


def _read(text: str) -> tuple[str, How, int]:
    """Of the call that makes an attack: its class, how it attacks, and its steps, 0 where it has none."""
    classes = {each: getattr(rooms, each, None) for each in re.findall(r"\b([A-Z]\w*)\(", text)}
    classes = {each: found for each, found in classes.items() if isinstance(found, type) and issubclass(found, Attack)}
    while around := re.match(r"(EOT|Within)\(.*?attack=(?=[A-Z]\w*\()", text):
        text = text[around.end() :]
    kind = re.split(r"\W", text, maxsplit=1)[0]
    access = {found.access for found in classes.values() if isinstance(found.access, str)}
    if "Surrogate" in classes:
        how = "black"
    elif not access or _MIXED & set(classes):
        how = "mixed"
    elif "gradients" in access:
        how = "white" if len(access) == 1 else "mixed"
    else:
        how = "chance" if kind in _CHANCE else "black"
    steps = re.search(r"\bsteps=(\d+)", text)
    return kind, how, int(steps[1]) if steps else int(getattr(classes.get(kind), "steps", 0))


def percent(part: float) -> str:
    return f"{100 * part:.1f} %"
