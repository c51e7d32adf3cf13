"""One table of defences, and what holds for every one of them.

Run as a script, this file is the other side of two tests: it trains the table under torchrun, or is killed in doing so.
"""

import os
import signal
import subprocess
import sys
import tomllib
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
import tomli_w
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import (
    FGSM,
    PGD,
    AdversarialTraining,
    Batch,
    DeepDefense,
    Plain,
    Sum,
    Training,
    config,
    fit,
)
from steelman.data import Digits, InMemory
from steelman.defences import Objective
from steelman.networks import MLP
from steelman.training import SGD, Cosine, Diverged, History, Minimise, checkpoint, play

DEFENCES: dict[str, Objective] = {
    "plain": Plain(),
    "fgsm": AdversarialTraining(FGSM(eps=0.1)),
    "pgd": AdversarialTraining(PGD(eps=0.1, steps=3)),
    "mixed": AdversarialTraining(FGSM(eps=0.1), clean_weight=0.5),
    "crafting in train mode": AdversarialTraining(FGSM(eps=0.1), crafting="train"),
    "deep defense": DeepDefense(weight=2.0, c=3.0, d=1.0, steps=2),
    "deep defense of a layer": DeepDefense(weight=2.0, c=3.0, d=1.0, steps=2, layers=("fc1",)),
    "sum": Sum((DeepDefense(weight=2.0, c=3.0, d=1.0, steps=2), AdversarialTraining(FGSM(eps=0.1))), (1.0, 0.5)),
}

# 97 images in batches of 20: neither the epoch nor the last batch (17) nor two processes' halves come out even.
TRAINING = Training(
    epochs=3,
    batch_size=20,
    optimiser=SGD(lr=0.02, weight_decay=1e-4),
    schedule=Cosine(),
    ema=0.7,
    validation=16,
    seed=3,
)
every_defence = pytest.mark.parametrize("name", DEFENCES)


@cache
def images() -> InMemory:
    train = Digits().load("train")
    return train.subset(torch.arange(0, len(train), 11)[:113])


@cache
def start() -> dict[str, Tensor]:
    """A network that knows a little: Deep Defense starts from one, and a fresh one has no boundary near."""
    torch.manual_seed(5)
    model, (batch,) = MLP(shape=(1, 8, 8), hidden=(24,)), images().in_order(200)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(15):
        optimiser.zero_grad()
        F.cross_entropy(model(batch.x), batch.y).backward()
        optimiser.step()
    return model.state_dict()


def network() -> MLP:
    model = MLP(shape=(1, 8, 8), hidden=(24,))
    model.load_state_dict(start())
    return model


def train(name: str, folder: Path | None = None, training: Training = TRAINING) -> tuple[MLP, History]:
    model = network()
    return model, fit(model, images(), DEFENCES[name], training, folder=folder, progress=False)


def bits(tensors: dict[str, Tensor]) -> bytes:
    return b"".join(value.numpy().tobytes() for value in tensors.values())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole table, trained by one process without a stop."""
    root = tmp_path_factory.mktemp("alone")
    for name in DEFENCES:
        train(name, root / name)
    return root


def script(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command, __file__, str(folder)] if command else [sys.executable, __file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@every_defence
def test_its_loss_falls(name: str, alone: Path):
    losses = [line["loss"] for line in checkpoint.load(alone / name / "last.safetensors")["log"][1:]]
    assert losses[-1] < losses[0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole table, trained by two processes."""
    root = tmp_path_factory.mktemp("pair")
    done = script("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", folder=root)
    assert done.returncode == 0, done.stderr
    return root


@every_defence
def test_two_processes_equal_one(name: str, alone: Path, pair: Path):
    one, two = (checkpoint.load(root / name / "last.safetensors") for root in (alone, pair))
    for key, value in one["nets"]["classifier"].items():
        torch.testing.assert_close(two["nets"]["classifier"][key], value, rtol=0, atol=1e-6)
    for key, value in one["average"].items():
        torch.testing.assert_close(two["average"][key], value, rtol=0, atol=1e-6)
    assert [line["loss"] for line in two["log"][1:]] == pytest.approx(
        [line["loss"] for line in one["log"][1:]], abs=1e-5
    )


