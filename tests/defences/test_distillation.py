"""Distillation: the objective, and the chain of teacher and student."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import FGSM, PGD, Batch, Distillation, checkpoint
from steelman.data import Digits, split_off
from steelman.experiments import run as rooms
from steelman.losses import CrossEntropy, Goal, SoftMargin

TEMPERATURE = 50.0
RECIPE = """
{start}
data = "Digits"
network = {{ kind = "MLP", hidden = [32] }}
defence = {defence}
{prepare}
training = {{ {epochs}, batch_size = 32, seed = 3, validation = 97, optimiser = {{ kind = "SGD", lr = {lr} }} }}
"""


@pytest.mark.parametrize("soft", [False, True])
def test_it_is_the_cross_entropy_at_the_temperature(soft: bool):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    model = nn.Sequential(nn.Flatten(), layer)
    x, y = torch.rand(5, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    q = torch.rand(5, 3, dtype=torch.float64).softmax(1) if soft else F.one_hot(y, 3).double()
    z = model(x)
    wanted = 0.0
    for row, goal in zip(z.tolist(), q.tolist(), strict=True):
        powers = [math.exp(logit / 7.0) for logit in row]
        wanted -= sum(goal[k] * math.log(powers[k] / sum(powers)) for k in range(3)) / 5
    loss = Distillation(7.0)(model, Batch(x, y, soft=q if soft else None))
    assert loss.item() == pytest.approx(wanted)
    # d CE / d Z = (softmax(Z / T) - q) / T, averaged over the batch.
    (ours,) = torch.autograd.grad(loss, layer.weight)
    torch.testing.assert_close(ours, (((z / 7).softmax(1) - q) / 7).T @ x.flatten(1) / 5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start, an ordinary network, a teacher and its student, by one call."""
    folder = tmp_path_factory.mktemp("chain")
    defence = f'{{ kind = "Distillation", temperature = {TEMPERATURE} }}'
    ordinary = {"defence": '"Plain"', "lr": 0.1, "prepare": ""}
    distilled = {"defence": defence, "lr": 10.0, "epochs": "epochs = 4", "start": 'start = "start.toml"'}
    soft = f'prepare = [{{ kind = "SoftLabels", temperature = {TEMPERATURE}, on = "teacher.toml" }}]'
    recipes = {
        "start": RECIPE.format(start="", epochs="epochs = 1", **ordinary),
        "plain": RECIPE.format(start='start = "start.toml"', epochs="epochs = 4", **ordinary),
        "teacher": RECIPE.format(prepare="", **distilled),
        "student": RECIPE.format(prepare=soft, **distilled),
    }
    for name, text in recipes.items():
        (folder / f"{name}.toml").write_text(text)
    for name in ("plain", "student"):
        rooms.train(str(folder / f"{name}.toml"), folder / "runs", None)
    return folder / "runs"


def network(runs: Path, name: str) -> nn.Module:
    return rooms.Run.open(runs / name).network(Digits().load("test")).requires_grad_(False)


def images() -> tuple[Tensor, Tensor]:
    (batch,) = Digits().load("test").in_order(500)
    return batch.x, batch.y


def test_the_student_learns_the_teachers_probabilities_at_the_temperature(runs: Path):
    assert sorted(path.name for path in runs.iterdir()) == ["plain", "start", "student", "teacher"]
    rest, _ = split_off(Digits().load("train"), 97, seed=3)
    (batch,) = rest.in_order(2000)
    kept = checkpoint.load(runs / "student" / "prepared" / "0" / "0-1199.safetensors")["values"]
    powers = (network(runs, "teacher")(batch.x).double() / TEMPERATURE).exp()
    torch.testing.assert_close(kept, (powers / powers.sum(1, keepdim=True)).float())
    after = (network(runs, "student")(batch.x) / TEMPERATURE).log_softmax(1)
    before = (network(runs, "start")(batch.x) / TEMPERATURE).log_softmax(1)
    near, far = (F.kl_div(each, kept, reduction="batchmean") for each in (after, before))
    assert near < 0.02 * far
    assert (kept.max(1).values < 0.99).double().mean() > 0.1  # the labels are soft


def margins(logits: Tensor) -> Tensor:
    highest = logits.topk(2, dim=1).values
    return highest[:, 0] - highest[:, 1]


def test_at_temperature_1_its_logits_are_that_many_times_as_large(runs: Path):
    x, y = images()
    plain, student = (network(runs, name)(x) for name in ("plain", "student"))
    assert (plain.argmax(1) == y).double().mean() > 0.93
    assert (student.argmax(1) == y).double().mean() > 0.93
    ratio = float(margins(student).median() / margins(plain).median())
    assert TEMPERATURE / 3 < ratio < TEMPERATURE * 3
    # At the temperature it was trained at, its confidence is that of the other one at 1.
    assert float((student / TEMPERATURE).softmax(1).amax(1).mean()) == pytest.approx(
        float(plain.softmax(1).amax(1).mean()), abs=0.1
    )


def test_the_gradient_of_cross_entropy_underflows_and_that_of_the_soft_margin_does_not(runs: Path):
    """And our attacks are no weaker than on an ordinary network."""
    x, y = images()
    student = network(runs, "student")
    leaf = x.clone().requires_grad_()
    lost, kept = (
        torch.autograd.grad(loss(student(leaf), Goal(y)).sum(), leaf)[0] for loss in (CrossEntropy(), SoftMargin())
    )
    dead = (lost == 0).flatten(1).all(1)
    assert dead.double().mean() > 0.5
    assert not (kept == 0).flatten(1).all(1).any()

    def right(model: nn.Module, x: Tensor) -> float:
        return float((model(x).argmax(1) == y).double().mean())

    naive = right(student, (x + 0.1 * lost.sign()).clamp(0, 1))
    ours = right(student, FGSM(eps=0.1)(student, x, y))
    assert torch.equal(FGSM(eps=0.1)(student, x, y), FGSM(eps=0.1, loss=SoftMargin())(student, x, y))
    assert naive > 0.7
    assert ours < naive - 0.15
    plain = network(runs, "plain")
    for attack in (FGSM(eps=0.1), PGD(eps=0.1, steps=20)):
        assert right(student, attack(student, x, y, generator=y)) < right(plain, attack(plain, x, y, generator=y)) + 0.1


def test_the_softmax_of_the_student_is_saturated(runs: Path):
    x, _ = images()
    sure = [(network(runs, name)(x).softmax(1).amax(1) == 1).double().mean() for name in ("plain", "student")]
    assert sure[0] < 0.05
    assert sure[1] > 0.8


def test_teacher_and_student_start_from_the_same_weights(runs: Path):
    first, second = (rooms.Run.open(runs / name).log[0] for name in ("teacher", "student"))
    assert first == second
    assert first["clean"] == rooms.Run.open(runs / "start").log[-1]["clean"]
