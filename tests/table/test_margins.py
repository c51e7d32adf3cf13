"""The columns `margin` and `flat`: what they are, and what a table that lacks them has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet
from torch import Tensor

from affine import affine, images, small_net
from steelman.attacks import APGD, FGSM, HopSkipJump
from steelman.evaluation import evaluate
from steelman.losses import Goal, Margin
from steelman.table import Evaluation


def test_the_margin_is_that_of_the_returned_images() -> None:
    net, x = small_net(), images(12)
    y = net(x).argmax(1).detach()
    y[0] = (y[0] + 1) % 10
    attack = APGD(eps=0.05, steps=5)
    table = evaluate(net, (x, y), {"APGD": attack}, progress=False)
    with torch.no_grad():
        clean, found = Margin()(net(x), Goal(y)), attack.run(net, x, y, generator=torch.arange(12))
        torch.testing.assert_close(found.margin, Margin()(net(found.x_adv), Goal(y)))
    np.testing.assert_allclose(table.only("clean")["margin"], clean.numpy())
    attacked = table.only("APGD")
    assert ((attacked["margin"] > 0) == attacked["success"]).all()
    assert (attacked["margin"] >= table.only("clean")["margin"]).all()


def test_gradients_that_are_zero_are_counted() -> None:
    model = affine(0, images=6)

    def half(x: Tensor) -> Tensor:
        """Flat on dark images."""
        logits = model(x)
        return torch.where(x.flatten(1).mean(1, keepdim=True) < 0.45, logits.detach() + 0 * logits, logits)

    x = torch.cat([model.x[:3] * 0.5, model.x[3:]])
    y = half(x).argmax(1)
    with pytest.warns(UserWarning, match="gradient is zero on 3 of 6 images"):
        found = APGD(eps=0.01, steps=4).run(half, x, y)
    assert found.flat.tolist() == [4, 4, 4, 0, 0, 0]
    with pytest.warns(UserWarning, match="gradient is zero"):
        table = evaluate(half, (x, y), [FGSM(eps=0.01)], progress=False)
    assert table.only("FGSM(eps=0.01)")["flat"].tolist() == [1, 1, 1, 0, 0, 0]


def test_a_model_that_gives_classes_alone_has_no_margin() -> None:
    net, x = small_net(), images(4)
    y = net(x).argmax(1).detach()
    jump = HopSkipJump(steps=1, evaluations=4, starts=2)
    table = evaluate(lambda x: net(x).argmax(1), (x, y), {"jump": jump}, progress=False)
    assert np.isnan(table["margin"]).all()


def test_a_table_without_them_is_read_as_it_was(tmp_path: Path) -> None:
    net, x = small_net(), images(4)
    table = evaluate(net, (x, net(x).argmax(1).detach()), [FGSM(eps=0.1)], progress=False)
    older = table.replaced(table.table.drop_columns(["margin", "flat"]))
    parquet.write_table(older.table, tmp_path / "older.parquet")
    found = Evaluation.load(tmp_path / "older.parquet")
    assert np.isnan(found["margin"]).all()
    assert (found["flat"] == 0).all()
    assert (found["l2"] == table["l2"]).all()
