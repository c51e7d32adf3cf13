"""Networks by name, of this package and of one's own."""

import pytest
import torch
from torch import nn

from steelman.networks import MLP, LeNet, SubtractMean, build

NETWORKS = [MLP, LeNet]


def test_build_by_name() -> None:
    assert isinstance(build("MLP", shape=(1, 8, 8), classes=4, hidden=(3,)), MLP)
    assert isinstance(build("SubtractMean", shape=(1, 8, 8), classes=4), SubtractMean)
    torch.manual_seed(5)
    first = build("LeNet", shape=(1, 28, 28), classes=4)
    torch.manual_seed(5)
    second = LeNet(classes=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def own(shape: tuple[int, ...], width: int = 2) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1], width))


def test_build_by_module_and_function() -> None:
    model = build(f"{__name__}:own", shape=(1, 8, 1), classes=4, width=5)
    assert model(torch.rand(2, 1, 8, 1)).shape == (2, 5)
    assert isinstance(build("torch.nn:Identity", shape=(1, 2, 2), classes=3), nn.Identity)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lenet", {}, "no network 'lenet'; did you mean LeNet"),
        ("MPL", {}, "did you mean MLP"),
        ("zzz", {}, r"there are AlexNet, .*CNN, CarliniNet, ConvNet"),
        ("MLP", {"widths": (3,)}, "MLP has no option 'widths'; it takes hidden"),
        ("LeNet", {"dropout": 0.5}, "it takes gain"),
        ("LeNet5", {"dropout": 0.5}, "it takes none"),
        (f"{__name__}:owm", {}, "did you mean own"),
        (f"{__name__}:NETWORKS", {}, "cannot be called"),
        (f"{__name__}:own", {"depth": 2}, "it takes width"),
        (f"{__name__}:not_a_network", {"model": MLP()}, "made a set"),
        ("no_such_module:f", {}, "no module named 'no_such_module'"),
        ("MLP:", {}, "not of the form"),
    ],
)
def test_build_refuses(kind: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(kind, shape=(1, 28, 28), classes=10, **options)


def not_a_network(model: nn.Module) -> set[str]:
    return set()
