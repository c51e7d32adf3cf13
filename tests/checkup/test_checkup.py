"""The check-up finds what was done to a model, says so in a line, and leaves the model as it was."""

import copy
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from affine import affine
from digits_network import trained
from steelman.attacks import (
    FGSM,
    PGD,
    Attack,
    CarliniWagner,
    DeepFool,
)
from steelman.checkup import Checkup, Finding, checkup
from steelman.checkup.slopes import Slopes
from steelman.data import Digits, InMemory
from steelman.evaluation import evaluate
from steelman.filters import BPDA, BitDepth
from steelman.measures import measures, signs
from steelman.measures.masking import SIGNS
from steelman.networks import Filtered

NAMES = ["images", "answer", "accuracy", "mode", "determinism", "neighbours", "cross-entropy", "gradient"]
NAMES += ["gradient length", "slopes"]


NET = trained()
TEST = Digits().load("test")


def look(model: Callable[[Tensor], Tensor], data: Any = TEST, **more: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in checkup(model, data, **more).findings}


def warned(found: dict[str, Finding]) -> list[str]:
    return [name for name, finding in found.items() if finding.level == "warning"]


def test_an_honest_network_is_fine_and_left_as_it_was() -> None:
    before = copy.deepcopy(NET.state_dict())
    state = torch.get_rng_state()
    found = checkup(NET, TEST)
    assert [finding.name for finding in found.findings] == NAMES
    assert {finding.level for finding in found.findings} == {"fine"}
    assert found.access == "gradients"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in NET.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in NET.parameters())
    assert not any(module.training for module in NET.modules())


def test_images_are_spread_over_the_data_set() -> None:
    x, y = torch.rand(40, 1, 8, 8), torch.arange(40) // 10
    seen: list[Tensor] = []

    def model(at: Tensor) -> Tensor:
        seen.append(at.detach())
        return NET(at)

    checkup(model, (x, y), images=4)
    places = [int((x == image).flatten(1).all(1).nonzero()) for image in seen[0]]
    assert sorted(y[places].tolist()) == [0, 1, 2, 3]
    assert places == sorted(places)
    x, y = x[:10], torch.arange(10)
    assert "4 of shape (1, 8, 8)" in look(model, (x, y), images=4)["images"].found
    assert "10 of shape" in look(model, (x, y))["images"].found


@pytest.mark.parametrize(
    ("x", "said", "advice"),
    [
        (torch.rand(20, 1, 8, 8) * 255, "bytes", "divide the images by 255"),
        (torch.randn(20, 1, 8, 8), "normalised already", "--mean, --std"),
        (torch.rand(20, 1, 8, 8) * 1.5, "not within 0 and 1", "bring the images into it"),
        (torch.full((20, 1, 8, 8), torch.nan), "NaN among them", "refuses them"),
    ],
)
def test_images_out_of_range(x: Tensor, said: str, advice: str) -> None:
    finding = look(NET, (x, torch.arange(20) % 10))["images"]
    assert finding.level == "warning"
    assert said in finding.found
    assert advice in finding.advice


def test_a_normalisation_that_is_missing_is_named() -> None:
    finding = look(lambda x: NET((x + 1) / 2))["accuracy"]
    assert finding.advice.startswith("Perhaps the model expects that: try --mean 0.")
    assert "% behind --mean 0." in finding.found
    finding = look(lambda x: NET(x / 255))["accuracy"]
    assert finding.advice == "Perhaps the model expects that: try --mean 0 --std 0.00392157"


def by_brightness(hits: int, behind: int, images: int = 100) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A model that is right on the first `hits` images, and on the last `behind` where they come as bytes."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            place = (x.flatten(1)[:, 0] * (images if x.max() <= 1 else images / 255)).round().long()
            right = place < hits if x.max() <= 1 else place >= images - behind
            return F.one_hot(torch.where(right, place % 10, (place + 1) % 10), 10).float() * 3 - x.mean()

    x = (torch.arange(images) / images).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return Model(), (x, torch.arange(images) % 10)


