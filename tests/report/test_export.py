"""What `write` leaves: the files, results.json and its schema, report.md; each fact worked out once."""

import importlib
import json
import re
import sys
from collections import Counter
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from torch import nn

from made_up import ATTACKS as MADE_UP
from made_up import changed, of, record, table_of
from made_up_models import BLOCK, CHECKUP, COUNT, two_models, two_transferred
from steelman.attacks import FGSM, PGD, Surrogate
from steelman.checkup import Checkup
from steelman.measures import Axis, Line, Measure, Point, Transfer, accuracy, measures
from steelman.measures.masking import SIGNS
from steelman.report import Document, Entry, paper_table, results, transfer_table, write
from steelman.report.charts import lines_chart
from steelman.report.entry import comparable
from steelman.report.results import SCHEMA
from steelman.table import Evaluation


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return list(two_models())


@pytest.fixture(scope="module")
def transferred() -> Transfer:
    return two_transferred()


@pytest.fixture(scope="module")
def folder(entries, transferred, tmp_path_factory):
    """Everything but the pictures and the page, which have tests of their own and take their time."""
    folder = tmp_path_factory.mktemp("run")
    chart = lines_chart({"one": Line((Point(0.0, 1.0),), Axis("radius"), Axis("accuracy"))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steelman.report.document.charts_of", lambda *_: {"curve-linf": chart})
        written = write(folder, entries, transfer=[transferred], on="2020-02-02", shape="l2l-da")
    assert sorted([*written, folder / ".lock"]) == sorted(folder.iterdir())
    assert written[-1].name == "report.html"
    return folder


def numbers(measure: Measure) -> list[tuple[str, float]]:
    return [(key, getattr(measure, key)) for key in ("value", "low", "high", "count", "failures")]


def test_results_follow_their_schema(folder, entries, transferred):
    text = (folder / "results.json").read_text(encoding="utf-8")
    assert not re.search(r"\b(NaN|Infinity)\b", text)
    found, schema = json.loads(text), json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    assert list(validator.iter_errors(found)) == []
    assert list(found["models"]) == [each.name for each in entries]
    for each in entries:
        model = found["models"][each.name]
        assert list(model["measures"]) == list(each.measures)
        for name, value in model["measures"].items():
            finite = {key: number if np.isfinite(number) else None for key, number in numbers(each.measures[name])}
            assert {key: value[key] for key in finite} == finite
        assert model["images"] == COUNT
        assert {attack["name"] for attack in model["attacks"]} == set(each.evaluation.attacks)
        assert next(a["eps"] for a in model["attacks"] if a["name"] == "nearest") is None
        assert next(a["knowledge"] for a in model["attacks"] if a["name"] == "nearest") == "white"
        assert [each["name"] for each in model["signs"]] == list(SIGNS)
    first = found["models"][entries[0].name]
    assert Checkup.of(first["checkup"]) == CHECKUP
    assert (first["recipe"], first["training"]) == (entries[0].recipe, entries[0].log)
    assert found["date"] == "2020-02-02"
    (matrix,) = found["transfer"]
    assert matrix["worst"][1]["value"] == transferred.worst[1].value
    assert matrix["accuracy"][1][0]["value"] == transferred.accuracy[1][0].value
    found["models"][entries[0].name]["measures"]["clean accuracy"]["value"] = "much"
    assert len(list(validator.iter_errors(found))) == 1, "the schema would let anything pass"


def test_an_attack_without_an_image_is_reported_with_the_others():
    skipped = record({**of(BLOCK, "strong")[0], "run": FGSM()}, asked="survivors")
    broken = changed(BLOCK, "weak", linf=0.01, prediction=lambda row: (row["label"] + 1) % 3)
    rows = [row for row in broken if row["attack"] in ("clean", "weak")]
    found = results(Document([Entry("m", table_of(rows, records=[skipped]))]))
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(found)
    (attack,) = [each for each in found["models"]["m"]["attacks"] if each["name"] == "strong"]
    assert (attack["images"], attack["forwards"], attack["asked"], attack["eps"]) == (0, None, "survivors", 0.1)
    assert (attack["knowledge"], attack["settings"]["kind"], attack["digest"]) == ("white", "FGSM", skipped.digest)


def test_what_is_infinite_is_null():
    far = changed(BLOCK, "nearest", success=False, l2=lambda row: 9.0, prediction=lambda row: row["clean_prediction"])
    found = results(Document([Entry("far", table_of(far))]))["models"]["far"]
    assert found["measures"]["median L2, nearest"]["value"] is None
    assert "mean L2, nearest" in found["unmeasured"]


def test_a_whole_folder_is_written(folder, entries):
    names = {path.name for path in folder.iterdir() if path.suffix not in (".png", ".svg")}
    forms = {f"{stem}.{kind}" for stem in ("table", "black-box", "transfer-FGSM-") for kind in ("md", "tex", "csv")}
    tables = {"table-1-one_a-50-.parquet", "table-2-two-b-.parquet"}
    assert names == {".lock", "results.json", "measures.csv", "report.md", "report.html", *forms, *tables}
    assert measures(Evaluation.load(folder / "table-2-two-b-.parquet")) == entries[1].measures
    assert (folder / "table.md").read_text() == paper_table(entries, "l2l-da").markdown()


def test_the_markdown_report_has_the_sections_of_the_page(folder, entries, transferred):
    text = (folder / "report.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads == [
        "Side by side", "Measures", "Which attack broke which images", "Signs of masked gradients", "Check-up",
        "Transfer", "Pictures", "Attacks and their cost", "How to reproduce it", "How to cite",
    ]  # fmt: skip
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]*)\)", text)
    assert pictures == ["curve-linf.svg"]
    assert "![Accuracy by radius](curve-linf.svg)" in text
    assert all((folder / path).is_file() for path in pictures)
    assert paper_table(entries, "l2l-da").markdown() in text
    assert transfer_table(transferred).markdown().strip() in text
    assert 'network = "MLP"' in text
    assert r"| warning | slopes | a \| b | look |" in text
    waterfall = text[text.index("| Within Linf 0.1 |") :].split("\n\n")[0].splitlines()
    counts = [int(line.split(" | ")[1].split()[0]) for line in waterfall[2:]]
    assert sum(counts) == COUNT
    for table in text.split("\n\n"):
        lines = [line for line in table.splitlines() if line.startswith("| ")]
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines}) <= 1


