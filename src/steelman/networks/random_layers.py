"""Random layers in any network: activations pruned at random, noise before convolutions or behind blocks, dropout.

They are added to the modules of a network by hooks, so that weights and their names do not change: a checkpoint of
either network loads into the other. They draw from torch's global generator, anew for every image and call, in
evaluation mode too, and say so by a class attribute `random`.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.modules.conv import _ConvNd

from steelman.naming import nearest
from steelman.networks.residual import Residual
from steelman.networks.surgery import _ACTIVATIONS

Network = TypeVar("Network", bound=nn.Module)


@final
class StochasticPruning(nn.Module):
    """Stochastic activation pruning (SAP): of an image's n activations, those that are drawn at least once are kept.

    Of p_j = |a_j| / sum_k |a_k|, r = frac n draws with replacement are made. Activation j is drawn with probability q_j
    = 1 - (1 - p_j)^r, and is then a_j / q_j, so that the mean is a_j and the variance a_j^2 (1 - q_j) / q_j. Whether
    one is drawn is decided for each alone, with probability q_j. Where all are 0, they stay.

    frac     draws per activation, default 1 (authors' notebook, "SAP-100")
    variant  "paper" (default), or "code": q_j = 1 - exp(-2 r p_j), behind convolutions and before normalisation and
             ReLU, which is how Athalye, Carlini and Wagner's code has it (it adds 1e-8 to q)
    through  whether the gradient goes through 1 / q_j as well (default); False takes it for a constant

    `stochastic_pruning` puts it into a network. Where p is small, the derivative is taken of a series: as a quotient of
    two small numbers it would be lost in rounding.

    It is broken by `EOT` of `PGD`, and even by `PGD` with one draw in each of many small steps: the gradient of a draw
    is that of the network with noise. Printed: CIFAR-10, .031: 0 %.

    Cost: that of an activation, some ten times over; the paper predicts by the mean softmax of 100 draws
    (`MeanOfDraws`).
    Reference: Guneet S. Dhillon, Kamyar Azizzadenesheli, Zachary C. Lipton, Jeremy Bernstein, Jean Kossaifi, Aran
    Khanna and Anima Anandkumar, "Stochastic activation pruning for robust adversarial defense", ICLR 2018;
    Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 5.

    Raises:
        ValueError: frac is not a number above 0; an unknown variant.
    """

    random: ClassVar[bool] = True

    def __init__(self, frac: float = 1.0, variant: str = "paper", through: bool = True) -> None:
        super().__init__()
        if not 0 < frac < math.inf:
            raise ValueError(f"StochasticPruning needs a frac above 0 and below infinity; got {frac}")
        if variant not in ("paper", "code"):
            raise ValueError(f'variant is "paper" or "code"; got {variant!r}')
        self.frac, self.variant, self.through = float(frac), variant, through

    def forward(self, x: Tensor) -> Tensor:
        a = x.flatten(1)
        total = a.abs().sum(1, keepdim=True)
        p = a.abs() / total.where(total != 0, 1.0)
        draws = self.frac * a.shape[1] * (1 if self.variant == "paper" else 2)
        # With q = 1 - exp(-u), a / q = sign(a) total / draws * (draws p / u) * (u / q), all smooth at p = 0.
        part = 1.0 if self.variant == "code" else _log_ratio(p)
        u = draws * p * part
        value = a.sign() * total / draws * _exp_ratio(u) / part
        if not self.through:
            value = a * (value.detach() / a.detach().where(a != 0, 1.0))
        kept = torch.rand_like(a) < -torch.expm1(-u)
        return (value * kept).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"frac={self.frac:g}, variant={self.variant}"


def _log_ratio(p: Tensor) -> Tensor:
    """-log(1 - p) / p, with its derivative, for p in [0, 1]; at 1 it is that of the largest number below."""
    p = p.clamp(max=1 - torch.finfo(p.dtype).eps)
    small = p < 1e-3
    away = p.where(~small, 0.5)
    series = 1 + p * (1 / 2 + p * (1 / 3 + p * (1 / 4 + p * (1 / 5 + p / 6))))
    return torch.where(small, series, -torch.log1p(-away) / away)


def _exp_ratio(u: Tensor) -> Tensor:
    """u / (1 - exp(-u)), with its derivative, for u >= 0."""
    small = u < 1e-2
    away = u.where(~small, 1.0)
    return torch.where(small, 1 + u / 2 + u**2 / 12 - u**4 / 720, away / -torch.expm1(-away))


@final
class AddedNoise(nn.Module):
    """x + std N(0, I).

    std  standard deviation, >= 0; at 0 it is the identity
    """

    random: ClassVar[bool] = True

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = _strength("AddedNoise", "std", std)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x)

    def extra_repr(self) -> str:
        return f"std={self.std:g}"


@final
class RelativeNoise(nn.Module):
    """x + c s N(0, I), where s is the standard deviation of all numbers of an image; the gradient goes through s too.

    c  share of the standard deviation, >= 0; at 0 it is the identity
    """

    random: ClassVar[bool] = True

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = _strength("RelativeNoise", "c", c)

    def forward(self, x: Tensor) -> Tensor:
        values = x.flatten(1)
        std = values.std(1, correction=min(1, values.shape[1] - 1))
        return x + self.c * std.reshape(-1, *[1] * (x.ndim - 1)) * torch.randn_like(x)

    def extra_repr(self) -> str:
        return f"c={self.c:g}"


@final
class ActiveDropout(nn.Dropout):
    """Dropout that drops in evaluation mode too."""

    random: ClassVar[bool] = True

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, training=True)


def stochastic_pruning(network: Network, frac: float = 1.0, variant: str = "paper", through: bool = True) -> Network:
    """The same network, with `StochasticPruning` behind every activation ("paper") or convolution ("code"), in place.

    Raises:
        ValueError: as `StochasticPruning`; the network has no such layer. Functional ones (`x.relu()`) are not found.
    """
    StochasticPruning(frac, variant)
    kinds = _ACTIVATIONS if variant == "paper" else _ConvNd
    what = "activation layer; make functional ones, such as x.relu(), modules" if variant == "paper" else "convolution"
    for module in _found(network, kinds, what):
        _put(module, "behind", StochasticPruning(frac, variant, through))
    return network


def self_ensemble(network: Network, first: float = 0.2, others: float = 0.1) -> Network:
    """The same network as Random Self-Ensemble (RSE): normal noise before every convolution, in place.

    first   standard deviation before the first one, that is of noise on the images, default .2 (code)
    others  before the others, default .1 (code)

    It is trained with this noise, by cross-entropy or on attacked images, and predicts by the mean softmax of several
    draws (`MeanOfDraws`).

    It is broken by `EOT` of `PGD`, whose gradient is the mean over draws.

    Reference: Xuanqing Liu, Minhao Cheng, Huan Zhang and Cho-Jui Hsieh, "Towards robust neural networks via random
    self-ensemble", ECCV 2018.

    Raises:
        ValueError: a deviation below 0; the network has no convolution.
    """
    noises = _strength("self_ensemble", "first", first), _strength("self_ensemble", "others", others)
    for place, module in enumerate(_found(network, _ConvNd, "convolution")):
        _put(module, "before", AddedNoise(noises[min(place, 1)]))
    return network


def noisy_blocks(network: Network, c: float = 0.1, layers: Sequence[str] | None = None) -> Network:
    """The same network with noise on the output of every residual block, as EnResNet's members have it, in place.

    A block's output y becomes y + c s N(0, I), where s is the standard deviation of the image's y.

    c       default .1 (code); 0 is the plain network
    layers  the blocks by their names in `network.named_modules()`; default: every `Residual`

    The paper's network is the mean of the logits of M = 5 such networks, trained together on PGD images: a
    `LogitEnsemble`.
    Paper and code: in the code, s is over the whole batch, so that an image's answer depends on its neighbours; here it
    is the image's own.

    It is broken by `EOT` of `PGD`, as far as the noise is what defends.

    Reference: Bao Wang, Zuoqiang Shi and Stanley Osher, "ResNets ensemble via the Feynman-Kac formalism to improve
    natural and robust accuracies", NeurIPS 2019.

    Raises:
        ValueError: c is below 0; there is no such layer, or no residual block.
    """
    named = {name: module for name, module in network.named_modules() if name}
    if unknown := [name for name in layers or () if name not in named]:
        raise ValueError(f"{type(network).__name__} has no layer {unknown[0]!r}; {nearest(unknown[0], named)}")
    blocks = _found(network, Residual, "Residual block: name its layers") if layers is None else map(named.get, layers)
    for module in blocks:
        assert module is not None
        _put(module, "behind", RelativeNoise(c))
    return network


def active_dropout(network: Network, p: float | None = None) -> Network:
    """The same network as a dropout ensemble: dropout stays on in evaluation mode, in place.

    p  share of the units that is dropped, in every dropout layer, default as it is

    It predicts by the mean softmax of several draws (`MeanOfDraws`), which approximates the predictive distribution of
    a Bayesian network.

    It is broken by `EOT` of `PGD`.

    Reference: Yarin Gal and Zoubin Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
    deep learning", ICML 2016.

    Raises:
        ValueError: p is not in [0, 1); the network has no `nn.Dropout`.
    """
    if p is not None and not 0 <= p < 1:
        raise ValueError(f"active_dropout needs p in [0, 1); got {p}")
    active: dict[nn.Module, ActiveDropout] = {}
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, nn.Dropout):
                made = active.setdefault(child, ActiveDropout(child.p if p is None else p).train(child.training))
                setattr(parent, name, made)
    if not active:
        raise ValueError(f"{type(network).__name__} has no nn.Dropout, which an ensemble of dropout masks needs")
    return network


def _strength(kind: str, name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{kind} needs {name} >= 0 and below infinity; got {value}")
    return float(value)


def _found(network: nn.Module, kinds: Any, what: str) -> list[nn.Module]:
    """The modules of some kinds, each once, in their order."""
    found = [module for module in network.modules() if isinstance(module, kinds)]
    if not found:
        raise ValueError(f"{type(network).__name__} has no {what}")
    return found


def _put(module: nn.Module, place: Literal["before", "behind"], layer: nn.Module) -> None:
    """Make a layer part of a module, as its child, so that it runs before or behind it."""
    name = f"random_{place}"
    if name in module._modules:
        raise ValueError(f"there is a random layer {place} this {type(module).__name__} already: add one, not two")
    module.add_module(name, layer.train(module.training))
    if place == "before":
        module.register_forward_pre_hook(_before)
    elif not isinstance(module, nn.Sequential):  # which runs its last child behind the others by itself
        module.register_forward_hook(_behind)


def _before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return module.get_submodule("random_before")(inputs[0]), *inputs[1:]


def _behind(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return module.get_submodule("random_behind")(output)
