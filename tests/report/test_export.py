"""What is left of an evaluation: tables in the papers' shapes, results.json and its schema, report.md."""

import csv
import io
import json
import re
from dataclasses import replace
from math import inf
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from torch import nn

from made_up import ATTACKS as MADE_UP
from made_up import changed, made_up, of, record, right, table_of
from steelman import measures
from steelman.attacks import FGSM, PGD, Surrogate
from steelman.checkup.findings import Checkup, Finding
from steelman.evaluation.transferability import CraftedOnSource
from steelman.measures import (
    Measure,
    Transfer,
    accuracy,
    average_accuracy,
    clean_accuracy,
    minimum,
    rho_2,
    rho_cw,
    robust_accuracy,
)
from steelman.measures.paper_table import md
from steelman.measures.transfer import from_source
from steelman.norms import Linf
from steelman.report import (
    Entry,
    PaperTable,
    TableColumn,
    black_box_table,
    compared,
    csv_table,
    measures_table,
    paper_table,
    results,
    transfer_table,
    write,
)
from steelman.report.entry import comparable
from steelman.report.markdown import report_markdown
from steelman.report.results import SCHEMA
from steelman.table import Evaluation
from steelman.table.records import CLEAN, Record, record_of

COUNT = 41
CHECKUP = Checkup((Finding("range", "in [0, 1]"), Finding("slopes", "a | b", "warning", "look")), "gradients")
BLOCK = made_up(COUNT)


def entry(name: str, seed: int, rows=BLOCK, **more) -> Entry:
    """A model on the same images: others of its predictions are wrong."""
    draws = np.random.default_rng(seed)
    wrong = {(row["image"], row["attack"]): draws.random() < 0.3 for row in rows if row["attack"] != "clean"}
    new = changed(rows, prediction=lambda row: (row["prediction"] + wrong.get((row["image"], row["attack"]), 0)) % 3)
    return Entry(name, table_of(new), **more)


def share(value: float, low: float = 0.0, high: float = 0.0) -> Measure:
    return Measure(value, low or value, high or value, 100)


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    log = [{"epoch": 0, "clean": 0.1}, {"epoch": 1, "clean": 0.5, "seconds": 2.0}, {"epoch": 2, "seconds": 4.0}]
    first = entry("one_a & 50 %", 1, log=log, info={"data": "none"}, checkup=CHECKUP, recipe='network = "MLP"\n')
    return [first, entry("two | <b>", 2)]


def transfer_of(entries: list[Entry], attack: str = "FGSM()") -> Transfer:
    """Made up too: what `weak` and `strong` did stands for images from two sources."""
    sources = {"weak": entries[0].name, "strong": "C"}

    def crafted(record: Record, target: str) -> Record:
        source = sources[record.name]
        made = CraftedOnSource(FGSM(), nn.Flatten(), source, attack, source == target, Path())
        return record_of(from_source(attack, source), made)

    def table(target: Entry) -> Evaluation:
        rows = target.evaluation.only(["clean", *sources])
        rows = rows.replaced(records=[rows.record(name) for name in ("clean", *sources)])
        return rows.recorded(lambda each: each if each.name == CLEAN else crafted(each, target.name))

    return Transfer(attack, {each.name: table(each) for each in entries})


@pytest.fixture(scope="module")
def transferred(entries) -> Transfer:
    found = transfer_of(entries)
    assert (found.sources, found.white) == ((entries[0].name, "C"), {(entries[0].name, entries[0].name)})
    return found


@pytest.fixture(scope="module")
def folder(entries, transferred, tmp_path_factory):
    """Everything but the pictures and the page, which have tests of their own and take their time."""
    folder = tmp_path_factory.mktemp("run")
    picture = Figure(label="Accuracy by radius")

    def page(into, shown, **more):
        (into / "report.html").write_text(f"{[each.name for each in shown]} {sorted(more)}")
        return into / "report.html"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steelman.report.export.figures", lambda entries: {"curve-linf": picture})
        patch.setattr("steelman.report.export.write_report", page)
        written = write(folder, entries, transfer=[transferred], on="2020-02-02", shape="l2l-da")
    assert sorted([*written, folder / ".lock"]) == sorted(folder.iterdir())
    assert written[-1].name == "report.html"
    return folder


