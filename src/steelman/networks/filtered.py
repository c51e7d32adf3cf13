"""A filter before a network, in training and in prediction."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from steelman.filters.bpda import with_gradient


@final
class Filtered(nn.Module):
    """network(filter(x)), with the filter's gradient, or by BPDA that of an approximation where it has none.

    A filter without a gradient is no defence. Such a model can be attacked in three ways: through the filter, by any
    attack as it is; past the filter, as papers did, by `IgnoringFilter(attack)`; as a black box, by `Square`,
    `HopSkipJump` or `BoundaryAttack`. Report the worst of them: on digits of one bit (Linf .3, clean .92) the robust
    accuracy of a perceptron was .15, .18 and .13, and .90 where no gradient passed the filter.

    filter   any module from images to what the network takes. Its gradient is its own where it is a `BPDA`, or has an
             attribute `differentiable` that is true, as `MedianSmoothing` has. Otherwise it is put into `BPDA`: with
             its method `stand_in(x)`, where it has one, as `Thermometer` has; else with the identity. A filter that
             changes the shape needs one or the other. One that draws random numbers says so by a class attribute
             `random` that is true
    network  from the filtered images to logits; a `Preprocessed` one has its preprocessing after the filter

    A state dict of the network alone loads too, so that training can start from one without a filter.
    """

    def __init__(self, filter: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.filter = with_gradient(filter)
        self.network = network
        self.register_load_state_dict_pre_hook(_accept_bare)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.filter(x))


def filtered_shape(filter: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape that a filter gives images of another one; it is asked once with an image of zeros.

    A filter that answers only once it is fitted has a method `out_shape(shape)`.

    Raises:
        ValueError: the filter cannot take the shape; it changes it and has no gradient for that.
    """
    if (known := getattr(filter, "out_shape", None)) is not None:
        return tuple(known(tuple(shape)))
    with torch.random.fork_rng([]), torch.enable_grad():
        x = torch.zeros(1, *shape, requires_grad=True)
        y = with_gradient(filter)(x)
        y.sum().backward()
    return tuple(y.shape[1:])


def _accept_bare(model: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Gives the weights of a network without a filter the names that they have here."""
    assert isinstance(model, Filtered)
    names = list(model.network.state_dict())
    if all(prefix + name in state for name in names):
        for name in names:
            state[f"{prefix}network.{name}"] = state.pop(prefix + name)
        for name, value in model.filter.state_dict().items():  # the filter stays as it is
            state.setdefault(f"{prefix}filter.{name}", value)
