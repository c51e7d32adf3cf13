"""One perturbation for all images."""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor

from steelman.attacks.core import Access, Attack, Draws, Goal, Oracle, check_images, check_labels, check_parts
from steelman.attacks.minimal.deepfool import DeepFool
from steelman.norms import L2, Linf, Norm, per_image
from steelman.ranges import Count, OneOf
from steelman.types import Images, Labels, Model, Radius, Randomness, Share


@dataclass(frozen=True)
class UniversalPerturbation(Attack):
    """Universal adversarial perturbation: one v for all images, x' = clip(x + v).

    From v = 0, in passes over the images: where x + v does not fool, v <- project(v + d), where d is the smallest
    perturbation that fools at x + v, by another attack; until at least `rate` of the images are fooled, or for
    `epochs`. The v that fooled most at the end of an epoch is taken.

    eps        radius of the ball onto which v is projected (default 10/255, the paper's in Linf; its L2: 2000/255).
               With one per image, v has the largest, and each image gets v projected onto its own
    norm       Linf (default) or L2
    rate       share of images to be fooled, those misclassified to begin with among them; default .8 (paper)
    epochs     most passes over the images, default 10 (authors' code: no limit)
    minibatch  images whose d are found at the same v, and added up; default 100. With 1, the paper's algorithm, which
               takes many times as long and fools fewer in as many epochs
    attack     the minimal-norm attack that finds d; default DeepFool of 10 steps, in L2 for both norms (authors' code)

    Since all images share one v, the answer depends on the batch, and images come in the order given, where the paper
    shuffles them. `find` gives v itself, and `apply` adds it to other images:

        v = attack.find(model, x, y)
        x_adv = attack.apply(x_test, v)

    With targets, every d is towards the image's target. Success is measured against the labels; the paper's fooling
    rate, against the predictions, is that of reference="prediction".

    Cost: per epoch 2 forward passes, and the attack's cost for images that are not fooled yet; 1 forward pass more.
    Reference: Seyed-Mohsen Moosavi-Dezfooli, Alhussein Fawzi, Omar Fawzi and Pascal Frossard, "Universal adversarial
    perturbations", CVPR 2017, algorithm 1.

    Raises:
        ValueError: L1 or L0, an attack that has a radius of its own, or one that is shared.
    """

    shared: ClassVar[bool] = True

    eps: Radius = Share(10 / 255)
    norm: Annotated[Norm, OneOf((Linf, L2))] = Linf
    rate: Annotated[float, Interval(gt=0, le=1)] = 0.8
    epochs: Count = 10
    minibatch: Count = 100
    attack: Attack = field(default_factory=lambda: DeepFool(steps=10))

    def __post_init__(self) -> None:
        check_parts("UniversalPerturbation", (self.attack,))
        if self.attack.budget is not None:
            raise ValueError(
                f"UniversalPerturbation adds up the smallest perturbations, and {self.attack} has a radius"
            )

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.attack.access

    def find(
        self, model: Model, x: Images, y: Labels, *, target: Labels | None = None, generator: Randomness = None
    ) -> Tensor:
        """The perturbation v, of the shape of one image."""
        check_images(x, self.box)
        check_labels("y", y, x)
        if target is not None:
            check_labels("target", target, x)
        with torch.inference_mode(False):
            x, goal = x.detach().clone(), Goal(y.clone(), None if target is None else target.clone())
            with Oracle(model, goal) as oracle:
                if self.reference == "prediction":
                    goal.labels[:] = oracle.decisions(x)
                return self._find(oracle, x, goal, Draws.start(generator, len(x), x.device))

    def apply(self, x: Images, v: Tensor) -> Images:
        """clip(x + v), in box and ball to the last bit."""
        return self.norm.contain(x, x + self.norm.project(v.expand_as(x), self.eps), self.eps, self.box)

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        return self.apply(x, self._find(oracle, x, goal, draws))

    def _find(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Tensor:
        widest = per_image(self.eps, x).max() if len(x) else 0.0
        best = v = torch.zeros_like(x[:1])
        most = -1
        for epoch in range(self.epochs):
            for which in torch.arange(len(x), device=x.device).split(self.minibatch):
                fit = replace(self, eps=self.eps[which]) if isinstance(self.eps, Tensor) and self.eps.ndim else self
                image = fit.apply(x[which], v)
                correct = ~goal[which].met(oracle.decisions(image, which))
                which, image = which[correct], image[correct]
                if len(which) == 0:
                    continue
                with oracle.part(which, goal[which]) as part:
                    attack = replace(self.attack[which], box=self.box)
                    near = attack.search(part, image, part.goal, draws.split(epoch)[which])
                v = self.norm.project(v + (near - image).sum(0, keepdim=True), widest)
            fooled = int(goal.met(oracle.decisions(self.apply(x, v))).sum())
            if fooled > most:
                best, most = v, fooled
            if fooled >= self.rate * len(x):
                break
        return best[0]