def numbers(measure: Measure) -> list[tuple[str, float]]:
    return [(key, getattr(measure, key)) for key in ("value", "low", "high", "count", "failures")]


def columns(table: PaperTable, row: int = 0) -> dict[str, object]:
    return {str(column): cell for column, cell in zip(table.columns, table.cells[row], strict=True)}


def test_every_kind_of_accuracy_is_explained_beside_its_table(entries):
    """Robust accuracy, Min and accuracies differ by fractions: a reader is told why."""
    lines = ["Accuracy under an attack:", "Robust accuracy: no attack", "Min: the lowest accuracy"]
    shown = measures_table(entries[:1])
    console = Console(width=300, file=io.StringIO())
    console.print(shown)
    for text in (shown.markdown(), shown.latex(), report_markdown(entries[:1]), console.file.getvalue()):
        assert all(line in text for line in lines)
    l2l = paper_table(entries[:1], "l2l-da")
    assert [line in " ".join(l2l.notes) for line in lines] == [False, True, True]
    found = entries[0].measures
    assert dict(columns(l2l))["Linf 0.1 Robust accuracy"] == found["robust accuracy, Linf 0.1"]
    assert dict(columns(l2l))["Linf 0.1 Min"] == found["Min, Linf 0.1"]
    assert any(note.startswith("Robust accuracy:") for note in paper_table(entries[:1], "mma").notes)
    assert paper_table([entry("m", 3, reference_rows())], "deep-defense").notes == ()


def test_each_paper_has_its_columns(entries):
    first = entries[0].evaluation
    deep = columns(paper_table([entry("m", 3, reference_rows())], "auto"))
    assert list(deep) == ["Acc.", "rho_2", "Acc. at 0.2 eps_ref", "Acc. at 1.0 eps_ref"]
    l2l = columns(paper_table(entries[:1], "l2l-da"))
    linf = ["weak", "strong"]
    assert l2l == {
        "Natural": clean_accuracy(first),
        **{name: accuracy(first, name) for name in ("weak", "strong", "small")},
        "Linf 0.1 Min": minimum(first, linf),
        "Linf 0.1 Robust accuracy": robust_accuracy(first, Linf, 0.1),
    }
    pgn = columns(paper_table(entries[:1], "pgn"))
    assert pgn["nearest mean"] == rho_cw(first, "nearest")
    assert pgn["nearest median"] == rho_cw(first, "nearest", "median")
    assert pgn["s/epoch"] == 3.0
    assert [column.better for column in paper_table(entries[:1], "pgn").columns][-1] == "lower"
    mma = columns(paper_table(entries[:1], "mma"))
    assert mma == {
        "Cln": clean_accuracy(first),
        "Linf AvgAcc": average_accuracy(first, Linf, [0.05, 0.1]),
        "Linf AvgRobAcc": average_accuracy(first, Linf, [0.05, 0.1], clean=False),
        "Linf 0.05": robust_accuracy(first, Linf, 0.05),
        "Linf 0.1": robust_accuracy(first, Linf, 0.1),
    }
    assert columns(paper_table(entries[:1], "deep-defense"))["rho_2"] == rho_2(first, "away")
    every = paper_table(entries[:1], "all")
    assert dict(zip(entries[0].measures, every.cells[0], strict=True)) == entries[0].measures
    with pytest.raises(ValueError, match="not measured by what a table of deep-defense-2 holds"):
        paper_table([entry("m", 1, of(BLOCK, "clean"))], "deep-defense-2")


def reference_rows():
    names = {"weak": "FGSM(0.2 eps_ref)", "strong": "FGSM(1.0 eps_ref)"}
    rows = [row for row in BLOCK if row["attack"] in ("clean", "weak", "strong", "away")]
    return [row | {"attack": names.get(row["attack"], row["attack"])} for row in rows]


def test_a_paper_of_transfer_is_a_column_of_pgns(entries, transferred):
    renamed = transfer_of(entries, "weak")
    assert renamed.worst == transferred.worst
    for row, found in enumerate(renamed.worst):
        assert columns(paper_table(entries, "pgn", transfer=[renamed]), row)["weak black box"] == found


