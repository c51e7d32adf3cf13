"""The papers that come with the package, and the pages that were made of them."""

import math
import tomllib
from pathlib import Path

import pytest
from tests.helpers.shipped import group

from steelman.papers.agreement import RULE, agreement
from steelman.papers.chosen import wanted
from steelman.papers.jobs import Jobs
from steelman.papers.page import compared, page_of
from steelman.papers.paper import DATA, SCALES, Paper, load_paper, names
from steelman.papers.results import Results, Value

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "results"
PRINTED = ROOT.parent / "shared" / "papers"
WIRED = [name for name in names() if load_paper(name).wired]
MADE = [name for name in WIRED if (PAGES / f"{name}.json").is_file()]


@pytest.mark.parametrize("name", names())
def test_a_paper_has_a_caption_for_each_table_and_figure(name: str):
    paper = load_paper(name)
    assert paper.title
    assert paper.tables
    assert all(each.caption for each in (*paper.tables.values(), *paper.figures.values()))


@pytest.mark.skipif(not PRINTED.is_dir(), reason="the printed tables are not here")
@pytest.mark.parametrize("name", names())
def test_the_printed_numbers_are_those_of_the_paper(name: str):
    """Against the tables as they were copied from the papers, row by row; a study of our own has none."""
    ours = tomllib.loads((DATA / f"{name}.toml").read_text(encoding="utf-8"))
    if not (PRINTED / f"{name}.toml").is_file():
        assert not any("values" in row for table in ours["table"].values() for row in table["rows"])
        return
    theirs = tomllib.loads((PRINTED / f"{name}.toml").read_text(encoding="utf-8"))
    assert ours["table"].keys() == theirs["table"].keys()
    for key, table in theirs["table"].items():
        assert ours["table"][key]["columns"] == table["columns"]
        rows = ours["table"][key]["rows"]
        assert [_known(row["values"]) for row in rows] == [_known(row["values"]) for row in table["rows"]]
        assert [row["name"] for row in rows] == [row["name"] for row in table["rows"]]


def _known(values: list) -> list:
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


@group
@pytest.mark.parametrize("name", WIRED)
@pytest.mark.parametrize("scale", SCALES)
def test_every_cell_names_recipes_attacks_and_measures_that_there_are(name: str, scale: str):
    """Recipes are read with their changes; the attack in a measure's name is one of the evaluation's."""
    paper = load_paper(name)
    if scale not in ("paper", *paper.reduced):
        pytest.skip("no such scale")
    made = Jobs(paper, scale, 0, Path("runs"))
    for network, evaluation, _ in wanted(paper):
        if evaluation is None:
            made.trained(network)
            continue
        job = made.measured(network, paper.evaluations[evaluation])
        attacks = [*job.attacks(0.1), *job.battery.attacks]
        for measure in _measures(paper, network, evaluation):
            _, _, of = measure.removesuffix(" (preprocessed)").partition(", ")
            assert not of or of in attacks or measure.startswith(("robust accuracy", "worst case", "Min")), measure


def _measures(paper: Paper, network, evaluation: str) -> set[str]:
    cells = (cell for table in paper.tables.values() for cell in table.cells)
    return {cell.measure for cell in cells if cell.network == network and cell.evaluation == evaluation}


@pytest.mark.parametrize("name", MADE)
def test_a_page_is_made_of_its_json_alone(name: str):
    """A number that was typed by hand, or a page of another file, would differ."""
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert page_of(load_paper(name), Results.load(PAGES, name)) == text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (PAGES / line.partition("(")[2].rstrip(")")).is_file()


def test_the_page_of_a_study_without_printed_numbers_compares_nothing():
    assert not any(map(compared, load_paper("survey").tables.values()))
    text = (PAGES / "survey.md").read_text(encoding="utf-8")
    assert RULE not in text
    assert not set("→✓✗~") & set(text)
    assert "Not measured, " in text
    assert RULE in (PAGES / "deep-defense.md").read_text(encoding="utf-8")


def value(number: float, half: float, kind: str = "share", reduced: str = "") -> Value:
    return Value(number, number - half, number + half, kind, 1000, 1, 0, "night" if reduced else "paper", reduced)


@pytest.mark.parametrize(
    ("printed", "ours", "expected"),
    [
        (98.31, value(0.9831, 0.0), "agrees"),
        # sqrt(2) * .3 points and 3 % of the error of 1.69 points are .475 points.
        (98.31, value(0.9831 - 0.0047, 0.003), "agrees"),
        (98.31, value(0.9831 - 0.0048, 0.003), "differs"),
        (0.225, value(0.2317, 0.0, "ratio"), "agrees"),
        (0.225, value(0.2318, 0.0, "ratio"), "differs"),
        (0.225, value(0.225, 0.0, "ratio", "fewer epochs"), "not comparable"),
        (5.0, value(5.0, 0.0, "time"), "not comparable"),
        (None, value(0.5, 0.1), "measured"),
        ("FC-10", value(0.5, 0.1), "measured"),
        (50.0, None, "missing"),
    ],
)
def test_numbers_agree_by_the_rule(printed, ours, expected: str):
    assert agreement(printed, ours) == expected


def test_the_example_of_the_page_is_a_paper(tmp_path: Path):
    """The first block of the page, whose cells name recipes, attacks and measures that there are."""
    text = (ROOT / "docs" / "adding-a-paper.md").read_text(encoding="utf-8")
    path = tmp_path / "example.toml"
    path.write_text(text.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    paper = load_paper(str(path))
    made = Jobs(paper, "paper", 0, tmp_path)
    jobs = [made.measured(network, paper.evaluations[name or ""]) for network, name, _ in wanted(paper)]
    assert {(job.network.name, *job.attacks()) for job in jobs} == {
        ("plain_digits_mlp", "FGSM .1"),
        ("pgd_digits_mlp", "FGSM .1"),
    }


SOURCES = {
    "efficient-defenses": {
        "crafted-on-cnn": "plain_mnist_cnn",
        "crafted-on-bounded-cnn": "bounded-relu_mnist_cnn",
        "crafted-on-resnet": "plain_mnist_convresnet",
        "crafted-on-bounded-resnet": "bounded-relu_mnist_convresnet",
        **dict.fromkeys(("black-box", "black-box-slow", "radii-black-box"), "plain_mnist_convresnet"),
        **dict.fromkeys(
            ("cifar10-black-box", "cifar10-black-box-slow", "cifar10-radii-black-box"), "plain_cifar10_convresnet"
        ),
    },
    "carlini-wagner": {"transfer": "plain_mnist_carlini", "cifar10-transfer": "plain_cifar10_carlini"},
}


@pytest.mark.parametrize("name", SOURCES)
def test_images_of_black_boxes_are_crafted_on_the_papers_networks(name: str):
    found = {key: each.source.recipe for key, each in load_paper(name).evaluations.items() if each.source}
    assert found == SOURCES[name]
