"""Adam in a variable of which every value is an image within the box."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from steelman.attacks.core import Attack
from steelman.attacks.minimal.searching import Remaining
from steelman.losses import Margin
from steelman.norms import column
from steelman.types import Box, Flags, Images, Indices, PerImage

Encoding = Literal["tanh", "clipped", "projected"]


@dataclass(frozen=True)
class Variable:
    """The variable in which an image in the box is moved.

    tanh       w, the image being centre + reach tanh(w)
    clipped    an image that may leave the box, clipped where the model gets it; no gradient where it has left
    projected  an image that is clipped after every step
    """

    encoding: Encoding
    box: Box | None

    def encode(self, image: Images) -> Tensor:
        if self.encoding != "tanh":
            return image.clone()
        centre, reach = self._middle
        return torch.atanh((image - centre) / reach * 0.999999)

    def decode(self, w: Tensor) -> tuple[Images, Tensor | float]:
        """The image, and what to multiply a gradient in it by for one in `w`."""
        if self.box is None:
            return w.clone(), 1.0
        if self.encoding == "tanh":
            centre, reach = self._middle
            unit = torch.tanh(w)
            return (centre + reach * unit).clamp_(*self.box), reach * (1 - unit * unit)
        image = w.clamp(*self.box)
        return image, 1.0 if self.encoding == "projected" else (image == w).to(w.dtype)

    def settle(self, w: Tensor) -> None:
        """After a step, in place."""
        if self.encoding == "projected" and self.box is not None:
            w.clamp_(*self.box)

    @property
    def scale(self) -> float:
        """Of steps, which are in units of the box."""
        return 1.0 if self.encoding == "tanh" or self.box is None else self.box[1] - self.box[0]

    @property
    def _middle(self) -> tuple[float, float]:
        assert self.box is not None
        return (self.box[1] + self.box[0]) / 2, (self.box[1] - self.box[0]) / 2


def check_encoding(encoding: Encoding, box: Box | None) -> None:
    """Raises ValueError for tanh without a box."""
    if box is None and encoding == "tanh":
        raise ValueError('tanh maps onto the box: give one, such as (0, 1), or encoding="projected"')


class AdamState:
    """Kingma and Ba's Adam on a batch whose rows may leave."""

    def __init__(self, like: Tensor, step_size: float) -> None:
        self.momentum, self.spread = torch.zeros_like(like), torch.zeros_like(like)
        self.step_size, self.count = step_size, 0

    def step(self, w: Tensor, gradient: Tensor) -> None:
        """Move `w`, in place."""
        self.count += 1
        self.momentum.lerp_(gradient, 0.1)
        self.spread.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        rate = self.step_size / (1 - 0.9**self.count)
        w.addcdiv_(self.momentum, (self.spread / (1 - 0.999**self.count)).sqrt_().add_(1e-8), value=-rate)

    def keep(self, which: Indices) -> None:
        self.momentum, self.spread = self.momentum[which], self.spread[which]


Penalty: TypeAlias = Callable[[Images, Indices], tuple[PerImage, Images, Flags]]
"""Of images, those of the named rows: the penalty of their perturbations, its gradient, and whether it is as good as
none."""


class InRounds(Attack):
    """What `CarliniWagnerLinf` and `CarliniWagnerL0` share: rounds that end where the goal is reached."""

    steps: int
    step_size: float
    c: float
    c_max: float
    encoding: Encoding
    abort_early: bool

    def __post_init__(self) -> None:
        check_encoding(self.encoding, self.box)
        if self.c > self.c_max:
            raise ValueError(f"{type(self).__name__} needs c <= c_max; got {self.c} and {self.c_max}")

    def until_reached(
        self, rest: Remaining, start: Images, c: PerImage, penalty: Penalty, free: Tensor | None = None
    ) -> tuple[Images, Flags]:
        """Decrease penalty + c f6 until each image is at the goal and its penalty fits: where it ends, and if it is.

        An image leaves when it is there, or every steps / 10 when its objective has not fallen by 1e-4 of itself. Only
        `free` entries move.
        """
        x_adv, done = start.clone(), torch.zeros(len(start), dtype=torch.bool, device=start.device)
        place, goal = torch.arange(len(start), device=start.device), rest.goal
        variable = Variable(self.encoding, self.box)
        w = variable.encode(start)
        adam = AdamState(w, self.step_size * variable.scale)
        last = torch.full_like(c, torch.inf)
        tenth = max(self.steps // 10, 1)
        for step in range(self.steps):
            image, chain = variable.decode(w)
            if free is not None:
                image = torch.where(free[place], image, start[place])
            logits, gain, pull = rest.oracle.gradient(image, partial(Margin(), goal=goal), rest.which[place])
            value, gradient, fits = penalty(image, place)
            reached = goal.reached(logits)
            there = reached & fits
            x_adv[place], done[place] = image, there
            gradient = (gradient - column(torch.where(reached, 0, c[place]), image) * pull) * chain
            adam.step(w, gradient if free is None else gradient * free[place])
            variable.settle(w)
            stalled = there
            if step % tenth == 0:
                value = value + c[place] * (-gain).clamp(min=0)
                if self.abort_early:
                    stalled = there | (value > 0.9999 * last[place])
                last[place] = value
            if bool(stalled.any()):
                going = torch.where(~stalled)[0]
                place, w, goal = place[going], w[going], goal[going]
                adam.keep(going)
                if len(place) == 0:
                    break
        return x_adv, done