@pytest.mark.parametrize(
    ("hits", "behind", "named"), [(30, 30, False), (30, 40, False), (30, 70, True), (80, 99, True)]
)
def test_a_normalisation_is_named_only_where_more_hits_are_no_chance(hits: int, behind: int, named: bool) -> None:
    """Ten more of 100 was once enough; where the hits are on other images, chance gives as many."""
    model, data = by_brightness(hits, behind)
    assert ("expects that" in look(model, data)["accuracy"].advice) == named


def test_labels_that_are_counted_from_1_are_named() -> None:
    (batch,) = TEST.batches([torch.arange(len(TEST))])
    x, y = batch.x, batch.y + 1
    some = y < 10
    finding = look(NET, (x[some], y[some]))["labels"]
    assert finding.level == "warning"
    assert "the lowest is 1" in finding.found
    assert "counted from 1" in finding.advice
    beyond = look(NET, (x, y))["answer"]
    assert beyond.level == "warning"
    assert "label 10 has no class" in beyond.found
    late = torch.cat([x[some], x[~some][:1]]), torch.cat([y[some], torch.tensor([10])])
    assert "label 10 has no class" in look(NET, late, images=9)["answer"].found


def test_labels_without_a_0_are_no_fault_of_a_model_that_is_right() -> None:
    (batch,) = TEST.batches([torch.where(TEST.labels > 0)[0]])
    assert "labels" not in look(NET, (batch.x, batch.y))


def test_predictions_that_are_none_of_the_datas_classes_are_named() -> None:
    few = InMemory("few", TEST.images[TEST.labels < 4], TEST.labels[TEST.labels < 4], tuple("0123"), levels=TEST.levels)
    assert "classes" not in look(lambda x: NET(x) - torch.arange(10) * 100.0, few)
    finding = look(lambda x: NET(x) + torch.arange(10) * 100.0, few)["classes"]
    assert finding.found == "100 % of the predictions are none of the data set's 4 classes"
    assert finding.level == "warning"


def test_two_classes_at_chance_are_a_warning() -> None:
    torch.manual_seed(0)
    x, y = torch.rand(100, 1, 8, 8), torch.arange(100) % 2
    finding = look(lambda x: torch.stack([x.flatten(1)[:, 0], x.flatten(1)[:, 1]], 1), (x, y))["accuracy"]
    assert finding.level == "warning"
    assert "no more than chance" in finding.found


def nan_where_bright(x: Tensor) -> Tensor:
    return NET(x) + torch.where(x.flatten(1).mean(1, keepdim=True) > 0.3, torch.nan, 0.0)


@pytest.mark.parametrize(
    ("model", "name", "said"),
    [
        (lambda x: NET(x).softmax(1), "answer", "probabilities of 10 classes"),
        (lambda x: NET(x).log_softmax(1), "answer", "log-probabilities of 10 classes"),
        (lambda x: F.one_hot(NET(x).argmax(1), 10).float(), "answer", "1 for one class and 0 for the others"),
        (lambda x: NET(x).argmax(1), "answer", "classes alone"),
        (nan_where_bright, "answer", "NaN or infinite logits of 10 classes on"),
        (lambda x: NET(x)[:, :5], "answer", "label 9 has no class: the model returns 5 logits"),
        (lambda x: NET(x).sum(), "answer", "must return logits of shape (100, classes)"),
        (lambda x: NET(x.expand(-1, 3, -1, -1)), "answer", "RuntimeError: Given groups=1"),
        (lambda x: [1, 2], "answer", "Error"),
        (lambda x: NET(x) * 0 + 1, "accuracy", "the answer is the same for all"),
        (lambda x: NET(x) + 1e6 * F.one_hot(torch.tensor(3), 10), "accuracy", "class 3 is predicted for all"),
        (lambda x: NET(x + 0.2 * torch.randn_like(x)), "determinism", "a second call differs on 100 % of the images"),
    ],
)
def test_answers(model: Callable[[Tensor], Tensor], name: str, said: str) -> None:
    found = look(model)
    assert said in found[name].found
    odd = found[name].level != "fine" or "log-" in said
    assert odd


