"""Tables in the papers' shapes, as text for every reader."""

import csv
import io
import re
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from rich.console import Console

from made_up import of, right
from made_up_models import BLOCK, entry, transfer_of, two_models, two_transferred
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
from steelman.norms import Linf
from steelman.report import (
    Document,
    Entry,
    PaperTable,
    TableColumn,
    black_box_table,
    csv_table,
    measures_table,
    paper_table,
    report_markdown,
    transfer_table,
)


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return list(two_models())


@pytest.fixture(scope="module")
def transferred() -> Transfer:
    return two_transferred()


def share(value: float, low: float = 0.0, high: float = 0.0) -> Measure:
    return Measure(value, low or value, high or value, 100)


def columns(table: PaperTable, row: int = 0) -> dict[str, object]:
    return {str(column): cell for column, cell in zip(table.columns, table.cells[row], strict=True)}


def test_every_kind_of_accuracy_is_explained_beside_its_table(entries):
    """Robust accuracy, Min and accuracies differ by fractions: a reader is told why."""
    lines = ["Accuracy under an attack:", "Robust accuracy: no attack", "Min: the lowest accuracy"]
    shown = measures_table(entries[:1])
    console = Console(width=300, file=io.StringIO())
    console.print(shown)
    for text in (shown.markdown(), shown.latex(), report_markdown(Document(entries[:1])), console.file.getvalue()):
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


def test_bold_is_the_best_and_whatever_its_interval_overlaps():
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
    every = list(csv.DictReader(io.StringIO(csv_table(Document(entries)))))
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


def test_measures_are_rows_where_there_are_few_models(entries):
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
