"""A model at random points nearby, over which gradients are averaged."""

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from steelman.forward import reject_class
from steelman.types import Model


@final
class Nearby(nn.Module):
    """A model at x + n, with n drawn anew at each call from N(0, sigma^2) for every number of an image.

    `EOT` over it climbs E_n[L(x + n)], whose gradient is useful where the model's own changes from point to point.

    model  any model
    sigma  standard deviation of the noise, in the units of the images

    Cost: the model's.
    Reference: Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 4; Daniel Smilkov, Nikhil Thorat, Been Kim,
    Fernanda Viégas and Martin Wattenberg, "SmoothGrad: removing noise by adding noise", arXiv 2017, 1706.03825, for the
    mean of gradients.

    Raises:
        ValueError: sigma is not above 0.
    """

    random: ClassVar[bool] = True

    def __init__(self, model: Model, sigma: float) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"Nearby needs sigma > 0; got {sigma}")
        self.model, self.sigma = model, sigma

    @property
    def reject_class(self) -> int | None:
        return reject_class(self.model)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + self.sigma * torch.randn_like(x))

    def extra_repr(self) -> str:
        return f"sigma={self.sigma:g}"