def test_bold_is_the_best_and_what_it_is_not_told_from():
    rows = {"a": share(0.9, 0.8, 0.95), "b": share(0.85, 0.7, 0.9), "c": share(0.5, 0.4, 0.6), "d": None}
    cells = tuple((cell, cell, cell, 3.0 if name == "a" else None) for name, cell in rows.items())
    kinds = (
        TableColumn("up"),
        TableColumn("down", better="lower"),
        TableColumn("neither", better=None),
        TableColumn("alone"),
    )
    bold = PaperTable("", "", kinds, tuple(rows), cells).bold()
    assert [row[0] for row in bold] == [True, True, False, False]
    assert [row[1] for row in bold] == [False, False, True, False]
    assert not any(row[2] or row[3] for row in bold)
    ties = PaperTable("", "", (TableColumn("x"),), ("a", "b", "c"), ((1.0,), (1.0,), (0.5,)))
    assert ties.bold() == ((True,), (True,), (False,))
    assert PaperTable("", "", (TableColumn("x"),), ("a", "b"), ((1.0,), (1.0,))).bold() == ((False,), (False,))


def test_csv_is_read_back(entries):
    table = paper_table(entries, "l2l-da")
    lines = list(csv.DictReader(io.StringIO(table.csv())))
    assert [line["Model"] for line in lines] == [each.name for each in entries]
    for line, row in zip(lines, table.cells, strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            ends = (cell.value, cell.low, cell.high)
            assert tuple(float(line[f"{column}{end}"]) for end in ("", " low", " high")) == ends
    every = list(csv.DictReader(io.StringIO(csv_table(entries))))
    assert len(every) == sum(len(each.measures) for each in entries)
    for line in every:
        found = next(each for each in entries if each.name == line["model"]).measures[line["measure"]]
        assert (float(line["value"]), float(line["low"])) == (found.value, found.low)


def test_latex_is_escaped_and_every_row_has_every_column(entries):
    table = paper_table(entries, "l2l-da", transfer=[])
    text = table.latex()
    assert r"one\_a \& 50 \%" in text
    assert r"two | \textless{}b\textgreater{}" in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    cells = [len(re.split(r"(?<!\\)&", line)) for line in rows]
    assert cells == [1 + 4 + 1, *[1 + len(table.columns)] * 3]  # the two columns of a threat have one name over them
    assert r"\multicolumn{2}{c}{Linf 0.1}" in rows[0]
    assert r"\cmidrule(lr){6-7}" in body
    assert r"\begin{tabular}{l" + "r" * len(table.columns) + "}" in text
    assert not re.search(r"(?<!\\)[%_#$](?!.*booktabs)", re.sub(r"\$[^$]*\$|^%.*", "", text, flags=re.MULTILINE))
    assert text.count("{") == text.count("}")
    assert "scriptsize" not in table.latex(intervals=False)
    odd = PaperTable("~^\\{}#", "m", (TableColumn("rho_2"), TableColumn("Min")), ("a",), ((inf, share(1.0)),)).latex()
    assert r"\textasciitilde{}\textasciicircum{}\textbackslash{}\{\}\#" in odd
    assert r"m & $\rho_2$ & Min \\" in odd
    assert r"a & $\infty$ & 100.00 {\scriptsize [100.0, 100.0]} \\" in odd


def test_markdown_has_a_cell_for_each_column_whatever_the_names(entries):
    lines = [line for line in paper_table(entries, "l2l-da").markdown().splitlines() if line.startswith("|")]
    assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert r"two \| \<b\>" in lines[-1]
    assert md("snake_case _x_ a*b") == r"snake_case \_x\_ a\*b"
    failed = PaperTable("", "m", (TableColumn("x"),), ("a",), ((Measure(inf, 0.5, inf, 9, "length", 4),),))
    assert "| ∞ [0.5, ∞], 4 of 9 failed |" in failed.markdown()


@pytest.mark.parametrize("width", [80, 120])
def test_ten_models_and_twelve_measures_fit_a_terminal(width):
    names = [f"deep-defense_mnist_lenet-{number}" for number in range(10)]
    kinds = tuple(TableColumn(f"PGD(eps=0.{number}, steps=40)") for number in range(12))
    cells = tuple(tuple(share((i + j) / 21, 0.04, 1.0) for j in range(12)) for i in range(10))
    stream = io.StringIO()
    Console(file=stream, width=width).print(PaperTable("Ten.", "Model", kinds, tuple(names), cells))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert len(text.splitlines()) < 110
    blocks = text.count("Model")
    assert blocks > 1
    for i, name in enumerate(names):
        assert text.count(name) == blocks
        assert all(f"{100 * (i + j) / 21:.2f}" in text for j in range(12))
    assert text.count("4.0–100.0") == 120


def test_measures_stand_in_rows_where_there_are_few_models(entries):
    stream = io.StringIO()
    table = measures_table(entries)
    assert table.columns == tuple(TableColumn(each.name, better=None) for each in entries)
    assert table.rows == tuple(entries[0].measures)
    Console(file=stream, width=100).print(table)
    text = stream.getvalue()
    assert "robust accuracy, Linf 0.1" in text
    assert "ρ₂, away" in text
    for each in entries:
        assert each.name.removesuffix(" %") in text
        assert all(str(measure).split(" [")[0] in text for measure in each.measures.values())


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
        assert next(a["how"] for a in model["attacks"] if a["name"] == "nearest") == "white"
        assert len(model["signs"]) == 5
    first = found["models"][entries[0].name]
    assert Checkup.of(first["checkup"]) == CHECKUP
    assert (first["recipe"], first["training"]) == (entries[0].recipe, entries[0].log)
    assert found["date"] == "2020-02-02"
    (matrix,) = found["transfer"]
    assert matrix["worst"][1]["value"] == transferred.worst[1].value
    assert matrix["accuracy"][1][0]["value"] == transferred.accuracy[1][0].value
    found["models"][entries[0].name]["measures"]["clean accuracy"]["value"] = "much"
    assert len(list(validator.iter_errors(found))) == 1, "the schema would let anything pass"


def test_an_attack_that_met_no_image_is_told_with_the_others():
    spared = record({**of(BLOCK, "strong")[0], "run": FGSM()}, asked="survivors")
    felled = changed(BLOCK, "weak", linf=0.01, prediction=lambda row: (row["label"] + 1) % 3)
    rows = [row for row in felled if row["attack"] in ("clean", "weak")]
    found = results([Entry("m", table_of(rows, records=[spared]))])
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(found)
    (told,) = [attack for attack in found["models"]["m"]["attacks"] if attack["name"] == "strong"]
    assert (told["images"], told["forwards"], told["asked"], told["eps"]) == (0, None, "survivors", 0.1)
    assert (told["how"], told["settings"]["kind"], told["digest"]) == ("white", "FGSM", spared.digest)


def test_what_is_infinite_is_null():
    far = changed(BLOCK, "nearest", success=False, l2=lambda row: 9.0, prediction=lambda row: row["clean_prediction"])
    found = results([Entry("far", table_of(far))])["models"]["far"]
    assert found["measures"]["median L2, nearest"]["value"] is None
    assert "mean L2, nearest" in found["unmeasured"]


def test_a_whole_folder_is_written(folder, entries):
    names = {path.name for path in folder.iterdir() if path.suffix not in (".png", ".svg")}
    forms = {f"{stem}.{kind}" for stem in ("table", "black-box", "transfer-FGSM-") for kind in ("md", "tex", "csv")}
    tables = {"table-1-one_a-50-.parquet", "table-2-two-b-.parquet"}
    assert names == {".lock", "results.json", "measures.csv", "report.md", "report.html", *forms, *tables}
    assert measures(Evaluation.load(folder / "table-2-two-b-.parquet")) == entries[1].measures
    assert (folder / "table.md").read_text() == paper_table(entries, "l2l-da").markdown()


def test_the_markdown_report_says_what_the_page_says(folder, entries, transferred):
    text = (folder / "report.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads == [
        "Side by side", "Measures", "Which attack broke which images", "Signs of masked gradients", "Check-up",
        "Transfer", "Pictures", "What was attacked with what", "How to do it again", "How to cite",
    ]  # fmt: skip
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]*)\)", text)
    assert pictures == ["curve-linf.svg"]
    assert "![Accuracy by radius](" in text
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


