"""The model as an attack sees it: checked, counted, in evaluation mode, and handed back as it was."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from steelman.losses import Goal
from steelman.types import Images, Indices, Logits, Model, PerImage


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


class Oracle:
    """Answers of a model, with the forward and gradient passes that each image has cost.

    `which` names the images of the whole batch that a call is about; None means all, in order.
    """

    def __init__(self, model: Model, x: Images, goal: Goal) -> None:
        self._model = model
        classes = (goal.labels,) if goal.target is None else (goal.labels, goal.target)
        self._highest_label = int(torch.cat(classes).max()) if len(x) else 0
        self._stack = ExitStack()
        self._checked = False
        self.forwards = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.gradients = torch.zeros_like(self.forwards)

    def __enter__(self) -> "Oracle":
        self._stack.enter_context(evaluation_mode(self._model))
        self._stack.enter_context(torch.no_grad())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def logits(self, x: Images, which: Indices | None = None) -> Logits:
        """One forward pass; part of a graph only where gradients are enabled and `x` wants one."""
        self.forwards[slice(None) if which is None else which] += 1
        logits = self._model(x)
        if not self._checked:
            check_logits(logits, len(x), self._highest_label)
            self._checked = True
        return logits

    def gradient(
        self, x: Images, objective: Callable[[Logits], PerImage], which: Indices | None = None
    ) -> tuple[Logits, PerImage, Images]:
        """Logits, objective and its gradient at `x`, image by image: one forward and one gradient pass."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = self.logits(x, which)
            value = objective(logits)
            gradient = self.backward(value, x, which)
        return logits.detach(), value.detach(), gradient

    def backward(self, value: PerImage, x: Images, which: Indices | None = None, *, keep: bool = False) -> Images:
        """Gradient of the sum of `value` with respect to `x`: one gradient pass. `keep` the graph for another."""
        self.gradients[slice(None) if which is None else which] += 1
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, x, torch.ones_like(value), retain_graph=keep, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "the model's output has no gradient with respect to its input: it is not differentiable, or it "
                "detaches or runs under no_grad. A gradient attack cannot be used on it"
            )
        if not bool(gradient.sum().isfinite()):  # a NaN has the sign 0: it would pass for robustness
            raise ValueError("the model's gradients are NaN or infinite on these images, so no attack can follow them")
        return gradient


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
