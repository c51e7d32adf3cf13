"""Attack every image with every attack, and write down what came of it."""

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from steelman.attacks.attack import Attack, check_images, check_labels
from steelman.attacks.mode import evaluation_mode
from steelman.attacks.oracle import check_logits
from steelman.data.dataset import Dataset
from steelman.evaluation.table import CLEAN, COLUMNS, Evaluation
from steelman.losses import cross_entropy
from steelman.norms import L2, Linf
from steelman.randomness import combine
from steelman.types import Batch, Images, Labels, Logits, Model

Space: TypeAlias = Literal["pixels", "preprocessed"]


@dataclass(frozen=True)
class FromPrediction:
    """An attack that leaves the model's own prediction instead of the true label, right or wrong.

    Deep Defense measures rho_2 so: images that the model gets wrong have a distance to their boundary too.
    """

    attack: Attack

    def __str__(self) -> str:
        return f"FromPrediction({self.attack})"


Crafter: TypeAlias = Attack | FromPrediction
Data: TypeAlias = Dataset | tuple[Tensor, Tensor]


def evaluate(
    model: Model,
    dataset: Data,
    attacks: Sequence[Crafter] | Mapping[str, Crafter],
    *,
    batch_size: int = 250,
    seed: int = 0,
    space: Space = "pixels",
    progress: bool = True,
) -> Evaluation:
    """Attack every image with every attack, and write a table with a row per image and attack.

    model       an `nn.Module` or any callable from images to logits. A module is evaluated in evaluation mode with its
                parameters frozen, and found as it was
    dataset     a `Dataset`, or images and labels as a pair of tensors
    attacks     attacks, named by the call that makes them, or a mapping from names to attacks. `FromPrediction(attack)`
                leaves the model's prediction instead of the label
    batch_size  images at once; it does not change the table, but for rounding inside the model
    seed        an image's noise is a hash of this, of its index and of the attack's name
    space       "pixels": attacks act on the images, inside their box. "preprocessed": for a model with `preprocess` and
                `network`, attacks act on `model.network` without a box, and distances are in that space, as in the
                papers whose data are preprocessed files
    progress    show a bar, where there is a terminal

    Cost: each attack's own, and one forward pass per attack to verify and one for the unattacked images.

    Raises:
        ValueError: no images, two attacks of one name, one of them called "clean", a radius per image, a batch size
            below 1; for "preprocessed" a model without those parts, or an attack that needs a box.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    named = _named(attacks)
    if space == "preprocessed":
        named = {name: _unboxed(name, attack) for name, attack in named.items()}
    batches, count = batches_of(dataset, batch_size)
    columns: dict[str, dict[str, list[Any]]] = {name: {column: [] for column in COLUMNS} for name in (CLEAN, *named)}
    with space_of(model, space) as (preprocess, network), _bar(progress, count * max(len(named), 1)) as advance:
        for batch in batches:
            x = preprocess(batch.x)
            prediction = _clean(columns[CLEAN], network, batch, x, space)
            if not named:
                advance(CLEAN, len(batch))
            for name, attack in named.items():
                _attack(columns[name], network, batch, x, space, prediction, name, attack, seed)
                advance(name, len(batch))
    whole = {
        column: np.concatenate([np.asarray(part) for name in columns for part in columns[name][column]])
        for column in COLUMNS
    }
    evaluation = Evaluation.from_columns(whole)
    if evaluation.images < count:
        raise ValueError(
            f"the data set holds {count} images but only {evaluation.images} indices: some stand in it twice"
        )
    return evaluation


def _named(attacks: Sequence[Crafter] | Mapping[str, Crafter]) -> dict[str, Crafter]:
    """The attacks under their names.

    Raises:
        ValueError: a name stands twice, or is "clean"; a radius per image.
    """
    pairs = list(attacks.items()) if isinstance(attacks, Mapping) else [(str(attack), attack) for attack in attacks]
    named = dict(pairs)
    if len(named) < len(pairs):
        twice = next(name for name in named if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"two attacks are called {twice}; give a mapping from names to attacks")
    if CLEAN in named:
        raise ValueError('"clean" is the name of the unattacked images; give the attack another one')
    for name, attack in named.items():
        eps = getattr(_inner(attack), "eps", None)
        if isinstance(eps, Tensor) and eps.ndim:
            raise ValueError(f"{name} has a radius per image, which a whole data set cannot share; give it one number")
    return named


def _inner(attack: Crafter) -> Attack:
    return attack.attack if isinstance(attack, FromPrediction) else attack


def _unboxed(name: str, attack: Crafter) -> Crafter:
    try:
        inner = replace(_inner(attack), box=None)
    except ValueError as error:
        raise ValueError(
            f"{name} cannot be run in the preprocessed space, which has no box ({error}); run it in pixels"
        ) from error
    return replace(attack, attack=inner) if isinstance(attack, FromPrediction) else inner


def batches_of(dataset: Data, batch_size: int) -> tuple[Iterator[Batch], int]:
    """The whole data set, in order, and how many images it has."""
    count = len(dataset[0]) if isinstance(dataset, tuple) else len(dataset)
    if count == 0:
        raise ValueError("there are no images to evaluate")
    indices = torch.arange(count).split(batch_size)
    if isinstance(dataset, tuple):
        x, y = dataset
        check_images(x, None)
        check_labels("y", y, x)
        return (Batch(x[i.to(x.device)], y[i.to(y.device)], i) for i in indices), count
    return dataset.batches(indices), count


@contextmanager
def space_of(model: Model, space: Space) -> Iterator[tuple[Callable[[Tensor], Tensor], Model]]:
    """The model in evaluation mode, as what stands before the attacked part, and that part.

    Raises:
        ValueError: the space is not known, or the model has no such part.
    """
    if space not in ("pixels", "preprocessed"):
        raise ValueError(f'space must be "pixels" or "preprocessed"; got {space!r}')
    preprocess, network = getattr(model, "preprocess", None), getattr(model, "network", None)
    if space == "preprocessed" and (preprocess is None or network is None):
        raise ValueError(
            f"{type(model).__name__} has no preprocess and network, so it has no preprocessed space; wrap it in "
            'Preprocessed(preprocess, network), or evaluate in "pixels"'
        )
    with evaluation_mode(model):
        if space == "preprocessed" and preprocess is not None and network is not None:
            yield torch.no_grad()(preprocess), network
        else:
            yield (lambda x: x), model


@contextmanager
def _bar(shown: bool, total: int) -> Iterator[Callable[[str, int], None]]:
    """A progress bar over images times attacks; silent where standard error is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    look = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*look, console=console, transient=True, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task("", total=total)
        yield lambda name, done: progress.update(task, advance=done, description=f"last: {name}")


