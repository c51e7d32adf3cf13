"""An ensemble's vote against a loop, its gradient against that of the mean softmax, and its place in `evaluate`."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from steelman import PGD, evaluate
from steelman.networks import MLP, Ensemble, Preprocessed, StandardiseImage, WideResNet
from steelman.networks.ensemble import LogitEnsemble, _voted
from steelman.networks.random_layers import noisy_blocks

SHAPE = (1, 3, 3)


def members(count: int, classes: int = 4, scale: float = 4.0) -> list[nn.Module]:
    torch.manual_seed(count)
    networks = [MLP(shape=SHAPE, classes=classes, hidden=(6,)).double() for _ in range(count)]
    with torch.no_grad():
        for network in networks:
            for each in network.parameters():
                each.mul_(scale)
    return list(networks)


def images(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def voted(networks: list[nn.Module], image: Tensor) -> tuple[int, bool]:
    """The class that a plain count elects, and whether the mean softmax had to break a tie."""
    probabilities = [network(image[None])[0].softmax(0) for network in networks]
    votes: dict[int, int] = {}
    for each in probabilities:
        votes[int(each.argmax())] = votes.get(int(each.argmax()), 0) + 1
    most = [label for label, count in votes.items() if count == max(votes.values())]
    return max(most, key=lambda label: sum(float(each[label]) for each in probabilities)), len(most) > 1


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@torch.no_grad()
def test_the_vote_is_that_of_a_loop(count: int) -> None:
    networks, x = members(count), images(150)
    logits = Ensemble(networks)(x)
    elected = [voted(networks, image) for image in x]
    assert logits.argmax(1).tolist() == [label for label, _ in elected]
    mean = torch.stack([network(x).softmax(1) for network in networks]).mean(0)
    agree = logits.argmax(1) == mean.argmax(1)
    torch.testing.assert_close(logits[agree], mean[agree].log())
    torch.testing.assert_close(logits.logsumexp(1), torch.zeros(150, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(logits.sort(1).values, mean.log().sort(1).values)
    if count > 2:
        assert 0 < (~agree).sum() < 150
    if count in (2, 8):
        assert any(tied for _, tied in elected)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_gradients_are_those_of_the_log_of_the_mean_softmax(count: int) -> None:
    networks, x = members(count), images(40)
    ensemble = Ensemble(networks)

    def mean(x: Tensor) -> Tensor:
        return torch.stack([network(x).softmax(1) for network in networks]).mean(0).log()

    torch.testing.assert_close(jacobian(lambda x: ensemble(x).sum(0), x), jacobian(lambda x: mean(x).sum(0), x))
    agree = ensemble(x).argmax(1) == mean(x).argmax(1)
    assert agree.any()
    x, y = x[agree].requires_grad_(), torch.arange(int(agree.sum())) % 4
    loss = nn.functional.cross_entropy(ensemble(x), y, reduction="sum")
    expected = -mean(x).gather(1, y[:, None]).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(expected, x))


class Says(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.get_buffer("logits").expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("said", "winner"),
    [
        ([(9.0, 0.0, 0.0), (0.0, 0.1, 0.0), (0.0, 0.1, 0.0)], 1),  # outvoted, although surer
        ([(9.0, 0.0, 0.0), (0.0, 0.1, 0.0)], 0),  # a tie: the surer one
        ([(1.0, 1.0, 0.0)], 0),
        ([(3.0, 0.0, 0.0), (0.0, 0.0, 3.0), (0.0, 1.0, 0.9), (0.0, 1.0, 0.9)], 1),
        ([(1e4, 0.0, -1e4), (-1e4, 0.0, 1e4), (-1e4, 0.0, 1e4)], 2),
    ],
)
def test_votes_by_hand(said: list[tuple[float, ...]], winner: int) -> None:
    logits = Ensemble(Says(*each) for each in said)(torch.rand(2, *SHAPE))
    assert logits.isfinite().all()
    assert logits.argmax(1).tolist() == [winner, winner]
    others = logits[0].tolist()
    assert others.pop(winner) > max(others) or len(said) == 1


def test_equal_means_do_not_outweigh_the_vote() -> None:
    each = torch.tensor([[[0.9, 0.1]], [[0.3, 0.7]], [[0.3, 0.7]]]).log()
    (logits,) = _voted(each, torch.full((1, 2), math.log(0.5)))
    assert logits[1] > logits[0]
    torch.testing.assert_close(logits, torch.full((2,), math.log(0.5)))


def test_it_is_attacked_and_evaluated_like_any_network() -> None:
    networks = [Preprocessed(StandardiseImage(), each).float() for each in members(3)]
    ensemble = Ensemble(networks).train()
    networks[1].eval()
    ensemble.requires_grad_(True)
    x = images(30).float()
    with torch.no_grad():
        y = ensemble(x).argmax(1)
    table = evaluate(ensemble, (x, y), {"PGD": PGD(eps=0.3)}, progress=False)
    right = table["label"] == table["prediction"]
    assert right[table["attack"] == "clean"].all()
    assert right[table["attack"] == "PGD"].mean() < 0.7
    assert [each.training for each in networks] == [True, False, True]
    assert all(each.requires_grad and each.grad is None for each in ensemble.parameters())
    assert next(iter(ensemble.state_dict())).startswith("members.0.")


def test_the_mean_of_logits_and_its_gradients() -> None:
    networks, x = members(3), images(20).requires_grad_()
    ensemble = LogitEnsemble(networks)
    wanted = sum(network(x) for network in networks) / 3
    torch.testing.assert_close(ensemble(x), wanted)
    found, expected = (
        torch.autograd.grad(each[:, 1].sum(), [x, *ensemble.parameters()]) for each in (ensemble(x), wanted)
    )
    torch.testing.assert_close(found, expected)
    assert next(iter(ensemble.state_dict())).startswith("members.0.")


def test_noisy_blocks_of_strength_zero_are_a_plain_ensemble() -> None:
    torch.manual_seed(0)
    networks = [WideResNet(shape=(1, 8, 8), depth=10, width=1).double().eval() for _ in range(2)]
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    wanted = (networks[0](x) + networks[1](x)) / 2
    torch.testing.assert_close(LogitEnsemble(noisy_blocks(each, 0.0) for each in networks)(x), wanted)


@pytest.mark.parametrize(("wrong", "message"), [([], "at least one member"), ([MLP(), "LeNet"], "networks; got a str")])
def test_what_is_no_ensemble_is_refused(wrong: list, message: str) -> None:
    for kind in (Ensemble, LogitEnsemble):
        with pytest.raises(ValueError, match=message):
            kind(each for each in wrong)  # of an iterator, the tests' type checks see no members


def test_members_with_different_classes_are_refused() -> None:
    ensemble = Ensemble([MLP(shape=SHAPE, classes=3), MLP(shape=SHAPE, classes=4)])
    with pytest.raises(ValueError, match=r"different shapes per image: \[\(3,\), \(4,\)\]"):
        ensemble(torch.rand(2, *SHAPE))
