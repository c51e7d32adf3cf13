"""What the report says, without a browser: its verdict, its numbers, and that it needs nothing but itself."""

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html import escape, unescape
from html.parser import HTMLParser
from itertools import pairwise
from math import inf, nan

import numpy as np
import pytest
import torch

from made_up import changed, made_up, of, right, table_of
from reported import ATTACKS, RECIPE, document, entries, transferred
from reported import page as written
from steelman.data import Digits
from steelman.identity import digest
from steelman.measures.waterfalls import waterfall
from steelman.norms import Linf
from steelman.report import Document, Entry, Verdict, report_page
from steelman.report.gallery import cards
from steelman.report.pictures import readable
from steelman.table.records import Provenance

BEST = "PGD training"


pytestmark = pytest.mark.xdist_group("report")  # its models are trained and its page is written once


@pytest.fixture(scope="module")
def page():
    text = written()
    assert len(text) < 400_000
    return text


@pytest.fixture(scope="module")
def drawn():
    return [readable(picture, stem, "both") for stem, picture in document().pictures.items()]


def verdict(entries) -> Verdict:
    return Document(entries).verdict


class Seen(HTMLParser):
    """Every element with its attributes, and the headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_the_verdict_names_the_best_within_the_strongest_threat():
    found = verdict(entries())
    stands = {}
    for entry in entries():
        rows = entry.evaluation.table.to_pylist()
        images = {row["image"] for row in rows}
        fallen = {
            row["image"]
            for row in rows
            if row["prediction"] != row["label"] and (row["attack"] == "clean" or row["linf"] <= 0.1 * (1 + 1e-6))
        }
        stands[entry.name] = 1 - len(fallen) / len(images)
    assert found.attack == "Linf 0.1"
    assert {name: share.value for name, share in found.ranking} == pytest.approx(stands)
    assert found.ranking[0][0] == BEST
    kept = f"{100 * stands[BEST]:.1f} %"
    assert found.finding.startswith(f"{BEST} has the highest number: {kept} of the images right within Linf 0.1, and ")
    assert f"Not established: {BEST}" in found.finding  # the check-up warns
    ((name, pair),) = found.against
    assert name == "Plain <b>"
    assert pair.difference.value == pytest.approx(stands[BEST] - stands[name])
    assert f"60 images of {Digits().load('test').name}, 4 attacks." in found.tried
    assert any("upper bounds" in line for line in found.limits)
    assert f"{BEST}: The check-up warns: gradients: one in three is zero." in found.limits
    assert found.sentence == found.finding


def test_a_single_attack_at_another_radius_does_not_decide():
    rows = made_up(attacks=("clean", "weak", "strong"))
    far = [
        row | {"attack": "far", "eps": 0.15, "linf": 0.15, "prediction": (row["label"] + (row["image"] % 3 > 0)) % 3}
        for row in of(rows, "weak")
    ]
    both = Entry("one", table_of(rows + far))
    shares = {threat: found["one"].value for threat, found in Document([both]).shares.items()}
    assert 0 < shares["Linf", 0.15] < shares["Linf", 0.1]
    assert verdict([both]).attack == "Linf 0.1"
    assert verdict([Entry("one", table_of(of(rows, "clean") + of(rows, "weak") + far))]).attack == "Linf 0.15"


def test_the_verdict_reports_chance_and_that_no_bounded_attack_was_run():
    second = entries()[1]
    same = verdict([second, replace(second, name="Twin")])
    assert "differ no more than by chance (mid-p McNemar p = 1), so their order is not settled" in same.sentence
    assert same.finding.startswith(f"{second.name} has the highest number: ")
    assert same.cautions[-1] == f"{second.name} and Twin are one model: equal weights and code."
    assert "one model" not in " ".join(verdict(entries()).cautions)
    minimal = replace(second, evaluation=second.evaluation.only(["clean", "DeepFool()"]))
    assert verdict([minimal]).finding.startswith("Not established: no attack with a radius was run.")
    assert verdict([minimal]).ranking == verdict([minimal]).against == ()
    assert "most robust" not in verdict([second]).sentence


def test_only_attacks_that_were_run_on_all_models_decide_between_them():
    first, second = entries()
    fewer = replace(first, evaluation=first.evaluation.only(["clean", "FGSM(eps=0.1)"]))
    shares = Document([fewer, second]).shares["Linf", 0.1]
    assert shares[fewer.name].value == waterfall(fewer.evaluation, Linf, 0.1).still_correct / 60
    alone = second.evaluation.only(["clean", "FGSM(eps=0.1)"])
    assert shares[second.name].value == waterfall(alone, Linf, 0.1).still_correct / 60
    assert shares[second.name].value > document().shares["Linf", 0.1][second.name].value


def test_measures_that_lack_for_one_reason_share_a_line():
    rows = made_up(attacks=("clean", "weak", "strong", "small"))
    wrong = {row["image"] for row in of(rows, "weak") if row["prediction"] != row["label"]}
    left = [row for row in rows if row["attack"] in ("clean", "weak") or row["image"] not in wrong]
    one = Entry("one", table_of(left))
    lines = Document([one, replace(one, name="two")]).gaps
    assert sum("the attack was run on" in line for line in lines) == 1
    (line,) = [line for line in lines if "the attack was run on" in line]
    assert line.startswith("accuracy, strong; ")
    assert "; accuracy, small" in line
    other = Entry("other", table_of(rows))
    assert f"one: {line}" in Document([one, other]).gaps


def test_the_page_has_every_number(page):
    text = unescape(page.replace("<wbr>", ""))
    assert "2020-02-02" in text
    found = document().verdict
    for sentence in (*found.cautions, found.finding):
        assert escape(sentence).replace(" %", "\u00a0%") in page
    for entry in entries():
        for name, measure in entry.measures.items():
            value = f"{100 * measure.value:.1f}\u00a0%" if measure.kind == "share" else f"{measure.value:#.3g}"
            assert re.search(
                rf'<span class="value">(<span class="dot"[^>]*></span>)?{re.escape(value)}</span>', page
            ), name
    for attack in ATTACKS:
        assert attack in text
    assert f"PyTorch {torch.__version__}" in text
    for row in transferred().accuracy:
        for measure in row:
            assert f'<span class="value">{100 * measure.value:.1f}</span>' in page
    found = waterfall(entries()[0].evaluation, Linf, 0.1)
    for count in (found.natural_errors, *found.broken.values(), found.still_correct):
        assert f'<span class="count">{count}<span' in page


def test_the_page_shows_how_to_reproduce_it_and_what_to_cite(page):
    text = unescape(page)
    assert RECIPE in text
    models = {digest(entry.evaluation.about["model"]) for entry in entries()}
    assert len(models) == 2
    assert all(model in text for model in models)
    assert str(entries()[0].evaluation.record("DeepFool()").made) in text
    assert "@software{steelman" in text
    for key in ("madry2018", "moosavidezfooli2016"):
        assert re.search(rf"@inproceedings\{{{key}", text), key
    assert "use a loss &lt;without&gt; scale" in page


def test_the_page_has_nothing_to_fetch_and_one_script_that_its_policy_names(page):
    policy = next(made["content"] for tag, made in Seen(page).elements if made.get("http-equiv"))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashed = b64encode(sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{hashed}'"
    for tag, made in Seen(page).elements:
        assert not any(name.startswith("on") for name in made), tag
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert (made.get(name) or "#").startswith(("data:", "#")), (tag, made)
    assert "@import" not in page
    assert not re.search(r"url\(\s*[\"']?(?!#|data:)", page)


def test_every_picture_is_described_and_every_place_can_be_reached(page, drawn):
    elements = Seen(page).elements
    images = [made for tag, made in elements if tag == "img"]
    assert len(images) == 3 * sum(len(entry.gallery.index) for entry in entries())
    assert all(made.get("alt") for made in images)
    shown = [made for tag, made in elements if tag == "svg"]
    assert len(shown) == len(drawn) > 4
    assert all(made["role"] == "img" and BEST in made["aria-label"] for made in shown)
    assert all(
        made.get("tabindex") == "0" and made["aria-label" if "aria-label" in made else "aria-labelledby"]
        for _, made in elements
        if made.get("class") == "scroll"
    )
    names = [made["id"] for _, made in elements if "id" in made]
    assert len(names) == len(set(names))
    assert {made["href"][1:] for tag, made in elements if tag == "a"} <= set(names)
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_what_can_be_read_off_a_curve_is_the_curve(drawn):
    """Each point is the share of images whose smallest perturbation is longer, at the place where it is drawn."""
    linf = next(picture for picture in drawn if "Linf radius" in picture["about"])
    assert [mark["name"] for mark in linf["read"]["marks"]] == ["FGSM(eps=0.1)", "PGD(eps=0.1, steps=5)"] * 2
    l2 = next(picture for picture in drawn if "L2 radius" in picture["about"])
    left, top, right_, bottom = l2["read"]["box"]
    for entry, line in zip(entries(), l2["read"]["lines"], strict=True):
        assert line["name"] == entry.name
        assert line["step"]
        rows = entry.evaluation.table.to_pylist()
        near = {row["image"]: inf for row in rows}
        for row in rows:
            if row["clean_prediction"] != row["label"]:
                near[row["image"]] = 0.0
            elif entry.evaluation.record(row["attack"]).norm == "L2" and row["prediction"] != row["label"]:
                near[row["image"]] = min(near[row["image"]], row["l2"])
        sizes = np.array(list(near.values()))
        for x, y, px, py in zip(*(line[key] for key in ("x", "y", "px", "py")), strict=True):
            assert any(y == pytest.approx(np.mean(sizes > x + shift), abs=1e-4) for shift in (-1e-4, 0, 1e-4))
            assert py == pytest.approx(bottom - y * (bottom - top), abs=0.2)
            assert left - 0.1 <= px <= right_ + 0.1


MANY = [row | {"attack": f"{row['attack']} {k}"} for k in range(15) for row in made_up(attacks=("weak", "small"))]
ALONE = {
    "nothing but unattacked images": of(made_up(), "clean"),
    "no bounded attack": of(made_up(), "clean") + of(made_up(), "nearest"),
    "no image right": changed(
        made_up(), prediction=lambda row: (row["label"] + 1) % 3, clean_prediction=lambda row: (row["label"] + 1) % 3
    ),
    "nothing broken": changed(
        made_up(), clean_prediction=lambda row: row["label"], prediction=lambda row: row["label"], success=False
    ),
    "only behind preprocessing": made_up(seed=3),
    "thirty attacks": of(made_up(), "clean") + MANY,
}


@pytest.mark.parametrize("case", ALONE)
def test_a_page_is_written_of_whatever_there_is(case):
    log = [{"epoch": 0, "clean": nan, "loss": inf}, {"epoch": 1, "clean": 0.5, "loss": nan}]
    table = table_of(ALONE[case], space="preprocessed" if "preprocessing" in case else "pixels")
    entry = Entry("a_name_" * 30, table, log if "unattacked" in case else ())
    text = report_page(Document([entry]))
    json = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert all("NaN" not in each and "Infinity" not in each for each in json)
    sentence = {
        "nothing but unattacked images": "no attack with a radius was run.",
        "no bounded attack": "no attack with a radius was run.",
        "no image right": ">Does not classify<",
        "nothing broken": "attacks left 100.0\u00a0% [",
    }
    assert sentence.get(case, " images right within ") in text
    assert '<section id="gallery"' not in text
    assert ('<section id="waterfall"' in text) == (case not in ("nothing but unattacked images", "no bounded attack"))


def test_the_page_shows_where_a_table_was_made_in_parts():
    here = Provenance("1.0", "2.0", date="2019-03-02", hardware="this one", command="steelman evaluate runs/a")
    there = replace(here, date="2019-04-01", hardware="another", command="steelman evaluate runs/a --battery standard")
    table = table_of(made_up(attacks=("clean", "weak", "strong")))
    for parts, said in (
        ({}, [f"<dt>made</dt><dd>{here}</dd>", f"<dt>command</dt><dd>{here.command}</dd>"]),
        (
            {"strong": there},
            ["<dt>part 1 (", "<dt>part 2 (strong)</dt>", str(here), str(there), here.command, there.command],
        ),
    ):
        new = table.recorded(lambda each, parts=parts: each.changed(made=parts.get(each.name, here)))
        text = report_page(Document([Entry("m", new)]))
        assert all(each in text for each in said)


def test_ten_models_fit_on_one_page():
    table = table_of(made_up(attacks=("clean", "weak")))
    ten = [Entry(f"model {k} $x$ & <i>", table) for k in range(10)]
    text = report_page(Document(ten))
    assert "How robust are these 10 models?" in text
    assert "&lt;i&gt;" in text
    assert "<i>" not in text.replace('<i style="', "")
    assert "more between" in verdict(ten).sentence


def test_large_images_are_shrunk_and_strange_ones_left_out():
    entry = entries()[0]
    large = replace(entry.gallery, x=torch.rand(12, 3, 300, 200), x_adv=torch.rand(12, 3, 300, 200))
    shown = cards({"m": large}, [f"class {k}" for k in range(10)])
    assert shown is not None
    assert [card["label"] for card in shown["cards"]] == [f"class {k}" for k in large.label.tolist()]
    assert sum(len(card[key]) for card in shown["cards"] for key in ("x", "x_adv", "difference")) < 1_000_000
    strange = replace(entry.gallery, x=torch.rand(12, 2, 8, 8), x_adv=torch.rand(12, 2, 8, 8))
    assert cards({"m": strange, "none": None}, []) is None
    assert len(cards({str(k): entry.gallery for k in range(10)}, [])["cards"]) == 60


def test_no_models_and_two_of_one_name_are_refused():
    with pytest.raises(ValueError, match="at least one model"):
        Document([])
    with pytest.raises(ValueError, match="two models are called"):
        Document([entries()[1], entries()[1]])
    assert all(right(row) for row in ALONE["nothing broken"])
