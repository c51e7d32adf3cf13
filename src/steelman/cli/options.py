"""Options of the command that are long, or that several verbs share, and how their texts become values."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer


def radius(text: str) -> float:
    """A number, or one divided by another, such as 8/255."""
    above, over, below = text.partition("/")
    try:
        found = float(above) / float(below) if over else float(above)
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"{text!r} is not a number such as .3 or 8/255") from error
    if not 0 < found < float("inf"):
        raise typer.BadParameter(f"{text!r} is no radius: give a number above 0, such as .3 or 8/255")
    return found


def norm(text: str) -> Any:
    """A norm by its name."""
    from steelman.norms import NORMS

    return NORMS[_one_of(text, NORMS)]


def access(text: str) -> str:
    """What attacks may see of a model."""
    return _one_of(text, ("gradients", "scores", "decisions"))


def when(text: str) -> str:
    """When adaptive attacks are run."""
    return _one_of(text, ("auto", "always", "never"))


def shape(text: str) -> str:
    """The shape of a paper's table, by its name."""
    from steelman.report.papers import SHAPES

    return _one_of(text, SHAPES)


def scale(text: str) -> str:
    """How much of a paper's budget is spent."""
    from steelman.papers.paper import SCALES

    return _one_of(text, SCALES)


def numbers(text: str) -> list[float]:
    """Numbers with commas between them."""
    try:
        found = [float(each) for each in text.split(",")]
    except ValueError:
        found = [float("nan")]
    if not all(each - each == 0 for each in found):
        raise typer.BadParameter(f"{text!r} is no list of numbers with commas between them, such as .49,.48,.45")
    return found


def layout(text: str) -> str:
    """Where channels stand in a model's input."""
    return _one_of(text, ("NCHW", "NHWC"))


def order(text: str) -> str:
    """The order of the channels of a model's input."""
    return _one_of(text, ("RGB", "BGR"))


