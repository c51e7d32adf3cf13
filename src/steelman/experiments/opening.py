"""Any model by what the user names, as a `Subject`."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from steelman.data.dataset import Dataset
from steelman.experiments.run import Run
from steelman.loading.form import adapted, guessed
from steelman.loading.hugging_face import hugging_face
from steelman.loading.images import source, table
from steelman.loading.model_zoos import timm, torchvision
from steelman.loading.onnx import Onnx
from steelman.loading.programs import EXPORTED, SCRIPTED, Program, is_script
from steelman.loading.subject import Subject
from steelman.loading.weights import fill, read_state
from steelman.loading.zoo import robustbench
from steelman.networks.black_box import BlackBox
from steelman.networks.building import device, idle_gpu, network_of
from steelman.networks.input_form import Form
from steelman.norms import Norm
from steelman.trust import imported, written

WEIGHTS = (".safetensors", ".pt", ".pth")
PROGRAMS = (".onnx", *EXPORTED, *SCRIPTED)
ZOO = "robustbench"
LIBRARIES: dict[str, Callable[[str, Dataset], tuple[nn.Module, Form, str]]] = {
    "hf": hugging_face,
    "timm": timm,
    "torchvision": torchvision,
}
"""Loaders of other libraries' models, by what stands before the colon."""
NAMED = (
    "'module:function', 'hf:NAME', 'timm:NAME', 'torchvision:NAME', 'robustbench:NAME', or a .safetensors, .pt, .pth, "
    ".onnx, .pt2 or .ts file"
)


def open_subject(
    what: str,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    network: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    norm: Norm | None = None,
    layout: str | None = None,
    range: tuple[float, float] | None = None,
    order: str | None = None,
    size: tuple[int, int] | None = None,
) -> Subject:
    """A model of any kind, with the images on which it is evaluated.

    what      a run's folder or a checkpoint in it; 'module:function', which is a module, a function that returns one,
              or a function of images itself; a state dict (.safetensors, .pt, .pth); a program (.onnx; .pt2, .ts);
              'hf:NAME', 'timm:NAME', 'torchvision:NAME', 'robustbench:NAME'
    data      as for `source`; a run has its own
    data_dir  the folder of the data sets
    network   of a state dict: a network's name, 'timm:NAME' and the like, 'module:function', or a TOML table like
              [network] of a recipe
    mean, std of a normalising layer before the model, one number per channel; default: what the model's library says
    norm      of the threat model, by which RobustBench's models are chosen
    layout, range, order, size  of the model's input (`Form`); default: what its file or library says, else NCHW,
              0..1, RGB, and the size of the images

    Images that have another size than the model takes are resized before it. `Subject.info` says what is done.

    A 'module:function' given here is imported. One in a run's own files has to be trusted: `steelman.trust`.

    Raises:
        FileNotFoundError, ImportError, ValueError: the model is missing, unreadable, no model, does not fit the network
            or the images; or an option is missing or has no effect.
    """
    path = Path(what)
    if is_run(path) and network is None:
        refuse_idle(what, data=data, mean=mean, std=std, layout=layout, range=range, order=order, size=size)
        return _hinted(Run.open(path).subject(data_dir))
    loaded = path.suffix in WEIGHTS
    if network is not None and not loaded:
        raise ValueError(f"--network is for state dicts ({', '.join(WEIGHTS)}); {what} brings its own network")
    if not loaded and path.suffix not in PROGRAMS and ":" not in what:
        raise FileNotFoundError(
            f"{what} is no run: there is no {path / 'recipe.toml'}. `steelman train` makes one; other models are named "
            f"by {NAMED}"
        )
    if loaded and is_script(path):
        raise ValueError(
            f"{path} is TorchScript, a program: if you trust its author, rename it to {path.with_suffix('.ts').name}. "
            "Or save model.state_dict() alone, which runs nothing"
        )
    if data is None:
        raise ValueError(f"{what} needs images: give --data, such as MNIST, an .npz file or a folder of pictures")
    images = source(data)
    test = images.load("test", data_dir).to(device())
    info = {"model": what, "data": str(images), **({} if network is None else {"network": network})}
    kind, _, inside = what.partition(":")
    form, name = Form(), Path(what.rpartition(":")[2]).name
    if loaded:
        name = path.stem
        model, info["weights"] = _filled(path, network, test)
    elif path.suffix in PROGRAMS:
        name = path.stem
        model = (Onnx if path.suffix == ".onnx" else Program)(path).eval()
        form = guessed(path, model.shape, test.shape, layout, model.whole)
    elif kind in LIBRARIES:
        model, form, info["classes"] = LIBRARIES[kind](inside, test)
    elif kind == ZOO:
        model = robustbench(inside, images, norm)
    else:
        model = module_named(what, test)
    model, info["input"] = adapted(model, form.changed(layout, range, order, mean, std, size), test)
    found = Subject(
        name=name,
        model=model.to(device()),
        test=test,
        training=lambda: images.load("train", data_dir),
        data=type(images).__name__,
        results=Path("evaluations") / re.sub(r"[^\w.-]+", "-", name),
        info={name: words for name, words in info.items() if words},
    )
    return _hinted(found)


