"""Parseval training against autograd, singular values and convolutions written out as matrices."""

import copy

import pytest
import torch
from torch import Tensor, nn

from every_defence import first, images, network
from steelman import FGSM, AdversarialTraining, Batch, Parseval, Plain
from steelman.training import play


def pulled(defence: Parseval, net: nn.Module, times: int = 1) -> nn.Module:
    net, chance = copy.deepcopy(net), torch.Generator().manual_seed(0)
    for _ in range(times):
        defence.pull(net, chance)
    return net


def linear(rows: int, columns: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(columns, rows).double()


def frame_error(matrix: Tensor) -> Tensor:
    return (matrix @ matrix.T - torch.eye(len(matrix), dtype=matrix.dtype)).square().sum()


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_a_pull_is_a_gradient_step_on_a_quarter_of_the_frame_error(shape: tuple[int, int]):
    layer = linear(*shape)
    (gradient,) = torch.autograd.grad(frame_error(layer.weight) / 4, layer.weight)
    (other,) = torch.autograd.grad(frame_error(layer.weight.T) / 4, layer.weight)
    torch.testing.assert_close(gradient, other)  # |W^T W - I|^2 differs by a constant only
    ours = pulled(Parseval(beta=0.03, rows=1.0), layer)
    torch.testing.assert_close(ours.weight, layer.weight - 0.03 * gradient)
    assert torch.equal(ours.bias, layer.bias)


def test_singular_values_move_as_in_the_card():
    layer = linear(4, 9)
    before, after = (torch.linalg.svdvals(each.weight) for each in (layer, pulled(Parseval(beta=0.1, rows=1.0), layer)))
    torch.testing.assert_close(after, before + 0.1 * before * (1 - before**2))


def test_a_share_of_rows_is_pulled_alone():
    layer = linear(10, 20)
    ours = pulled(Parseval(beta=0.1, rows=0.3), layer).weight
    moved = torch.where((ours != layer.weight).any(1))[0]
    assert len(moved) == 3
    rows = layer.weight.detach()[moved].requires_grad_()
    (gradient,) = torch.autograd.grad(frame_error(rows) / 4, rows)
    torch.testing.assert_close(ours[moved], rows - 0.1 * gradient)
    assert bool((pulled(Parseval(beta=0.1, rows=0.01), layer).weight != layer.weight).any(1).sum() == 1)


@pytest.mark.parametrize("rows", [0.3, 1.0])
def test_a_wide_matrix_becomes_a_tight_frame(rows: float):
    layer, errors = linear(10, 20), []
    for times in (0, 30, 100, 300, 1000):
        errors.append(frame_error(pulled(Parseval(beta=0.1, rows=rows), layer, times).weight).item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6 < 1 < errors[0]


def test_a_tall_matrix_gets_orthonormal_columns_but_no_frame():
    tall = pulled(Parseval(beta=0.1, rows=1.0), linear(20, 10), 1000).weight.detach()
    assert float(frame_error(tall.T)) < 1e-6
    assert float(frame_error(tall)) == pytest.approx(10)  # 20 rows in 10 dimensions: nothing is smaller


def gain(layer: nn.Conv2d) -> float:
    """The largest singular value of the convolution of a whole image, by its matrix."""
    pixels = torch.eye(layer.in_channels * 64, dtype=torch.float64).reshape(-1, layer.in_channels, 8, 8)
    answer = nn.functional.conv2d(pixels, layer.weight, padding=layer.padding, groups=layer.groups)
    return torch.linalg.matrix_norm(answer.flatten(1), 2).item()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_pulled_as_a_matrix_and_with_its_scale_has_gain_one(groups: int):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, padding=1, groups=groups).double()
    with torch.no_grad():
        layer.weight[:, :, 1:] += 0.1  # smooth kernels have the largest gain
    plain, scaled = (pulled(Parseval(beta=0.05, rows=1.0, conv_scale=scale), layer, 1500) for scale in (False, True))
    for net, size in ((plain, 1.0), (scaled, 3.0)):
        for matrix in net.weight.flatten(1).chunk(groups):
            assert frame_error(size * matrix).item() < 1e-6
    assert gain(plain) > 1.2
    assert gain(scaled) <= 1 + 1e-9


def test_the_order_of_a_weight_in_memory_makes_no_difference():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3).double()
    last = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    one, other = (pulled(Parseval(beta=0.1), each).weight for each in (layer, last))
    torch.testing.assert_close(one, other)
    assert not torch.equal(one, layer.weight)


def test_only_weights_that_learn_are_pulled_and_shared_ones_once():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(18, 5), nn.PReLU(), nn.Linear(5, 5)
    ).double()
    net.append(nn.Linear(5, 5).double())
    net[6].weight = net[5].weight
    net[3].weight.requires_grad_(False)
    ours = pulled(Parseval(beta=0.1, rows=1.0), net)
    moved = [name for name, value in net.state_dict().items() if not torch.equal(value, ours.state_dict()[name])]
    assert moved == ["0.weight", "5.weight", "6.weight"]
    weight = net[5].weight
    torch.testing.assert_close(ours[5].weight, 1.1 * weight - 0.1 * weight @ weight.T @ weight)
    assert all(parameter.requires_grad for name, parameter in ours.named_parameters() if name != "3.weight")


def trained(defence: Parseval | Plain | AdversarialTraining, batch: Batch) -> nn.Module:
    net = network()
    play(defence.setup(net, images()), net, batch, torch.optim.SGD(net.parameters(), lr=0.1))
    return net


@pytest.mark.parametrize("objective", [Plain(), AdversarialTraining(FGSM(eps=0.1))])
def test_it_pulls_after_the_step_of_its_objective(objective: Plain | AdversarialTraining):
    batch = first(12)
    wanted = trained(objective, batch)
    Parseval(beta=0.1).pull(wanted, torch.Generator().manual_seed(batch.common))
    ours = trained(Parseval(objective, beta=0.1), batch)
    assert torch.equal(ours.fc1.weight, wanted.fc1.weight)
    assert not torch.equal(ours.fc1.weight, trained(objective, batch).fc1.weight)


def test_the_rows_are_those_of_the_number_that_processes_share():
    batch = first(12)
    one, other = (trained(Parseval(beta=0.1), Batch(batch.x, batch.y, common=number)) for number in (1, 2))
    again = trained(Parseval(beta=0.1), Batch(batch.x, batch.y, common=1))
    assert torch.equal(one.fc1.weight, again.fc1.weight)
    assert not torch.equal(one.fc1.weight, other.fc1.weight)


def test_a_network_without_matrices_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert Parseval().setup(net, images()) == Parseval()
    net[1].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="Sequential has none that learn"):
        Parseval().setup(net, images())
