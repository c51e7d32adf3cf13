"""Networks that papers train on MNIST: perceptrons and small convolutional networks."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import final

from torch import nn

from steelman.networks.layers import Rescale, check_shape, gained, numbered
from steelman.networks.residual import Residual


@final
class MLP(nn.Sequential):
    """Multi-layer perceptron: flatten, then fully connected layers with ReLU between them.

    shape    of one image, default (1, 28, 28)
    classes  default 10
    hidden   widths of the hidden layers, default (500, 150): 469,160 parameters on MNIST
    gain     what the input is multiplied by, default 1. The same function can be learnt with any gain, but a large one
             speeds the first layer up (by its square) and keeps its weights small; MatConvNet's pixels go up to 255

    Layers: flatten, rescale (where gain is not 1), fc1, relu1, fc2, ...; the last one gives the logits.
    Reference: Yan, Guo and Zhang, "Deep Defense: training DNNs with improved adversarial robustness", NeurIPS 2018,
    section 4 (they count the input and call it four-layer).
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        hidden: Sequence[int] = (500, 150),
        gain: float = 1.0,
    ) -> None:
        check_shape("MLP", shape, 1)
        layers: list[nn.Module] = [nn.Flatten(), *gained(gain)]
        for fan_in, fan_out in pairwise([math.prod(shape), *hidden, classes]):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        super().__init__(numbered(*layers[:-1]))


@final
class LeNet(nn.Sequential):
    """Two convolutions with max-pooling, two fully connected layers.

    Conv5-20, MaxPool2, Conv5-50, MaxPool2, FC500, ReLU, FC; no padding. There is NO ReLU after the convolutions: max-
    pooling is their only non-linearity, in the paper's table and in its authors' code.

    shape    of one image, default (1, 28, 28); at least 16x16 pixels
    classes  default 10: 431,080 parameters on MNIST
    gain     what the input is multiplied by, default 1, as in `MLP`; 255 gives the scale of the authors' images

    Layers: rescale (where gain is not 1), conv1, pool1, conv2, pool2, flatten, fc1, relu1, fc2.
    Reference: Yan, Guo and Zhang, "Deep Defense: training DNNs with improved adversarial robustness", NeurIPS 2018,
    section 4; after MatConvNet's MNIST example.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10, gain: float = 1.0) -> None:
        channels, height, width = check_shape("LeNet", shape, 16)
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
        layers = numbered(
            *gained(gain),
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


@final
class CarliniNet(nn.Sequential):
    """Two pairs of 3x3 convolutions, each pair followed by max-pooling; three fully connected layers.

    Conv3-width twice, MaxPool2, Conv3-(2 width) twice, MaxPool2, FC-hidden, Dropout, FC-hidden, FC; no padding, ReLU
    after every layer but the last. The paper's images lie in [-.5, .5], so .5 is taken from pixels first.

    shape    of one image, default (1, 28, 28); at least 16x16 pixels
    classes  default 10: 312,202 parameters on MNIST; 1,147,978 on CIFAR-10 with the width and hidden of the paper
    width    channels of the first pair, default 32 (MNIST); the paper's CIFAR-10 net has 64
    hidden   units of the fully connected layers, default 200 (MNIST); CIFAR-10: 256
    dropout  after the first of them, default .5

    Layers: rescale, conv1 .. conv4, fc1 .. fc3, relu1 .. relu6, pool1, pool2, flatten, dropout.
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
        channels, units = _sizes("CarliniNet", shape, width)
        convolutions = _convolutions(channels, width)
        connected = [nn.Linear(*sizes) for sizes in ((units, hidden), (hidden, hidden), (hidden, classes))]
        super().__init__(numbered(Rescale(shift=0.5), *_in_order(convolutions, connected, dropout)))


