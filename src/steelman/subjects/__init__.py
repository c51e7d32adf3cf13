"""From what a user names to a `Subject`: runs, functions, state dicts, ONNX files, black boxes, RobustBench's zoo."""

from steelman.subjects.images import source
from steelman.subjects.onnx import Onnx
from steelman.subjects.opening import open_subject
from steelman.subjects.weights import fill, read_state

__all__ = ["Onnx", "fill", "open_subject", "read_state", "source"]
