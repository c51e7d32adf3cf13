"""ONNX files as black boxes that answer with scores."""

from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from steelman.files import decoding

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
CLASSES = ("tensor(int64)", "tensor(int32)")
MOST = 10_000
"""Images at once, where a file fixes how many: the last batch is filled up to that."""


@final
class Onnx(nn.Module):
    """A classifier in an ONNX file, run by ONNX Runtime: scores, or classes where it has no scores, and no gradient.

    path   of the file, whose one input is images (batch, channels, height, width), with any batch size or a fixed one
    shape  of one image, (channels, height, width)

    Of several outputs, the first of floating-point numbers counts, otherwise the first of integers.

    Raises:
        ImportError: ONNX Runtime is not installed.
        FileNotFoundError, ValueError: no such file; not a readable model, or one for other images.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.path = str(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        self.session = _Session(self.path)
        self._check(shape)

    def _check(self, shape: tuple[int, ...]) -> None:
        runs = self.session.runs
        with decoding(self.path, "a readable ONNX model"):  # names are read when they are asked for
            inputs = [_Port(each.name, each.type, each.shape) for each in runs.get_inputs()]
            outputs = [_Port(each.name, each.type, each.shape) for each in runs.get_outputs()]
        if len(inputs) != 1 or inputs[0].type not in TYPES:
            told = ", ".join(f"{each.name} {each.type}" for each in inputs)
            raise ValueError(f"{self.path} must have one input, of floating-point images; it has {told}")
        takes = inputs[0].shape
        if len(takes) != 1 + len(shape) or any(
            isinstance(ours, int) and ours != theirs for ours, theirs in zip(takes[1:], shape, strict=True)
        ):
            told = ", ".join(str(each or "batch") for each in takes)
            raise ValueError(
                f"{self.path} takes images of shape ({told}), and these data are (batch, "
                f"{', '.join(map(str, shape))}): export it for such images, channels first, or give other --data"
            )
        self.input, self.kind = inputs[0].name, TYPES[inputs[0].type]
        self.batch = takes[0] if isinstance(takes[0], int) else None
        if self.batch is not None and not 1 <= self.batch <= MOST:
            raise ValueError(f"{self.path} takes {self.batch} images at once: export it with any batch size")
        scores = [each.name for each in outputs if each.type in TYPES]
        classes = [each.name for each in outputs if each.type in CLASSES]
        if not scores and not classes:
            told = ", ".join(each.type for each in outputs) or "nothing"
            raise ValueError(f"{self.path} answers with {told}, neither scores nor classes")
        self.output = (scores or classes)[0]

    def forward(self, x: Tensor) -> Tensor:
        images = x.detach().cpu().numpy().astype(self.kind)
        size = self.batch or max(len(images), 1)
        said = [self._ask(images[start : start + size]) for start in range(0, len(images), size)]
        answer = torch.from_numpy(np.concatenate(said)).to(x.device)
        return answer.to(x.dtype) if answer.is_floating_point() else answer.to(torch.int64)

    def _ask(self, images: np.ndarray) -> np.ndarray:
        """Where the batch is fixed, the last one is filled up."""
        filled = images if self.batch is None else np.resize(images, (self.batch, *images.shape[1:]))
        with decoding(self.path, f"a model that answers on images of shape {filled.shape}"):
            answer = self.session.runs.run([self.output], {self.input: filled})[0]
            if not isinstance(answer, np.ndarray) or answer.ndim == 0 or len(answer) != len(filled):
                raise ValueError(f"it gave {getattr(answer, 'shape', type(answer).__name__)} for {len(filled)} images")
        return answer[: len(images)]

    def extra_repr(self) -> str:
        return f"{Path(self.path).name}, sha256 {self.session.digest}"


class _Port(NamedTuple):
    """An input or output."""

    name: str
    type: str
    shape: list[Any]


class _Session:
    """A file as ONNX Runtime runs it; to other processes, and for who asks what it is, the file."""

    def __init__(self, path: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("ONNX files need ONNX Runtime: pip install steelman[onnx]") from error
        self.path, self.digest = path, sha256(Path(path).read_bytes()).hexdigest()[:16]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # fatal; errors are raised here
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [each for each in wanted if each in onnxruntime.get_available_providers()]
        with decoding(path, "a readable ONNX model"):
            # Without another provider to fall back on, it would say so on standard output.
            again = int(len(providers) > 1)
            self.runs: Any = onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=again)

    def __reduce__(self) -> tuple[type, tuple[str], dict[str, str]]:
        return type(self), (self.path,), {"digest": self.digest}
