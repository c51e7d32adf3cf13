"""Attacks on models that are random."""

from dataclasses import dataclass

import torch

from steelman.attacks.core import Attack, AttackWrapper, Draws, Goal, Images, Oracle, check_parts
from steelman.ranges import Count


@dataclass(frozen=True)
class EOT(AttackWrapper):
    """Expectation over transformation: any attack, on the mean over draws of a random model.

    Where the attack reads logits, it gets E[Z(x)]; where it climbs a loss, E[L(Z(x))] and its gradient, over `samples`
    fresh draws at every step. The success that `run` reports is judged on one fresh draw of the model as it is.

    attack   what is run (this attack's box replaces its own)
    samples  draws per answer, default 30 (the authors' code)

    The model draws from torch's global generator, which is seeded here and restored. It draws for a whole batch, so
    that an image's answer depends on its place there, unless the model is not random.

    Cost: the attack's forward and gradient passes, times `samples`.
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
            return self.inner.search(part, x, goal, draws)
