"""The prediction of a random network by several draws."""

import math
from typing import Any, final

import torch
from torch import nn
from torch.nn.functional import log_softmax

from steelman.forward import logits_of
from steelman.types import Images, Logits


@final
class MeanOfDraws(nn.Module):
    """A random network's mean prediction: log (1/T) sum_t softmax(z_t(x)), where each z_t is a new draw.

    In train mode it is the network itself, with one draw, as such networks are trained.

    network  any network that draws random numbers in evaluation mode; its weights load by their names there too
    draws    T, default 10 (RSE's and Adv-BNN's code evaluate with 50, SAP's with 100)

    The mean of T draws is random too, with a T-th of the variance. Its gradient is that of the mean, which is what
    `EOT` estimates, so an attack on it needs `EOT` only where T is small.

    Cost: T forward passes, one after the other, since a layer may draw once for all images.
    Reference: Xuanqing Liu, Minhao Cheng, Huan Zhang and Cho-Jui Hsieh, "Towards robust neural networks via random
    self-ensemble", ECCV 2018; Guneet S. Dhillon, Kamyar Azizzadenesheli, Zachary C. Lipton, Jeremy
    Bernstein, Jean Kossaifi, Aran Khanna and Anima Anandkumar, "Stochastic activation pruning for robust adversarial
    defense", ICLR 2018.

    Raises:
        ValueError: draws is not a whole number from 1 up.
    """

    def __init__(self, network: nn.Module, draws: int = 10) -> None:
        super().__init__()
        if not (isinstance(draws, int) and not isinstance(draws, bool) and draws >= 1):
            raise ValueError(f"MeanOfDraws needs a whole number of draws from 1 up; got {draws!r}")
        self.network, self.draws = network, draws
        self.register_load_state_dict_pre_hook(_accept_bare)

    def forward(self, x: Images) -> Logits:
        if self.training:
            return logits_of(self.network, x)
        each = torch.stack([log_softmax(logits_of(self.network, x), 1) for _ in range(self.draws)])
        return each.logsumexp(0) - math.log(self.draws)

    def extra_repr(self) -> str:
        return f"draws={self.draws}"


def _accept_bare(model: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Gives the weights of the network alone the names that they have here."""
    assert isinstance(model, MeanOfDraws)
    if not all(f"{prefix}network.{name}" in state for name in model.network.state_dict()):
        for name in [name for name in state if name.startswith(prefix)]:
            state[f"{prefix}network.{name.removeprefix(prefix)}"] = state.pop(name)
