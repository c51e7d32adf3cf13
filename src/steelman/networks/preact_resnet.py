"""The pre-activation residual network of YOPO."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.layers import check_shape
from steelman.networks.residual import conv3x3, head, projected, stages


@final
class PreActResNet18(nn.Sequential):
    """Pre-activation residual network of 18 layers: four stages of two blocks with 64, 128, 256 and 512 channels.

    Conv3-64; eight blocks [BatchNorm, ReLU, Conv3, BatchNorm, ReLU, Conv3] + x, or, where stride or channels change,
    y = ReLU(BatchNorm(x)); [Conv3, BatchNorm, ReLU, Conv3](y) + Conv1(y); the average over the map; FC. There is NO
    batch normalisation and ReLU between the last block and the average, as in the code of YOPO (He's paper has them).

    shape    of one image, default (3, 32, 32); at least 8x8 pixels
    classes  default 10: 11,171,146 parameters on CIFAR-10

    Layers: conv1, stage1 .. stage4 (block1, block2), pool, flatten, fc. YOPO's first layer is conv1.
    Reference: Kaiming He, Xiangyu Zhang, Shaoqing Ren and Jian Sun, "Identity mappings in deep residual networks", ECCV
    2016; as in Dinghuai Zhang, Tianyuan Zhang, Yiping Lu, Zhanxing Zhu and Bin Dong, "You only propagate once:
    accelerating adversarial training via maximal principle", NeurIPS 2019, section 4.
    """

    def __init__(self, *, shape: Sequence[int] = (3, 32, 32), classes: int = 10) -> None:
        channels, _, _ = check_shape("PreActResNet18", shape, 8)
        first = conv3x3(channels, 64)
        super().__init__(
            OrderedDict(conv1=first, **stages(projected, (64, 64, 128, 256, 512), 2), **head(512, classes))
        )
