"""What holds for every defence of the table in `every_defence.py`."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import every_defence as table
from every_defence import (
    DEFENCES,
    KILLED,
    RANDOM,
    TRAINING,
    Changeable,
    bits,
    changeable,
    first,
    judged,
    network,
    network_for,
    suited,
    train,
)
from scripts import run_script
from steelman import FGSM, AdversarialTraining, DeepDefense, Plain, Sum, checkpoint, config
from steelman.defences import Game, Objective
from steelman.training import MicroBatches, play

pytestmark = pytest.mark.xdist_group("every defence")  # its fixtures train the whole table: once is enough
every_defence = pytest.mark.parametrize("name", DEFENCES)
not_random = [name for name in DEFENCES if name not in RANDOM]
OBJECTIVES = [name for name in not_random if isinstance(DEFENCES[name], Objective)]


def set_up(name: str, model: nn.Module) -> Game:
    return DEFENCES[name].setup(model, table.images())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole table, trained by one process without a stop."""
    root = tmp_path_factory.mktemp("alone")
    for name in DEFENCES:
        train(name, root / name)
    return root


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What other processes make: the table in a pair, and a defence of each class until it is killed."""
    root = tmp_path_factory.mktemp("started")
    run_script(table.__file__, str(root))
    return root


@pytest.fixture
def pair(started: Path) -> Path:
    """The whole table, trained by two processes."""
    return started / "pair"


@pytest.fixture
def killed(started: Path) -> Path:
    """A defence of each class, killed in the middle of an epoch and of a write."""
    return started / "killed"


@pytest.mark.parametrize("name", [name for name in DEFENCES if name not in ("growing eps", "awp of trades")])
def test_its_loss_falls(name: str, alone: Path):  # of those two it grows with the perturbations
    key = "generator loss" if DEFENCES[name].frozen else "loss"
    losses = [line[key] for line in checkpoint.load(alone / name / "last.safetensors")["log"][1:]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", not_random)
def test_two_processes_equal_one(name: str, alone: Path, pair: Path):
    one, two = (checkpoint.load(root / name / "last.safetensors") for root in (alone, pair))
    torch.testing.assert_close(two["nets"], one["nets"], rtol=0, atol=1e-6)
    torch.testing.assert_close(two["average"], one["average"], rtol=0, atol=1e-6)
    torch.testing.assert_close(two["memory"] or {}, one["memory"] or {}, rtol=0, atol=1e-5)
    for ours, theirs in zip(two["log"], one["log"], strict=True):
        assert losses(ours) == pytest.approx(losses(theirs), abs=1e-5)


def losses(line: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in line.items() if key.endswith("loss")}


def test_a_loss_that_is_not_finite_ends_both_processes(pair: Path):
    for rank in range(2):
        message = (pair / f"diverged-{rank}").read_text()
        assert "in epoch 2, batch 1 of 3" in message
        assert "last good checkpoint is" in message
    state = checkpoint.load(pair / "diverged" / "last.safetensors")
    assert state["position"][:2] == [1, 0]
    assert all(bool(value.isfinite().all()) for value in state["nets"]["classifier"].values())


def test_batch_normalisation_in_two_processes_gives_one_warning(pair: Path):
    first, second = ((pair / f"warned-{rank}").read_text() for rank in range(2))
    assert first.count("classifier.norm.running_mean") == 1
    assert "group normalisation" in first
    assert second == ""


@pytest.mark.parametrize("name", KILLED)
def test_killed_and_resumed_it_ends_in_the_same_bits(name: str, alone: Path, killed: Path):
    epoch, batch, *_ = checkpoint.load(killed / name / "last.safetensors")["position"]
    assert (epoch, batch) < (TRAINING.epochs, 0)
    assert batch > 0, "the kill was not in the middle of an epoch"
    assert list((killed / name).glob("last.safetensors.*.partial")), "the kill was not in the middle of a write"
    model, _ = train(name, killed / name)
    ours, theirs = (checkpoint.load(root / name / "last.safetensors") for root in (killed, alone))
    for net, optimiser in theirs["optimisers"].items():
        assert bits(ours["nets"][net]) == bits(theirs["nets"][net])
        moments, expected = ours["optimisers"][net]["state"], optimiser["state"]
        assert [bits(each) for each in moments.values()] == [bits(each) for each in expected.values()]
        assert ours["optimisers"][net]["param_groups"] == optimiser["param_groups"]
    assert bits(ours["average"]) == bits(theirs["average"])
    assert bits(ours["memory"] or {}) == bits(theirs["memory"] or {})
    assert without_seconds(ours["log"]) == without_seconds(theirs["log"])
    best, expected = (checkpoint.load(root / name / "best.safetensors") for root in (killed, alone))
    assert best.keys() == expected.keys() == {"epoch", *theirs["nets"]}
    assert best["epoch"] == expected["epoch"]
    assert [bits(best[net]) for net in theirs["nets"]] == [bits(expected[net]) for net in theirs["nets"]]
    assert bits(model.state_dict()) in (bits(expected["classifier"]), bits(judged(alone / name)))
    assert not DEFENCES[name].frozen or bits(theirs["nets"]["classifier"]) == bits(table.start())


def without_seconds(log: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in log]


@every_defence
def test_it_survives_toml(name: str):
    text = tomli_w.dumps({"defence": config.write(DEFENCES[name])})
    assert config.read(Game, tomllib.loads(text)["defence"], "defence") == DEFENCES[name]


@every_defence
def test_it_leaves_model_and_batch_as_they_were(name: str):
    torch.manual_seed(0)
    model, batch = Changeable(), first(12)
    suited(name, model.train())
    model.drop.eval()
    model.fc2.bias.requires_grad_(False)
    model.fc1.weight.grad = torch.ones_like(model.fc1.weight)
    x, y = batch.x.clone(), batch.y.clone()
    defence = set_up(name, model)
    for _ in range(2):
        if isinstance(defence, Objective):
            defence(model, batch)
        else:
            nets, optimisers = table.seated(defence, model)
            play(defence, nets, batch, optimisers)
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert [key for key, value in model.named_parameters() if not value.requires_grad] == ["fc2.bias"]
    if isinstance(defence, Objective):
        assert [key for key, value in model.named_parameters() if value.grad is not None] == ["fc1.weight"]
        assert torch.equal(model.fc1.weight.grad, torch.ones_like(model.fc1.weight))
    assert torch.equal(batch.x, x)
    assert torch.equal(batch.y, y)
    assert not batch.x.requires_grad


@pytest.mark.parametrize(
    ("name", "passes"), [("fgsm", 1), ("mixed", 2), ("crafting in train mode", 1), ("deep defense", 0)]
)
def test_crafting_does_not_move_the_running_statistics(name: str, passes: int):
    model = Changeable()
    play(set_up(name, model), model, first(12), torch.optim.SGD(model.parameters(), lr=0.1))
    assert int(model.norm.num_batches_tracked) == passes  # those of training alone


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_plain_is_the_mean_cross_entropy():
    model, batch = network().double(), first(12, torch.float64)
    ours = gradients(Plain()(model, batch), model)
    torch.testing.assert_close(ours, gradients(F.cross_entropy(model(batch.x), batch.y), model))


@pytest.mark.parametrize("other", [Plain(), DeepDefense(weight=2.0, c=3.0, d=1.0, steps=2)])
def test_the_gradient_of_a_sum_is_the_sum_of_gradients(other: Objective):
    """Even where one part's graph holds running statistics that the next part moves."""
    batch = first(12, torch.float64)
    parts = (other, AdversarialTraining(FGSM(eps=0.1), crafting="train"))
    terms = []
    for part in parts:
        model = changeable()
        terms.append(torch.autograd.grad(part(model, batch), list(model.parameters()), materialize_grads=True))
    model = changeable()
    ours = gradients(Sum(parts, (1.0, 0.5))(model, batch), model)
    torch.testing.assert_close(ours, [a + 0.5 * b for a, b in zip(*terms, strict=True)])


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("micro_batch", [1, 5, 12, 50])
def test_micro_batches_make_the_same_update(name: str, micro_batch: int):
    moved = []
    for size in (None, micro_batch):
        model = network_for(name).double()
        game = set_up(name, model)
        assert isinstance(game, Objective)
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
        losses = play(game if size is None else MicroBatches(game, size), model, first(12, torch.float64), optimiser)
        moved.append([torch.tensor(losses["classifier"], dtype=torch.float64), *model.parameters()])
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-6, atol=1e-6)
    assert not torch.equal(moved[0][1], next(network_for(name).double().parameters()))


