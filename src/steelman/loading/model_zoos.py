"""Classifiers of timm and of torchvision, by their names there, behind the preprocessing of their weights."""

import importlib
from collections.abc import Sequence
from typing import Any

from torch import nn

from steelman.data.dataset import Dataset
from steelman.files import reason_of
from steelman.loading.form import Picked, picked
from steelman.loading.hugging_face import configured
from steelman.naming import nearest
from steelman.networks.input_form import Form


def timm(name: str, like: Dataset) -> tuple[nn.Module, Form, str]:
    """A model of timm with trained weights, its input's form, and how its classes were matched (`picked`).

    name  as for `timm.create_model`: "resnet18.a1_in1k", or "local-dir:FOLDER" with config.json and weights in it

    The form is timm's own for evaluation (`resolve_model_data_config`): resized by crop_pct, cropped, normalised.

    Raises:
        ImportError: timm is not installed, or cannot be imported.
        ValueError: timm has no such model, or no trained weights of it; other classes than the data's.
        OSError: weights cannot be fetched.
    """
    library = _imported("timm", f"timm:{name}", "timm")
    resolve = _imported("timm.data", f"timm:{name}", "timm").resolve_model_data_config
    known = library.list_models()
    bare = name.partition(".")[0]
    if ":" not in name and bare not in known:
        raise ValueError(f"timm:{name}: timm has no such model; {nearest(bare, known)}")
    model: Any = _fetched(lambda: library.create_model(name, pretrained=True), f"timm:{name}")
    config = resolve(model)
    channels, *sides = config["input_size"]
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names") or map(str, range(model.num_classes))
    network, classes = picked(model.eval(), f"timm:{name}", [*map(str, names)], like)
    size = (sides[0], sides[1])
    resample, mode = config.get("interpolation", "bilinear"), config.get("crop_mode") or "center"
    form = Form(
        size=size,
        channels=channels,
        resized=_before_crop(size, config.get("crop_pct") or 0.875, mode, f"timm:{name}"),
        resample="bilinear" if resample == "random" else resample,  # as timm does
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return network.eval(), form, classes


def _before_crop(size: tuple[int, int], share: float, mode: str, what: str) -> tuple[int, int] | int:
    """timm's size before the crop: for "center" the shorter side, for "squash" both sides."""
    scaled = int(size[0] / share), int(size[1] / share)
    if mode == "squash":
        return scaled
    if mode == "center" and size[0] == size[1]:
        return scaled[0]
    raise ValueError(
        f"{what}: images are cropped by {mode!r} to {size[0]}x{size[1]}, which is not offered here: load the model by "
        "'module:function'"
    )


def torchvision(name: str, like: Dataset) -> tuple[nn.Module, Form, str]:
    """A model of torchvision with its default weights, its input's form, and how its classes were matched (`picked`).

    name  as for `torchvision.models.get_model`: "resnet18"; or with one of its weights: "resnet18:IMAGENET1K_V1"

    Raises:
        ImportError: torchvision is not installed, or built for another torch.
        ValueError: there is no such model, no such weights, or no classifier; other classes than the data's.
        OSError: weights cannot be fetched.
    """
    models = _imported("torchvision.models", f"torchvision:{name}", "vision")
    bare, _, weights = name.partition(":")
    known = models.list_models(module=models)
    if bare not in known:
        raise ValueError(f"torchvision:{name}: torchvision has no such classifier; {nearest(bare, known)}")
    offered = models.get_model_weights(bare)
    if weights and weights not in offered.__members__:
        raise ValueError(f"torchvision:{name}: {bare} has no such weights; {nearest(weights, offered.__members__)}")
    chosen = offered[weights] if weights else offered.DEFAULT
    model = _fetched(lambda: models.get_model(bare, weights=chosen), f"torchvision:{name}")
    before = chosen.transforms()
    network, classes = picked(model.eval(), f"torchvision:{name}", chosen.meta["categories"], like)
    size, resized = before.crop_size[0], before.resize_size
    form = Form(
        size=(size, size),
        channels=3,
        resized=resized[0] if len(resized) == 1 else (resized[0], resized[1]),
        resample=str(getattr(before.interpolation, "value", before.interpolation)),
        mean=tuple(before.mean),
        std=tuple(before.std),
    )
    return network.eval(), form, classes


def untrained(
    name: str,
    *,
    shape: Sequence[int],
    classes: int,
    channels: int | None = None,
    outputs: int | None = None,
    places: Sequence[int] | None = None,
) -> nn.Module:
    """A library's network without trained weights: a recipe's `network = { kind = "timm:resnet18" }`.

    name     "timm:NAME", "torchvision:NAME", or "hf:NAME_OR_FOLDER", of which the configuration is read
    shape, classes  of the images; channels and outputs are as many, unless they are given
    channels of the network's input; torchvision's have three
    outputs  classes of the network
    places   the data's classes among these, in their order (`Picked`); default: all

    Raises:
        ImportError: the library is not installed, or cannot be imported.
        FileNotFoundError, ValueError: there is no such network.
    """
    library, _, inside = name.partition(":")
    channels, outputs = channels or shape[0], outputs or classes
    if library == "hf":
        network: Any = configured(inside, channels, outputs)
    elif library == "timm":
        made = _imported("timm", name, "timm")
        known = made.list_models()
        if inside.partition(".")[0] not in known and ":" not in inside:
            raise ValueError(f"{name}: timm has no such model; {nearest(inside, known)}")
        network = _fetched(
            lambda: made.create_model(inside, pretrained=False, num_classes=outputs, in_chans=channels), name
        )
    else:
        models, bare = _imported("torchvision.models", name, "vision"), inside.partition(":")[0]
        known = models.list_models(module=models)
        if bare not in known:
            raise ValueError(f"{name}: torchvision has no such classifier; {nearest(bare, known)}")
        if channels != 3:
            raise ValueError(
                f"{name}: torchvision's networks take three channels, and these images have {channels}: repeat them, "
                'preprocess = { kind = "InputForm", channels = 3 }, and give the network channels = 3'
            )
        network = models.get_model(bare, weights=None, num_classes=outputs)
    return Picked(network, places) if library == "hf" or places is not None else network


def _imported(module: str, what: str, extra: str) -> Any:
    """A module of a library whose import fails in many ways: missing, or built for another torch."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # torchvision raises RuntimeError beside a torch that it was not built for
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        top = (missing or module).partition(".")[0]
        raise ImportError(
            f"{what} needs {top} ({reason_of(error)}): pip install 'steelman[{extra}]'"
            + ("" if isinstance(error, ModuleNotFoundError) else ", for the torch that is installed"),
            name=top,
        ) from error


def _fetched(load: Any, what: str) -> nn.Module:
    try:
        return load()
    except OSError as error:
        raise OSError(
            f"{what}: its weights are neither in the cache nor could they be fetched: {reason_of(error)}"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"{what}: {reason_of(error)}") from error
