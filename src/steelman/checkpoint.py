"""Checkpoints: safetensors files with all other data as JSON in the header; written whole or not at all.

The header describes the networks of the weights, so that they are built again without recipe or data, and has a digest
of all bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from steelman.files import UNSEALED, decoding, is_whole, parse_json, replacing, sealed, writable
from steelman.networks.building import description_of, device, network_of
from steelman.trust import named_in
from steelman.types import CLASSIFIER, Description

FORMAT = "steelman 2"
"""The header's only entry: the order in which safetensors writes several is random."""
BEFORE = "steelman 1"
"""The format without digest and descriptions, which is still read."""
TRAINING = ("fingerprint", "nets", "optimisers", "average", "memory", "position", "log")
"""The keys of a training's state, from which it is resumed."""

_START = json.dumps({"__metadata__": {FORMAT: '{"digest":"'}}, separators=(",", ":"))[:-3].encode()
"""The beginning of the header; the file's digest follows, computed with zeros in its place."""


def save(path: Path, state: dict[str, Any], networks: Mapping[str, nn.Module] | None = None) -> None:
    """Write nested dicts, lists and tuples of tensors, numbers and strings.

    The file has its name only once it is complete and on the disk, whatever kills the process. The same values make the
    same bytes.

    networks  by their names in `state`: the file describes how they are built, where that is known (`description_of`)
    """
    tensors: dict[str, Tensor] = {}
    described = {name: description_of(net) for name, net in (networks or {}).items()}
    header = {
        "digest": UNSEALED,
        "version": version("steelman"),
        "networks": {name: asdict(found) for name, found in described.items() if found is not None},
        "state": _pack(state, "", tensors),
    }
    # save_file would leave a temporary file of its own behind when it is killed
    raw = safetensors.torch.save(tensors, {FORMAT: json.dumps(header, separators=(",", ":"))})
    with replacing(path) as partial:
        partial.write_bytes(sealed(raw))


def room_for(network: nn.Module, folder: Path, count: int = 1) -> None:
    """Raises OSError where a folder cannot be written, or has no room for the checkpoints of so many trainings."""
    # `last` has the weights and the optimiser's state of each, `best` has the weights; while one is replaced, the old
    # one stays. Where that is there from an earlier call, only a new one beside it needs room.
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    there = any(folder.glob("*.safetensors"))
    writable(folder, weights * (2 if there else 3 * count + 2))


def load(
    path: Path, device: torch.device | str = "cpu", *, needs: Sequence[str] = (), raw: bytes | None = None
) -> dict[str, Any]:
    """Read what `save` wrote. Nothing is unpickled.

    needs  keys that the state must have, default none
    raw    the file's bytes, where they have been read already

    Raises:
        FileNotFoundError, ValueError: no such file; not a checkpoint of Steelman, or one of which a byte has changed;
            a checkpoint without these keys.
    """
    state = _read(path, device, raw)[0]
    if missing := [name for name in needs if name not in state]:
        raise ValueError(f"{path} is a checkpoint of something else: it has no {missing[0]}. Put the right one there")
    return state


def is_checkpoint(path: Path) -> bool:
    """Whether a safetensors file is a checkpoint of Steelman, by its header; SafetensorError for any other file."""
    header = _header(path)
    return FORMAT in header or header.get("format") == BEFORE


def _header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def trained_weights(folder: Path, name: str = "best", net: str = CLASSIFIER) -> dict[str, Tensor]:
    """A network of a training, its classifier or another player: "best" by validation (without it, of the last epoch),
    or "last".

    Raises:
        ValueError: the training had no such player.
    """
    return weights_in(folder / f"{name}.safetensors", net)


def weights_in(path: Path, net: str = CLASSIFIER) -> dict[str, Tensor]:
    """The weights of a network in a checkpoint.

    Raises:
        FileNotFoundError, ValueError: there is no checkpoint, or it has no such network.
    """
    return _weights(load(path), net, path)


