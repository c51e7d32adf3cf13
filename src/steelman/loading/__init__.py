"""Models and images by name: state dicts, ONNX files, RobustBench's models, and the `Subject` of an evaluation."""

from steelman.loading.images import source
from steelman.loading.onnx import Onnx
from steelman.loading.weights import fill, read_state

__all__ = ["Onnx", "fill", "read_state", "source"]
