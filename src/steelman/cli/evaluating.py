"""Verbs that attack models, and compare what was found: evaluate, compare."""

from pathlib import Path
from typing import Annotated, Any

import typer

from steelman.cli.app import app, said, say, show
from steelman.cli.options import (
    AccessName,
    Adaptive,
    BatteryName,
    ClusterName,
    DataDir,
    DataName,
    Device,
    Eps,
    EpsRefOf,
    Explain,
    Images,
    Layout,
    Mean,
    NetworkName,
    NormName,
    Order,
    PaperShape,
    Range,
    Results,
    Size,
    Std,
    SubjectName,
    Surrogates,
    SurvivorsOnly,
    Trust,
    Workers,
)
from steelman.cli.verbs import Verb

NOT_ADAPTED = (
    "# Nothing to explain: no adaptive attacks were made, as nothing was in doubt. --adaptive always makes them\n"
)
"""What --explain prints where there were none."""


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
    layout: Layout = None,
    range: Range = None,
    order: Order = None,
    size: Size = None,
    device: Device = None,
    access: AccessName = None,
    adaptive: Adaptive = "auto",
    surrogate: Surrogates = None,
    explain: Explain = False,
    eps_ref_of: EpsRefOf = None,
    seed: Annotated[int, typer.Option(help="Seed of the attacks' noise.")] = 0,
    workers: Workers = 1,
    cluster: ClusterName = None,
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
    from rich.console import Console

    from steelman.clusters import executor_of
    from steelman.experiments.assess import asked_of, assess, battery_of, look, reference_of
    from steelman.experiments.opening import open_subject, open_surrogates
    from steelman.experiments.run import Run
    from steelman.files import REPORT, working_in, writable
    from steelman.report.document import Document
    from steelman.report.export import write_document
    from steelman.training.trackers import Trackers

    takes: dict[str, Any] = {"mean": mean, "std": std, "layout": layout, "range": range, "order": order, "size": size}
    opened = open_subject(subject, data=data, data_dir=data_dir, network=network, norm=norm, **takes)
    said(opened)
    chosen = battery_of(opened, battery, norm, eps, survivors_only)
    wanted: dict[str, Any] = {"asked": asked_of(opened, battery, norm, eps), "adaptive": adaptive}
    wanted["surrogates"] = open_surrogates(surrogate or (), data, data_dir)
    results = folder or opened.results
    names = [name for name, wanted in (("tensorboard", tensorboard), ("mlflow", mlflow)) if wanted]
    writable(results, REPORT)
    with working_in(results), Trackers(opened.home or results, names) as trackers:
        opened, found = look(opened, access, wanted["asked"])
        Console().print(found)
        eps_ref = None if eps_ref_of is None else reference_of(Run.open(eps_ref_of).subject(data_dir), images)
        how = {"folder": results, "images": images, "eps_ref": eps_ref, "seed": seed, "batch_size": batch_size}
        try:
            with executor_of(workers, cluster) as executor:
                entry = assess(opened, chosen, found, **wanted, executor=executor, fresh=fresh, **how)
        except KeyboardInterrupt as error:
            again = "--fresh begins again" if fresh else "the same call resumes it"
            raise KeyboardInterrupt(f"evaluation was interrupted; {again}") from error
        document = Document([entry], classes=opened.test.classes)
        written = write_document(results, document)
        for tracker in trackers:
            tracker.results({name: each.value for name, each in entry.measures.items()}, written)
    if explain:
        say(f"\n{entry.explained or NOT_ADAPTED}")
    show(document, written)


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
    cluster: ClusterName = None,
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
        cluster=cluster,
    )
    console = Console()
    for each in found.shown:
        console.print(each, markup=False, highlight=False)
        console.print()
    console.print(f"report: {found.written[-1]}", markup=False, soft_wrap=True, highlight=False)
