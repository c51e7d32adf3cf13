"""Batch normalisation of generators: class-conditional where wanted, and the same in several processes as in one."""

from typing import Any, final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


@final
class GlobalBatchNorm(nn.Module):
    """Batch normalisation of (batch, channels, height, width) over the whole batch, also where processes divide it.

    (x - mean) / sqrt(var + eps) * scale + shift. With `classes`, scale and shift are those that all classes share plus
    those of the image's class (class-conditional batch normalisation, as in L2L-DA's code). Scales begin as N(1, .02),
    those of classes as N(0, .02), shifts as 0. Running statistics as torch has them, with momentum .1.

    In train mode every process must call it as often as the others. Several processes equal one but for a last batch of
    fewer images than processes: a process without an image takes part with one of weight 0, which counts here.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, classes: int | None = None, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(1 + 0.02 * torch.randn(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.class_scale = None if classes is None else nn.Parameter(0.02 * torch.randn(classes, channels))
        self.class_shift = None if classes is None else nn.Parameter(torch.zeros(classes, channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        together = self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        scale, shift = self.scale[None], self.shift[None]
        if self.class_scale is not None and self.class_shift is not None:
            assert y is not None
            scale, shift = scale + self.class_scale[y], shift + self.class_shift[y]
        if together:
            normal = self._over_processes(x)
        else:
            normal = F.batch_norm(x, self.running_mean, self.running_var, training=self.training, eps=self.eps)
        return torch.addcmul(shift[:, :, None, None], normal, scale[:, :, None, None])

    def _over_processes(self, x: Tensor) -> Tensor:
        count = _total(x.new_tensor(x.numel() / x.shape[1]))
        mean = _total(x.sum((0, 2, 3))) / count
        centred = x - mean[None, :, None, None]
        variance = _total(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(variance * count / (count - 1), 0.1)
        return centred * torch.rsqrt(variance + self.eps)[None, :, None, None]


class _Total(torch.autograd.Function):
    """The sum over all processes, on which the loss of each depends."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        slope = slopes[0].clone()
        dist.all_reduce(slope)
        return slope


def _total(value: Tensor) -> Tensor:
    return _Total.apply(value)
