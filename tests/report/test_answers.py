"""The four answers of a verdict, on made tables: each rule at both sides of its threshold."""

from dataclasses import replace
from typing import Any

import pytest

from made_up import Row, table_of
from steelman.checkup import Checkup, Finding
from steelman.measures.masking import Sign
from steelman.norms import Linf
from steelman.report import Document, Entry, report_markdown, report_page, results
from steelman.report.answers import CONVERGENCE, Answer, adaptive_attacks, answer_of
from steelman.table.records import Record
from steelman.table.table import Evaluation

EPS, COUNT = 0.1, 100
HONEST = tuple(Sign(f"Question {k}?", "numbers", False) for k in range(3))


def rows_of(attack: str, broken: int, eps: float = EPS) -> list[Row]:
    """Of 100 images all are right unattacked; an attack breaks the first so many."""
    rows: list[Row] = []
    for image in range(COUNT):
        label = image % 10
        wrong = attack != "clean" and image < broken
        row: Row = {"attack": attack, "image": image, "label": label, "clean_prediction": label, "pixels": 1 + image}
        row |= {"prediction": (label + wrong) % 10, "success": wrong, "x_l2": 1.0, "x_linf": 1.0, "loss": 1.0}
        row |= dict.fromkeys(("l0", "l1", "l2", "linf"), 0.0 if attack == "clean" else eps)
        row |= {"forwards": 1, "gradients": 1, "seconds": 0.1, "reference": "label", "run": f"{attack}()"}
        rows.append(row | {"norm": None if attack == "clean" else "Linf", "eps": None if attack == "clean" else eps})
    return rows


def made(adaptive: int | None = None, broken: int = 40, eps: float = EPS) -> Evaluation:
    """A table of an attack that breaks some images, and an adaptive one that breaks others too."""
    rows = rows_of("clean", 0) + rows_of("PGD", broken)
    rows += [] if adaptive is None else rows_of("Adaptive PGD", adaptive, eps)
    settings = {"kind": "Adaptive", "assumptions": ["identity through 2 modules"]}

    def adaptively(record: Record) -> Record:
        return (
            record.changed(kind="steelman.adaptive:Adaptive", settings=settings)
            if record.name == "Adaptive PGD"
            else record
        )

    return table_of(rows, classes=[str(k) for k in range(10)]).recorded(adaptively)


def answer(table: Evaluation, signs: tuple[Sign, ...] = HONEST, checkup: Checkup | None = None) -> Answer:
    return answer_of(Entry("m", table, checkup=checkup), signs, ("Linf", EPS))


FINE = Checkup((Finding("gradient", "0 on 0 %"),), "gradients")
WARNED = Checkup((Finding("gradient", "0 on 40 % of the images", "warning"),), "gradients")


def test_supported_needs_signs_that_were_asked_and_are_absent() -> None:
    found = answer(made(), checkup=FINE)
    assert (found.word, found.suspected, found.doubts) == ("supported", False, ())
    assert found.robust is not None
    assert found.robust.value == 0.6
    assert found.sentence.startswith("Supported: m keeps 60.0 % [50.2, 69.1] of 100 images right within Linf 0.1, and")
    assert found.evidence == ("3 of 3 signs were asked, none is present.",)


@pytest.mark.parametrize(("asked", "word"), [(0, "not established"), (1, "not established"), (2, "supported")])
def test_signs_that_were_not_asked_are_doubts(asked: int, word: str) -> None:
    signs = tuple(replace(sign, present=None if k >= asked else False) for k, sign in enumerate(HONEST))
    found = answer(made(), signs, FINE)
    assert found.word == word
    assert not found.suspected  # another battery asks them


@pytest.mark.parametrize(
    ("signs", "checkup", "said"),
    [
        ((replace(HONEST[0], present=True), *HONEST[1:]), FINE, "Question 0? Yes: numbers."),
        (HONEST, WARNED, "The check-up warns: gradient: 0 on 40 % of the images."),
        (HONEST, Checkup((), "scores"), "put BPDA around it"),
        (HONEST, Checkup((), "decisions"), "Attacks get no gradient, so 3 of 3 signs could be asked."),
    ],
)
def test_any_doubt_forbids_supported_and_calls_for_an_adaptive_attack(
    signs: tuple[Sign, ...], checkup: Checkup, said: str
) -> None:
    for table in (made(), made(broken=100)):  # also where no image is left
        found = answer(table, signs, checkup)
        assert (found.word, found.suspected) == ("not established", True)
        assert any(said in doubt for doubt in found.doubts)
        assert found.sentence.startswith("Not established: attacks left ")
        assert said in found.sentence


