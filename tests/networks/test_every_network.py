"""Every classifier that a recipe can describe: its answer, gradient and randomness, an image alone and in a batch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steelman.layout import channels_last
from steelman.networks.building import _ENSEMBLES, _KINDS, _RANDOM, network_of
from steelman.randomness import is_random

NO_CLASSIFIERS = ("PixelCNN", "GANGenerator", "GANCritic", "MLPGenerator", "MLPCritic", "DenoisingAutoencoder")
SMALL: dict[str, dict[str, Any]] = {"WideResNet": {"depth": 10, "width": 1}, "ODENet": {"width": 4, "stem": [4, 4]}}
RESIDUAL: dict[str, Any] = {"kind": "WideResNet", **SMALL["WideResNet"]}
TABLES = [
    *(
        {"kind": kind, **SMALL.get(kind, {})}
        for kind, made in _KINDS.items()
        if made.__module__.startswith("steelman.networks.")
        and made.__module__.rpartition(".")[2] not in ("preprocess", "input_form")
        and kind not in NO_CLASSIFIERS
    ),
    *({"kind": "ODENet", **SMALL["ODENet"], "variant": each} for each in ("cnn", "tisode")),
    {"kind": "ODENet", **SMALL["ODENet"], "fdn": "gaussian"},
    {**RESIDUAL, "denoise": ["stage1", "stage2"]},
    {**RESIDUAL, "stochastic_pruning": {}},
    {**RESIDUAL, "self_ensemble": {}},
    {**RESIDUAL, "noisy_blocks": {"c": 0.3}},
    {"kind": "SmallCNN", "active_dropout": {}},
    {"kind": "MLP", "hidden": [5], "bayesian": {"sigma_0": 0.1, "std": 0.1}},
    {"kind": "MLP", "hidden": [5], "bayesian": {"layers": "last"}, "draws": 4},
    {"kind": "MLP", "hidden": [5], "filter": {"kind": "RandomResizePad", "low": 30, "out": 34}},
    {"kind": "LogitEnsemble", "members": [{**RESIDUAL, "noisy_blocks": {"c": 0.3}}, RESIDUAL]},
    {"kind": "Ensemble", "members": [{"kind": "MLP"}, {"kind": "LeNet"}]},
    {"kind": "MLP", "preprocess": "StandardiseImage"},
]


def _name(table: dict[str, Any]) -> str:
    return "-".join([table["kind"], *(f"{key}" for key in table if key not in ("kind", "depth", "width", "stem"))])


every = pytest.mark.parametrize("table", TABLES, ids=_name)


def made(table: dict[str, Any]) -> tuple[nn.Module, Tensor]:
    shape = (3, 67, 67) if table["kind"] == "AlexNet" else (3, 32, 32)
    torch.manual_seed(0)
    network = network_of(table, shape, 10).eval()
    with torch.no_grad():
        for each in network.parameters():
            if not bool(each.any()):  # a last layer of zeros answers the same for all
                each.normal_(0, 0.1)
    return network, torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def seeded(network: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return network(x)


def test_all_are_here() -> None:
    text = repr(TABLES)
    assert [key for key in (*_RANDOM, *_ENSEMBLES) if repr(key) not in text] == []


@every
def test_an_answer_is_logits_and_images_stay(table: dict[str, Any]) -> None:
    network, x = made(table)
    before = x.clone()
    logits = seeded(network, x)
    assert logits.shape == (3, 10)
    assert logits.dtype == x.dtype
    assert logits.isfinite().all()
    assert torch.equal(x, before)


@every
def test_a_gradient_reaches_every_image(table: dict[str, Any]) -> None:
    network, x = made(table)
    x.requires_grad_()
    torch.manual_seed(0)
    (gradient,) = torch.autograd.grad(network(x).log_softmax(1)[:, 0].sum(), x)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@every
def test_it_is_random_if_it_says_so(table: dict[str, Any]) -> None:
    network, x = made(table)
    first = seeded(network, x)
    assert torch.equal(first, seeded(network, x))
    assert torch.equal(first, seeded(network, x, 1)) != is_random(network)


@every
def test_an_image_is_the_same_alone(table: dict[str, Any]) -> None:
    """And the images of a batch draw for themselves, where it is random."""
    network, x = made(table)
    if is_random(network):
        same = seeded(network, x[:1].expand(6, -1, -1, -1).contiguous())
        assert len(same.unique(dim=0)) > 1
        return
    whole = seeded(network, x)
    for row in range(3):
        torch.testing.assert_close(seeded(network, x[row : row + 1])[0], whole[row], rtol=1e-4, atol=1e-5)


@every
def test_the_channel_last_in_memory_changes_rounding_alone(table: dict[str, Any]) -> None:
    network, x = made(table)
    plain = seeded(network, x)
    with torch.no_grad(), channels_last(network, x) as done:
        assert done == (not is_random(network) and any(type(each) is nn.Conv2d for each in network.modules()))
        torch.testing.assert_close(seeded(network, x), plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(seeded(network, x), plain)