@pytest.mark.parametrize("name", ["pgd", "jacobian by projections", "parseval", "gap", "training of advgan"])
def test_another_seed_other_bits(name: str, alone: Path, tmp_path: Path):
    train(name, tmp_path, replace(TRAINING, seed=4))
    first, other = (checkpoint.load(folder / "last.safetensors")["nets"] for folder in (alone / name, tmp_path))
    for net in first:
        unchanged = net == "classifier" and DEFENCES[name].frozen
        assert (bits(other[net]) == bits(first[net])) == unchanged


class Usual(Changeable):
    """A network as people write it: it normalises its images in place, and wraps its logits."""

    def __init__(self, usual: bool) -> None:
        super().__init__()
        self.usual = usual

    def forward(self, x: Tensor) -> Any:
        x = x.sub_(0.5).mul_(2.0) if self.usual else (x - 0.5) * 2.0
        logits = super().forward(x)
        return {"loss": None, "logits": logits} if self.usual else logits


@every_defence
def test_a_network_that_writes_into_its_images_and_wraps_its_logits_learns_the_same(name: str):
    moved = []
    for usual in (False, True):
        model = Usual(usual)
        model.load_state_dict(changeable().float().state_dict())
        model.drop.p = 0.0
        suited(name, model)
        batch = first(12)
        x = batch.x.clone()
        torch.manual_seed(1)
        defence = set_up(name, model)
        nets, optimisers = table.seated(defence, model)
        for _ in range(2):
            play(defence, nets, batch, optimisers)
        assert torch.equal(batch.x, x)
        moved.append(nets.state_dict())
    for key, value in moved[0].items():
        torch.testing.assert_close(moved[1][key], value, rtol=1e-5, atol=1e-6)
