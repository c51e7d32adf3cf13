"""What a notebook shows of tables, measures, comparisons and curves."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from steelman import FGSM, L2, PGD, DeepFool, Linf, evaluate
from steelman.data import InMemory
from steelman.measures import (
    Curve,
    accuracy,
    clean_accuracy,
    curve,
    median_norm,
    paired,
    robust_accuracy,
    success_rate,
    success_rates,
)
from steelman.table import Evaluation


@pytest.fixture(scope="module")
def table() -> Evaluation:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    x = torch.rand(30, 1, 4, 4)
    data = InMemory("made", (x * 255).byte(), model(x).argmax(1), ("a", "b", "c"))
    attacks = {"FGSM <small>": FGSM(eps=0.02), "PGD": PGD(eps=0.05, steps=3), "DeepFool": DeepFool(norm=L2)}
    return evaluate(model, data, attacks, progress=False)


def cells(html: str) -> list[list[str]]:
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html) if "<td>" in row]


def test_a_table_has_a_line_per_attack_with_intervals(table: Evaluation):
    clean, fgsm, pgd, deepfool, *worst = cells(table._repr_html_())
    assert clean[:3] == ["clean", "", str(clean_accuracy(table))]
    assert fgsm == [
        "FGSM &lt;small&gt;",
        "Linf 0.02",
        str(accuracy(table, "FGSM <small>")),
        str(success_rate(table, "FGSM <small>")),
        "",
    ]
    assert pgd[1:3] == ["Linf 0.05", str(accuracy(table, "PGD"))]
    assert deepfool[1] == "smallest L2"
    assert deepfool[4] == str(median_norm(table, "DeepFool"))
    assert [line[1:3] for line in worst] == [
        ["Linf 0.02", str(robust_accuracy(table, Linf, 0.02))],
        ["Linf 0.05", str(robust_accuracy(table, Linf, 0.05))],
    ]
    assert "30 images, pixels" in table._repr_html_()


def test_a_table_of_very_many_attacks_is_cut(table: Evaluation):
    records = [table.record("PGD").changed(name=f"attack {place}") for place in range(60)]
    many = table.replaced(records=[*table.records, *records])
    shown = cells(many._repr_html_())
    assert len(shown) < 50
    assert ["and 23 attacks more", "", "", "", ""] in shown


def test_an_attack_without_an_accuracy_has_a_dash(table: Evaluation):
    skipped = table.replaced(records=[*table.records, table.record("PGD").changed(name="later", asked="survivors")])
    assert ["later", "Linf 0.05", "–"] in [line[:3] for line in cells(skipped._repr_html_())]


def test_comparisons_and_measures(table: Evaluation):
    found = paired(table, table, "PGD")
    assert cells(found._repr_html_()) == [[str(found.ours), str(found.theirs), str(found.difference), "0 : 0", "p = 1"]]
    assert clean_accuracy(table)._repr_html_() == str(clean_accuracy(table))


def test_curves_and_lines_are_pictures(table: Evaluation):
    for shown in (curve(table, Linf), curve(table, L2), *success_rates(table).values()):
        assert (shown._repr_png_() or b"").startswith(b"\x89PNG")
    far = Curve(Linf, np.array([0.0, 0.1]), np.array([1.0, 0.5]), ())
    near = Curve(Linf, np.array([0.0, 0.1]), np.array([1.0, 0.4]), ())
    assert far._repr_png_() != near._repr_png_()
    assert repr(near) == "Curve(Linf, accuracy 100.0 %, more than half of that up to 0.1)"
    assert repr(Curve(Linf, np.zeros(1), np.zeros(1), ())).endswith("accuracy 0.0 %, more than half of that up to 0)")


def test_what_shows_them_loads_no_plotting_library():
    code = "import sys, steelman.measures, steelman.table; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
