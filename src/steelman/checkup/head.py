"""Whether a model's answer still says what its last layer said, or is a saturated, rounded or altered form of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from steelman.checkup.findings import WITHOUT_GRADIENTS, Finding
from steelman.checkup.labels import percent
from steelman.forward import are_probabilities
from steelman.types import Logits, Model, PerImage

VARIES = 3.0
"""By what factor the answer's margins, over the head's, may differ between images: the 90 % quantile over the 10 % one.
Softmax, a temperature and a shift keep all equal."""

SMALLER = 100.0
"""By what factor the answer's margins, in parts of its largest score, may be smaller than the head's."""

ADVICE = f"Gradients may be lost after the last layer: attack its logits, and add {WITHOUT_GRADIENTS}"


class HeadReader:
    """Records what the layers with weights answer, while the model is called."""

    def __init__(self, model: Model) -> None:
        self.model, self.answers = model, dict[nn.Module, list[Tensor]]()

    @contextmanager
    def reading(self) -> Iterator[None]:
        layers = self.model.modules() if isinstance(self.model, nn.Module) else ()
        weighted = [each for each in layers if each is not self.model and any(True for _ in each.parameters(False))]
        free = [each for each in weighted if not isinstance(each, torch.jit.ScriptModule)]  # those refuse hooks
        handles = [each.register_forward_hook(self._keep) for each in free]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, layer: nn.Module, _: object, answer: object) -> None:
        if isinstance(answer, Tensor) and answer.ndim == 2 and answer.is_floating_point():
            self.answers.setdefault(layer, []).append(answer.detach())

    def head(self, answer: Tensor) -> Logits | None:
        """The logits of the layer that is as wide as the answer; None where there are several such, or none."""
        wide = [each for each in self.answers.values() if all(part.shape[1] == answer.shape[1] for part in each)]
        found = torch.cat(wide[0]) if len(wide) == 1 else None
        return found if found is not None and found.shape == answer.shape and bool(found.isfinite().all()) else None


def head_findings(heads: HeadReader, answer: Tensor) -> list[Finding]:
    """A warning where the answer is not what the head says up to softmax, scale and shift; nothing where it is.

    A layer that has another class on more than half of the images is none.
    """
    head = heads.head(answer)
    if head is None or not bool(answer.isfinite().all()):
        return []
    seen = log_of(answer) if are_probabilities(answer) else answer
    other = head.argmax(1) != seen.argmax(1)
    if other.any():
        found = f"the class differs from that of the last layer's logits on {percent(other)}"
        return [] if other.double().mean() > 0.5 else [Finding("head", found, "warning", ADVICE)]
    low, high = (_margin(seen) / _margin(head).clamp(min=1e-12)).quantile(
        torch.tensor([0.1, 0.9]).double().to(head.device)
    )
    relative = [float((_margin(each) / each.abs().amax(1).clamp(min=1e-12)).median()) for each in (seen, head)]
    found = ""
    if high > VARIES * low:
        found = "the answer is a saturated or rounded form of the last layer's logits"
    elif relative[0] * SMALLER < min(relative[1], 1.0):
        found = f"the answer's differences are {relative[0]:.1g} of it, the last layer's {relative[1]:.1g}"
    return [Finding("head", found, "warning", ADVICE)] if found else []


def _margin(logits: Logits) -> PerImage:
    best = logits.double().topk(2).values
    return best[:, 0] - best[:, 1]


def log_of(probabilities: Tensor) -> Logits:
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
