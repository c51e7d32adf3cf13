"""An attack made for one model: crafted on what gives gradients, and judged on the model itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steelman.adaptive.gradients import Adapted
from steelman.adaptive.nearby import Nearby
from steelman.attacks.core import Access, Attack, AttackWrapper, Ball, Draws, Goal, Oracle, check_parts
from steelman.attacks.core.oracle import NearestSuccess
from steelman.forward import answer_of, unwrapped
from steelman.norms import column
from steelman.randomness import DRAWS
from steelman.ranges import Count
from steelman.types import Flags, Images, Indices, Model, PerImage

SAME = 1e-4
"""Answers to the same images that differ by less are rounding."""

SLACK = 1 + 1e-5
"""Iterates may leave the ball by rounding; they are brought back before they are tried."""


@dataclass(frozen=True)
class Adaptive(AttackWrapper):
    """An adaptive attack: crafted on one model, judged on another, and every success on the way counts.

    x' is the first image of the attack's search that reaches the goal on the true model. Of all versions of an image
    for which `attack` asks `model`, and that are within the radius, the 1st, 2nd, 4th, 8th, ... that reaches the goal
    there is tried on the true model, and at last what the attack returns. So no success is lost that the attack leaves
    behind, and of images that are crafted on another model several are tried, from hardly to surely wrong there. Where
    none succeeds, the last attempt's answer is returned.

    Where the true model answers otherwise when it is asked again, each version is judged by ten answers: the one with
    the most that reach the goal is kept, and the image is done where all do.

    attack       bounded (this attack's box replaces its own)
    model        what is attacked: None (default), an `Adapted` or `Nearby` is the true model itself; a pupil or another
                 model makes this a transfer attack, which needs the true model's decisions alone
    assumptions  what is assumed of the true model, in plain sentences; they do not change the search, and stand in the
                 records of tables
    attempts     runs of the attack, each from other random numbers, on the images that are not done (default 1)

    A minimal-norm attack stands in `Within`; images within the radius for which it asks on its way are tried too.

    Cost: the attack's passes times `attempts`, which are counted where they are the true model's own; 2 forward
    passes to see whether answers are random, and 1 for each trial (10 where they are): of the clean image, and at most
    2 + log2 of the attack's queries.
    Reference: Florian Tramèr, Nicholas Carlini, Wieland Brendel and Aleksander Madry, "On adaptive attacks to
    adversarial example defenses", NeurIPS 2020, section 3; Nicolas Papernot, Patrick McDaniel, Ian Goodfellow, Somesh
    Jha, Z. Berkay Celik and Ananthram Swami, "Practical black-box attacks against machine learning", AsiaCCS 2017, for
    those through a pupil.

    Raises:
        ValueError: an attack without a radius, or that finds a shared answer for all images; a model that cannot be
            called.
    """

    attack: Attack
    model: Any = None
    assumptions: tuple[str, ...] = ()
    attempts: Count = 1

    def __post_init__(self) -> None:
        check_parts("Adaptive", (self.attack,))
        if self.attack.budget is None:
            raise ValueError(f"Adaptive needs a radius, and {self.attack} has none; put it in Within(attack, eps)")
        if self.model is not None and not callable(self.model):
            raise ValueError(f"Adaptive crafts on a module or another callable; got {self.model!r}")

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.attack.access if self.inside else "decisions"

    @property
    def inside(self) -> bool:
        """Whether the attack is on the true model, and not on another one."""
        return self.model is None or isinstance(self.model, Adapted | Nearby)

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            torch.manual_seed(int(draws.split(1).seeds[0]))
            assert self.attack.budget is not None
            norm, eps = self.attack.budget
            trials = Trials.start(oracle, Ball.around(x, eps, norm, self.box), goal)
            answer = x.clone()
            for attempt in range(self.attempts):
                which = torch.where(trials.open)[0]
                if len(which) == 0:
                    break
                with self._attacked(oracle, which, goal[which], trials) as inner:
                    answer[which] = self.inner[which].search(inner, x[which], inner.goal, draws.split(attempt)[which])
                trials.ask(answer[which], which)
        return torch.where(column(trials.reached > 0, x), trials.best, answer)

    @contextmanager
    def _attacked(self, oracle: Oracle, which: Indices, goal: Goal, trials: "Trials") -> Iterator[Oracle]:
        """What the attack sees, whose passes count as the true model's where it is that."""
        model = oracle.model if self.model is None else self.model
        with oracle.another(Finite(model), goal) as inner:
            inner.given, inner.fits = oracle.given, min(oracle.fits, len(which))
            inner.nearest = Watch.of(trials, which)
            yield inner
        if self.inside:
            oracle.add(inner, which)


class Finite(nn.Module):
    """A model whose gradient is 0 in place of NaN and infinity, and where there is none: other parts of an attack, such
    as random starts, go on there."""

    def __init__(self, network: Model) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return unwrapped(self.network(x))
        x = x.clone()
        x.register_hook(lambda slope: slope.nan_to_num(0.0, 0.0, 0.0))
        answer = unwrapped(self.network(x))
        if answer.requires_grad or not answer.is_floating_point():
            return answer
        return answer.clone() + 0 * x.flatten(1).sum(1, keepdim=True)


@dataclass
class Trials:
    """Versions of images, tried on the true model: the best so far, with the share of answers that reach the goal."""

    oracle: Oracle
    ball: Ball
    goal: Goal
    answers: int
    best: Images
    reached: PerImage
    seen: Tensor
    """How many versions of each image have reached the goal on the model that is attacked."""

    @staticmethod
    def start(oracle: Oracle, ball: Ball, goal: Goal) -> "Trials":
        """A goal that is reached without any change is done. A model is random if it answers otherwise again."""
        count, clean = len(ball.x), ball.x
        reached = torch.zeros(count, dtype=torch.float64, device=clean.device)
        answers = DRAWS if oracle.random or not _same(oracle, clean) else 1
        trials = Trials(
            oracle, ball, goal, answers, clean.clone(), reached, torch.zeros_like(reached, dtype=torch.int64)
        )
        trials.ask(clean, torch.arange(count, device=clean.device))
        return trials

    @property
    def open(self) -> Flags:
        return self.reached < 1

    def ask(self, x: Images, which: Indices) -> None:
        """Try a version of each of the images `which`, brought into the ball to the last bit."""
        x = self.ball[which].contain(x)
        with torch.no_grad(), self.oracle.part(which, self.goal[which]) as oracle:
            met = [oracle.goal.met(oracle.decisions(x)) for _ in range(self.answers)]
        share = torch.stack(met).double().mean(0)
        better = share > self.reached[which]
        self.best[which[better]], self.reached[which[better]] = x[better], share[better]

    def consider(self, x: Images, met: Flags, which: Indices) -> None:
        """Of versions of images `which`, which may be named twice, try those whose turn it is."""
        rows = torch.where(met & self.open[which])[0]
        inside = self.ball.norm.size(x[rows] - self.ball.x[which[rows]]) <= self.ball.eps[which[rows]].flatten() * SLACK
        rows = rows[inside]
        if len(rows) == 0:
            return
        place, first = _first(which[rows])
        self.seen[place] += 1
        turn = torch.where((self.seen[place] & (self.seen[place] - 1)) == 0)[0]
        if len(turn):
            self.ask(x[rows[first[turn]]], place[turn])


@dataclass(frozen=True)
class Watch(NearestSuccess):
    """Hands what an attack asks about on to the trials; `place` is that of an image in the whole batch."""

    trials: Trials
    place: Indices

    @staticmethod
    def of(trials: Trials, place: Indices) -> "Watch":
        return Watch(trials.best, trials.ball.norm, trials.best, trials.reached, trials, place)

    def __getitem__(self, which: slice | Tensor) -> "Watch":
        return Watch.of(self.trials, self.place[which])

    def put(self, which: Indices, other: NearestSuccess) -> None:
        """Nothing: its parts have tried on the same images."""

    def update(self, x: Images, met: Flags, which: Indices | None) -> None:
        self.trials.consider(x, met, self.place if which is None else self.place[which])


def _first(which: Indices) -> tuple[Indices, Indices]:
    """Each image that is named, and the first row that names it."""
    place, at = which.unique(return_inverse=True)
    rows = torch.arange(len(which), device=which.device)
    first = torch.full_like(place, len(which)).scatter_reduce(0, at, rows, "amin")
    return place, first


def _same(oracle: Oracle, x: Images) -> bool:
    """Whether the model gives the same answers at a second call: two passes."""
    oracle.forwards += 2
    with torch.no_grad():
        first, second = (answer_of(oracle.model, x) for _ in range(2))
    return bool(torch.allclose(first.double(), second.double(), rtol=SAME, atol=SAME, equal_nan=True))
