"""Models of strangers that hide their gradients: what no attack on them breaks, an attack on the adapted model does."""

from collections.abc import Callable
from functools import cache
from io import BytesIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digits_network import trained
from steelman.adaptive.gradients import Adapted, adapted
from steelman.attacks import PGD
from steelman.data import Digits
from steelman.losses import Margin

EPS = 0.2
(TRAIN,) = Digits().load("train").batches([torch.arange(500)])
(TEST,) = Digits().load("test").batches([torch.arange(40)])
Map = Callable[[Tensor], Tensor]
base = cache(trained)


class Step(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Map) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Around(nn.Module):
    """Code around a network."""

    def __init__(self, net: nn.Module, before: Map = torch.clone, after: Map = torch.clone) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


class Silent(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * 2


class ByNumpy(Silent):
    """Its inner answer becomes an array, which a tensor in a graph refuses."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.from_numpy(self.net(x.detach()).numpy() * 2)


class Hidden(nn.Module):
    """Code between two layers."""

    def __init__(self, middle: Map) -> None:
        super().__init__()
        self.middle = middle
        self.conv, self.fc = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(1024, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self.conv(x)).flatten(1))


class Looped(nn.Module):
    """One layer is called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 10)
        self.levels = 0

    def forward(self, x: Tensor) -> Tensor:
        h = self.rounded(self.first(x.flatten(1)))
        for _ in range(3):
            h = self.rounded(self.again(h))
        return self.last(h)

    def rounded(self, h: Tensor) -> Tensor:
        h = h.tanh()
        return (h * self.levels).round() / self.levels if self.levels else h


class Residual(nn.Module):
    """A sign of a sum with a skip connection."""

    def __init__(self, sign: Map) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 96), nn.Linear(96, 96), nn.Linear(96, 10)
        self.sign = sign

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1))
        return self.last(self.sign(self.second(h.relu()) + h))


