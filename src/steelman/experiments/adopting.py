"""A model of one's own as a recipe begins from it: its network in a recipe's words, and its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset, Source
from steelman.data.sample import spread
from steelman.experiments.opening import (
    LIBRARIES,
    WEIGHTS,
    is_run,
    module_named,
    network_settings,
    refuse_idle,
)
from steelman.experiments.run import Run
from steelman.experiments.starting import filled
from steelman.forward import logits_of
from steelman.loading.form import Picked, preprocess_of
from steelman.loading.images import source
from steelman.loading.weights import read_state
from steelman.networks.black_box import BlackBox
from steelman.networks.building import device, idle_gpu, network_of
from steelman.networks.input_form import Form, InputForm
from steelman.trust import written

READ = 64
"""Images of each split that are read before anything is made."""


@dataclass(frozen=True)
class Adopted:
    """What a training needs to begin from a model.

    data     its images
    network  a recipe's [network]
    start    the file of its weights, or a run's checkpoint; None for a model that came without one
    state    the weights of a model that came without a file, under its own names
    said     what is done to images before it, and what of it was guessed or changed, a line each
    written  what the user has written, whose names may be imported
    """

    data: Source
    network: dict[str, Any]
    start: Path | None
    state: Mapping[str, Tensor] | None = field(default=None, repr=False)
    said: tuple[str, ...] = ()
    written: tuple[str, ...] = ()


def adopt(
    what: str,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    weights: Path | None = None,
    network: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: str | None = None,
    range: tuple[float, float] | None = None,
    order: str | None = None,
    size: tuple[int, int] | None = None,
) -> Adopted:
    """A model that can be trained, by what the user names.

    what     a run, or one of its checkpoints; 'module:function', which returns a module, or a module; a state dict with
             `network`; 'hf:NAME', 'timm:NAME', 'torchvision:NAME'
    weights  of a 'module:function', which else returns the model with its weights
    others   as for `open_subject`

    Raises:
        FileNotFoundError, ImportError, ValueError: as `open_subject`; a model that has no parameters to train, or whose
            network cannot be built again; images of several sizes.
    """
    path, form = Path(what), Form().changed(layout, range, order, mean, std, size)
    if is_run(path) and network is None:
        refuse_idle(
            what, data=data, weights=weights, mean=mean, std=std, layout=layout, range=range, order=order, size=size
        )
        run = Run.open(path)
        hint = _lines()
        return Adopted(run.recipe.data, run.recipe.network, run.checkpoint, said=hint)  # its names have to be trusted
    if data is None:
        raise ValueError(f"{what} needs images: give --data, such as CIFAR10, an .npz file or a folder of pictures")
    images = source(data)
    like = images.load("test", data_dir)
    for split in (images.load("train", data_dir), like):  # pictures of several sizes are refused before any work
        next(split.batches([spread(torch.arange(len(split)), min(READ, len(split)))[1]]))
    kind, _, inside = what.partition(":")
    if path.suffix in WEIGHTS:
        if network is None or weights is not None:
            remedy = "leave out --weights" if network is not None else "give --network, such as module:function"
            raise ValueError(f"{what} holds weights, and not what they are of: {remedy}")
        settings, start, state, said = network_settings(network), path, None, ""
    elif network is not None:
        raise ValueError(f"--network is for state dicts ({', '.join(WEIGHTS)}); {what} brings its own network")
    elif kind in LIBRARIES:
        model, own, said = LIBRARIES[kind](inside, like)
        form = own.changed(layout, range, order, mean, std, size)
        settings, state = _of_library(what, model, form)
        start = weights
    elif ":" in what and kind not in ("robustbench",):
        settings, start, said = {"kind": what}, weights, ""
        state = None if weights is not None else _state_of(what, like)
    else:
        raise ValueError(
            f"{what} cannot be trained: name a run, 'module:function' with --weights, a state dict (.pt, .pth, "
            ".safetensors) with --network, 'hf:NAME', 'timm:NAME' or 'torchvision:NAME'. For a program (.onnx, .pt2, "
            ".ts) or a model of another library, write a function that returns the network"
        )
    before = preprocess_of(form, like)
    settings |= {} if before is None else {"preprocess": before}
    filled_by = _check(what, settings, start, state, like)
    lines = _lines(
        input=", ".join(InputForm(form, like.shape).said),
        classes=said,
        weights="" if start is None else f"{start}{filled_by and ', '}{filled_by}",
    )
    return Adopted(images, settings, start, state, lines, (what, network or "", data))


def _lines(**words: str) -> tuple[str, ...]:
    """What is said, and a word on a GPU that is here and not used."""
    if hint := idle_gpu(device()):
        words["device"] = f"{device()}. {hint}"
    return tuple(f"{name}: {each}" for name, each in words.items() if each)


def _of_library(what: str, model: nn.Module, form: Form) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """The settings of `model_zoos.untrained` for such a model, and its weights under the library's names."""
    assert isinstance(model, Picked)
    settings: dict[str, Any] = {"kind": what}
    settings |= {} if form.channels is None else {"channels": form.channels}
    settings |= {} if model.places is None else {"outputs": model.outputs, "places": list(model.places)}
    return settings, model.network.state_dict()


def _state_of(what: str, like: Dataset) -> Mapping[str, Tensor]:
    model = module_named(what, like)
    if isinstance(model, BlackBox):
        raise ValueError(
            f"{what} is a function of images, and only a torch.nn.Module can be trained: name a function that returns "
            "the module"
        )
    return model.state_dict()


def _check(
    what: str, settings: dict[str, Any], start: Path | None, state: Mapping[str, Tensor] | None, like: Dataset
) -> str:
    """Build the network, load the weights and call it once, so that what does not fit fails before anything is made.

    Returns what was done to load the weights, in words.
    """
    with written(what, str(settings["kind"])), torch.random.fork_rng([]):
        model = network_of(settings, like.shape, len(like.classes), path=what)
    if not any(True for _ in model.parameters()):
        raise ValueError(f"{what} has no parameters, so there is nothing to train")
    held = read_state(start) if start is not None else state
    assert held is not None
    done = filled(model, held, str(start or what))
    with torch.no_grad():
        logits = logits_of(model.eval(), next(like.batches([torch.arange(1)])).x)
    if logits.ndim != 2 or logits.shape[1] != len(like.classes):
        raise ValueError(
            f"{what} answers {tuple(logits.shape[1:])} numbers to an image, and the data have {len(like.classes)} "
            "classes: training needs one logit for each. Give other --data, or a network with such a last layer"
        )
    return done
