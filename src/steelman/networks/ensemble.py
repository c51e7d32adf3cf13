"""Several networks as one: by a majority vote, or by the mean of their logits."""

import math
from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot

from steelman.forward import logits_of
from steelman.types import Images, Logits


class Members(nn.Module):
    """Networks for the same images and classes that answer together.

    Raises:
        ValueError: no members, one that is no network, or members with different classes.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        members, kind = list(members), type(self).__name__
        if not members:
            raise ValueError(f"{kind} needs at least one member")
        if strange := [each for each in members if not isinstance(each, nn.Module)]:
            raise ValueError(f"the members of {kind} are networks; got a {type(strange[0]).__name__}")
        self.members = nn.ModuleList(members)

    def each(self, x: Images) -> Tensor:
        """The logits of every member, (members, batch, classes)."""
        logits = [logits_of(member, x) for member in self.members]
        shapes = {tuple(each.shape[1:]) for each in logits}
        if len(shapes) > 1:
            kind = type(self).__name__
            raise ValueError(f"the members of {kind} give logits of different shapes per image: {sorted(shapes)}")
        return torch.stack(logits)


@final
class Ensemble(Members):
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

    def forward(self, x: Images) -> Logits:
        each = log_softmax(self.each(x), dim=2)
        mean = each.logsumexp(0) - math.log(len(each))
        return mean - mean.detach() + _voted(each.detach(), mean.detach())


@final
class LogitEnsemble(Members):
    """The mean of several networks' logits, (1/M) sum_m z_m(x), through which all of them can be trained together.

    members  networks for the same images and classes, each with its own preprocessing

    EnResNet is this of M = 5 residual networks with `noisy_blocks`, by PGD training: its members learn the loss of the
    mean. At c = 0, or with members that are not random, it is a plain ensemble.

    It is broken by `EOT` of `PGD`, as far as noise is what defends.

    Cost: a forward pass of each member.
    Reference: Bao Wang, Zuoqiang Shi and Stanley Osher, "ResNets ensemble via the Feynman-Kac formalism to improve
    natural and robust accuracies", NeurIPS 2019, section 3.

    Raises:
        ValueError: no members, one that is no network, or members with different classes.
    """

    def forward(self, x: Images) -> Logits:
        return self.each(x).mean(0)


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
