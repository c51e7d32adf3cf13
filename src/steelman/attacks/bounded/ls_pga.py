"""The attack on thermometer codes in the space of their levels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from steelman.attacks.core import Attack, Ball, Draws, Images, Oracle, Radius, Share
from steelman.filters.bpda import BPDA
from steelman.filters.thermometer import Thermometer
from steelman.losses import CrossEntropy, Goal
from steelman.networks.filtered import Filtered
from steelman.norms import Linf, Norm
from steelman.ranges import Natural, Positive


@dataclass(frozen=True)
class LSPGA(Attack):
    """Logit-space projected gradient ascent: a softmax over the levels that each value can reach, ever sharper.

    u_0 = 0; p_t = softmax(T_t u_t) over the levels of [x - eps, x + eps]; the network sees the one-hot or thermometer
    code of p_t, whose bits are p_t or its sums from above; u_{t+1} = u_t + step_size sign(dL/du_t), T_{t+1} = T_t
    growth, T_0 = 1. Each value goes to the level of the largest u_T, and of the values of that level to the nearest.

    eps           radius in Linf, one number or one per image (default .031, the paper's on CIFAR-10; MNIST: .3)
    steps         default 7 (paper)
    step_size     of u, default 1; the authors' code has .01, and its gradient without the sign
    growth        default 1.2 (code)
    sign          default True (paper). False: the gradient itself, as the code ends up with, since it overwrites the
                  sign
    random_start  u_0 ~ N(0, 1), default False. The code's default is True, and its gradient of .01 then moves nothing
    reference     "prediction" is the code's, which attacks the model's own answer

    It trains networks on thermometer codes: AdversarialTraining(LSPGA(.3)). Images of a level beyond the box stay.

    Cost: `steps` forward and gradient passes of the network, and memory for as many images as levels.
    Reference: Jacob Buckman, Aurko Roy, Colin Raffel and Ian Goodfellow, "Thermometer encoding: one hot way to resist
    adversarial examples", ICLR 2018, section 4 and appendix B.

    Raises:
        ValueError: the model is not Filtered(Thermometer(...), network); a box other than (0, 1).
    """

    norm: ClassVar[Norm] = Linf

    eps: Radius = Share(0.031)
    steps: Natural = 7
    step_size: Positive = 1.0
    growth: Positive = 1.2
    sign: bool = True
    random_start: bool = False

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        code, network = self._parts(oracle)
        ball = Ball.around(x, self.eps, Linf, (0.0, 1.0))
        assert ball.bounds is not None
        low, high = (code.level(each)[:, :, None] for each in ball.bounds)
        levels = torch.arange(code.levels, device=x.device)[:, None, None]
        open_ = (levels >= low) & (levels <= high)
        u = draws.normal(open_.shape[1:], x.dtype) if self.random_start else torch.zeros_like(open_, dtype=x.dtype)
        temperature = 1.0
        with oracle.another(network, goal) as inner:
            for _ in range(self.steps):
                with torch.enable_grad():
                    u = u.detach().requires_grad_()
                    bits = _bits(u, open_, temperature, code)
                slope = inner.ascent(bits, CrossEntropy(), goal)[2]
                (slope,) = torch.autograd.grad(bits, u, slope)
                u = u.detach() + self.step_size * (slope.sign() if self.sign else slope)
                temperature *= self.growth
        oracle.add(inner, torch.arange(len(x), device=x.device))
        level = u.detach().masked_fill(~open_, -torch.inf).argmax(2)
        return _nearest(code, x, level, ball)

    def _parts(self, oracle: Oracle) -> tuple[Thermometer, torch.nn.Module]:
        model = oracle.model
        through = model.filter if isinstance(model, Filtered) else None
        code = through.filter if isinstance(through, BPDA) else None
        if not isinstance(model, Filtered) or not isinstance(code, Thermometer):
            raise ValueError(
                f"LSPGA needs a network behind a thermometer code, Filtered(Thermometer(...), network); got a "
                f"{type(oracle.model).__name__}. Use PGD"
            )
        if self.box != (0.0, 1.0):
            raise ValueError(f"LSPGA needs the box (0, 1), which the code divides into levels; got {self.box}")
        return code, model.network


def _bits(u: Tensor, open_: Tensor, temperature: float, code: Thermometer) -> Tensor:
    p = F.softmax((temperature * u).masked_fill(~open_, -torch.inf), 2)
    p = p.flip(2).cumsum(2).flip(2) if code.kind == "thermometer" else p
    return p.flatten(1, 2)


def _nearest(code: Thermometer, x: Images, level: Tensor, ball: Ball) -> Images:
    """The nearest values to those of the images that have a level, inside of the ball."""
    edge = 1e-5 + 4 * torch.finfo(x.dtype).eps  # a level begins a little above its number over all of them
    first, last = level / code.levels * (1 + edge), (level + 1) / code.levels
    found = x.clamp(first.to(x), last.to(x))
    found = ball.contain(torch.where(code.level(x) == level, x, found))
    assert ball.bounds is not None
    low, high = ball.bounds
    ends = torch.where(level > code.level(x), high, low)  # rounding may leave a level just missed
    return torch.where(code.level(found) == level, found, ends)
