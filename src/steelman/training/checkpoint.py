"""Checkpoints: one safetensors file each, with everything else as JSON in its header; written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steelman.defences.game import CLASSIFIER

FORMAT = "steelman 1"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts, lists and tuples of tensors, numbers and strings.

    The file appears under its name only when it is complete and on the disk, whatever kills the process.
    """
    tensors: dict[str, Tensor] = {}
    header = {"format": FORMAT, "state": json.dumps(_pack(state, "", tensors))}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    safetensors.torch.save_file(tensors, partial, metadata=header)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def save_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save` wrote. Nothing is unpickled.

    Raises:
        FileNotFoundError, ValueError: no such file; not a checkpoint of ours, or truncated.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"{path} is a safetensors file, but not a checkpoint of this version ({FORMAT})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return _unpack(json.loads(header["state"]), tensors)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}); it may be truncated or corrupt") from error


def trained_weights(folder: Path, name: str = "best", net: str = CLASSIFIER) -> dict[str, Tensor]:
    """A network of a training, its classifier or another player: "best" by validation (the last epoch's where there is
    none), or "last".

    Raises:
        ValueError: the training had no such player.
    """
    state = load(folder / f"{name}.safetensors")
    nets = state.get("nets", state)
    if net not in nets:
        raise ValueError(f"{folder} has no {net}: the defence of its recipe trained the classifier alone")
    return nets[net]


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    match value:
        case Tensor():
            while name in tensors:  # {"a/b": x, "a": {"b": y}}
                name += "'"
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"$tensor": name}
        case dict() if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _pack(item, f"{name}/{key}" if name else key, tensors) for key, item in value.items()}
        case dict():
            return {"$dict": [[key, _pack(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
        case tuple():
            return {"$tuple": [_pack(item, f"{name}/{place}", tensors) for place, item in enumerate(value)]}
        case list():
            return [_pack(item, f"{name}/{place}", tensors) for place, item in enumerate(value)]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__} ({name})")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    match value:
        case {"$tensor": name}:
            return tensors[name]
        case {"$dict": items}:
            return {key: _unpack(item, tensors) for key, item in items}
        case {"$tuple": items}:
            return tuple(_unpack(item, tensors) for item in items)
        case dict():
            return {key: _unpack(item, tensors) for key, item in value.items()}
        case list():
            return [_unpack(item, tensors) for item in value]
    return value
