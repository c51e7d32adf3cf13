"""An attack that leaves what the model says, not what is true."""

from dataclasses import dataclass
from typing import ClassVar

from steelman.attacks.core.attack import Attack, AttackWrapper, Reference
from steelman.attacks.core.oracle import Oracle
from steelman.losses import Goal
from steelman.randomness import Draws
from steelman.types import Images


@dataclass(frozen=True)
class FromPrediction(AttackWrapper):
    """An attack that leaves the model's own prediction instead of the true label, right or wrong.

    Deep Defense measures rho_2 so: images that the model gets wrong have a distance to their boundary too. Its success
    is that of leaving the prediction.

    attack  what is run, in its own box, with its own uint8 and precision; untargeted only

    Cost: the attack's, and 1 forward pass.
    Reference: Ziang Yan, Yiwen Guo and Changshui Zhang, "Deep Defense: training DNNs with improved adversarial
    robustness", NeurIPS 2018, section 4.
    """

    reference: ClassVar[Reference] = "prediction"

    attack: Attack

    def __post_init__(self) -> None:
        for name in ("box", "uint8", "precision"):
            object.__setattr__(self, name, getattr(self.attack, name))

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        return self.attack.search(oracle, x, goal, draws)

    def __str__(self) -> str:
        return f"FromPrediction({self.attack})"
