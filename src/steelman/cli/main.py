"""The command. Each verb is a few lines over the library, which is imported only once a verb begins."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelman.cli.options import (
    AccessName,
    BatteryName,
    Changes,
    DataDir,
    DataName,
    Eps,
    EpsRefOf,
    Images,
    Mean,
    NetworkName,
    NormName,
    Results,
    Runs,
    Std,
    SubjectName,
    SurvivorsOnly,
    Trust,
    Workers,
)
from steelman.cli.verbs import AttackTrain, Train, Verb
from steelman.failures import guarded, plainly

if TYPE_CHECKING:
    from steelman.experiments.run import Run


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
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")],
    data_dir: DataDir = None,
    runs: Runs = Path("runs"),
    name: Annotated[str | None, typer.Option(help="The run's folder in RUNS; default: the recipe's name.")] = None,
    set_: Changes = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the recipe with every setting, and train nothing.")
    ] = False,
    trust: Trust = None,
) -> None:
    """Train a recipe. Called again after any stop, it goes on where it was.

    A run's folder holds recipe.toml with every setting, last.safetensors to go on from, best.safetensors to evaluate,
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
    """Train a learned adversary against a run's classifier, which stays as it is.

    Called again after any stop, it goes on where it was. The new run's folder is that of any run. Its checkpoint is
    chosen by the training images that are held out: the one under which fewest of them are still classified rightly.

    `steelman evaluate` attacks the classifier by it. Another run is attacked by it where an adversary among the attacks
    of its recipe's evaluation has generator = "FOLDER".
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
    eps_ref_of: EpsRefOf = None,
    seed: Annotated[int, typer.Option(help="Of the attacks' noise.")] = 0,
    workers: Workers = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that are attacked at once.")] = 250,
    folder: Results = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin a new table; the old one stays until it is whole.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write measures for TensorBoard.")] = False,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Also log measures and report to MLflow.")] = False,
    trust: Trust = None,
) -> None:
    """Attack any model with a battery: a table, measures with intervals, curves and report.html.

    First a check-up says what was found of the model. A table that is there is extended: what has been attacked is not
    attacked again, and an evaluation that was stopped goes on.
    """
    from contextlib import nullcontext

    from rich.console import Console

    from steelman.cli.values import access_of, norm_of, numbers
    from steelman.experiments.assess import assess, battery_of, look, reference_of
    from steelman.experiments.opening import open_subject
    from steelman.experiments.run import Run
    from steelman.files import REPORT, working_in, writable
    from steelman.report.export import write
    from steelman.training.trackers import Sinks
    from steelman.workers import workers as several

    threat = norm_of(norm)
    opened = open_subject(
        subject,
        data=data,
        data_dir=data_dir,
        network=network,
        mean=numbers("--mean", mean),
        std=numbers("--std", std),
        norm=threat,
    )
    chosen = battery_of(opened, battery, threat, eps, survivors_only)
    results = folder or opened.results
    names = [name for name, wanted in (("tensorboard", tensorboard), ("mlflow", mlflow)) if wanted]
    writable(results, REPORT)
    with working_in(results), Sinks(opened.home or results, names) as sinks:
        opened, found = look(opened, access_of(access))
        Console().print(found)
        eps_ref = None if eps_ref_of is None else reference_of(Run.open(eps_ref_of).subject(data_dir), images)
        how = {"folder": results, "images": images, "eps_ref": eps_ref, "seed": seed, "batch_size": batch_size}
        try:
            with several(workers) or nullcontext() as executor:
                entry = assess(opened, chosen, found, executor=executor, fresh=fresh, **how)
        except KeyboardInterrupt as error:
            again = "--fresh begins again" if fresh else "the same call goes on with what is left"
            raise KeyboardInterrupt(f"evaluation was interrupted; {again}") from error
        written = write(results, [entry], classes=opened.test.classes)
        for sink in sinks:
            sink.results({name: each.value for name, each in entry.measures.items()}, written)
    _show([entry], written)


@app.command(cls=Verb, epilog="Example: steelman sweep pgd_digits_mlp --vary defence.attack.eps=0.05,0.1,0.15,0.2,0.3")
def sweep(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")],
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="PATH=VALUE,VALUE",
            help="A setting and its values: defence.c=5,10,20, or TOML: network.hidden=[32],[64, 64]. Of several, all "
            "combinations are trained; curves go along the first.",
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
            help="Of robustness, by its name in results.json or the beginning of it; default: robust accuracy within "
            "the first radius."
        ),
    ] = "",
    against: Annotated[
        Path | None, typer.Option(help="Another sweep's folder, to be compared with at equal clean accuracy.")
    ] = None,
    data_dir: DataDir = None,
    runs: Runs = Path("runs"),
    name: Annotated[str | None, typer.Option(help="The sweep's folder in RUNS; default: RECIPE-sweep.")] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Networks at once; each has a GPU of its own where there are.")
    ] = 1,
    set_: Changes = None,
    trust: Trust = None,
) -> None:
    """Train a recipe for each value of a setting, attack each network, and draw the robustness curve.

    Called again, it goes on where it was, adds other values, or compares with another sweep. Its folder has a run for
    each network, sweep.json, sweep.csv and the picture robustness.png; `steelman compare` takes the runs.

    Exit code 1: a training diverged; the others are there.
    """
    from rich.console import Console

    from steelman.cli.values import norm_of
    from steelman.experiments.sweep import sweep
    from steelman.experiments.swept import Judging, Swept

    other = None if against is None else Swept.load(against)
    asked = Judging(battery, norm_of(norm), eps, survivors_only, images)
    found = sweep(
        recipe,
        vary,
        runs,
        data_dir,
        changes=set_ or [],
        called=name,
        judging=None if asked == Judging() else asked,
        measure=measure,
        count=workers,
        say=_say,
    )
    console = Console()
    console.print(found.terminal_table())
    if other is not None:
        console.print(found.comparison_table(other))
    for path in (found.picture, *([] if other is None else [found.draw_against(other)])):
        console.print(f"picture: {path}", markup=False, soft_wrap=True, highlight=False)
    if any(each.failed for each in found.outcomes):
        raise typer.Exit(1)


@app.command(
    cls=Verb,
    epilog="Example: steelman compare runs/plain_digits_mlp runs/pgd_digits_mlp --transfer PGD --paper l2l-da",
)
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluated runs or evaluations, of the same data.")],
    paper: Annotated[
        str,
        typer.Option(
            metavar="SHAPE",
            help="Whose table: deep-defense, deep-defense-2, efficient-defenses, l2l-da, pgn, mma, all; default: the "
            "one that fits.",
        ),
    ] = "auto",
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTACK",
            help="Also test each model on images made on the others, by an attack of the runs' recipes, a kind such as "
            "PGD, or a TOML table; as often as you like.",
        ),
    ] = None,
    surrogate: Annotated[
        list[Path] | None, typer.Option(help="Make them on this run instead, as often as you like.")
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Make them on the mean of all these models' logits too.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that make them.")] = 1,
    data_dir: DataDir = None,
    folder: Annotated[Path, typer.Option(help="Where the common report goes.")] = Path("runs/comparison"),
    trust: Trust = None,
) -> None:
    """One table in the shape of a paper's, and one report, over several evaluated models.

    The tables are also written as Markdown, LaTeX and CSV. The first model is compared with each other one image by
    image. Called again with more runs, it makes only the images that are not there.
    """
    from rich.console import Console

    from steelman.experiments.compare import compare, shape_of

    found = compare(
        runs,
        data_dir,
        folder,
        shape=shape_of(paper),
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


@app.command(cls=Verb, epilog="Example: steelman cite PGD DeepDefense")
def cite(methods: Annotated[list[str], typer.Argument(help="Names of attacks and defences, such as PGD.")]) -> None:
    """The papers behind methods, as text and BibTeX."""
    from steelman.methods import cite

    print(cite(methods))


def _trained(run: "Run") -> None:
    """Say what came of a training and what comes next."""
    from steelman.training.distributed import processes

    if processes().first:
        last = run.log[-1]
        shown = "".join(f", {key} {value:.4f}" for key, value in last.items() if isinstance(value, float))
        print(f"{run.folder}: epoch {last['epoch']}{shown}")
        print(f"next: steelman evaluate {run.folder}")


def _say(text: str) -> None:
    print(text, flush=True)


def _show(entries: list[Any], written: list[Path]) -> None:
    from rich.console import Console

    from steelman.report.papers import measures_table
    from steelman.report.verdicts import verdict

    console = Console()
    console.print(verdict(entries).text(console.width), markup=False, highlight=False, soft_wrap=True)
    console.print(measures_table(entries))
    console.print(f"report: {written[-1]}", markup=False, soft_wrap=True, highlight=False)


def main() -> None:
    """Exit codes: 0 done, 1 training diverged or an error that was not foreseen, 2 the user's error, 130 interrupted.

    Errors are one line; of one that was not foreseen the line names a log with the details. STEELMAN_TRACEBACK=1 shows
    tracebacks.
    """
    with plainly(), guarded():
        app()
