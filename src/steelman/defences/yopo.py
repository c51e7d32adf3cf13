"""Adversarial training that goes through the whole network once for several steps of the attack."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from steelman.attacks.core import Ball, check_radius, evaluation_mode
from steelman.data.dataset import Dataset
from steelman.defences.first_layer import FirstLayer, first_layer
from steelman.defences.game import Descend, Game, Step, Updates, unweighted
from steelman.defences.objective import Objective
from steelman.forward import logits_of
from steelman.losses import cross_entropy, kl_divergence
from steelman.networks.surgery import Stem, borrowed_buffers, rehearsal, split_stem
from steelman.norms import Linf
from steelman.randomness import Draws
from steelman.ranges import Count, Factor
from steelman.types import CLASSIFIER, Batch, Images

BOX = (0.0, 1.0)
TRADES_START = 0.001
"""The deviation of the normal noise that TRADES starts its attack from."""


@dataclass(frozen=True)
class YOPO(Game):
    """YOPO-m-n: adversarial training with m full passes, after each of which n attack steps use the first layer alone.

    With f the first layer and L the mean cross-entropy of the batch, x_1 = clip(x + U(-eps, eps)) and for j = 1..m:
    p_j = dL/df at x_j, a constant; n times x' = P(x' + step_size * sign grad_x' <p_j, f(x')>) from x' = x_j, where P
    projects onto ball and box; x_{j+1} = x'. The network steps once for all m, along the descent of `variant`:

    "code"      sum_j [L(x_j) + <p_j, f(x_{j+1})>]: the second term reaches the first layer alone, which learns twice
    "paper"     algorithm 1: behind the first layer L(x_m) alone; the first layer, the mean over j of <p_j, f(x_{j+1})>
    "gradient"  the paper's section 3.1: sum_j L(x_{j+1}), which takes one full pass more

    m           full passes, default 5 (paper)
    n           steps after each of them, default 3 (paper, CIFAR-10; MNIST: 10)
    eps         radius in Linf, default 8/255 (MNIST: .3)
    step_size   default 2/255 (MNIST: .01)
    variant     default "code": the three differ, and the paper's results come from the code
    first_layer_grad  "both" (default), as the code does; "hamiltonian" leaves L(x_j) out of the first layer, as the
                code means to do (its attempt to restore that gradient has no effect)
    first_layer  the submodule whose output ends the first layer. Default: the first convolution or fully connected
                layer that runs, and the activation module behind it; the code's is conv1 in PreActResNet18

    "code" and "gradient" sum over j, so divide the learning rate by m (code). The random start is clipped; the code's
    is not. Batch normalisation and dropout stay in training mode throughout (code), but first-layer passes move no
    running statistics. Where the first layer is affine, n steps are one of n * step_size. The reported loss is what is
    descended, with <p_j, f(x_{j+1}) - f(x_j)>, the linearised growth of L, for the second term.

    Cost: m full forward and backward passes ("gradient": m + 1), and m (n + 1) of the first layer ("gradient": m n);
    PGD-r takes r + 1 full ones. On a CPU, a convolution or fully connected layer on the images themselves, alone or
    with a ReLU, is computed by `FirstLayer`, without a graph: on the paper's network for MNIST a pass then takes a
    twenty-fifth of a full one, by autograd a sixth, and a batch of YOPO-5-10 a quarter of one of PGD-40. Where it is
    affine, one pass serves the n steps.
    Reference: Dinghuai Zhang, Tianyuan Zhang, Yiping Lu, Zhanxing Zhu and Bin Dong, "You only propagate once:
    accelerating adversarial training via maximal principle", NeurIPS 2019, section 3.

    Raises:
        ValueError: a first_layer_grad that the variant does not have; a network whose first layer cannot be cut off
            (`split_stem` has the reasons).
    """

    m: Count = 5
    n: Count = 3
    eps: Factor = 8 / 255
    step_size: Factor = 2 / 255
    variant: Literal["code", "paper", "gradient"] = "code"
    first_layer_grad: Literal["both", "hamiltonian"] = "both"
    first_layer: str | None = None

    def __post_init__(self) -> None:
        check_radius(Linf, self.eps, BOX, "YOPO")
        if self.first_layer_grad == "hamiltonian" and self.variant != "code":
            raise ValueError(f'first_layer_grad is a switch of variant="code"; with "{self.variant}" leave it out')

    def setup(self, model: nn.Module, data: Dataset) -> "YOPO":
        return replace(self, first_layer=_first_layer(model, data, self.first_layer))

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates:
        net = nets[CLASSIFIER]
        weights = list(net.parameters())
        stem = _stem(net, batch.x, self.first_layer)
        ball = Ball.around(batch.x, self.eps, Linf, BOX)
        x_adv = ball.sample(Draws.start(batch.seeds, len(batch), batch.x.device))
        apart = self.variant == "paper" or self.first_layer_grad == "hamiltonian"
        for turn in range(self.m):
            learns = {"code": True, "paper": turn == self.m - 1, "gradient": turn > 0}[self.variant]
            with first_layer(stem, x_adv) as found:
                logits, h = stem.whole(x_adv, apart=apart or not learns)
            layer = found()
            loss = cross_entropy(logits, batch.y).mean()
            of_loss = unweighted(loss)  # p must not have the trainer's weight twice
            yield Descend(loss, [*weights, h] if learns else [h])
            assert h.grad is not None
            p = of_loss(h.grad)
            x_adv = _climb(stem, layer, ball, x_adv, p, self.n, self.step_size)
            if self.variant != "gradient":
                growth = _growth(stem, layer, x_adv, p, h.detach())
                if growth.requires_grad:  # some of the first layer learns
                    yield Descend(growth / self.m if self.variant == "paper" else growth, weights)
        if self.variant == "gradient":
            yield Descend(cross_entropy(logits_of(net, x_adv), batch.y).mean(), weights)
        yield Step()


@dataclass(frozen=True)
class TradesYOPO(Objective):
    """TRADES-YOPO-m-n: TRADES on images that are crafted by m full passes and m n passes of the first layer.

    CE(x, y) + beta KL(p(x) || p(x')), differentiated through both arguments of KL. x' starts at clip(x + .001 N(0, I))
    and climbs KL(p(x) || p(.)) as `YOPO`'s images climb the cross-entropy.

    m           full passes to craft with, default 3 (code; also 2)
    n           steps after each of them, default 4 (code; also 5)
    eps         radius in Linf, default .031 (code)
    step_size   default .007 (code)
    beta        default 1 (code; TRADES itself has 6)
    first_layer  as in `YOPO`

    The paper gives only the objective; the rest is its code's. Crafting is in evaluation mode, the loss in that of the
    trainer.

    Cost: m + 3 full forward, m + 2 full backward passes, and m n of the first layer.
    Reference: Dinghuai Zhang, Tianyuan Zhang, Yiping Lu, Zhanxing Zhu and Bin Dong, "You only propagate once:
    accelerating adversarial training via maximal principle", NeurIPS 2019, section 4.

    Raises:
        ValueError: as `YOPO`.
    """

    m: Count = 3
    n: Count = 4
    eps: Factor = 0.031
    step_size: Factor = 0.007
    beta: Factor = 1.0
    first_layer: str | None = None

    def __post_init__(self) -> None:
        check_radius(Linf, self.eps, BOX, "TradesYOPO")

    def setup(self, model: nn.Module, data: Dataset) -> "TradesYOPO":
        return replace(self, first_layer=_first_layer(model, data, self.first_layer))

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        with evaluation_mode(model):
            x_adv = self._craft(model, batch)
        clean = logits_of(model, batch.x)
        divergence = kl_divergence(clean, logits_of(model, x_adv)).mean()
        return cross_entropy(clean, batch.y).mean() + self.beta * divergence

    def _craft(self, model: nn.Module, batch: Batch) -> Images:
        stem = _stem(model, batch.x, self.first_layer)
        ball = Ball.around(batch.x, self.eps, Linf, BOX)
        noise = Draws.start(batch.seeds, len(batch), batch.x.device).normal(batch.x.shape[1:], batch.x.dtype)
        x_adv = ball.nearest(batch.x + TRADES_START * noise)
        with torch.no_grad():
            reference = logits_of(model, batch.x)
        for _ in range(self.m):
            with first_layer(stem, x_adv) as found:
                logits, h = stem.whole(x_adv, apart=True)
            (p,) = torch.autograd.grad(kl_divergence(reference, logits).sum(), h)
            x_adv = _climb(stem, found(), ball, x_adv, p, self.n, self.step_size)
        return x_adv


def _first_layer(model: nn.Module, data: Dataset, name: str | None) -> str:
    batch = next(data.batches([torch.arange(min(2, len(data)))]))
    stem = split_stem(model, batch.x.to(next(model.parameters())), name)
    with rehearsal(model, data) as x:  # a network may be checkpointed in train mode alone
        stem.whole(x)
    return stem.name


def _stem(model: nn.Module, x: Images, name: str | None) -> Stem:
    return split_stem(model, x[:2]) if name is None else Stem(model, name)


def _climb(
    stem: Stem, layer: FirstLayer | None, ball: Ball, x_adv: Images, p: Tensor, steps: int, step_size: float
) -> Images:
    """Sign steps up <p, f(x)>, with f the stem, which is `layer` where that is given."""
    length = torch.full_like(ball.eps, step_size, dtype=x_adv.dtype)
    if layer is not None:
        return layer.climb(ball, x_adv, p, steps, length)
    with borrowed_buffers(stem.model.modules()):
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_()
            (slope,) = torch.autograd.grad((stem(x_adv) * p).sum(), x_adv)
            x_adv = ball.climb(x_adv.detach(), slope, length)
    return x_adv


def _growth(stem: Stem, layer: FirstLayer | None, x_adv: Images, p: Tensor, h: Tensor) -> Tensor:
    """<p, f(x) - h>, to be differentiated in the weights of f."""
    if layer is not None:
        return layer.growth(x_adv, p, h)
    with borrowed_buffers(stem.model.modules()):
        return (p * (stem(x_adv) - h)).sum()
