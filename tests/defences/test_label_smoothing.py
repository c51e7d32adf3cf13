"""Label smoothing against its printed formula and against torch's convention."""

import pytest
import torch
import torch.nn.functional as F

from affine import images, small_net
from steelman import Batch
from steelman.data import InMemory
from steelman.defences import LabelSmoothing
from steelman.defences.label_smoothing import smooth

X = images(9)
Y = torch.arange(9) % 4


def test_nine_tenths_for_the_label_and_the_rest_in_equal_parts() -> None:
    q = smooth(torch.tensor([2, 0]), 10, 0.1)
    assert q[0].tolist() == pytest.approx([0.1 / 9] * 2 + [0.9] + [0.1 / 9] * 7, abs=1e-15)
    assert q[1].tolist() == pytest.approx([0.9] + [0.1 / 9] * 9, abs=1e-15)
    torch.testing.assert_close(q.sum(1), torch.ones(2, dtype=torch.float64))
    assert smooth(torch.tensor([1]), 2, 0.3).tolist() == [[0.3, 0.7]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.35])
@pytest.mark.parametrize("classes", [4, 10])
def test_value_and_gradient_are_those_of_the_formula_and_of_torch(smoothing: float, classes: int) -> None:
    model = small_net(classes=classes)
    ours = LabelSmoothing(smoothing)(model, Batch(X, Y))
    log_p = model(X).log_softmax(1)
    written = torch.zeros((), dtype=torch.float64)
    for row, label in enumerate(Y.tolist()):
        for k in range(classes):
            written = written - (1 - smoothing if k == label else smoothing / (classes - 1)) * log_p[row, k] / len(Y)
    theirs = F.cross_entropy(model(X), Y, label_smoothing=smoothing * classes / (classes - 1))
    for other in (written, theirs):
        torch.testing.assert_close(ours, other)
        parameters = list(model.parameters())
        torch.testing.assert_close(
            torch.autograd.grad(ours, parameters, retain_graph=True),
            torch.autograd.grad(other, parameters),
        )
    same_number = F.cross_entropy(model(X), Y, label_smoothing=smoothing)
    assert smoothing == 0 or float((ours - same_number).detach().abs()) > 1e-3, "torch's convention is another one"


def test_one_class_is_refused() -> None:
    alone = InMemory("one", torch.rand(4, 1, 4, 6), torch.zeros(4, dtype=torch.int64), ("only",))
    with pytest.raises(ValueError, match="at least two classes, with a logit for each; got 1"):
        LabelSmoothing().setup(small_net(classes=1), alone)
    with pytest.raises(ValueError, match="at least two classes, with a logit for each; got 1"):
        LabelSmoothing()(small_net(classes=1), Batch(X, torch.zeros_like(Y)))
