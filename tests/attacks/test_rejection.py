"""Models that may reject: what attacks see of them, what counts as success, and what measures say."""

import pytest
import torch
from torch import Tensor, nn

from affine import affine, images, small_net
from every_attack import Case, generator, one_of_each
from steelman.attacks import PGD, CarliniWagner, DeepFool, HopSkipJump
from steelman.attacks.core.oracle import Oracle
from steelman.checkup import checkup
from steelman.data import Digits
from steelman.evaluation import evaluate, transfer
from steelman.forward import REJECTED
from steelman.losses import Goal
from steelman.measures import accuracy, clean_accuracy, measures, rejection_rate, worst_case
from steelman.networks import MLP


class Rejecting(nn.Module):
    """A model with one class more, whose logit is the same for all images."""

    def __init__(self, model: object, logit: float, classes: int = 10) -> None:
        super().__init__()
        self.model, self.logit, self.reject_class = model, logit, classes

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)  # pyright: ignore[reportCallIssue]
        return torch.cat([logits, torch.full_like(logits[:, :1], self.logit)], 1)


@pytest.mark.filterwarnings("ignore:the model's gradient is zero")
@one_of_each
def test_what_is_always_rejected_is_never_broken_and_what_never_is_falls_alike(case: Case) -> None:
    x, model = images(6), small_net()
    y = model(x).argmax(1)
    target = case.target(y)
    if target is None:
        result = case.attack.run(Rejecting(model, 1e6), x, y, generator=generator())
        assert not result.success.any()
        assert (result.prediction == 10).all()
    plain = case.attack.run(model, x, y, target=target, generator=generator())
    never = case.attack.run(Rejecting(model, -1e6), x, y, target=target, generator=generator())
    assert torch.equal(plain.success, never.success)
    if case.attack.access != "gradients" or target is None:
        assert torch.equal(plain.x_adv, never.x_adv)


@pytest.mark.parametrize(
    "attack", [DeepFool(overshoot=0.01, box=None), CarliniWagner(steps=300, encoding="projected", box=None)]
)
def test_the_nearest_error_beats_the_rejection_too(attack: DeepFool | CarliniWagner) -> None:
    """Z = (w x, -w x, c): an image of class 0 is an error where -w x > max(w x, c), so from w x = -max(c, 0) on."""
    torch.manual_seed(0)
    weight = torch.randn(20, dtype=torch.float64)
    x = torch.randn(8, 1, 4, 5, dtype=torch.float64)
    value = x.flatten(1) @ weight
    x = x * value.sign()[:, None, None, None]
    y = torch.zeros(8, dtype=torch.int64)

    def network(x: Tensor) -> Tensor:
        value = x.flatten(1) @ weight
        return torch.stack([value, -value], 1)

    model = Rejecting(network, 1.5, classes=2)
    result = attack.run(model, x, y)
    assert result.success.all()
    expected = (value.abs() + 1.5) / weight.norm()
    torch.testing.assert_close(result.l2, expected, rtol=0.02, atol=0)


def test_an_attack_with_a_target_has_to_beat_the_rejection() -> None:
    model = affine(0, scale=20.0)
    x, y = model.x, model.y
    target = (y + 1) % 10
    attack = PGD(eps=0.1, steps=40, random_start=False)
    free = attack.run(model, x, y, target=target)
    high = float(model(free.x_adv).amax(1).median())
    judged = attack.run(Rejecting(model, high), x, y, target=target)
    assert judged.success.any()
    assert judged.success.sum() < free.success.sum()
    assert (model(judged.x_adv).amax(1)[judged.success] > high).all()


def test_the_logits_of_an_attack_hold_the_rejection_in_the_label() -> None:
    x, model = images(5), small_net()
    logits = model(x)
    y = torch.arange(5)
    rejecting = Rejecting(model, 0.1)
    with Oracle(rejecting, Goal(y)) as oracle:
        seen = oracle.logits(x[1:3], torch.tensor([1, 2]))
        expected = logits[1:3].clone()
        for row, label in enumerate((1, 2)):
            expected[row, label] = max(float(expected[row, label]), 0.1)
        torch.testing.assert_close(seen, expected)
    with Oracle(rejecting, Goal(y, target=y + 1)) as oracle:
        torch.testing.assert_close(oracle.logits(x), rejecting(x))


def test_decisions_that_are_rejections_stay_with_the_label() -> None:
    """Of a model that answers with classes alone."""
    x, model = images(6), small_net()
    y = model(x).argmax(1)

    class Hard(nn.Module):
        reject_class = 10

        def forward(self, x: Tensor) -> Tensor:
            logits = model(x)
            return torch.where(logits.amax(1) < 0.9 * float(logits.amax()), 10, logits.argmax(1))

    with torch.no_grad():
        answer, label = Hard()(x), (y + 1) % 10
    assert 0 < int((answer == 10).sum()) < 6
    with Oracle(Hard(), Goal(label)) as oracle:
        assert torch.equal(oracle.decisions(x), torch.where(answer == 10, label, answer))
    result = HopSkipJump(steps=2, evaluations=12, starts=3).run(Hard(), x, y, generator=generator())
    assert not (result.success & (result.prediction == 10)).any()


def test_measures_count_rejections_as_errors_of_clean_images_and_as_right_under_attack() -> None:
    torch.manual_seed(0)
    data = Digits().load("test").subset(torch.arange(60))
    network = MLP(hidden=[16], shape=(1, 8, 8), classes=10)
    batch = next(data.batches([torch.arange(60)]))
    logits = network(batch.x).detach()
    model = Rejecting(network, float(logits.amax(1).median()))
    attacked = PGD(eps=0.2, steps=5, random_start=False)
    table = evaluate(model, data, {"PGD": attacked}, batch_size=30)
    clean, after = table.only("clean"), table.only("PGD")
    before = torch.cat([logits, torch.full_like(logits[:, :1], model.logit)], 1).argmax(1)
    expected = torch.where(before == 10, REJECTED, before)
    assert clean["prediction"].tolist() == expected.tolist()
    right = expected == batch.y
    assert clean_accuracy(table).value == pytest.approx(float(right.float().mean()))
    assert rejection_rate(table).value == pytest.approx(float((before == 10).float().mean()))
    stays = torch.tensor((after["prediction"] == after["label"]) | (after["prediction"] == REJECTED))
    assert (after["prediction"] == REJECTED).any()
    assert accuracy(table, "PGD").value == pytest.approx(float((right & stays).float().mean()))
    assert worst_case(table).value == accuracy(table, "PGD").value
    assert {"clean rejection rate", "rejection rate, PGD"} <= measures(table).keys()
    moved = transfer({"source": network}, {"target": model}, data, attacked)
    tested = model(attacked(network, batch.x, batch.y)).argmax(1)
    expected = right & ((tested == batch.y) | (tested == 10))
    assert moved.accuracy[0][0].value == pytest.approx(float(expected.float().mean()))
    assert "are rejected" in str(checkup(model, data))
    assert "none of the data set" not in str(checkup(model, data))


@pytest.mark.parametrize(("place", "label"), [(9, 3), (10, 10)])
def test_a_reject_class_is_the_last_and_no_label(place: int, label: int) -> None:
    model = Rejecting(small_net(), 0.0, classes=place)
    with pytest.raises(ValueError, match=f"reject_class is {place}: it must be the last of the model's 11 classes"):
        PGD(eps=0.1, steps=1)(model, images(1), torch.tensor([label]))
