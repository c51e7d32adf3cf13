"""Transfer: crafted on one model, tested on another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steelman import checkpoint
from steelman.attacks.core import Access, Attack, AttackWrapper, Draws, Goal, Oracle, check_parts
from steelman.networks.filtered import Filtered
from steelman.types import Images, Model


@dataclass(frozen=True)
class Surrogate(AttackWrapper):
    """A transfer attack: craft on a surrogate, test on the model at hand.

    x' = attack(surrogate, x, y). Images are never filtered by success on the surrogate. Brute-force transfer is
    `WorstOf((Surrogate(PGD(), one), Surrogate(PGD(), two), ...))`; an ensemble surrogate is any callable that returns
    the mean of several models' logits.

    attack  what is run on the surrogate (this attack's box replaces its own). Leave stop_early off: it stops at the
            first success on the surrogate, which transfers less
    model   the surrogate: a module or callable from images to logits, or the path of a run's folder or checkpoint

    Cost: 1 forward pass on the model, to check it; the attack's passes on the surrogate, which are not counted.
    Reference: Nicolas Papernot, Patrick McDaniel and Ian Goodfellow, "Transferability in machine learning: from
    phenomena to black-box attacks using adversarial samples", arXiv 2016, 1605.07277, section 2.

    Raises:
        ValueError: the surrogate is neither a model nor a path, or answers for other classes; its checkpoint is damaged
            or does not say how the network is built.
        FileNotFoundError: there is no such run or checkpoint.
    """

    attack: Attack
    model: Any

    def __post_init__(self) -> None:
        check_parts("Surrogate", (self.attack,))
        if not (callable(self.model) or isinstance(self.model, str | Path)):
            raise ValueError(f"a surrogate is a model or the path of a run; got {self.model!r}")

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "decisions"

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        oracle.decisions(x)  # which refuses invalid models
        model: Model = self.model
        if isinstance(self.model, str | Path):
            model = checkpoint.shared_network(self.model).to(x.device)
        with oracle.another(model, goal) as inner:
            return self.inner.search(inner, x, goal, draws)


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
class IgnoringDetector(AttackWrapper):
    """The naive attack on a network that may reject: craft on the network alone, as if there were no detector.

    x' = attack(model.network, x, y), for a `Rejecting` model. With a confidence, such as CarliniWagner(confidence=20)
    or PGD on the margin, it is how most detectors were broken: they were fitted on images that just cross the boundary.

    attack  what is run on the network (this attack's box replaces its own)

    Cost: 1 forward pass on the model, to check it, and the attack's passes on its network.
    Reference: Nicholas Carlini and David Wagner, "Adversarial examples are not easily detected: bypassing ten detection
    methods", AISec 2017, section 3 (zero-knowledge attack); Anish Athalye, Nicholas Carlini and David Wagner,
    "Obfuscated gradients give a false sense of security", ICML 2018, section 5.1 (LID).

    Raises:
        ValueError: the model does not reject, so that there is nothing to ignore.
    """

    attack: Attack

    def __post_init__(self) -> None:
        check_parts("IgnoringDetector", (self.attack,))

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        network = getattr(oracle.model, "network", None)
        if getattr(oracle.model, "reject_class", None) is None or network is None:
            raise ValueError(
                f"IgnoringDetector needs a Rejecting model; {type(oracle.model).__name__} rejects nothing. Run "
                f"{type(self.attack).__name__} itself"
            )
        oracle.decisions(x)
        return _on(network, self.inner, oracle, x, goal, draws)


def _on(network: Model, attack: Attack, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
    """What an attack makes on a part of the model, whose passes count as the model's."""
    with oracle.another(network, goal) as inner:
        x_adv = attack.search(inner, x, goal, draws)
    oracle.add(inner, torch.arange(len(x), device=x.device))
    return x_adv
