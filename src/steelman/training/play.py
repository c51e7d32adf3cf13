"""One batch of a game: the only place where gradients meet optimisers and processes."""

from collections.abc import Mapping

import torch
from torch import nn

from steelman.training.game import Descend, Game, Step
from steelman.training.processes import Processes
from steelman.types import Batch


class Diverged(ArithmeticError):
    """A loss is NaN or infinite; the network has not moved on it."""


def play(
    game: Game,
    nets: nn.ModuleDict,
    batch: Batch,
    optimisers: Mapping[str, torch.optim.Optimizer],
    processes: Processes = Processes(),  # noqa: B008 (frozen)
    share: float = 1.0,
) -> dict[str, float]:
    """Play the game's updates on a batch; returns, per network that moved, the loss it descended.

    `share` is this process's part of the global batch times the number of processes, so that the mean over processes is
    the mean over images even when they do not divide evenly.

    Raises:
        Diverged: a loss is not finite in any process; raised in all of them, before the network moves.
    """
    losses: dict[str, float] = {}
    for optimiser in optimisers.values():
        optimiser.zero_grad(set_to_none=True)
    device = batch.x.device
    total = torch.zeros((), device=device)
    for update in game.updates(nets, batch):
        if isinstance(update, Descend):
            into = [tensor for tensor in update.into if tensor.requires_grad]
            loss = update.loss if share == 1 else update.loss * share
            loss.backward(inputs=into)
            total += loss.detach()
        else:
            assert isinstance(update, Step)
            loss = float(processes.mean(total))
            if not torch.isfinite(torch.tensor(loss)):
                raise Diverged(f"the loss of {update.net} is {loss}")
            processes.average_gradients(nets[update.net].parameters())
            optimisers[update.net].step()
            optimisers[update.net].zero_grad(set_to_none=True)
            losses[update.net] = loss
            total = torch.zeros((), device=device)
    return losses
