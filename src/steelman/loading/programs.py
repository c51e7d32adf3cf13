"""Programs in files: torch.export's .pt2 and TorchScript, with their gradients."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from steelman.files import decoding, parse_json, refuse_bomb, sha256

EXPORTED, SCRIPTED = (".pt2",), (".ts", ".torchscript", ".jit")


def is_script(path: Path) -> bool:
    """Whether a file is TorchScript, by its content: an archive with code."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with decoding(path, "a readable archive"), zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


@final
class Program(nn.Module):
    """A classifier in a file of `torch.export.save` or `torch.jit.save`, with its gradient.

    path  of the file. The network was exported in evaluation mode: it has no other afterwards

    size, channels  of its images, where the file says; None for any
    batch           a fixed batch size, to which the last batch is filled up; None for any
    whole           it takes bytes

    Such a file is a program: open those of people you trust. A .pt2 file that holds pickles of more than tensors
    is refused, and no more than that is checked.

    Pickling and the identity of the model use the file alone.

    Raises:
        FileNotFoundError, ValueError: no such file; it is damaged, is refused, or takes no single batch of images.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        self.path, raw = str(path), path.read_bytes()
        self.digest = sha256(raw)[:16]
        self.shape: tuple[int | None, ...] = (None, None, None, None)
        self.whole = False
        self._held = _Held(_exported(path, raw) if path.suffix in EXPORTED else _scripted(path, raw))
        if path.suffix in EXPORTED:
            self.shape, self.whole = _input(path, self._held.module)
            self._held.module = self._held.module.module()
        self.batch = self.shape[0]

    @property
    def network(self) -> nn.Module:
        return self._held.module

    def forward(self, x: Tensor) -> Tensor:
        given = x.to(torch.uint8) if self.whole else x
        if self.batch is None:
            return self._answer(given)
        parts = []
        for part in given.split(self.batch):
            more = self.batch - len(part)
            filled = torch.cat([part, part[-1:].expand(more, *part.shape[1:])]) if more else part
            parts.append(self._answer(filled)[: len(part)])
        return torch.cat(parts)

    def _answer(self, x: Tensor) -> Tensor:
        from steelman.forward import unwrapped

        try:
            return unwrapped(self.network(x))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[-1][:300]  # before it, TorchScript lists the places in its code
            raise ValueError(f"{self.path} fails on images of shape {tuple(x.shape)}: {reason}") from error

    def _apply(self, fn: Any, recurse: bool = True) -> "Program":
        self._held.module._apply(fn, recurse)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _program, (self.path, self.digest)

    def extra_repr(self) -> str:
        return f"{Path(self.path).name}, sha256 {self.digest}"


class _Held:
    """Hides a program from `nn.Module`: an exported one has no `eval`, and its parts cannot be pickled."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (None,)


def _program(path: str, digest: str) -> Program:
    made = Program(Path(path)).eval()
    if made.digest != digest:
        raise ValueError(f"{path} has changed since it was opened")
    return made


def _scripted(path: Path, raw: bytes) -> nn.Module:
    with decoding(path, "a readable TorchScript file"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(io.BytesIO(raw), map_location="cpu").eval()


def _exported(path: Path, raw: bytes) -> Any:
    with decoding(path, "a readable file of torch.export", "Save it again by torch.export.save"):
        _check(raw)
        return torch.export.load(io.BytesIO(raw))


def _check(raw: bytes) -> None:
    """Raises ValueError where torch would unpickle more than tensors; it does so where `weights_only` fails."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        refuse_bomb(sum(member.file_size for member in archive.infolist()), len(raw))
        for name in archive.namelist():
            if name.endswith(".pt"):
                torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
            elif name.endswith("_config.json"):
                parts = _walked(parse_json(archive.read(name)))
                if any(part.get("use_pickle") for part in parts):
                    raise ValueError("it has parts that would have to be unpickled")


def _walked(value: Any) -> "list[dict[str, Any]]":
    """All mappings in a value of JSON."""
    level, found = [value], []
    while level:
        found += [each for each in level if isinstance(each, dict)]
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [item for items in inner for item in items]
    return found


def _input(path: Path, program: Any) -> tuple[tuple[int | None, ...], bool]:
    """The shape of its one input, with None for what may be any, and whether it takes bytes."""
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    given = [node.meta["val"] for node in inputs if isinstance(node.meta.get("val"), Tensor)]
    if len(inputs) != 1 or len(given) != 1 or given[0].ndim != 4:
        raise ValueError(f"{path} must have one input, of images (batch, channels, height, width)")
    shape = tuple(int(each) if isinstance(each, int) else None for each in given[0].shape)
    return shape, given[0].dtype == torch.uint8
