"""What kind of attack a row of the table is of, told from the call that made it."""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from steelman import attacks as rooms
from steelman.attacks import Attack

How: TypeAlias = Literal["white", "black", "chance", "mixed"]
"""By gradients; by scores, decisions or another model; by random draws; by several of these, or not known."""

_MIXED = {"AutoAttack"}
_CHANCE = {"GaussianNoise", "SaltAndPepper", "UniformNoise"}


@dataclass(frozen=True)
class Kind:
    """What an attack is.

    name    its class; that of the inner one where only randomness or a bound is put around it
    how     what it goes by
    steps   0 where it has none
    family  the call, without radius and step size
    """

    name: str
    how: How
    steps: int
    family: str


def kind_of(text: str) -> Kind:
    """From the table's `parameters`, or an attack's name that is the call which makes it."""
    family = re.sub(r"\b(eps|radius|step_size)=[^,)]*", "", text)
    classes = {each: getattr(rooms, each, None) for each in re.findall(r"\b([A-Z]\w*)\(", text)}
    classes = {each: found for each, found in classes.items() if isinstance(found, type) and issubclass(found, Attack)}
    while around := re.match(r"(EOT|FromPrediction|Within)\(.*?attack=(?=[A-Z]\w*\()", text):
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
    return Kind(kind, how, int(steps[1] if steps else getattr(classes.get(kind), "steps", 0)), family)
