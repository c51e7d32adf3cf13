"""Noise of a given deviation among the measures: an accuracy, and no share in radii, worst cases and distances."""

import torch

from digits_network import trained
from steelman import FGSM, SigmaNoise, evaluate
from steelman.data import Digits
from steelman.measures import accuracy, clean_accuracy, worst_case
from steelman.measures.all_measures import measures


def test_noise_of_a_deviation_has_an_accuracy_and_no_radius() -> None:
    digits, model = Digits().load("test").subset(torch.arange(120)), trained()
    table = evaluate(model, digits, {"FGSM .05": FGSM(eps=0.05), "Noise": SigmaNoise(0.5), "None": SigmaNoise(0.0)})
    names = measures(table)
    assert {"accuracy, Noise", "accuracy, None", "accuracy, FGSM .05", "robust accuracy, Linf 0.05"} <= set(names)
    assert [name for name in names if "Noise" in name] == ["accuracy, Noise"]
    assert accuracy(table, "None").value == clean_accuracy(table).value
    assert worst_case(table).value == accuracy(table, "FGSM .05").value
    (batch,) = digits.in_order(200)
    right = model(batch.x).argmax(1) == batch.y
    noisy = torch.from_numpy(table.only("Noise")["prediction"].copy()) == batch.y
    assert accuracy(table, "Noise").value == float((right & noisy).double().mean())
    assert 0.1 < accuracy(table, "Noise").value < clean_accuracy(table).value - 0.05
