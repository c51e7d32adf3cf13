"""The command. Each verb is a few lines over the library, which is imported only once a verb begins."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelman.cli.options import (
    AccessName,
    Adaptive,
    BatteryName,
    Changes,
    DataDir,
    DataName,
    Eps,
    EpsRefOf,
    Explain,
    Images,
    Mean,
    NetworkName,
    NormName,
    PaperShape,
    Recipe,
    Results,
    Runs,
    Scale,
    Std,
    SubjectName,
    Surrogates,
    SurvivorsOnly,
    Trust,
    Workers,
)
from steelman.cli.verbs import AttackTrain, Train, Verb
from steelman.failures import guarded, plainly

if TYPE_CHECKING:
    from steelman.experiments.run import Run
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


@app.command(cls=Verb, epilog="Example: steelman demo --runs /tmp/runs")
def demo(runs: Runs = Path("runs")) -> None:
    """Train plain, PGD and Deep Defense networks on handwritten digits, attack them, and write a report."""
    from steelman.experiments import demo

    _show(*demo.run(runs, _say))


@app.command(cls=Train, epilog="Example: steelman train reference_mnist_lenet --set training.epochs=5 --name short")
def train(
    recipe: Recipe,
    data_dir: DataDir = None,
    runs: Runs = Path("runs"),
    name: Annotated[str | None, typer.Option(help="The run's folder in RUNS; default: the recipe's name.")] = None,
    set_: Changes = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the recipe with every setting, and train nothing.")
    ] = False,
    trust: Trust = None,
) -> None:
    """Train a recipe. The same call resumes a training that was stopped.

    A run's folder holds recipe.toml with every setting, last.safetensors to resume from, best.safetensors to evaluate,
    and log.jsonl with a line per epoch. Ctrl-C writes a checkpoint first.

    Under torchrun, every process calls this: torchrun --nproc-per-node 2 -m steelman train RECIPE
    """
    from steelman.experiments.recipe import to_toml
    from steelman.experiments.run import asked_for, train

    if show:
        print(to_toml(asked_for(recipe, set_)[1]), end="")
    else:
        _trained(train(recipe, runs, data_dir, set_, name))


@app.command(
    cls=AttackTrain,
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
    trust: Trust = None,
) -> None:
    """Train a learned adversary against a run's classifier, which is not changed.

    The same call resumes a training that was stopped. The best checkpoint is the one under which the fewest held-out
    training images are still classified correctly.

    `steelman evaluate` attacks the classifier with it. To attack another run with it, give an adversary among the
    attacks of that run's recipe generator = "FOLDER".
    """
    from steelman.experiments.attack_train import attack_train

    _trained(attack_train(run, adversary, runs, data_dir, set_, name))


@app.command(
    cls=Verb, epilog="Example: steelman evaluate my_module:my_model --data CIFAR10 --battery standard --images 1000"
)
def evaluate(
    subject: SubjectName,
    battery: BatteryName = None,
    norm: NormName = None,
    eps: Eps = None,
    survivors_only: SurvivorsOnly = None,
    images: Images = None,
    data: DataName = None,
    data_dir: DataDir = None,
    network: NetworkName = None,
    mean: Mean = None,
    std: Std = None,
    access: AccessName = None,
    adaptive: Adaptive = "auto",
    surrogate: Surrogates = None,
    explain: Explain = False,
    eps_ref_of: EpsRefOf = None,
    seed: Annotated[int, typer.Option(help="Seed of the attacks' noise.")] = 0,
    workers: Workers = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images that are attacked at once.")] = 250,
    folder: Results = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin a new table; the old one is kept until the new one is complete.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write measures for TensorBoard.")] = False,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Also log measures and report to MLflow.")] = False,
    trust: Trust = None,
) -> None:
    """Attack any model with a battery of attacks: a verdict, a table, measures with intervals, curves and report.html.

    A check-up of the model comes first. Where it or the table gives reason to doubt the gradients, attacks that are
    made for this model follow. An existing table is extended, and nothing is attacked twice. The same call resumes an
    evaluation that was stopped.
    """
    from contextlib import nullcontext

    from rich.console import Console

    from steelman.experiments.assess import asked_of, assess, battery_of, look, reference_of
    from steelman.experiments.opening import open_subject, open_surrogates
    from steelman.experiments.run import Run
    from steelman.files import REPORT, working_in, writable
    from steelman.report.document import Document
    from steelman.report.export import write_document
    from steelman.training.trackers import Trackers
    from steelman.workers import workers as several

    opened = open_subject(subject, data=data, data_dir=data_dir, network=network, mean=mean, std=std, norm=norm)
    chosen = battery_of(opened, battery, norm, eps, survivors_only)
    wanted: dict[str, Any] = {"asked": asked_of(opened, battery, norm, eps), "adaptive": adaptive}
    wanted["surrogates"] = open_surrogates(surrogate or (), data, data_dir)
    results = folder or opened.results
    names = [name for name, wanted in (("tensorboard", tensorboard), ("mlflow", mlflow)) if wanted]
    writable(results, REPORT)
    with working_in(results), Trackers(opened.home or results, names) as trackers:
        opened, found = look(opened, access)
        Console().print(found)
        eps_ref = None if eps_ref_of is None else reference_of(Run.open(eps_ref_of).subject(data_dir), images)
        how = {"folder": results, "images": images, "eps_ref": eps_ref, "seed": seed, "batch_size": batch_size}
        try:
            with several(workers) or nullcontext() as executor:
                entry = assess(opened, chosen, found, **wanted, executor=executor, fresh=fresh, **how)
        except KeyboardInterrupt as error:
            again = "--fresh begins again" if fresh else "the same call resumes it"
            raise KeyboardInterrupt(f"evaluation was interrupted; {again}") from error
        document = Document([entry], classes=opened.test.classes)
        written = write_document(results, document)
        for tracker in trackers:
            tracker.results({name: each.value for name, each in entry.measures.items()}, written)
    _show(document, written)


@app.command(cls=Verb, epilog="Example: steelman sweep pgd_digits_mlp --vary defence.attack.eps=0.05,0.1,0.15,0.2,0.3")
def sweep(
    recipe: Recipe,
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="PATH=VALUE,VALUE",
            help="A setting and its values: defence.c=5,10,20, or TOML: network.hidden=[32],[64, 64]. Repeated, it "
            "trains all combinations; curves go along the first setting.",
        ),
    ],
    battery: BatteryName = None,
    norm: NormName = None,
    eps: Eps = None,
    survivors_only: SurvivorsOnly = None,
    images: Images = None,
    measure: Annotated[
        str,
        typer.Option(
            help="The measure of robustness, by its name in results.json or the beginning of it; default: robust "
            "accuracy within the first radius."
        ),
    ] = "",
    against: Annotated[
        Path | None, typer.Option(help="Compare with this sweep (its folder) at equal clean accuracy.")
    ] = None,
    data_dir: DataDir = None,
    runs: Runs = Path("runs"),
    name: Annotated[str | None, typer.Option(help="The sweep's folder in RUNS; default: RECIPE-sweep.")] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Number of networks at once; each has a GPU of its own where there are GPUs."),
    ] = 1,
    set_: Changes = None,
    trust: Trust = None,
) -> None:
    """Train a recipe for each value of a setting, attack each network, and draw the robustness curve.

    The same call resumes a sweep; other calls add values, or compare with another sweep. The folder has a run for each
    network, sweep.json, sweep.csv and the picture robustness.png; `steelman compare` takes the runs.

    Exit code 1: a training diverged; the other networks are complete.
    """
    from rich.console import Console

    from steelman.experiments.sweep import sweep
    from steelman.experiments.sweep_results import EvaluationOptions, SweepResults

    other = None if against is None else SweepResults.load(against)
    options = EvaluationOptions(battery, norm, eps, survivors_only, images)
    found = sweep(
        recipe,
        vary,
        runs,
        data_dir,
        changes=set_ or [],
        called=name,
        options=None if options == EvaluationOptions() else options,
        measure=measure,
        count=workers,
        say=_say,
    )
    console = Console()
    for table in (found.table(), *([] if other is None else found.comparison_tables(other))):
        console.print(table, markup=False, highlight=False)
        console.print()
    for path in (found.picture, *([] if other is None else [found.draw_against(other)])):
        console.print(f"picture: {path}", markup=False, soft_wrap=True, highlight=False)
    if any(each.failed for each in found.networks):
        raise typer.Exit(1)


@app.command(
    cls=Verb,
    epilog="Example: steelman compare runs/plain_digits_mlp runs/pgd_digits_mlp --transfer PGD --paper l2l-da",
)
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluated runs or evaluations, of the same data.")],
    paper: PaperShape = "auto",
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTACK",
            help="Also attack each model with images made on the others (transfer), by an attack of the runs' recipes, "
            "a kind such as PGD, or a TOML table; may be repeated.",
        ),
    ] = None,
    surrogate: Annotated[
        list[Path] | None, typer.Option(help="Make the images on this run instead (a surrogate); may be repeated.")
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Also make images on the mean of these models' logits.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that make the images.")] = 1,
    data_dir: DataDir = None,
    folder: Annotated[Path, typer.Option(help="The folder of the common report.")] = Path("runs/comparison"),
    trust: Trust = None,
) -> None:
    """One table in the shape of a paper's, and one report, of several evaluated models.

    The tables are also written as Markdown, LaTeX and CSV. The first model is compared with each of the others, image
    by image. Called again with more runs, it makes only the images that are missing.
    """
    from rich.console import Console

    from steelman.experiments.compare import compare

    found = compare(
        runs,
        data_dir,
        folder,
        shape=paper,
        attacks=transfer or (),
        surrogates=surrogate or (),
        ensemble=ensemble,
        count=workers,
    )
    console = Console()
    for each in found.shown:
        console.print(each, markup=False, highlight=False)
        console.print()
    console.print(f"report: {found.written[-1]}", markup=False, soft_wrap=True, highlight=False)


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
        failed = terminal.make(Console(), paper, scale, seeds, runs, data_dir, folder, workers, _say, part)
        if failed:
            raise typer.Exit(1)


@app.command(cls=Verb, epilog="Example: steelman cite PGD DeepDefense")
def cite(methods: Annotated[list[str], typer.Argument(help="Names of attacks and defences, such as PGD.")]) -> None:
    """The papers behind methods, as text and BibTeX."""
    from steelman.methods import cite

    print(cite(methods))


def _trained(run: "Run") -> None:
    """Print the last numbers of a training, and the next command."""
    from steelman.training.distributed import processes

    if processes().first:
        last = run.log[-1]
        shown = "".join(f", {key} {value:.4f}" for key, value in last.items() if isinstance(value, float))
        print(f"{run.folder}: epoch {last['epoch']}{shown}")
        print(f"next: steelman evaluate {run.folder}")


def _say(text: str) -> None:
    print(text, flush=True)


def _show(document: "Document", written: list[Path]) -> None:
    from rich.console import Console

    console = Console()
    console.print(document.verdict.text(console.width), markup=False, highlight=False, soft_wrap=True)
    console.print(document.measures)
    console.print(f"report: {written[-1]}", markup=False, soft_wrap=True, highlight=False)


def main() -> None:
    """Exit codes: 0 done, 1 training diverged or an unforeseen error, 2 an error of the user's input, 130 interrupted.

    Errors are one line; for an unforeseen error it names a log file with the details. STEELMAN_TRACEBACK=1 shows
    tracebacks.
    """
    with plainly(), guarded():
        app()
