"""Detectors without a model of their own: how sure the network is, and how much a filter changes its answer."""

from torch import nn
from torch.nn.functional import log_softmax

from steelman.detectors.detector import Detector
from steelman.filters.bpda import with_gradient
from steelman.filters.squeeze import BitDepth, MedianSmoothing
from steelman.forward import logits_of
from steelman.types import Images, Logits, PerImage


class Confidence(Detector):
    """The score is -log max_k p_k(x): an image of which the network is not sure looks adversarial.

    Broken by: any attack with a confidence, such as CarliniWagner(confidence=20), or PGD on the margin, whose images
    are surer than clean ones.
    Cost: nothing besides the network's pass.
    Reference: Dan Hendrycks and Kevin Gimpel, "A baseline for detecting misclassified and out-of-distribution examples
    in neural networks", ICLR 2017, section 2.
    """

    def __init__(self) -> None:
        super().__init__()

    def score(self, network: nn.Module, x: Images) -> tuple[Logits, PerImage]:
        logits = logits_of(network, x)
        return logits, -log_softmax(logits, 1).amax(1)


class FeatureSqueezing(Detector):
    """The score is max_f |p(x) - p(f(x))|_1 over filters f: a clean image is hardly changed by them.

    filters  default BitDepth(1) and MedianSmoothing(2) (paper, MNIST)

    Broken by: an attack that sees the score, since the distance is differentiable but for the filters, through which
    gradients pass as in `Filtered`; PGD on the margin of `Rejecting` is one.
    Cost: as many more passes of the network as filters.
    Reference: Weilin Xu, David Evans and Yanjun Qi, "Feature squeezing: detecting adversarial examples in deep neural
    networks", NDSS 2018, section 5.

    Raises:
        ValueError: no filters.
    """

    def __init__(self, filters: tuple[nn.Module, ...] | None = None) -> None:
        super().__init__()
        filters = (BitDepth(1), MedianSmoothing(2)) if filters is None else filters
        if not filters:
            raise ValueError("FeatureSqueezing needs one filter at least")
        self.filters = nn.ModuleList(map(with_gradient, filters))

    def score(self, network: nn.Module, x: Images) -> tuple[Logits, PerImage]:
        logits = logits_of(network, x)
        p = logits.softmax(1)
        apart = [(p - logits_of(network, filter(x)).softmax(1)).abs().sum(1) for filter in self.filters]
        most = apart[0]
        for each in apart[1:]:
            most = most.maximum(each)
        return logits, most
