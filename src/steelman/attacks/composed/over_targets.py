"""A targeted attack at every wrong class: the easiest, a typical and the hardest target."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.attacks.core import Attack, check_images, check_labels, evaluation_mode
from steelman.forward import answer_of
from steelman.norms import L0, L1, L2, Linf, Norm
from steelman.randomness import Draws, combine
from steelman.types import Flags, Images, Labels, Model, PerImage, Randomness


@dataclass(frozen=True)
class OverTargets:
    """The results of a targeted attack for every image (rows) and every wrong class (columns).

    `target` names the classes; `size` is the norm of the perturbation, infinite where it failed. As Carlini and Wagner
    have it, `best` is the easiest target of each image, `average` all pairs (a target drawn at random), `worst` the
    hardest target, which succeeds where all do. Each is a pair of sizes and successes; failures are infinite.
    """

    x_adv: Tensor
    target: Tensor
    success: Tensor
    size: Tensor

    @property
    def best(self) -> tuple[PerImage, Flags]:
        return self.size.amin(1), self.success.any(1)

    @property
    def average(self) -> tuple[PerImage, Flags]:
        return self.size.flatten(), self.success.flatten()

    @property
    def worst(self) -> tuple[PerImage, Flags]:
        return self.size.amax(1), self.success.all(1)


def over_targets(
    attack: Attack,
    model: Model,
    x: Images,
    y: Labels,
    *,
    norm: Norm | None = None,
    batch_size: int | None = None,
    generator: Randomness = None,
) -> OverTargets:
    """Run `attack` on every image towards each of its wrong classes, all pairs as one batch.

    norm        in which sizes are taken; default the attack's own, or L2
    batch_size  pairs at once, default all; it does not change the answer
    generator   as for an attack; each pair has a seed of its own

    Raises:
        ValueError: as the attack itself.
    """
    check_images(x, attack.box)
    check_labels("y", y, x)
    norm = norm or attack.measured_in or L2
    with evaluation_mode(model), torch.no_grad():
        classes = answer_of(model, x[:1]).shape[1]
    target = (y[:, None] + torch.arange(1, classes, device=y.device)) % classes
    rivals = classes - 1
    seeds = combine(Draws.start(generator, len(x), x.device).seeds[:, None], target)
    result = attack.run(
        model,
        x.repeat_interleave(rivals, 0),
        y.repeat_interleave(rivals),
        target=target.flatten(),
        generator=seeds.flatten(),
        batch_size=batch_size,
    )
    sizes = {L0: result.l0, L1: result.l1, L2: result.l2, Linf: result.linf}[norm]
    shape = (len(x), rivals)
    return OverTargets(
        result.x_adv.reshape(*shape, *x.shape[1:]),
        target,
        result.success.reshape(shape),
        sizes.where(result.success, torch.inf).reshape(shape),
    )
