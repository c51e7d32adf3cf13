"""Docstrings of methods, read as cards: for `steelman cite`, the help and the method pages.

A card is one line; paragraphs with the mathematics; one line per field, `name  meaning`, with deeper lines to go on, or
for several at once, `name, name  meaning`; then `Cost:`, `Reference:` and perhaps `Raises:`, each up to the next of
them or an empty line. A reference is

    Authors, "Title", Venue Year, section.

with "and" before the last author; several are divided by semicolons; where there is no paper, a text that begins with
"none". A paper that arXiv alone has is "arXiv Year, number, section".
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

import steelman.adversaries
import steelman.attacks
import steelman.defences
import steelman.detectors
import steelman.filters
import steelman.training.prepare
from steelman.adversaries import Adversary, AttackTraining
from steelman.attacks import Attack
from steelman.defences import Game
from steelman.detectors import Detector, Rejecting
from steelman.naming import nearest
from steelman.training.prepare import Preparation
from steelman.trust import imported

ROOMS = (
    steelman.attacks,
    steelman.defences,
    steelman.adversaries,
    steelman.training.prepare,
    steelman.filters,
    steelman.detectors,
)
KINDS: dict[type, str] = {
    Adversary: "adversary",
    AttackTraining: "adversary",
    Attack: "attack",
    Game: "defence",
    Preparation: "preparation",
    Detector: "detector",
    Rejecting: "detector",
    nn.Module: "filter",
}

PAPER = re.compile(r'(?P<authors>[^"]+), "(?P<title>[^"]+)", (?P<venue>.+?) (?P<year>\d{4})(, (?P<place>.+))?')
ARXIV, NUMBER = "arXiv", re.compile(r"\d{4}\.\d{4,5}\b")
NO_REFERENCE = 'none; its docstring needs a line such as Reference: Authors, "Title", Venue Year, section 3.'
LABEL = re.compile(r"(Cost|Reference|Raises)\b ?([^:]*):\s*(.*)")
FIELD = re.compile(r"(\w+(?:, \w+)*)  +(\S.*)")


@dataclass(frozen=True)
class Paper:
    """A paper in a reference; `eprint` is its number at arXiv, where that is its venue."""

    authors: tuple[str, ...]
    title: str
    venue: str
    year: int
    eprint: str = ""

    @property
    def key(self) -> str:
        """First surname, year and first word of the title, as Google Scholar writes them."""
        parts = self.authors[0].split()[-1], str(self.year), self.title.split()[0]
        return re.sub(r"[^a-z0-9]", "", "".join(parts).lower())

    def bibtex(self) -> str:
        entries = {"author": " and ".join(self.authors), "title": "{" + self.title + "}"}  # braces keep the capitals
        entries |= {"year": str(self.year)} if self.eprint else {"booktitle": self.venue, "year": str(self.year)}
        entries |= {"eprint": self.eprint, "archivePrefix": ARXIV} if self.eprint else {}
        wide = max(map(len, ("booktitle", *entries)))
        lines = (f"  {name:<{wide}} = {{{value}}},\n".replace("&", r"\&") for name, value in entries.items())
        return f"@{'misc' if self.eprint else 'inproceedings'}{{{self.key},\n{''.join(lines)}}}"


@dataclass(frozen=True)
class Card:
    """A method, and the parts of its docstring. A part that is not there is empty."""

    method: type
    summary: str
    body: str
    fields: dict[str, str]
    cost: str
    reference: str
    raises: str

    @property
    def name(self) -> str:
        return self.method.__name__

    @property
    def kind(self) -> str:
        return next((name for base, name in KINDS.items() if issubclass(self.method, base)), "")

    @property
    def papers(self) -> tuple[Paper, ...]:
        found = (PAPER.fullmatch(part.strip()) for part in self.reference.removesuffix(".").split(";"))
        return tuple(_paper(match) for match in found if match is not None)


def _paper(match: re.Match[str]) -> Paper:
    authors = re.split(r", | and | (?=et al\.)", match["authors"])
    number = NUMBER.match(match["place"] or "") if match["venue"] == ARXIV else None
    return Paper(
        tuple("others" if author == "et al." else author for author in authors),
        match["title"],
        match["venue"],
        int(match["year"]),
        number[0] if number else "",
    )


def card(method: type) -> Card:
    """Read the docstring of a method."""
    names = {item.name for item in own_fields(method)}
    body: list[str] = []
    fields: dict[str, str] = {}
    labelled = {"Cost": "", "Reference": "", "Raises": ""}
    label = name = ""
    summary, *lines = inspect.cleandoc(method.__doc__ or "").split("\n")
    for line in lines:
        if match := LABEL.match(line):
            label, name = match[1], ""
            labelled[label] = " ".join(part for part in (match[2] and match[2] + ":", match[3]) if part)
        elif not line.strip():
            label = name = ""
            body.append("")
        elif label:
            labelled[label] = f"{labelled[label]} {line.strip()}".strip()
        elif (match := FIELD.fullmatch(line)) and names.issuperset(match[1].split(", ")):
            name = match[1]
            fields[name] = match[2]
        elif name and line.startswith(" "):
            fields[name] += " " + line.strip()
        else:
            body.append(line)
    return Card(
        method=method,
        summary=summary,
        body=re.sub(r"\n{2,}", "\n\n", "\n".join(body)).strip(),
        fields=fields,
        cost=labelled["Cost"],
        reference=labelled["Reference"],
        raises=labelled["Raises"],
    )


def own_fields(method: type) -> list[dataclasses.Field]:
    """The settings that a method adds to those of its kind."""
    if dataclasses.is_dataclass(method):
        settings = {item.name: item for item in dataclasses.fields(method) if item.init}
        return [settings[name] for name in inspect.get_annotations(method) if name in settings]
    found = []
    for parameter in inspect.signature(method).parameters.values():
        given = {} if parameter.default is parameter.empty else {"default": parameter.default}
        found.append(dataclasses.field(**given))
        found[-1].name = parameter.name
    return found


def methods(kind: str | None = None) -> list[Card]:
    """The cards of all public attacks, defences, adversaries, preparations, filters and detectors, or of one kind."""
    cards = [
        card(member)
        for room in ROOMS
        for member in (getattr(room, name) for name in sorted(room.__all__))
        if inspect.isclass(member) and issubclass(member, tuple(KINDS)) and not inspect.isabstract(member)
    ]
    return [each for each in cards if kind in (None, each.kind)]


def citable(names: Sequence[str]) -> list[str]:
    """Those of the names that `cite` knows without an import: of this package's methods, or `module:Class`."""
    known = {item.name for item in methods()}

    def of_an_imported_module(name: str) -> bool:
        module, _, member = name.partition(":")
        found = getattr(sys.modules.get(module), member, None)
        return inspect.isclass(found) and issubclass(found, tuple(KINDS))

    return [name for name in dict.fromkeys(names) if name in known or of_an_imported_module(name)]


def cite(names: Sequence[str] = ()) -> str:
    """The references of some methods (default: all), and one BibTeX entry for each paper.

    names  of methods of this package, or 'module:Class' of one's own, whose module is imported

    Raises:
        ValueError: a name that is no method; the message has the nearest that is.
    """
    known = {item.name: item for item in methods()}
    for name in names:
        if name not in known and ":" not in name:
            raise ValueError(f"no method is called {name}: {nearest(name, known)}")
    chosen = [known[name] if name in known else _own(name) for name in dict.fromkeys(names or known)]
    plain = [f"{item.name}: {item.reference or NO_REFERENCE}" for item in chosen]
    papers = {paper.key: paper.bibtex() for item in chosen for paper in item.papers}
    return "\n\n".join(["\n".join(plain), *papers.values()])


def _own(name: str) -> Card:
    """The card of a method of the user's own."""
    found = imported(name, from_file=False)
    if not (inspect.isclass(found) and issubclass(found, tuple(KINDS))):
        raise ValueError(f"{name} is no attack, defence, adversary, preparation, filter or detector")
    return card(found)
