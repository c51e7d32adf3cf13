"""Losses against plain loops over images and classes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steelman.attacks import FGSM
from steelman.losses import (
    DLR,
    KL,
    CrossEntropy,
    Goal,
    LogitDifference,
    Loss,
    Margin,
    RoundedCrossEntropy,
    SoftMargin,
    cross_entropy,
    kl_divergence,
    margin,
    top_rivals,
)

CLASSES = 6


def case(seed: int, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, CLASSES, generator=generator, dtype=torch.float64) * scale
    labels = torch.randint(CLASSES, (5,), generator=generator)
    target = (labels + torch.randint(1, CLASSES, (5,), generator=generator)) % CLASSES
    return logits, labels, target


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def naive(loss: Loss, row: list[float], y: int, t: int | None) -> float:
    best = sorted(row, reverse=True)
    if isinstance(loss, CrossEntropy | RoundedCrossEntropy):
        return -math.log(softmax(row)[y]) if t is None else math.log(softmax(row)[t])
    if isinstance(loss, Margin):
        if t is None:
            return min(max(z for k, z in enumerate(row) if k != y) - row[y], loss.confidence)
        return min(row[t] - max(z for k, z in enumerate(row) if k != t), loss.confidence)
    if isinstance(loss, LogitDifference):
        return (max(z for k, z in enumerate(row) if k != y) if t is None else row[t]) - row[y]
    # AutoAttack, eq. 6 and 7, with pi the descending order: -(z_y - max z_i) / (z_pi1 - z_pi3), and
    # -(z_y - z_t) / (z_pi1 - (z_pi3 + z_pi4) / 2).
    if t is None:
        return -(row[y] - max(z for k, z in enumerate(row) if k != y)) / (best[0] - best[2])
    return -(row[y] - row[t]) / (best[0] - (best[2] + best[3]) / 2)


@pytest.mark.parametrize(
    "loss", [CrossEntropy(), RoundedCrossEntropy(), Margin(), Margin(0.5), LogitDifference(), DLR()], ids=repr
)
@pytest.mark.parametrize("targeted", [False, True])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_losses_are_their_formulas(loss: Loss, targeted: bool, seed: int) -> None:
    logits, labels, target = case(seed)
    got = loss(logits, Goal(labels, target if targeted else None))
    for row, y, t, value in zip(logits.tolist(), labels.tolist(), target.tolist(), got.tolist(), strict=True):
        assert value == pytest.approx(naive(loss, row, y, t if targeted else None), rel=1e-9, abs=1e-9)


@given(seed=st.integers(0, 2**31), shift=st.floats(-50, 50), scale=st.floats(0.1, 100))
@settings(max_examples=25, deadline=None)
def test_dlr_ignores_shift_and_scale_of_the_logits(seed: int, shift: float, scale: float) -> None:
    logits, labels, target = case(seed)
    for goal in (Goal(labels), Goal(labels, target)):
        torch.testing.assert_close(DLR()(logits * scale + shift, goal), DLR()(logits, goal), rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_signs_agree_with_the_goal(seed: int) -> None:
    logits, labels, target = case(seed)
    for goal in (Goal(labels), Goal(labels, target)):
        assert torch.equal(Margin()(logits, goal) > 0, goal.reached(logits))
    assert torch.equal(DLR()(logits, Goal(labels)) > 0, Goal(labels).reached(logits))
    assert torch.equal(margin(logits, labels), Margin()(logits, Goal(labels)))


def test_gradients_are_those_of_finite_differences() -> None:
    logits, labels, target = case(1)
    reference = case(2)[0]
    for loss in (CrossEntropy(), Margin(), DLR(), KL()):
        for goal in (Goal(labels, reference=reference), Goal(labels, target, reference)):
            if isinstance(loss, KL) and goal.target is not None:
                continue
            variable = logits.clone().requires_grad_()
            assert torch.autograd.gradcheck(lambda z, loss=loss, goal=goal: loss(z, goal), variable)


def test_a_margin_past_its_confidence_has_no_gradient() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0]], requires_grad=True)
    Margin(2.0)(logits, Goal(torch.tensor([0]))).sum().backward()
    assert not logits.grad.any()


def test_kl_against_a_loop() -> None:
    logits, labels, target = case(3)
    reference = case(4)[0]
    got = KL()(logits, Goal(labels, reference=reference)).tolist()
    for p, q, value in zip(reference.tolist(), logits.tolist(), got, strict=True):
        expected = sum(a * math.log(a / b) for a, b in zip(softmax(p), softmax(q), strict=True))
        assert value == pytest.approx(expected, rel=1e-9)
    assert not kl_divergence(logits, logits).any()
    with pytest.raises(ValueError, match=r"Goal\.reference"):
        KL()(logits, Goal(labels))
    with pytest.raises(ValueError, match="no targeted form"):
        KL()(logits, Goal(labels, target, reference))


def test_cross_entropy_takes_classes_and_probabilities() -> None:
    logits, labels, _ = case(5)
    hard = cross_entropy(logits, labels)
    assert hard.shape == (5,)
    torch.testing.assert_close(hard, cross_entropy(logits, torch.eye(CLASSES, dtype=torch.float64)[labels]))


@pytest.mark.parametrize("count", [1, 3, CLASSES])
def test_top_rivals_are_the_highest_of_the_other_classes(count: int) -> None:
    logits, labels, _ = case(7)
    for row, y, rivals in zip(
        logits.tolist(), labels.tolist(), top_rivals(logits, labels, count).tolist(), strict=True
    ):
        others = sorted((k for k in range(CLASSES) if k != y), key=lambda k: -row[k])
        assert rivals == others[:count]


@pytest.mark.parametrize(("classes", "targeted"), [(2, False), (3, True)])
def test_dlr_says_how_many_classes_it_needs(classes: int, targeted: bool) -> None:
    goal = Goal(torch.tensor([0]), torch.tensor([1]) if targeted else None)
    with pytest.raises(ValueError, match="DLR needs at least"):
        DLR()(torch.zeros(1, classes), goal)
    logits = torch.arange(classes)[None].double()
    assert torch.equal(DLR(or_margin=True)(logits, goal), Margin()(logits, goal))


def test_a_part_of_a_goal_is_the_goal_of_a_part() -> None:
    logits, labels, target = case(6)
    which = torch.tensor([3, 0])
    part = Goal(labels, target, logits)[which]
    assert torch.equal(part.labels, labels[which])
    assert torch.equal(part.target, target[which])
    assert torch.equal(part.reference, logits[which])
    assert Goal(labels)[which].target is None


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scale_free_cross_entropy_keeps_the_direction_and_where_it_can_the_gradient(
    targeted: bool, dtype: torch.dtype
):
    """Also where the model is so sure that 1 - p rounds to 0."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    logits[1] *= 20
    logits[2] *= 100
    goal = Goal(logits.argmax(1), (logits.argmax(1) + 1) % 5 if targeted else None)
    logits.requires_grad_()
    plain, free = CrossEntropy(), CrossEntropy().scale_free
    assert free is not None
    assert torch.equal(free(logits, goal), plain(logits, goal))
    ours, soft, own = (torch.autograd.grad(loss(logits, goal).sum(), logits)[0] for loss in (free, SoftMargin(), plain))
    length = ours.norm(dim=1, keepdim=True)
    assert (length > 0).all()
    torch.testing.assert_close(ours / length, soft / soft.norm(dim=1, keepdim=True))
    torch.testing.assert_close(ours[[0, 3, 4, 5]], own[[0, 3, 4, 5]])


def test_rounded_cross_entropy_loses_the_label_where_the_model_is_sure():
    """On a linear model with rows w_k, the exact direction is sign(w_rival - w_label); rounded, w_label drops out."""
    weight = torch.tensor([[3.0, 1.0, -1.0], [1.0, -2.0, 2.0]])
    x = torch.tensor([[[[10.0, 5.0, -5.0]]]])  # logits 40 and -10
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(weight)
    y = torch.tensor([0])
    moved = {loss: FGSM(1.0, loss=loss, box=None)(model, x, y) - x for loss in (CrossEntropy(), RoundedCrossEntropy())}
    assert torch.equal(moved[CrossEntropy()].flatten(), (weight[1] - weight[0]).sign())
    assert torch.equal(moved[RoundedCrossEntropy()].flatten(), weight[1].sign())
    near = x / 50
    assert torch.equal(
        FGSM(1.0, loss=RoundedCrossEntropy(), box=None)(model, near, y), FGSM(1.0, box=None)(model, near, y)
    )
