"""The command. Each verb is a few lines over the library, which is imported only once a verb begins."""

from pathlib import Path
from typing import Annotated

import typer

from steelman.cli import training  # noqa: F401 (adds its verbs, which help shows first)

# isort: split
from steelman.cli import evaluating  # noqa: F401
from steelman.cli.app import app, say
from steelman.cli.options import (
    ClusterName,
    DataDir,
    Runs,
    Scale,
    Trust,
)
from steelman.cli.verbs import Verb
from steelman.failures import guarded, plainly


@app.command(cls=Verb, epilog="Example: steelman reproduce deep-defense --rows 'MNIST MLP*' --plan")
def reproduce(
    paper: Annotated[str, typer.Argument(help="A paper's name or file; default: list the papers.")] = "",
    table: Annotated[list[str] | None, typer.Option(help="A table to make, such as 1; may be repeated.")] = None,
    figure: Annotated[list[str] | None, typer.Option(help="A figure to draw; may be repeated.")] = None,
    rows: Annotated[str, typer.Option(metavar="PATTERN", help="Only these rows of tables, such as 'MNIST*'.")] = "",
    columns: Annotated[
        str, typer.Option(metavar="PATTERN", help="Only these columns of tables, such as '*CIFAR*'.")
    ] = "",
    scale: Scale = "paper",
    seeds: Annotated[int, typer.Option(min=1, help="Number of trainings of each network.")] = 1,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what is missing and its cost here, and do nothing.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that train and attack.")] = 1,
    cluster: ClusterName = None,
    data_dir: DataDir = None,
    runs: Runs = Path("runs"),
    folder: Annotated[Path, typer.Option(help="The folder of the pages and their results.")] = Path("reproduced"),
    trust: Trust = None,
) -> None:
    """A paper's tables and figures: train, attack, and print the paper's number beside ours.

    The same call resumes. Networks are shared between tables and with `steelman train`. The folder has the page
    PAPER.md, its pictures, and PAPER.json, from which the page can be made again.
    """
    from rich.console import Console

    from steelman.papers import terminal
    from steelman.papers.chosen import Part

    part = Part(table or (), figure or (), rows, columns)
    if not paper:
        terminal.list_papers(Console(), folder)
    elif plan:
        terminal.print_plan(Console(), paper, scale, seeds, runs, data_dir, folder, part)
    else:
        failed = terminal.make(Console(), paper, scale, seeds, runs, data_dir, folder, workers, cluster, say, part)
        if failed:
            raise typer.Exit(1)


@app.command(cls=Verb, epilog="Example: steelman export runs/trades_cifar10 resnet-hardened.pt")
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a checkpoint in it.")],
    into: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file: .pt, .pth or .safetensors for a state dict, or .onnx.")
    ],
    trust: Trust = None,
) -> None:
    """Write a run's network to a file for other programs, and check that it gives the same logits.

    A state dict has the names of the file from which the training began, where it began from one.
    """
    from steelman.experiments.export import export
    from steelman.experiments.run import Run

    say(export(Run.open(run), into))


@app.command(cls=Verb, epilog="Example: steelman cite PGD DeepDefense")
def cite(
    methods: Annotated[
        list[str], typer.Argument(help="Names of attacks and defences, such as PGD, or module:Class of your own.")
    ],
) -> None:
    """The papers behind methods, as text and BibTeX."""
    from steelman.methods import cite

    print(cite(methods))


def main() -> None:
    """Exit codes: 0 done, 1 training diverged or an unforeseen error, 2 an error of the user's input, 130 interrupted.

    Errors are one line; for an unforeseen error it names a log file with the details. STEELMAN_TRACEBACK=1 shows
    tracebacks.
    """
    with plainly(), guarded():
        app()
