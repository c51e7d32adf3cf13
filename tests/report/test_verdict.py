"""What else a verdict says: models that do not classify, missing classes, warnings; and how to ask what is open."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from made_up import Row, table_of
from steelman.attacks import FGSM, Attack, UniformNoise
from steelman.checkup import Checkup, Finding
from steelman.data import Digits
from steelman.evaluation import evaluate, sign_attacks
from steelman.measures.chance import above_chance, chance_level, more_hits
from steelman.norms import Linf
from steelman.report import Document, Entry, report_markdown, report_page, results
from steelman.report.signs import command, signs_of
from steelman.report.verdicts import Verdict
from steelman.table.records import Provenance
from steelman.table.table import Evaluation


def table(label: list[int], clean: list[int], classes: int | None = None, **about: Any) -> Evaluation:
    """Images of these labels and predictions, all of which an attack of radius .1 leaves as they are."""
    rows: list[Row] = []
    for attack, eps in (("clean", float("nan")), ("weak", 0.1)):
        for image, (true, predicted) in enumerate(zip(label, clean, strict=True)):
            row: Row = {"attack": attack, "image": image, "label": true, "clean_prediction": predicted}
            row |= {"prediction": predicted, "success": predicted != true, "pixels": 1 + image, "x_l2": 1.0}
            row |= dict.fromkeys(("l0", "l1", "l2", "linf"), 0.0) | {"x_linf": 1.0, "loss": 1.0}
            row |= {"forwards": 1, "gradients": 1, "seconds": 0.1, "reference": "label"}
            rows.append(row | {"norm": None if attack == "clean" else "Linf", "eps": eps, "run": f"{attack}()"})
    names = None if classes is None else [f"class {k}" for k in range(classes)]
    return table_of(rows, classes=names, **about)


def judged(label: list[int], clean: list[int], classes: int | None = None) -> Verdict:
    return Document([Entry("m", table(label, clean, classes))]).verdict


def cautions(label: list[int], clean: list[int], classes: int | None = None) -> tuple[str, ...]:
    return judged(label, clean, classes).cautions


LABELS = [image % 10 for image in range(200)]


def right_on(share: float) -> list[int]:
    return [label if image < share * 200 else (label + 1) % 10 for image, label in enumerate(LABELS)]


@pytest.mark.parametrize(("share", "said"), [(0.05, True), (0.1, True), (0.13, True), (0.16, False), (0.9, False)])
def test_a_model_at_chance_does_not_classify(share: float, said: bool) -> None:
    """At 10 classes and 200 images, 13 % may be chance (p = .10), 16 % is not."""
    found = judged(LABELS, right_on(share), 10)
    assert (found.answer == "does not classify") == said
    if said:
        assert found.finding.startswith(f"Does not classify: m has {100 * share:.1f} % [")
        assert found.reasons[0].startswith("That is not above chance (10.0 %, one-sided binomial test, p = ")


def test_a_constant_model_is_named_also_where_one_class_is_frequent() -> None:
    found = judged(LABELS, [3] * 200, 10)
    assert found.finding.startswith("Does not classify: m has 10.0 % [6.6, 14.9] of 200 images right unattacked.")
    assert found.reasons[0].startswith("Class 3 is predicted for every image. That is not above chance (10.0 %, ")
    unequal = [0] * 180 + [1] * 20
    found = judged(unequal, [0] * 200, 2)
    assert found.reasons[0].startswith("Class 0 is predicted for every image. That is not above chance (90.0 %, ")
    assert judged(unequal, [0] * 178 + [1] * 22, 2).answer == "not established"


def test_few_images_show_nothing_about_chance() -> None:
    assert judged([0, 1], [1, 0], 2).answer == judged([0, 1, 2], [0, 1, 2], 3).answer == "not established"


def test_classes_without_an_image_are_named() -> None:
    (found,) = cautions([0, 1] * 50, [0, 1] * 50, 4)
    assert found.startswith("Of 2 of the 4 classes no image was evaluated: class 2, class 3. The numbers hold for")
    (found,) = cautions([0] * 50, [0] * 50, 100)
    assert found.startswith("Of 99 of the 100 classes no image was evaluated: class 1, ")
    assert "class 10 and 89 more." in found
    assert cautions([0] * 50, [0] * 50) == ("All images are of class 0.",)


def test_predictions_that_are_no_classes_of_the_data_are_named() -> None:
    found = table([0, 1, 2, 3] * 25, [0, 1, 2, 7] * 25, 4)
    said = "25 % of the predictions of m are none of the data set's 4 classes."
    assert Document([Entry("m", found)]).verdict.cautions == (said,)
    assert Document([Entry("m", found, checkup=Checkup((), "scores"))]).verdict.cautions == ()


def test_every_warning_is_in_the_first_sentences_of_page_markdown_and_json() -> None:
    warned = Checkup(
        (Finding("a", "one. "), Finding("b", "two", "warning"), Finding("c", "x < y", "warning")), "scores"
    )
    entry = Entry(
        "m", table(LABELS, right_on(0.1), 10, sample={"images": 200, "of": 999, "seed": 0, "rule": "by class"})
    )
    entry = replace(entry, checkup=warned)
    document = Document([entry])
    found = document.verdict
    said = ("Does not classify: m has 10.0 %", "The check-up warns: b: two; c: x < y.")
    assert all(each in found.sentence for each in said)
    assert found.sentence == " ".join([found.finding, *found.reasons])
    assert found.tried[0] == "200 images, a sample by class of 999 (seed 0), 1 attack."
    assert all(each.replace("<", r"\<") in report_markdown(document) for each in said)
    page = report_page(document).replace("\u00a0", " ")
    assert (
        0
        < page.index(">Does not classify<")
        < page.index("m has 10.0 % [")
        < page.index("The check-up warns: b: two; c: x &lt;")
    )
    told = results(document)
    assert told["verdict"]["answer"] == told["verdict"]["answers"][0]["answer"] == "does not classify"
    assert told["models"]["m"]["about"]["sample"] == {"images": 200, "of": 999, "seed": 0, "rule": "by class"}


def test_chance_against_scipys_definitions() -> None:
    label = np.array([0] * 6 + [1] * 4)
    assert (chance_level(label), chance_level(label, 2), chance_level(label[:1], 10)) == (0.6, 0.6, 1.0)
    assert chance_level(np.array([0, 1, 2]), 10) == pytest.approx(1 / 3)
    assert above_chance(3, 3, 0.5) == pytest.approx(0.125)
    assert above_chance(0, 3, 0.5) == above_chance(2, 3, 1.0) == 1
    ours, theirs = np.array([1, 1, 1, 1, 0], bool), np.array([0, 0, 0, 1, 1], bool)
    assert more_hits(ours, theirs) == pytest.approx(3 / 16)  # half of 3 of 4, and 4 of 4
    assert more_hits(ours, ours) == 1


def made_by(line: str, found: Evaluation) -> Entry:
    return Entry("m", found.recorded(lambda each: each.changed(made=Provenance("1", command=line))))


EARLIER = (
    "steelman evaluate 'my model.onnx' --data=Digits --battery quick --eps 8/255 --norm=L2 --survivors-only --seed 3 "
    "--fresh"
)


def test_what_was_not_measured_names_the_command_that_measures_it() -> None:
    entry = made_by(EARLIER, table(LABELS, right_on(0.8), 10))
    found = signs_of(entry, ())
    asked = "steelman evaluate 'my model.onnx' --data=Digits --seed 3 --battery signs --eps 0.1"
    more = asked.replace("signs", "standard")
    commands = {sign.name: sign.command for sign in found if sign.present is None}
    assert {name for name, each in commands.items() if each == more} == {"convergence"}  # the battery signs asks it not
    assert {name for name, each in commands.items() if not each} == {"transfer"}  # which takes another model
    assert set(commands.values()) == {asked, more, ""}
    assert any(sign.numbers.startswith("needs ") for sign in found)
    document = Document([entry])
    assert "my model.onnx" in report_page(document)
    assert f"This command measures it: `{asked}`" in report_markdown(document)
    assert asked in [sign["command"] for sign in results(document)["models"]["m"]["signs"]]


@pytest.mark.parametrize(
    ("threat", "end"),
    [
        (("Linf", 8 / 255), "--battery signs --eps 8/255"),
        (("L2", 0.5), "--battery signs --norm L2 --eps 0.5"),
        (None, "--battery signs"),
    ],
)
def test_a_command_is_of_the_earlier_call_or_of_the_run(threat: tuple[str, float] | None, end: str) -> None:
    found = table(LABELS, right_on(0.8), 10, sample={"images": 200, "of": 999, "seed": 0, "rule": "by class"})
    entry = made_by("__main__.py evaluate runs/a --images 200", found)
    assert command(entry, threat) == f"steelman evaluate runs/a --images 200 {end}"
    entry = replace(made_by("steelman demo", found), again="steelman evaluate 'runs/a b'")
    assert command(entry, threat) == f"steelman evaluate 'runs/a b' --images 200 {end}"
    assert command(replace(entry, again=""), threat).startswith("table = evaluate(model, dataset, sign_attacks(norm=L")


def test_no_command_is_named_where_none_would_help() -> None:
    found = table(LABELS, right_on(0.8), 10)
    entry = replace(made_by(EARLIER, found), checkup=Checkup((), "scores"))
    assert {sign.command for sign in signs_of(entry, ())} == {""}
    assert signs_of(entry, ())[0].numbers.endswith("; it takes gradients, and attacks get scores alone")
    wrong = made_by(EARLIER, table(LABELS, [(label + 1) % 10 for label in LABELS], 10))
    assert {sign.command for sign in signs_of(wrong, ())} == {""}


def linear(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return x.flatten(1) @ torch.randn(64, 10, generator=generator)


def fewer_draws(**threat: Any) -> list[Attack]:
    attacks = sign_attacks(**threat).values()
    return [replace(each, samples=20) if isinstance(each, UniformNoise) else each for each in attacks]


def test_the_battery_of_the_signs_answers_what_was_open() -> None:
    """The call for tables that no command has made, pasted."""
    (batch,) = Digits().load("test").batches([torch.arange(10)])
    dataset = (batch.x, linear(batch.x).argmax(1))
    table = evaluate(linear, dataset, [FGSM(eps=0.05)], progress=False)
    before = signs_of(Entry("m", table), ())
    call = next(sign.command for sign in before if sign.command)
    names = {"evaluate": evaluate, "model": linear, "dataset": dataset, "sign_attacks": fewer_draws, "Linf": Linf}
    names["table"] = table
    exec(call, names)
    after = {sign.question: sign.present for sign in signs_of(Entry("m", names["table"]), ())}
    assert sum(found is None for found in after.values()) < sum(sign.present is None for sign in before)
