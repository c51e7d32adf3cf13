"""Verbs that train: demo, train, attack-train, sweep, harden."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelman.cli.app import app, say, show
from steelman.cli.options import (
    BatteryName,
    Changes,
    ClusterName,
    DataDir,
    DataName,
    Device,
    Eps,
    Images,
    Layout,
    Mean,
    NetworkName,
    NormName,
    Order,
    Range,
    Recipe,
    Runs,
    Size,
    Std,
    SurvivorsOnly,
    Trust,
    Workers,
)
from steelman.cli.verbs import AttackTrain, Train, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steelman.experiments.run import Run


@app.command(cls=Verb, epilog="Example: steelman demo --runs /tmp/runs")
def demo(runs: Runs = Path("runs")) -> None:
    """Train plain, PGD and Deep Defense networks on handwritten digits, attack them, and write a report."""
    from steelman.experiments import demo

    show(*demo.run(runs, say))


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
        _trained(train(recipe, runs, data_dir, set_, name), trust)


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

    _trained(attack_train(run, adversary, runs, data_dir, set_, name), trust)


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
    cluster: ClusterName = None,
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
        cluster=cluster,
        say=say,
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
    cls=Train,
    epilog="Example: steelman harden my_models:resnet --weights resnet.pt --data my_images/ --defence TRADES "
    "--eps 8/255",
)
def harden(
    subject: Annotated[
        str,
        typer.Argument(
            help="module:function, a model or what returns one; a state dict (.safetensors, .pt, .pth) with --network; "
            "hf:NAME_OR_FOLDER, timm:NAME or torchvision:NAME; a run's folder or a checkpoint in it."
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option(help="A state dict for the model of module:function, where that has none itself.")
    ] = None,
    defence: Annotated[
        str | None,
        typer.Option(
            help="A defence's name, which gets --norm and --eps; fast; or a TOML table, as it stands. Default TRADES, "
            "or fast where --minutes are few."
        ),
    ] = None,
    norm: NormName = None,
    eps: Eps = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default 10, or as many as have 500 batches.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Train no longer; the choice of the rate and the measurements come on top."),
    ] = None,
    battery: Annotated[str, typer.Option(help="As for evaluate, before and after.")] = "quick",
    images: Annotated[int, typer.Option(min=1, help="Number of test images that are attacked.")] = 500,
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
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    workers: Workers = 1,
    cluster: ClusterName = None,
    runs: Runs = Path("runs"),
    name: Annotated[str, typer.Option(help="The hardened run's folder in RUNS.")] = "hardened",
    set_: Changes = None,
    trust: Trust = None,
) -> None:
    """Train a model of your own on, so that it resists attack: measured before and after on the same images.

    The learning rate and the length are chosen, and said. RUNS/NAME.toml is the recipe that is trained; RUNS/NAME and
    RUNS/NAME-before are runs for every other verb, and RUNS/NAME-comparison has the report on both. The same call
    resumes what was stopped. Next: steelman export RUNS/NAME hardened.pt
    """
    from rich.console import Console

    from steelman.clusters import executor_of
    from steelman.experiments.adopting import adopt
    from steelman.experiments.harden import harden
    from steelman.experiments.opening import LIBRARIES
    from steelman.norms import Linf

    takes: dict[str, Any] = {"mean": mean, "std": std, "layout": layout, "range": range, "order": order, "size": size}
    with executor_of(workers, cluster) as executor:
        model = adopt(subject, data=data, data_dir=data_dir, weights=weights, network=network, **takes)
        for line in model.said:
            say(line)
        found = harden(
            model,
            runs,
            data_dir,
            called=name,
            defence=defence,
            norm=norm or Linf,
            eps=eps,
            epochs=epochs,
            minutes=minutes,
            battery=battery,
            images=images,
            seed=seed,
            changes=set_,
            executor=executor,
            say=say,
        )
    console = Console()
    for each in found.compared.shown:
        console.print(each, markup=False, highlight=False)
        console.print()
    files = (f"recipe: {found.recipe}", f"report: {found.compared.written[-1]}")
    module, colon, _ = found.after.recipe.network["kind"].partition(":")
    own = [module] if colon and module not in LIBRARIES and module not in (trust or ()) else []
    follows = f"next: steelman export {found.after.folder} {name}.pt{_trusting([*(trust or ()), *own])}"
    for line in (found.sentence, *files, follows):
        console.print(line, markup=False, soft_wrap=True, highlight=False)


def _trained(run: "Run", trust: list[str] | None) -> None:
    """Print the last numbers of a training, and the next command, which trusts what this one did."""
    from steelman.training.distributed import processes

    if processes().first:
        last = run.log[-1]
        shown = "".join(f", {key} {value:.4f}" for key, value in last.items() if isinstance(value, float))
        print(f"{run.folder}: epoch {last['epoch']}{shown}")
        print(f"next: steelman evaluate {run.folder}{_trusting(trust or ())}")


def _trusting(names: "Sequence[str]") -> str:
    return "".join(f" --trust {name}" for name in names)
