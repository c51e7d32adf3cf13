"""What tests of the training loop share: few images, a small network, and training that is observed."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import Batch, Training
from steelman.data import Digits, InMemory
from steelman.defences import Objective
from steelman.training import SGD, trained_weights

TRAINING = Training(epochs=3, batch_size=20, optimiser=SGD(lr=0.05))


def images(count: int = 90) -> InMemory:
    train = Digits().load("train")
    return train.subset(torch.arange(count) * 11)


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 10))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Spy(Objective):
    """Plain training that also does something at a batch, and remembers the images it met."""

    def __init__(self, act: Callable[[int, nn.Module], None] = lambda batch, model: None) -> None:
        self.act, self.seen = act, list[Batch]()

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        self.seen.append(batch)
        self.act(len(self.seen), model)
        return F.cross_entropy(model(batch.x), batch.y)


def network_of(folder: Path) -> nn.Module:
    model = network(0.5)
    model.load_state_dict(trained_weights(folder))
    return model
