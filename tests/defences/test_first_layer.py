"""The first layer written out, against autograd; and where it is not used."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from steelman import YOPO, Batch, TradesYOPO
from steelman.attacks.core import Ball
from steelman.defences import Game, first_layer
from steelman.defences.first_layer import FirstLayer
from steelman.networks import MLP, Preprocessed, SmallCNN
from steelman.networks.surgery import Stem
from steelman.norms import L2, Linf, Norm
from steelman.training import play

LAYERS: dict[str, Callable[[], nn.Conv2d | nn.Linear]] = {
    "3x3": lambda: nn.Conv2d(2, 4, 3),
    "strides, padding and dilation": lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "windows that leave a rest": lambda: nn.Conv2d(2, 3, 3, stride=2),
    "without bias": lambda: nn.Conv2d(2, 3, 2, bias=False),
    "patches": lambda: nn.Conv2d(2, 6, 3, stride=3),
    "fully connected": lambda: nn.Linear(72, 5),
    "fully connected, without bias": lambda: nn.Linear(72, 5, bias=False),
}


def images(count: int = 7) -> Tensor:
    return torch.rand(count, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def function(layer: nn.Module, rectified: bool) -> Callable[[Tensor], Tensor]:
    def f(x: Tensor) -> Tensor:
        answer = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
        return answer.relu() if rectified else answer

    return f


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("norm", [Linf, L2], ids=repr)
def test_steps_and_growth_are_those_of_autograd(name: str, rectified: bool, norm: Norm, monkeypatch):
    """In parts of two or three images, the last smaller."""
    torch.manual_seed(0)
    layer, x = LAYERS[name]().double(), images()
    f, ball = function(layer, rectified), Ball.around(x, 0.2, norm, (0.0, 1.0))
    p, length = torch.randn_like(f(x)), torch.full((7, 1, 1, 1), 0.07, dtype=torch.float64)
    monkeypatch.setattr(first_layer, "AT_ONCE", (2 if rectified else 3) * p[0].numel())
    there = x
    for _ in range(4):
        there = there.detach().requires_grad_()
        (slope,) = torch.autograd.grad((f(there) * p).sum(), there)
        there = ball.climb(there.detach(), slope, length)
    ours = FirstLayer(layer, rectified)
    assert not torch.equal(there, x)
    torch.testing.assert_close(ours.climb(ball, x, p, 4, length), there)
    h = torch.randn_like(p)
    wanted, found = (p * (f(there) - h)).sum(), ours.growth(there, p, h)
    torch.testing.assert_close(found, wanted)
    weights = list(layer.parameters())
    torch.testing.assert_close(torch.autograd.grad(found, weights), torch.autograd.grad(wanted, weights))


def network(*before: nn.Module, conv: nn.Module | None = None, act: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(3)
    first = conv or nn.Conv2d(2, 4, 3)
    layers: dict[str, nn.Module] = {f"before{place}": each for place, each in enumerate(before)}
    layers |= {"conv": first, "act": act or nn.ReLU(), "flatten": nn.Flatten(), "fc": nn.LazyLinear(5)}
    net = nn.Sequential(OrderedDict(layers)).double()
    net(images())
    return net


def recognised(net: nn.Module, name: str = "act", x: Tensor | None = None) -> FirstLayer | None:
    stem, x = Stem(net, name), images() if x is None else x
    with first_layer.first_layer(stem, x) as found:
        stem.whole(x)
    assert not any(each._forward_hooks for each in net.modules() if type(each) is nn.Flatten)
    return found()


def test_it_is_recognised():
    net = network()
    assert recognised(net) == FirstLayer(net.conv, True)
    assert recognised(net, "conv") == FirstLayer(net.conv, False)
    in_place = network(act=nn.ReLU(inplace=True))
    assert recognised(in_place) == FirstLayer(in_place.conv, True)
    for net, name, layer in ((MLP(), "relu1", "fc1"), (SmallCNN(), "relu1", "conv1")):
        assert recognised(net, name, torch.rand(2, 1, 28, 28)) == FirstLayer(net.get_submodule(layer), True)


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def hooked() -> nn.Module:
    net = network()
    net.conv.register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


def replaced() -> nn.Module:
    net = network()
    net.conv.forward = lambda x: 2 * nn.Conv2d.forward(net.conv, x)
    return net


class Wide(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "another activation": lambda: network(act=nn.Tanh()),
    "a layer before it": lambda: network(Half()),
    "preprocessing": lambda: Preprocessed(Half(), network()),
    "two layers": lambda: network(nn.Conv2d(2, 2, 1)),
    "groups": lambda: network(conv=nn.Conv2d(2, 4, 3, groups=2)),
    "padding by name": lambda: network(conv=nn.Conv2d(2, 4, 3, padding="same")),
    "reflected edges": lambda: network(conv=nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")),
    "weights that are computed": lambda: network(
        conv=nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3))  # pyright: ignore
    ),
    "a hook": hooked,
    "a forward of its own": replaced,
    "a subclass": lambda: network(conv=Wide(2, 4, 3)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_left_to_autograd(name: str):
    assert recognised(OTHERS[name]()) is None


def test_mixed_precision_is_left_to_autograd():
    net = network().float()
    with torch.autocast("cpu", torch.bfloat16):
        assert recognised(net, x=images().float()) is None
    assert recognised(net, x=images().float()) is not None


def gradients(defence: Game, net: nn.Module) -> dict[str, Tensor]:
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    batch = Batch(images(), torch.arange(7) % 5, seeds=torch.arange(7) + 10)
    play(defence, net, batch, torch.optim.SGD(net.parameters(), 1.0))
    return {name: before[name] - value.detach() for name, value in net.named_parameters()}


@pytest.mark.parametrize("name", ["act", "conv"])
@pytest.mark.parametrize(
    "defence",
    [*(YOPO(3, 2, 0.2, 0.07, variant) for variant in ("code", "paper", "gradient")), TradesYOPO(2, 3, 0.2, 0.07)],
    ids=lambda each: getattr(each, "variant", "trades"),
)
@pytest.mark.parametrize("learns", [True, False])
def test_training_is_that_of_autograd(name: str, defence: YOPO | TradesYOPO, learns: bool):
    """The same network with a hook that does nothing goes through autograd."""
    found = []
    for hook in (False, True):
        net = network()
        net.conv.requires_grad_(learns)
        if hook:
            net.conv.register_forward_hook(lambda module, inputs, output: None)
        assert (recognised(net, name) is None) == hook
        found.append(gradients(type(defence)(**{**vars(defence), "first_layer": name}), net))
    assert bool(found[0]["conv.weight"].any()) == learns
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-7, atol=1e-10)
