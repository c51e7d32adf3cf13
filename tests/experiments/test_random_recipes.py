"""Random networks from a recipe's words, and their trainings: which settings they have, and from where they begin."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steelman.experiments import run as rooms
from steelman.networks import (
    ActiveDropout,
    AddedNoise,
    Bayesian,
    Filtered,
    LogitEnsemble,
    MeanOfDraws,
    Preprocessed,
    RelativeNoise,
    StochasticPruning,
)
from steelman.networks.building import network_of

SHAPE = (1, 28, 28)
BLOCKS = {"kind": "WideResNet", "depth": 10, "width": 1, "noisy_blocks": {"c": 0.2}}


def made(**settings: Any) -> nn.Module:
    return network_of({"kind": "LeNet5", **settings}, SHAPE, 10).eval()


def layers(network: nn.Module, kind: type) -> list[Any]:
    return [each for each in network.modules() if isinstance(each, kind)]


def test_each_key_has_its_settings():
    pruned = made(stochastic_pruning={"frac": 2.0, "variant": "code", "through": False})
    assert {(each.frac, each.variant, each.through) for each in layers(pruned, StochasticPruning)} == {
        (2, "code", False)
    }
    noisy = made(self_ensemble={"first": 0.5}, preprocess="StandardiseImage", filter="MedianSmoothing", draws=4)
    assert isinstance(noisy, MeanOfDraws)
    assert noisy.draws == 4
    assert isinstance(noisy.network, Filtered)
    assert isinstance(noisy.network.network, Preprocessed)
    assert [each.std for each in layers(noisy, AddedNoise)] == [0.5, 0.1, 0.1]
    last = made(bayesian={"layers": "last", "sigma_0": 0.3, "std": 0.05, "shared": True})
    assert [(each.sigma_0, each.shared) for each in layers(last, Bayesian)] == [(0.3, True)]
    assert len(layers(made(kind="SmallCNN", active_dropout={}), ActiveDropout)) == 1
    both = network_of({"kind": "LogitEnsemble", "members": [BLOCKS, BLOCKS], "draws": 2}, SHAPE, 10)
    assert isinstance(both, MeanOfDraws)
    assert isinstance(both.network, LogitEnsemble)
    assert [each.c for each in layers(both, RelativeNoise)] == [0.2] * 6
    bounded = made(bounded_relu=0.5, stochastic_pruning={"frac": 1e9})(torch.rand(2, *SHAPE))
    assert bounded.shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, r"network\.draws: MeanOfDraws needs a whole number of draws from 1 up; got 0"),
        (
            {"self_ensemble": True},
            r"network: self_ensemble needs a table of its settings \(first, others\), .*got True",
        ),
        ({"self_ensemble": {"third": 1.0}}, "self_ensemble has no setting 'third'; it takes first, others"),
        ({"stochastic_pruning": {"frac": -1.0}}, r"network: StochasticPruning needs a frac above 0 .*; got -1\.0"),
        ({"noisy_blocks": {}}, "network: LeNet5 has no Residual block"),
        ({"kind": "Ensemble", "members": [BLOCKS], "bayesian": {}}, "Ensemble has members, .* and nothing else"),
        ({"kind": "LogitEnsemble", "members": []}, "LogitEnsemble needs at least one member"),
    ],
)
def test_invalid_settings_name_their_key(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        made(**settings)


BASE = """
data = "Digits"
network = { kind = "WideResNet", depth = 10, width = 1 }
defence = "Plain"
training = { iterations = 3, batch_size = 32, seed = 3, optimiser = { kind = "SGD", lr = 0.05 } }
"""


def test_a_random_network_begins_from_one_that_is_not(tmp_path: Path):
    (tmp_path / "base.toml").write_text(BASE)
    change = 'base = "base.toml"\nstart = "base.toml"\nwithout = ["training.iterations"]\ntraining.epochs = 0\n'
    for name, settings in {
        "pruned": "stochastic_pruning = { frac = 1.0 }\nnetwork.draws = 3",
        "noisy": "self_ensemble = {}\nnetwork.noisy_blocks = { c = 0.1 }",
        "filtered": 'filter = "BitDepth"\nnetwork.draws = 2',
    }.items():
        (tmp_path / f"{name}.toml").write_text(f"{change}network.{settings}\n")
        run = rooms.train(str(tmp_path / f"{name}.toml"), tmp_path / "runs", None)
        data = run.data("test", None)
        start = rooms.Run.open(tmp_path / "runs" / "base").network(data).state_dict()
        network = run.network(data)
        assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), start.values(), strict=True))
        (batch,) = data.subset(torch.arange(5)).in_order(5)
        assert torch.equal(network(batch.x), network(batch.x)) == (name == "filtered")


def test_a_bayesian_network_does_not_begin_from_weights_without_deviations(tmp_path: Path):
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "mine.toml").write_text('base = "base.toml"\nstart = "base.toml"\nnetwork.bayesian = {}\n')
    with pytest.raises(ValueError, match="both need the same bayesian"):
        rooms.train(str(tmp_path / "mine.toml"), tmp_path / "runs", None)
