"""Several attacks as one: the worst case, or the smallest perturbation, of every image."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from steelman.attacks.core.attack import Access, Attack, check_parts, strongest
from steelman.attacks.core.oracle import Oracle
from steelman.losses import Goal
from steelman.norms import L2, Norm
from steelman.randomness import Draws
from steelman.types import Flags, Images, Indices, Radius


@dataclass(frozen=True)
class WorstOf(Attack):
    """The worst case over attacks: each meets only the images that all before it have left standing.

    x' = x_i, where i is the first attack that reaches the goal; where none does, the last one's answer. So order them
    from cheap to strong. The attacks' own boxes give way to this one's.

    attacks  the attacks, at least one

    Cost: 1 forward pass, and per attack its own cost and 1 forward pass, on the images that still stand.
    Reference: Francesco Croce and Matthias Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020, section 6, who evaluate so.

    Raises:
        ValueError: no attack, or one that finds a shared answer for all images.
    """

    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        check_parts("WorstOf", self.attacks)

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return strongest(self.attacks)

    @property
    def norm(self) -> Norm | None:
        """The norm that all attacks share."""
        return _shared(getattr(attack, "norm", None) for attack in self.attacks)

    @property
    def eps(self) -> Radius | None:
        """The radius that all attacks share."""
        return _shared(getattr(attack, "eps", None) for attack in self.attacks) if self.norm else None

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found = x.clone()
        which = torch.where(~goal.met(oracle.decisions(x)))[0]
        for place, attack in enumerate(self.attacks):
            if len(which) == 0:
                break
            inner = replace(attack[which], box=self.box)
            x_adv, met = _run(inner, oracle, x[which], goal[which], draws.split(place)[which], which)
            found[which] = x_adv
            which = which[~met]
        return found


@dataclass(frozen=True)
class BestOf(Attack):
    """The smallest perturbation over minimal-norm attacks, image by image; every attack meets every image.

    x' = argmin |x_i - x| over the attacks i that reach the goal; the clean image where none does.

    attacks  minimal-norm attacks, at least one
    norm     what is compared (default L2)

    Cost: 1 forward pass, and per attack its own cost and 1 forward pass.
    Reference: Jérôme Rony, Luiz Hafemann, Luiz Oliveira, Ismail Ben Ayed, Robert Sabourin and Eric Granger, "Decoupling
    direction and norm for efficient gradient-based L2 adversarial attacks and defenses", CVPR 2019, section 5, who
    compare minimal-norm attacks so.

    Raises:
        ValueError: no attack, a bounded one, or one that finds a shared answer for all images.
    """

    attacks: tuple[Attack, ...]
    norm: Norm = L2

    def __post_init__(self) -> None:
        check_parts("BestOf", self.attacks)
        for attack in self.attacks:
            if getattr(attack, "eps", None) is not None:
                raise ValueError(f"BestOf compares minimal-norm attacks, and {attack} has a radius; use WorstOf")

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return strongest(self.attacks)

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found, size = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        which = torch.where(~goal.met(oracle.decisions(x)))[0]
        for place, attack in enumerate(self.attacks):
            if len(which) == 0:
                break
            inner = replace(attack[which], box=self.box)
            x_adv, met = _run(inner, oracle, x[which], goal[which], draws.split(place)[which], which)
            length = self.norm.size(x_adv.double() - x[which].double())
            better = met & (length < size[which])
            found[which[better]], size[which[better]] = x_adv[better], length[better]
        return found


def _run(attack: Attack, oracle: Oracle, x: Images, goal: Goal, draws: Draws, which: Indices) -> tuple[Images, Flags]:
    """What an attack makes of the images at `which` of the oracle's batch, and which of these reach the goal."""
    with oracle.part(which, goal) as part:
        x_adv = attack.search(part, x, goal, draws)
        return x_adv, goal.met(part.decisions(x_adv))


def _shared(values: Iterable[Any]) -> Any:
    """The one value that all have, or None."""
    first, *rest = values
    return first if all(value is first or (not torch.is_tensor(value) and value == first) for value in rest) else None
