"""The command. Each verb is a few lines over the library; errors of a user are one line, not a traceback."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from steelman.runs import Run


ADVERSARIES = ("adversary", "Learned adversaries")


class _Train(TyperCommand):
    """Its help also names methods. Only then are they imported, so that other help is there at once."""

    panels = (
        ("defence", "Defences (defence = { kind = ... } in a recipe)"),
        ADVERSARIES,
        ("preparation", "Preparations of the training images (prepare = [{ kind = ... }])"),
    )
    left_out: tuple[str, ...] = ()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        from rich.console import Console
        from rich.markup import escape
        from rich.panel import Panel
        from rich.table import Table

        from steelman.cards import methods

        for kind, title in self.panels:
            table = Table.grid(padding=(0, 2))
            for each in methods(kind):
                if each.name not in self.left_out:
                    table.add_row(f"[bold cyan]{each.name}[/]", escape(each.summary))
            Console().print(Panel(table, title=title, title_align="left", border_style="dim"))


class _AttackTrain(_Train):
    panels = (ADVERSARIES,)
    left_out = ("AttackTraining",)


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train image classifiers that resist adversarial attack, and find out honestly whether they do.\n\n"
    "Begin with [bold]steelman demo[/bold]: embedded data, about two minutes, a table and a report.",
    rich_markup_mode="rich",
)

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="STEELMAN_DATA", help="Where data sets lie; otherwise they are downloaded."),
]
Runs = Annotated[Path, typer.Option(help="The folder in which runs have their folders.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a setting, as often as you like. Values are TOML, or a bare word: training.epochs=5, "
        "defence.attack.eps=0.1, training.schedule=Cosine.",
    ),
]


@app.command(epilog="Example: steelman demo --runs /tmp/runs")
def demo(runs: Runs = Path("runs")) -> None:
    """Train plain, PGD and Deep Defense networks on handwritten digits, attack them, and write a report."""
    from steelman import demo

    _show(*demo.run(runs, _say))


@app.command(cls=_Train, epilog="Example: steelman train reference_mnist_lenet --set training.epochs=5 --name short")
def train(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")],
    data_dir: DataDir = None,
    runs: Runs = Path("runs"),
    name: Annotated[str | None, typer.Option(help="The run's folder in RUNS; default: the recipe's name.")] = None,
    set_: Changes = None,
) -> None:
    """Train a recipe. Called again after any stop, it goes on where it was.

    A run's folder holds recipe.toml with every setting, last.safetensors to go on from, best.safetensors to evaluate,
    and log.jsonl with a line per epoch. Ctrl-C writes a checkpoint first.

    Under torchrun, every process calls this: torchrun --nproc-per-node 2 -m steelman train RECIPE
    """
    from steelman.runs import train

    _trained(lambda: train(recipe, runs, data_dir, set_, name))


@app.command(
    cls=_AttackTrain,
    epilog="Example: steelman attack-train runs/pgd_mnist_lenet L2LDA --set defence.adversary.eps=0.2",
)
def attack_train(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a checkpoint in it.")],
    adversary: Annotated[
        str, typer.Argument(help="A learned adversary's name, or a recipe whose defence is AttackTraining.")
    ],
    data_dir: DataDir = None,
    runs: Runs = Path("runs"),
    name: Annotated[str | None, typer.Option(help="The new run's folder in RUNS; default: ADVERSARY-on-RUN.")] = None,
    set_: Changes = None,
) -> None:
    """Train a learned adversary against a run's classifier, which stays as it is.

    Called again after any stop, it goes on where it was. The new run's folder is that of any run. Its checkpoint is
    chosen by the training images that are held out: the one under which fewest of them are still classified rightly.

    `steelman evaluate` attacks the classifier by it. Another run is attacked by it where an adversary among the attacks
    of its recipe's evaluation has generator = "FOLDER".
    """
    from steelman.attack_train import attack_train

    _trained(lambda: attack_train(run, adversary, runs, data_dir, set_, name))


@app.command(epilog="Example: steelman evaluate runs/reference_mnist_lenet --images 1000")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a checkpoint in it.")],
    data_dir: DataDir = None,
    images: Annotated[int | None, typer.Option(min=1, help="Only the first so many test images.")] = None,
    eps_ref_of: Annotated[
        Path | None, typer.Option(help="Take Deep Defense's eps_ref from this run's model, not from its own.")
    ] = None,
) -> None:
    """Attack a trained network as its recipe says: a table, measures with intervals, curves and report.html.

    All of it goes into the run's folder, under evaluation/.
    """
    from steelman.evaluation.export import write
    from steelman.runs import Run, evaluate_run, reference_of

    found = Run.open(run)
    eps_ref = None if eps_ref_of is None else reference_of(Run.open(eps_ref_of), data_dir, images)
    entry = found.entry_of(evaluate_run(found, data_dir, images, eps_ref), data_dir)
    written = write(found.results, [entry], classes=found.data("test", data_dir).classes)
    _show([entry], written)


@app.command(epilog="Example: steelman compare runs/reference_mnist_lenet runs/deep-defense_mnist_lenet")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluated runs, of the same data.")],
    data_dir: DataDir = None,
    folder: Annotated[Path, typer.Option(help="Where the common report goes.")] = Path("runs/comparison"),
) -> None:
    """One table and one report over several evaluated runs."""
    from steelman.evaluation.export import write
    from steelman.runs import Run, entries

    found = [Run.open(run) for run in runs]
    together = entries(found, data_dir)
    _show(together, write(folder, together, classes=found[0].data("test", data_dir).classes))


@app.command(epilog="Example: steelman cite PGD DeepDefense")
def cite(methods: Annotated[list[str], typer.Argument(help="Names of attacks and defences, such as PGD.")]) -> None:
    """The papers behind methods, as text and BibTeX."""
    from steelman.cards import cite

    print(cite(methods))


def _trained(go: Callable[[], "Run"]) -> None:
    """Train, and say what came of it and what comes next."""
    from steelman.training.processes import processes

    try:
        run = go()
    except KeyboardInterrupt as error:
        _complain(error)
        raise typer.Exit(130) from error
    if processes().first:
        last = run.log[-1]
        shown = "".join(f", {key} {value:.4f}" for key, value in last.items() if isinstance(value, float))
        print(f"{run.folder}: epoch {last['epoch']}{shown}")
        print(f"next: steelman evaluate {run.folder}")


def _say(text: str) -> None:
    print(text, flush=True)


def _show(entries: list[Any], written: list[Path]) -> None:
    from rich.console import Console

    from steelman.evaluation.export import terminal_table

    console = Console()
    console.print(terminal_table(entries))
    console.print(f"report: {written[-1]}", soft_wrap=True, highlight=False)


def _complain(error: BaseException) -> None:
    print(f"steelman: {str(error) or 'interrupted'}", file=sys.stderr)


def main() -> None:
    """Exit codes: 0 done, 1 training diverged, 2 the user's error, 130 interrupted.

    STEELMAN_TRACEBACK=1 shows tracebacks.
    """
    from steelman.training.play import Diverged

    try:
        app()
    except (ValueError, OSError, ImportError, Diverged, KeyboardInterrupt) as error:
        if os.environ.get("STEELMAN_TRACEBACK"):
            raise
        _complain(error)
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1 if isinstance(error, Diverged) else 2)