def test_a_loss_that_is_not_finite_ends_both_processes(pair: Path):
    for rank in range(2):
        told = (pair / f"diverged-{rank}").read_text()
        assert "in epoch 2, batch 1 of 5" in told
        assert "last good checkpoint is" in told
    state = checkpoint.load(pair / "diverged" / "last.safetensors")
    assert state["position"][:2] == [1, 0]
    assert all(bool(value.isfinite().all()) for value in state["nets"]["classifier"].values())


def test_batch_normalisation_in_two_processes_is_warned_of_once(pair: Path):
    first, second = ((pair / f"warned-{rank}").read_text() for rank in range(2))
    assert first.count("classifier.norm.running_mean") == 1
    assert "group normalisation" in first
    assert second == ""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole table, killed in the middle of an epoch and of a write."""
    root = tmp_path_factory.mktemp("killed")
    done = script(folder=root)
    assert done.returncode == 0, done.stderr
    return root


@every_defence
def test_killed_and_resumed_it_ends_in_the_same_bits(name: str, alone: Path, killed: Path):
    epoch, batch, *_ = checkpoint.load(killed / name / "last.safetensors")["position"]
    assert (epoch, batch) < (TRAINING.epochs, 0)
    assert batch > 0, "the kill was not in the middle of an epoch"
    assert (killed / name / "last.safetensors.partial").exists(), "the kill was not in the middle of a write"
    train(name, killed / name)
    ours, theirs = (checkpoint.load(root / name / "last.safetensors") for root in (killed, alone))
    assert bits(ours["nets"]["classifier"]) == bits(theirs["nets"]["classifier"])
    assert bits(ours["average"]) == bits(theirs["average"])
    moments, expected = (state["optimisers"]["classifier"]["state"] for state in (ours, theirs))
    assert [bits(each) for each in moments.values()] == [bits(each) for each in expected.values()]
    assert ours["optimisers"]["classifier"]["param_groups"] == theirs["optimisers"]["classifier"]["param_groups"]
    assert without_seconds(ours["log"]) == without_seconds(theirs["log"])
    best, expected = (checkpoint.load(root / name / "best.safetensors") for root in (killed, alone))
    assert best["epoch"] == expected["epoch"]
    assert bits(best["classifier"]) == bits(expected["classifier"])


def without_seconds(log: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in log]


@every_defence
def test_it_survives_toml(name: str):
    text = tomli_w.dumps({"defence": config.write(DEFENCES[name])})
    assert config.read(Objective, tomllib.loads(text)["defence"], "defence") == DEFENCES[name]


class Changeable(nn.Module):
    """A network whose answer depends on its mode, in all the ways there are."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.drop, self.fc2 = (
            nn.Linear(64, 16),
            nn.BatchNorm1d(16),
            nn.Dropout(0.3),
            nn.Linear(16, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(self.norm(self.fc1(x.flatten(1))).relu()))


def first(count: int, dtype: torch.dtype = torch.float32) -> Batch:
    batch = next(images().batches([torch.arange(count)]))
    return Batch(batch.x.to(dtype), batch.y, batch.index, torch.arange(count))


@every_defence
def test_it_leaves_model_and_batch_as_they_were(name: str):
    torch.manual_seed(0)
    model, batch = Changeable(), first(12)
    model.train()
    model.drop.eval()
    model.fc2.bias.requires_grad_(False)
    model.fc1.weight.grad = torch.ones_like(model.fc1.weight)
    x, y = batch.x.clone(), batch.y.clone()
    for _ in range(2):
        DEFENCES[name](model, batch)
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert [key for key, value in model.named_parameters() if not value.requires_grad] == ["fc2.bias"]
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
    DEFENCES[name](model, first(12))
    assert int(model.norm.num_batches_tracked) == passes  # those of training alone


