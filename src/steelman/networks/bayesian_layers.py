"""Bayesian layers: weights that are drawn from normal distributions, whose means and deviations learn."""

import math
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Network = TypeVar("Network", bound=nn.Module)


class Bayesian(nn.Module):
    """A layer whose weights and biases are w = mu + e^s eps, eps ~ N(0, 1), drawn anew for every image and call.

    `weight` and `bias` are the means mu, `weight_log_std` and `bias_log_std` the logarithms s. The prior is
    N(0, sigma_0^2), from which `divergence()` measures.
    """

    random: ClassVar[bool] = True

    sigma_0: float
    shared: bool

    def begin(self, layer: nn.Linear | nn.Conv2d, sigma_0: float, std: float, shared: bool) -> None:
        """Take the means from a layer; every deviation is `std`."""
        self.sigma_0, self.shared = sigma_0, shared
        for name in ("weight", "bias"):
            mean: nn.Parameter | None = getattr(layer, name)
            self.register_parameter(name, mean)
            log_std = None if mean is None else nn.Parameter(torch.full_like(mean, math.log(std)))
            self.register_parameter(f"{name}_log_std", log_std)
        self.train(layer.training)

    def divergence(self) -> Tensor:
        """KL(N(mu, e^2s) || N(0, sigma_0^2)), summed over weights and biases."""
        parts = []
        for mean, log_std in self._distributions():
            square = ((2 * log_std).exp() + mean.square()) / (2 * self.sigma_0**2)
            parts.append((math.log(self.sigma_0) - log_std + square - 0.5).sum())
        return torch.stack(parts).sum()

    def drawn(self, *count: int) -> list[Tensor]:
        """Weights, and biases where the layer has them: one draw, or so many."""
        return [
            m + s.exp() * torch.randn(*count, *m.shape, dtype=m.dtype, device=m.device)
            for m, s in self._distributions()
        ]

    def _distributions(self) -> list[tuple[Tensor, Tensor]]:
        own = dict(self.named_parameters(recurse=False))
        return [(own[name], own[f"{name}_log_std"]) for name in ("weight", "bias") if name in own]


class BayesianLinear(Bayesian, nn.Linear):
    """A fully connected layer with weights that are drawn for every image.

    On vectors, the outputs are drawn instead: given x, they are independent normal ones with mean mu x + mu_b and
    variance e^2s x^2 + e^2s_b, which are those of drawn weights (local reparameterisation).
    """

    def __init__(self, layer: nn.Linear, sigma_0: float, std: float, shared: bool = False) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.begin(layer, sigma_0, std, shared)

    def forward(self, input: Tensor) -> Tensor:
        if self.shared:
            return linear(input, *self.drawn())
        if input.ndim != 2:
            return torch.vmap(linear)(input, *self.drawn(len(input)))
        variances = [(2 * log_std).exp() for _, log_std in self._distributions()]
        variance = linear(input.square(), *variances)
        std = variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()  # the root has no derivative at 0
        return linear(input, self.weight, self.bias) + std * torch.randn_like(std)


class BayesianConv2d(Bayesian, nn.Conv2d):
    """A convolution with weights that are drawn for every image."""

    def __init__(self, layer: nn.Conv2d, sigma_0: float, std: float, shared: bool = False) -> None:
        super().__init__(
            *(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation),  # pyright: ignore[reportArgumentType]
            groups=layer.groups,
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,
            device="meta",
        )
        self.begin(layer, sigma_0, std, shared)

    def forward(self, input: Tensor) -> Tensor:
        if self.shared:
            return self._with(input, *self.drawn())
        return torch.vmap(self._with)(input[:, None], *self.drawn(len(input)))[:, 0]

    def _with(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._conv_forward(x, weight, bias)


def bayesian(
    network: Network,
    layers: str = "all",
    sigma_0: float = 0.1,
    std: float = 0.1,
    shared: bool = False,
) -> Network:
    """The same network with Bayesian layers in place of fully connected and convolutional ones, as in Adv-BNN.

    Every weight and bias becomes w = mu + e^s eps, eps ~ N(0, 1): mu is the weight as it was, e^s begins at `std`. In
    place; the names of weights stay, and are those of the means.

    layers   "all" (default), or "last": a Bayesian last layer on a network that is not random
    sigma_0  deviation of the prior N(0, sigma_0^2), default .1 (the code's scripts: .08, .1 and .15)
    std      first e^s, default .1 (scripts: as sigma_0), for networks with batch normalisation. LeNet-5 has none, and
             did not learn at .1 (9 % on MNIST after two epochs of 3,000 images, 88 % at .02)
    shared   one draw for all images of a call, as the code has it; default False: one for each image, so that an
             image's answer does not depend on its neighbours. It takes the memory of a convolution's weights for each
             image

    It is trained by `AdvBNN`, which adds the divergence from the prior to the loss, and predicts by the mean softmax of
    several draws (`MeanOfDraws`; the code evaluates with 50). In the code, the scale and shift of batch normalisation
    are random as well; here they stay as they are.

    It is broken by `EOT` of `PGD`, whose gradient is the mean over draws.

    Cost: of a fully connected layer twice, of a convolution with as many groups as images.
    Reference: Xuanqing Liu, Yao Li, Chongruo Wu and Cho-Jui Hsieh, "Adv-BNN: improved adversarial defense through
    robust Bayesian neural network", ICLR 2019.

    Raises:
        ValueError: a deviation that is not above 0; an unknown choice of layers; the network has none of these layers.
    """
    if not (0 < sigma_0 < math.inf and 0 < std < math.inf):
        raise ValueError(f"bayesian needs sigma_0 and std above 0 and below infinity; got {sigma_0} and {std}")
    if layers not in ("all", "last"):
        raise ValueError(f'layers is "all" or "last"; got {layers!r}')
    found = [module for module in network.modules() if type(module) in (nn.Linear, nn.Conv2d) and module is not network]
    if not found:
        raise ValueError(f"{type(network).__name__} has no nn.Linear or nn.Conv2d in it to make Bayesian")
    made = {each: _made(each, sigma_0, std, shared) for each in found[-1 if layers == "last" else 0 :]}
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child in made:
                setattr(parent, name, made[child])
    return network


def divergence(network: nn.Module) -> Tensor:
    """The sum of the divergences of all Bayesian layers from their priors.

    Raises:
        ValueError: there is none.
    """
    layers = [each for each in network.modules() if isinstance(each, Bayesian)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no Bayesian layer: make some by `bayesian` first")
    return torch.stack([each.divergence() for each in layers]).sum()


def _made(layer: nn.Module, sigma_0: float, std: float, shared: bool) -> Bayesian:
    if isinstance(layer, nn.Linear):
        return BayesianLinear(layer, sigma_0, std, shared)
    assert isinstance(layer, nn.Conv2d)
    return BayesianConv2d(layer, sigma_0, std, shared)