@pytest.mark.parametrize(
    ("model", "access"),
    [
        (NET, "gradients"),
        (lambda x: NET(x).softmax(1), "gradients"),
        (lambda x: NET(x).detach(), "scores"),
        (lambda x: torch.from_numpy(NET(torch.from_numpy(x.numpy())).detach().numpy()), "scores"),
        (lambda x: NET(x).argmax(1), "decisions"),
        (lambda x: F.one_hot(NET(x).argmax(1), 10).float(), "decisions"),
        (lambda x: NET(x).argmax(1).int(), "decisions"),
    ],
)
def test_access(model: Callable[[Tensor], Tensor], access: str) -> None:
    assert checkup(model, TEST).access == access


def test_labels_of_one_class_and_no_images() -> None:
    x, y = next(TEST.batches([torch.arange(100)])).x, torch.full((100,), 3)
    assert "all are of class 3" in look(NET, (x[:20], y[:20]))["labels"].found
    with torch.no_grad():
        none = look(NET, (x[:20], (NET(x[:20]).argmax(1) + 1) % 10))["accuracy"]
    assert none.found == "0 % of 20 images are right"
    assert none.level == "warning"
    with pytest.raises(ValueError, match="no images"):
        checkup(NET, (x[:0], y[:0]))
    with pytest.raises(ValueError, match="at least 1; got 0 and 100"):
        checkup(NET, TEST, images=0)


def test_train_mode_is_reported_and_kept() -> None:
    model = copy.deepcopy(NET).train()
    before = copy.deepcopy(model.state_dict())
    finding = look(model)["mode"]
    assert finding.level == "note"
    assert "train, where the class differs on" in finding.found
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    idle = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).train()
    assert "changes nothing" in look(idle)["mode"].found


def test_batch_normalisation_in_train_mode_behind_a_function_is_found() -> None:
    model = copy.deepcopy(NET).train()
    model[5].eval()  # the dropout
    found = look(lambda x: model(x))
    assert "depends on the others in its batch" in found["neighbours"].found
    assert "neighbours" in warned(found)


# Gradients that are lost, dead or lie


def in_double(logits: Tensor) -> Tensor:
    return 1 - logits.double().softmax(1).amax(1)


@pytest.mark.parametrize("scale", [1.0, 6.0, 1000.0])
def test_cross_entropy_lost_in_rounding_is_found(scale: float) -> None:
    x = next(TEST.batches([torch.arange(100)])).x
    with torch.no_grad():
        share = float((in_double(scale * NET(x)) < 2**-23).float().mean())
    finding = look(lambda x: scale * NET(x), (x, torch.arange(100) % 10))["cross-entropy"]
    assert (f"{100 * share:.3g} %" in finding.found) == (share > 0)
    assert finding.level == ("note" if share else "fine")


def rounded(x: Tensor) -> Tensor:
    return NET((x * 15).round() / 15)


def saturated(x: Tensor) -> Tensor:
    return torch.sigmoid(60 * NET(x))


def test_dead_gradients_are_found() -> None:
    found = look(rounded)
    assert found["gradient"].found == "0 on 100 % of the images"
    assert "HopSkipJump" in found["gradient"].advice
    assert "not compared" in found["slopes"].found
    assert "gradient" in warned(look(saturated))
    assert "NaN or infinite on 100 %" in look(lambda x: NET(x) + (x.flatten(1)[:, :1] * 0).sqrt())["gradient"].found


def test_vanishing_and_exploding_gradients_are_found() -> None:
    vanishing = look(lambda x: NET(x) * 1e-3 + NET(x).detach())["gradient length"]
    assert "vanishing: on 100 % of the images" in vanishing.found
    exploding = look(lambda x: 1e5 * NET(x) - (1e5 * NET(x)).detach() + NET(x).detach())["gradient length"]
    assert "exploding: on 100 % of the images" in exploding.found


