"""Several attacks as one: the worst case, or the smallest perturbation, of every image."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from steelman.attacks.core import Access, Attack, Draws, Goal, Oracle, check_parts, strongest
from steelman.norms import L2, Norm
from steelman.types import Flags, Images, Indices, Radius


@dataclass(frozen=True)
class _Several(Attack):
    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        check_parts(type(self).__name__, self.attacks)

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return strongest(self.attacks)

    def _answers(
        self, oracle: Oracle, x: Images, goal: Goal, draws: Draws, *, survivors_only: bool
    ) -> Iterator[tuple[Indices, Images, Flags]]:
        """Per attack the images that it ran on, its answers, and which of these reach the goal."""
        which = torch.where(~goal.met(oracle.decisions(x)))[0]
        for place, attack in enumerate(self.attacks):
            if len(which) == 0:
                break
            with oracle.part(which, goal[which]) as part:
                inner = replace(attack[which], box=self.box)
                x_adv = inner.search(part, x[which], part.goal, draws.split(place)[which])
                met = part.goal.met(part.decisions(x_adv))
            yield which, x_adv, met
            which = which[~met] if survivors_only else which


@dataclass(frozen=True)
class WorstOf(_Several):
    """The worst case over attacks: each runs on the images that no attack before it has broken.

    x' = x_i, where i is the first attack that reaches the goal; where none does, the last one's answer. So order them
    from cheap to strong. This attack's box replaces theirs.

    attacks  the attacks, at least one

    Cost: 1 forward pass, and per attack its own cost and 1 forward pass, on the images that are still correct.
    Reference: Francesco Croce and Matthias Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020, section 6, who evaluate so.

    Raises:
        ValueError: no attack, or one that finds a shared answer for all images.
    """

    @property
    def norm(self) -> Norm | None:
        """The norm that all attacks share."""
        return _shared(attack.measured_in for attack in self.attacks)

    @property
    def eps(self) -> Radius | None:
        """The radius that all attacks share."""
        return _shared(attack.budget and attack.budget[1] for attack in self.attacks) if self.norm else None

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        x_adv = x.clone()
        for which, answer, _ in self._answers(oracle, x, goal, draws, survivors_only=True):
            x_adv[which] = answer
        return x_adv


@dataclass(frozen=True)
class BestOf(_Several):
    """The smallest perturbation over minimal-norm attacks, image by image; every attack runs on every image.

    x' = argmin |x_i - x| over the attacks i that reach the goal; the clean image where none does.

    attacks  minimal-norm attacks, at least one
    norm     in which sizes are compared (default L2)

    Cost: 1 forward pass, and per attack its own cost and 1 forward pass.
    Reference: Jérôme Rony, Luiz Hafemann, Luiz Oliveira, Ismail Ben Ayed, Robert Sabourin and Eric Granger, "Decoupling
    direction and norm for efficient gradient-based L2 adversarial attacks and defenses", CVPR 2019, section 5, who
    compare minimal-norm attacks so.

    Raises:
        ValueError: no attack, a bounded one, or one that finds a shared answer for all images.
    """

    norm: Norm = L2

    def __post_init__(self) -> None:
        super().__post_init__()
        for attack in self.attacks:
            if attack.budget is not None:
                raise ValueError(f"BestOf compares minimal-norm attacks, and {attack} has a radius; use WorstOf")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        x_adv, size = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        for which, answer, met in self._answers(oracle, x, goal, draws, survivors_only=False):
            length = self.norm.size(answer.double() - x[which].double())
            better = met & (length < size[which])
            x_adv[which[better]], size[which[better]] = answer[better], length[better]
        return x_adv


def _shared(values: Iterable[Any]) -> Any:
    """The value that all have, or None."""
    first, *rest = values
    return first if all(value is first or (not torch.is_tensor(value) and value == first) for value in rest) else None
