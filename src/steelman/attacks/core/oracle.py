"""The model as an attack uses it: checked, counted, in evaluation mode, and restored."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from steelman.attacks.core.mode import evaluation_mode
from steelman.forward import Forward, Verdict, check_answer, check_rejection, reject_class
from steelman.layout import CLOSE
from steelman.losses import Goal, Loss
from steelman.norms import Linf, Norm
from steelman.randomness import Draws, answers_of, combine, is_random
from steelman.types import Flags, Images, Indices, Labels, Logits, Model, PerImage, Rows, Seeds


class OutOfTime(Exception):
    """Raised by an oracle whose deadline has passed."""


class Oracle:
    """Queries a model, and counts the forward and gradient passes of each image.

    `which` names the images of the whole batch that are queried; None means all, in order. An image named twice is
    counted twice. With `samples`, the model is random: an answer is the mean of as many, and costs as many passes. The
    first query after a `deadline` (of `time.monotonic`) raises `OutOfTime`; `nearest`, if given, keeps the nearest
    successes until then.

    Of a model with a `reject_class` K, an untargeted attack sees K logits: max(Z_y, Z_K) in place of the label's, and
    none for K. So a rejection is as good as the label for the model, in every loss and in every success: an attack has
    to be classified as another class. A targeted attack sees all K + 1 logits, and has to beat Z_K too.
    """

    def __init__(
        self,
        model: Model,
        goal: Goal,
        *,
        samples: int = 1,
        half: bool = False,
        compiled: bool = False,
        deadline: float | None = None,
        on_query: Callable[[int], None] | None = None,
        given: torch.dtype | None = None,
        check_classes: Callable[[int], None] | None = None,
    ) -> None:
        self.model, self.goal, self.samples, self.half = model, goal, samples, half
        self.deadline, self.on_query, self.given, self.check_classes = deadline, on_query, given, check_classes
        self._forward = Forward(model, given=given)
        self._fast = Forward(model, torch.compile(model, dynamic=True), given=given) if compiled else self._forward
        classes = (goal.labels,) if goal.target is None else (goal.labels, goal.target)
        self.rejected, self.random = reject_class(model), is_random(model)
        self._highest_label = int(torch.cat(classes).max()) if len(goal.labels) else 0
        self._stack, self._entered = ExitStack(), False
        self._checked = False
        self.forwards = torch.zeros_like(goal.labels)
        self.gradients = torch.zeros_like(self.forwards)
        self.flat = torch.zeros_like(self.forwards)
        """Gradient passes that gave 0 everywhere."""
        self._steepest: Tensor | None = None
        """On a GPU, the highest entry of all gradients, which is looked at when an attack is over."""
        self.seconds = 0.0
        """Time that earlier calls spent on images that were read from files."""
        self.nearest: NearestSuccess | None = None
        self.fits = len(goal.labels)
        """Images that go through the model at once."""
        self.seeds: Seeds | None = None
        """Of the images, from which a random model's draws follow."""
        self.relaid = False
        """Whether the search computes with the channel last; verdicts never do."""
        self.tight = torch.zeros_like(self.forwards, dtype=torch.bool)
        """Images whose class, in the last verdict, rounding might change; all of a model that answers with classes."""

    def __enter__(self) -> "Oracle":
        self._entered = True
        self._stack.enter_context(evaluation_mode(self.model))
        self._stack.enter_context(torch.no_grad())
        device = self.goal.labels.device.type
        if torch.is_autocast_enabled(device):  # it would lower the precision of the backward pass, too
            self._stack.enter_context(torch.autocast(device, enabled=False))
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        if error is None and self._steepest is not None:
            _check_finite(float(self._steepest))

    @contextmanager
    def part(self, which: Indices, goal: Goal, *, samples: int | None = None) -> Iterator["Oracle"]:
        """An oracle for some of the images, for an attack inside an attack; its counts are added here."""
        inner = self.another(self.model, goal)
        inner.samples, inner.given = self.samples if samples is None else samples, self.given
        inner.check_classes, inner._checked, inner.fits = self.check_classes, self._checked, self.fits
        inner._forward, inner._fast, inner._entered = self._forward, self._fast, self._entered
        inner.nearest = None if self.nearest is None else self.nearest[which]
        try:
            yield inner
        finally:
            self._checked = inner._checked
            self.add(inner, which)
            if self.nearest is not None and inner.nearest is not None:
                self.nearest.put(which, inner.nearest)

    def another(self, model: Model, goal: Goal) -> "Oracle":
        """An oracle for another model or goal, with the precision, deadline and progress bar of this one."""
        return Oracle(model, goal, half=self.half, deadline=self.deadline, on_query=self.on_query)

    def add(self, other: "Oracle", which: Indices) -> None:
        """Count the passes of another oracle, whose images are those at `which`."""
        self.forwards.index_add_(0, which, other.forwards)
        self.gradients.index_add_(0, which, other.gradients)
        self.flat.index_add_(0, which, other.flat)
        self._climbed(other._steepest)

    def decisions(self, x: Images, which: Indices | None = None) -> Labels:
        """Predicted classes, from logits or from a model that answers with classes alone."""
        answer = self._ask(x, which)
        return answer.argmax(1) if answer.is_floating_point() else answer.to(torch.int64)

    def met(self, prediction: Labels) -> Flags:
        """Which of the model's own predictions for all images have met the goal; a rejection never has."""
        met = self.goal.met(prediction)
        return met if self.rejected is None else met & (prediction != self.rejected)

    def logits(self, x: Images, which: Indices | None = None) -> Logits:
        """One forward pass; part of a graph only where gradients are enabled and `x` wants one."""
        answer = self._ask(x, which)
        if not answer.is_floating_point():
            raise ValueError(
                "the model answers with classes alone, and this attack needs logits; use one that needs decisions "
                "only, such as HopSkipJump or BoundaryAttack"
            )
        return answer

    @contextmanager
    def seeded(self, draws: Draws) -> Iterator[None]:
        """Torch's global generator, from which a random model draws, follows from the images' seeds, and is restored.

        The model draws for a whole batch, so that an image's answer depends on its place there.
        """
        self.seeds = draws.seeds
        with self._own_draws(0):
            yield

    @contextmanager
    def _own_draws(self, turn: int) -> Iterator[None]:
        seeds = self.seeds
        on = [seeds.device] if seeds is not None and seeds.is_cuda else []
        with torch.random.fork_rng(on, enabled=self.random):
            if self.random and seeds is not None and len(seeds):
                torch.manual_seed(int(combine(seeds[:1], turn)))
            yield

    def verdict(self, x: Images, y: Labels | None = None) -> Verdict:
        """By the model itself in full precision, a random one in several fresh answers (`answers_of`); not counted.

        y  the true labels (default: the classes to leave); a rejection is as right
        """
        label = self.goal.labels if y is None else y
        self._fast, self.half = self._forward, False
        parts, tight = [], []
        with self._own_draws(1):
            for which in torch.arange(len(x), device=x.device).split(max(self.fits, 1)):
                answers = [self._answer(x[which]) for _ in range(answers_of(self.model))]
                if any(not bool(each.isfinite().all()) for each in answers):  # the argmax of NaN would pass for a class
                    raise ValueError("the model returns NaN or infinite logits on images that the attack returned")
                goal = self.goal.labels[which]
                parts.append(Verdict.of(answers, goal, label=label[which], harmless=self.rejected))
                tight.append(_tight(answers[0]))
        self.tight = torch.cat(tight) if tight else self.tight
        return Verdict.together(parts) if parts else Verdict.of([self._answer(x)], self.goal.labels)

    def gradient(
        self, x: Images, objective: Callable[[Logits], PerImage], which: Indices | None = None
    ) -> tuple[Logits, PerImage, Images]:
        """Logits, objective and its gradient at `x`, image by image: one forward and one gradient pass.

        Of a random model, the mean of the objective over the draws, which is not the objective of the mean.
        """
        if self.samples == 1:
            return self._gradient(x, objective, which)
        whole, self.samples = self.samples, 1
        try:
            draws = [self._gradient(x, objective, which) for _ in range(whole)]
        finally:
            self.samples = whole
        logits, value, gradient = (torch.stack(each).mean(0) for each in zip(*draws, strict=True))
        return logits, value, gradient

    def _gradient(
        self, x: Images, objective: Callable[[Logits], PerImage], which: Indices | None
    ) -> tuple[Logits, PerImage, Images]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = self.logits(x, which)
            value = objective(logits)
            gradient = self.backward(value, x, which)
        return logits.detach(), value.detach(), gradient

    def ascent(
        self, x: Images, loss: Loss, goal: Goal, which: Indices | None = None
    ) -> tuple[Logits, PerImage, Images]:
        """As `gradient`, for an attack that uses the direction alone.

        Cross-entropy's gradient is lost in rounding long before it underflows: where 1 - p is below the precision, the
        label's part vanishes before that of the other classes. So the loss's scale-free form gives the direction. For a
        random model, whose draws are weighted by their gradients, only images of which the model is sure use that form,
        for as many passes more.
        """
        steep = loss.scale_free
        if steep is None or self.samples == 1:
            return self.gradient(x, partial(steep or loss, goal=goal), which)
        logits, value, gradient = self.gradient(x, partial(loss, goal=goal), which)
        lost = torch.where(value.abs() <= math.sqrt(torch.finfo(x.dtype).eps))[0]
        if len(lost):
            there = lost if which is None else which[lost]
            direction = self.gradient(x[lost], partial(steep, goal=goal[lost]), there)[2]
            gradient = gradient.index_copy(0, lost, direction)  # it may be an expanded view, which cannot be written to
        return logits, value, gradient

    def backward(self, value: PerImage, x: Images, which: Indices | None = None, *, keep: bool = False) -> Images:
        """Gradient of the sum of `value` with respect to `x`: one gradient pass. `keep` the graph for another."""
        _count(self.gradients, which, self.samples)
        gradient = None
        if value.requires_grad:
            # Ones as `grad_outputs` cost a process .4 s or more, and 35 MB, at its first call.
            total = value.sum() if torch.is_grad_enabled() else torch.enable_grad()(value.sum)()
            (gradient,) = torch.autograd.grad(total, x, retain_graph=keep, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "the model's output has no gradient with respect to its input: it is not differentiable, or it "
                "detaches or runs under no_grad. A gradient attack cannot be used on it"
            )
        gradient = gradient.contiguous()  # convolutions may have put the channel last
        steepest = Linf.size(gradient)
        if not len(steepest):
            return gradient
        if gradient.device.type != "cpu" and self._entered:  # the host does not wait; `__exit__` looks at it
            self._climbed(steepest.max())
            _count(self.flat, which, self.samples * (steepest == 0))
            return gradient
        flattest, highest = torch.stack(steepest.aminmax()).tolist()
        _check_finite(highest)
        if flattest == 0:
            _count(self.flat, which, self.samples * (steepest == 0))
        return gradient

    def _climbed(self, highest: Tensor | None) -> None:
        if highest is not None:
            self._steepest = highest if self._steepest is None else torch.maximum(self._steepest, highest)

    def _ask(self, x: Images, which: Indices | None) -> Tensor:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime
        _count(self.forwards, which, self.samples)
        answers = [self._answer(x) for _ in range(self.samples)]
        answer = answers[0]
        if self.samples > 1:
            answer = torch.stack(answers).mean(0) if answer.is_floating_point() else torch.stack(answers).mode(0).values
        if self.rejected is not None and self.goal.target is None:
            answer = self._without_rejections(answer, self.goal.labels if which is None else self.goal.labels[which])
        if self.nearest is not None:
            goal = self.goal if which is None else self.goal[which]
            met = goal.met((answer.argmax(1) if answer.is_floating_point() else answer).detach())
            self.nearest.update(x.detach(), met, which)
        if self.on_query is not None:
            self.on_query(len(x) * self.samples)
        return answer

    def _without_rejections(self, answer: Tensor, labels: Labels) -> Tensor:
        """K classes for K + 1: to be rejected is as good as the label."""
        if not answer.is_floating_point():
            return torch.where(answer == self.rejected, labels.to(answer.dtype), answer)
        classes, rejected = answer.split([answer.shape[1] - 1, 1], 1)
        place = labels[:, None]
        return classes.scatter(1, place, torch.maximum(classes.gather(1, place), rejected))

    def _answer(self, x: Images) -> Tensor:
        answer = self._fast(x, autocast="bf16" if self.half else "off")
        if not self._checked and len(x):
            check_answer(answer, len(x), self._highest_label)
            self._checked, classes = True, answer.shape[-1]
            if self.rejected is not None:
                check_rejection(answer, self.rejected, self._highest_label)
                classes -= self.goal.target is None
            if self.check_classes is not None and answer.is_floating_point():
                self.check_classes(classes)
        return answer


