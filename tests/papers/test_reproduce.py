"""A small paper from its file to its page: what is trained and measured, what is kept, and what is refused."""

import json
import re
import shutil
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from steelman import FGSM
from steelman.evaluation.eps_ref import reference_epsilon
from steelman.experiments.run import Run
from steelman.losses import Margin
from steelman.measures.line import Axis
from steelman.papers import reproduce as module
from steelman.papers.chosen import Part, shown, wanted
from steelman.papers.costs import seconds_of
from steelman.papers.figures import _ends, caption_of, charts_of
from steelman.papers.jobs import Jobs
from steelman.papers.page import page_of
from steelman.papers.paper import Network, load_paper
from steelman.papers.pictures import draw_pictures
from steelman.papers.reproduce import missing, reproduce
from steelman.papers.results import Reader, Results
from steelman.papers.work import Work, _eps_ref
from steelman.report.charts import Chart, Series

PLAIN = """
data = "Digits"
network = { kind = "MLP", hidden = [16] }
defence = "Plain"
training = { epochs = 2, batch_size = 64, optimiser = { kind = "Adam", lr = 0.02 }, track_test = 50, seed = 7 }
"""
TUNED = """
base = "plain.toml"
start = "plain.toml"
prepare = [{ kind = "Crafted", attack = { kind = "FGSM", eps = 0.1 } }]
training.epochs = 1
"""
PAPER = """
[paper]
title = "A small paper"
authors = ["A. Nonymous"]
venue = "Nowhere 2018"

[scale.night]
what = "1 epoch of 2, 40 test images"
images = 40
training = [{ recipes = "plain", set = ["training.epochs=1"] }]

[evaluation.shares]
images = 60
eps_ref_of = "ROOT/plain.toml"
attacks."FGS" = { kind = "FGSM" }
radii."FGS" = ["0.5 eps_ref", "1.0 eps_ref"]

[evaluation.radii]
base = "shares"
radii."FGS" = [0.05, 0.1]

[evaluation.from-plain]
images = 60
source = "ROOT/plain.toml"
attacks."FGSM" = { kind = "FGSM", eps = 0.1 }

[table.1]
caption = "Two networks."
columns = ["Acc.", "Acc. at half", "Acc. at eps_ref"]
unit = "%"
evaluation = "shares"
measures = ["clean accuracy", "accuracy, FGS 0.5 eps_ref", "accuracy, FGS 1.0 eps_ref"]
why = "Digits are smaller."
extra_columns = [
  { name = "transfer", unit = "%", measure = "accuracy, FGSM", evaluation = "from-plain" },
  { name = "cost", unit = "s", measure = "seconds an epoch" },
]
rows = [
  { name = "Plain", dataset = "Digits", values = [0.5, 70.0, 50.0], recipe = "ROOT/plain.toml" },
  { name = "Tuned", dataset = "Digits", values = [91.0, 71.0, nan], recipe = "ROOT/tuned.toml" },
  { name = "Other", dataset = "Letters", values = [92, 72, 52], recipe = "ROOT/plain.toml", missing = "no letters" },
]

[table.2]
caption = "Not wired."
columns = ["layers"]
unit = "text"
rows = [{ name = "Plain", values = ["FC-16"] }]

[figure.1]
caption = "Epochs."
kind = "epochs"
draw = [
  { title = "accuracy", y = "test_clean", curves = { "Plain" = "ROOT/plain.toml" } },
  { title = "by time", x = "seconds", y = "test_clean", curves = { "Plain" = "ROOT/plain.toml" } },
]

[figure.2]
caption = "Radii."
kind = "radii"
[[figure.2.draw]]
title = "FGS"
evaluation = "radii"
attack = "FGS"
success = true
curves."Plain" = "ROOT/plain.toml"

[figure.3]
caption = "Images."
kind = "images"
[[figure.3.draw]]
title = ""
evaluation = "radii"
attack = "FGS .1"
images = [3, 4]
curves."Plain" = "ROOT/plain.toml"
"""


class Direct(Executor):
    """Does each job when it is submitted."""

    def submit(self, call, /, *values, **named):
        future = Future()
        try:
            future.set_result(call(*values, **named))
        except Exception as error:
            future.set_exception(error)
        return future


