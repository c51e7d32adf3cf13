"""Training at the worst weights nearby."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from steelman.data.dataset import Dataset
from steelman.defences.adversarial import Adversarial
from steelman.defences.adversarial_training import AdversarialTraining
from steelman.defences.game import Average, Descend, GameWrapper, Step, Updates
from steelman.networks.surgery import borrowed_buffers
from steelman.norms import L2
from steelman.ranges import Factor, Fraction
from steelman.types import CLASSIFIER, Batch


@dataclass(frozen=True)
class AWP(GameWrapper[Adversarial]):
    """Adversarial weight perturbation: descend an adversarial loss at weights moved against it, layer by layer.

    x' is crafted at the weights w. Then each layer l moves to w_l + v_l, v_l = gamma |w_l| g_l / |g_l| (Frobenius),
    where g is the gradient of the loss of the whole batch at w; the step is taken from w, along the gradient at w + v.

    objective  what makes x' and the loss: AdversarialTraining (default), TRADES, MART, or any other `Adversarial`
    gamma      length of v_l as a share of |w_l|, default 5e-3 (code for TRADES; for PGD 1e-2)
    warmup     share of the training before which nothing is moved, default 0 (code for PGD; for TRADES .05, 10 of 200
               epochs)

    Layers are parameters of two dimensions or more: weights of linear and convolutional layers. Biases and
    normalisations stay, as in the code, which also asks for "weight" in the name. The perturbing pass is in the mode of
    the training, but leaves running statistics as they were (the code has a copy of the network for it).
    Paper and code differ: the code subtracts v after the optimiser's step, so that weight decay acts on w + v and
    rounding errors remain; here w is restored to the bit before the step.

    Cost: the objective's, and its loss once more: 1 forward and 1 backward pass for AdversarialTraining, 2 each for
    TRADES and MART.
    Reference: Dongxian Wu, Shu-Tao Xia and Yisen Wang, "Adversarial weight perturbation helps robust generalization",
    NeurIPS 2020, section 4.

    Raises:
        ValueError: an objective that does not craft before its loss; a network without such layers that learn.
    """

    objective: Adversarial = AdversarialTraining()
    gamma: Factor = 5e-3
    warmup: Fraction = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Adversarial):
            raise ValueError(
                "AWP needs one x' for two losses, so an Adversarial objective, such as AdversarialTraining, TRADES or "
                f"MART; got {type(self.objective).__name__}"
            )

    def setup(self, model: nn.Module, data: Dataset) -> "AWP":
        if not _layers(model):
            raise ValueError(f"AWP moves weights of linear and convolutional layers; {type(model).__name__} has none")
        return replace(self, objective=self.objective.setup(model, data))

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates:
        if batch.progress < self.warmup:
            yield from self.objective.updates(nets, batch)
            return
        net = nets[CLASSIFIER]
        layers = _layers(net)
        made = self.objective.craft(net, batch)
        with borrowed_buffers(net.modules()):  # in the backward pass too: a checkpointed network runs there again
            yield Descend(self.objective.loss(net, batch, made), layers)
        yield Average()
        with _moved(layers, self.gamma):
            yield Descend(self.objective.loss(net, batch, made), net.parameters())
        yield Step()


def _layers(net: nn.Module) -> list[nn.Parameter]:
    return [each for each in net.parameters() if each.ndim > 1 and each.requires_grad]


@contextmanager
def _moved(layers: list[nn.Parameter], gamma: float) -> Iterator[None]:
    """Within it, each layer is moved along its gradient, which is cleared, by `gamma` times its own norm."""
    kept = [layer.detach().clone() for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                if layer.grad is not None:
                    layer += L2.steepest(layer.grad[None])[0] * (gamma * layer.norm())
                    layer.grad = None
        yield
    finally:
        with torch.no_grad():
            for layer, value in zip(layers, kept, strict=True):
                layer.copy_(value)