def network(path: Path | str, name: str = CLASSIFIER) -> nn.Module:
    """A trained network, built from its checkpoint alone, in evaluation mode.

    path  a checkpoint, or the folder of a training, for its best one
    name  "classifier", or another player of the training, such as a learned adversary's "generator"

    A 'module:function' in the description is imported only if it is trusted (`steelman.trust`).

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it has no such network or no description of it, or names what is not trusted; with the remedy.
    """
    file = file_of(path)
    state, described = _read(file, "cpu")
    weights = _weights(state, name, file)
    if name not in described:
        raise ValueError(_undescribed(file, name))
    found = described[name]
    with torch.random.fork_rng([]), named_in(file):
        built = network_of(found.network, found.shape, found.classes)
    fill(built, weights, file)
    return built.to(device()).eval()


def fill(network: nn.Module, weights: dict[str, Tensor], file: Path) -> None:
    """Load the weights of a checkpoint into a network; ValueError where they are of another network."""
    with decoding(file, f"a checkpoint of this {type(network).__name__}", "It is of another network, or damaged"):
        network.load_state_dict(weights)


def shared_network(path: Path | str, name: str = CLASSIFIER) -> nn.Module:
    """`network`, the same object as long as the file stays as it is, for uses that do not change it."""
    file = file_of(path)
    found = file.stat()
    return _shared(file.resolve(), name, (found.st_mtime_ns, found.st_size, found.st_ino))


@lru_cache(maxsize=8)
def _shared(file: Path, name: str, stamp: tuple[int, ...]) -> nn.Module:
    return network(file, name)


def file_of(path: Path | str) -> Path:
    """The checkpoint at a path: of a folder, the best one. Raises FileNotFoundError where there is none."""
    file = Path(path) / "best.safetensors" if Path(path).suffix != ".safetensors" else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path} is no run: there is no {file}. `steelman train` makes one")
    return file


def _read(
    path: Path, device: torch.device | str, raw: bytes | None = None
) -> tuple[dict[str, Any], dict[str, Description]]:
    """The state, and the descriptions of networks."""
    if raw is None:
        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}")
        raw = path.read_bytes()
    start = raw[8 : 8 + len(_START) + len(UNSEALED)]
    if start.startswith(_START) and not is_whole(raw, start[len(_START) :].decode("latin1")):
        raise ValueError(
            f"{path} is not a readable checkpoint: its bytes are not those that were written (it was truncated or "
            "damaged). Delete it, or put a whole copy in its place"
        )
    with decoding(path, "a readable checkpoint"):
        entries = parse_json(raw[8 : 8 + int.from_bytes(raw[:8], "little")]).get("__metadata__", {})
        header: Any = None
        if FORMAT in entries and start.startswith(_START):
            header = parse_json(entries[FORMAT])
        elif entries.get("format") == BEFORE:
            header = {"networks": {}, "state": parse_json(entries["state"])}
    if header is None:
        raise ValueError(f"{path} is a safetensors file, but not a checkpoint of this version ({FORMAT})")
    with decoding(path, "a readable checkpoint"):
        tensors = {name: value.to(device) for name, value in safetensors.torch.load(raw).items()}
        described = {
            name: Description(found["network"], tuple(found["shape"]), found["classes"])
            for name, found in header["networks"].items()
        }
        state = _unpack(header["state"], tensors)
        if not isinstance(state, dict):
            raise ValueError("it holds no state")
        return state, described


def _weights(state: dict[str, Any], name: str, path: Path) -> dict[str, Tensor]:
    nets = state.get("nets", state)
    nets = nets if isinstance(nets, dict) else {}
    if name not in nets:
        there = ", ".join(each for each in nets if isinstance(nets[each], dict))
        raise ValueError(
            f"{path} has no {name}, only {there or 'other things'}: its defence trains no such network (`steelman "
            "attack-train` trains a generator against a classifier)"
        )
    if not isinstance(nets[name], dict):
        raise ValueError(f"{path}: its {name} is no state dict, but a {type(nets[name]).__name__}")
    return nets[name]


def _undescribed(path: Path, name: str) -> str:
    folder = f"Path({str(path.parent)!r})"
    if FORMAT not in _header(path):
        return (
            f"{path} was written by an older version, without a description of its {name}: open it with "
            f"steelman.experiments.run.Run.open({folder}), and use its network(data), or for a generator its "
            "player('generator', data)"
        )
    return (
        f"{path} has no description of its {name}, which was given to fit as a module: build the same module, load "
        f"trained_weights({folder}, {path.stem!r}, {name!r}) into it, and use that"
    )


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