def test_the_first_model_is_compared_with_each_other_image_by_image(entries):
    pairs = Document(entries).pairs
    assert {(pair.ours, pair.theirs) for pair in pairs} == {(entries[0].name, entries[1].name)}
    assert {pair.paired.under for pair in pairs} == {"no attack", "Linf 0.1", "Linf 0.05"}
    flags = []
    for each in entries:
        rows = [row for row in each.evaluation.table.to_pylist() if row["attack"] != "clean"]
        near = {row["image"] for row in rows if row["linf"] <= 0.1 * (1 + 1e-5) and row["prediction"] != row["label"]}
        wrong = {row["image"] for row in rows if row["clean_prediction"] != row["label"]}
        flags.append(np.array([image not in near | wrong for image in range(COUNT)]))
    found = next(pair.paired for pair in pairs if pair.paired.under == "Linf 0.1")
    assert (found.better, found.worse) == (int((flags[0] & ~flags[1]).sum()), int((flags[1] & ~flags[0]).sum()))
    assert found.better + found.worse > 0
    assert Document(entries[:1]).pairs == ()


def test_models_of_other_images_are_not_compared(entries, tmp_path):
    others = {
        "labels": changed(BLOCK, label=lambda row: (row["label"] + 1) % 3),
        "pixels": changed(BLOCK, pixels=lambda row: row["pixels"] + (row["image"] == 7)),
        "sizes": changed(BLOCK, pixels=0, x_l2=lambda row: row["x_l2"] * (1.001 if row["image"] == 7 else 1)),
        "images": [row for row in BLOCK if row["image"] != 3],
    }
    for name, rows in others.items():
        for show in (lambda pair: write(tmp_path / "none", pair), paper_table, Document):
            with pytest.raises(ValueError, match=rf"one_a & 50 % and {name} cannot be compared: .*image"):
                show([entries[0], Entry(name, table_of(rows))])
    with pytest.raises(ValueError, match="numbers of two spaces cannot be compared"):
        Document([entries[0], Entry("behind", table_of(BLOCK, space="preprocessed"))])
    with pytest.raises(ValueError, match="two models are called"):
        Document([entries[0], entries[0]])
    with pytest.raises(ValueError, match="at least one model"):
        write(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()


def test_attacks_that_share_only_a_name_are_in_different_rows():
    said = {"a": FGSM(eps=0.123456), "b": FGSM(eps=0.2), "c": PGD(eps=0.2)}
    tables = {name: table_of(changed(BLOCK, "weak", run=attack)) for name, attack in said.items()}
    one, two = comparable([Entry(name, tables[name]) for name in "ab"])
    same = {"strong", "small", "nearest", "away", "grid"}
    assert set(one.evaluation.attacks) == {"weak: eps=0.1235", *same}
    assert set(two.evaluation.attacks) == {"weak: eps=0.2", *same}
    assert accuracy(one.evaluation, "weak: eps=0.1235") == accuracy(tables["a"], "weak")
    whole = paper_table([Entry(name, tables[name]) for name in "ac"], "l2l-da")
    calls = {f"weak: {tables[name].record('weak').call}" for name in "ac"}
    assert calls <= {str(each) for each in whole.columns}
    weak = [cell for column, cell in zip(whole.columns, whole.cells[0], strict=True) if "weak" in column.label]
    assert sorted(cell is None for cell in weak) == [False, True]


def test_attacks_that_hold_different_models_are_in_different_rows():
    nets = {"a": nn.Flatten(), "b": nn.Flatten(0), "c": nn.Flatten()}
    tables = {name: table_of(changed(BLOCK, "weak", run=Surrogate(FGSM(), net))) for name, net in nets.items()}
    one, two, three = comparable([Entry(name, table) for name, table in tables.items()])
    (first,), (second,), (third,) = (set(each.evaluation.attacks) - set(MADE_UP) for each in (one, two, three))
    assert first == third != second
    assert accuracy(two.evaluation, second) == accuracy(tables["b"], "weak")
    behind = Entry("d", tables["a"], preprocessed=table_of(changed(BLOCK, "weak", run=FGSM()), space="preprocessed"))
    (alone,) = comparable([behind])
    assert set(alone.evaluation.attacks) == set(alone.preprocessed.attacks) == set(MADE_UP) - {"clean"}


ONCE = (
    ("entry", "comparable"),
    ("verdicts", "judged"),
    ("verdicts", "shared_shares"),
    ("charts", "curves_of"),
    ("charts", "charts_of"),
    ("plots", "pictures_of"),
)
PER_MODEL = (("signs", "signs"), ("entry", "measures_and_gaps"), ("document", "waterfall"), ("rows", "_sorted"))
PER_PICTURE = (("plots", "draw"), ("plots", "svg"))


def test_each_fact_is_worked_out_once(tmp_path, monkeypatch):
    """One `write`: one document, signs, measures and rows once per model, and each picture drawn once."""
    counts: Counter[str] = Counter()
    for place, name in (*ONCE, *PER_MODEL, *PER_PICTURE):
        room = "measures" if place == "rows" else "report"
        function = getattr(importlib.import_module(f"steelman.{room}.{place}"), name)

        def counted(*values, key_=name, function_=function, **more):
            counts[key_] += key_ != "_sorted" or values[0].images > 1  # of one: what a battery would ask
            return function_(*values, **more)

        for module in [each for known, each in sys.modules.items() if known.startswith(f"steelman.{room}")]:
            if getattr(module, name, None) is function:
                monkeypatch.setattr(module, name, counted)
    fresh = [replace(each, evaluation=Evaluation(each.evaluation.table)) for each in two_models()]
    write(tmp_path, [replace(each, evaluation=each.evaluation.only(["clean", "weak", "strong"])) for each in fresh])
    pictures = len(list(tmp_path.glob("*.png")))
    assert pictures > 1
    assert {name: counts[name] for _, name in ONCE} == {name: 1 for _, name in ONCE}
    assert {name: counts[name] for _, name in PER_MODEL} == {name: 2 for _, name in PER_MODEL}
    assert {name: counts[name] for _, name in PER_PICTURE} == {name: pictures for _, name in PER_PICTURE}
