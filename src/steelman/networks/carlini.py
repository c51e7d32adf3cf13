"""The networks that Carlini and Wagner attack on MNIST and CIFAR-10, after Papernot's for distillation."""

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from steelman.networks.shapes import check_shape


@final
class CarliniNet(nn.Module):
    """Two pairs of 3x3 convolutions, each pair followed by max-pooling; three fully connected layers.

    Conv3-width twice, MaxPool2, Conv3-(2 width) twice, MaxPool2, FC-hidden, Dropout, FC-hidden, FC; no padding, ReLU
    after every layer but the last. The paper's images lie in [-.5, .5], so .5 is taken from pixels first.

    shape    of one image, default (1, 28, 28); at least 16x16 pixels
    classes  default 10: 312,202 parameters on MNIST; 1,147,978 on CIFAR-10 with the width and hidden of the paper
    width    channels of the first pair, default 32 (MNIST); the paper's CIFAR-10 net has 64
    hidden   units of the fully connected layers, default 200 (MNIST); CIFAR-10: 256
    dropout  after the first of them, default .5

    Layers: conv1 .. conv4, fc1 .. fc3.
    Reference: Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017, table I.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        width: int = 32,
        hidden: int = 200,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        channels, height, length = check_shape("CarliniNet", shape, 16)
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, length))
        self.conv1 = nn.Conv2d(channels, width, 3)
        self.conv2 = nn.Conv2d(width, width, 3)
        self.conv3 = nn.Conv2d(width, 2 * width, 3)
        self.conv4 = nn.Conv2d(2 * width, 2 * width, 3)
        self.fc1 = nn.Linear(2 * width * rows * columns, hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(self.conv2(self.conv1(x - 0.5).relu()).relu(), 2)
        x = max_pool2d(self.conv4(self.conv3(x).relu()).relu(), 2)
        x = self.dropout(self.fc1(x.flatten(1)).relu())
        return self.fc3(self.fc2(x).relu())
