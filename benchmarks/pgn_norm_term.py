"""How much of the classifier's gradient PGN's norm term would be, if the classifier had it as in the paper's eq. 4.

    python benchmarks/pgn_norm_term.py

Generator and classifier learn against each other on Digits, by each `grad_scale`; every tenth batch, the gradient of
-c |delta|^2 in the classifier's weights is set against that of CE(x_adv, y), both through the gradient image.
"""

from itertools import cycle, islice

import torch
from torch import Tensor, nn

from steelman import PGN, Batch
from steelman.data import Digits
from steelman.networks import ConvPoolCNN
from steelman.optimisers import Adam
from steelman.training import play

BATCHES, BATCH = 200, 64


def descended(pgn: PGN, nets: nn.ModuleDict, batch: Batch) -> Tensor:
    """The gradient that the classifier is given, as one vector."""
    weights = list(nets["classifier"].parameters())
    before = [each.detach().clone() for each in weights]
    frozen = {
        name: torch.optim.SGD(net.parameters(), 1.0 if name == "classifier" else 0.0) for name, net in nets.items()
    }
    play(pgn, nets, batch, frozen)
    moved = [old - new.detach() for old, new in zip(before, weights, strict=True)]
    with torch.no_grad():
        for each, value in zip(weights, before, strict=True):
            each.copy_(value)
    return torch.cat([each.flatten() for each in moved])


def share(scale: float, c: float) -> tuple[float, float]:
    """The norm term's part of the gradient's norm, its median over training, and |delta|_2 at the end."""
    train = Digits().load("train")
    torch.manual_seed(0)
    settings = {"norm_weight": c, "grad_scale": scale, "width": 16, "hidden": 64, "optimiser": Adam(1e-3)}
    pgn, whole = PGN(**settings), PGN(**settings, norm_term_to_classifier=True)
    nets = nn.ModuleDict({"classifier": ConvPoolCNN(shape=train.shape, width=6)})
    nets["generator"] = pgn.players(train)["generator"].network
    optimisers = {name: torch.optim.Adam(net.parameters(), 1e-3) for name, net in nets.items()}
    parts, size = [], torch.zeros(())
    order = cycle(torch.randperm(len(train)).split(BATCH)[:-1])
    for turn, batch in enumerate(train.batches(islice(order, BATCHES))):
        if turn % 10 == 0:
            plain, full = descended(pgn, nets, batch), descended(whole, nets, batch)
            parts.append(float((full - plain).norm() / plain.norm()))
        play(pgn, nets, batch, optimisers)
        if turn == BATCHES - 1:
            attack = pgn.with_generator(nets["generator"])
            size = (attack(nets["classifier"], batch.x, batch.y) - batch.x).flatten(1).norm(dim=1).mean()
    return float(torch.tensor(parts).median()), float(size)


if __name__ == "__main__":
    for c in (1.0, 50.0):
        for scale in (1 / 128, 1.0, 10.0):
            part, size = share(scale, c)
            print(
                f"norm_weight {c:g}, grad_scale {scale:.4g}: {100 * part:.2g} % of the cross-entropy's, "
                f"|delta| {size:.2f}"
            )
