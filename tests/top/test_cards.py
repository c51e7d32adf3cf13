"""Cards are read as they are written, complete for every public method, and cited as BibTeX that parses."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from tools import method_pages

from steelman import methods as cards
from steelman.methods import Paper, card, cite, methods, own_fields

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Example:
    """One line.

    Maths with c  at a margin, and `code_span`.

    near   the first (default 1)
    far_away
    far    the second, which
           goes on
    c, d   letters

    More maths.

    Cost per step: 2 passes,
    at most.
    Reference: Ann Ab-Ox, Bo Cy and Di Ek, "A title: with a colon", S&P 2019, section 2; Gil et al., "Of", ICML 2020.

    Raises:
        ValueError: far is nearer
            than near.
    """

    near: int = 1
    far: float = 8 / 255
    c: tuple[int, ...] = ()
    d: str = "e"


def test_a_card_has_the_parts_of_its_docstring():
    read = card(Example)
    assert read.summary == "One line."
    assert read.body == "Maths with c  at a margin, and `code_span`.\n\nfar_away\n\nMore maths."
    assert read.fields == {
        "near": "the first (default 1)",
        "far": "the second, which goes on",
        "c, d": "letters",
    }
    assert read.cost == "per step: 2 passes, at most."
    assert read.raises == "ValueError: far is nearer than near."
    assert method_pages.signature(Example) == "Example(near=1, far=8/255, c=(), d='e')"
    assert read.papers == (
        Paper(("Ann Ab-Ox", "Bo Cy", "Di Ek"), "A title: with a colon", "S&P", 2019),
        Paper(("Gil", "others"), "Of", "ICML", 2020),
    )


def test_a_class_without_a_docstring_has_an_empty_card():
    @dataclass(frozen=True)
    class Bare:
        pass

    Bare.__doc__ = None
    read = card(Bare)
    assert (read.summary, read.body, read.fields, read.cost, read.reference, read.papers) == ("", "", {}, "", "", ())


def test_bibtex_of_a_paper():
    paper = Paper(("Ann Ab-Ox", "Bo Cy"), "Deep: DNNs", "IEEE S&P", 2019)
    assert paper.bibtex() == (
        "@inproceedings{abox2019deep,\n"
        "  author    = {Ann Ab-Ox and Bo Cy},\n"
        "  title     = {{Deep: DNNs}},\n"
        "  booktitle = {IEEE S\\&P},\n"
        "  year      = {2019},\n"
        "}"
    )


def test_bibtex_of_a_paper_that_arxiv_alone_has():
    @dataclass(frozen=True)
    class Preprint:
        """One.

        Cost: none.
        Reference: Ann Ab-Ox, "Of it", arXiv 2019, 1910.09338, section 3; Bo Cy, "No", ICML 2019, 1910.09338.
        """

    preprint, paper = card(Preprint).papers
    assert (preprint.eprint, paper.eprint) == ("1910.09338", "")
    assert preprint.bibtex() == (
        "@misc{abox2019of,\n"
        "  author        = {Ann Ab-Ox},\n"
        "  title         = {{Of it}},\n"
        "  year          = {2019},\n"
        "  eprint        = {1910.09338},\n"
        "  archivePrefix = {arXiv},\n"
        "}"
    )


@pytest.mark.parametrize("read", [each for each in methods() if "arXiv" in each.reference], ids=lambda read: read.name)
def test_every_reference_to_arxiv_has_its_number(read):
    preprints = [paper for paper in read.papers if paper.venue == "arXiv"]
    assert read.reference.count("arXiv") == len(preprints) > 0
    for paper in preprints:
        (year,) = re.fullmatch(r"(\d\d)(?:0[1-9]|1[0-2])\.\d{4,5}", paper.eprint).groups()  # pyright: ignore
        assert 2000 + int(year) == paper.year, "the year of the number"
        assert f"  eprint        = {{{paper.eprint}}},\n" in cite([read.name])


def test_methods_are_the_public_attacks_defences_and_filters():
    names = {kind: set() for kind in cards.KINDS.values()}
    for item in methods():
        names[item.kind].add(item.name)
    assert names["attack"] >= {"FGSM", "PGD", "DeepFool", "CarliniWagner"}
    assert names["defence"] >= {"Plain", "AdversarialTraining", "DeepDefense", "Sum"}
    assert names["adversary"] >= {"AttackTraining", "AdvGAN", "GAP", "L2LDA", "PGN"}
    assert names["preparation"] == {"Crafted", "CraftedPairs", "NoisyCopies", "SoftLabels"}
    assert names["filter"] >= {"BPDA", "BitDepth", "DefenseGAN", "MedianSmoothing", "PixelDefend", "Reformer"}
    assert not {"Adversary", "Attack", "AttackResult", "Objective"} & set().union(*names.values())
    assert sum(map(len, names.values())) == len(methods()) == len(set().union(*names.values()))


@pytest.mark.parametrize("read", methods(), ids=lambda read: read.name)
def test_every_public_method_has_a_complete_card(read):
    assert re.fullmatch(r"\S.*[.:]", read.summary), "the first line is one sentence"
    assert len(read.summary) <= 117
    assert read.cost.endswith(".")
    assert read.reference.endswith(".")
    if not read.reference.startswith("none"):
        assert len(read.papers) == read.reference.count(";") + 1, "not of the form in methods.py"
    named = [item.name for item in own_fields(read.method)]
    shown = [name for names in read.fields for name in names.split(", ")]
    assert shown == named, "one line per field, in order, its name and meaning two or more blanks apart"


def test_cite_prints_references_and_each_paper_once():
    text = cite(["PGD", "AdversarialTraining", "PGD", "Plain"])
    plain, *entries = text.split("\n\n")
    assert [line.split(":")[0] for line in plain.splitlines()] == ["PGD", "AdversarialTraining", "Plain"]
    assert [re.match(r"@\w+\{(\w+),", entry)[1] for entry in entries] == [  # pyright: ignore
        "madry2018towards",
        "gowal2019an",
        "goodfellow2015explaining",
        "wong2020fast",
        "ding2020mma",
    ]


def test_cite_without_a_name_prints_all():
    text = cite()
    assert all(f"\n{item.name}: " in f"\n{text}" for item in methods())
    for entry in text.split("\n\n")[1:]:
        assert entry.count("{") == entry.count("}")
        named = ["author", "title", "booktitle", "year"]
        if entry.startswith("@misc"):
            named = ["author", "title", "year", "eprint", "archivePrefix"]
        assert re.findall(r"^  (\w+) += \{.+\},$", entry, re.M) == named
        assert re.fullmatch(r"@\w+\{\w+,\n(  \w+ += \{.+\},\n)+\}", entry)


@pytest.mark.parametrize(("wrong", "right"), [("pgd", "PGD"), ("DeepFoul", "DeepFool"), ("deepdefence", "DeepDefense")])
def test_cite_names_the_nearest_method(wrong, right):
    with pytest.raises(ValueError, match=rf"{wrong}.*{right}"):
        cite(["FGSM", wrong])


@pytest.mark.parametrize("page", ["methods", "defences"])
def test_the_pages_are_what_the_docstrings_say(page: str):
    written = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    expected = method_pages.methods_page() if page == "methods" else method_pages.defences_page(ROOT)
    assert written == expected, f"docs/{page}.md is stale: run `make docs`"


def test_the_readme_has_the_results_that_were_measured():
    assert method_pages.readme(ROOT) == (ROOT / "README.md").read_text(encoding="utf-8"), "run `make docs`"


def test_mathematics_survives_markdown():
    assert method_pages.escaped("|d|_2 <= x * `a_b` [c]") == r"\|d\|\_2 \<= x \* `a_b` \[c\]"
