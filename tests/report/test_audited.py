"""What a report says of an audit, of images that were not sampled, and of a suspicion."""

import json

import jsonschema
import pytest

from audited import audited, made, row
from steelman.measures.audits import most_unseen
from steelman.report import Entry
from steelman.report.answers import answer_of
from steelman.report.document import Document
from steelman.report.rendering import report_markdown, report_page
from steelman.report.results import SCHEMA, results
from steelman.report.verdicts import shared_shares
from steelman.table import Evaluation

THREAT = ("Linf", 0.1)
BOUND = f"at most {100 * most_unseen(80, 30) / 80:.1f} % more of these would fall to it (95 %)."


def test_the_verdict_has_the_bound_and_the_attack_its_sample() -> None:
    entry = Entry("net", audited())
    answer = answer_of(entry, (), THREAT)
    assert any(BOUND in line for line in answer.evidence)
    assert not answer.suspected
    document = Document([entry])
    runs = {run.name: run for run in document.attacks["net"]}
    assert runs["long"].covers == "30 (50 not sampled)"
    assert runs["cascade"].covers == "80"
    for text in (report_page(document), report_markdown(document)):
        assert "30 (50 not sampled)" in text
        assert BOUND.removesuffix(" (95 %).") in text.replace("\u00a0", " ")
    found = results(document)
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    attack = next(each for each in found["models"]["net"]["attacks"] if each["name"] == "long")
    assert (attack["asked"], attack["images"], attack["not_sampled"]) == ("sample", 30, 50)


def suspicious() -> Evaluation:
    """A short Square was ahead, and the gradient attack that followed broke five images."""
    table = made(80, row(2, "short", margin=-0.5), attacks=("cascade", "short"))
    return table + made(80, *(row(image, "one step", broken=True) for image in range(5)), attacks=("one step",))


def test_a_suspicion_is_said_and_brings_adaptive_attacks() -> None:
    answer = answer_of(Entry("net", suspicious()), (), THREAT)
    assert answer.suspected
    assert any("short reached a higher margin on 1 of the 80 images" in line for line in answer.evidence)


def test_what_followed_on_a_suspicion_counts_for_that_model_alone() -> None:
    fine = made(80, attacks=("cascade", "short"))
    shares = shared_shares([Entry("fine", fine), Entry("other", suspicious())])
    assert shares[THREAT]["fine"].value == 1
    assert shares[THREAT]["other"].value == pytest.approx(75 / 80)
    found = Document([Entry("fine", fine), Entry("other", suspicious())]).verdict
    assert [name for name, _ in found.ranking] == ["fine", "other"]
    assert found.against == (), "these are not under the same attacks"
