"""What stands before a model: filters of its input, and how gradients pass them."""

from steelman.filters.bpda import BPDA
from steelman.filters.squeeze import BitDepth, MedianSmoothing

__all__ = [
    "BPDA",
    "BitDepth",
    "MedianSmoothing",
]
