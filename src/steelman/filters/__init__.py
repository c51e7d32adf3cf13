"""Filters of a model's input, and their gradients."""

from steelman.filters.bpda import BPDA
from steelman.filters.defense_gan import DefenseGAN
from steelman.filters.jpeg import JPEG
from steelman.filters.pixel_defend import PixelDefend
from steelman.filters.quilting import Quilting
from steelman.filters.reformer import Reformer
from steelman.filters.resampled import RandomCrop, RandomResizePad
from steelman.filters.squeeze import BitDepth, MedianSmoothing
from steelman.filters.thermometer import Thermometer
from steelman.filters.total_variation import TotalVariation

__all__ = [
    "BPDA",
    "JPEG",
    "BitDepth",
    "DefenseGAN",
    "MedianSmoothing",
    "PixelDefend",
    "Quilting",
    "RandomCrop",
    "RandomResizePad",
    "Reformer",
    "Thermometer",
    "TotalVariation",
]
