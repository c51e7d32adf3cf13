"""The site: every page in the navigation, no link into nowhere, docstrings as Markdown. `make docs` builds it."""

import shutil
from pathlib import Path

import pytest
from tools import website
from tools.docstrings import linked, markdown

ROOT = Path(__file__).parents[2]


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere():
    assert website.problems() == []


def test_what_is_missing_is_found(tmp_path: Path):
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "mkdocs.yml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "tests/helpers").mkdir(parents=True)
    shutil.copy(ROOT / "tests/helpers/every_attack.py", tmp_path / "tests/helpers")
    assert website.problems(tmp_path) == []
    (tmp_path / "docs/compare.md").unlink()
    (tmp_path / "docs/new.md").write_text(
        "# New\n\n[a](attacks.md#no-such) [b](../src/no.py) [c](#not-here) `[d](no.md)`\n\n| a |\n| b |\n"
    )
    found = website.problems(tmp_path)
    assert {
        "mkdocs.yml: there is no page compare.md",
        "new.md is in no navigation: mkdocs.yml",
        "new.md: no heading attacks.md#no-such",
        "new.md: no src/no.py",
        "new.md: no heading #not-here",
        "new.md: a table without a head: | a |",
        "contents.md: no compare.md",
    } == {each for each in found if "compare.md" not in each or each.startswith(("mkdocs", "contents"))}


def test_links_follow_pages_to_where_they_are_in_the_site():
    pages = website.pages()
    assert "](any-model.md)" in pages["index.md"], "the README is the home page"
    assert "](contents.md)" in pages["index.md"]
    assert "](files/LICENSE.md)" in pages["index.md"]
    assert "](files/tests/helpers/every_attack.py.md)" in pages["attacks.md"]
    assert "````python\n" in pages["files/tests/helpers/every_attack.py.md"]
    assert "::: steelman.attacks.PGD\n" in pages["api/attacks.md"]
    assert "[`PGD`][steelman.attacks.PGD]" in pages["api/steelman.md"]
    assert "::: steelman.experiments.recipe.Recipe\n" in pages["api/experiments.md"]


@pytest.mark.parametrize("page", website.SOUGHT)
def test_what_people_search_for_is_on_the_page_that_explains_it(page: str):
    text = website.pages()[page].lower()
    found = [words for words in website.SOUGHT[page] if words.lower() in text]
    assert len(found) >= 0.7 * len(website.SOUGHT[page]), "the others are other words for the same"
    assert website.boost(page) > max(website.boost("api/attacks.md"), website.boost("methods.md"))


@pytest.mark.parametrize("words", ["harden", "HuggingFace", "ONNX", "black box", "AutoAttack", "gradient masking"])
def test_the_words_that_newcomers_know_lead_to_a_guide(words: str):
    assert [page for page, sought in website.SOUGHT.items() if words in sought]


DOCSTRING = """One line with `code_span` and x_i * y_i.

    x_{t+1} = P(x_t)
        + |d|_2

eps, k  a radius |r|, of
        two lines
norm    Linf
far_off default 1

Cost: 2 passes,
each `A`.
Reference: none.

Raises:
    ValueError: eps < 0,
        or nan.
    OSError: no file.
"""


def test_docstrings_become_markdown():
    assert markdown(DOCSTRING) == (
        "One line with `code_span` and x\\_i \\* y\\_i.\n\n"
        "    x_{t+1} = P(x_t)\n        + |d|_2\n\n"
        "| | |\n|---|---|\n| `eps`, `k` | a radius \\|r\\|, of two lines |\n"
        "| `norm` | Linf |\n| `far_off` | default 1 |\n\n"
        "**Cost** 2 passes, each `A`.\n\n**Reference** none.\n\n"
        "**Raises**\n\n* ValueError: eps \\< 0, or nan.\n* OSError: no file."
    )


def test_public_names_in_docstrings_are_linked():
    text = linked("`PGD`, `eps`, ``PGD``, `A` and PGD", {"PGD": "steelman.attacks.PGD", "A": "x.A"}, "A")
    assert text == "[`PGD`][steelman.attacks.PGD], `eps`, ``PGD``, `A` and PGD"


def test_notebooks_become_pages_with_their_outputs():
    cells = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "Text"]},
            {
                "cell_type": "code",
                "source": ["print(1 < 2)"],
                "outputs": [
                    {"output_type": "stream", "name": "stdout", "text": ["True <b>\n"]},
                    {
                        "output_type": "execute_result",
                        "data": {"text/plain": ["x"], "text/html": ["<table>\n</table>"]},
                    },
                    {"output_type": "display_data", "data": {"text/plain": ["x"], "image/png": "aGk=\n"}},
                ],
            },
        ]
    }
    page = website.notebook(cells, "a.ipynb")
    assert page.startswith("# Title\n\n[This page as a notebook](a.ipynb){ download }\n")
    assert "```python\nprint(1 < 2)\n```" in page
    assert '<pre class="output">True &lt;b&gt;</pre>' in page
    assert '<div class="output"><table>\n</table></div>' in page
    assert 'src="data:image/png;base64,aGk="' in page
