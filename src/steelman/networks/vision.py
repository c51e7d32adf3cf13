"""ImageNet's networks: Caffe's AlexNet, and ResNet-18 with torchvision's names and, on request, its trained weights."""

import importlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from steelman.networks.layers import check_shape, gained, numbered


@final
class AlexNet(nn.Sequential):
    """Five convolutions and three fully connected layers, with local response normalisation, as Caffe trained it.

    Conv11-96 (stride 4), LRN, MaxPool3, Conv5-256 (padding 2, in 2 groups), LRN, MaxPool3, Conv3-384 (padding 1),
    Conv3-384, Conv3-256 (both padding 1, in 2 groups), MaxPool3, FC4096, FC4096, FC; ReLU after every layer but the
    last, before LRN; dropout after the first two FC; poolings have stride 2. LRN divides by (1 + 1e-4/5 of the sum of
    squares over 5 channels)^.75.

    shape    of one image, default (3, 227, 227); at least 67x67 pixels
    classes  default 1000: 60,965,224 parameters on ImageNet
    dropout  default .5
    gain     what the input is multiplied by, default 1, as in `MLP`; 255 gives the scale of Caffe's images, from which
             the mean is subtracted

    Weights begin as N(0, .01), of fc6 and fc7 N(0, .005); biases as .1 in conv2, conv4, conv5, fc6 and fc7, 0 in the
    others (Caffe). Caffe's channels are blue, green, red; ours red, green, blue. torchvision's AlexNet is another one,
    of one tower and without LRN.
    Layers: rescale (where gain is not 1), conv1, relu1, norm1, pool1, conv2, ..., pool5, flatten, fc6, relu6, drop6,
    fc7, relu7, drop7, fc8.
    Reference: Alex Krizhevsky, Ilya Sutskever and Geoffrey Hinton, "ImageNet classification with deep convolutional
    neural networks", NeurIPS 2012.
    """

    def __init__(
        self, *, shape: Sequence[int] = (3, 227, 227), classes: int = 1000, dropout: float = 0.5, gain: float = 1.0
    ) -> None:
        channels, height, width = check_shape("AlexNet", shape, 67)
        rows, columns = (((((side - 11) // 4 - 1) // 2) // 2 - 1) // 2 for side in (height, width))
        layers = OrderedDict[str, nn.Module](
            numbered(*gained(gain)),
            conv1=nn.Conv2d(channels, 96, 11, stride=4),
            relu1=nn.ReLU(),
            norm1=nn.LocalResponseNorm(5),
            pool1=nn.MaxPool2d(3, 2),
            conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),
            relu2=nn.ReLU(),
            norm2=nn.LocalResponseNorm(5),
            pool2=nn.MaxPool2d(3, 2),
            conv3=nn.Conv2d(256, 384, 3, padding=1),
            relu3=nn.ReLU(),
            conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),
            relu4=nn.ReLU(),
            conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),
            relu5=nn.ReLU(),
            pool5=nn.MaxPool2d(3, 2),
            flatten=nn.Flatten(),
            fc6=nn.Linear(256 * rows * columns, 4096),
            relu6=nn.ReLU(),
            drop6=nn.Dropout(dropout),
            fc7=nn.Linear(4096, 4096),
            relu7=nn.ReLU(),
            drop7=nn.Dropout(dropout),
            fc8=nn.Linear(4096, classes),
        )
        super().__init__(layers)
        for name, layer in layers.items():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.005 if name in ("fc6", "fc7") else 0.01)
                assert layer.bias is not None
                nn.init.constant_(layer.bias, 0.1 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0)


@final
class ResNet18(nn.Sequential):
    """Residual network of 18 layers: four stages of two blocks with 64, 128, 256 and 512 channels.

    Conv7-64 (stride 2), BatchNorm, ReLU, MaxPool3 (stride 2); eight blocks ReLU([Conv3, BatchNorm, ReLU, Conv3,
    BatchNorm] + shortcut), the later stages beginning with stride 2; the average over the map; FC. Shortcuts are
    [Conv1, BatchNorm] where stride or channels change (option B).

    shape    of one image, default (3, 224, 224); at least 32x32 pixels. Trained weights expect `Normalise` before it
    classes  default 1000: 11,689,512 parameters on ImageNet
    weights  torchvision's name of trained weights, such as "IMAGENET1K_V1" (a download); default None: He's

    Layers, with torchvision's names: conv1, bn1, relu, maxpool, layer1 .. layer4, avgpool, flatten, fc.
    Reference: Kaiming He, Xiangyu Zhang, Shaoqing Ren and Jian Sun, "Deep residual learning for image recognition",
    CVPR 2016.

    Raises:
        ImportError: weights are named, and torchvision is not installed, or built for another torch.
        ValueError: weights are named for other than 3 channels and 1000 classes.
    """

    def __init__(
        self, *, shape: Sequence[int] = (3, 224, 224), classes: int = 1000, weights: str | None = None
    ) -> None:
        channels, _, _ = check_shape("ResNet18", shape, 32)
        sizes = (64, 64, 128, 256, 512)
        stages = {
            f"layer{place}": nn.Sequential(_Block(sizes[place - 1], size, min(place, 2)), _Block(size, size, 1))
            for place, size in enumerate(sizes[1:], start=1)
        }
        super().__init__(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False),
                bn1=nn.BatchNorm2d(64),
                relu=nn.ReLU(),
                maxpool=nn.MaxPool2d(3, 2, padding=1),
                **stages,
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(512, classes),
            )
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        if weights is not None:
            self.load_state_dict(_torchvisions("resnet18", channels, classes, weights))


class _Block(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.downsample = nn.Identity()
        if fan_in != fan_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False), nn.BatchNorm2d(fan_out)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        body = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(body + self.downsample(x))


def _torchvisions(function: str, channels: int, classes: int, weights: str) -> dict[str, Tensor]:
    if channels != 3:
        raise ValueError(f"trained weights are for images of 3 channels; got {channels}")
    if classes != 1000:
        raise ValueError(f"trained weights are for 1000 classes; got classes={classes}")
    try:
        models = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
        raise ImportError(f"trained weights come from torchvision ({error}): pip install 'steelman[vision]'") from error
    return models.get_model(function, weights=weights).state_dict()
