"""A model as it is, with gradients where it hides them."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, final

import torch
from torch import Tensor, nn

from steelman.adaptive.bridges import Bridge, crossings_of, sentences
from steelman.adaptive.calls import ANSWER, IMAGES, ArraysOfGraphs, Place, visited
from steelman.adaptive.head import head_of
from steelman.adaptive.segments import Segments, Weights, agrees, inner_gradients, noisy
from steelman.attacks.core import buffers_kept, evaluation_mode
from steelman.forward import answer_of, classes_of, reject_class, unwrapped
from steelman.types import Images, Labels, Logits, Model, PerImage

IMAGES_TRIED, NUMBERS_TRIED = 64, 5e7
"""A model is tried on at most so many images, fewer where they would make more numbers at its places than that."""

IMAGES_FITTED = 256
"""A stand-in is fitted on at most so many images and their noisy copies."""


@final
class Adapted(nn.Module):
    """A model's own answers, with gradients past the parts that hide them.

    Its forward pass is the model's own, and each tensor in it has the model's value. Logits are read at `head`; where
    their largest is not the model's class, that class gets a value just above it. So what this model gets wrong, the
    model gets wrong too. Gradients follow the model's own, but for bridges: there they are those of the identity, or
    of a stand-in (BPDA). Hooks do this, for the time of the call.

    model        any module; its state is left as it is
    head         where logits are read; the model's answer, or a submodule's input or output
    bridges      where gradients are passed on
    stand_ins    the networks that bridges name
    awake        the place from which on gradients are kept on where the model switches them off; None: it does not
    finite       whether the images' gradient is 0 where it would be NaN or infinite
    assumptions  what was assumed about the model, in sentences

    `adapted` makes one. A bridge whose places are not passed in a call, or not in that order, is left out there.

    Cost: that of the model, and of the stand-ins in the backward pass.
    Reference: Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 4.1; Florian Tramer, Nicholas Carlini, Wieland
    Brendel and Aleksander Madry, "On adaptive attacks to adversarial example defenses", NeurIPS 2020.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Place = ANSWER,
        bridges: Sequence[Bridge] = (),
        stand_ins: Sequence[nn.Module] = (),
        awake: Place | None = None,
        finite: bool = False,
        assumptions: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model, self.stand_ins = model, nn.ModuleList(stand_ins)
        self.head, self.bridges, self.awake, self.finite = head, tuple(bridges), awake, finite
        self.assumptions = tuple(assumptions)

    @property
    def reject_class(self) -> int | None:
        return reject_class(self.model)

    def forward(self, x: Images) -> Logits:
        graph = torch.is_grad_enabled() and x.requires_grad
        x = _Finite.apply(x) if graph and self.finite else x
        seen: dict[Place, Tensor] = {IMAGES: x}
        to = {each.target: each for each in self.bridges} if graph else {}
        kept = {self.head, *(source for each in self.bridges for source in each.sources)}
        waking = False

        def visit(place: Place, tensor: Tensor) -> Tensor | None:
            nonlocal waking
            waking = waking or (graph and place == self.awake)
            if waking:
                torch.set_grad_enabled(True)
            bridge = to.get(place)
            if bridge is not None and all(each in seen for each in bridge.sources):
                tensor = self._bridged(tensor, [seen[each] for each in bridge.sources], bridge.stand_in)
            if place not in kept:
                return tensor
            seen[place] = tensor
            return tensor.clone()  # what comes next may write into it

        names = None if graph and self.awake is not None else {each.name for each in (*kept, *to)}
        with ExitStack() as stack:
            if graph:
                stack.enter_context(torch.enable_grad())
                stack.enter_context(ArraysOfGraphs())
            stack.enter_context(visited(self.model, visit, names))
            visit(IMAGES, x)
            answer = unwrapped(self.model(x.clone()))
        if self.head == ANSWER:
            return answer if not answer.is_floating_point() else _tensor(visit(ANSWER, answer))
        return _agreeing(seen[self.head], answer) if self.head in seen else answer

    def _bridged(self, value: Tensor, sources: list[Tensor], stand_in: int | None) -> Tensor:
        with torch.enable_grad():
            near = [each if stand_in is None else self.stand_ins[stand_in](each) for each in sources]
            return _Through.apply(value.detach(), sum(each.reshape(value.shape).to(value.dtype) for each in near))

    def extra_repr(self) -> str:
        return "; ".join(self.assumptions)


def _tensor(found: Tensor | None) -> Tensor:
    assert found is not None
    return found


