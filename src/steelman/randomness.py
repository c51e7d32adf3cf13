"""Noise that depends on an image's seed, not on its batch.

Each image has one int64 seed, and its random numbers are hashes of that seed and a counter (SplitMix64: Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). So an image gets the same bits alone or in a
batch, in one process or in two, on a CPU or on a GPU; torch's own generators do not guarantee that.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steelman.types import Model, Randomness, Rows, Seeds

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _shift(bits: Tensor, places: int) -> Tensor:
    """Shift right without carrying the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift(bits, 30)) * _MIX_1
    bits = (bits ^ _shift(bits, 27)) * _MIX_2
    return bits ^ _shift(bits, 31)


def combine(seeds: Tensor, *numbers: int | Tensor) -> Tensor:
    """A new seed, a hash of a seed and any integers."""
    for number in numbers:
        seeds = _mix(seeds + _mix(torch.as_tensor(number, dtype=torch.int64, device=seeds.device) * 2 + 1) + _GOLDEN)
    return seeds


DRAWS = 10
"""So many answers of a random model choose the attack that leaves an image right least often; as many more then say how
often that is. One set for both would be too low: of many equally good attacks, one was lucky."""


def is_random(model: Model) -> bool:
    """Whether a model draws random numbers for its answers: the class of a module in it has a `random` that is true.

    Such a module draws from torch's global generator, anew for each image and call.
    """
    modules = model.modules() if isinstance(model, nn.Module) else (model,)
    return any(getattr(type(module), "random", False) is True for module in modules)


def answers_of(model: Model) -> int:
    """How many answers judge an image: twice `DRAWS` of a random model, else one."""
    return 2 * DRAWS if is_random(model) else 1


@dataclass(frozen=True)
class Draws(Rows):
    """Random numbers for a batch, a pure function of one seed per image: two equal calls give the same numbers."""

    seeds: Seeds

    @staticmethod
    def start(source: Randomness, batch: int, device: torch.device) -> "Draws":
        """From a generator (one seed is drawn per image, in order), from given seeds, or from torch's global generator.

        Raises:
            ValueError: given seeds are not int64 of shape (batch,).
        """
        if isinstance(source, Tensor):
            if source.shape != (batch,) or source.dtype != torch.int64:
                raise ValueError(
                    f"seeds must be int64 of shape ({batch},), one per image; got {source.dtype} {tuple(source.shape)}"
                )
            return Draws(source.to(device))
        on = torch.device("cpu") if source is None else source.device
        seeds = torch.empty(batch, dtype=torch.int64, device=on)
        return Draws(seeds.random_(generator=source).to(device))

    def split(self, purpose: int) -> "Draws":
        """Independent draws for another purpose, such as the next restart."""
        return Draws(combine(self.seeds, purpose))

    def _bits(self, shape: torch.Size | tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        counter = torch.arange(1, count + 1, device=self.seeds.device) * _GOLDEN
        return _mix(self.seeds[:, None] + counter).reshape(len(self.seeds), *shape)

    def uniform(self, shape: torch.Size | tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform on [0, 1), of shape (batch, *shape)."""
        if dtype == torch.float64:
            return _shift(self._bits(shape), 11).to(dtype) * 2.0**-53
        return (_shift(self._bits(shape), 40).to(torch.float32) * 2.0**-24).to(dtype)

    def normal(self, shape: torch.Size | tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal, of shape (batch, *shape), by inversion in double precision."""
        middle = (_shift(self._bits(shape), 11).to(torch.float64) + 0.5) * 2.0**-53
        return (torch.erfinv(2 * middle - 1) * math.sqrt(2)).to(dtype)
