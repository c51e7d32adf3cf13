"""What each model is truly attacked through: the same values, or nearly, and a useful gradient."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import masked
from zoo.entries import ENTRIES
from zoo.masked import LEVELS, Signs, Winners
from zoo.nets import Conv, filled, plain_conv, plain_dense, robust_conv

Twin = Callable[[Tensor], Tensor]

PLAIN = {
    **dict.fromkeys(("one_hot", "second_softmax", "rounded", "rounded_l2", "no_grad", "detached"), plain_conv),
    **dict.fromkeys(("wrong_sign", "far_constant", "classes_alone"), plain_conv),
    **dict.fromkeys(("saturated", "random_gradient", "zero_gradient", "sigmoid_chain", "inference"), plain_dense),
    **dict.fromkeys(("probabilities", "sealed"), robust_conv),
}
"""The network with the same class for every image."""


def through(front: Callable[[Tensor], Tensor], net: nn.Module) -> Twin:
    """The value behind `front`, and the gradient of the identity."""
    return lambda x: net(x + (front(x) - x).detach())


def twin_of(name: str) -> list[Twin]:
    """One, or several that are taken in turn; the first has the model's own scores."""
    if name in PLAIN:
        return [PLAIN[name]()]
    model = ENTRIES[name].build()
    if name in ("bit_depth", "jpeg", "median", "codebook", "sinusoid", "exploding", "counter_attack"):
        front = before(model)
        twins = [through(front, model.net)]
        if name == "counter_attack":
            twins.append(model.net)
        return twins
    made = {
        "thermometer": coded,
        "thermometer_l2": coded,
        "kwta": won,
        "sign": signed,
        "vanishing": signed,
        "purified": purified,
    }
    return made[name](model) if name in made else [model]


def before(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a model does to images before its network sees them."""

    def seen(x: Tensor) -> Tensor:
        caught = []
        handle = model.net.register_forward_pre_hook(lambda net, given: caught.append(given[0].detach()))
        with torch.no_grad():
            model(x)
        handle.remove()
        return caught[-1]

    return seen


def coded(model: nn.Module) -> list[Twin]:
    """Hard codes, with the gradient of soft ones."""
    net = filled(Conv(LEVELS), "conv thermometer")
    levels = torch.arange(1, LEVELS + 1).reshape(1, -1, 1, 1) / (LEVELS + 1)

    def twin(slope: float) -> Twin:
        def answer(x: Tensor) -> Tensor:
            soft = torch.sigmoid(slope * (x - levels))
            return net(soft + (masked.codes_of(x) - soft).detach())

        return answer

    return [twin(slope) for slope in (10, 5, 20)]


def won(model: Winners) -> list[Twin]:
    """The winners, with the gradient of ReLU, of the identity, or of their own."""

    def relu(x: Tensor) -> Tensor:
        def through(h: Tensor, soft: Tensor) -> Tensor:
            return soft + (masked.winners(h, 0.15) - soft).detach()

        h = model.first(x.flatten(1))
        h = model.second(through(h, F.relu(h)))
        return model.head(through(h, F.relu(h)))

    def leaky(x: Tensor) -> Tensor:
        def through(h: Tensor) -> Tensor:
            least = h.detach().topk(round(0.15 * h.shape[1]), dim=1).values[:, -1:]
            soft = h * torch.sigmoid(2 * (h.detach() - least))
            return soft + (masked.winners(h, 0.15) - soft).detach()

        return model.head(through(model.second(through(model.first(x.flatten(1))))))

    return [model, leaky, relu]


def signed(model: Signs) -> list[Twin]:
    def hard(h: Tensor) -> Tensor:
        return torch.tanh(100 * h) if isinstance(model, masked.Saturating) else h.sign()

    def twin(slope: float) -> Twin:
        def through(h: Tensor) -> Tensor:
            soft = torch.tanh(slope * h)
            return soft + (hard(h) - soft).detach()

        return lambda x: model.head(through(model.second(through(model.first(x.flatten(1))))))

    return [twin(1.0), twin(0.3)]


def purified(model: nn.Module) -> list[Twin]:
    """The found image, with the gradient of the unrolled descent, or of the autoencoder."""
    front = before(model)

    def coder(x: Tensor) -> Tensor:
        near = model.coder(x)
        return model.net(near + (front(x) - near).detach())

    def unrolled(x: Tensor) -> Tensor:
        code, speed = torch.zeros(len(x), 16, requires_grad=True), torch.zeros(len(x), 16)
        with torch.enable_grad():
            for _ in range(model.steps):
                wrong = (model.coder.decoded(code) - x).square().flatten(1).sum()
                (slope,) = torch.autograd.grad(wrong, code, create_graph=True)
                speed = 0.7 * speed - 0.5 * slope
                code = code + speed
            return model.net(model.coder.decoded(code))

    return [unrolled, unrolled, coder]
