"""Gradient checkpointing, which runs a network again in the backward pass: the plain network's update, or a refusal."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from every_defence import DEFENCES, Changeable, first, images, seated, suited
from steelman import VAT, YOPO, DeepDefense, Plain, TradesYOPO, fit
from steelman.defences import Game
from steelman.training import play


class Checkpointed(Changeable):
    """`always`, or as most networks that can be: in train mode alone."""

    always = True

    def forward(self, x: Tensor) -> Tensor:
        if not (self.always or self.training):
            return super().forward(x)
        return checkpoint(super().forward, x, use_reentrant=False)


class InTraining(Checkpointed):
    always = False


def network(kind: type[Changeable], parts: str) -> Changeable:
    """With batch normalisation, dropout, or neither."""
    torch.manual_seed(0)
    model = kind()
    if parts != "batch normalisation":
        model.norm = nn.GroupNorm(2, 16)  # pyright: ignore[reportAttributeAccessIssue]
    if parts != "dropout":
        model.drop = nn.Dropout(0.0)
    return model.double()


def update(name: str, model: Changeable) -> tuple[list[Tensor], int]:
    """What one batch adds to each weight, and how often running statistics were moved."""
    suited(name, model)
    game, batch = DEFENCES[name].setup(model, images()), first(12, torch.float64)
    torch.manual_seed(1)
    nets, optimisers = seated(game, model)
    before = copy.deepcopy(list(nets.parameters()))
    torch.manual_seed(2)
    play(game, nets.train(), batch, optimisers)
    tracked = getattr(model.norm, "num_batches_tracked", 0)
    return [new.detach() - old.detach() for new, old in zip(nets.parameters(), before, strict=True)], int(tracked)


@pytest.mark.parametrize("parts", ["batch normalisation", "dropout", "neither"])
@pytest.mark.parametrize("name", DEFENCES)
def test_a_checkpointed_network_learns_as_without_or_is_refused(name: str, parts: str):
    expected, passes = update(name, network(Changeable, parts))
    refused = None
    try:
        got, again = update(name, network(Checkpointed, parts))
    except ValueError as error:
        refused, got, again = str(error), expected, passes
    assert refused is None or "gradient checkpointing" in refused
    assert refused is None or parts != "neither" or any(word in name for word in ("yopo", "pgn", "layer"))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    if "awp" in name:
        assert again <= 2 * passes  # each training pass runs twice, and no other does


@pytest.mark.parametrize("defence", [DeepDefense(), VAT(), YOPO(), TradesYOPO()], ids=str)
@pytest.mark.parametrize("parts", ["batch normalisation", "dropout"])
def test_it_is_refused_before_training(defence: Game, parts: str):
    model = network(InTraining, parts).float().train()
    before, chance = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(ValueError, match=r"InTraining uses gradient checkpointing.*Switch checkpointing off"):
        defence.setup(model, images())
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), chance)
    fit(model, images(), Plain(), progress=False)


def test_hooks_that_run_nothing_again_are_allowed():
    """Such as those that keep tensors elsewhere while they are not needed."""
    expected, _ = update("deep defense", network(Changeable, "dropout"))
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda kept: kept):
        got, _ = update("deep defense", network(Changeable, "dropout"))
    torch.testing.assert_close(got, expected)