def files(root: Path) -> str:
    (root / "plain.toml").write_text(PLAIN)
    (root / "tuned.toml").write_text(TUNED)
    (root / "small.toml").write_text(PAPER.replace("ROOT", str(root)))
    return str(root / "small.toml")


def make(root: Path, **more):
    return reproduce(str(root / "small.toml"), runs=root / "runs", folder=root / "pages", say=lambda text: None, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    files(root)
    found = make(root, command="steelman reproduce small")
    assert not found.failed
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy, whose paper and recipes still are those of `made`."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def reader(root: Path) -> Reader:
    paper = load_paper(str(root / "small.toml"))
    return Reader(paper, Results.load(root / "pages", paper.name))


def test_a_cell_is_the_measure_of_its_row_and_column(made: Path):
    """Accuracies anew, from the trained networks and their own eps_ref."""
    table = reader(made).paper.tables["1"]
    plain = Run.open(made / "runs" / "plain").subject(None)
    test = plain.sample(60)
    batch = next(test.batches([torch.arange(60)]))
    eps = reference_epsilon(plain.model, test)
    for row, name in zip(table.rows, ("plain", "tuned"), strict=False):
        model = Run.open(made / "runs" / name).subject(None).model
        moved = [FGSM(share * eps)(model, batch.x, batch.y) for share in (0.5, 1.0)]
        crafted = FGSM(0.1)(plain.model, batch.x, batch.y)
        for cell, x in zip(row.cells[:4], (batch.x, *moved, crafted), strict=True):
            found = reader(made).value(cell)
            assert found is not None
            assert found.value == pytest.approx(float((model(x).argmax(1) == batch.y).float().mean()))
            assert found.images == 60
            assert found.low < found.value < found.high or found.value in (found.low, found.high)


def test_a_training_has_its_time(made: Path):
    found = reader(made)
    paper = found.paper
    cost = found.value(paper.tables["1"].rows[0].cells[4])
    log = Run.open(made / "runs" / "plain").log
    assert cost is not None
    assert cost.value == pytest.approx(sum(line.get("seconds", 0.0) for line in log) / 2, abs=0.06)
    _, chart = charts_of(paper, paper.figures["1"], found)[1]
    (_, line), *_ = chart.shown
    assert line.x == pytest.approx(np.cumsum([each.get("seconds", 0.0) for each in log]))
    assert line.x[-1] > 0
    assert line.y == pytest.approx([each["test_clean"] for each in log])
    assert f" % after {line.x[-1]:.0f} s." in caption_of(paper, paper.figures["1"], found)


def test_panels_of_two_kinds_stand_in_one_figure_and_points_in_the_order_of_the_file(made: Path, monkeypatch):
    found = reader(made)
    radii = found.paper.figures["2"].panels[0]
    measure = "accuracy, FGS .1"
    point = replace(radii, kind="points", x="clean accuracy", y=measure, success=False)
    doubled = replace(point, curves={"Plain": radii.curves["Plain"] * 2})
    figure = replace(found.paper.figures["2"], panels=(radii, doubled))
    (_, first), (_, second) = charts_of(found.paper, figure, found)
    assert (first.across.label, second.across.label) == ("ε", "clean accuracy")
    assert caption_of(found.paper, figure, found).count("\n") == 1
    shares = iter([0.9, 0.1, 0.3, 0.2])
    monkeypatch.setattr(Reader, "measured", lambda *_: SimpleNamespace(value=next(shares), kind="share"))
    ((_, chart),) = charts_of(found.paper, replace(figure, panels=(doubled,)), found)
    ((_, line),) = chart.shown
    assert line.x.tolist() == [0.9, 0.3]


def test_pictures_are_of_the_largest_scale_that_is_trained(root: Path, tmp_path: Path):
    paper = load_paper(str(root / "small.toml"))
    figures, runs, folder = [paper.figures["3"]], tmp_path / "runs", root / "pages"
    of_the_paper = Results.load(folder, paper.name)
    assert of_the_paper.pictures["3"]["scale"] == "paper"
    assert draw_pictures(paper, Results(paper.name), runs, None, folder, figures) == {}, "nothing is trained"
    (network,) = {each for (each, *_) in figures[0].panels[0].curves.values()}
    name = Jobs(paper, "night", 0, runs).trained(network).name
    shutil.copytree(root / "runs" / "plain", runs / name)
    found = draw_pictures(paper, Results(paper.name), runs, None, folder, figures)
    assert found["3"]["scale"] == "night"
    assert found["3"]["facts"][-1] == "Scale night: 1 epoch of 2, 40 test images."
    assert draw_pictures(paper, of_the_paper, runs, None, folder, figures) == {}, "a larger scale stays"


def test_a_figure_over_radii_draws_success_rates_and_describes_its_ends(made: Path):
    found = reader(made)
    figure = found.paper.figures["2"]
    ((_, chart),) = charts_of(found.paper, figure, found)
    ((_, line),) = chart.shown
    network, *_ = figure.panels[0].curves["Plain"]
    values = [found.measured(network, "radii", f"accuracy, FGS {radius}") for radius in (".05", ".1")]
    assert line.x.tolist() == [0.05, 0.1]
    assert line.y == pytest.approx([1 - value.value for value in values if value is not None])
    assert caption_of(found.paper, figure, found).startswith(f"- FGS: Plain {100 * line.y[-1]:.1f} % at 0.1")
    share = Axis("success rate", share=True)
    rising, high = (Series("A", np.array([1.0, 2.0, 3.0]), np.array(y)) for y in ([0.2, 0.6, 0.9], [0.5, 0.6, 0.9]))
    assert list(_ends(Chart("", share, share, (rising, high)), "radii")) == [
        "A 90.0 % at 3, half at 2",
        "A 90.0 % at 3",
    ]


def test_eps_ref_is_found_by_the_loss_of_its_attack(made: Path, tmp_path: Path):
    text = PAPER.replace("ROOT", str(made)).replace(
        '{ kind = "FGSM" }', '{ kind = "FGSM", loss = { kind = "Margin" } }'
    )
    (tmp_path / "margins.toml").write_text(text)
    paper = load_paper(str(tmp_path / "margins.toml"))
    job = Jobs(paper, "paper", 0, made / "runs").measured(
        Network(str(made / "tuned.toml")), paper.evaluations["shares"]
    )
    subject = Run.open(made / "runs" / "plain").subject(None)
    expected = reference_epsilon(subject.model, subject.sample(60), loss=Margin())
    assert expected != reference_epsilon(subject.model, subject.sample(60))
    assert _eps_ref(Work(job, made / "runs", None, False), job) == expected


def test_the_page_has_both_numbers_and_what_is_missing(made: Path):
    text = (made / "pages" / "small.md").read_text(encoding="utf-8")
    assert re.search(r"\| Digits \| Plain \| 0.5 → \*\*\d+\.\d\d\*\* \[[\d.]+, [\d.]+\] ✗ \|", text)
    assert "Not measured, Letters Other: no letters." in text
    assert "**Ours.** Digits are smaller." in text
    assert "FC-16" in text
    assert "`steelman reproduce small`" in text
    for number in (1, 2, 3):
        assert f"![Figure {number}](small-figure-{number}.png)" in text
        assert (made / "pages" / f"small-figure-{number}.png").stat().st_size > 1000


def test_nothing_is_done_twice_and_the_json_is_enough(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "work", lambda task: pytest.fail(f"{task.job.name} is done again"))
    page = (root / "pages" / "small.md").read_text(encoding="utf-8")
    shutil.rmtree(root / "runs")
    for path in (root / "pages").glob("*.md"):
        path.unlink()
    found = make(root)
    assert not found.failed
    assert found.page.read_text(encoding="utf-8") == page == page_of(found.paper, found.results)


def test_what_changes_is_made_again_and_nothing_else(root: Path):
    path = root / "small.toml"
    results = Results.load(root / "pages", "small")

    def left(old: str, new: str) -> list[str]:
        path.write_text(PAPER.replace(old, new, 1).replace("ROOT", str(root)))
        jobs = missing(load_paper(str(path)), results, "paper", 1, root / "runs")
        return [job.name for job in jobs]

    assert left("", "") == []
    assert left('"clean accuracy", ', '"median norm, FGS", ') == ["plain / shares", "tuned / shares"]
    assert left('kind = "FGSM", eps = 0.1', 'kind = "FGSM", eps = 0.2') == ["plain / from-plain", "tuned / from-plain"]
    assert left('source = "ROOT/plain', 'source = "ROOT/tuned') == ["plain / from-plain", "tuned / from-plain"]
    assert left('eps_ref_of = "ROOT/plain', 'eps_ref_of = "ROOT/tuned') == [
        *("plain / shares", "tuned / shares"),
        "plain / radii",
    ]
    (root / "tuned.toml").write_text(TUNED.replace("0.1", "0.05"))
    shutil.rmtree(root / "runs" / "tuned")
    from steelman.papers import jobs

    jobs._recipe.cache_clear()
    assert left("", "") == ["tuned", "tuned / shares", "tuned / from-plain"]

    def digest() -> str:
        jobs._recipe.cache_clear()
        return Jobs(load_paper(str(path)), "paper", 0, root / "runs").trained(Network(str(root / "tuned.toml"))).digest

    before = digest()
    (root / "plain.toml").write_text(PLAIN.replace("epochs = 2", "epochs = 3"))
    assert digest() != before, "which begins from that network, with epochs of its own"


def test_a_reduced_scale_has_networks_of_its_own_and_is_not_comparable(root: Path):
    results = Results.load(root / "pages", "small")
    kept = dict(results.evaluations)
    results.evaluations.clear()
    results.save(root / "pages")
    found = make(root, scale="night", part=Part(["1"]))
    assert not found.failed
    assert {"plain-night", "tuned-night"} <= found.results.networks.keys()
    assert found.results.networks["plain-night"]["epochs"] == 1
    value = Reader(found.paper, found.results).value(found.paper.tables["1"].rows[0].cells[0])
    assert value is not None
    assert (value.scale, value.images) == ("night", 40)
    text = found.page.read_text(encoding="utf-8")
    assert "(night) ~" in text
    assert "Scale **night**: 1 epoch of 2, 40 test images." in text
    found.results.evaluations |= kept
    best = Reader(found.paper, found.results).value(found.paper.tables["1"].rows[0].cells[0])
    assert best is not None
    assert best.scale == "paper"


def test_seeds_are_trained_from_starts_of_their_own_and_averaged(root: Path):
    found = make(root, seeds=3, part=Part(["1"]), executor=Direct())
    assert not found.failed
    networks = [Run.open(root / "runs" / name) for name in ("tuned", "tuned-seed2", "tuned-seed3")]
    assert [run.recipe.training.seed for run in networks] == [7, 8, 9]
    assert "plain-seed2" in str(networks[1].recipe.start)
    cell = found.paper.tables["1"].rows[1].cells[0]
    value = Reader(found.paper, found.results).value(cell)
    single = [
        found.results.evaluations[f"{run.folder.name} / shares"]["measures"]["clean accuracy"]["value"]
        for run in networks
    ]
    assert value is not None
    assert value.seeds == 3
    assert value.value == pytest.approx(sum(single) / 3)


def test_a_failure_is_reported_and_the_others_continue(tmp_path: Path):
    files(tmp_path)
    (tmp_path / "tuned.toml").write_text(TUNED + "training.optimiser.lr = 1e30\n")
    lines: list[str] = []
    found = reproduce(
        str(tmp_path / "small.toml"),
        part=Part(["1"]),
        runs=tmp_path / "runs",
        folder=tmp_path / "pages",
        say=lines.append,
    )
    assert set(found.failed) == {"tuned", "tuned / shares", "tuned / from-plain"}
    assert "nan" in found.failed["tuned"]
    assert any("tuned failed" in line for line in lines)
    assert {"plain / shares", "plain / from-plain"} <= found.results.evaluations.keys()
    assert "not run yet" in found.page.read_text(encoding="utf-8")


def test_rows_and_columns_choose_what_is_measured(tmp_path: Path):
    files(tmp_path)
    paper = load_paper(str(tmp_path / "small.toml"))
    for part, tables, figures in (
        (Part(), ["1", "2"], ["1", "2", "3"]),
        (Part(["2"]), ["2"], []),
        (Part(figures=["3"]), [], ["3"]),
        (Part(["1"], ["2"]), ["1"], ["2"]),
    ):
        assert [[each.name for each in several] for several in shown(paper, part)] == [tables, figures]
    evaluations = {evaluation for _, evaluation, _ in wanted(paper, Part(["1"], columns="TRANS*"))}
    assert evaluations == {"from-plain"}
    assert [measure for *_, measure in wanted(paper, Part(rows="*tuned", columns="acc. at *"))] == [
        "accuracy, FGS 0.5 eps_ref",
        "accuracy, FGS 1.0 eps_ref",
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"part": Part(["3"])}, "there is no table 3"),
        ({"part": Part(figures=["7"])}, "there is no figure 7"),
        ({"part": Part(rows="CIFAR*")}, "no row fits 'CIFAR\\*'"),
        ({"part": Part(columns="CIFAR*")}, "no column fits 'CIFAR\\*'"),
        ({"scale": "hour"}, "small has no scale 'hour'; it has paper, night"),
        ({"seeds": 0}, "seeds are counted from 1"),
    ],
)
def test_what_there_is_not_is_refused_before_any_work(asked: dict, message: str, root: Path):
    with pytest.raises(ValueError, match=message):
        make(root, **asked)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[scale.night]", "[scale.week]", "scale.week: a reduced scale is night or hour"),
        ("why =", "whi =", "table.1.whi: there is no such key"),
        ("values = [91.0, 71.0, nan]", "values = [91.0, 71.0]", "Tuned has 2 values for 3 columns"),
        ('evaluation = "from-plain"', 'evaluation = "form-plain"', "there is no evaluation 'form-plain'"),
        ('base = "shares"', 'base = "sahres"', "there is no evaluation 'sahres'"),
        ('kind = "radii"', 'kind = "radius"', "there is no kind 'radius' of figures"),
        ('title = "FGS"', 'title = "FGS"\nkind = "images"', "'images' cannot stand in a figure of kind 'radii'"),
        ('dataset = "Digits", values = [0.5', 'datset = "Digits", values = [0.5', "there is no such key"),
    ],
)
def test_a_wrong_file_is_refused_by_the_place_of_the_mistake(old: str, new: str, message: str, tmp_path: Path):
    path = tmp_path / "small.toml"
    assert old in PAPER
    path.write_text(PAPER.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load_paper(str(path))
    assert message in str(caught.value)


def test_a_damaged_json_is_refused_in_one_line(root: Path):
    path = root / "pages" / "small.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    for text in ("{", "[]", json.dumps({**whole, "paper": "other"}), json.dumps({**whole, "networks": []})):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"small\.json"):
            make(root)


def test_the_command_lists_plans_and_makes(root: Path, call):
    code, out, _ = call("reproduce", "--folder", root / "pages")
    assert code == 0
    assert "deep-defense" in out
    where = (root / "small.toml", "--runs", root / "runs", "--folder", root / "pages")
    assert "nothing is missing" in call("reproduce", *where, "--plan")[1]
    code, out, _ = call("reproduce", *where, "--plan", "--seeds", "2", "--table", "1")
    assert code == 0
    assert "plain-seed2" in out
    assert "known once its network is trained" in out
    code, out, _ = call("reproduce", *where, "--table", "1", "--rows", "Digits Plain")
    assert code == 0
    assert "0.5 →" in out
    assert "Tuned" not in out
    code, _, error = call("reproduce", "depe-defense")
    assert code == 2
    assert "did you mean" in error or "deep-defense" in error


def test_a_paper_without_recipes_shows_its_printed_tables(call):
    code, out, _ = call("reproduce", "mma")
    assert code == 0
    assert "no recipes yet" in out
    assert "85.14" in out


@pytest.mark.parametrize(
    "defence",
    [
        '"Plain"',
        '{ kind = "L2LDA", eps = 0.1, steps = 2 }',
        '"Distillation"\nprepare = [{ kind = "SoftLabels", on = "plain.toml" }, { kind = "NoisyCopies", copies = 1 }]',
    ],
)
def test_the_cost_of_a_training_is_measured_for_every_kind_of_game(defence: str, tmp_path: Path):
    """Of a tenth of the epochs it is about a tenth; the absolute number is the machine's."""
    (tmp_path / "plain.toml").write_text(PLAIN)
    (tmp_path / "other.toml").write_text(PLAIN.replace('"Plain"', defence))
    made = Jobs(load_paper("mma"), "paper", 0, tmp_path)
    one, ten = (
        seconds_of(made.trained(Network(str(tmp_path / "other.toml"), changes)), tmp_path, None)
        for changes in (("training.epochs=10",), ("training.epochs=100",))
    )
    assert one is not None
    assert ten is not None
    assert 0 < one < ten
