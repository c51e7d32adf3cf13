"""The command itself, to which the files of this room add their verbs, and what they print."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from steelman.loading.subject import Subject
    from steelman.report.document import Document


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train image classifiers that resist adversarial attack, and find out honestly whether they do.\n\n"
    "Begin with [bold]steelman demo[/bold]: embedded data, about two minutes, a table and a report.",
    rich_markup_mode="rich",
)


def say(text: str) -> None:
    """A line that is seen at once."""
    print(text, flush=True)


def said(subject: "Subject") -> None:
    """What is done to images before the model, and what else of a model was guessed or changed."""
    for name in ("input", "classes", "weights", "device"):
        if name in subject.info:
            say(f"{name}: {subject.info[name]}")


def show(document: "Document", written: list[Path]) -> None:
    """The verdict, the measures, and where the report lies."""
    from rich.console import Console

    console = Console()
    console.print(document.verdict.text(console.width), markup=False, highlight=False, soft_wrap=True)
    console.print(document.measures)
    console.print(f"report: {written[-1]}", markup=False, soft_wrap=True, highlight=False)