@pytest.mark.parametrize(
    ("broken", "adaptive", "word"),
    [
        (40, 40, "supported"),
        (40, 45, "supported"),  # 5 % of the images, which may be that the attack is longer
        (40, 46, "broken by an adaptive attack"),
        (40, 100, "broken by an adaptive attack"),
        (92, 95, "supported"),  # 3 of 8 that were left
        (91, 95, "supported"),  # 4 of 9: fewer than half
        (90, 95, "broken by an adaptive attack"),  # 5 of 10
        (96, 100, "supported"),  # all that were left, but four
    ],
)
def test_broken_by_an_adaptive_attack(broken: int, adaptive: int, word: str) -> None:
    found = answer(made(adaptive, broken), checkup=FINE)
    assert found.word == word
    assert found.before is not None
    assert found.robust is not None
    assert found.before.value == pytest.approx(1 - broken / 100)
    assert found.robust.value == pytest.approx(1 - max(broken, adaptive) / 100)
    if word != "supported":
        assert f"The other attacks left {100 - broken:.1f} %." in found.sentence
        assert f"Adaptive PGD broke {adaptive - broken} (identity through 2 modules)." in found.sentence


def test_an_adaptive_attack_that_fails_settles_convergence_and_nothing_else() -> None:
    early = (*HONEST, Sign("Would more steps break more?", "5 more", True, name=CONVERGENCE))
    assert answer(made(), early, FINE).word == "not established"
    assert answer(made(41), early, FINE).word == "supported"
    assert answer(made(43), early, FINE).word == "not established"
    masked = (replace(HONEST[0], present=True), *HONEST[1:])
    assert answer(made(40), masked, FINE).word == "not established"


def test_random_models_are_suspected() -> None:
    found = answer(made().replaced(draws=20), checkup=FINE)
    assert (found.word, found.suspected) == ("not established", True)
    assert "The model answers at random: it is judged over 20 draws" in found.sentence


def test_adaptive_attacks_at_another_radius_do_not_count() -> None:
    table = made(100, eps=0.2)
    assert adaptive_attacks(table, ("Linf", EPS)) == []
    assert [each.name for each in adaptive_attacks(table, ("Linf", 0.2))] == ["Adaptive PGD"]
    assert answer(table, checkup=FINE).word == "supported"


def test_no_attack_with_a_radius() -> None:
    found = answer_of(Entry("m", made().only("clean")), HONEST, None)
    assert (found.word, found.robust) == ("not established", None)
    assert found.sentence == "Not established: no attack with a radius was run."


def test_the_radius_that_was_asked_for_is_the_headline() -> None:
    rows = rows_of("clean", 0) + rows_of("PGD", 40) + rows_of("MIM", 40)
    rows += rows_of("far", 90, 0.2) + rows_of("farther", 90, 0.2)
    table = table_of(rows)
    assert Document([Entry("m", table)]).verdict.attack == "Linf 0.2"
    assert Document([Entry("m", table, asked=("Linf", EPS))]).verdict.attack == "Linf 0.1"
    assert Document([Entry("m", table, asked=("Linf", 0.3))]).verdict.attack == "Linf 0.2"  # nothing was run there
    two = [Entry("m", table, asked=("Linf", EPS)), Entry("n", table, asked=("Linf", 0.2))]
    assert Document(two).verdict.attack == "Linf 0.2"


def test_a_broken_model_ranks_by_what_is_left_of_it() -> None:
    """Adaptive attacks are of one model each, and count in a comparison."""
    entries = [Entry("broken", made(100, 20), checkup=WARNED), Entry("honest", made(None, 40), checkup=FINE)]
    found = Document(entries).verdict
    assert [(name, share.value) for name, share in found.ranking] == [("honest", 0.6), ("broken", 0.0)]
    assert found.against == ()
    assert "Broken by an adaptive attack: broken." in found.finding
    assert found.answers[0].word == "broken by an adaptive attack"


@pytest.mark.parametrize("adaptive", [None, 100])
def test_page_markdown_and_json_begin_with_the_answer(adaptive: int | None) -> None:
    entry = Entry("m", made(adaptive), checkup=WARNED, explained="attack = 1  # <b>")
    document = Document([entry])
    verdict, told = document.verdict, results(document)
    word = "broken by an adaptive attack" if adaptive else "not established"
    assert verdict.answer == told["verdict"]["answer"] == told["verdict"]["answers"][0]["answer"] == word
    assert report_markdown(document).split("\n\n")[1].startswith(f"**{word[0].upper()}{word[1:]}: ")
    page = report_page(document)
    assert f'<strong class="answer {word.replace(" ", "-")}">{word[0].upper()}{word[1:]}</strong>' in page
    assert "attack = 1  # &lt;b&gt;" in page
    assert told["models"]["m"]["explained"] == entry.explained


def plain(found: Answer) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("word", "threat", "doubts")}


def test_the_norm_is_that_of_the_threat() -> None:
    assert plain(answer(made(), checkup=FINE)) == {"word": "supported", "threat": (repr(Linf), EPS), "doubts": ()}
