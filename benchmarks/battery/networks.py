"""The networks that are attacked, trained here where the cache does not have them: minutes on one core each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from steelman import PGD, AdversarialTraining, Plain, Training, fit
from steelman.data import CIFAR10, MNIST
from steelman.data.memory import InMemory
from steelman.networks import ConvNet, LeNet
from steelman.norms import Norm
from steelman.training import SGD, Cosine


@dataclass(frozen=True)
class Ground:
    """A network, the test images it is attacked on, and the radii that mean something on it."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    radii: dict[str, float]

    def radius(self, norm: Norm) -> float:
        return self.radii[norm.name]

    @property
    def accuracy(self) -> float:
        with torch.no_grad():
            return float((self.model(self.x).argmax(1) == self.y).double().mean())


def _plain_lenet(data: InMemory) -> nn.Module:
    model = LeNet()
    fit(model, data, Plain(), Training(epochs=2, optimiser=SGD(lr=0.05)), progress=False)
    return model


def _robust_lenet(data: InMemory) -> nn.Module:
    """Plain images first, then PGD at a rising radius: from random weights, LeNet may stay constant at a large one."""
    model = LeNet()
    some = data.subset(torch.arange(20_000))
    fit(model, data, Plain(), Training(epochs=1, optimiser=SGD(lr=0.05)), progress=False)
    for eps, epochs in ((0.1, 1), (0.2, 4)):
        defence = AdversarialTraining(PGD(eps=eps, steps=7))
        training = Training(epochs=epochs, batch_size=64, optimiser=SGD(lr=0.03), schedule=Cosine())
        fit(model, some, defence, training, progress=False)
    return model


def _convnet(data: InMemory) -> nn.Module:
    model = ConvNet()
    fit(model, data, Plain(), Training(epochs=6, optimiser=SGD(lr=0.03), schedule=Cosine(0.05)), progress=False)
    return model


NETWORKS: dict[str, Callable[[InMemory], nn.Module]] = {
    "plain LeNet": _plain_lenet,
    "robust LeNet": _robust_lenet,
    "ConvNet": _convnet,
}
RADII = {
    "plain LeNet": {"Linf": 0.1, "L2": 1.5, "L1": 10.0},
    "robust LeNet": {"Linf": 0.2, "L2": 1.5, "L1": 10.0},
    "ConvNet": {"Linf": 2 / 255, "L2": 0.25, "L1": 4.0},
}
"""Large enough that attacks win often and small enough that they differ."""


def ground(name: str, images: int, data_dir: Path | None, cache: Path, leave_out: str | None) -> Ground:
    """`leave_out` names a file with places of CIFAR-10 images that are not to be used."""
    source = CIFAR10(leave_out=leave_out) if name == "ConvNet" else MNIST()
    weights = cache / f"{name.replace(' ', '_').lower()}.pt"
    if weights.exists():
        model: nn.Module = ConvNet() if name == "ConvNet" else LeNet()
        model.load_state_dict(torch.load(weights, weights_only=True))
    else:
        torch.manual_seed(0)
        model = NETWORKS[name](source.load("train", data_dir))
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), weights)
    batch = next(iter(source.load("test", data_dir).batches([torch.arange(images)])))
    return Ground(name, model.eval().requires_grad_(False), batch.x, batch.y, RADII[name])
