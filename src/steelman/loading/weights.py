"""State dicts of other people's making: read without unpickling, and fitted to a network."""

import difflib
import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from steelman import checkpoint
from steelman.files import decoding, one_line, refuse_bomb
from steelman.naming import nearest

PREFIXES = ("module.", "model.", "_orig_mod.", "network.", "net.")
"""What wrappers put before the names: DataParallel, a normalising model, torch.compile."""

INSIDE = ("state_dict", "model_state_dict", "model", "network", "net", "last", "best")
"""Under what a file may hold the state dict beside an optimiser's and the like; "last" and "best" are RobustBench's."""

SHOWN = 3


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pt or .pth file. Nothing is unpickled but tensors and plain values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, would have to be unpickled, or holds no state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        return _safe(path)
    held, pickled = None, ""
    with decoding(path, "a readable file of torch.save"):
        _check(path)
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = re.search(r"WeightsUnpickler error: ([^\n]*)", str(error))
            pickled = reason[1][:200] if reason else "it cannot be unpickled"
    if pickled:
        raise ValueError(
            f"{path} holds more than tensors and plain values, or is damaged, and nothing here is unpickled: save "
            f"model.state_dict() alone ({one_line(ValueError(pickled))})"
        )
    return _inside(held, path)


def _check(path: Path) -> None:
    """What torch does not look at: the checksums of an archive, and the length of names.

    Files of torch before 1.6, and those that were saved without, have no checksums. The time in which torch describes
    an error grows with the square of a name's length.

    Raises:
        ValueError, zipfile.BadZipFile: something is damaged, or claims to be far larger than the file.
    """
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            file.seek(0)
            for _ in range(_PICKLES):
                _check_names(file)
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        refuse_bomb(sum(member.file_size for member in members), path.stat().st_size)
        if not any(member.CRC for member in members):
            for member in members:
                member.CRC = None  # pyright: ignore[reportAttributeAccessIssue]  # there is none to look at
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it fails its checksum")
        for member in members:
            if member.filename.endswith("/data.pkl"):
                _check_names(io.BytesIO(archive.read(member)))


def _check_names(pickled: io.BufferedReader | io.BytesIO) -> None:
    """Raises ValueError where the next pickle of a file is none, or has a word that is too long for a name."""
    for _, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, str) and len(argument) > _WORD and max(map(len, argument.split()), default=0) > _WORD:
            raise ValueError(f"it has a word of more than {_WORD} letters: save model.state_dict() alone")


_ZIP, _PICKLES, _WORD = b"PK\x03\x04", 5, 10_000


def _safe(path: Path) -> dict[str, Tensor]:
    with decoding(path, "a readable safetensors file"):
        ours = checkpoint.is_checkpoint(path)
        state = {} if ours else safetensors.torch.load_file(path)
    return checkpoint.weights_in(path) if ours else state


def _inside(held: Any, path: Path) -> dict[str, Tensor]:
    """The state dict, out of what it is wrapped in."""
    for _ in range(len(INSIDE)):
        if not isinstance(held, Mapping):
            break
        within = next((held[name] for name in INSIDE if isinstance(held.get(name), Mapping)), None)
        if within is None:
            break
        held = within
    if not isinstance(held, Mapping) or not any(isinstance(value, Tensor) for value in held.values()):
        keys = f" with {', '.join(map(str, list(held)[:SHOWN]))}" if isinstance(held, Mapping) else ""
        raise ValueError(
            f"{path} holds no state dict: it is a {type(held).__name__}{keys}; tensors by name are needed, alone or "
            f"under one of {', '.join(INSIDE)}"
        )
    return {str(name): value for name, value in held.items() if isinstance(value, Tensor)}


def fill(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Put a state dict into a network; a wrapper's prefix before its names is taken off.

    where  what errors call it

    Raises:
        ValueError: names are missing or left over, or shapes differ: the first of them, with the nearest names.
    """
    wanted = network.state_dict()
    given = {_bare(name, wanted): value for name, value in state.items()}
    given.pop("n_averaged", None)  # of torch.optim.swa_utils.AveragedModel
    missing = [name for name in wanted if name not in given]
    strange = [name for name in given if name not in wanted]
    shapes = [
        f"{name} is {tuple(given[name].shape)} and should be {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"it lacks {_first(missing)} ({_near(missing[0], strange or list(given))})")
    if strange:
        problems.append(
            f"it has {_first(strange)}, for which there is no place ({_near(strange[0], missing or wanted)})"
        )
    if shapes:
        problems.append(_first(shapes))
    if problems:
        raise ValueError(f"{where} does not fit {type(network).__name__}: {'; '.join(problems)}")
    with decoding(where, f"a state dict of {type(network).__name__}", "Save model.state_dict() alone"):
        network.load_state_dict(given)


def _bare(name: str, wanted: Mapping[str, Tensor]) -> str:
    """The name without the prefixes of wrappers, where that is one of the network's."""
    short = name
    while short not in wanted:
        prefix = next((each for each in PREFIXES if short.startswith(each)), None)
        if prefix is None:
            return short if short == "n_averaged" else name
        short = short.removeprefix(prefix)
    return short


def _first(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _near(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.4)
    return f"nearest: {close[0]}" if close else nearest("", list(names)[:SHOWN])
