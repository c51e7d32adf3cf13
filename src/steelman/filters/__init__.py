"""Filters of a model's input, and their gradients."""

from steelman.filters.bpda import BPDA
from steelman.filters.squeeze import BitDepth, MedianSmoothing

__all__ = [
    "BPDA",
    "BitDepth",
    "MedianSmoothing",
]
