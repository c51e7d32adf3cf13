"""Docstrings as Markdown, for the Python reference of the site.

Docstrings are plain text: mathematics without marks, one line `name  meaning` per field, and `Cost:`, `Reference:` and
`Raises:`. Fields become a table, the labels bold, and public names in code are linked.
"""

import re
from collections.abc import Iterator
from itertools import groupby

from tools.method_pages import escaped

from steelman.methods import FIELD, LABEL

RAISED = re.compile(r"[A-Z]\w+(, [A-Z]\w+)*: ")


def markdown(text: str) -> str:
    """A docstring as Markdown."""
    return "\n\n".join(block for part in re.split(r"\n[ \n]*\n", text.strip()) for block in _blocks(part.split("\n")))


def _blocks(lines: list[str]) -> Iterator[str]:
    """A paragraph of a docstring as paragraphs, lists and tables of Markdown. An indented one is a formula."""
    if all(line.startswith("    ") for line in lines):
        yield "\n".join(lines)
        return
    for kind, group in groupby(_parts(lines), key=lambda part: part[0]):
        match kind:
            case "field":
                yield "| | |\n|---|---|\n" + "\n".join(
                    f"| {_names(name)} | {escaped(said)} |" for _, name, said in group
                )
            case "raised":
                yield "\n".join(f"* {escaped(said)}" for *_, said in group)
            case "label":
                yield from (f"**{name}** {escaped(said)}".rstrip() for _, name, said in group)
            case _:
                yield from (escaped(said) for *_, said in group)


def _parts(lines: list[str]) -> list[list[str]]:
    """Kind, name and text of what a paragraph consists of."""
    parts: list[list[str]] = []
    column = 0
    for line in lines:
        kind = parts[-1][0] if parts else ""
        if kind in ("", "text", "field") and (field := _field(line, column)):
            parts.append(["field", *field[:2]])
            column = field[2]
        elif match := LABEL.match(line):
            parts.append(["label", f"{match[1]} {match[2]}".strip(), match[3]])
        elif parts and parts[-1][1] in ("Raises", "raised") and RAISED.match(line.strip()):
            parts.append(["raised", "raised", line.strip()])
        elif kind == "text":
            parts[-1][2] += "\n" + line
        elif parts and (line.startswith(" ") or kind == "label"):
            parts[-1][2] += " " + line.strip()
        else:
            parts.append(["text", "", line])
    return parts


def _field(line: str, column: int) -> tuple[str, str, int] | None:
    """The names, the meaning and where it begins, of a line that is a field's; `column` is that of those before."""
    if match := FIELD.fullmatch(line):
        return match[1], match[2], match.start(2)
    if column and line[column - 1 : column] == " " and re.fullmatch(r"\w+(, \w+)*", line[: column - 1].strip()):
        return line[: column - 1].strip(), line[column:], column
    return None


def _names(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def linked(text: str, links: dict[str, str], own: str) -> str:
    """Public names in code, in a text, as links to where they are described."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        return f"[`{name}`][{links[name]}]" if name in links and name != own else match[0]

    return re.sub(r"(?<![\[`])`(\w+)`(?!`)", link, text)
