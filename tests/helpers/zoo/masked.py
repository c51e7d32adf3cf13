"""Models that hide or spoil their gradients, and are not robust.

Each function makes one; `twin_of` in `twins.py` has the model behind each, through which its truth is measured.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import dctn, idctn
from scipy.ndimage import median_filter
from torch import Tensor, nn

from zoo.nets import Coder, Conv, Dense, filled, plain_conv, plain_dense, stored, train_images

LEVELS = 8


class OneHotHead(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(self.net(x).argmax(1), 10).float()


def one_hot() -> nn.Module:
    return OneHotHead(plain_conv())


class Sharp(nn.Module):
    """Softmax of logits times 1e4."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(1e4 * self.net(x), dim=1)


def saturated() -> nn.Module:
    return Sharp(plain_dense())


class TwiceSoftmax(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(F.softmax(20 * self.net(x), dim=1), dim=1)


def second_softmax() -> nn.Module:
    return TwiceSoftmax(plain_conv())


class Percent(nn.Module):
    """Probabilities in whole percents."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return (100 * self.net(x).softmax(1)).round() / 100


def rounded() -> nn.Module:
    return Percent(plain_conv())


class NoGrad(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def no_grad() -> nn.Module:
    return NoGrad(plain_conv())


class Cut(Conv):
    """Detached in the middle; the graph's rest goes nowhere but through a tiny residue."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.one(x)).detach()
        h = F.relu(self.hidden(F.relu(self.two(h)).flatten(1)))
        return self.head(h) + 1e-6 * x.flatten(1)[:, :10]


def detached() -> nn.Module:
    return filled(Cut(), "conv")


class FewBits(nn.Module):
    """Eight grey levels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.round(7 * x) / 7)


def bit_depth() -> nn.Module:
    return FewBits(filled(Conv(), "conv bits"))


def jpeg_like(x: np.ndarray) -> np.ndarray:
    """Cosine transform of the 8x8 image, rounded to steps that grow with frequency."""
    steps = 0.25 * (1 + np.add.outer(np.arange(8), np.arange(8)) / 4)
    codes = np.round(dctn(x, axes=(-2, -1), norm="ortho") / steps)
    return idctn(codes * steps, axes=(-2, -1), norm="ortho").clip(0, 1).astype(np.float32)


class Jpeg(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.from_numpy(jpeg_like(x.detach().cpu().numpy()))
        return self.net(seen)


def jpeg() -> nn.Module:
    return Jpeg(filled(Conv(), "conv jpeg"))


def codes_of(x: Tensor) -> Tensor:
    """Thermometer code: a channel per level, which is 1 where the pixel is above it."""
    levels = torch.arange(1, LEVELS + 1).reshape(1, -1, 1, 1) / (LEVELS + 1)
    return (x > levels).float()


class Encoder(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return codes_of(x)


def thermometer() -> nn.Module:
    return nn.Sequential(Encoder(), filled(Conv(LEVELS), "conv thermometer"))


def winners(x: Tensor, share: float) -> Tensor:
    """All but the largest are 0."""
    least = x.topk(max(1, round(share * x.shape[1])), dim=1).values[:, -1:]
    return torch.where(x >= least, x, torch.zeros_like(x))


class Winners(nn.Module):
    """k-winners-take-all in place of ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 128), nn.Linear(128, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = winners(self.first(x.flatten(1)), 0.15)
        return self.head(winners(self.second(h), 0.15))


def kwta() -> nn.Module:
    return filled(Winners(), "kwta")


class Signs(nn.Module):
    """Hidden units of -1 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 96), nn.Linear(96, 96), nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sign(self.first(x.flatten(1)))
        return self.head(torch.sign(self.second(h)))


def sign() -> nn.Module:
    return filled(Signs(), "sign")


class Noisy(nn.Module):
    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.scale * torch.randn_like(x))


def noise_small() -> nn.Module:
    return Noisy(plain_conv(), 0.05)


def noise_large() -> nn.Module:
    return Noisy(filled(Conv(), "conv noise"), 0.3)


class ResizedPadded(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        size = int(torch.randint(8, 11, ()))
        x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        left, top = (int(torch.randint(0, 11 - size, ())) for _ in range(2))
        return self.net(F.pad(x, (left, 10 - size - left, top, 10 - size - top)))


def resize_pad() -> nn.Module:
    return ResizedPadded(filled(Conv(size=10), "conv resize"))


class Dropping(Conv):
    """Dropout that stays on."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.two(F.relu(self.one(x)))).flatten(1)
        h = F.dropout(h, 0.5, training=True)
        return self.head(F.dropout(F.relu(self.hidden(h)), 0.3, training=True))


def dropout() -> nn.Module:
    return filled(Dropping(), "conv dropout")


class Purified(nn.Module):
    """The nearest image that a decoder makes, found by descent, is classified."""

    def __init__(self, coder: Coder, net: nn.Module, steps: int = 20) -> None:
        super().__init__()
        self.coder, self.net, self.steps = coder, net, steps

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach()
        code = torch.zeros(len(x), 16)
        speed = torch.zeros_like(code)
        with torch.enable_grad():
            for _ in range(self.steps):
                code = code.detach().requires_grad_()
                wrong = (self.coder.decoded(code) - x).square().flatten(1).sum()
                (slope,) = torch.autograd.grad(wrong, code)
                speed = 0.7 * speed - 0.5 * slope
                code = code + speed
        return self.net(self.coder.decoded(code.detach()))


def purified() -> nn.Module:
    return Purified(filled(Coder(), "coder"), filled(Conv(), "conv coded"))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return -slope


class Scrambled(Reversed):
    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return torch.randn_like(slope)


class Nothing(Reversed):
    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return torch.zeros_like(slope)


class Through(nn.Module):
    """An identity with another gradient, in front of a network."""

    def __init__(self, net: nn.Module, gate: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.net, self.gate = net, gate

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.gate.apply(x))


def wrong_sign() -> nn.Module:
    return Through(plain_conv(), Reversed)


def random_gradient() -> nn.Module:
    return Through(plain_dense(), Scrambled)


def zero_gradient() -> nn.Module:
    return Through(plain_dense(), Nothing)


class Waves(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.05 * torch.sin(500 * x))


def sinusoid() -> nn.Module:
    return Waves(plain_conv())


class Saturating(Signs):
    """Hidden units so steep that their gradient is 0 in single precision nearly everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(100 * self.first(x.flatten(1)))
        return self.head(torch.tanh(100 * self.second(h)))


def vanishing() -> nn.Module:
    return filled(Saturating(), "sign")


class Chain(nn.Module):
    """Sigmoids, one after another, over the logits: their order stays, their differences shrink."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        z = z / z.detach().std(1, keepdim=True)
        for _ in range(7):
            z = torch.sigmoid(z)
        return z


def sigmoid_chain() -> nn.Module:
    return Chain(plain_dense())


class Chaotic(nn.Module):
    """A little of a chaotic map of each pixel is added to it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        u = 0.1 + 0.8 * x.clamp(0, 1)
        for _ in range(14):
            u = 3.99 * u * (1 - u)
        return self.net(x + 0.05 * (u - 0.5))


def exploding() -> nn.Module:
    return Chaotic(plain_conv())


class FlatFarAway(nn.Module):
    """Logits in whole numbers wherever no training image is near, as a detector would switch."""

    def __init__(self, net: nn.Module, known: Tensor, radius: float) -> None:
        super().__init__()
        self.net, self.radius = net, radius
        self.register_buffer("known", known.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        far = torch.cdist(x.flatten(1), self.known).amin(1, keepdim=True) > self.radius
        return torch.where(far, F.one_hot(z.argmax(1), 10) * 10.0, z)


def far_constant() -> nn.Module:
    return FlatFarAway(plain_conv(), train_images()[0], 1.0)


def classes_alone() -> Callable[[Tensor], Tensor]:
    net = plain_conv()

    def classify(images: Tensor) -> Tensor:
        with torch.no_grad():
            return net(images).argmax(1)

    return classify


class CounterAttack(nn.Module):
    """Moves its input towards what it believes before it answers."""

    def __init__(self, net: nn.Module, size: float = 0.05, steps: int = 5) -> None:
        super().__init__()
        self.net, self.size, self.steps = net, size, steps

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach()
        moved = x.clone()
        with torch.enable_grad():
            believed = self.net(x).argmax(1)
            for _ in range(self.steps):
                moved.requires_grad_()
                (slope,) = torch.autograd.grad(F.cross_entropy(self.net(moved), believed, reduction="sum"), moved)
                moved = moved.detach() - self.size / 3 * slope.sign()
                moved = torch.minimum(torch.maximum(moved, x - self.size), x + self.size).clamp(0, 1)
        return self.net(moved.detach())


def counter_attack() -> nn.Module:
    return CounterAttack(plain_conv())


class Median(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        seen = median_filter(x.detach().cpu().numpy(), size=(1, 1, 2, 2))
        return self.net(torch.from_numpy(seen))


def median() -> nn.Module:
    return Median(filled(Conv(), "conv median"))


def nearest_words(x: Tensor, words: Tensor) -> Tensor:
    """Every 2x2 patch replaced by the nearest of a code book's."""
    patches = F.unfold(x, 2, stride=2).transpose(1, 2)
    found = words[torch.cdist(patches, words.expand(len(x), -1, -1)).argmin(2)]
    return F.fold(found.transpose(1, 2), (8, 8), 2, stride=2)


class CodeBook(nn.Module):
    def __init__(self, net: nn.Module, words: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("words", words)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(nearest_words(x, self.words))


def codebook() -> nn.Module:
    return CodeBook(filled(Conv(), "conv words"), stored()["words"].float())


def inference() -> Callable[[Tensor], Tensor]:
    """A callable that answers with scores in inference mode."""
    net: Dense = plain_dense()

    def predict(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return net(images.clone())

    return predict
