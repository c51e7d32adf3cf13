"""What a model's answers and gradients are at the scale of the radius, where attacks move, and not on the images."""

from dataclasses import dataclass

import torch

from steelman.attacks.core import Ball, Draws
from steelman.checkup.findings import MASKED, REPLACED, WITHOUT_GRADIENTS, Finding
from steelman.checkup.labels import percent
from steelman.checkup.slopes import JITTER, answer_at, differences, gradient_at
from steelman.measures.chance import above_chance
from steelman.norms import Norm
from steelman.randomness import combine
from steelman.types import Flags, Images, Labels, Model

SHORT = 0.25
"""The shorter of two steps, in parts of the radius; the longer is the whole of it."""

FINE = 0.02
"""So small a move, in parts of the radius, should hardly change a prediction."""


REACHED = 32
"""So many images are looked at."""

MANY = 0.03
"""Images on which gradient or prediction fail at the radius: more of them than this are a warning (`many`)."""


@dataclass(frozen=True)
class Reach:
    """Of each image: what is found within the radius. p is a random point of the ball, g the gradient there of
    s = Z_r - Z_c, c the class that is predicted at p and r the next one, held fixed.

    noise     the class at p is not that of the image
    unstable  the class a 50th of the radius from p, in a random direction, is not that at p
    useless   of steps by a quarter of the radius and by the whole of it, from p up the gradient, one raises s no more
              than a step as long in a random direction
    attacked  p after the step by the whole radius, with a jitter of 1/100
    flat      the gradient is 0, NaN or infinite at p or at the attacked image
    tested    where finite differences at the attacked image are longer than their rounding
    along, across  where they contradict the gradient, as in `Slopes`
    """

    noise: Flags
    unstable: Flags
    useless: Flags
    attacked: Images
    flat: Flags
    tested: Flags
    along: Flags
    across: Flags

    @staticmethod
    def of(model: Model, x: Images, classes: Labels, norm: Norm, eps: float, seed: int) -> "Reach | None":
        """None where the answer has no graph. `classes` are predicted on the images.

        Cost: 11 forward and 2 gradient passes.
        """
        box = (min(float(x.amin()), 0.0), max(float(x.amax()), 1.0))
        ball = Ball.around(x, eps, norm, box)
        draws = Draws(combine(torch.full((len(x),), seed, device=x.device), torch.arange(len(x), device=x.device)))
        p = ball.sample(draws)
        at = gradient_at(model, p, seed)
        if at is None:
            return None

        def noise(turn: int) -> Images:
            return draws.split(turn).normal(x.shape[1:], x.dtype)

        own, start = at.classes[:, 0], at.difference(at.logits)
        useless, highest = torch.zeros_like(own, dtype=torch.bool), p
        for turn, part in ((1, SHORT), (2, 1.0)):
            highest, other = (ball.climb(p.clone(), way, part * ball.eps) for way in (at.slope, noise(turn)))
            rises = [at.difference(answer_at(model, each, seed)) - start for each in (highest, other)]
            useless |= rises[0] <= rises[1]
        little = Ball.around(p, FINE * eps, norm, box).sample(draws.split(3))
        attacked = highest + JITTER * (2 * draws.split(4).uniform(x.shape[1:], x.dtype) - 1)
        attacked = attacked.clamp(*box)
        there = gradient_at(model, attacked, seed)
        assert there is not None
        (along, across), tested = differences(model, there, attacked, draws.split(5), seed, box)
        flat = [~each.finite | (each.slope == 0).flatten(1).all(1) for each in (at, there)]
        return Reach(
            noise=classes != own,
            unstable=answer_at(model, little, seed).argmax(1) != own,
            useless=useless & ~flat[0],
            attacked=attacked,
            flat=flat[0] | flat[1],
            tested=tested,
            along=along,
            across=across,
        )


def reach_findings(model: Model, x: Images, norm: Norm, eps: float, seed: int) -> list[Finding]:
    """Whether answers jump within the radius, and whether gradients help there, on `REACHED` of the images."""
    x = x[:: max(len(x) // REACHED, 1)][:REACHED]
    try:
        reach = Reach.of(model, x, answer_at(model, x, seed).argmax(1), norm, eps, seed)
    except Exception as error:  # a model may raise anything
        failed = f"the model fails within {norm} {eps:.4g}: {type(error).__name__}: {error}"
        return [Finding("radius", failed, "warning", "Evaluation asks it there")]
    return [] if reach is None else _findings(reach, f"within {norm} {eps:.4g}, of {len(x)} images")


def _findings(reach: Reach, at: str) -> list[Finding]:
    jumps, advice = (
        many(reach.unstable),
        f"Predictions jump there: average over noise (EOT), and add {WITHOUT_GRADIENTS}",
    )
    text = (
        f"{at}, noise changes the class of {percent(reach.noise)}, a move by a 50th of it of {percent(reach.unstable)}"
    )
    found = [Finding("noise", text, "warning" if jumps else "fine", advice if jumps else "")]
    wrong = reach.along[reach.tested] | reach.across[reach.tested]
    text = (
        f"{at}, a step up the gradient is no better than a random one on {percent(reach.useless)}; at attacked images "
        f"the gradient is 0 or not finite on {percent(reach.flat)}"
    )
    text += f" and differs from differences on {percent(wrong)}" if len(wrong) else ""
    advice = MASKED if many(reach.useless) or many(reach.flat) else REPLACED if many(wrong, 0.25) else ""
    return [*found, Finding("radius", text, "warning" if advice else "fine", advice)]


def many(flags: Flags, share: float = MANY) -> bool:
    """Whether more than this share of the images is flagged, by a one-sided binomial test at 1 %."""
    return len(flags) > 0 and above_chance(int(flags.sum()), len(flags), share) < 0.01
