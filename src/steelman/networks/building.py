"""Networks by name, as a recipe asks for them."""

import inspect
import json
import os
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from steelman.data.dataset import Dataset
from steelman.detectors import LID, Confidence, Detector, FeatureSqueezing, Rejecting
from steelman.files import reason_of
from steelman.filters.defense_gan import DefenseGAN
from steelman.filters.jpeg import JPEG
from steelman.filters.pixel_defend import PixelDefend
from steelman.filters.quilting import Quilting
from steelman.filters.reformer import Reformer
from steelman.filters.resampled import RandomCrop, RandomResizePad
from steelman.filters.squeeze import BitDepth, MedianSmoothing
from steelman.filters.thermometer import Thermometer
from steelman.filters.total_variation import TotalVariation
from steelman.filters.trained import TrainedFilter
from steelman.naming import nearest
from steelman.networks.bayesian_layers import bayesian
from steelman.networks.bounded_relu import bounded_relus
from steelman.networks.cifar import NIN, ConvNet, ConvPoolCNN
from steelman.networks.ensemble import Ensemble, LogitEnsemble
from steelman.networks.filtered import Filtered, filtered_shape
from steelman.networks.generative import (
    DenoisingAutoencoder,
    GANCritic,
    GANGenerator,
    MLPCritic,
    MLPGenerator,
    PixelCNN,
)
from steelman.networks.initial import NormalInit
from steelman.networks.input_form import InputForm, input_form
from steelman.networks.mean_of_draws import MeanOfDraws
from steelman.networks.mnist import CNN, MLP, CarliniNet, ConvResNet, LeNet, LeNet5, MadryNet, SmallCNN
from steelman.networks.ode import ODENet
from steelman.networks.preprocess import Normalise, Preprocess, Preprocessed, StandardiseImage, SubtractMean, Whiten
from steelman.networks.random_layers import active_dropout, noisy_blocks, self_ensemble, stochastic_pruning
from steelman.networks.residual import PreActResNet18, ResNet20, WideResNet
from steelman.networks.surgery import denoise
from steelman.networks.vision import AlexNet, ResNet18
from steelman.trust import Untrusted, imported
from steelman.types import Description

N = TypeVar("N", bound=nn.Module)

_KINDS: dict[str, Callable[..., nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(MLP, LeNet, LeNet5, ConvNet, ConvPoolCNN, NIN, CarliniNet, CNN, ConvResNet, MadryNet, SmallCNN),
        *(ResNet20, PreActResNet18, WideResNet, AlexNet, ResNet18, ODENet),
        *(PixelCNN, GANGenerator, GANCritic, MLPGenerator, MLPCritic, DenoisingAutoencoder),
        *(Normalise, StandardiseImage, SubtractMean, Whiten, BitDepth, MedianSmoothing),
        *(JPEG, Quilting, RandomCrop, RandomResizePad, Thermometer, TotalVariation),
        *(PixelDefend, DefenseGAN, Reformer),
    )
}
_KINDS[InputForm.__name__] = input_form

LIBRARIES = ("hf", "timm", "torchvision")
"""What stands before the colon of a network's kind where another library builds it."""

_ENSEMBLES = {kind.__name__: kind for kind in (Ensemble, LogitEnsemble)}

_DETECTORS: dict[str, Callable[..., Detector]] = {kind.__name__: kind for kind in (Confidence, FeatureSqueezing, LID)}

_RANDOM: dict[str, Callable[..., nn.Module]] = {
    change.__name__: change for change in (stochastic_pruning, self_ensemble, noisy_blocks, active_dropout, bayesian)
}
"""What makes a network random, by the key of [network] that has its settings."""


def build(kind: str, *, shape: Sequence[int], classes: int | None = None, **options: Any) -> nn.Module:
    """The network, preprocessing or filter that `kind` names, for images of `shape`; a recipe's [network] section.

    kind     a name of this package ("LeNet", "SubtractMean"); 'timm:NAME', 'torchvision:NAME' or 'hf:NAME', untrained;
             or 'module:function' of your own. Of `shape` and `classes`, a function is given those that it has arguments
             for; a module is copied
    options  its other arguments

    Initial weights come from torch's global generator: seed that first. 'module:function' is imported, since the caller
    has written it; `network_of`, whose settings come from files, imports only what is trusted.

    Raises:
        ValueError: an unknown name or option, a shape that the network cannot take, or no `nn.Module` was made.
    """
    return _build(kind, False, shape=shape, classes=classes, **options)


