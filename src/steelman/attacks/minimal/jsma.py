"""Few entries, chosen by a saliency map of the Jacobian."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from steelman.attacks.core import Attack, Oracle
from steelman.losses import Goal, Margin, other_logits
from steelman.norms import L0, Norm
from steelman.randomness import Draws
from steelman.ranges import OneOf
from steelman.types import Flags, Images, Indices, Labels, Logits, PerImage, Share

_AT_ONCE = 2**22  # pairs that are scored at a time


@dataclass(frozen=True)
class JSMA(Attack):
    """Jacobian-based saliency map attack: move two entries a step until the target is the prediction.

    With the slopes J_k = grad Z_k at the image of the moment and the target t, the pair (p, q) with the largest
    -A * B is moved by theta, where A = sum_{p,q} J_t has to be above 0 and B = sum_{p,q} sum_{k != t} J_k below; for a
    negative theta with both signs turned. An entry at the end of the box moves no further.

    theta  how far an entry goes per step, in the units of the images; a negative one darkens (default 1 in units of the
           box, paper)
    gamma  largest share of entries that may change (default 1: no limit; paper: .145)
    of     "logits" (default, paper; Carlini and Wagner's JSMA-Z) or "softmax" (their JSMA-F). Probabilities sum to 1,
           so that B = -A and the best pair is the two largest slopes; we take those of log softmax(Z)_t, which orders
           them alike and does not underflow, and the second only where it is above 0
    pair   False takes the two largest entries of J_t, which saves a gradient pass (ART) (default True)
    both   whether an entry may go up or down by theta, whichever serves, and then on in that direction: Wiyatno and
           Xu's maximal form (default False)
    reach  multiply slopes by the way that the entry would go, which is less than theta near the end of the box. Not in
           the paper; False gives its plain score. On LeNet it saves a quarter of the entries (default True)
    prune  at last, put the entries of least effect back, as many as bisection finds that leave the goal reached
           (default True; not in the paper)
    norm   L0, the only one: it counts changed entries

    Untargeted, the target is the most likely wrong class at each step (the paper has targets only; ART draws one at
    random). Where no pair is admissible the paper has no step; we take that of the softmax form. An image fails when
    that has no slope above 0 either, or gamma is used up, and comes back with what it has. The best pair is exact, in
    memory that is linear in the entries. Changed entries are few, but not fewest: on affine models of 96 entries, 1.5
    times the optimum; of="softmax" with both=True 1.05 times.

    Cost: per step of two entries 1 forward and 2 gradient passes, or 1 with of="softmax" or pair=False, for any number
    of classes; 1 of each more in a step without an admissible pair. Pruning: 1 forward and gradient pass, and
    log2(changed entries) forward passes.
    Reference: Nicolas Papernot, Patrick McDaniel, Somesh Jha, Matt Fredrikson, Z. Berkay Celik and Ananthram Swami,
    "The limitations of deep learning in adversarial settings", EuroS&P 2016, algorithms 2 and 3; Rey Wiyatno and Anqi
    Xu, "Maximal Jacobian-based saliency map attack", arXiv 2018, 1808.07945, section 3.

    Raises:
        ValueError: box=None, since entries go to the ends of the box; theta below a thousandth of it.
    """

    theta: float = Share(1.0)
    gamma: Annotated[float, Interval(gt=0, le=1)] = 1.0
    of: Literal["logits", "softmax"] = "logits"
    pair: bool = True
    both: bool = False
    reach: bool = True
    prune: bool = True
    norm: Annotated[Norm, OneOf((L0,))] = L0

    def __post_init__(self) -> None:
        if self.box is None:
            raise ValueError("JSMA moves entries to the ends of the box: give it one, such as (0, 1)")
        if not self.box_width / 1000 <= abs(self.theta) < float("inf"):
            raise ValueError(f"JSMA needs a finite theta, of at least a thousandth of the box; got {self.theta}")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        x_adv, won = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        which, clean, image, aim = torch.arange(len(x), device=x.device), x, x, goal
        while len(which):
            with torch.enable_grad():
                leaf = image.detach().requires_grad_()
                logits = oracle.logits(leaf, which)
            won[which] = aim.reached(logits)
            going = torch.where(~won[which])[0]
            if len(going) == 0:
                break
            target = _target(logits.detach(), aim)
            gain, rest = self._slopes(oracle, leaf, logits, target, which)
            which, clean, image, aim, target = which[going], clean[going], image[going], aim[going], target[going]
            way = self._ways(clean.flatten(1), image.flatten(1))
            moves, able = self._choose(way, gain[going], None if rest is None else rest[going])
            stuck = torch.where(~able)[0]
            if self.of == "logits" and len(stuck):
                _, _, gain = oracle.gradient(image[stuck], partial(_likelihood, target=target[stuck]), which[stuck])
                moves[stuck], able[stuck] = self._choose(way[stuck], gain, None)
            stay = torch.where(able)[0]
            which, clean, aim = which[stay], clean[stay], aim[stay]
            x_adv[which] = image = self._move(clean, image[stay], moves[stay])
        return self._put_back(oracle, x, x_adv, goal, torch.where(won)[0]) if self.prune else x_adv

    @property
    def _signs(self) -> tuple[int, ...]:
        return (1, -1) if self.both else (1,) if self.theta > 0 else (-1,)

    def _slopes(
        self, oracle: Oracle, x: Images, logits: Logits, target: Labels, which: Indices
    ) -> tuple[Images, Images | None]:
        """What raises the target and, where pairs are scored, what lowers the sum of the others."""
        with torch.enable_grad():
            own, total = logits.gather(1, target[:, None])[:, 0], logits.sum(1)
            if self.of == "softmax":
                own = _likelihood(logits, target)
        if self.of == "softmax" or not self.pair:
            return oracle.backward(own, x, which), None
        gain = oracle.backward(own, x, which, keep=True)
        return gain, gain - oracle.backward(total, x, which)

    def _most(self, entries: int) -> int:
        return max(int(self.gamma * entries + 1e-9), 1)

    def _ways(self, clean: Tensor, image: Tensor) -> Tensor:
        """How far each move would go, shape (batch, signs * entries); 0 for those that are not allowed."""
        assert self.box is not None
        moved = image != clean
        full = moved.sum(1, keepdim=True) >= self._most(image.shape[1])
        ways = []
        for sign in self._signs:
            way = ((image + sign * abs(self.theta)).clamp_(*self.box) - image).abs_()
            ways.append(way.masked_fill_((sign * (image - clean) < 0) | (full & ~moved), 0))
        return torch.cat(ways, 1)

    def _choose(self, way: Tensor, gain: Images, rest: Images | None) -> tuple[Tensor, Flags]:
        """The two best moves, twice the same where only one is of use, and whether any is."""

        def score(slope: Images) -> Tensor:
            signed = torch.cat([sign * slope.flatten(1) for sign in self._signs], 1)
            return (signed.mul_(way) if self.reach else signed).masked_fill_(way == 0, -torch.inf)

        if rest is not None and way.shape[1] > 1:
            return best_pair(score(gain), score(rest))
        best, moves = score(gain).topk(min(2, way.shape[1]), dim=1)
        second = torch.where(best[:, -1] > 0, moves[:, -1], moves[:, 0])
        return torch.stack([moves[:, 0], second], 1), best[:, 0] > 0

    def _move(self, clean: Images, image: Images, moves: Tensor) -> Images:
        assert self.box is not None
        start, flat = clean.flatten(1), image.flatten(1)
        moved = flat != start
        room = self._most(flat.shape[1]) - moved.sum(1)
        fresh = (~moved).gather(1, moves % flat.shape[1]).sum(1)
        moves = torch.where((fresh > room)[:, None], moves[:, :1], moves)  # two new ones, and gamma has one left
        entries = moves % flat.shape[1]
        sign = flat.new_tensor(self._signs)[moves // flat.shape[1]]
        there = (flat.gather(1, entries) + sign * abs(self.theta)).clamp_(*self.box)
        return flat.scatter(1, entries, there).reshape(image.shape)

    @staticmethod
    def _put_back(oracle: Oracle, x: Images, x_adv: Images, goal: Goal, which: Indices) -> Images:
        """`x_adv` with as many entries as can be, of the images `which`, back at `x`: those of least effect."""
        changed = (x_adv != x).flatten(1).sum(1)
        which = which[changed[which] > 1]
        if len(which) == 0:
            return x_adv
        clean, image, aim = x[which], x_adv[which], goal[which]
        _, _, slope = oracle.gradient(image, partial(Margin(), goal=aim), which)
        effect = (slope * (image - clean)).masked_fill_(image == clean, torch.inf)
        rank = effect.flatten(1).argsort(dim=1, stable=True).argsort(1).reshape(image.shape)
        enough, many = torch.zeros_like(which), changed[which]
        while True:
            open = torch.where(many - enough > 1)[0]
            if len(open) == 0:
                return x_adv
            count = (enough[open] + many[open]) // 2
            trial = torch.where(rank[open] < count.reshape(-1, *[1] * (x.ndim - 1)), clean[open], image[open])
            reached = aim[open].reached(oracle.logits(trial, which[open]))
            x_adv[which[open[reached]]] = trial[reached]
            enough[open[reached]], many[open[~reached]] = count[reached], count[~reached]


def _target(logits: Logits, goal: Goal) -> Labels:
    if goal.target is not None:
        return goal.target
    return other_logits(logits, goal.labels).argmax(1)


def _likelihood(logits: Logits, target: Labels) -> PerImage:
    return -F.cross_entropy(logits, target, reduction="none")


def best_pair(gain: Tensor, rest: Tensor) -> tuple[Tensor, Flags]:
    """The two columns with the largest (gain_p + gain_q)(rest_p + rest_q), both sums above 0, and if there are two.

    A column that two others match or beat in both is not needed: the one of them that is not its partner does as well
    in its place. Sorting finds the needed ones in n log n steps; they are few, so all their pairs are scored.
    """
    gain, order = gain.sort(dim=1, descending=True, stable=True)
    rest = rest.gather(1, order)
    kept = torch.ones_like(rest, dtype=torch.bool)
    second = torch.minimum(rest.cummax(1).values[:, :-1], rest[:, 1:]).cummax(1).values  # second highest so far
    kept[:, 2:] = rest[:, 2:] > second[:, :-1]
    rank = kept.cumsum(1) - 1
    rows, columns = torch.where(kept)
    slots, width = rank[rows, columns], int(rank[:, -1].max()) + 1
    few = torch.full((2, len(gain), width), -torch.inf, dtype=gain.dtype, device=gain.device)
    few[:, rows, slots] = torch.stack([gain[rows, columns], rest[rows, columns]])
    place = torch.zeros(len(gain), width, dtype=torch.int64, device=gain.device)
    place[rows, slots] = order[rows, columns]
    best, pair = gain.new_zeros(len(gain)), place.new_zeros(len(gain), 2)
    block = max(_AT_ONCE // max(place.numel(), 1), 1)
    for start in range(0, width, block):
        # By roots, since products of small slopes underflow; what is not admissible scores 0.
        sums = (few[:, :, start : start + block, None] + few[:, :, None, :]).clamp_(min=0).sqrt_()
        score = sums[0].mul_(sums[1])
        score.diagonal(start, 1, 2).zero_()
        value, at = score.flatten(1).max(1)
        higher = value > best
        best = torch.where(higher, value, best)
        pair = torch.where(higher[:, None], torch.stack([at // width + start, at % width], 1), pair)
    return place.gather(1, pair), best > 0
