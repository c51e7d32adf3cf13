"""What to evaluate with: attacks, ordered from cheap to strong, and what else is measured."""

from dataclasses import dataclass, field

from steelman.attacks.attack import Attack
from steelman.evaluation.probes.probe import Probe


@dataclass(frozen=True)
class Battery:
    """What to evaluate with; the `[evaluation]` section of a recipe, or a TOML file of its own.

    attacks       in pixels, inside the box: a table of names and attacks, which are run in this order
    images        the first so many test images; default all
    deep_defense  also the Deep Defense paper's measures, in the preprocessed space where there is one: rho_2 and l_2 of
                  DeepFool with 5 and 50 steps, unclipped, and accuracies at .2, .5 and 1 of eps_ref. Default False
    columns       True (default): every attack meets every image, so that each has an accuracy of its own. False: a
                  bounded attack meets only the images that are still right under what came before in its norm and
                  radius, which is all that the worst case needs
    probes        what else is measured of every image (default nothing)
    """

    attacks: dict[str, Attack] = field(default_factory=dict)
    images: int | None = None
    deep_defense: bool = False
    columns: bool = True
    probes: tuple[Probe, ...] = ()

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise ValueError(f"images is how many test images to evaluate, at least 1; got {self.images}")
