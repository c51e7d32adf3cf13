"""Options of the command that are long, or that several verbs share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer


def fraction(text: str) -> float:
    """A number, or one over another, as radii of bytes are told: 8/255."""
    above, over, below = text.partition("/")
    try:
        found = float(above) / float(below) if over else float(above)
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"{text!r} is not a number such as .3 or 8/255") from error
    if not 0 < found < float("inf"):
        raise typer.BadParameter(f"{text!r} is no radius: give a number above 0, such as .3 or 8/255")
    return found


Trust: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE",
        help="Import what files name in this module or package, as often as you like. Such code runs: trust your own.",
    ),
]
DataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="STEELMAN_DATA", help="Where data sets lie; otherwise they are downloaded."),
]
Runs: TypeAlias = Annotated[Path, typer.Option(help="The folder in which runs have their folders.")]
Changes: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a setting, as often as you like. Values are TOML, or a bare word: training.epochs=5, "
        "defence.attack.eps=0.1, training.schedule=Cosine.",
    ),
]
SubjectName: TypeAlias = Annotated[
    str,
    typer.Argument(
        help="A run's folder or a checkpoint in it; module:function, which is a model, returns one, or takes images; a "
        "state dict (.safetensors, .pt, .pth) with --network; an .onnx file; robustbench:NAME."
    ),
]
BatteryName: TypeAlias = Annotated[
    str | None,
    typer.Option(help="quick, standard, signs, paper:NAME, or a TOML file; default: the recipe's attacks, or quick."),
]
NormName: TypeAlias = Annotated[str | None, typer.Option(help="Of a named battery: Linf, L2, L1 or L0; default Linf.")]
Eps: TypeAlias = Annotated[
    float | None,
    typer.Option(parser=fraction, metavar="NUMBER", help="Radius of a named battery, in [0, 1] units, such as 8/255."),
]
SurvivorsOnly: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--survivors-only/--every-image",
        help="Attack only images that are still correct, or every image; default: the battery's setting.",
    ),
]
Images: TypeAlias = Annotated[int | None, typer.Option(min=1, help="So many test images, a sample by class.")]
DataName: TypeAlias = Annotated[
    str | None,
    typer.Option(help="A data set's name, an .npz file, a folder of pictures, module:function, or a TOML table."),
]
NetworkName: TypeAlias = Annotated[
    str | None, typer.Option(help="Of a state dict: a network's name, module:function, or a TOML table.")
]
Mean: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NUMBERS", help="Normalise first, such as .49,.48,.45; with --std.")
]
Std: TypeAlias = Annotated[str | None, typer.Option(metavar="NUMBERS", help="Such as .25,.24,.26; with --mean.")]
AccessName: TypeAlias = Annotated[
    str | None,
    typer.Option(help="What attacks may ask: gradients, scores or decisions; default: all that the model gives."),
]
EpsRefOf: TypeAlias = Annotated[
    Path | None, typer.Option(help="Take Deep Defense's eps_ref from this run's model, not from its own.")
]
Workers: TypeAlias = Annotated[
    int, typer.Option(min=1, help="Processes; each has a GPU of its own where there are GPUs.")
]
Results: TypeAlias = Annotated[
    Path | None, typer.Option(help="Where results go; default: RUN/evaluation, evaluations/NAME for what is no run.")
]