def logits_of(model: Model, x: Images, y: Labels) -> Logits:
    """What the model says of unattacked images; raises ValueError where that cannot be logits for these labels."""
    with evaluation_mode(model), torch.no_grad():
        logits = model(x)
    check_logits(logits, len(x), int(y.max()))
    return logits


def _clean(rows: dict[str, list[Any]], network: Model, batch: Batch, x: Images, space: Space) -> Tensor:
    """The rows of the unattacked images; returns their predictions."""
    check_images(x, None)
    check_labels("y", batch.y, x)
    start = time.perf_counter()
    logits = logits_of(network, x, batch.y)
    prediction = logits.argmax(1)
    _write(
        rows,
        batch,
        x,
        {
            "attack": CLEAN,
            "space": space,
            "parameters": "",
            "away_from": "label",
            "norm": None,
            "eps": 0.0,
            "gradients": 0,
            "forwards": 1,
        },
        {"l0": 0.0, "l1": 0.0, "l2": 0.0, "linf": 0.0, "seconds": (time.perf_counter() - start) / len(batch)},
        clean_prediction=prediction,
        prediction=prediction,
        success=prediction != batch.y,
        loss=cross_entropy(logits, batch.y),
    )
    return prediction


def _attack(
    rows: dict[str, list[Any]],
    network: Model,
    batch: Batch,
    x: Images,
    space: Space,
    prediction: Tensor,
    name: str,
    attack: Crafter,
    seed: int,
) -> None:
    assert batch.index is not None
    inner: Any = _inner(attack)
    from_prediction = isinstance(attack, FromPrediction)
    seeds = combine(torch.full((len(x),), seed, dtype=torch.int64), batch.index, zlib.crc32(name.encode()))
    result = inner.run(network, x, prediction if from_prediction else batch.y, generator=seeds)
    _write(
        rows,
        batch,
        x,
        {
            "attack": name,
            "space": space,
            "parameters": repr(inner),
            "away_from": "prediction" if from_prediction else "label",
            "norm": None if getattr(inner, "norm", None) is None else repr(inner.norm),
            "eps": float("nan") if getattr(inner, "eps", None) is None else float(inner.eps),
        },
        {"seconds": result.seconds / len(batch)},
        clean_prediction=prediction,
        **{
            column: getattr(result, column)
            for column in ("prediction", "success", "loss", "l0", "l1", "l2", "linf", "forwards", "gradients")
        },
    )


def _write(rows: dict[str, list[Any]], batch: Batch, x: Images, *constant: dict[str, Any], **columns: Tensor) -> None:
    """One batch's rows: what is the same for all images, and one tensor per other column."""
    for values in constant:
        for column, value in values.items():
            rows[column].append(np.full(len(batch), value))
    sizes = {"x_l2": L2.size(x.double()), "x_linf": Linf.size(x.double())}
    assert batch.index is not None
    for column, values in {**columns, **sizes, "image": batch.index, "label": batch.y}.items():
        rows[column].append(values.detach().cpu().numpy())