def fast_gradient_sign(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return (x + eps * gradient.sign()).clamp(0, 1).detach()


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_plain_is_the_mean_cross_entropy():
    model, batch = network().double(), first(12, torch.float64)
    ours = gradients(Plain()(model, batch), model)
    torch.testing.assert_close(ours, gradients(F.cross_entropy(model(batch.x), batch.y), model))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_adversarial_training_is_the_mixture_of_clean_and_attacked(share: float):
    model, batch = network().double(), first(12, torch.float64)
    x_adv = fast_gradient_sign(model, batch.x, batch.y, 0.1)
    assert not torch.equal(x_adv, batch.x)
    wanted = share * F.cross_entropy(model(batch.x), batch.y) + (1 - share) * F.cross_entropy(model(x_adv), batch.y)
    ours = AdversarialTraining(FGSM(eps=0.1), clean_weight=share)(model, batch)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(gradients(ours, model), gradients(wanted, model))


def changeable(training: bool = True) -> Changeable:
    """Always the same one, without dropout, and with running statistics that are far from a batch's."""
    torch.manual_seed(0)
    model = Changeable().double().train(training)
    model.drop.p = 0.0
    model.norm.running_mean.uniform_(-1, 1)
    model.norm.running_var.uniform_(0.1, 3)
    return model


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_adversarial_training_crafts_in_the_mode_it_is_told(mode: Literal["eval", "train"]):
    batch = first(12, torch.float64)
    x_adv, wrong = (
        fast_gradient_sign(changeable(training), batch.x, batch.y, 0.1)
        for training in (mode == "train", mode != "train")
    )
    assert not torch.equal(x_adv, wrong)
    model = changeable()
    wanted = gradients(F.cross_entropy(model(x_adv), batch.y), model)
    model = changeable()
    ours = gradients(AdversarialTraining(FGSM(eps=0.1), crafting=mode)(model, batch), model)
    torch.testing.assert_close(ours, wanted)


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


@every_defence
@pytest.mark.parametrize("micro_batch", [1, 5, 12, 50])
def test_micro_batches_make_the_same_update(name: str, micro_batch: int):
    moved = []
    for size in (None, micro_batch):
        model = network().double()
        optimisers = {"classifier": torch.optim.SGD(model.parameters(), lr=1.0)}
        losses = play(
            Minimise(DEFENCES[name], size), nn.ModuleDict({"classifier": model}), first(12, torch.float64), optimisers
        )
        moved.append([torch.tensor(losses["classifier"], dtype=torch.float64), *model.parameters()])
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-6, atol=1e-6)
    assert not torch.equal(moved[0][1], network().double().fc1.weight)


@every_defence
def test_same_seed_same_bits_and_another_seed_other_bits(name: str, alone: Path):
    again, _ = train(name)
    assert bits(again.state_dict()) == bits(checkpoint.load(alone / name / "best.safetensors")["classifier"]) or (
        bits(again.state_dict()) == bits(judged(alone / name))
    )
    other, _ = train(name, training=replace(TRAINING, seed=4))
    assert bits(other.state_dict()) != bits(again.state_dict())


def judged(folder: Path) -> dict[str, Tensor]:
    """What `fit` hands out: the moving average of the weights."""
    average = checkpoint.load(folder / "last.safetensors")["average"]
    return {key.removeprefix("module."): value for key, value in average.items() if key.startswith("module.")}


def _main(root: Path) -> None:
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:
        for name in DEFENCES:
            train(name, root / name)
        _diverge(root)
        _normalise(root)
        return
    images()
    for turn, name in enumerate(DEFENCES):
        child = os.fork()
        if child == 0:
            _die_in_write((3, 4, 5, 6, 7, 9, 10, 11)[turn])
            train(name, root / name, replace(TRAINING, checkpoint_seconds=0.0))
            os._exit(1)  # not reached
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), name
        assert os.WTERMSIG(status) == signal.SIGKILL, name


@dataclass(frozen=True)
class NotFinite(Objective):
    """From the sixth batch on NaN, but in the second process only."""

    batches: list[int]

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        self.batches.append(len(batch))
        bad = len(self.batches) > 5 and os.environ["RANK"] == "1"
        return Plain()(model, batch) * (float("nan") if bad else 1.0)


def _diverge(root: Path) -> None:
    try:
        fit(network(), images(), NotFinite([]), TRAINING, folder=root / "diverged")
    except Diverged as error:
        (root / f"diverged-{os.environ['RANK']}").write_text(str(error))


def _normalise(root: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Changeable(), images(), Plain(), TRAINING)
    (root / f"warned-{os.environ['RANK']}").write_text("".join(str(each.message) for each in caught))


def _die_in_write(count: int) -> None:
    """Kill this process when it is about to put its `count`th checkpoint of the training in its place."""
    put, seen = os.replace, 0

    def counting(source: Path, target: Path) -> None:
        nonlocal seen
        if Path(target).name == "last.safetensors":
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)
        put(source, target)

    os.replace = counting


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
