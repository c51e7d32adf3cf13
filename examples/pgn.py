"""PGN (Lee, Han and Lee) in a plain PyTorch loop: generator and classifier learn against each other, each by its
optimiser."""

import torch
from torch import nn

from steelman import PGD, PGN, Batch, Plain, evaluate
from steelman.data import Digits
from steelman.networks import MLP
from steelman.norms import L2
from steelman.training import Adam, play

train, test = Digits().load("train"), Digits().load("test")
attacks = {"PGD in L2": PGD(eps=0.7, norm=L2, steps=40, stop_early=True)}


def learn(defence: Plain | PGN) -> nn.ModuleDict:
    torch.manual_seed(0)
    nets = nn.ModuleDict({"classifier": MLP(shape=train.shape, classes=10)})
    optimisers = {"classifier": torch.optim.Adam(nets["classifier"].parameters(), lr=1e-3)}
    for name, player in defence.players(train).items():
        nets[name], optimisers[name] = player.network, player.optimiser.build(player.network.parameters())
    for _ in range(20):
        for batch in train.batches(torch.randperm(len(train)).split(64)):
            play(defence, nets, Batch(batch.x, batch.y), optimisers)
    return nets.eval()


# The authors' grad_scale, 1/128, is for many thousands of batches; in hundreds the generator makes nothing of it.
pgn = PGN(norm_weight=1.0, grad_scale=10.0, width=16, hidden=64, optimiser=Adam(lr=5e-3))
print(f"Plain: {evaluate(learn(Plain())['classifier'], test, attacks, progress=False)}")
nets = learn(pgn)
attacks["its own generator"] = pgn.with_generator(nets["generator"])
print(f"PGN: {evaluate(nets['classifier'], test, attacks, progress=False)}")
