"""For testing PGN: a smooth classifier with a generator, a batch, and steps of length 1."""

import torch
from torch import Tensor, nn

from steelman import PGN, AttackTraining, Batch
from steelman.training import play

SHAPE, CLASSES = (2, 4, 8), 3
SMALL = PGN(norm_weight=0.3, width=2, hidden=3)


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
