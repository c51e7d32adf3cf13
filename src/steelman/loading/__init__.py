"""From what a user names to a `Subject`: runs, functions, state dicts, ONNX files, black boxes, RobustBench's zoo."""

from steelman.loading.images import source
from steelman.loading.onnx import Onnx
from steelman.loading.weights import fill, read_state

__all__ = ["Onnx", "fill", "read_state", "source"]
