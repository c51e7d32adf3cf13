"""Training at a high temperature."""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from steelman.defences.objective import Objective
from steelman.forward import logits_of
from steelman.losses import cross_entropy
from steelman.ranges import Positive
from steelman.types import Batch


@final
@dataclass(frozen=True)
class Distillation(Objective):
    """Defensive distillation: learn a teacher's soft labels at a high temperature, and predict at temperature 1.

    CE(softmax(Z(x) / T), q): q is `batch.soft` where the data have it, and the label where not. The teacher is this on
    labels. The student begins with the teacher's initial weights and is this on q = softmax(Z_teacher(x) / T), which in
    a recipe `prepare = [{ kind = "SoftLabels", on = <teacher> }]` makes.

    temperature  T, default 100 (Carlini and Wagner, and the paper's highest)

    The network itself is used at temperature 1, where its logits are about T times an ordinary one's: softmax is 0 or 1
    to the last bit, so the gradient of cross-entropy underflows and one-step attacks seem to fail. Gradients are
    masked, but the decision boundary has not moved: the attacks here then use the soft margin, not cross-entropy.
    As in the code, the loss is not multiplied by T^2, so its gradient is some T times smaller than a plain one's.

    Cost: 1 forward and 1 backward pass; for the student also the training of its teacher, and 1 forward pass of it.
    Reference: Nicolas Papernot, Patrick McDaniel, Xi Wu, Somesh Jha and Ananthram Swami, "Distillation as a defense to
    adversarial perturbations against deep neural networks", IEEE S&P 2016, section IV; Nicholas Carlini and David
    Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017, section VIII.
    """

    temperature: Positive = 100.0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = logits_of(model, batch.x) / self.temperature
        return cross_entropy(logits, batch.y if batch.soft is None else batch.soft.to(logits.dtype)).mean()