def _tight(answer: Tensor) -> Flags:
    if not answer.is_floating_point():
        return torch.ones_like(answer, dtype=torch.bool)
    highest, second = answer.topk(2).values.unbind(1)
    return highest - second <= CLOSE * answer.abs().amax(1)


def _check_finite(highest: float) -> None:
    if not math.isfinite(highest):  # a NaN has the sign 0, which would pass for robustness
        raise ValueError("the model's gradients are NaN or infinite on these images, so no attack can follow them")


def _count(tally: Tensor, which: Indices | None, passes: int | Tensor) -> None:
    if which is None:
        tally += passes
        return
    added = tally.new_full((len(which),), passes) if isinstance(passes, int) else passes.to(tally.dtype)
    tally.index_add_(0, which, added)  # a number that is copied to a GPU would make the host wait


@dataclass(frozen=True)
class NearestSuccess(Rows):
    """The nearest success of each image so far: the result of an attack that runs out of time."""

    origin: Images
    norm: Norm
    image: Images
    size: PerImage

    @staticmethod
    def nothing(x: Images, norm: Norm) -> "NearestSuccess":
        return NearestSuccess(
            x, norm, x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        )

    def put(self, which: Indices, other: "NearestSuccess") -> None:
        self.image[which], self.size[which] = other.image, other.size

    def update(self, x: Images, met: Flags, which: Indices | None) -> None:
        """Keep those of `x` that have met the goal and are nearer than before."""
        place = (torch.arange(len(self.size), device=x.device) if which is None else which)[met]
        for row in range(len(place)) if len(place.unique()) < len(place) else (slice(None),):
            here, image = place[row].reshape(-1), x[met][row].reshape(-1, *x.shape[1:])
            size = self.norm.size(image.double() - self.origin[here].double())
            nearer = size < self.size[here]
            self.image[here[nearer]], self.size[here[nearer]] = image[nearer], size[nearer]
