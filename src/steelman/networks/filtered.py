"""A filter that stands before a network, in training and in prediction."""

from typing import Any, final

from torch import Tensor, nn

from steelman.filters.bpda import BPDA


@final
class Filtered(nn.Module):
    """network(filter(x)), through which gradients pass: those of the filter, or by BPDA where it has none.

    A filter without a gradient is no defence, so attacks as they are go through it. There are three ways to attack such
    a model, and a table names the one it means: through the filter, any attack as it is; past the filter, as papers
    did, `IgnoringFilter(attack)`; as a black box, `Square`, `HopSkipJump` or `BoundaryAttack`. Judge by the worst of
    them: on digits of one bit (Linf .3, clean .92) a perceptron kept .15, .18 and .13, and .90 where gradients did not
    pass.

    filter   any module from images to images of the same shape. The identity stands in for it in the backward pass (it
             is put into `BPDA`), unless it is a `BPDA` with a stand-in of its own, or says by an attribute
             `differentiable` that its own gradient is to be used, as `MedianSmoothing` does
    network  from the filtered images to logits; a `Preprocessed` one has its preprocessing behind the filter

    The weights of the network alone load too, so that training can start from one without a filter.
    """

    def __init__(self, filter: nn.Module, network: nn.Module) -> None:
        super().__init__()
        passes = isinstance(filter, BPDA) or getattr(filter, "differentiable", False)
        self.filter = filter if passes else BPDA(filter)
        self.network = network
        self.register_load_state_dict_pre_hook(_accept_bare)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.filter(x))


def _accept_bare(model: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Weights by the network's own names get those that they have here."""
    assert isinstance(model, Filtered)
    names = list(model.network.state_dict())
    if all(prefix + name in state for name in names):
        for name in names:
            state[f"{prefix}network.{name}"] = state.pop(prefix + name)
