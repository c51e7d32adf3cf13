"""Majority vote of several networks."""

import math
from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot

from steelman.forward import logits_of
from steelman.types import Images, Logits


@final
class Ensemble(nn.Module):
    """Majority vote of trained networks; where votes are equal, the highest mean probability decides.

    l_k = log (1/M) sum_m softmax(z_m)_k are the log-probabilities of the mean, and w is the class that wins the vote.
    Where w has the largest l, the result is l. Elsewhere the values of w and of the largest are swapped (and w's is
    rounded up), so that argmax is the vote and every margin has the vote's sign. The derivative takes the swap for a
    constant: the Jacobian is that of l everywhere, and the gradient of cross-entropy that of -l_y wherever vote and
    mean agree. A vote alone has no gradient.

    members  networks for the same images and classes, each with its own preprocessing

    Cost: a forward pass of each member.
    Reference: Gavin Weiguang Ding, Yash Sharma, Kry Yik Chau Lui and Ruitong Huang, "MMA training: direct input space
    margin maximization through adversarial training", ICLR 2020, section 4 (PGD-ens, PGDLS-ens).

    Raises:
        ValueError: no members, one that is no network, or members with different classes.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        members = list(members)
        if not members:
            raise ValueError("an Ensemble needs at least one member")
        if strange := [each for each in members if not isinstance(each, nn.Module)]:
            raise ValueError(f"the members of an Ensemble are networks; got a {type(strange[0]).__name__}")
        self.members = nn.ModuleList(members)

    def forward(self, x: Images) -> Logits:
        logits = [logits_of(member, x) for member in self.members]
        shapes = {tuple(each.shape[1:]) for each in logits}
        if len(shapes) > 1:
            raise ValueError(f"the members of an Ensemble give logits of different shapes per image: {sorted(shapes)}")
        each = log_softmax(torch.stack(logits), dim=2)
        mean = each.logsumexp(0) - math.log(len(logits))
        return mean - mean.detach() + _voted(each.detach(), mean.detach())


def _voted(each: Tensor, mean: Tensor) -> Tensor:
    """The mean, with two values swapped where it is not largest at the winner of the vote.

    each  log-probabilities of shape (members, batch, classes)
    """
    votes = one_hot(each.argmax(2), each.shape[2]).sum(0)
    winner = mean.masked_fill(votes < votes.amax(1, keepdim=True), -math.inf).argmax(1, keepdim=True)
    largest = mean.argmax(1, keepdim=True)
    top = mean.gather(1, largest)
    above = torch.nextafter(top, torch.full_like(top, math.inf))
    swapped = mean.scatter(1, largest, mean.gather(1, winner)).scatter(1, winner, above)
    return torch.where(winner == largest, mean, swapped)
