"""Bounded ReLU, in any network."""

import math
from typing import TypeVar, final

from torch import Tensor, nn
from torch.nn.functional import hardtanh

Network = TypeVar("Network", bound=nn.Module)


@final
class BoundedReLU(nn.Module):
    """Bounded ReLU: min(max(x, 0), t).

    Its derivative is 1 inside (0, t) and 0 elsewhere; at 0 and t it is 0, as ReLU's is at 0. `torch.clamp` has 1 there,
    which matters: where pixels and bias are 0, so is the input.

    t  the bound, > 0, default 1 (paper)

    A unit's output cannot change by more than t, however large the perturbation. So logits z = W h + b over such units
    obey |z_k(x + d) - z_k(x)| <= t |W_k|_1 for every d; below, min(t, sum_j |w_j| |d_j|) bounds each unit's change.

    Cost: that of a ReLU.
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, section 3; Shan Sung Liew, Mohamed Khalil-Hani and Rabia Bakhteri, "Bounded activation
    functions for enhanced training stability of deep neural networks on visual pattern recognition problems",
    Neurocomputing 2016.

    Raises:
        ValueError: t is not a number above 0.
    """

    def __init__(self, t: float = 1.0) -> None:
        super().__init__()
        if not 0 < t < math.inf:
            raise ValueError(f"BoundedReLU needs a bound t above 0 and below infinity; got {t}")
        self.t = float(t)

    def forward(self, x: Tensor) -> Tensor:
        return hardtanh(x, 0.0, self.t)

    def extra_repr(self) -> str:
        return f"t={self.t:g}"


def bounded_relus(network: Network, t: float = 1.0) -> Network:
    """The same network, with every `nn.ReLU` in it replaced by `BoundedReLU(t)`, in place.

    A ReLU that is used in several places stays one layer. Parameters and their names do not change, so a checkpoint of
    either network loads into the other.

    Raises:
        ValueError: t is not above 0, or the network has no `nn.ReLU`. Functional ReLUs (`x.relu()`, `torch.relu(x)`,
            `functional.relu(x)`) cannot be replaced.
    """
    bounded: dict[nn.Module, BoundedReLU] = {}
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, bounded.setdefault(child, BoundedReLU(t).train(child.training)))
    if not bounded:
        raise ValueError(
            f"{type(network).__name__} has no nn.ReLU to replace; functional ReLUs such as x.relu() cannot be "
            "replaced: make them modules (self.relu = nn.ReLU())"
        )
    return network
