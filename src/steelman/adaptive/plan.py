"""The adaptive attacks on one model, from cheap to strong."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch

from steelman.adaptive.adaptive import Adaptive, Finite
from steelman.adaptive.gradients import Adapted, adapted
from steelman.adaptive.nearby import Nearby
from steelman.adaptive.pupils import pupil
from steelman.attacks import APGD, EOT, PGD, HopSkipJump, Square, Within, WorstOf
from steelman.attacks.core import Access, Attack, Oracle, check_images, check_labels, check_radius
from steelman.forward import answer_of
from steelman.losses import Goal, LogitDifference, Margin
from steelman.norms import L0, L1, Linf, Norm
from steelman.randomness import is_random
from steelman.types import Images, Labels, Model

FEW, MOST = 4, 40
"""Draws for a mean."""

LOOKED_AT = 32
"""Images on which gradients are compared."""


@dataclass(frozen=True)
class Adaptation:
    """Adaptive attacks on one model.

    attacks      by name, from cheap to strong: each is to be run on the images that those before it leave
    assumptions  of all of them, in sentences
    code         Python that makes and runs them again, given `model`, `x` and `y`, and `surrogates` where there are any
    """

    attacks: dict[str, Attack]
    assumptions: tuple[str, ...]
    code: str


def adaptation(
    model: Model,
    x: Images,
    y: Labels,
    norm: Norm,
    eps: float,
    *,
    surrogates: Mapping[str, Model] | Sequence[Model] = (),
    access: Access = "gradients",
    examples: int = 4000,
    seed: int = 0,
) -> Adaptation:
    """Make adaptive attacks for a model whose robustness is in doubt, from cheap to strong.

    1. PGD: APGD on the margin with two restarts, then towards each of nine classes, through `adapted`, where that
       changes anything;
    2. PGD with large steps: on the margin of the model as it is, with five restarts, then APGD towards each class;
    3. PGD on mean gradients of random points nearby, at sigma = eps / 2 (in L2 and L1, over the root of the pixels);
    4. Square with 2,000 queries (500 where answers are random), where images have height and width, in Linf and L2;
    5. transfer from each of the surrogates, and from a `pupil`, in two and three attempts;
    6. HopSkipJump with 15 steps in three attempts (8 in one where answers are random), in Linf and L2.

    All are `Adaptive`: they are judged on the model itself, and keep every success on the way. 1 and 2 are left out
    where the model has no gradient, 4 where it has no scores. Where the model answers otherwise at a second call, 1 to
    4 climb the mean over k draws (`EOT`), with k = 4 (1 - c) / c, from 4 to 40: c is the mean cosine of the gradients
    of two draws, so that the mean of k has a cosine of .9 or so with the true one.

    model       any callable from images to logits, probabilities or classes
    x, y        images and labels that the pupil and the adapted model learn from, best those that are to be attacked:
                some hundred
    norm, eps   Linf, L2 or L1, and the radius
    surrogates  other models to transfer from, with the same classes; by name, or in a list
    access      "gradients" (default), "scores" or "decisions": what may be asked of the model
    examples    images that the pupil asks the model for, default 4000
    seed        of the pupil, of fitted stand-ins, and of what is drawn here

    Cost: to make them, `adapted`, `pupil`, and about 4 gradient passes on 32 images. Of each image that nothing breaks,
    at most 700 gradient passes in 1, 650 in 2 and 240 in 3, and some 2,000 forward passes in 4 and 12,000 in 6.

    Raises:
        ValueError: invalid images or labels, L0, a radius of 0 or wider than the box.
    """
    check_images(x, (0.0, 1.0))
    check_labels("y", y, x)
    check_radius(norm, eps, (0.0, 1.0), "adaptation")
    if norm is L0 or not 0 < eps < math.inf:
        raise ValueError(f"adaptive attacks need a radius above 0 in Linf, L2 or L1; got {eps} in {norm}")
    plan = _Plan.of(model, x, y, norm, eps, access, seed)
    plan.gradients()
    plan.scores()
    plan.transfers(surrogates, examples)
    plan.decisions()
    return plan.written()


@dataclass
class _Plan:
    """The attacks so far, and for each the Python that makes it."""

    model: Model
    x: Images
    y: Labels
    norm: Norm
    eps: float
    access: Access
    seed: int
    known: "_Known"
    attacks: dict[str, Adaptive] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    """Lines before the attacks, which make their models."""

    @staticmethod
    def of(model: Model, x: Images, y: Labels, norm: Norm, eps: float, access: Access, seed: int) -> "_Plan":
        return _Plan(model, x, y, norm, eps, access, seed, _Known.of(model, x, y, seed, access))

    def add(self, name: str, attack: Adaptive, model: str = "None", assumptions: str = "") -> None:
        """`model` and `assumptions` are the Python of these fields."""
        self.attacks[f"Adaptive {name} {self.norm} {_radius(self.eps)}"] = attack
        inner = [_python(attack.attack), model, assumptions or repr(attack.assumptions)]
        inner += [f"attempts={attack.attempts}"] if attack.attempts > 1 else []
        self.lines.append(f"Adaptive({', '.join(inner)})")

    def gradients(self) -> None:
        if self.access != "gradients":
            return
        known, around = self.known, self.norm is L1
        changed = known.adapted
        climb = APGD(self.eps, self.norm, loss=Margin(), restarts=2, multi_eps=around, stop_early=True)
        if changed is not None:
            self.made.append(f"inner = adapted(model, x, y, seed={self.seed})")
            attack = Adaptive(self.worst(climb, known.draws_adapted), changed, changed.assumptions)
            self.add("PGD", attack, "inner", "inner.assumptions")
        if known.slope:
            large = PGD(self.eps, 40, self.eps / 3, self.norm, Margin(), restarts=5, stop_early=True)
            said = ("the model's own gradient points the way, in steps of a third of the radius",)
            self.add("PGD with large steps", Adaptive(self.worst(large, known.draws), None, said))
        if known.slope or changed is not None:
            nearby = self.eps / 2 / (1 if self.norm is Linf else math.sqrt(self.x[0].numel()))
            smooth = EOT(PGD(self.eps, 30, self.eps / 5, self.norm, Margin()), max(8, known.draws, known.draws_adapted))
            said = (f"the mean gradient of points nearby (noise of {nearby:.3g}) points the way",)
            on, name = (self.model, "model") if changed is None else (changed, "inner")
            said = said if changed is None else (*said, *changed.assumptions)
            self.add("PGD on mean gradients", Adaptive(smooth, Nearby(on, nearby), said), f"Nearby({name}, {nearby!r})")

    def scores(self) -> None:
        if self.access == "decisions" or not self.known.scores or self.norm is L1 or self.x.ndim < 3:
            return
        said = ("scores tell which change is better",)
        square = Square(self.eps, self.norm, queries=500 if self.known.random else 2000)
        self.add("Square", Adaptive(self.mean(square, min(self.known.draws, 5)), None, said))

    def transfers(self, surrogates: Mapping[str, Model] | Sequence[Model], examples: int) -> None:
        steps = PGD(self.eps, 40, self.eps / 8, self.norm, Margin())
        for key, other in surrogates.items() if isinstance(surrogates, Mapping) else enumerate(surrogates):
            name = key if isinstance(key, str) else f"{type(other).__name__} {key + 1}"
            said = (f"what {name} gets wrong is often wrong here",)
            attack = EOT(steps, FEW) if is_random(other) else steps
            self.add(f"transfer from {name}", Adaptive(attack, other, said, 2), f"surrogates[{key!r}]")
        options: dict[str, Any] = {"norm": self.norm, "eps": self.eps, "seed": self.seed, "examples": examples}
        options["draws"] = 5 if self.known.random else 1
        learned = pupil(self.model, self.x, self.y, **options)
        words = ", ".join(f"{key}={value!r}" for key, value in options.items())
        self.made.append(f"learned = pupil(model, x, y, {words})")
        said = ("a small network that has learned the model's answers near the images goes wrong where the model does",)
        self.add("transfer from a pupil", Adaptive(steps, learned, said, 3), "learned")

    def decisions(self) -> None:
        if self.norm is L1:
            return
        said = ("classes alone tell where the boundary is",)
        jump = HopSkipJump(self.norm, steps=8 if self.known.random else 15)
        self.add("HopSkipJump", Adaptive(Within(jump, self.eps), None, said, 1 if self.known.random else 3))

    def worst(self, first: Attack, draws: int) -> Attack:
        """Then towards each class; of a random model, where each step costs many passes, the first alone."""
        if self.known.random:
            return self.mean(first, draws)
        around, loss = self.norm is L1, LogitDifference()
        each = APGD(self.eps, self.norm, steps=50, loss=loss, targets=9, multi_eps=around, stop_early=True)
        return WorstOf((first, each))

    def mean(self, attack: Attack, draws: int) -> Attack:
        """On the mean over draws, to the end, where the model is random."""
        if not self.known.random:
            return attack
        shorter: dict[str, Any] = {"restarts": 1} | ({"steps": 40} if isinstance(attack, APGD) else {})
        return EOT(replace(attack, stop_early=False, **shorter), draws)

    def written(self) -> Adaptation:
        named = "".join(f"    {name!r}: {line},\n" for name, line in zip(self.attacks, self.lines, strict=True))
        code = "\n".join(
            [
                "from steelman import *",
                "from steelman.adaptive import *",
                "from steelman.losses import *",
                "",
                "# model, x, y: the model and the images and labels"
                + ("; surrogates: other models" * ("surrogates[" in named)),
                *self.made,
                "attacks = {",
                f"{named}}}",
                "table = evaluate(model, (x, y), attacks, survivors_only=True)",
            ]
        )
        said = [each for attack in self.attacks.values() for each in attack.assumptions]
        return Adaptation(dict(self.attacks), tuple(dict.fromkeys(said)), code + "\n")


@dataclass(frozen=True)
class _Known:
    """What a few questions tell of a model.

    random    it answers otherwise at a second call
    scores    it answers with more than classes
    slope     it has a gradient that is not 0, on some image
    draws     for a mean, on the model itself and where it is adapted; 1 where it is not random
    """

    random: bool
    scores: bool
    slope: bool
    adapted: Adapted | None
    draws: int
    draws_adapted: int

    @staticmethod
    def of(model: Model, x: Images, y: Labels, seed: int, access: Access) -> "_Known":
        some, labels = x[:LOOKED_AT], y[:LOOKED_AT]
        with torch.inference_mode(False), torch.random.fork_rng([x.device] if x.is_cuda else []):
            torch.manual_seed(seed)
            with Oracle(model, Goal(labels)):
                first, second = (answer_of(model, some) for _ in range(2))
            random = is_random(model) or not torch.allclose(first.double(), second.double(), rtol=1e-4, atol=1e-4)
            scores = first.is_floating_point()
            changed = adapted(model, x, y, seed=seed) if access == "gradients" else None
            there = access == "gradients" and scores
            own = _slopes(model, some, labels) if there else None
            inner = None if changed is None else _slopes(changed, some, labels)
        slope = own is not None and bool((own[0] != 0).any())
        draws = [_draws(each) if random else 1 for each in (own, inner)]
        return _Known(random, scores, slope, changed, *draws)


def _slopes(model: Model, x: Images, y: Labels) -> torch.Tensor:
    """Gradients of the margin by two draws."""
    with Oracle(Finite(model), goal := Goal(y)) as oracle:
        found = [oracle.gradient(x, lambda logits: Margin()(logits, goal))[2] for _ in range(2)]
    return torch.stack(found).flatten(2)


def _draws(slopes: torch.Tensor | None) -> int:
    """4 (1 - c) / c, with c the mean cosine of two draws."""
    if slopes is None:
        return 10
    there = (slopes != 0).any(2).all(0)
    cosine = torch.cosine_similarity(slopes[0], slopes[1], dim=1)[there]
    mean = float(cosine.mean()) if len(cosine) else 0.0
    return min(max(math.ceil(4 * (1 - mean) / max(mean, 1e-3)), FEW), MOST)


def _python(value: Any) -> str:
    """The Python that makes a value, with the settings that are not default."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_python, value))},)"
    if not is_dataclass(value):
        return repr(value)
    inner = [f"{item.name}={_python(getattr(value, item.name))}" for item in fields(value) if not _default(value, item)]
    return f"{type(value).__name__}({', '.join(inner)})"


def _default(value: Any, item: Field[Any]) -> bool:
    default = item.default if item.default_factory is MISSING else item.default_factory()
    return not item.init or getattr(value, item.name) == default


def _radius(eps: float) -> str:
    """As batteries write it in names."""
    levels = eps * 255
    whole = eps < 0.2 and abs(levels - round(levels)) < 1e-4 and round(levels) > 0
    return f"{round(levels)}/255" if whole else f"{eps:.4g}"