def test_the_first_model_meets_each_other_image_by_image(entries):
    duels = compared(entries)
    assert {(duel.ours, duel.theirs) for duel in duels} == {(entries[0].name, entries[1].name)}
    assert {duel.paired.under for duel in duels} == {"no attack", "Linf 0.1", "Linf 0.05"}
    flags = []
    for each in entries:
        rows = [row for row in each.evaluation.table.to_pylist() if row["attack"] != "clean"]
        near = {row["image"] for row in rows if row["linf"] <= 0.1 * (1 + 1e-5) and row["prediction"] != row["label"]}
        wrong = {row["image"] for row in rows if row["clean_prediction"] != row["label"]}
        flags.append(np.array([image not in near | wrong for image in range(COUNT)]))
    found = next(duel.paired for duel in duels if duel.paired.under == "Linf 0.1")
    assert (found.better, found.worse) == (int((flags[0] & ~flags[1]).sum()), int((flags[1] & ~flags[0]).sum()))
    assert found.better + found.worse > 0
    assert compared(entries[:1]) == ()


def test_a_black_box_table_leaves_white_boxes_out(entries, transferred):
    one, two = (each.name for each in entries)
    table = black_box_table([transferred])
    assert [str(column) for column in table.columns] == [f"FGSM() {one}", "FGSM() C", "Min", "Worst case"]
    assert table.cells[0][0] is None
    rows = entries[1].evaluation.table.to_pylist()
    by_name = {name: [right(row) for row in of(rows, name)] for name in ("weak", "strong")}
    assert [cell.value for cell in table.cells[1]] == [
        np.mean(by_name["weak"]),
        np.mean(by_name["strong"]),
        min(map(np.mean, by_name.values())),
        np.mean(np.logical_and(*by_name.values())),
    ]
    assert table.cells[0][2] == table.cells[0][3] == table.cells[0][1]
    single = black_box_table([transferred], ["C"])
    assert [str(column) for column in single.columns] == ["FGSM()"]
    with pytest.raises(ValueError, match="not crafted on D; its sources are"):
        black_box_table([transferred], ["D"])
    with pytest.raises(ValueError, match="give transfers of the same targets"):
        black_box_table([transferred, replace(transferred, tables={two: transferred.tables[two]})])
    matrix = transfer_table(transferred)
    assert matrix.rows == (one, "C", "unattacked", "worst of the black boxes")
    assert f"White boxes: {one} on {one}." in matrix.caption


