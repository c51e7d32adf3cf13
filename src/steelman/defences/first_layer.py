"""The first layer of a network alone: steps of an attack through it, and its own gradient, without a graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.attacks.core import Ball
from steelman.networks.surgery import Stem
from steelman.types import Images

AT_ONCE = 350_000
"""So many outputs of the layer go through all steps at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class FirstLayer:
    """f(x) = W x + b or relu(W x + b): a convolution or fully connected layer on the images themselves.

    Equal to autograd up to rounding. The patches of many images are the columns of one matrix, so that a pass is two
    matrix products. For 3x3 convolutions of one channel, a step takes a fifth of the time of a convolution and its
    gradient in a graph.
    """

    layer: nn.Conv2d | nn.Linear
    rectified: bool

    @torch.no_grad()
    def climb(self, ball: Ball, x: Images, p: Tensor, steps: int, length: Tensor) -> Images:
        """Sign steps up <p, f(x)>, each back into the ball; `length` has shape (batch, 1, ..., 1)."""
        found = []
        for some, work in self._parts(x, p):
            here, near, push = x[some], ball[some], _rows(p[some])
            slope = None if self.rectified else work.slope(push)  # the same everywhere
            for _ in range(steps):
                up = work.slope(_masked(push, work.output(here))) if slope is None else slope
                here = near.climb(here, up, length[some])
            found.append(here)
        return torch.cat(found)

    def growth(self, x: Images, p: Tensor, h: Tensor) -> Tensor:
        """<p, f(x) - h>, with its gradient in the layer's weights; it has none in the images."""
        weights = [each for each in (self.layer.weight, self.layer.bias) if each is not None]
        with torch.no_grad():
            total, slopes = p.new_zeros(()), torch.zeros_like(_affine(self.layer))
            for some, work in self._parts(x, p):
                output, push = work.output(x[some]), _rows(p[some])
                total += ((output.relu() if self.rectified else output) - _rows(h[some])).mul_(push).sum()
                slopes.addmm_(_masked(push, output) if self.rectified else push, work.patches.T)
        parts = slopes.split([weights[0][0].numel(), len(weights) - 1], 1)
        for weight, slope in zip(weights, parts, strict=False):
            total = total + ((weight - weight.detach()) * slope.reshape(weight.shape)).sum()
        return total

    def _parts(self, x: Images, p: Tensor) -> Iterator[tuple[slice, "_Workspace"]]:
        size, work = max(1, AT_ONCE // max(p[:1].numel(), 1)), None
        for start in range(0, len(x), size):
            some = slice(start, min(start + size, len(x)))
            if work is None or some.stop - start != size:
                work = _Workspace(self.layer, x[some])
            yield some, work


class _Workspace:
    """The matrices of a few images: made once, since to ask for memory takes a third of a pass."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, x: Images) -> None:
        self._shape, self._affine = x.shape, _affine(layer)
        self._transposed = layer.weight.flatten(1).T.contiguous()
        inputs = len(self._transposed)
        self._wide, self._wide_slope = _padded(layer, torch.zeros_like(x)), _padded(layer, torch.zeros_like(x))
        self._windows = _windows(layer, self._wide)
        shape = self._windows.shape
        columns = shape[3:].numel()
        self.patches = x.new_ones(self._affine.shape[1], columns)  # the last row of ones is for the bias
        self._images, self._slopes = self._wide, self._wide_slope
        if isinstance(layer, nn.Conv2d):
            (rows, sides), (height, width) = map(int, layer.padding), x.shape[-2:]
            inner = (slice(None), slice(None), slice(rows, rows + height), slice(sides, sides + width))
            self._images, self._slopes = self._wide[inner], self._wide_slope[inner]
        self._places = self.patches[:inputs].view(shape)
        self._output, self._back = x.new_empty(len(self._affine), columns), x.new_empty(inputs, columns)
        slopes, back = _windows(layer, self._wide_slope), self._back.view(shape)
        self._taps = [(slopes[:, i, j], back[:, i, j]) for i, j in product(range(shape[1]), range(shape[2]))]

    def output(self, x: Images) -> Tensor:
        """W x + b, a row for each channel; the next call overwrites it."""
        self._images.copy_(x.reshape(self._images.shape))
        self._places.copy_(self._windows)
        return torch.mm(self._affine, self.patches, out=self._output)

    def slope(self, push: Tensor) -> Images:
        """The gradient in the images of <push, W x>."""
        torch.mm(self._transposed, push, out=self._back)
        self._wide_slope.zero_()
        for place, tap in self._taps:  # a pixel is in many patches, so one after the other
            place.add_(tap)
        return self._slopes.reshape(self._shape)


def _affine(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """W, with b as its last column where there is one."""
    weight, bias = layer.weight.detach().flatten(1), layer.bias
    return weight if bias is None else torch.cat([weight, bias.detach()[:, None]], 1)


def _padded(layer: nn.Conv2d | nn.Linear, x: Images) -> Tensor:
    """Of shape (batch, channels, height, width); the numbers of a fully connected layer are channels."""
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, 1, 1)
    rows, columns = map(int, layer.padding)
    return F.pad(x, (columns, columns, rows, rows)).contiguous()


def _windows(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """A view of what each output sees: (channels, kernel height, kernel width, batch, output height, output width)."""
    if isinstance(layer, nn.Linear):
        return x.permute(1, 2, 3, 0)[..., None, None]
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    sizes = [(x.shape[2 + axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1 for axis in (0, 1)]
    image, channel, row, column = x.stride()
    steps = (channel, row * dilation[0], column * dilation[1], image, row * stride[0], column * stride[1])
    return x.as_strided((x.shape[1], *kernel, len(x), *sizes), steps)


def _rows(output: Tensor) -> Tensor:
    """Of an output of shape (batch, channels, ...), a row for each channel."""
    return output.transpose(0, 1).reshape(output.shape[1], -1)


def _masked(push: Tensor, output: Tensor) -> Tensor:
    """`push` where the output is above 0, else 0; overwrites the output."""
    return torch.ops.aten.threshold_backward.grad_input(push, output, 0, grad_input=output)


@contextmanager
def first_layer(stem: Stem, x: Images) -> Iterator[Callable[[], FirstLayer | None]]:
    """Within it, the network runs once on `x`; then the function gives its first layer, where the stem is no more.

    None for anything else: filters or preprocessing before it, several layers, another activation, groups, hooks, a
    GPU, autocast.
    """
    seen: dict[nn.Module, tuple[Any, Any]] = {}
    kinds = (nn.Conv2d, nn.Linear, nn.ReLU)
    plain = [each for each in stem.model.modules() if type(each) in kinds and not _changed(each)]

    def see(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen[module] = (inputs[0], output) if len(inputs) == 1 else (None, output)

    def found() -> FirstLayer | None:
        end = stem.module
        rectified = type(end) is nn.ReLU
        if rectified and end in seen:
            end = next((each for each, (_, output) in seen.items() if output is seen[stem.module][0]), end)
        given = seen[end][0] if end in seen else None
        if not isinstance(given, Tensor) or not isinstance(end, nn.Conv2d | nn.Linear) or not _fits(end, given, x):
            end = None
        seen.clear()  # the outputs would stay in memory
        return None if end is None else FirstLayer(end, rectified)

    handles = [each.register_forward_hook(see) for each in plain]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _changed(module: nn.Module) -> bool:
    """Whether more than the class's own code runs."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def _fits(layer: nn.Conv2d | nn.Linear, given: Tensor, x: Images) -> bool:
    """Whether what the layer was given is the images as they are, and the layer is one that is written out here."""
    if isinstance(layer, nn.Conv2d):
        known = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        known = known and given.ndim == 4
    else:
        known = given.ndim == 2
    same = x.is_cpu and given.dtype == x.dtype == layer.weight.dtype and not torch.is_autocast_enabled("cpu")
    return known and same and given.numel() == x.numel() and torch.equal(given.reshape(x.shape), x)
