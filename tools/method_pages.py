"""Write docs/methods.md, docs/defences.md and the README's results: `make docs`.

The pages are made of the docstrings, the recipes and the examples, the results of what `steelman reproduce` measured.
"""

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from steelman.experiments.recipe_file import read_tables
from steelman.methods import Card, methods, own_fields
from steelman.papers.page import brief
from steelman.papers.paper import load_paper
from steelman.papers.results import Reader, Results

WRITTEN = "<!-- Written by `make docs` from the docstrings{}: change those. -->\n"

RESULTS = "<!-- results: written by `make docs` -->", "<!-- end of results -->"
SHOWN = {
    "Acc.": "accuracy, %",
    "ρ_2": "ρ₂",
    "Acc.@0.5 ε_ref": "FGS, ½ ε_ref",
    "Acc.@1.0 ε_ref": "FGS, ε_ref",
    "exact FGS, 1.0 ε_ref": "exact FGS, ε_ref",
}
"""Columns of Deep Defense's table 1 that the README shows, with its own headings."""


def methods_page() -> str:
    """Attacks, filters and detectors as a Markdown page."""
    return "\n".join(
        [
            "# Attacks, filters and detectors\n\n" + WRITTEN.format(""),
            "Every attack also has `box=(0.0, 1.0)`, the range of valid images (`None` leaves them unbounded), "
            '`reference="label"`, `uint8=False` and `precision="full"`: see [Attacks](attacks.md). Defences are on a '
            "[page of their own](defences.md).\n",
            *_chapter("Attacks", methods("attack")),
            *_chapter("Filters", methods("filter")),
            *_chapter("Detectors", methods("detector")),
        ]
    )


def defences_page(root: Path) -> str:
    """Defences and preparations as a Markdown page, with the recipes and the examples of a checkout."""
    recipes = sorted((root / "recipes").glob("*.toml"))
    examples = sorted((root / "examples").glob("*.py"))
    page = [
        "# Defences\n\n" + WRITTEN.format(", `recipes/` and `examples/`"),
        "An objective is called in a loop of one's own, `TRADES(PGD(eps=0.1))(network, Batch(x, y)).backward()`; a "
        "game is played, `play(YOPO(eps=0.1), network, Batch(x, y), optimiser)`; `fit(network, data, defence, "
        "Training(...))` trains by either, and so does a recipe, where `defence = { kind = ... }` has the fields "
        "below. `Sum` makes the combinations. A preparation changes the training images once, before training: "
        "`prepare = [{ kind = ... }]`. Complete loops are [at the end](#examples).\n",
        *_chapter("Defences", methods("defence"), recipes),
        *_chapter("Learned adversaries", methods("adversary"), recipes),
        *_chapter("Preparations", methods("preparation"), recipes),
        "## Examples\n",
    ]
    for path in examples:
        text = path.read_text(encoding="utf-8")
        page.append(f"### {path.stem.replace('_', ' ').capitalize()}\n\n```python\n{text}```\n")
    return "\n".join(page)


def readme(root: Path) -> str:
    """The README, with Deep Defense's table between its marks."""
    text = (root / "README.md").read_text(encoding="utf-8")
    reader = Reader(load_paper("deep-defense"), Results.load(root / "docs" / "results", "deep-defense"))
    before, _, rest = text.partition(RESULTS[0])
    return (
        before
        + RESULTS[0]
        + "\n"
        + brief(reader, "1", "MNIST*", SHOWN)
        + "\n"
        + RESULTS[1]
        + rest.partition(RESULTS[1])[2]
    )


def _chapter(title: str, cards: Sequence[Card], recipes: Sequence[Path] = ()) -> list[str]:
    lines = [
        f"| [{item.name}](#{item.name.lower()}) | {escaped(item.summary)} | {escaped(item.cost)} |" for item in cards
    ]
    using = {path.stem: set(re.findall(r"'kind': '(\w+)'", str(read_tables(path).settings))) for path in recipes}
    return [
        f"## {title}\n\n| | | cost |\n|---|---|---|",
        *lines,
        *(_section(item, [name for name, kinds in using.items() if item.name in kinds]) for item in cards),
    ]


def _section(item: Card, recipes: Sequence[str] = ()) -> str:
    parts = [f"\n### {item.name}\n", f"`{signature(item.method)}`\n", f"{escaped(item.summary)}\n"]
    if item.body:
        parts.append(f"{escaped(item.body)}\n")
    if item.fields:
        parts.append("| field | |\n|---|---|")
        parts += [f"| `{name}` | {escaped(meaning)} |" for name, meaning in item.fields.items()]
        parts.append("")
    parts.append(f"Reference: {escaped(item.reference)}\n")
    if item.raises:
        parts.append(f"Raises {escaped(item.raises)}\n")
    if recipes:
        parts.append(f"Recipes: {', '.join(f'`{name}`' for name in recipes)}.\n")
    return "\n".join(parts)


def signature(method: type) -> str:
    """The call with all fields and their defaults."""
    shown = []
    for item in own_fields(method):
        if item.default_factory is not dataclasses.MISSING:
            shown.append(f"{item.name}={item.default_factory()}")
        elif item.default is not dataclasses.MISSING:
            shown.append(f"{item.name}={_short(item.default)}")
        else:
            shown.append(item.name)
    return f"{method.__name__}({', '.join(shown)})"


def _short(value: object) -> str:
    if isinstance(value, float) and 0 < value < 1 and round(value * 255, 9).is_integer():
        return f"{value * 255:.0f}/255"
    return str(value) if dataclasses.is_dataclass(value) else repr(value)


def escaped(text: str) -> str:
    """Mathematics in plain text, safe from Markdown; spans of code and indented formulas stay as they are."""
    return re.sub(
        r"(?:(?<=\n\n)|\A)(?: {4}.*\n?)+|`[^`]*`|[\\*_<>|\[\]]",
        lambda match: match[0] if len(match[0]) > 1 else "\\" + match[0],
        text,
    )


if __name__ == "__main__":
    docs = Path(sys.argv[1])
    (docs / "methods.md").write_text(methods_page(), encoding="utf-8")
    (docs / "defences.md").write_text(defences_page(docs.parent), encoding="utf-8")
    (docs.parent / "README.md").write_text(readme(docs.parent), encoding="utf-8")
