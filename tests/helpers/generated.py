"""Generators for testing learned adversaries as attacks."""

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affine import images, small_net
from steelman import AttackTraining, Batch
from steelman.adversaries import Adversary
from steelman.data import InMemory
from steelman.training import play

_BLANK = InMemory("blank", torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64), tuple("0123456789"))


@final
class Learnt(nn.Module):
    """The generator of an adversary as a value: equal, copied and printed like the attack that holds it.

    It is for the images of `affine.py`. Their sides are no multiples of 4, so the network is for 8x8 and sees them with
    a margin of zeros. A few batches against `small_net` have trained it.
    """

    shape = (1, 4, 6)

    def __init__(self, adversary: Any) -> None:
        super().__init__()
        self.adversary = adversary
        with torch.random.fork_rng():
            torch.manual_seed(0)
            players = {name: each.network for name, each in adversary.players(_BLANK).items()}
        self.network = players["generator"]
        self.classes = self.network.classes
        nets = nn.ModuleDict({**players, "classifier": small_net(torch.float32), "generator": self})
        optimisers = {name: torch.optim.Adam(nets[name].parameters(), lr=0.02) for name in players}
        for seed in range(8):
            x = images(16, torch.float32, seed)
            batch = Batch(x, nets["classifier"](x).argmax(1), seeds=torch.arange(16) + 16 * seed)
            play(AttackTraining(adversary), nets, batch, optimisers)
        self.eval().zero_grad()

    def forward(self, *arguments: Any) -> Tensor:
        return self.network(*(_framed(each) for each in arguments))[..., :4, :6]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Learnt) and self.adversary == other.adversary

    def __hash__(self) -> int:
        return hash(self.adversary)

    def __repr__(self) -> str:
        return f"Learnt({self.adversary!r})"


def _framed(value: Any) -> Any:
    return F.pad(value, (0, 2, 0, 4)) if isinstance(value, Tensor) and value.ndim == 4 else value


def learnt(adversary: Adversary) -> Adversary:
    """The attack by a generator after a few batches of training."""
    return adversary.with_generator(Learnt(adversary))
