"""Transfer: crafted on one model, tested on another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelman import checkpoint
from steelman.attacks.core import Access, Attack, AttackWrapper, Draws, Goal, Oracle, check_parts
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