def _agreeing(logits: Logits, answer: Tensor) -> Logits:
    """The logits, with the class of the answer highest."""
    own = classes_of(answer)
    other = logits.detach().argmax(1) != own
    if not other.any():
        return logits
    value = logits.detach()
    above = torch.nextafter(value.amax(1, keepdim=True), value.new_tensor(torch.inf))
    raised = torch.where(other[:, None], value.scatter(1, own[:, None], above), value)
    return _Through.apply(raised, logits)


class _Through(torch.autograd.Function):
    """The first tensor's value with the second's gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, near: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, grad_outputs[0]


class _Finite(torch.autograd.Function):
    """The identity, whose gradient is 0 where it would be NaN or infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad_outputs[0].nan_to_num(0.0, 0.0, 0.0)


def adapted(model: Model, x: Images, y: Labels, *, seed: int = 0) -> Adapted | None:
    """The model with gradients where it hides them; None where it hides none, or cannot be reached.

    Nothing is asked of the model but that it is a module whose submodules are called: hooks see what they are given and
    give. Each gradient between two such places is compared with the changes under noise on the images. Where the whole
    gradient, or the layer of the logits, is right, nothing is done. Else each wrong one is replaced by that of an
    identity or of a fitted stand-in, whichever has changes most like the true ones.

    Not reached are functions, inference mode, and what is computed without a call of a submodule.

    model  left in its mode, with its buffers and hooks, also after an error
    x      images; the first 64 are used, and the first 256 for stand-ins
    y      their labels; not used yet
    seed   of all that is drawn

    Cost: about 10 forward and 8 gradient passes on 64 images, and where shapes change a stand-in: 12 forward passes on
    all images and its fit, one second or a few.
    """
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, nn.Module) or len(x) == 0:
        return None
    devices = [x.device] if x.is_cuda else []
    guards = torch.inference_mode(False), torch.random.fork_rng(devices), evaluation_mode(model), buffers_kept(model)
    with ExitStack() as stack:
        for each in guards:
            stack.enter_context(each)
        try:
            return _adapted(model, x[:IMAGES_FITTED].detach().clone(), seed)
        except Exception:  # a fault of the model is the attack's to report
            return None


def _adapted(model: nn.Module, x: Images, seed: int) -> Adapted | None:
    torch.manual_seed(seed)
    inner = inner_gradients(model, x[:2])
    some = x[: max(8, min(IMAGES_TRIED, int(NUMBERS_TRIED / inner.numbers)))]
    segments = Segments.of(model, some, seed, inner.own)
    head = head_of(segments)
    awake = inner.first if inner.silent else None
    for waking in dict.fromkeys([None, awake]):
        if _explains(Adapted(model, head, awake=waking), some, seed):
            crossings, awake = [], waking
            break
    else:
        crossings = crossings_of(model, x, segments, head, seed)
    made = [each.stand_in for each in crossings if each.stand_in is not None]
    bridges = [
        Bridge(each.sources, each.target, None if each.stand_in is None else made.index(each.stand_in))
        for each in crossings
    ]
    said = sentences(model, segments, head, crossings, awake is not None)
    change = Adapted(model, head, bridges, made, awake)
    finite = bool(_slope(change, some, seed)[1].isfinite().all())
    if not finite:
        said.append("gradients that are NaN or infinite are 0")
    change = Adapted(model, head, bridges, made, awake, not finite, said)
    return change if said and _slope(change, some, seed)[1].any() else None


def _slope(model: nn.Module, x: Images, seed: int) -> tuple[PerImage, Images]:
    """A random sum of the logits, and its gradient; 0 where there is no graph."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        torch.manual_seed(seed)
        logits = answer_of(model, x)
        value = (logits * Weights(seed).of(ANSWER, logits)).sum(1)
        slope = torch.autograd.grad(value.sum(), x, allow_unused=True)[0] if value.requires_grad else None
    return value.detach().double(), torch.zeros_like(x) if slope is None else slope


def _explains(model: nn.Module, x: Images, seed: int) -> bool:
    """Whether the gradient explains the changes of a random sum of the logits, as in `Segments.right`."""
    value, slope = _slope(model, x, seed)
    changes = []
    for images in noisy(x, seed):
        other, steep = _slope(model, images, seed)
        expected = (0.5 * (slope + steep) * (images - x)).flatten(1).double().sum(1)
        changes.append((other - value, lambda expected=expected: expected))
    return agrees(value, _slope(model, x, seed)[0] - value, changes, torch.finfo(x.dtype).eps)