@pytest.mark.parametrize(
    "model",
    [
        Filtered(BitDepth(1), NET),
        Filtered(BitDepth(3), NET),
        nn.Sequential(BPDA(lambda x: (x * 20).sin() / 20), NET),  # the identity stands in for a sine
        lambda x: NET(x.detach()) + 0.3 * NET(x),  # a part of the gradient is cut
    ],
)
def test_gradients_that_lie_are_found(model: Callable[[Tensor], Tensor]) -> None:
    found = look(model)
    assert "slopes" in warned(found)
    assert "gradient" not in warned(found)
    for word in ("BPDA", "HopSkipJump", "Surrogate"):
        assert word in found["slopes"].advice


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_random_model_s_slopes_are_compared_on_one_draw(scale: float) -> None:
    assert look(lambda x: scale * NET(x + 0.1 * torch.randn_like(x)))["slopes"].level == "fine"
    clock = iter(range(1000))
    assert "random beyond torch's seed" in look(lambda x: NET(x) * (1 + next(clock)))["slopes"].found


def test_slopes_of_an_affine_model_are_its_weights() -> None:
    model = affine(0)
    x = model.x.float()
    found = Slopes.of(model, x, 10, 0)
    assert found is not None
    for row in range(len(x)):
        logits = model.weight.double() @ x[row].double().flatten() + model.bias.double()
        own, rival = logits.argsort(descending=True)[:2].tolist()
        length = float((model.weight[rival] - model.weight[own]).norm())
        assert float(found.length[row]) == pytest.approx(length, rel=1e-5)
        assert float(found.distance[row]) == pytest.approx(float(logits[own] - logits[rival]) / length, rel=1e-3)
    assert found.tested.all()
    assert not (found.along | found.across | found.lost & (found.distance > 100)).any()


# What becomes of it


def test_findings_are_printed_and_read_again() -> None:
    found = checkup(lambda x: NET(x).softmax(1), TEST)
    assert str(found).splitlines()[1].startswith("note     answer: probabilities")
    assert Checkup.of(json.loads(json.dumps(found.plain()))) == found
    assert [finding.level for finding in checkup(rounded, TEST).warnings] == ["warning"]
    text = io.StringIO()
    Console(file=text, width=90, no_color=True).print(
        Checkup((Finding("x", "[odd] names", "warning", "Do"),), "scores")
    )
    assert text.getvalue().split() == ["warning", "x", "[odd]", "names", "Do"]


# What evaluation makes of models that are not as they should be


def wrong(x: Tensor) -> Tensor:
    return -NET(x)


def constant(x: Tensor) -> Tensor:
    return NET(x) * 0 + 1


@pytest.mark.filterwarnings("ignore:.*gradient")
@pytest.mark.parametrize("survivors_only", [False, True])
@pytest.mark.parametrize(("model", "labels"), [(wrong, None), (constant, None), (NET, 3)])
def test_zero_right_images_a_constant_model_and_one_class_are_evaluated(
    model: Callable[[Tensor], Tensor], labels: int | None, survivors_only: bool
) -> None:
    batch = next(TEST.batches([torch.arange(60)]))
    batch = batch[torch.where(batch.y == labels)[0] if labels is not None else torch.arange(15)]
    attacks = [PGD(eps=0.1, steps=3), DeepFool(steps=3), CarliniWagner(steps=2, search_steps=1)]
    table = evaluate(model, (batch.x, batch.y), attacks, survivors_only=survivors_only)
    with torch.no_grad():
        right = (model(batch.x).argmax(1) == batch.y).float().mean()
    assert measures(table)["clean accuracy"].value == pytest.approx(float(right))
    assert all(0 <= found.value <= 1 for found in measures(table).values() if found.kind == "share")
    assert len(signs(table)) == len(SIGNS)


def nan_off_the_grid(x: Tensor) -> Tensor:
    """Finite on the pictures as they are, in sixteenths."""
    off = (x * 16 != (x * 16).round()).flatten(1).any(1, keepdim=True)
    return NET(x) + torch.where(off, torch.nan, 0.0)


@pytest.mark.parametrize("model", [nan_where_bright, nan_off_the_grid])
@pytest.mark.parametrize("attack", [FGSM(eps=0.1), DeepFool()], ids=str)
def test_logits_that_are_not_finite_are_refused_by_name(model: Callable[[Tensor], Tensor], attack: Attack) -> None:
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        evaluate(model, TEST.subset(torch.arange(10)), [attack])
