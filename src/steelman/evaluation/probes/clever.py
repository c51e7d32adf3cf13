"""The largest gradient around an image, by extreme value theory."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor

from steelman.attacks.core import Access, Oracle
from steelman.evaluation.probes.probe import Probe
from steelman.losses import Goal
from steelman.norms import L1, L2, Linf, Norm
from steelman.randomness import Draws, combine
from steelman.ranges import Count, Natural, OneOf, Positive
from steelman.types import Box, Images, Indices, Labels, Model, PerImage, Seeds

DUAL = {L2: L2, Linf: L1, L1: Linf}
STARTS = (1.0, 5.0, 20.0)
"""Initial shapes of the fit. The authors' code has four more, which found no other end when tried."""


@final
@dataclass(frozen=True)
class CLEVER(Probe):
    """An estimate of the distance to the nearest misclassified image, from gradients around the unattacked one.

    min_k min((Z_c - Z_k)(x) / L_k, R) over the classes k other than the predicted one, c, where L_k is the largest dual
    norm of grad(Z_c - Z_k) in the ball of radius R around x. Of each batch of points, uniform in the ball, the largest
    dual norm is kept; these maxima follow a reverse Weibull distribution, whose upper end, fitted by maximum
    likelihood, estimates L_k. The score is no bound: masked gradients make it too large.

    norm        of the distance; L2 (default), Linf or L1
    radius      R (default 5; the authors' code has 3 for L2, 30 for L1 and .1 for Linf)
    batches     maxima per class (default 500: authors' code)
    batch_size  points per maximum (default 1024: authors' code)
    pool        None (default: paper): every batch has points of its own. Otherwise batches are drawn with replacement
                from the gradients at pool * batch_size points: cheaper, but the maxima are no longer independent. The
                adversarial-robustness-toolbox has 10
    target      None (default): the minimum over the classes. Or one of them: its number (0 for an image that has it),
                "runner-up", "least-likely", or "random", drawn for each image
    box         the valid range of images, to which points are clipped (authors' code); None leaves them
    at_once     points that go through the model together (default 128); it bounds memory and does not change the score

    The fit is the authors': maxima scaled to [-1, 0], several initial shapes, .01 times the scale squared added to the
    negative log-likelihood against divergence, the best by a Kolmogorov-Smirnov test. Where none reaches p = .001 with
    an end above the maxima, the largest of these is taken, as where all gradients around the image are the same. Their
    code's points have lengths about uniform in [0, R]; ours are uniform in the ball, as the paper's.

    Cost: batches * batch_size, or pool * batch_size, forward passes, and as many gradient passes per class.
    Reference: Tsui-Wei Weng, Huan Zhang, Pin-Yu Chen, Jinfeng Yi, Dong Su, Yupeng Gao, Cho-Jui Hsieh and Luca Daniel,
    "Evaluating the robustness of neural networks: an extreme value theory approach", ICLR 2018.

    Raises:
        ValueError: a target that is no class, a model without gradients, or whose gradients are not finite.
    """

    access: ClassVar[Access] = "gradients"
    of_clean: ClassVar[bool] = True

    norm: Annotated[Norm, OneOf((L2, Linf, L1), "L0 has no dual norm")] = L2
    radius: Positive = 5.0
    batches: Count = 500
    batch_size: Count = 1024
    pool: Count | None = None
    target: Natural | Literal["runner-up", "least-likely", "random"] | None = None
    box: Box | None = (0.0, 1.0)
    at_once: Count = 128

    def __post_init__(self) -> None:
        if isinstance(self.target, str) and self.target not in ("runner-up", "least-likely", "random"):
            raise ValueError(f'target must be "runner-up", "least-likely", "random" or a class; got {self.target!r}')

    def __call__(self, model: Model, x: Images, y: Labels, x_adv: Images, seeds: Seeds) -> PerImage:
        draws = Draws(seeds.to(x.device))
        each = torch.arange(len(x), device=x.device).split(1)
        scores = [self._score(model, x[one].detach(), y[one], draws[one]) for one in each]
        return torch.tensor(scores, dtype=torch.float64, device=x.device)

    def _score(self, model: Model, x: Images, y: Labels, draws: Draws) -> float:
        with Oracle(model, Goal(y)) as oracle:
            logits = oracle.logits(x)[0].double()
        own = int(logits.argmax())
        rivals = self._rivals(logits, own, draws)
        if rivals == [own]:
            return 0.0
        steepest = self._maxima(model, x, own, rivals, draws).cpu().numpy()
        gaps = (logits[own] - logits[rivals]).tolist()
        ends = [upper_end(maxima) for maxima in steepest.T]
        return min(self.radius, *(gap / max(end, 1e-300) for gap, end in zip(gaps, ends, strict=True)))

    def _rivals(self, logits: Tensor, own: int, draws: Draws) -> list[int]:
        others = [k for k in logits.argsort(descending=True).tolist() if k != own]
        if self.target is None:
            return others
        if isinstance(self.target, int):
            if not 0 <= self.target < len(logits):
                raise ValueError(f"target {self.target} is no class: the model has 0 to {len(logits) - 1}")
            return [self.target]
        drawn = int(draws.split(2).uniform((), torch.float64) * len(others))
        return [others[{"runner-up": 0, "least-likely": -1, "random": drawn}[self.target]]]

    def _maxima(self, model: Model, x: Images, own: int, rivals: list[int], draws: Draws) -> Tensor:
        """The largest dual norms, of shape (batches, rivals)."""
        if self.pool is None:
            maxima = torch.zeros(self.batches, len(rivals), dtype=torch.float64, device=x.device)
            for points, sizes in self._sizes(model, x, own, rivals, draws, self.batches * self.batch_size):
                maxima.scatter_reduce_(0, (points // self.batch_size)[:, None].expand_as(sizes), sizes, "amax")
            return maxima
        points = self.pool * self.batch_size
        pool = torch.cat([sizes for _, sizes in self._sizes(model, x, own, rivals, draws, points)])
        place = draws.split(1).uniform((self.batches, self.batch_size), torch.float64)[0] * points
        return torch.stack([pool[which].amax(0) for which in place.long()])

    def _sizes(
        self, model: Model, x: Images, own: int, rivals: list[int], draws: Draws, count: int
    ) -> Iterator[tuple[Indices, Tensor]]:
        """The numbers of some points, and their dual norms, of shape (points, rivals)."""
        for points in torch.arange(count, device=x.device).split(self.at_once):
            around = x.expand(len(points), *x.shape[1:])
            theirs = Draws(combine(draws.seeds.expand(len(points)), points))
            at = around + self.norm.sample(around, self.radius, theirs)
            at = at if self.box is None else at.clamp(*self.box)
            yield points, _steepness(model, at, own, rivals, DUAL[self.norm])


def _steepness(model: Model, at: Images, own: int, rivals: list[int], norm: Norm) -> Tensor:
    """The norms of the gradients of Z_own - Z_k at these points, of shape (points, rivals k)."""
    labels = torch.full((len(at),), own, device=at.device)
    with Oracle(model, Goal(labels)) as oracle, torch.enable_grad():
        at = at.requires_grad_()
        logits = oracle.logits(at)
        gaps = [logits[:, own] - logits[:, rival] for rival in rivals]
        # One at a time: a thousand gradients, for a thousand classes, would fill the memory.
        return torch.stack([norm.size(oracle.backward(gap, at, keep=gap is not gaps[-1]).double()) for gap in gaps], 1)


def upper_end(maxima: np.ndarray) -> float:
    """The upper end of the reverse Weibull distribution of these maxima, never below the largest of them."""
    from scipy.stats import FitError, kstest, weibull_max

    top, span = float(maxima.max()), float(np.ptp(maxima))
    if span <= 1e-6 * top:  # all the same, up to rounding
        return top
    scaled = (maxima - top) / span
    best, end = 1e-3, top
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of logarithms outside the support, on the way
        for start in STARTS:
            try:
                shape, above, scale = weibull_max.fit(scaled, start, optimizer=_penalised)
            except FitError:
                continue
            p = kstest(scaled, "weibull_max", args=(shape, above, scale)).pvalue
            if above >= 0 and p > best:
                best, end = p, top + span * above
    return end


def _penalised(negative_log_likelihood: Callable[..., float], start: Any, args: tuple[Any, ...], disp: int) -> Any:
    """Nelder and Mead's search, with the penalty that keeps shapes, scales and ends bounded."""
    from scipy.optimize import fmin

    def cost(parameters: np.ndarray, *data: Any) -> float:
        return negative_log_likelihood(parameters, *data) + 0.01 * parameters[2] ** 2

    return fmin(cost, start, args=args, disp=disp)
