"""What stands before a model: filters of its input, and how gradients pass them."""

from steelman.filters.bpda import BPDA

__all__ = ["BPDA"]
