"""Models with nothing to hide: some are robust, some are not, and gradients say which."""

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nets import Bounded, Conv, Dense, Linear, Residual, filled, plain_conv, plain_dense, robust_conv


def mlp() -> nn.Module:
    return plain_dense()


def cnn() -> nn.Module:
    return plain_conv()


def resnet() -> nn.Module:
    return filled(Residual(), "residual")


def pgd_cnn() -> nn.Module:
    return robust_conv()


def pgd_mlp() -> nn.Module:
    return filled(Dense(), "dense pgd")


def trades() -> nn.Module:
    return filled(Dense(), "dense trades")


def l2_trained() -> nn.Module:
    return filled(Conv(), "conv l2")


def gaussian() -> nn.Module:
    return filled(Conv(), "conv gaussian")


def linear() -> nn.Module:
    return filled(Linear(), "linear")


def bounded_relu() -> nn.Module:
    return filled(Bounded(), "bounded")


class Log(nn.Module):
    """Answers with log-probabilities."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.net(x), dim=-1)


def log_probabilities() -> nn.Module:
    return Log(filled(Dense(), "dense pgd"))


class Probabilities(Log):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(-1)


def probabilities() -> nn.Module:
    return Probabilities(robust_conv())


class Scaled(nn.Module):
    """Subtracts a mean and divides by a deviation first."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - 0.3) / 0.38)


def normalising() -> nn.Module:
    return Scaled(filled(Conv(), "conv scaled"))
