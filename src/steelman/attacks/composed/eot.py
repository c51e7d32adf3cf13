"""Attacks on models that are random."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from steelman.attacks.composed.naive import Naive
from steelman.attacks.core import Attack, AttackWrapper, Draws, Goal, Images, Oracle, check_parts
from steelman.ranges import Count

FURTHER = (1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0)
"""By what a minimal attack's perturbation of a random model is multiplied, until it lasts."""

MOST = 0.9
"""So many of single answers have to err then. The factors and this are ours."""


@dataclass(frozen=True)
class EOT(AttackWrapper):
    """Expectation over transformation: any attack, on the mean over draws of a random model.

    Where the attack reads logits, it gets E[Z(x)]; where it climbs a loss, E[L(Z(x))] and its gradient, over `samples`
    fresh draws at every step. The success that `run` reports is judged on the model as it is: over twenty fresh
    answers where it says that it is random (`is_random`), and else on one.

    A minimal attack ends where the mean of some draws just errs, and single answers are right half of the time. Of a
    model that says that it is random, its perturbation is made longer by the first of the factors 1, 1.05, 1.1, 1.2,
    1.35, 1.5, 2 and 3 with which 9 of 10 single answers err, of 2 `samples`; where none is enough, it stays as it is.

    attack   what is run (this attack's box replaces its own). Without `stop_early`: where the mean of some draws just
             errs, single draws are right half of the time
    samples  draws per answer, default 30 (the authors' code)

    The model draws from torch's global generator, which is seeded here and restored. It draws for a whole batch, so
    that an image's answer depends on its place there, unless the model is not random.

    Cost: the attack's forward and gradient passes, times `samples`; of a minimal attack on a random model, at most 16
    `samples` forward passes more.
    Reference: Anish Athalye, Logan Engstrom, Andrew Ilyas and Kevin Kwok, "Synthesizing robust adversarial examples",
    ICML 2018, section 2.1; Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense
    of security: circumventing defenses to adversarial examples", ICML 2018, section 4.2.

    Raises:
        ValueError: an attack that finds a shared answer for all images.
    """

    attack: Attack
    samples: Count = 30

    def __post_init__(self) -> None:
        check_parts("EOT", (self.attack,))

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        every = torch.arange(len(x), device=x.device)
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices), oracle.part(every, goal, samples=self.samples) as part:
            torch.manual_seed(int(draws.split(1).seeds[0]))
            x_adv = self.inner.search(part, x, goal, draws)
            return self._lasting(part, x, x_adv, goal) if self.budget is None and oracle.random else x_adv

    def _lasting(self, oracle: Oracle, x: Images, x_adv: Images, goal: Goal) -> Images:
        """The images of a minimal attack, moved on by the factors until most single answers have met the goal."""
        found, left = x_adv.clone(), torch.where((x_adv != x).flatten(1).any(1))[0]
        for factor in FURTHER:
            image = x[left] + factor * (x_adv[left] - x[left]) if factor > 1 else x_adv[left]
            image = image if self.box is None else image.clamp(*self.box)
            with oracle.part(left, goal[left], samples=1) as single:
                met = [single.met(single.decisions(image)) for _ in range(2 * self.samples)]
            lasting = torch.stack(met).double().mean(0) >= MOST
            found[left[lasting]] = image[lasting]
            if (left := left[~lasting]).numel() == 0:
                break
        return found


def averaged(attack: Attack, samples: int) -> Attack:
    """An attack that reads gradients or scores on the mean over draws, without an early stop; others as they are."""
    knows = not isinstance(attack, Naive) and attack.access != "decisions"
    if attack.chance or attack.shared or not knows or _has_eot(attack):
        return attack
    if samples == 1:
        return _to_the_end(attack)
    outer = {name: getattr(attack, name) for name in ("reference", "uint8", "precision", "box")}
    inner = _to_the_end(replace(attack, reference="label", uint8=False, precision="full"))
    return EOT(inner, samples, **outer)


def _to_the_end(attack: Attack) -> Attack:
    """Without an early stop: where the mean of some draws just errs, single draws are right half of the time."""
    changes: dict[str, Any] = {"stop_early": False} if hasattr(attack, "stop_early") else {}
    for item in fields(attack):
        value = getattr(attack, item.name)
        if isinstance(value, Attack):
            changes[item.name] = _to_the_end(value)
        elif isinstance(value, tuple) and any(isinstance(each, Attack) for each in value):
            changes[item.name] = tuple(_to_the_end(each) if isinstance(each, Attack) else each for each in value)
    return replace(attack, **changes)


def _has_eot(attack: Attack) -> bool:
    return isinstance(attack, EOT) or any(map(_has_eot, attack.parts))