def is_run(path: Path) -> bool:
    """Whether a path is a run's folder, or one of its checkpoints."""
    return path.is_dir() or (path.suffix == ".safetensors" and (path.parent / "recipe.toml").is_file())


def refuse_idle(run: str, **options: object) -> None:
    """Raises ValueError where an option is given that says of a run what the run itself says.

    FileNotFoundError: it is a folder, and holds no run.
    """
    if Path(run).is_dir() and not (Path(run) / "recipe.toml").is_file():
        transformers = f": it holds a model of transformers, which is named hf:{run}"
        remedy = transformers if (Path(run) / "config.json").is_file() else ". `steelman train` makes one"
        raise FileNotFoundError(f"{run} is no run: there is no {Path(run) / 'recipe.toml'}{remedy}")
    if named := [name for name, value in options.items() if value is not None]:
        raise ValueError(
            f"{run} is a run, which has its own data and network: leave out --{named[0]}, or name its checkpoint with "
            "--network, so that it is taken as a state dict"
        )


def _hinted(subject: Subject) -> Subject:
    """With a word on a GPU that is here and not used."""
    hint = idle_gpu(device())
    return replace(subject, info={**subject.info, "device": f"{device()}. {hint}"}) if hint else subject


def open_surrogates(names: Sequence[str], data: str | None, data_dir: Path | None) -> dict[str, nn.Module]:
    """Models by name from which attacks transfer: runs, and others as for `open_subject` on the data that is evaluated.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `open_subject`.
    """
    return {
        each: open_subject(each, data=None if Path(each).is_dir() else data, data_dir=data_dir).model for each in names
    }


def _filled(path: Path, network: str | None, like: Dataset) -> tuple[nn.Module, str]:
    """The network with the weights in a file, and what was done to their names."""
    state = read_state(path)
    if network is None:
        raise ValueError(
            f"{path} holds weights ({', '.join(list(state)[:3])}, ...) and not what they are of: give --network, such "
            "as LeNet, 'module:function' or '{ kind = \"MLP\", hidden = [24] }'"
        )
    settings = network_settings(network)
    with written(network):
        model = network_of(settings, like.shape, len(like.classes), path="--network")
    said = fill(model, state, str(path))
    return model.eval(), said


def network_settings(network: str) -> dict[str, Any]:
    """A recipe's [network] from what --network says."""
    return table(network, "--network") if network.startswith("{") else {"kind": network}


def module_named(path: str, like: Dataset) -> nn.Module:
    """A module as it is; a function that returns one is called; a function of images is a black box."""
    found: Any = imported(path, from_file=False)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise ValueError(f"{path} is a {type(found).__name__}, neither a model nor a function that returns one")
    known = {"shape": like.shape, "classes": len(like.classes)}
    parameters = _parameters(found)
    needed = [name for name, default in parameters.items() if default is inspect.Parameter.empty and name not in known]
    if len(needed) == 1 and not inspect.isclass(found):
        return BlackBox(found).eval()
    if needed:
        raise ValueError(
            f"{path} needs {', '.join(needed)}: give a function without such arguments that returns the model, or one "
            "of images alone"
        )
    made = found(**{name: value for name, value in known.items() if name in parameters})
    if isinstance(made, nn.Module):
        return made
    if callable(made):
        return BlackBox(made).eval()
    raise ValueError(f"{path} made a {type(made).__name__}, neither a model nor a function of images")


def _parameters(function: Any) -> dict[str, object]:
    """Names and defaults of a function's arguments; of one without a signature, images alone."""
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {"images": inspect.Parameter.empty}
    return {each.name: each.default for each in arguments if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
