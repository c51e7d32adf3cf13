"""PGN against its formulas, differentiated by autograd from end to end."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from steelman import PGN, AttackTraining, Batch, Training, fit
from steelman.adversaries.adversary import GENERATOR
from steelman.data import InMemory
from steelman.networks import ConvPoolCNN, PGNGenerator
from steelman.training import play

SHAPE, CLASSES = (2, 4, 8), 3
SMALL = PGN(c=0.3, width=2, hidden=3)


class Net(nn.Module):
    """Smooth, so that finite differences are exact; with a mode, so that it matters which one is used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3 * 2 * 6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).tanh().flatten(1))


def nets(pgn: PGN = SMALL, training: bool = True) -> nn.ModuleDict:
    torch.manual_seed(0)
    classifier = Net()
    classifier.norm.get_buffer("running_mean").uniform_(-0.5, 0.5)
    classifier.norm.get_buffer("running_var").uniform_(0.3, 2)
    with torch.no_grad():
        classifier.fc.weight *= 4
    return nn.ModuleDict({"classifier": classifier, "generator": pgn.network(SHAPE, CLASSES)}).double().train(training)


def batch(count: int = 5) -> Batch:
    chance = torch.Generator().manual_seed(1)
    x = torch.rand(count, *SHAPE, generator=chance, dtype=torch.float64)
    x[0, 0, 0, :4] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    return Batch(x, torch.randint(CLASSES, (count,), generator=chance), seeds=torch.arange(count))


def by_hand(pgn: PGN, players: nn.ModuleDict, part: Batch, constant: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Both losses and the images, in one graph; gradients image by image. `constant`: g has no graph."""
    classifier, generator = players["classifier"], players["generator"]
    asked = [{name: value.clone() for name, value in classifier.named_buffers()} for _ in part.x]  # before they move
    mode = classifier.training
    classifier.eval()
    slopes = []
    for image, label, buffers in zip(part.x, part.y, asked, strict=True):
        image = image[None].clone().requires_grad_()
        likely = functional_call(classifier, {**dict(classifier.named_parameters()), **buffers}, (image,)).exp()[0]
        slopes.append(torch.autograd.grad(likely[label] / likely.sum(), image, create_graph=not constant)[0])
    classifier.train(mode)
    shift = generator(2 * part.x - 1, torch.cat(slopes) / 128, part.y)
    edge = 0.999999 * (2 * part.x - 1)
    x_adv = (torch.tanh(0.5 * torch.log((1 + edge) / (1 - edge)) + shift) + 1) / 2
    adversarial = F.cross_entropy(classifier(x_adv), part.y)
    clean = F.cross_entropy(classifier(part.x), part.y)
    size = sum((((made - image) ** 2).sum() for made, image in zip(x_adv, part.x, strict=True)), torch.zeros(()))
    first = (1 - pgn.adv_weight) * clean + pgn.adv_weight * adversarial
    return first, -adversarial + pgn.c * size / len(part), x_adv


def moved(game: PGN | AttackTraining, players: nn.ModuleDict, part: Batch, share: float = 1.0) -> dict[str, Tensor]:
    """What the optimisers were given, from steps of length 1."""
    before = {name: value.detach().clone() for name, value in players.named_parameters()}
    play(
        game,
        players,
        part,
        {name: torch.optim.SGD(net.parameters(), 1.0) for name, net in players.items()},
        share=share,
    )
    return {name: before[name] - value.detach() for name, value in players.named_parameters()}


def slopes(first: Tensor, second: Tensor, players: nn.ModuleDict, share: float = 1.0) -> dict[str, Tensor]:
    wanted = {}
    for loss, name in ((first, "classifier"), (second, "generator")):
        named = dict(players[name].named_parameters(prefix=name))
        found = torch.autograd.grad(loss * share, list(named.values()), retain_graph=True)
        wanted |= dict(zip(named, found, strict=True))
    return wanted


@pytest.mark.parametrize("share", [1.0, 0.7])
@pytest.mark.parametrize("detach_adv", [False, True])
@pytest.mark.parametrize("adv_weight", [1.0, 0.4])
def test_both_updates_are_those_of_full_autograd(adv_weight: float, detach_adv: bool, share: float):
    pgn = replace(SMALL, adv_weight=adv_weight, detach_adv=detach_adv)
    players, part = nets(), batch()
    first, second, x_adv = by_hand(pgn, players, part, constant=False)
    wanted = slopes(first, second, players, share)
    if detach_adv:
        players = nets()
        classifier = players["classifier"]
        first = adv_weight * F.cross_entropy(classifier(x_adv.detach()), part.y)
        first = first + (1 - adv_weight) * F.cross_entropy(classifier(part.x), part.y)
        wanted |= {f"classifier.{name}": share * value for name, value in grads(first, classifier).items()}
    torch.testing.assert_close(moved(pgn, nets(), part, share), wanted)


def grads(loss: Tensor, net: nn.Module) -> dict[str, Tensor]:
    named = dict(net.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
