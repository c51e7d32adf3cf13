"""Max-margin adversarial training: every image at its own distance from the boundary."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from steelman.attacks.core import check_radius
from steelman.attacks.minimal.an_pgd import ANPGD
from steelman.data.dataset import Dataset
from steelman.defences.adversarial import Crafting, crafted
from steelman.defences.objective import Objective
from steelman.forward import logits_of
from steelman.losses import CrossEntropy, Goal, Loss, SoftMargin, cross_entropy
from steelman.norms import L1, L2, Linf, Norm
from steelman.ranges import Count, FractionBelow1, OneOf, Positive
from steelman.types import Batch, PerImage

BEYOND = 1.05
"""The bisection ends at this times d_max, so that a margin of d_max can be distinguished from a larger one (code)."""


class Margins(nn.Module):
    """The last margin of every image, by its index in the data set: 0 where it was wrong, -1 before its first batch."""

    margin: Tensor

    def __init__(self, images: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("margin", torch.full((images,), -1.0, device=device))

    def summary(self, quantiles: Iterable[float] = (0.1, 0.5, 0.9)) -> dict[str, float]:
        """Mean ("kept_margin") and quantiles ("kept_margin_10" ...) over the images that have one, if there are any."""
        known = self.margin[self.margin >= 0].double()
        if len(known) == 0:
            return {}
        shares = {f"kept_margin_{100 * each:.3g}": each for each in quantiles}
        values = known.quantile(torch.tensor(list(shares.values()), dtype=known.dtype, device=known.device)).tolist()
        return {"kept_margin": float(known.mean()), **dict(zip(shares, values, strict=True))}


@dataclass(frozen=True)
class MMA(Objective):
    """Max-margin adversarial training: cross-entropy at each image's nearest boundary point, wrong images clean.

    (1/B) [sum_wrong CE(x, y) + sum_right (c CE(x, y) + (1 - c) [d < d_max] CE(x + delta, y))], c = clean_weight.
    delta, of length d, is AN-PGD's: the direction is that of PGD in a ball of the image's radius, the length is where
    the loss changes its sign along it. The radius is max(eps_min, the image's last d), and d is kept (0 if wrong).
    At the nearest boundary point, the weights' gradient of Z_rival - Z_label is that of -d up to a positive factor. So
    adversarial training at the radius d raises the margin, at a smaller radius a lower bound of it, and at a larger one
    an upper bound.

    d_max         of images with a larger margin only the clean term counts; default 12/255 (paper, CIFAR-10: 12, 20 or
                  32 of 255, L2 1, 2 or 3; MNIST .45, L2 2, 4 or 6)
    eps_min       smallest radius of PGD, default .005 (paper, CIFAR-10; L2 .5; MNIST .1, L2 .5)
    norm          Linf (default), L2, L1
    steps         of PGD, default 10 (paper, CIFAR-10; MNIST 40), each of 2.5 radius / steps
    bisections    default 10 (paper); d is exact to 1.05 d_max / 2^bisections
    clean_weight  c, default 1/3 (paper). 0 is OMMA, the paper's variant without a clean term
    loss          that PGD climbs: SoftMargin (default, paper), or another that is below 0 where an image is right, such
                  as Margin. By SoftMargin an image is right only where the label has more than half of the softmax
    crafting      mode of batch normalisation and dropout in AN-PGD, "eval" (default) or "train"

    Paper and code differ: the code divides PGD's perturbation by the radius, the paper and we by its own length. The
    code bisects in train mode and so moves running statistics; we put them back. As in both, x + delta is not clipped
    to the box. As in the code, a clean pass in train mode decides which images are right, and images beyond d_max go
    through the network at x + delta too, for its batch normalisation.

    `setup` makes the memory for a data set. A loop of your own calls `defence = MMA().setup(model, data)` first, with
    batches from `data.batches`, which have the index.

    Cost: `steps` forward and gradient passes and `bisections` forward passes of the right images, 2 forward and 2
    backward passes (1 for OMMA), whatever the number of classes: on LeNet with the defaults 15 to 16 times plain
    training for 10 and for 100.
    Reference: Gavin Weiguang Ding, Yash Sharma, Kry Yik Chau Lui and Ruitong Huang, "MMA training: direct input space
    margin maximization through adversarial training", ICLR 2020, section 2, algorithms 1 and 2.

    Raises:
        ValueError: eps_min above 1.05 d_max, L0, a loss without a sign; data or batches without indices.
    """

    d_max: Positive = 12 / 255
    eps_min: Positive = 0.005
    norm: Annotated[Norm, OneOf((Linf, L2, L1))] = Linf
    steps: Count = 10
    bisections: Count = 10
    clean_weight: FractionBelow1 = 1 / 3
    loss: Loss = field(default_factory=SoftMargin)
    crafting: Crafting = "eval"
    _margins: Margins | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_radius(self.norm, self.d_max, (0.0, 1.0), "d_max")
        if self.eps_min > BEYOND * self.d_max:
            raise ValueError(
                f"eps_min is the smallest radius of PGD, at most {BEYOND} d_max = {BEYOND * self.d_max:.4g}; got "
                f"{self.eps_min}"
            )
        if isinstance(self.loss, CrossEntropy):
            raise ValueError("CrossEntropy is never 0, so its sign does not show a boundary; use SoftMargin()")
        self._attack(self.eps_min)  # checks the loss

    def setup(self, model: nn.Module, data: Dataset) -> "MMA":
        index = getattr(data, "index", None)
        if index is None or len(index) != len(data) or len(data) == 0:
            raise ValueError("MMA keeps a radius for each image, so the data set needs an `index`, a place per image")
        device = next((each.device for each in model.parameters()), index.device)
        made = replace(self)
        object.__setattr__(made, "_margins", Margins(int(index.max()) + 1, device))
        return made

    @property
    def memory(self) -> Margins | None:
        return self._margins

    @property
    def report(self) -> dict[str, float]:
        return {} if self._margins is None else self._margins.summary()

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        margin, index = self._memory_of(batch)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.clean_weight > 0):
            logits = logits_of(model, batch.x)
        right = self.loss(logits.detach(), Goal(batch.y)) < 0
        x, d = batch.x.clone(), torch.zeros_like(margin[index])
        if bool(right.any()):
            attack = self._attack(margin[index[right]].clamp(min=self.eps_min))
            x[right], length = crafted(attack.crossing, model, batch[right], self.crafting)
            d[right] = length.to(d.dtype)
        margin[index] = d
        counted = (~right | (d < self.d_max)).to(x.dtype)
        loss = (1 - self.clean_weight) * (counted * cross_entropy(logits_of(model, x), batch.y)).mean()
        if self.clean_weight > 0:
            loss = loss + self.clean_weight * cross_entropy(logits, batch.y).mean()
        return loss

    def _attack(self, radius: float | PerImage) -> ANPGD:
        return ANPGD(radius, BEYOND * self.d_max, self.steps, self.bisections, self.norm, self.loss)

    def _memory_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The margins, and this batch's places in them."""
        if self._margins is None:
            raise ValueError("MMA keeps a radius for each image: call `defence = defence.setup(model, data)` first")
        if batch.index is None:
            raise ValueError("MMA keeps a radius for each image: the batch needs `index`, as `data.batches` gives it")
        margin = self._margins.margin
        if len(batch) and not 0 <= int(batch.index.min()) <= int(batch.index.max()) < len(margin):
            raise ValueError(
                f"MMA's memory is for images 0 to {len(margin) - 1}; the batch has {int(batch.index.min())} to "
                f"{int(batch.index.max())}. Call `setup` with the data set that the batches come from"
            )
        return margin, batch.index
