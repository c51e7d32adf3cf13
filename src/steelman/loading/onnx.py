"""ONNX files as black boxes that return scores."""

from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from steelman.files import decoding, sha256

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
CLASSES = ("tensor(int64)", "tensor(int32)")
MOST = 10_000
"""Largest batch size that a file may fix: the last batch is filled up to that size."""


@final
class Onnx(nn.Module):
    """A classifier in an ONNX file, run by ONNX Runtime: scores, or classes where it has no scores, and no gradient.

    path  of the file, whose one input is images, with any batch size or a fixed one

    shape  of its input, with None for a length that may be any
    whole  it takes bytes

    Of several outputs, the first of floating-point numbers is used, otherwise the first of integers.

    Raises:
        ImportError: ONNX Runtime is not installed.
        FileNotFoundError, ValueError: no such file; not a readable model, or none of images.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = str(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        self.session = _Session(self.path)
        self._check()

    def _check(self) -> None:
        runs = self.session.runs
        with decoding(self.path, "a readable ONNX model"):  # names are read when they are asked for
            inputs = [_Port(each.name, each.type, each.shape) for each in runs.get_inputs()]
            outputs = [_Port(each.name, each.type, each.shape) for each in runs.get_outputs()]
        if len(inputs) != 1 or inputs[0].type not in TYPES:
            ports = ", ".join(f"{each.name} {each.type}" for each in inputs)
            raise ValueError(f"{self.path} must have one input, of images as numbers or bytes; it has {ports}")
        self.shape = tuple(each if isinstance(each, int) else None for each in inputs[0].shape or [None])
        batch = self.shape[0]
        self.input, self.kind = inputs[0].name, TYPES[inputs[0].type]
        self.whole, self.batch = self.kind is np.uint8, batch
        if self.batch is not None and not 1 <= self.batch <= MOST:
            raise ValueError(f"{self.path} takes {self.batch} images at once: export it with any batch size")
        scores = [each.name for each in outputs if each.type in TYPES and TYPES[each.type] is not np.uint8]
        classes = [each.name for each in outputs if each.type in CLASSES]
        if not scores and not classes:
            types = ", ".join(each.type for each in outputs) or "nothing"
            raise ValueError(f"{self.path} returns {types}, neither scores nor classes")
        self.output = (scores or classes)[0]

    def forward(self, x: Tensor) -> Tensor:
        images = x.detach().cpu().numpy().astype(self.kind)
        size = self.batch or max(len(images), 1)
        answers = [self._run(images[start : start + size]) for start in range(0, len(images), size)]
        answer = torch.from_numpy(np.concatenate(answers)).to(x.device)
        return answer.to(x.dtype) if answer.is_floating_point() else answer.to(torch.int64)

    def _run(self, images: np.ndarray) -> np.ndarray:
        """Where the batch size is fixed, the last batch is filled up."""
        filled = images if self.batch is None else np.resize(images, (self.batch, *images.shape[1:]))
        with decoding(self.path, f"a model that runs on images of shape {filled.shape}"):
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
    """A file in ONNX Runtime; pickling and the identity of the model use the file alone."""

    def __init__(self, path: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("ONNX files need ONNX Runtime: pip install steelman[onnx]") from error
        self.path, self.digest = path, sha256(Path(path).read_bytes())[:16]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # fatal; errors are raised here
        known = onnxruntime.get_available_providers()
        providers = [each for each in ("CUDAExecutionProvider", "CPUExecutionProvider") if each in known]
        fallback = int(len(providers) > 1)  # with no other provider, ONNX Runtime would print a warning
        with decoding(path, "a readable ONNX model"):
            self.runs: Any = onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=fallback)

    def __reduce__(self) -> tuple[type, tuple[str], dict[str, str]]:
        return type(self), (self.path,), {"digest": self.digest}
