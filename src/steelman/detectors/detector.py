"""The contract of detectors, and a network that rejects by one."""

from abc import ABC, abstractmethod
from typing import Any, final

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.forward import logits_of
from steelman.types import Batch, Images, Logits, PerImage

AT_ONCE = 250
"""Images at a time in `fit`."""


class Detector(nn.Module, ABC):
    """Gives images of a network a score, high where they look adversarial, differentiable as far as it can be.

    What it measures of training images is in buffers, so that checkpoints have it.
    """

    @abstractmethod
    def score(self, network: nn.Module, x: Images) -> tuple[Logits, PerImage]:
        """The network's logits and the score of each image, from the same forward pass where that can be."""

    def measure(self, network: nn.Module, batch: Batch) -> None:
        """Take from clean training images what the score needs; nothing by default."""


@final
class Rejecting(nn.Module):
    """A network that may reject an image: K classes, and a last logit Z_K = max_k Z_k + score(x) - threshold.

    The prediction is K, "rejected", where the detector's score is above the threshold, and the network's own elsewhere.
    Attacks know that (`reject_class`): to be rejected is no success, and an untargeted attack sees max(Z_y, Z_K) in
    place of the label's logit, so that it has to fool network and detector together. `Naive(attack)` is the
    naive attack, on the network alone.

    network   from images to K logits
    detector  such as `LID()`, `Confidence()`, `FeatureSqueezing()`
    rate      share of clean images that are rejected, default .05; `fit` sets the threshold by it
    classes   K

    Carlini and Wagner's logit is (Z_D + 1) max_k Z_k, which turns round where all logits are below 0; ours does not.
    Evaluation counts a rejected clean image as an error, and an image that is rejected under attack as right;
    `rejection_rate` says how many there are of both.

    Cost: that of the network and of the detector.
    Reference: Nicholas Carlini and David Wagner, "Adversarial examples are not easily detected: bypassing ten detection
    methods", AISec 2017, section 3.

    Raises:
        ValueError: rate is not in (0, 1), or it has no threshold yet.
    """

    def __init__(self, network: nn.Module, detector: Detector, *, rate: float = 0.05, classes: int = 10) -> None:
        super().__init__()
        if not 0 < rate < 1:
            raise ValueError(f"Rejecting needs a rate above 0 and below 1; got {rate}")
        if not isinstance(detector, Detector):
            raise ValueError(f"Rejecting needs a detector, such as LID(); got a {type(detector).__name__}")
        self.network, self.detector, self.rate, self.reject_class = network, detector, rate, classes
        self.register_buffer("threshold", torch.tensor(torch.nan))
        self.register_load_state_dict_pre_hook(_accept_bare)

    @property
    def fitted(self) -> bool:
        return not bool(self.get_buffer("threshold").isnan())

    def fit(self, dataset: Dataset, count: int = 2000, seed: int = 0) -> "Rejecting":
        """Measure the detector on half of `count` clean images and the threshold on the others; returns itself.

        The images are those of the data set in an order drawn from the seed; the network is not changed.

        Raises:
            ValueError: fewer than 20 images, or images of one class alone.
        """
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count]
        if len(order) < 20:
            raise ValueError(f"a detector needs 20 images at least to be fitted; got {len(order)}")
        training = self.training
        self.eval()
        try:
            half = len(order) // 2
            whole = _together(dataset, order[:half])
            if len(whole.y.unique()) < 2:
                raise ValueError(
                    f"all {half} images on which the detector is to be fitted are of class {int(whole.y[0])}"
                )
            self.detector.measure(self.network, whole)
            with torch.no_grad():
                scores = [
                    self.detector.score(self.network, batch.x)[1]
                    for batch in dataset.batches(order[half:].split(AT_ONCE))
                ]
            self.get_buffer("threshold").copy_(torch.cat(scores).double().quantile(1 - self.rate))
        finally:
            self.train(training)
        return self

    def forward(self, x: Images) -> Logits:
        if self.training:  # the network alone learns
            return logits_of(self.network, x)
        if not self.fitted:
            raise ValueError("Rejecting has no threshold yet: call fit(dataset) or load a checkpoint")
        logits, score = self.detector.score(self.network, x)
        return torch.cat([logits, (logits.amax(1) + score - self.get_buffer("threshold"))[:, None]], 1)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def _together(dataset: Dataset, which: Tensor) -> Batch:
    (batch,) = dataset.batches([which])
    return batch


def _accept_bare(model: Any, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Gives the weights of the network alone the names that they have here."""
    names = list(model.network.state_dict())
    if all(prefix + name in state for name in names) and f"{prefix}threshold" not in state:
        for name in names:
            state[f"{prefix}network.{name}"] = state.pop(prefix + name)
        for name, value in model.state_dict().items():
            if not name.startswith("network."):
                state[prefix + name] = value
