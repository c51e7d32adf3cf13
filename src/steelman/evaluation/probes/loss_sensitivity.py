"""The size of the loss's gradient at an image."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch

from steelman.attacks.core import Access, Oracle
from steelman.evaluation.probes.probe import Probe
from steelman.losses import Goal, other_logits
from steelman.norms import L2
from steelman.types import Images, Labels, Logits, Model, PerImage, Seeds


@final
@dataclass(frozen=True)
class LossSensitivity(Probe):
    """The L2 norm of the loss's gradient at the unattacked image: `paper` |grad_x CE(Z(x), y)|.

    The sum of losses is differentiated, for each image's own gradient; that of their mean shrinks with the batch.

    With q the softmax without the label's class, grad CE = (1 - p_y) J^T (q - e_y). The first factor is taken in double
    precision from differences of logits, and only the second is propagated through the network: for confident answers,
    float32 rounds p_y to 1 and loses the whole gradient, long before its true size is 0. That is below 1e-300 for
    logits about 700 apart, where 0 is returned.

    form  "paper" (default); "code2017": the gradient of the largest softmax output p_c, the norm of
          p_c (1 - p_c) J^T (q - e_c), as in the authors' code of August 2017, which they corrected in April 2018

    Cost: 1 forward and 1 gradient pass.
    Reference: Devansh Arpit, Stanisław Jastrzębski, Nicolas Ballas, David Krueger, Emmanuel Bengio, Maxinder S. Kanwal,
    Tegan Maharaj, Asja Fischer, Aaron Courville, Yoshua Bengio and Simon Lacoste-Julien, "A closer look at memorization
    in deep networks", ICML 2017; as a measure of defences in Valentina Zantedeschi, Maria-Irina Nicolae and
    Ambrish Rawat, "Efficient defenses against adversarial attacks", AISec 2017, table 3.

    Raises:
        ValueError: the model has no gradients or they are not finite.
    """

    access: ClassVar[Access] = "gradients"
    of_clean: ClassVar[bool] = True

    form: Literal["paper", "code2017"] = "paper"

    def __call__(self, model: Model, x: Images, y: Labels, x_adv: Images, seeds: Seeds) -> PerImage:
        with Oracle(model, Goal(y)) as oracle, torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = oracle.logits(x)
            wide = logits.detach().double()
            labels = y if self.form == "paper" else wide.argmax(1)
            unsure, direction = _towards(wide, labels)
            gradient = oracle.backward((logits * direction.to(logits.dtype)).sum(1), x)
        sizes = unsure * L2.size(gradient.double())
        return sizes if self.form == "paper" else (1 - unsure) * sizes


def _towards(logits: Logits, labels: Labels) -> tuple[PerImage, Logits]:
    """1 - p_y, and q - e_y."""
    pivot = labels[:, None]
    others = other_logits(logits, labels)
    unsure = (others.logsumexp(1) - logits.gather(1, pivot)[:, 0]).sigmoid()
    return unsure, others.softmax(1).scatter(1, pivot, -1.0)