def span(text: str) -> tuple[float, float]:
    """The numbers of black and white."""
    from steelman.loading.form import range_of

    try:
        return range_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def size(text: str) -> tuple[int, int]:
    """Height and width of images: two numbers, or one for both."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and (width or height).isdecimal() and int(height) and int(width or height)):
        raise typer.BadParameter(f"{text!r} is no size: give HEIGHTxWIDTH, such as 224x224, or one number for both")
    return int(height), int(width or height)


def device(text: str) -> str:
    """A device by its name, for this process and those that it starts."""
    import os

    from steelman.networks.building import DEVICE

    os.environ[DEVICE] = text
    return text


def _one_of(text: str, names: Collection[str]) -> str:
    from steelman.naming import nearest

    if text not in names:
        raise typer.BadParameter(f"there is no {text!r}; {nearest(text, names)}")
    return text


Trust: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE",
        help="Import what files name in this module or package; may be repeated. This runs its code: trust your own.",
    ),
]
DataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="STEELMAN_DATA", help="The folder of the data sets; default: download them."),
]
Runs: TypeAlias = Annotated[Path, typer.Option(help="The folder that holds the folders of the runs.")]
Recipe: TypeAlias = Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")]
Changes: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a setting; may be repeated. Values are TOML, or a bare word: training.epochs=5, "
        "defence.attack.eps=0.1, training.schedule=Cosine.",
    ),
]
SubjectName: TypeAlias = Annotated[
    str,
    typer.Argument(
        help="A run's folder or a checkpoint in it; module:function, which is a model, returns one, or takes images; a "
        "state dict (.safetensors, .pt, .pth) with --network; an .onnx, .pt2 or TorchScript (.ts) file; "
        "hf:NAME_OR_FOLDER, timm:NAME, torchvision:NAME or robustbench:NAME."
    ),
]
BatteryName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="quick, standard, thorough, signs, paper:NAME, or a TOML file; default: the recipe's attacks, or quick."
    ),
]
NormName: TypeAlias = Annotated[
    Any, typer.Option(parser=norm, metavar="NORM", help="Of a named battery: Linf, L2, L1 or L0; default Linf.")
]
Eps: TypeAlias = Annotated[
    float | None,
    typer.Option(parser=radius, metavar="NUMBER", help="Radius of a named battery, in [0, 1] units, such as 8/255."),
]
SurvivorsOnly: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--survivors-only/--every-image",
        help="Attack only images that are still correct, or every image; default: the battery's setting.",
    ),
]
Images: TypeAlias = Annotated[int | None, typer.Option(min=1, help="Number of test images, sampled by class.")]
DataName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="A data set's name; an .npz or .parquet file; a folder of pictures, of Parquet, of tar shards, or of "
        "Hugging Face's datasets; torchvision:NAME; module:function; or a TOML table."
    ),
]
NetworkName: TypeAlias = Annotated[
    str | None, typer.Option(help="Of a state dict: a network's name, timm:NAME, module:function, or a TOML table.")
]
Mean: TypeAlias = Annotated[
    Any,
    typer.Option(parser=numbers, metavar="NUMBERS", help="Normalise first, such as .49,.48,.45; with --std."),
]
Std: TypeAlias = Annotated[
    Any, typer.Option(parser=numbers, metavar="NUMBERS", help="Such as .25,.24,.26; with --mean.")
]
Layout: TypeAlias = Annotated[
    Any,
    typer.Option(
        parser=layout, metavar="LAYOUT", help="Of the model's input: NCHW or NHWC; default: what its file says."
    ),
]
Range: TypeAlias = Annotated[
    Any,
    typer.Option(
        parser=span,
        metavar="LOW..HIGH",
        help="Black and white in the model's input, such as 0..255 or -1..1; default: what its file says, or 0..1.",
    ),
]
Order: TypeAlias = Annotated[
    Any, typer.Option(parser=order, metavar="ORDER", help="Of the channels of the model's input: RGB (default) or BGR.")
]
Size: TypeAlias = Annotated[
    Any,
    typer.Option(
        parser=size,
        metavar="HxW",
        help="Of the model's input: images of another size are resized before it; default: what its file says.",
    ),
]
Device: TypeAlias = Annotated[
    Any,
    typer.Option(
        parser=device,
        metavar="DEVICE",
        help="cpu, cuda, cuda:1 or mps; default: a GPU where torch has one. STEELMAN_DEVICE sets it too.",
    ),
]
AccessName: TypeAlias = Annotated[
    Any,
    typer.Option(
        parser=access,
        metavar="ACCESS",
        help="What attacks may see: gradients, scores or decisions; default: all that the model gives.",
    ),
]
Adaptive: TypeAlias = Annotated[
    Any,
    typer.Option(
        parser=when,
        metavar="WHEN",
        help="Attacks made for this model: auto, where the check-up or the table gives cause for doubt; always; never.",
    ),
]
Surrogates: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--surrogate", metavar="MODEL", help="Run adaptive attacks, and transfer from this model too; may be repeated."
    ),
]
Explain: TypeAlias = Annotated[
    bool, typer.Option("--explain", help="Print Python that repeats the adaptive attacks, and what they assumed.")
]
EpsRefOf: TypeAlias = Annotated[
    Path | None, typer.Option(help="Take Deep Defense's eps_ref from this run's model instead of the model itself.")
]
Workers: TypeAlias = Annotated[
    int, typer.Option(min=1, help="Number of processes; each has a GPU of its own where there are GPUs.")
]
ClusterName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Work on other machines, by Dask: its scheduler's address, such as tcp://host:8786, or a TOML file that "
        "says which cluster is started.",
    ),
]
Results: TypeAlias = Annotated[
    Path | None, typer.Option(help="Where results go; default: RUN/evaluation, or evaluations/NAME for other models.")
]
PaperShape: TypeAlias = Annotated[
    Any,
    typer.Option(
        parser=shape,
        metavar="SHAPE",
        help="Whose table: deep-defense, deep-defense-2, efficient-defenses, l2l-da, pgn, mma, all; default: the one "
        "that fits.",
    ),
]
Scale: TypeAlias = Annotated[
    Any,
    typer.Option(
        parser=scale, metavar="SCALE", help="paper: the paper's own budget; night, hour: reduced forms of it."
    ),
]
