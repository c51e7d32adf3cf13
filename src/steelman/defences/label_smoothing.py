"""Training on softened labels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.objective import Objective, refuse_one_class
from steelman.forward import logits_of
from steelman.losses import cross_entropy
from steelman.ranges import FractionBelow1
from steelman.types import Batch, Labels


@dataclass(frozen=True)
class LabelSmoothing(Objective):
    """Label smoothing: cross-entropy with labels that give some probability to the other classes.

    CE(x, q), q_y = 1 - smoothing and q_k = smoothing / (K - 1) for the other K - 1 classes.

    smoothing  what the other classes share, default .1 ("Efficient defenses": .9 for the label, .1 / 9 for the others);
               0 is plain training

    This is not the convention of Szegedy et al. and of `torch.nn.functional.cross_entropy`, which distribute their
    value over all K classes, the label too: smoothing s here is label_smoothing = s K / (K - 1) there. Smoothing
    shrinks gradients, so one-step attacks look weaker than they are: attack with PGD, on the margin too.

    Cost: 1 forward and 1 backward pass.
    Reference: David Warde-Farley and Ian Goodfellow, "Adversarial perturbations of deep neural networks",
    Perturbations, Optimization, and Statistics 2016; Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat,
    "Efficient defenses against adversarial attacks", AISec 2017, experiments (LS); Christian Szegedy, Vincent
    Vanhoucke, Sergey Ioffe, Jon Shlens and Zbigniew Wojna, "Rethinking the Inception architecture for computer vision",
    CVPR 2016, section 7.

    Raises:
        ValueError: fewer than two classes.
    """

    smoothing: FractionBelow1 = 0.1

    def setup(self, model: nn.Module, data: Dataset) -> "LabelSmoothing":
        refuse_one_class("LabelSmoothing", len(data.classes))
        return self

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = logits_of(model, batch.x)
        return cross_entropy(logits, smooth(batch.y, logits.shape[1], self.smoothing).to(logits.dtype)).mean()


def smooth(labels: Labels, classes: int, smoothing: float) -> Tensor:
    """Probabilities (batch, classes): 1 - smoothing for the label, and the rest in equal parts for the others."""
    refuse_one_class("LabelSmoothing", classes)
    q = torch.full((len(labels), classes), smoothing / (classes - 1), dtype=torch.float64, device=labels.device)
    return q.scatter(1, labels[:, None], 1 - smoothing)
