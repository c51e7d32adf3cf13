"""Attacks on a part of a model, as if the defence around it were not there."""

from dataclasses import dataclass

import torch
from torch import nn

from steelman.attacks.core import Attack, AttackWrapper, Draws, Goal, Oracle, check_parts
from steelman.detectors import Rejecting
from steelman.networks.filtered import Filtered
from steelman.networks.mean_of_draws import MeanOfDraws
from steelman.types import Images, Model


@dataclass(frozen=True)
class IgnoringFilter(AttackWrapper):
    """The weak attack on a filter before a network: craft on the network alone, test on the whole.

    x' = attack(model.network, x, y), for a `Filtered` model. Papers whose filter has no gradient attacked their own
    defence so. Any other attack goes through the filter, which is mostly stronger; judge by the worst of both. Where
    this one does much better, the approximation of the filter's gradient is poor.

    attack  what is run on the bare network (this attack's box replaces its own). Leave stop_early off: it stops at the
            first success on that

    Cost: 1 forward pass on the model, to check it, and the attack's passes on its network.
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, experiments (FS), authors' code.

    Raises:
        ValueError: the model is not `Filtered`, so there is nothing to ignore.
    """

    attack: Attack

    def __post_init__(self) -> None:
        check_parts("IgnoringFilter", (self.attack,))

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        if not isinstance(oracle.model, Filtered):
            raise ValueError(
                f"IgnoringFilter needs a Filtered model; {type(oracle.model).__name__} has no filter to ignore. Run "
                f"{type(self.attack).__name__} itself"
            )
        oracle.decisions(x)  # which refuses invalid models
        seen = oracle.model.filter(x[:1].clone())
        if seen.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"the filter makes {tuple(seen.shape[1:])} of images of {tuple(x.shape[1:])}, so the network behind it "
                f"cannot be attacked on these. Run {type(self.attack).__name__} itself"
            )
        return _on(oracle.model.network, self.inner, oracle, x, goal, draws)


@dataclass(frozen=True)
class Naive(AttackWrapper):
    """An attack that does not know of the defence around a network: detectors, filters and means of draws.

    x' = attack(network, x, y), where `network` is what stands in a `Rejecting` model, behind a `Filtered` model's
    filter where that keeps the images' shape, and in a `MeanOfDraws`. Any other model is attacked as it is. Many
    defences were reported to stand because nothing but such attacks was tried; the same attack on the whole is the
    comparison. With a confidence, such as CarliniWagner(confidence=20) or PGD on the margin, it breaks most detectors.

    attack  what is run on the network (this attack's box replaces its own)

    Cost: 1 forward pass on the model, to check it, and the attack's passes on the network.
    Reference: Nicholas Carlini and David Wagner, "Adversarial examples are not easily detected: bypassing ten detection
    methods", AISec 2017, section 3 (zero-knowledge attack); Anish Athalye, Nicholas Carlini and David Wagner,
    "Obfuscated gradients give a false sense of security", ICML 2018.
    """

    attack: Attack

    def __post_init__(self) -> None:
        check_parts("Naive", (self.attack,))

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        oracle.decisions(x)  # which refuses invalid models
        network = oracle.model
        while (inner := _inside(network, x)) is not None:
            network = inner
        if network is oracle.model:
            return self.inner.search(oracle, x, goal, draws)
        return _on(network, self.inner, oracle, x, goal, draws)


def _inside(model: Model, x: Images) -> nn.Module | None:
    """The network that a defence stands around; None where there is none, or it does not take the images."""
    if isinstance(model, Rejecting | MeanOfDraws):
        return model.network
    if isinstance(model, Filtered) and model.filter(x[:1].clone()).shape[1:] == x.shape[1:]:
        return model.network
    return None


def _on(network: Model, attack: Attack, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
    """What an attack makes on a part of the model, whose passes count as the model's."""
    with oracle.another(network, goal) as inner:
        x_adv = attack.search(inner, x, goal, draws)
    oracle.add(inner, torch.arange(len(x), device=x.device))
    return x_adv