def test_models_of_other_images_do_not_stand_side_by_side(entries, tmp_path):
    others = {
        "labels": changed(BLOCK, label=lambda row: (row["label"] + 1) % 3),
        "pixels": changed(BLOCK, pixels=lambda row: row["pixels"] + (row["image"] == 7)),
        "sizes": changed(BLOCK, pixels=0, x_l2=lambda row: row["x_l2"] * (1.001 if row["image"] == 7 else 1)),
        "images": [row for row in BLOCK if row["image"] != 3],
    }
    for name, rows in others.items():
        for show in (lambda pair: write(tmp_path / "none", pair), paper_table, results, csv_table):
            with pytest.raises(ValueError, match=rf"one_a & 50 % and {name} cannot stand side by side: .*image"):
                show([entries[0], Entry(name, table_of(rows))])
    with pytest.raises(ValueError, match="numbers of two spaces cannot be compared"):
        results([entries[0], Entry("behind", table_of(BLOCK, space="preprocessed"))])
    with pytest.raises(ValueError, match="two models are called"):
        results([entries[0], entries[0]])
    with pytest.raises(ValueError, match="at least one model"):
        write(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()


def test_attacks_that_share_only_a_name_stand_in_different_rows():
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


def test_attacks_that_hold_different_models_stand_in_different_rows():
    nets = {"a": nn.Flatten(), "b": nn.Flatten(0), "c": nn.Flatten()}
    tables = {name: table_of(changed(BLOCK, "weak", run=Surrogate(FGSM(), net))) for name, net in nets.items()}
    one, two, three = comparable([Entry(name, table) for name, table in tables.items()])
    (first,), (second,), (third,) = (set(each.evaluation.attacks) - set(MADE_UP) for each in (one, two, three))
    assert first == third != second
    assert accuracy(two.evaluation, second) == accuracy(tables["b"], "weak")
    behind = Entry("d", tables["a"], preprocessed=table_of(changed(BLOCK, "weak", run=FGSM()), space="preprocessed"))
    (alone,) = comparable([behind])
    assert set(alone.evaluation.attacks) == set(alone.preprocessed.attacks) == set(MADE_UP) - {"clean"}
