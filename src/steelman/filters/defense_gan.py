"""Defense-GAN: images are replaced by the nearest that a generator makes."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from steelman.filters.trained import TrainedFilter
from steelman.types import Images, PerImage


class DefenseGAN(TrainedFilter):
    """G(z*) in place of x, with z* the best that gradient descent finds from several random starts.

    z* = argmin |G(z) - x|^2 / n, n the values of an image, by `steps` steps z <- z - lr m, m <- momentum m + gradient,
    from `restarts` starts z ~ N(0, start^2 I); lr is a tenth from 80 % of the steps on.

    network   the generator G, such as `GANGenerator`, from (batch, latent) to images in [0, 1]
    steps     L, default 200 (paper and code)
    restarts  R, default 10 (paper and code)
    lr        default 10 (code)
    momentum  default .7 (code)
    start     deviation of the first z, default 1, with which a GAN is trained (ours; code: latent^-1/2, .09)

    The classifier behind it may be trained on images as they are (default), or on these. Paper and code differ from
    this: the code returns each start's image before its last step, where here it is the best on the way, so that more
    steps or restarts never do worse; and the step that its schedule looks at never moves, so that its rate stays.

    Random: R times latent numbers for each image, from torch's global generator. Its gradient through all steps is
    costly, and vanishes; `Filtered` puts it into `BPDA` with the identity, which is exact where G reaches every image.

    Broken by: `Latent(past_filter=True)`, which looks for adversarial images among those that G makes, and which the
    filter hardly changes: in principle all are lost. Athalye et al. report 45 % of successes by BPDA.
    An attack on the network alone (`IgnoringFilter`) is the naive one.

    Cost: per image, restarts (steps + 1) forward and restarts steps backward passes of the generator.
    Reference: Pouya Samangouei, Maya Kabkab and Rama Chellappa, "Defense-GAN: protecting classifiers against
    adversarial attacks using generative models", ICLR 2018, section 4; Anish Athalye, Nicholas Carlini and David
    Wagner, "Obfuscated gradients give a false sense of security: circumventing defenses to adversarial examples", ICML
    2018, section 5.4.2.

    Raises:
        ValueError: no generator, or one whose images are outside of [0, 1] or of another shape; fewer than one restart,
            fewer than no steps, an lr or start that is not positive, a momentum outside of [0, 1); images outside of
            [0, 1] or of another shape.
    """

    random: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        steps: int = 200,
        restarts: int = 10,
        lr: float = 10.0,
        momentum: float = 0.7,
        start: float = 1.0,
    ) -> None:
        super().__init__(network, ("shape", "latent"), "a GANGenerator")
        if steps < 0 or restarts < 1 or not lr > 0 or not 0 <= momentum < 1 or not start > 0:
            raise ValueError(
                "DefenseGAN needs steps >= 0, restarts >= 1, lr > 0, momentum in [0, 1) and start > 0; got "
                f"{steps}, {restarts}, {lr}, {momentum} and {start}"
            )
        self.steps, self.restarts, self.lr, self.momentum, self.start = steps, restarts, lr, momentum, start
        with torch.no_grad():
            made = self.network(torch.zeros(1, self.network.latent).to(next(self.network.parameters())))
        low, high = made.aminmax()
        if tuple(made.shape[1:]) != tuple(self.network.shape) or low < -1e-4 or high > 1 + 1e-4:
            raise ValueError(
                f"DefenseGAN needs a generator of images in [0, 1], of shape {tuple(self.network.shape)}; this one "
                f"makes {tuple(made.shape[1:])}, from {low:.4g} to {high:.4g}: end it in a layer to [0, 1]"
            )

    def forward(self, x: Images) -> Images:
        self.check(x)
        like = next(self.network.parameters())
        starts = [  # one after the other, so that further restarts leave the first ones as they are
            self.start * torch.randn(len(x), self.network.latent, dtype=like.dtype, device=x.device)
            for _ in range(self.restarts)
        ]
        return self.reconstructed(x, torch.stack(starts))[0]

    def reconstructed(self, x: Images, starts: Tensor) -> tuple[Images, Tensor, PerImage]:
        """G(z*), z* and |G(z*) - x|^2 / n of each image, from starts of shape (restarts, batch, latent)."""
        restarts, images = starts.shape[:2]
        exact = torch.autocast(x.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), exact:
            z = starts.detach().clone().flatten(0, 1)
            wanted = x.detach().to(z.dtype, copy=True).repeat(restarts, *[1] * (x.ndim - 1))
            best, size = z.clone(), torch.full((len(z),), torch.inf, dtype=z.dtype, device=z.device)
            image, speed = wanted.clone(), torch.zeros_like(z)
            for step in range(self.steps + 1):
                z.requires_grad_()
                made = self.network(z)
                error = (made - wanted).square().flatten(1).mean(1)
                nearer = torch.where(error.detach() < size)[0]
                best[nearer], size[nearer] = z.detach()[nearer], error.detach()[nearer]
                image[nearer] = made.detach()[nearer]
                if step < self.steps:
                    (slope,) = torch.autograd.grad(error.sum(), z)
                    speed = self.momentum * speed + slope
                    z = z.detach() - (self.lr if step < 0.8 * self.steps else self.lr / 10) * speed
        first = size.view(restarts, images).argmin(0) * images + torch.arange(images, device=x.device)
        return image[first].to(x.dtype), best[first], size[first]

    def extra_repr(self) -> str:
        return f"steps={self.steps}, restarts={self.restarts}, lr={self.lr:g}"
