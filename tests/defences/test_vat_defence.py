"""The VAT regulariser, written another way, and on a linear softmax model."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affine import SmallNet, images, small_net
from steelman import Batch
from steelman.defences import VAT

X, Y = images(8), torch.arange(8) % 10
BATCH = Batch(X, Y, seeds=torch.arange(8))


class Recording(nn.Module):
    """Keeps its inputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach())
        return self.net(x)


def divergence(p: Tensor, logits: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(1), p, reduction="batchmean")


def written(model: nn.Module, direction: Tensor, defence: VAT) -> Tensor:
    """Miyato's algorithm as in the paper, for a batch; batch normalisation in its mode, no dropout."""
    logits = model(X)
    p = logits.detach().softmax(1)
    d = direction
    for _ in range(defence.iterations):
        unit = d / d.flatten(1).norm(dim=1)[:, None, None, None]
        step = (defence.xi * unit).requires_grad_()
        (d,) = torch.autograd.grad(divergence(p, model(X + step)), step)
    r = defence.eps * d / d.flatten(1).norm(dim=1)[:, None, None, None]
    return F.cross_entropy(logits, Y) + defence.weight * divergence(p, model(X + r))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("defence", [VAT(eps=0.5), VAT(eps=1.0, weight=3.0, iterations=3, xi=1e-4)], ids=repr)
def test_value_and_gradient_are_those_of_another_implementation(defence: VAT, training: bool) -> None:
    model = small_net().train(training)
    model.dropout.p = 0.0
    other = copy.deepcopy(model)
    recording = Recording(model)
    ours = defence(recording, BATCH)
    start = recording.shown[1] - X  # the first step of the power iteration
    torch.testing.assert_close(start.flatten(1).norm(dim=1), torch.full((8,), defence.xi, dtype=torch.float64))
    theirs = written(other, start, defence)
    torch.testing.assert_close(ours, theirs)
    assert float((theirs - F.cross_entropy(other(X), Y)).detach()) > 1e-3, "the penalty is too small to test anything"
    torch.testing.assert_close(
        torch.autograd.grad(ours, list(model.parameters())),
        torch.autograd.grad(theirs, list(other.parameters())),
    )


def test_the_penalty_has_no_gradient_through_the_clean_prediction() -> None:
    model = small_net()
    recording = Recording(model)
    penalty = VAT(eps=1.0, weight=1.0)(recording, BATCH) - VAT(eps=1.0, weight=0.0)(model, BATCH)
    near = recording.shown[-1]
    p = model(X).softmax(1)
    wanted = torch.autograd.grad(divergence(p.detach(), model(near)), list(model.parameters()))
    torch.testing.assert_close(torch.autograd.grad(penalty, list(model.parameters())), wanted)
    through = torch.autograd.grad(divergence(p, model(near)), list(model.parameters()))
    assert not torch.allclose(through[-1], wanted[-1])


class Softmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(7)
        self.weight = nn.Parameter(torch.randn(4, 24, generator=chance, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def test_on_a_linear_softmax_the_direction_is_the_largest_eigenvector_of_the_fisher_matrix() -> None:
    """And the penalty is eps^2 / 2 times the largest eigenvalue, for small eps."""
    model = Recording(Softmax())
    weight, eps = model.net.weight.detach(), 1e-3
    y = Y % 4
    loss = VAT(eps=eps, iterations=200, xi=1e-4)(model, Batch(X, y, seeds=torch.arange(8)))
    r = (model.shown[-1] - X).flatten(1)
    penalty = 0.0
    for row, p in enumerate((X.flatten(1) @ weight.T).softmax(1)):
        values, vectors = torch.linalg.eigh(weight.T @ (p.diag() - p[:, None] * p) @ weight)
        assert values[-1] > 1.1 * values[-2]
        assert abs(float(r[row] @ vectors[:, -1])) / eps > 0.999
        penalty += eps**2 / 2 * float(values[-1]) / len(X)
    found = float(loss.detach()) - float(F.cross_entropy(model.net(X), y).detach())
    assert found == pytest.approx(penalty, rel=1e-2)


def test_its_passes_are_those_of_its_card() -> None:
    model = Recording(small_net())
    VAT(iterations=3)(model, BATCH)
    assert len(model.shown) == 1 + 3 + 1


def test_clipped_it_stays_in_the_box() -> None:
    for clip in (False, True):
        model = Recording(small_net())
        VAT(eps=2.0, clip=clip)(model, BATCH)
        near = model.shown[-1]
        assert bool(((near >= 0) & (near <= 1)).all()) == clip
        assert float((near - X).flatten(1).norm(dim=1).max()) == pytest.approx(2.0)


def test_running_statistics_move_once_and_dropout_does_not_count_as_divergence() -> None:
    model: SmallNet = small_net().train()
    before = int(model.normalisation.num_batches_tracked or 0)
    torch.manual_seed(0)
    penalised = VAT(eps=0.0)(model, BATCH)
    assert int(model.normalisation.num_batches_tracked or 0) == before + 1
    model = small_net().train()
    torch.manual_seed(0)
    torch.testing.assert_close(penalised, VAT(eps=0.0, weight=0.0)(model, BATCH), rtol=0, atol=1e-12)
    assert model.training


def test_the_direction_is_a_draw_of_the_images_seed() -> None:
    model = Recording(small_net())
    whole = VAT()
    whole(model, BATCH)
    full = model.shown[-1]
    model.shown.clear()
    whole(model, BATCH[torch.tensor([6, 1])])
    torch.testing.assert_close(model.shown[-1], full[[6, 1]])
    assert not torch.allclose(full, X)