def _build(
    kind: str, from_file: bool, /, *, shape: Sequence[int], classes: int | None = None, **options: Any
) -> nn.Module:
    if kind.partition(":")[0] in LIBRARIES:
        # By name, since the room of other people's models comes after this one.
        make = partial(imported("steelman.loading.model_zoos:untrained", from_file=False), kind)
    elif ":" in kind:
        make = imported(kind, from_file=from_file)
        if isinstance(make, nn.Module):
            return deepcopy(make)
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
        if unknown := [name for name in options if name not in parameters]:
            accepted = ", ".join(each for each in parameters if each not in ("shape", "classes"))
            raise ValueError(f"{kind} has no option {unknown[0]!r}; it takes {accepted or 'none'}")
    network = make(**known, **options)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{kind!r} made a {type(network).__name__}, not a torch.nn.Module")
    return network


def network_of(
    settings: dict[str, Any], shape: Sequence[int], classes: int, *, fit: Dataset | None = None, path: str = "network"
) -> nn.Module:
    """The network that [network] of a recipe describes. It remembers how it was built (`description_of`).

    shape, classes  of its images
    fit             the data on which a preprocessing layer is fitted that has no statistics; default: it is not
                    fitted, and its statistics come from a checkpoint
    path            the name of the settings in errors

    Settings are text of a file: a 'module:function' in them is imported only if it is trusted (`steelman.trust`).

    Raises:
        ValueError: invalid settings; the message begins with their path.
        Untrusted: a name that is not trusted.
    """
    return described(_network_of(settings, shape, classes, fit, path), settings, shape, classes)


def described(network: N, settings: dict[str, Any], shape: Sequence[int], classes: int) -> N:
    """The network, which now remembers what `network_of` needs to build it; unchanged where that is no plain data."""
    try:
        plain = json.loads(json.dumps(settings))
    except TypeError:
        return network
    vars(network)["_description"] = Description(plain, tuple(shape), classes)
    return network


def description_of(network: nn.Module) -> Description | None:
    """How a network was built, where that is known."""
    return getattr(network, "_description", None)


DEVICE = "STEELMAN_DEVICE"
"""The environment variable that names the device; `--device` sets it, so that other processes have it too."""


def device() -> torch.device:
    """The device of networks that are built by name: that of `STEELMAN_DEVICE`, else a GPU where torch has one.

    Raises:
        ValueError: the variable names no device, or one that is not here.
    """
    if named := os.environ.get(DEVICE):
        return _named_device(named)
    if torch.cuda.is_available():
        # Under torchrun that of the process; else the current device, which each worker process has set for itself.
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    return torch.device("cpu")


def _named_device(name: str) -> torch.device:
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"there is no device {name!r}: give cpu, cuda, cuda:1 or mps") from error
    if found.type == "cuda" and found.index is None and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"the device {name!r} is not here: {reason_of(error)}. {idle_gpu(found)}".rstrip()) from error
    return found


def idle_gpu(used: torch.device) -> str:
    """What to do about a GPU that is here and not used; "" where there is none."""
    if used.type == "cpu" and torch.cuda.is_available():
        return "A GPU is here and is not used: --device cuda"
    if not torch.cuda.is_available() and shutil.which("nvidia-smi") and torch.version.cuda is None:
        return (
            f"An NVIDIA GPU seems to be here, and torch {torch.__version__} is built without CUDA: install one with it"
        )
    if used.type == "cpu" and torch.backends.mps.is_available():
        return "Apple's GPU is here and is not used: --device mps (Steelman is not tested on it)"
    return ""


