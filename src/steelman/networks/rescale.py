"""A fixed shift and scale."""

from typing import final

from torch import Tensor, nn


@final
class Rescale(nn.Module):
    """scale * (x - shift): pixels to the range that a paper's network was made for. It learns and stores nothing.

    shift  default 0; .5 takes [0, 1] to [-.5, .5]
    scale  default 1
    """

    def __init__(self, *, shift: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x - self.shift)

    def extra_repr(self) -> str:
        return f"shift={self.shift}, scale={self.scale}"
