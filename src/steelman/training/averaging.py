"""Averages of the weights along the way (`Training.ema`, `Training.swa`)."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from steelman.forward import lent
from steelman.networks.surgery import batchnorm_layers
from steelman.training.settings import Training


class Averaging:
    """The model that is validated and returned: an average of its weights or, while there is none, the model itself."""

    def __init__(self, model: nn.Module, training: Training) -> None:
        self.model, self.swa = model, training.swa
        self.average: AveragedModel | None = None
        if training.ema is not None:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(training.ema), use_buffers=True)
        elif training.swa is not None:
            self.average = AveragedModel(model, use_buffers=True)

    @property
    def evaluated(self) -> nn.Module:
        return self.model if self.average is None or int(self.average.n_averaged) == 0 else self.average.module

    def after_batch(self) -> None:
        if self.average is not None and self.swa is None:
            self.average.update_parameters(self.model)

    def after_epoch(self, progress: float, images: Iterable[Tensor]) -> None:
        """`images` are those on which batch normalisation measures the statistics of averaged weights."""
        if self.average is None or self.swa is None or progress < self.swa:
            return
        self.average.update_parameters(self.model)
        if batchnorm_layers(self.average):
            update_bn((lent(each, self.average.module) for each in images), self.average.module)
