"""A filter before a network: what attacks through it, past it and without gradients see."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affine import images, small_net
from steelman import config
from steelman.attacks import EOT, FGSM, PGD, IgnoringFilter, Square
from steelman.attacks.core.attack import Attack
from steelman.data import Digits
from steelman.defences import DeepDefense
from steelman.experiments.recipe import build, load_recipe
from steelman.experiments.recipe_file import find_recipe
from steelman.filters import BPDA, BitDepth, MedianSmoothing, Reformer
from steelman.networks import MLP, DenoisingAutoencoder, Filtered, Preprocessed, SubtractMean, only_trainable
from steelman.norms import Linf
from steelman.types import Batch

X = images(12)
SEEDS = torch.arange(12)


@pytest.mark.parametrize("filter", [BitDepth(2), MedianSmoothing(2)], ids=repr)
def test_the_filter_stands_before_the_network(filter: nn.Module) -> None:
    """Gradients pass rounding as if it were not there, and follow the median."""
    model = Filtered(filter, small_net())
    torch.testing.assert_close(model(X), model.network(filter(X)))
    assert torch.equal(model.filter(X), filter(X))
    x = X.clone().requires_grad_()
    seen = filter(x)
    weight = torch.randn(12, 10, dtype=torch.float64)
    (around,) = torch.autograd.grad((weight * model(x)).sum(), x)
    kept = seen.detach().requires_grad_()
    (within,) = torch.autograd.grad((weight * model.network(kept)).sum(), kept)
    if isinstance(filter, MedianSmoothing):
        (within,) = torch.autograd.grad(seen, x, within)
    torch.testing.assert_close(around, within)
    assert bool(around.any())


def test_a_stand_in_of_ones_own_is_kept() -> None:
    smooth = BPDA(BitDepth(1), lambda x: (8 * (x - 0.5)).sigmoid())
    model = Filtered(smooth, nn.Flatten())
    assert model.filter is smooth
    x = torch.full((1, 1, 2, 2), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(x, 2.0))


@pytest.mark.parametrize("stand_in", [None, torch.sin])
def test_gradients_of_gradients_pass(stand_in: object) -> None:
    """Of f(x) = sum of h(x)^3 / 3, whose derivatives through the identity and the sine are known."""
    filter = BPDA(lambda x: x.clone(), stand_in)  # pyright: ignore[reportArgumentType]
    x = torch.rand(5, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(filter(x).pow(3).sum() / 3, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    x = x.detach()
    if stand_in is None:
        torch.testing.assert_close((first, second), (x**2, 2 * x))
    else:
        torch.testing.assert_close((first, second), (x**2 * x.cos(), 2 * x * x.cos() ** 2 - x**2 * x.sin()))


def test_defences_that_differentiate_gradients_can_train_it() -> None:
    model = Filtered(BitDepth(3), small_net())
    loss = DeepDefense(c=3.0, steps=2)(model, Batch(X, model(X).argmax(1)))
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss, list(model.network.hidden.parameters())))


def test_layers_are_named_as_without_a_filter() -> None:
    model = Filtered(BitDepth(1), Preprocessed(SubtractMean(shape=(1, 8, 8)), MLP(shape=(1, 8, 8))))
    with only_trainable(model, ["fc1"]):
        assert [name for name, each in model.named_parameters() if each.requires_grad] == [
            "network.network.fc1.weight",
            "network.network.fc1.bias",
        ]


@pytest.mark.parametrize("preprocessed", [False, True])
def test_weights_load_from_a_filtered_network_and_from_a_bare_one(preprocessed: bool) -> None:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = MLP(shape=(1, 8, 8))
        return Preprocessed(SubtractMean(shape=(1, 8, 8)).fit(Digits().load("test")), net) if preprocessed else net

    x = torch.rand(3, 1, 8, 8)
    whole = Filtered(BitDepth(1), network(0))
    for start in (whole, whole.network):
        model = Filtered(BitDepth(1), network(1))
        assert not torch.equal(model(x), whole(x))
        model.load_state_dict(start.state_dict())
        assert torch.equal(model(x), whole(x))
    reformers = [Reformer(DenoisingAutoencoder(shape=(1, 8, 8))) for _ in range(2)]
    model = Filtered(reformers[0], network(1)).eval()
    model.load_state_dict(whole.network.state_dict())  # which has no filter, so that the model's own stays
    assert torch.equal(model(x), whole.network(reformers[0](x)))
    model.load_state_dict(Filtered(reformers[1], whole.network).state_dict())
    assert torch.equal(model(x), whole.network(reformers[1](x)))
    with pytest.raises(RuntimeError, match="Missing key"):
        Filtered(BitDepth(1), network(1)).load_state_dict({"fc1.weight": torch.zeros(500, 64)})


def test_recipes_put_a_filter_before_the_network() -> None:
    recipe, data = find_recipe("plain_digits_mlp"), Digits().load("test")
    model = build(load_recipe(recipe, ["network.filter=MedianSmoothing", "network.preprocess=SubtractMean"]), data)
    assert isinstance(model, Filtered)
    assert isinstance(model.filter, MedianSmoothing)
    assert isinstance(model.network, Preprocessed)
    model = build(load_recipe(recipe, ['network.filter={ kind = "BitDepth", bits = 2 }']), data)
    assert isinstance(model, Filtered)
    assert model.filter.filter.bits == 2
    for change, message in (
        ("network.filter=MLP", r"network: the filter makes \(1, 10\) of \(1, 1, 8, 8\)"),
        ("network.filter=BitDept", r"network: .*did you mean BitDepth\?"),
        ('network.filter={ kind = "BitDepth", bits = 0 }', r"network: BitDepth needs bits"),
        ("network.filter=3", "network: "),
    ):
        with pytest.raises(ValueError, match=message):
            build(load_recipe(recipe, [change]), data)


def test_ignoring_the_filter_is_the_attack_on_the_bare_network() -> None:
    model = Filtered(BitDepth(1), small_net()).eval()
    y = model(X).argmax(1)
    attack = PGD(eps=0.3, steps=5)
    result = IgnoringFilter(attack).run(model, X, y, generator=SEEDS)
    bare = attack.run(model.network, X, y, generator=SEEDS)
    assert torch.equal(result.x_adv, bare.x_adv)
    assert torch.equal(result.success, model(result.x_adv).argmax(1) != y)
    assert not torch.equal(result.success, bare.success)
    assert (result.forwards == bare.forwards + 1).all()
    assert torch.equal(result.gradients, bare.gradients)
    assert (Linf.size(result.x_adv - X) <= 0.3).all()


def test_it_leaves_the_model_as_it_was() -> None:
    model = Filtered(BitDepth(2), small_net())
    model.network.normalisation.train()
    model.network.output.bias.requires_grad_(False)
    modes = [each.training for each in model.modules()]
    values = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match="train mode"):
        IgnoringFilter(FGSM(eps=0.1))(model, X, torch.arange(12) % 10)
    assert [each.training for each in model.modules()] == modes
    assert [name for name, each in model.named_parameters() if not each.requires_grad] == ["network.output.bias"]
    assert all(each.grad is None for each in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, values[name])


def test_it_says_what_it_is() -> None:
    attack = IgnoringFilter(PGD(eps=0.3))
    assert (attack.norm, attack.eps, attack.access) == (Linf, 0.3, "gradients")
    assert IgnoringFilter(Square(eps=0.3)).access == "scores"
    assert config.read(Attack, config.write(attack)) == attack
    with pytest.raises(ValueError, match=r"needs a Filtered model; SmallNet has no filter to ignore\. Run PGD itself"):
        attack(small_net(), X, torch.zeros(12, dtype=torch.int64))
    with pytest.raises(ValueError, match="give reference, uint8 and precision to IgnoringFilter itself"):
        IgnoringFilter(PGD(uint8=True))
    model = Filtered(BitDepth(1), small_net()).eval()
    y = model(X).argmax(1)
    assert EOT(attack, samples=2)(model, X, y, generator=SEEDS).shape == X.shape


@cache
def digits() -> tuple[Tensor, Tensor]:
    (batch,) = Digits().load("test").batches([torch.arange(200)])
    return batch.x, batch.y


def trained(filter: nn.Module) -> Filtered:
    """An MLP on filtered digits."""
    torch.manual_seed(0)
    train = Digits().load("train")
    model = Filtered(filter, MLP(shape=train.shape, hidden=(64,)))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(6):
        for batch in train.batches(torch.randperm(len(train)).split(32)):
            optimiser.zero_grad()
            F.cross_entropy(model(batch.x), batch.y).backward()
            optimiser.step()
    return model.eval()


def accuracy(attack: Attack, model: nn.Module) -> float:
    x, y = digits()
    return 1 - float(attack.run(model, x, y, generator=torch.arange(200)).success.double().mean())


def test_squeezing_masks_gradients_and_is_no_defence_once_they_pass() -> None:
    x, y = digits()
    model = trained(BitDepth(1))
    masked = nn.Sequential(BitDepth(1), model.network)
    attack = PGD(eps=0.3, steps=20)
    assert torch.equal(masked(x), model(x))
    clean = float((model(x).argmax(1) == y).double().mean())
    assert clean > 0.85
    raw = x.clone().requires_grad_()
    (flat,) = torch.autograd.grad(F.cross_entropy(masked(raw), y), raw)
    assert not bool(flat.any())
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(raw), y, reduction="sum"), raw)
    assert bool(gradient.flatten(1).any(1).all())
    with pytest.warns(UserWarning, match=r"gradient is zero on [0-9]+ of 200 images"):
        blind = accuracy(attack, masked)
    box = accuracy(Square(eps=0.3, queries=300), model)
    through, past = accuracy(attack, model), accuracy(IgnoringFilter(attack), model)
    assert blind > clean - 0.1, "the blind attack sees no gradient, and has only its random start"
    assert through < past < 0.3
    assert box < 0.3


def test_the_identity_is_a_poor_stand_in_for_the_median() -> None:
    model = trained(MedianSmoothing(2))
    attack = PGD(eps=0.1, steps=20)
    blurred = Filtered(BPDA(MedianSmoothing(2)), model.network).eval()
    true, straight = accuracy(attack, model), accuracy(attack, blurred)
    assert true < straight - 0.05
    assert abs(true - accuracy(Square(eps=0.1, queries=300), model)) < 0.06, "something is still masked"
