"""The findings of a check-up."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from steelman.attacks.core import Access

if TYPE_CHECKING:
    from rich.console import RenderableType

Level: TypeAlias = Literal["fine", "note", "warning"]

WITHOUT_GRADIENTS = "attacks that need no gradient (HopSkipJump, Square, Surrogate)"
MASKED = f"Gradient attacks are not reliable there: add {WITHOUT_GRADIENTS}"
REPLACED = f"The gradient is cut, or a filter's replacement: give BPDA a closer one, and add {WITHOUT_GRADIENTS}"


@dataclass(frozen=True)
class Finding:
    """One line of a check-up: what was checked, what was found, and, where it is not fine, what to do about it."""

    name: str
    found: str
    level: Level = "fine"
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:7}  {self.name}: {self.found}" + (f". {self.advice}" if self.advice else "")


@dataclass(frozen=True)
class Checkup:
    """The findings on a model, and the most access that it gives attacks.

    `str` and `rich.print` give a line for each finding, `plain` is for JSON and `of` reads it again.
    """

    findings: tuple[Finding, ...]
    access: Access

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "warning")

    def plain(self) -> dict[str, Any]:
        return {"access": self.access, "findings": [asdict(finding) for finding in self.findings]}

    @staticmethod
    def of(plain: dict[str, Any]) -> "Checkup":
        return Checkup(tuple(Finding(**finding) for finding in plain["findings"]), plain["access"])

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))

    def _repr_html_(self) -> str:
        from html import escape

        lines = ((each.level, each.name, each.found, each.advice) for each in self.findings)
        rows = ("".join(f"<td>{escape(text)}</td>" for text in line) for line in lines)
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    def __rich__(self) -> "RenderableType":
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        colours = {"fine": "green", "note": "cyan", "warning": "bold red"}
        for each in self.findings:  # as Text, in which a name such as "a[/b]" is no markup
            found = Text(each.found).append(f"\n{each.advice}" if each.advice else "", style="dim")
            table.add_row(Text(each.level, colours.get(each.level, "")), Text(each.name), found)
        return table
