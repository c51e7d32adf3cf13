"""The model as an attack sees it: checked, counted, in evaluation mode, and handed back as it was."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from steelman.losses import Goal, Loss
from steelman.types import Images, Indices, Labels, Logits, Model, PerImage


@contextmanager
def evaluation_mode(model: Model) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside; every flag of every part as it was after."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


def warn_if_mode_matters(model: Model, x: Images) -> None:
    """Warn when a model arrives in train mode and answers otherwise there: its accuracy is about to be misjudged.

    Cost: two forward passes on two images, and only for models that are in train mode. Leaves buffers and the random
    state as they were.
    """
    if not isinstance(model, nn.Module) or not any(module.training for module in model.modules()):
        return
    if len(x) == 0:
        return
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = [x.device] if x.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        try:
            as_given = model(x[:2])
        except ValueError:  # batch norm in train mode refuses a single value per channel
            as_given = None
        finally:
            for buffer, kept in buffers:
                buffer.copy_(kept)
        with evaluation_mode(model):
            in_evaluation = model(x[:2])
    if as_given is None or not torch.allclose(as_given, in_evaluation, rtol=1e-4, atol=1e-5, equal_nan=True):
        warnings.warn(
            "the model is in train mode, where its output differs (batch normalisation or dropout). The attack runs in "
            "evaluation mode; call model.eval() before you measure accuracy, or robustness will be overstated",
            stacklevel=4,
        )


class OutOfTime(Exception):
    """Raised by an oracle whose deadline has passed."""


class Oracle:
    """Answers of a model, with the forward and gradient passes that each image has cost.

    `which` names the images of the whole batch that a call is about; None means all, in order. With `samples`, the model
    is random: an answer is the mean of as many, and costs as many passes. With a `deadline` (of `time.monotonic`), the
    first question after it raises `OutOfTime`, and `found` holds, per image, the last one asked about that had reached
    the goal, or NaN.
    """

    def __init__(
        self,
        model: Model,
        x: Images,
        goal: Goal,
        *,
        samples: int = 1,
        half: bool = False,
        deadline: float | None = None,
        asked: Callable[[int], None] | None = None,
    ) -> None:
        self.model, self.goal, self.samples, self.half = model, goal, samples, half
        self.deadline, self.asked = deadline, asked
        classes = (goal.labels,) if goal.target is None else (goal.labels, goal.target)
        self._highest_label = int(torch.cat(classes).max()) if len(x) else 0
        self._stack = ExitStack()
        self._checked = False
        self.forwards = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.gradients = torch.zeros_like(self.forwards)
        self.flat = torch.zeros_like(self.forwards)
        """Gradient passes that gave 0 everywhere."""
        self.found = None if deadline is None else torch.full_like(x, torch.nan)

    def __enter__(self) -> "Oracle":
        self._stack.enter_context(evaluation_mode(self.model))
        self._stack.enter_context(torch.no_grad())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def part(self, which: Indices, goal: Goal, *, samples: int | None = None) -> Iterator["Oracle"]:
        """An oracle for some of the images, for an attack inside an attack; what it counts is added here."""
        inner = Oracle(
            self.model,
            goal.labels,  # only its length and device matter without a deadline
            goal,
            samples=self.samples if samples is None else samples,
            half=self.half,
            deadline=self.deadline,
            asked=self.asked,
        )
        inner.found = None
        inner._checked = self._checked
        outer_found = self.found
        if outer_found is not None:
            inner.found = outer_found[which]
        try:
            yield inner
        finally:
            self._checked = inner._checked
            self.forwards[which] += inner.forwards
            self.gradients[which] += inner.gradients
            self.flat[which] += inner.flat
            if outer_found is not None and inner.found is not None:
                outer_found[which] = inner.found

    def decisions(self, x: Images, which: Indices | None = None) -> Labels:
        """The classes that the model decides on, from logits or from a model that answers with classes alone."""
        answer = self._ask(x, which)
        return answer.argmax(1) if answer.is_floating_point() else answer.to(torch.int64)

    def logits(self, x: Images, which: Indices | None = None) -> Logits:
        """One forward pass; part of a graph only where gradients are enabled and `x` wants one."""
        answer = self._ask(x, which)
        if not answer.is_floating_point():
            raise ValueError(
                "the model answers with classes alone, and this attack needs logits; use one that needs decisions only, "
                "such as HopSkipJump or BoundaryAttack"
            )
        return answer

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
        """As `gradient`, for an attack that reads the direction alone.

        Where the loss is so flat that its gradient underflows, as cross-entropy's does on large logits, the loss's
        scale-free companion gives the direction, for one forward and one gradient pass more on those images.
        """
        logits, value, gradient = self.gradient(x, partial(loss, goal=goal), which)
        companion = loss.scale_free
        if companion is None:
            return logits, value, gradient
        steepest = torch.linalg.vector_norm(gradient.flatten(1), ord=torch.inf, dim=1)
        if float(steepest.amin() if len(steepest) else 1) > torch.finfo(x.dtype).tiny * 2**24:
            return logits, value, gradient
        lost = torch.where(steepest <= torch.finfo(x.dtype).tiny * 2**24)[0]
        there = lost if which is None else which[lost]
        self.flat[there] -= (steepest[lost] == 0).to(self.flat.dtype)  # the companion decides
        gradient[lost] = self.gradient(x[lost], partial(companion, goal=goal[lost]), there)[2]
        return logits, value, gradient

    def backward(self, value: PerImage, x: Images, which: Indices | None = None, *, keep: bool = False) -> Images:
        """Gradient of the sum of `value` with respect to `x`: one gradient pass. `keep` the graph for another."""
        where = slice(None) if which is None else which
        self.gradients[where] += self.samples
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, x, torch.ones_like(value), retain_graph=keep, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "the model's output has no gradient with respect to its input: it is not differentiable, or it "
                "detaches or runs under no_grad. A gradient attack cannot be used on it"
            )
        steepest = torch.linalg.vector_norm(gradient.flatten(1), ord=torch.inf, dim=1)
        lowest, highest = steepest.aminmax() if len(steepest) else (torch.ones(()), torch.ones(()))
        if not bool(highest.isfinite()):  # a NaN has the sign 0: it would pass for robustness
            raise ValueError("the model's gradients are NaN or infinite on these images, so no attack can follow them")
        if not bool(lowest > 0):
            self.flat[where] += (steepest == 0).to(self.flat.dtype)
        return gradient

    def _ask(self, x: Images, which: Indices | None) -> Tensor:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime
        self.forwards[slice(None) if which is None else which] += self.samples
        answers = [self._answer(x) for _ in range(self.samples)]
        answer = answers[0]
        if self.samples > 1:
            answer = torch.stack(answers).mean(0) if answer.is_floating_point() else torch.stack(answers).mode(0).values
        if self.found is not None:
            self._remember(self.found, x, answer, which)
        if self.asked is not None:
            self.asked(len(x) * self.samples)
        return answer

    def _answer(self, x: Images) -> Tensor:
        if self.half:
            with torch.autocast(x.device.type, torch.bfloat16):
                answer = self.model(x)
            answer = answer.to(x.dtype) if isinstance(answer, Tensor) and answer.is_floating_point() else answer
        else:
            answer = self.model(x)
        if not self._checked:
            check_answer(answer, len(x), self._highest_label)
            self._checked = True
        return answer

    def _remember(self, found: Images, x: Images, answer: Tensor, which: Indices | None) -> None:
        goal = self.goal if which is None else self.goal[which]
        with torch.no_grad():
            if len(goal.labels) != len(x):  # several candidates per image: not worth the book-keeping
                return
            met = torch.where(goal.met(answer.argmax(1) if answer.is_floating_point() else answer))[0]
            found[met if which is None else which[met]] = x.detach()[met]


def check_answer(answer: object, batch: int, highest_label: int) -> None:
    """Refuse what can be neither logits nor classes.

    Raises:
        ValueError: see `check_logits`; classes that are not one per image.
    """
    if not isinstance(answer, Tensor) or answer.is_floating_point():
        check_logits(answer, batch, highest_label)
    elif answer.shape != (batch,):
        raise ValueError(f"the model must return logits, or one class per image; got {answer.dtype} {tuple(answer.shape)}")


def check_logits(logits: object, batch: int, highest_label: int) -> None:
    """Refuse what cannot be logits.

    Raises:
        ValueError: not a tensor of shape (batch, classes), one class, a label that has no class, NaN, probabilities.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != batch:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must return logits of shape ({batch}, classes); got {shape}")
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError("the model returns one number per image; an attack needs logits of at least two classes")
    if highest_label >= classes:
        raise ValueError(
            f"label {highest_label} has no class: the model returns {classes} logits, for 0 to {classes - 1}"
        )
    with torch.no_grad():
        if not bool(logits.isfinite().all()):
            raise ValueError("the model returns NaN or infinite logits on these images")
        if batch and bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
            raise ValueError(
                "the model returns probabilities (rows are at least 0 and sum to 1). Attacks need logits: remove the "
                "softmax, or return its input"
            )
