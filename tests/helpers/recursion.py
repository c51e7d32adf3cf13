"""L2L-DA's recursion, written out, and small networks in double precision to hold it against."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import L2LDA, Batch
from steelman.defences.game import Descend, Step

SMALL = L2LDA(eps=0.2, steps=3, step_size=0.1, width=2)
STAR = L2LDA(
    eps=0.2, steps=1, step_size=0.2, diversity=0.0, latent=0, normalise="none", delta=False, label=False, width=2
)
SHAPE = (3, 8, 8)


def classifier(seed: int = 1) -> nn.Sequential:
    """Smooth, in double precision, with small logits."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.Tanh(), nn.Linear(12, 10)).double()


def batch(count: int = 6, seed: int = 2) -> Batch:
    """A third of the pixels is at the ends of the box."""
    chance = torch.Generator().manual_seed(seed)
    x = (1.5 * torch.rand(count, *SHAPE, generator=chance, dtype=torch.float64) - 0.25).clamp(0, 1)
    return Batch(x, torch.arange(count) % 10, seeds=torch.arange(count))


class Recording(nn.Module):
    """A network that records its inputs and modes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.asked = network, list[tuple[Any, ...]]()
        self.modes = list[bool]()

    def forward(self, *arguments: Any) -> Tensor:
        self.asked.append(tuple(each.detach().clone() for each in arguments))
        self.modes.append(self.network.training)
        return self.network(*arguments)


class Scripted(nn.Module):
    """A generator whose answer is the same everywhere, and scripted for each step."""

    shape, classes = SHAPE, 10

    def __init__(self, *script: float) -> None:
        super().__init__()
        self.script = nn.Parameter(torch.tensor(script, dtype=torch.float64))
        self.step = 0

    def forward(self, images: Tensor, z: Tensor, y: Tensor) -> Tensor:
        self.step += 1
        return self.script[self.step - 1].expand(len(images), *SHAPE)


def generator(adversary: L2LDA, seed: int = 3) -> Recording:
    """Double, with steps that reach the ball's surface now and then."""
    torch.manual_seed(seed)
    network = adversary.network(SHAPE, 10).double()
    with torch.no_grad():
        network.out.weight.mul_(20)
    return Recording(network)


def seated(adversary: L2LDA, model: nn.Module | None = None) -> nn.ModuleDict:
    return nn.ModuleDict({"classifier": model or classifier(), "generator": generator(adversary)})


def learnt(adversary: L2LDA, nets: nn.ModuleDict, data: Batch) -> tuple[Tensor, Batch]:
    """What the generator is to descend, and what it made; it does not move."""
    updates = adversary.learn(nets, data)
    descent = next(updates)
    assert isinstance(descent, Descend)
    assert isinstance(next(updates), Step)
    with pytest.raises(StopIteration) as end:
        next(updates)
    return descent.loss, end.value.value


def written_out(
    adversary: L2LDA, network: nn.Module, model: nn.Module, data: Batch, z: list[Tensor], crossing: bool = False
) -> tuple[Tensor, list[list[Tensor]]]:
    """What the generator is to ascend, with full autograd through the classifier, and the images of each step by draw.

    With `crossing`, gradients also go through the gradient image.
    """
    x, y = data.x, data.y
    size = adversary.eps / 4 if adversary.step_size is None else adversary.step_size
    whole, labels, draws = torch.cat([x] * len(z)), torch.cat([y] * len(z)), torch.cat(z)
    delta, seen, path, hurt = torch.zeros_like(whole), whole.clone().requires_grad_(), [], []
    for _ in range(adversary.steps):
        asked = seen if crossing else seen.detach().requires_grad_()
        slopes = []
        for one in range(len(whole)):
            loss = F.cross_entropy(model(asked), labels, reduction="none")[one]
            slope = torch.autograd.grad(loss, asked, create_graph=crossing, retain_graph=True)[0][one]
            if adversary.normalise == "image":
                slope = slope / slope.square().sum().sqrt()
            elif adversary.normalise == "channel":
                slope = torch.stack([channel / channel.square().sum().sqrt() for channel in slope])
            elif adversary.normalise == "rms":
                slope = slope / slope.square().mean().sqrt()
            slopes.append(slope)
        inputs = [whole, delta, torch.stack(slopes)] if adversary.delta else [whole, torch.stack(slopes)]
        delta = delta + size * network(torch.cat(inputs, 1), draws, labels)
        edge = torch.full_like(delta, adversary.eps)
        delta = torch.minimum(torch.maximum(delta, -edge), edge)
        seen = (whole + delta).clamp(0, 1)
        path.append(list(seen.split(len(x))))
        hurt.append(F.cross_entropy(model(seen), labels))
    gain = torch.stack(hurt).sum()
    if adversary.diversity:
        for first, second in path:
            for one in range(len(x)):
                apart, code = (first[one] - second[one]).abs(), (z[0][one] - z[1][one]).abs()
                each = apart.mean() / code.mean() if adversary.ratio == "mean" else apart.sum() / code.sum()
                gain = gain + adversary.diversity * each / len(x)
    return gain if adversary.total == "sum" else gain / adversary.steps, path


def optimisers(nets: nn.ModuleDict, **rates: float) -> dict[str, torch.optim.Optimizer]:
    return {name: torch.optim.SGD(net.parameters(), lr=rates.get(name, 0.0)) for name, net in nets.items()}


def parameters(net: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in net.parameters()]


def length(tensors: list[Tensor] | tuple[Tensor, ...]) -> float:
    return sum(float(each.square().sum()) for each in tensors) ** 0.5


def change(net: nn.Module, before: list[Tensor]) -> list[Tensor]:
    return [after.detach() - each for after, each in zip(net.parameters(), before, strict=True)]