@final
class SmallCNN(nn.Sequential):
    """`CarliniNet` on pixels as they are, with He's weights in the convolutions and a last layer of zeros (both code).

    Conv3-32, ReLU, Conv3-32, ReLU, MaxPool2, Conv3-64, ReLU, Conv3-64, ReLU, MaxPool2, FC200, ReLU, Dropout, FC200,
    ReLU, FC; no padding.

    shape    of one image, default (1, 28, 28); at least 16x16 pixels
    classes  default 10: 312,202 parameters on MNIST
    dropout  after the first fully connected layer, default .5 (code)

    Layers: conv1 .. conv4, fc1 .. fc3, relu1 .. relu6, pool1, pool2, flatten, dropout. YOPO's first layer is conv1 and
    relu1.
    Reference: Hongyang Zhang, Yaodong Yu, Jiantao Jiao, Eric P. Xing, Laurent El Ghaoui and Michael I. Jordan,
    "Theoretically principled trade-off between robustness and accuracy", ICML 2019, section 5; Dinghuai Zhang, Tianyuan
    Zhang, Yiping Lu, Zhanxing Zhu and Bin Dong, "You only propagate once: accelerating adversarial training via maximal
    principle", NeurIPS 2019, section 4.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10, dropout: float = 0.5) -> None:
        channels, units = _sizes("SmallCNN", shape, 32)
        convolutions, last = _convolutions(channels, 32), nn.Linear(200, classes)
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        connected = [nn.Linear(units, 200), nn.Linear(200, 200), last]
        super().__init__(numbered(*_in_order(convolutions, connected, dropout)))


def _sizes(network: str, shape: Sequence[int], width: int) -> tuple[int, int]:
    """Channels of the images, and numbers that the convolutions leave of one."""
    channels, height, length = check_shape(network, shape, 16)
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, length))
    return channels, 2 * width * rows * columns


def _convolutions(channels: int, width: int) -> list[nn.Conv2d]:
    sizes = ((channels, width), (width, width), (width, 2 * width), (2 * width, 2 * width))
    return [nn.Conv2d(fan_in, fan_out, 3) for fan_in, fan_out in sizes]


def _in_order(conv: list[nn.Conv2d], fc: list[nn.Linear], dropout: float) -> tuple[nn.Module, ...]:
    return (
        *(conv[0], nn.ReLU(), conv[1], nn.ReLU(), nn.MaxPool2d(2)),
        *(conv[2], nn.ReLU(), conv[3], nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), fc[0], nn.ReLU(), nn.Dropout(dropout), fc[1], nn.ReLU(), fc[2]),
    )


@final
class CNN(nn.Sequential):
    """Three convolutions, 8-64 and 6-128 with stride 2 and 5-128, each with ReLU; one fully connected layer.

    Conv8-64 (stride 2, padding 3), ReLU, Conv6-128 (stride 2), ReLU, Conv5-128, ReLU, FC. 28x28 pixels end as one,
    32x32 as 2x2.

    shape    of one image, default (1, 28, 28); at least 28x28 pixels
    classes  default 10: 710,218 parameters on MNIST
    variant  "paper" (default), or "code": what its authors' code has for CIFAR-10, which the paper does not say.
             Conv3-32 (padding 1), ReLU, MaxPool2, Dropout .5, Conv3-64, ReLU, MaxPool2, Dropout .5, FC500, ReLU,
             Dropout .5, FC; at least 8x8 pixels, 1,592,902 parameters on CIFAR-10

    The paper prints no strides and padding; they are those of its authors' code and of CleverHans ("same" padding of an
    even side is 3 here).
    Layers: conv1, relu1, conv2, relu2, conv3, relu3, flatten, fc1; of the code, conv1, relu1, pool1, dropout1, conv2,
    relu2, pool2, dropout2, flatten, fc1, relu3, dropout3, fc2.
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, section 5.

    Raises:
        ValueError: images that are too small, or an unknown variant.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10, variant: str = "paper") -> None:
        if variant not in ("paper", "code"):
            raise ValueError(f'variant is "paper" or "code"; got {variant!r}')
        super().__init__(_paper(shape, classes) if variant == "paper" else _code(shape, classes))


def _paper(shape: Sequence[int], classes: int) -> OrderedDict[str, nn.Module]:
    channels, height, width = check_shape("CNN", shape, 28)
    rows, columns = ((side // 2 - 6) // 2 - 3 for side in (height, width))
    return numbered(
        *_beginning(channels),
        *(nn.Conv2d(128, 128, 5), nn.ReLU(), nn.Flatten(), nn.Linear(128 * rows * columns, classes)),
    )


def _code(shape: Sequence[int], classes: int) -> OrderedDict[str, nn.Module]:
    channels, height, width = check_shape("CNN", shape, 8)
    rows, columns = ((side // 2 - 2) // 2 for side in (height, width))
    return numbered(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(64 * rows * columns, 500), nn.ReLU(), nn.Dropout(0.5), nn.Linear(500, classes)),
    )


@final
class ConvResNet(nn.Sequential):
    """Two strided convolutions, one bottleneck with a shortcut around it, max-pooling, one fully connected layer.

    Conv8-64 (stride 2, padding 3), ReLU, Conv6-128 (stride 2), ReLU, [Conv1-64, ReLU, Conv1-64, ReLU, Conv1-128] + the
    block's input, ReLU, MaxPool3, FC.

    shape    of one image, default (1, 28, 28); at least 20x20 pixels
    classes  default 10: 321,226 parameters on MNIST
    middle   kernel of the bottleneck's middle convolution: 1 (paper, default) or 3 (its authors' code; 353,994
             parameters)

    The paper prints no strides and padding; they are those of its `CNN`. It is the surrogate of the paper's black-box
    attacks.
    Layers: conv1, relu1, conv2, relu2, block (body.conv1, body.relu1 .. body.conv3), relu3, pool1, flatten, fc1.
    Reference: as `CNN`.

    Raises:
        ValueError: middle is neither 1 nor 3.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10, middle: int = 1) -> None:
        channels, height, width = check_shape("ConvResNet", shape, 20)
        if middle not in (1, 3):
            raise ValueError(f"middle is a kernel of 1 (paper) or 3 (code); got {middle}")
        rows, columns = ((side // 2 - 4) // 2 // 3 for side in (height, width))
        body = numbered(
            *(nn.Conv2d(128, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, middle, padding=middle // 2), nn.ReLU()),
            nn.Conv2d(64, 128, 1),
        )
        layers = OrderedDict(
            **numbered(*_beginning(channels)),
            block=Residual(nn.Sequential(body)),
            relu3=nn.ReLU(),
            pool1=nn.MaxPool2d(3),
            flatten=nn.Flatten(),
            fc1=nn.Linear(128 * rows * columns, classes),
        )
        super().__init__(layers)


def _beginning(channels: int) -> tuple[nn.Module, ...]:
    first = nn.Conv2d(channels, 64, 8, stride=2, padding=3)
    return first, nn.ReLU(), nn.Conv2d(64, 128, 6, stride=2), nn.ReLU()
