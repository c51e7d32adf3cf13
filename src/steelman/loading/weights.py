"""State dicts of other people: read without unpickling, and loaded into a network."""

import difflib
import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from steelman import checkpoint
from steelman.files import decoding, reason_of, refuse_bomb
from steelman.naming import nearest

PREFIXES = ("module.", "model.", "_orig_mod.", "network.", "net.")
"""What wrappers add before the names: DataParallel, a normalising model, torch.compile."""

INSIDE = ("state_dict", "model_state_dict", "model", "network", "net", "last", "best")
"""Keys under which a file may have the state dict, beside an optimiser's; "last" and "best" are RobustBench's."""

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
            f"model.state_dict() alone ({reason_of(ValueError(pickled))})"
        )
    return _inside(held, path)


def _check(path: Path) -> None:
    """Check what torch does not: the checksums of an archive, and the length of names.

    Files of torch before 1.6, and those that were saved without, have no checksums. Torch needs time that grows with
    the square of a name's length to describe an error.

    Raises:
        ValueError, zipfile.BadZipFile: a part is damaged, or claims to be far larger than the file.
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
                member.CRC = None  # pyright: ignore[reportAttributeAccessIssue]  # it has none
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it fails its checksum")
        for member in members:
            if member.filename.endswith("/data.pkl"):
                _check_names(io.BytesIO(archive.read(member)))


def _check_names(pickled: io.BufferedReader | io.BytesIO) -> None:
    """Raises ValueError where the next pickle of a file is damaged, or has a word that is too long for a name."""
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
    """The state dict in what a file holds."""
    for _ in range(len(INSIDE)):
        names = INSIDE if isinstance(held, Mapping) else ()
        held = next((held[name] for name in names if isinstance(held.get(name), Mapping)), held)
    if not isinstance(held, Mapping) or not any(isinstance(value, Tensor) for value in held.values()):
        keys = f" with {', '.join(map(str, list(held)[:SHOWN]))}" if isinstance(held, Mapping) else ""
        raise ValueError(
            f"{path} holds no state dict: it is a {type(held).__name__}{keys}; tensors by name are needed, alone or "
            f"under one of {', '.join(INSIDE)}"
        )
    return {str(name): value for name, value in held.items() if isinstance(value, Tensor)}


def fill(network: nn.Module, state: Mapping[str, Tensor], where: str) -> str:
    """Load a state dict into a network; a wrapper's prefix before its names is removed.

    where  its name in errors

    Returns the prefixes that were removed, in words; "" for none.

    Raises:
        ValueError: names are missing or unknown, or shapes differ: the first of them, with the nearest names.
    """
    wanted = network.state_dict()
    given = {_bare(name, wanted): value for name, value in state.items()}
    given.pop("n_averaged", None)  # of torch.optim.swa_utils.AveragedModel
    missing = [name for name in wanted if name not in given]
    strange = [name for name in given if name not in wanted]
    shapes = [
        f"{name} is {tuple(value.shape)} and should be {tuple(wanted[name].shape)}"
        for name, value in given.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    problems = [f"it lacks {_first(missing)} ({_near(missing[0], strange or list(given))})"] if missing else []
    if strange:
        near = _near(strange[0], missing or wanted)
        problems.append(f"it has {_first(strange)}, for which there is no place ({near})")
    if problems := [*problems, *([_first(shapes)] if shapes else [])]:
        raise ValueError(f"{where} does not fit {type(network).__name__}: {'; '.join(problems)}")
    with decoding(where, f"a state dict of {type(network).__name__}", "Save model.state_dict() alone"):
        network.load_state_dict(given)
    removed = {name.removesuffix(short) for name in state if (short := _bare(name, wanted)) != name}
    return " and ".join(f"without the prefix {prefix}" for prefix in sorted(removed))


def renamed(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A network's state dict, with the names and in the order of a file that `fill` loads into it."""
    named = {name: _bare(name, state) for name in names}
    return {name: state[bare] for name, bare in named.items() if bare in state}


def _bare(name: str, wanted: Mapping[str, Tensor]) -> str:
    """The name without the prefixes of wrappers, where that is a name in the network."""
    short = name
    while short not in wanted and (prefix := next((each for each in PREFIXES if short.startswith(each)), None)):
        short = short.removeprefix(prefix)
    return short if short in wanted or short == "n_averaged" else name


def _first(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _near(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.4)
    return f"nearest: {close[0]}" if close else nearest("", list(names)[:SHOWN])