def _network_of(
    settings: dict[str, Any], shape: Sequence[int], classes: int, fit: Dataset | None, path: str
) -> nn.Module:
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: needs a table; got {settings!r}")
    options = dict(settings)
    if "detector" in options:
        detector = options.pop("detector")
        network = _network_of(options, shape, classes, fit, path)
        try:
            return _rejecting(network, detector, shape, classes)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}.detector: {reason_of(error)}") from error
    if "draws" in options:
        draws = options.pop("draws")
        network = _network_of(options, shape, classes, fit, path)
        try:
            return MeanOfDraws(network, draws)
        except ValueError as error:
            raise ValueError(f"{path}.draws: {error}") from error
    random = {key: options.pop(key) for key in _RANDOM if key in options}
    kind, init, preprocess, bound, blocks, filter = (
        options.pop(key, None) for key in ("kind", "init", "preprocess", "bounded_relu", "denoise", "filter")
    )
    if not isinstance(kind, str):
        raise ValueError(f"{path}.kind: needs a name, such as LeNet; got {kind!r}")
    if kind in _ENSEMBLES:
        members = options.pop("members", None)
        if options or random or not isinstance(members, list):
            raise ValueError(f"{path}: {kind} has members, a list of tables like [network], and nothing else but draws")
        return _ENSEMBLES[kind](
            _network_of(each, shape, classes, fit, f"{path}.members[{place}]") for place, each in enumerate(members)
        )
    try:
        before = None if filter is None else _filter(filter, shape, classes)
        if fit is not None and getattr(before, "fitted", True) is False:
            before = before.fit(fit)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
        inner = tuple(shape) if before is None else filtered_shape(before, shape)
        network = _build(kind, True, shape=inner, classes=classes, **options)
        if init is not None:
            _init(init)(network)
        if bound is not None:
            bounded_relus(network, float(bound))
        if blocks is not None:
            denoise(network, shape=shape, **(blocks if isinstance(blocks, dict) else {"after": blocks}))
        for key, words in random.items():
            _randomise(network, key, words)
        layer = None if preprocess is None else _part(preprocess, inner)
    except Untrusted:
        raise  # its message names the remedy
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:  # also of impossible sizes
        raise ValueError(f"{path}: {reason_of(error)}") from error
    if layer is not None:
        if not isinstance(layer, Preprocess):
            raise ValueError(f"{path}.preprocess: {type(layer).__name__} is not a preprocessing layer")
        if before is not None and fit is not None and not layer.fitted and inner != tuple(shape):
            raise ValueError(
                f"{path}.preprocess: {type(layer).__name__} is measured on images of {tuple(shape)}, and the filter "
                f"gives the network {inner}; leave it out, or give its statistics"
            )
        network = Preprocessed(layer if fit is None or layer.fitted else layer.fit(fit), network)
    return network if before is None else Filtered(before, network)


def _randomise(network: nn.Module, key: str, settings: Any) -> None:
    """Change a network by one of `_RANDOM`."""
    known = list(inspect.signature(_RANDOM[key]).parameters)[1:]
    if not isinstance(settings, dict):
        raise ValueError(f"{key} needs a table of its settings ({', '.join(known)}), or {{ }}; got {settings!r}")
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(f"{key} has no setting {unknown[0]!r}; it takes {', '.join(known)}")
    _RANDOM[key](network, **settings)


def _rejecting(network: nn.Module, settings: Any, shape: Sequence[int], classes: int) -> Rejecting:
    options: dict[str, Any] = {"kind": settings} if isinstance(settings, str) else dict(settings)
    kind = options.pop("kind", None)
    if kind not in _DETECTORS:
        raise ValueError(f"there is no detector {kind!r}; {nearest(str(kind), _DETECTORS)}")
    rate = options.pop("rate", 0.05)
    given = {"shape": tuple(shape)} if kind == LID.__name__ else {}
    return Rejecting(network, _DETECTORS[kind](**given, **options), rate=rate, classes=classes)


def _init(settings: Any) -> NormalInit:
    if not isinstance(settings, dict):
        raise ValueError(f"init needs a table, such as {{ std = 0.01 }}; got {settings!r}")
    known = [field.name for field in fields(NormalInit)]
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(f"init has no setting {unknown[0]!r}; it takes {', '.join(known)}")
    return NormalInit(**settings)


def _part(settings: str | dict[str, Any], shape: Sequence[int]) -> nn.Module:
    """A preprocessing or filter; a bare name is a kind without settings."""
    options = {"kind": settings} if isinstance(settings, str) else settings
    if not isinstance(options, dict) or not isinstance(options.get("kind"), str):
        raise ValueError(f"a preprocessing or filter needs a kind, such as Normalise; got {settings!r}")
    others: dict[str, Any] = {key: value for key, value in options.items() if key != "kind"}
    return _build(options["kind"], True, shape=shape, **others)


def _filter(settings: str | dict[str, Any], shape: Sequence[int], classes: int) -> nn.Module:
    """A filter; one with a trained network has that described like any other, and its weights come from elsewhere."""
    if not isinstance(settings, dict) or "network" not in settings:
        return _part(settings, shape)
    inner = settings["network"]
    network = _network_of({"kind": inner} if isinstance(inner, str) else inner, shape, classes, None, "filter.network")
    made = _part({**{key: value for key, value in settings.items() if key != "on"}, "network": network}, shape)
    if not isinstance(made, TrainedFilter):
        raise ValueError(f"{settings.get('kind')} has no network that is trained before it")
    return made
