"""The first layer cut off, layers that learn, and frozen batch normalisation."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from steelman.networks import (
    MLP,
    NIN,
    BoundedReLU,
    Filtered,
    LeNet,
    Preprocessed,
    SmallCNN,
    batchnorm_layers,
    bounded_relus,
    freeze_batchnorm,
    only_trainable,
)
from steelman.networks.surgery import Stem, split_stem

torch.manual_seed(0)  # a unit that is 0 on all images would pass no gradient
TWO = {"fc1": nn.Linear(6, 4), "fc2": nn.Linear(4, 3)}


def chain(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def images(*shape: int) -> Tensor:
    return torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """conv2 is passed by, and relu runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
        self.unused, self.fc = nn.Linear(2, 2), nn.Linear(4 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        return self.fc(self.relu(self.conv2(self.relu(h)) + h).flatten(1))


class Halving(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


class Rounding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.round()


@pytest.mark.parametrize(
    ("network", "shape", "after"),
    [
        (MLP(shape=(1, 6, 6), hidden=(8,)), (1, 6, 6), "relu1"),
        (LeNet(), (1, 28, 28), "conv1"),
        (SmallCNN(), (1, 28, 28), "relu1"),
        (bounded_relus(SmallCNN()), (1, 28, 28), "relu1"),
        (Residual(), (1, 6, 6), "conv1"),
        (chain(block=chain(fc=nn.Linear(6, 4), act=nn.Tanh()), fc=nn.Linear(4, 3)), (6,), "block.act"),
        (chain(fc1=nn.Linear(6, 4), relu=nn.ReLU(inplace=True), fc2=nn.Linear(4, 3)), (6,), "relu"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_the_first_layer_is_found(network: nn.Module, shape: tuple[int, ...], after: str):
    assert split_stem(network, images(*shape)).name == after
    behind = Preprocessed(Halving(), Preprocessed(Halving(), network))
    assert split_stem(behind, images(*shape)).name == after


def test_a_filter_with_bpda_is_part_of_the_stem():
    network, x = chain(**TWO), images(6)
    stem = split_stem(Filtered(Rounding(), network), x)
    assert stem.name == "fc1"
    assert torch.equal(stem(x), network.fc1(x.round()))
    x.requires_grad_()
    (slope,) = torch.autograd.grad(stem(x).sum(), x)
    torch.testing.assert_close(slope, network.fc1.weight.sum(0).expand_as(x))


def test_a_stem_stops_at_the_cut_and_the_whole_does_not():
    network, x = SmallCNN().eval(), images(1, 28, 28)
    nn.init.normal_(network.fc3.weight)
    model = Preprocessed(Halving(), network)
    stem = split_stem(model, x)
    ran = []
    for module in (network.conv1, network.relu1, network.conv2):
        module.register_forward_hook(lambda module, *_: ran.append(module))
    h = stem(x)
    assert ran == [network.conv1, network.relu1]
    torch.testing.assert_close(h, network.conv1(x / 2).relu())
    for apart in (False, True):
        logits, again = stem.whole(x, apart=apart)
        assert torch.equal(logits, model(x))
        assert torch.equal(again, h)
        assert again.is_leaf == apart
        grads = torch.autograd.grad(logits.sum(), (again, network.fc3.weight, network.conv1.weight), allow_unused=True)
        assert (grads[2] is None) == apart
        wanted = network.relu1(network.conv1(x / 2)).detach().requires_grad_()
        (slope,) = torch.autograd.grad(nn.Sequential(*list(network)[2:])(wanted).sum(), wanted)
        torch.testing.assert_close(grads[0], slope)


def test_splitting_leaves_the_network_as_it_was():
    network = chain(fc1=nn.Linear(6, 4), norm=nn.BatchNorm1d(4), drop=nn.Dropout(), fc2=nn.Linear(4, 3)).train()
    network.drop.eval()
    network.fc2.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    split_stem(network, images(6))
    assert [module.training for module in network.modules()] == [True, True, True, False, True]
    assert [key for key, value in network.named_parameters() if not value.requires_grad] == ["fc2.weight"]
    assert all(value.grad is None for value in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_frozen_first_layer_can_be_cut_too():
    network = chain(fc1=nn.Linear(6, 4), fc2=nn.Linear(4, 3))
    network.fc1.requires_grad_(False)
    _, h = split_stem(network, images(6)).whole(images(6))
    assert h.is_leaf
    assert h.requires_grad


class Tuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class First(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[0]


class Deaf(nn.Module):
    """Runs its layer and does not listen."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.fc1(x)
        return self.fc2(x)


@pytest.mark.parametrize(
    ("model", "after", "message"),
    [
        (chain(**TWO), "fc3", r"Sequential has no layer 'fc3'; did you mean fc2\?"),
        (chain(**TWO), "fc2", r"cut after 'fc2': no layer that could learn comes after it; cut it after 'fc1'"),
        (chain(**TWO, relu=nn.ReLU()), "fc2", "no layer that could learn comes after it; cut it after 'fc1'"),
        (chain(flatten=nn.Flatten()), None, "Sequential has no stem"),
        (chain(fc=nn.Linear(6, 3)), None, r"'fc': no layer that could learn comes after it; name another layer"),
        (Deaf(), "fc1", "'fc1': the logits do not depend on it"),
        (chain(both=Tuple(), first=First(), **TWO), "both", "'both': it returns a tuple, not a tensor; .* 'fc1'"),
        (chain(fc1=TWO["fc1"], relu=nn.ReLU(inplace=True), fc2=TWO["fc2"]), "fc1", "in place; cut it after 'relu'"),
        (Preprocessed(Rounding(), chain(**TWO)), None, "no gradient reaches the images from it .* in BPDA"),
    ],
)
def test_networks_without_a_cut_there_are_refused(model: nn.Module, after: str | None, message: str):
    with pytest.raises(ValueError, match=message):
        split_stem(model, images(6), after)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("relu", "'relu': it runs 2 times; cut it after 'conv1'"),
        ("unused", "'unused': it does not run; cut it after 'conv1'"),
        (
            "conv2",
            "'conv2': the logits depend on the images past it too, as by a skip connection; cut it after 'conv1'",
        ),
    ],
)
def test_what_is_passed_by_is_no_cut(after: str, message: str):
    with pytest.raises(ValueError, match=f"Residual cannot be cut after {message}"):
        split_stem(Residual(), images(1, 6, 6), after)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_networks_are_refused():
    inside = chain(fc1=nn.Linear(6, 4), fc2=nn.Linear(4, 3))
    inside.fc1.compile()
    for model in (torch.compile(chain(**TWO)), Preprocessed(Halving(), torch.compile(chain(**TWO))), inside):
        with pytest.raises(ValueError, match=r"before torch\.compile"):
            split_stem(model, images(6))


def test_a_stem_that_was_not_checked_still_sees_a_layer_that_runs_twice():
    with pytest.raises(ValueError, match="'relu' ran 2 times"):
        Stem(Residual(), "relu").whole(images(1, 6, 6))
    with pytest.raises(ValueError, match="'unused' ran 0 times"):
        Stem(Residual(), "unused")(images(1, 6, 6))


def test_bounded_relu_counts_as_an_activation():
    torch.manual_seed(0)  # with some weights all four units are dead
    network = chain(fc1=nn.Linear(6, 4), bound=BoundedReLU(), fc2=nn.Linear(4, 3))
    assert split_stem(network, images(6)).name == "bound"


def trainable(model: nn.Module) -> set[str]:
    return {name for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("wrapped", [False, True])
def test_only_trainable(wrapped: bool) -> None:
    model = Preprocessed(nn.Identity(), LeNet()) if wrapped else LeNet()
    before, prefix = trainable(model), "network." if wrapped else ""
    with only_trainable(model, ["conv2", "fc1"]):
        assert trainable(model) == {
            f"{prefix}{layer}.{kind}" for layer in ("conv2", "fc1") for kind in ("weight", "bias")
        }
    assert trainable(model) == before
    with only_trainable(model, None):
        assert trainable(model) == before
    with only_trainable(model, []):
        assert trainable(model) == set()
    with pytest.raises(RuntimeError, match="inside"), only_trainable(model, ["conv1"]):
        raise RuntimeError("inside")
    assert trainable(model) == before
    with (
        pytest.raises(ValueError, match="LeNet has no layer 'conf1'; did you mean conv1"),
        only_trainable(model, ["conf1"]),
    ):
        pass


def test_only_trainable_wakes_nothing_that_was_frozen() -> None:
    model = NIN()
    model.block1.requires_grad_(False)
    before = trainable(model)
    with only_trainable(model, ["block1", "block2.conv1"]):
        assert trainable(model) == {"block2.conv1.weight", "block2.conv1.bias"}
    assert trainable(model) == before


def test_freeze_batchnorm() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4))
    first, last = batchnorm_layers(model)
    assert (first, last) == (model[1], model[4])
    first.eval()
    last.requires_grad_(False)
    x = torch.rand(6, 1, 4, 4)
    before = trainable(model)
    with freeze_batchnorm(model):
        statistics = copy.deepcopy(model.state_dict())
        model(x)
        assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())
        assert trainable(model) == {"0.weight", "0.bias", "3.weight", "3.bias"}
        assert model[0].training
    assert trainable(model) == before
    assert (first.training, last.training) == (False, True)
    with pytest.raises(RuntimeError, match="inside"), freeze_batchnorm(model):
        raise RuntimeError("inside")
    assert trainable(model) == before
    assert (first.training, last.training) == (False, True)
    model(x)
    assert last.get_buffer("num_batches_tracked") == 1
