"""A run's network as a file for other programs: a state dict with the names that it came with, or ONNX."""

import io
import warnings
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from steelman import checkpoint
from steelman.detectors import Rejecting
from steelman.experiments.run import NAMES, Run
from steelman.experiments.starting import WRAPPERS
from steelman.extras import require
from steelman.files import decoding, parse_json, replacing, writable
from steelman.forward import unwrapped
from steelman.loading.form import Picked
from steelman.loading.onnx import Onnx
from steelman.loading.weights import fill, read_state, renamed
from steelman.networks import Filtered, Preprocessed
from steelman.networks.building import description_of
from steelman.networks.input_form import InputForm, listed
from steelman.networks.preprocess import Normalise
from steelman.trust import named_in

FORMATS = (".pt", ".pth", ".safetensors", ".onnx")

METADATA = {"format": "pt"}
"""Without it, many versions of transformers' `from_pretrained` refuse a safetensors file."""

CLOSE = 1e-4
"""Logits of an ONNX file may differ by so much of the largest, as another program computes them."""


def export(run: Run, into: Path) -> str:
    """Write a run's network to a file, check the file against the network, and say in words what was written.

    .pt, .pth, .safetensors  the state dict of the network. A run that began from a file of weights writes the names of
           that file, prefixes among them; else those of the network itself. What stands before the network in the
           recipe (preprocess, filter, detector) has no place in it, and is named
    .onnx  the whole, with what stands before the network: `images` (batch, channels, height, width) to `logits`

    The check: a state dict is loaded into the network built anew, whose logits on eight random images have to be equal
    to the bit; an ONNX file is run by ONNX Runtime, and may differ by 1e-4 of the largest logit.

    Raises:
        ValueError: another suffix; a network that ONNX cannot express; the file does not say what the network says.
        ImportError: ONNX Runtime is not installed.
    """
    if into.suffix not in FORMATS:
        raise ValueError(f"{into}: the name says the format, and has to end in one of {', '.join(FORMATS)}")
    writable(into.parent)
    with named_in(run.folder / "recipe.toml"):
        model = checkpoint.network(run.checkpoint).cpu()
    described = description_of(model)
    assert described is not None
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        images = torch.rand(8, *described.shape)
    if into.suffix == ".onnx":
        return _onnx(model, images, into)
    return _state(run, model, images, into)


def _state(run: Run, model: nn.Module, images: Tensor, into: Path) -> str:
    inner, before = model, list[str]()
    while isinstance(inner, WRAPPERS):
        before += [] if isinstance(inner, Picked) else [_described(_part(inner))]
        inner = inner.network
    state, names = inner.state_dict(), ""
    if (run.folder / NAMES).is_file():
        with decoding(run.folder / NAMES, "a list of names"):
            came = [str(name) for name in parse_json((run.folder / NAMES).read_bytes())]
        state = renamed(state, came)
        names = f", with the names of {Path(run.recipe.starts[0]).name}"
    tensors = {name: value.detach().clone().contiguous() for name, value in state.items()}
    with replacing(into) as partial:
        if into.suffix == ".safetensors":
            partial.write_bytes(safetensors.torch.save(tensors, METADATA))
        else:
            torch.save(tensors, buffer := io.BytesIO())
            partial.write_bytes(buffer.getvalue())
    with named_in(run.folder / "recipe.toml"):
        again = checkpoint.network(run.checkpoint).cpu()
    while isinstance(again, WRAPPERS):
        again = again.network
    _emptied(again)
    fill(again, read_state(into), str(into))
    seen = _seen(model, images)
    with torch.no_grad():
        same = torch.equal(unwrapped(again.eval()(seen)), unwrapped(inner.eval()(seen)))
    if not same:
        raise ValueError(
            f"{into} does not give the logits of {run.folder}: the network draws at random, or keeps a state"
        )
    stands = f". Before it stands {' and '.join(before)}, which the file does not have" if before else ""
    return f"{into}: {len(tensors)} tensors of {type(inner).__name__}{names}{stands}"


def _part(model: Preprocessed | Filtered | Rejecting) -> nn.Module:
    """What stands before a network."""
    if isinstance(model, Preprocessed):
        return model.preprocess
    return model.filter if isinstance(model, Filtered) else model.detector


def _described(part: nn.Module) -> str:
    """What a part before a network is, with its numbers."""
    if isinstance(part, Normalise):
        mean, std = (listed(part.get_buffer(name).flatten().tolist()) for name in ("mean", "std"))
        return f"Normalise(mean {mean}, std {std})"
    return f"InputForm({', '.join(part.said)})" if isinstance(part, InputForm) else str(part)


def _seen(model: nn.Module, images: Tensor) -> Tensor:
    """The images as the network behind all that sees them."""
    with torch.no_grad():
        while isinstance(model, WRAPPERS):
            if isinstance(model, Preprocessed | Filtered):
                images = _part(model)(images)
            model = model.network
    return images


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    """From one seed, which decides what a random network draws."""
    with torch.no_grad(), torch.random.fork_rng([]):
        torch.manual_seed(0)
        return network.eval()(images)


def _emptied(network: nn.Module) -> None:
    """Set all weights to 0, so that what is loaded decides the logits."""
    with torch.no_grad():
        for each in network.state_dict().values():
            each.zero_()


def _onnx(model: nn.Module, images: Tensor, into: Path) -> str:
    require("export to ONNX", "onnx", "onnxruntime", extra="onnx")
    names = {"images": {0: "batch"}, "logits": {0: "batch"}}
    with replacing(into) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package warns that there is a newer one
        try:
            torch.onnx.export(
                model,
                (images[:2],),
                str(partial),
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes=names,
                dynamo=False,
            )
        except Exception as error:
            reason = str(error).strip().splitlines()[:1]
            raise ValueError(f"ONNX cannot express {type(model).__name__}: {''.join(reason)}") from error
    with torch.no_grad():
        ours, theirs = model(images), Onnx(into)(images)
    if not torch.allclose(ours, theirs, rtol=0, atol=CLOSE * float(ours.abs().amax())):
        into.unlink()
        raise ValueError(
            f"{into} was not kept: it gave other logits than the network, as one that draws at random does"
        )
    return f"{into}: {type(model).__name__} as ONNX, images (batch, {', '.join(map(str, images.shape[1:]))}) to logits"
