"""Networks by name, as a recipe asks for them."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from steelman.filters.squeeze import BitDepth, MedianSmoothing
from steelman.naming import by_path, nearest
from steelman.networks.carlini import CarliniNet
from steelman.networks.cnn import CNN
from steelman.networks.conv_resnet import ConvResNet
from steelman.networks.convnet import ConvNet
from steelman.networks.convpool import ConvPoolCNN
from steelman.networks.lenet import LeNet
from steelman.networks.lenet5 import LeNet5
from steelman.networks.madry import MadryNet
from steelman.networks.mlp import MLP
from steelman.networks.nin import NIN
from steelman.networks.preact_resnet import PreActResNet18
from steelman.networks.preprocess import Normalise, StandardiseImage, SubtractMean
from steelman.networks.resnet20 import ResNet20
from steelman.networks.small_cnn import SmallCNN
from steelman.networks.vision import AlexNet, ResNet18
from steelman.networks.whiten import Whiten
from steelman.networks.wide_resnet import WideResNet

_KINDS: dict[str, Callable[..., nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(MLP, LeNet, LeNet5, ConvNet, ConvPoolCNN, NIN, CarliniNet, CNN, ConvResNet, MadryNet, SmallCNN),
        *(ResNet20, PreActResNet18, WideResNet, AlexNet, ResNet18),
        *(Normalise, StandardiseImage, SubtractMean, Whiten, BitDepth, MedianSmoothing),
    )
}


def build(kind: str, *, shape: Sequence[int], classes: int | None = None, **options: Any) -> nn.Module:
    """The network, preprocessing or filter that `kind` names, for images of `shape`; a recipe's [network] section.

    kind     a name of this package ("LeNet", "SubtractMean"), or 'module:function' of your own. Of `shape` and
             `classes`, a function is given those that it has arguments for
    options  its other arguments

    Initial weights come from torch's global generator: seed that first.

    Raises:
        ValueError: an unknown name or option, a shape that the network cannot take, or no `nn.Module` was made.
    """
    if ":" in kind:
        make = by_path(kind)
        if not callable(make):
            raise ValueError(f"{kind!r} is a {type(make).__name__}, which cannot be called")
    elif kind in _KINDS:
        make = _KINDS[kind]
    else:
        raise ValueError(f"there is no network {kind!r}; {nearest(kind, _KINDS)} (or give 'module:function')")
    known = {"shape": tuple(shape), **({} if classes is None else {"classes": classes})}
    parameters = inspect.signature(make).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        known = {name: value for name, value in known.items() if name in parameters}
        for name in options:
            if name not in parameters:
                accepted = ", ".join(each for each in parameters if each not in ("shape", "classes"))
                raise ValueError(f"{kind} has no option {name!r}; it takes {accepted or 'none'}")
    network = make(**known, **options)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{kind!r} made a {type(network).__name__}, not a torch.nn.Module")
    return network
