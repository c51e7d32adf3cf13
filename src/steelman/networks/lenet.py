"""LeNet as Caffe and MatConvNet have it, LeNet-5 as L2L-DA has it, and the network of Madry's MNIST challenge."""

from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.layers import check_shape, numbered


@final
class LeNet(nn.Sequential):
    """Two convolutions with max-pooling, two fully connected layers.

    Conv5-20, MaxPool2, Conv5-50, MaxPool2, FC500, ReLU, FC; no padding. There is NO ReLU after the convolutions: max-
    pooling is their only non-linearity, in the paper's table and in its authors' code.

    shape    of one image, default (1, 28, 28); at least 16x16 pixels
    classes  default 10: 431,080 parameters on MNIST

    Layers: conv1, pool1, conv2, pool2, flatten, fc1, relu1, fc2.
    Reference: Yan, Guo and Zhang, "Deep Defense: training DNNs with improved adversarial robustness", NeurIPS 2018,
    section 4; after MatConvNet's MNIST example.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> None:
        channels, height, width = check_shape("LeNet", shape, 16)
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
        layers = numbered(
            *(nn.Conv2d(channels, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(50 * rows * columns, 500), nn.ReLU(), nn.Linear(500, classes)),
        )
        super().__init__(layers)


@final
class LeNet5(nn.Sequential):
    """Three 5x5 convolutions with ReLU, max-pooling between them, two fully connected layers.

    Conv5-6 (padding 2), ReLU, MaxPool2, Conv5-16, ReLU, MaxPool2, Conv5-120, ReLU, FC84, ReLU, FC.

    shape    of one image, default (1, 28, 28); at least 28x28 pixels
    classes  default 10: 61,706 parameters on MNIST

    The authors' code ends in a log-softmax, ours in logits: every loss is the same, since a second log-softmax changes
    nothing.
    Layers: conv1, relu1, pool1, conv2, relu2, pool2, conv3, relu3, flatten, fc1, relu4, fc2.
    Reference: Yunseok Jang, Tianchen Zhao, Seunghoon Hong and Honglak Lee, "Adversarial defense via learning to
    generate diverse attacks", ICCV 2019, section 5.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> None:
        channels, height, width = check_shape("LeNet5", shape, 28)
        rows, columns = ((side // 2 - 4) // 2 - 4 for side in (height, width))
        layers = numbered(
            *(nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 120, 5), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(120 * rows * columns, 84), nn.ReLU(), nn.Linear(84, classes)),
        )
        super().__init__(layers)


@final
class MadryNet(nn.Sequential):
    """Two 5x5 convolutions with ReLU and max-pooling, two fully connected layers.

    Conv5-32 (padding 2), ReLU, MaxPool2, Conv5-64 (padding 2), ReLU, MaxPool2, FC1024, ReLU, FC. MMA calls it
    LeNet5Madry.

    shape    of one image, default (1, 28, 28); at least 4x4 pixels
    classes  default 10: 3,274,634 parameters on MNIST

    The authors' code draws weights from N(0, .01) and sets biases to .1; ours start as PyTorch's do.
    Layers: conv1, relu1, pool1, conv2, relu2, pool2, flatten, fc1, relu3, fc2.
    Reference: Aleksander Madry, Aleksandar Makelov, Ludwig Schmidt, Dimitris Tsipras and Adrian Vladu, "Towards deep
    learning models resistant to adversarial attacks", ICLR 2018, section 5.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> None:
        channels, height, width = check_shape("MadryNet", shape, 4)
        layers = numbered(
            *(nn.Conv2d(channels, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * (height // 4) * (width // 4), 1024), nn.ReLU(), nn.Linear(1024, classes)),
        )
        super().__init__(layers)
