"""The MNIST network of TRADES and YOPO."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.shapes import check_shape


@final
class SmallCNN(nn.Sequential):
    """Two pairs of 3x3 convolutions, each pair followed by max-pooling; three fully connected layers.

    Conv3-32, ReLU, Conv3-32, ReLU, MaxPool2, Conv3-64, ReLU, Conv3-64, ReLU, MaxPool2, FC200, ReLU, Dropout, FC200,
    ReLU, FC; no padding. It is Carlini and Wagner's network on pixels as they are, with He's weights in the
    convolutions and a last layer of zeros (both the authors' code).

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
        channels, height, width = check_shape("SmallCNN", shape, 16)
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
        convolutions = [nn.Conv2d(*sizes, 3) for sizes in ((channels, 32), (32, 32), (32, 64), (64, 64))]
        last = nn.Linear(200, classes)
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(
            OrderedDict(
                conv1=convolutions[0],
                relu1=nn.ReLU(),
                conv2=convolutions[1],
                relu2=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv3=convolutions[2],
                relu3=nn.ReLU(),
                conv4=convolutions[3],
                relu4=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(64 * rows * columns, 200),
                relu5=nn.ReLU(),
                dropout=nn.Dropout(dropout),
                fc2=nn.Linear(200, 200),
                relu6=nn.ReLU(),
                fc3=last,
            )
        )