class Vote(nn.Module):
    """Two networks' sum, as one class."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        return one_hot(self.one(x) + self.other(x))


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # pyright: ignore
        return torch.randn_like(gradient)


class Zero(Wrong):
    @staticmethod
    def backward(ctx, gradient):  # pyright: ignore
        return torch.zeros_like(gradient)


class Straight(torch.autograd.Function):
    """For training alone."""

    @staticmethod
    def forward(ctx, x, function):
        return function(x)

    @staticmethod
    def backward(ctx, gradient):  # pyright: ignore
        return gradient, None


def fit(net: nn.Module, seen: Map = torch.clone, steps: int = 40) -> nn.Module:
    optimiser, x = torch.optim.Adam(net.parameters(), 1e-2), seen(TRAIN.x)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(net(x), TRAIN.y).backward()
        optimiser.step()
    return net.eval()


@cache
def hidden(middle: Map) -> Hidden:
    torch.manual_seed(0)
    net = Hidden(lambda h: Straight.apply(h, middle))
    fit(net).middle = middle  # pyright: ignore
    return net


def as_layers(net: Hidden) -> nn.Module:
    return nn.Sequential(net.conv, Step(net.middle), nn.Flatten(), net.fc)


@cache
def looped() -> nn.Module:
    torch.manual_seed(0)
    net = Looped()
    fit(net).levels = 8  # pyright: ignore
    return net


def residual() -> nn.Module:
    torch.manual_seed(0)
    net = Residual(lambda h: Straight.apply(h, torch.sign))
    fit(net).sign = torch.sign  # pyright: ignore
    return net


@cache
def behind(seen: Map) -> nn.Module:
    """A network that was trained on what a function makes of the images."""
    torch.manual_seed(0)
    shape = seen(TRAIN.x[:2]).shape[1:]
    first = nn.Conv2d(shape[0], 12, 3, padding=1) if len(shape) == 3 else nn.Linear(shape[0], 64)
    width = 12 * shape[1] * shape[2] if len(shape) == 3 else 64
    return fit(nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(width, 10)), seen)


def one_hot(logits: Tensor) -> Tensor:
    return 5 * F.one_hot(logits.argmax(1), 10).float()


def levels(x: Tensor) -> Tensor:
    return (x * 3).round() / 3


def steps(x: Tensor) -> Tensor:
    return (x * 255).floor() / 255


def jpeg(x: Tensor) -> Tensor:
    from PIL import Image

    made = []
    for image in (x.detach().numpy()[:, 0] * 255).astype(np.uint8):
        file = BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=60)
        made.append(np.asarray(Image.open(file), dtype=np.float32)[None] / 255)
    return torch.from_numpy(np.stack(made))


def thermometer(x: Tensor) -> Tensor:
    return (x[:, :, None] >= torch.arange(1, 9)[:, None, None] / 8.5).float().flatten(1, 2)


@torch.no_grad()
def larger(x: Tensor) -> Tensor:
    return F.interpolate(x, (10, 10), mode="bilinear")


def shuffled(x: Tensor) -> Tensor:
    order = np.random.default_rng(0).permutation(64)
    return torch.from_numpy(x.detach().numpy().reshape(len(x), 64)[:, order])


def noisy(x: Tensor) -> Tensor:
    return (x + 0.05 * torch.randn_like(x)).detach()


def half(h: Tensor) -> Tensor:
    return (h > 0).float()


MASKED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "one-hot module": (lambda: nn.Sequential(base(), Step(one_hot)), "logits are read at the output of `0.6` (Linear)"),
    "one-hot code": (lambda: Around(base(), after=one_hot), "logits are read at the output of `net.6` (Linear)"),
    "saturated softmax": (lambda: Around(base(), after=lambda z: (1e4 * z).softmax(1).add(1e-12).log()), "logits"),
    "infinite logs": (lambda: Around(base(), after=lambda z: (1e2 * z).softmax(1).clamp(min=1e-38).log()), "logits"),
    "second softmax": (lambda: Around(base(), after=lambda z: (1e2 * z).softmax(1) * 10), "logits"),
    "two digits": (lambda: Around(base(), after=lambda z: (z.softmax(1) * 100).round() / 100 + 0.001), "logits"),
    "classes alone": (lambda: Around(base(), after=lambda z: z.argmax(1)), "logits"),
    "zero backward at the end": (lambda: Around(base(), after=Zero.apply), "logits"),
    "detached": (lambda: Around(base(), after=Tensor.detach), "logits"),
    "no gradients": (lambda: Silent(base()), "gradients are kept on"),
    "by numpy": (lambda: ByNumpy(base()), "identity from the images to the input of `net` (Sequential)"),
    "four levels": (lambda: Around(base(), levels), "identity from the images to the input of `net` (Sequential)"),
    "256 levels": (lambda: nn.Sequential(Step(steps), base()), "identity through 1 module: `0` (Step)"),
    "JPEG": (lambda: Around(base(), jpeg), "identity from the images"),
    "JPEG module": (
        lambda: nn.Sequential(Step(jpeg), Step(levels), base()),
        "through 2 modules: `0` (Step), `1` (Step)",
    ),
    "sign": (lambda: hidden(torch.sign), "identity from the output of `conv` (Conv2d) to the input of `fc` (Linear)"),
    "sign module": (lambda: as_layers(hidden(torch.sign)), "identity through 1 module: `1` (Step)"),
    "binary": (lambda: hidden(half), "identity from the output of `conv`"),
    "sign of a sum": (residual, "plus the output of `first` (Linear) to the input of `last` (Linear)"),
    "rounded three times": (
        looped,
        "from the output of `again` (Linear) (call 2) to the input of `again` (Linear) (call 3)",
    ),
    "thermometer": (lambda: Around(behind(thermometer), thermometer), "a fitted stand-in for the way from the images"),
    "thermometer module": (
        lambda: nn.Sequential(Step(thermometer), behind(thermometer)),
        "a fitted stand-in for `0` (Step): 1x8x8 to 8x8x8, R^2 .",
    ),
    "resized": (lambda: Around(behind(larger), larger), "a fitted stand-in"),
    "shuffled": (lambda: Around(behind(shuffled), shuffled), "1x8x8 to 64, R^2 ."),
    "NaN": (lambda: Around(base(), lambda x: (x * x).sqrt()), "identity from the images"),
    "exploding": (lambda: Around(base(), lambda x: x + 1e-6 * torch.sin(1e9 * x)), "identity"),
    "random backward": (lambda: nn.Sequential(Step(Wrong.apply), base()), "identity through 1 module: `0` (Step)"),
    "noise": (lambda: Around(base(), noisy), "identity from the images"),
    "vote": (lambda: Vote(base(), hidden(torch.relu)), "output of"),
}


def right(model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        answer = model(x)
    return float(((answer if answer.ndim == 1 else answer.argmax(1)) == TEST.y).float().mean())


def attacked(model: nn.Module) -> Tensor:
    return PGD(EPS, steps=20, loss=Margin())(model, TEST.x, TEST.y, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:the model's gradient is zero")
@pytest.mark.parametrize("name", MASKED)
def test_masked(name: str):
    made, assumed = MASKED[name]
    model = made().eval()
    assert right(model, TEST.x) > 0.85
    try:
        assert right(model, attacked(model)) > 0.6, "it hides nothing"
    except ValueError as error:
        assert "gradient" in str(error) or "probabilities" in str(error) or "classes alone" in str(error)  # noqa: PT017
    change = adapted(model, TEST.x, TEST.y)
    assert isinstance(change, Adapted)
    assert assumed in "; ".join(change.assumptions)
    x = attacked(change)
    assert right(model, x) <= 0.12
    for images in (TEST.x, x, torch.rand_like(x)):
        torch.manual_seed(0)
        answer = model(images)
        torch.manual_seed(0)
        assert torch.equal(change(images).argmax(1), answer if answer.ndim == 1 else answer.argmax(1))
