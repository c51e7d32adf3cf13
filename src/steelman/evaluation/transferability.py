"""Images that are crafted on one model, once, and tested on others: every pair of a source and a target."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias, final

import torch
from safetensors import safe_open
from torch import Tensor, nn

from steelman import checkpoint, identity
from steelman.attacks.core import Access, Attack, AttackWrapper, Oracle, evaluation_mode
from steelman.data.dataset import Data, Dataset
from steelman.evaluation.evaluation import batches_of, evaluate
from steelman.evaluation.task import placed
from steelman.files import PARTIAL, working_in
from steelman.forward import answer_of, check_answer, reject_class
from steelman.losses import Goal
from steelman.measures.transfer import Transfer, _folder, from_source
from steelman.randomness import Draws, combine
from steelman.table.records import CLEAN
from steelman.types import Batch, Images, Logits, Model


@final
class MeanLogits(nn.Module):
    """Several models as one surrogate: the mean of their logits.

    Reference: Yinpeng Dong, Fangzhou Liao, Tianyu Pang, Hang Su, Jun Zhu, Xiaolin Hu and Jianguo Li, "Boosting
    adversarial attacks with momentum", CVPR 2018, section 3.2 (in logits, with equal weights).
    """

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        if not models:
            raise ValueError("an ensemble surrogate needs at least one model")
        self.models = tuple(models)
        self.members = nn.ModuleList(model for model in models if isinstance(model, nn.Module))

    def forward(self, x: Images) -> Logits:
        return torch.stack([answer_of(model, x) for model in self.models]).mean(0)


Source: TypeAlias = Model | Sequence[Model]


@final
@dataclass(frozen=True)
class CraftedOnSource(AttackWrapper):
    """A transfer attack that keeps its images: those that are there are read, the others are crafted on the source.

    attack  what is run on the source, as it is
    model   the source
    source  its name
    called  the attack's name, which seeds its noise, so that the source itself is given the images of `evaluate`
    white_box  whether the model under attack is the source, or one of its members
    folder  where the images of this attack and source are kept, a file for each call

    Cost: the attack's on the source, once for each image; it counts for every target.
    """

    attack: Attack
    model: Any
    source: str
    called: str
    white_box: bool
    folder: Path = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", self.attack.box)

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.attack.access if self.white_box else "decisions"

    @property
    def noise(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.called

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        # an image's key holds its pixels, its label and its noise
        keys = combine(draws.seeds.cpu(), torch.from_numpy(identity.image_digests(x, goal.labels)))
        parts = list(self._kept(keys))
        missing = torch.isin(keys, torch.cat([part["keys"] for part in parts]), invert=True) if parts else keys == keys
        oracle.seconds += sum(float(part["seconds"].sum()) for part in parts)
        if missing.any():
            parts.append(self._craft(x, goal, draws, keys, torch.where(missing)[0]))
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        place = {key: row for row, key in enumerate(whole["keys"].tolist())}
        rows = torch.tensor([place[key] for key in keys.tolist()])
        oracle.forwards += whole["forwards"][rows].to(x.device)
        oracle.gradients += whole["gradients"][rows].to(x.device)
        return whole["x_adv"][rows].to(x)

    def _craft(self, x: Images, goal: Goal, draws: Draws, keys: Tensor, which: Tensor) -> dict[str, Tensor]:
        """Craft some images, and keep them."""
        at = which.to(x.device)
        result = self.attack.run(placed(self.model, x.device), x[at], goal.labels[at], generator=draws.seeds[at])
        seconds = torch.full((len(which),), result.seconds / len(which), dtype=torch.float64)
        made = {"x_adv": result.x_adv, "forwards": result.forwards, "gradients": result.gradients}
        made = {name: value.cpu() for name, value in made.items()} | {"keys": keys[which], "seconds": seconds}
        if self.folder.parent.is_dir():  # else the process is on a machine that does not see it
            checkpoint.save(self.folder / f"{identity.digest(made['keys'])}.safetensors", made)
        return made

    def _kept(self, keys: Tensor) -> Iterator[dict[str, Tensor]]:
        """The images in the folder that have these keys."""
        own = self.folder / f"{identity.digest(keys)}.safetensors"
        for path in [own] if own.is_file() else sorted(self.folder.glob("*.safetensors")):
            try:
                which = torch.isin(_keys(path), keys)
                part = checkpoint.load(path) if which.any() else {}
            except ValueError as error:
                warnings.warn(f"{error}; its images are crafted again", stacklevel=2)
                path.unlink()
                continue
            if part:
                yield {name: value[which] for name, value in part.items()}


@lru_cache(maxsize=100_000)
def _keys(path: Path) -> Tensor:
    """The keys of a file's images; a file is never written again."""
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("keys")
    except Exception as error:  # of safetensors, of its own kind
        raise ValueError(f"{path} is not whole ({error})") from error


def transfer(
    sources: Mapping[str, Source],
    targets: Mapping[str, Model],
    dataset: Data,
    attack: Attack | Mapping[str, Attack],
    *,
    name: str = "",
    batch_size: int = 250,
    seed: int = 0,
    executor: Executor | None = None,
    folder: str | Path | None = None,
    known: Transfer | None = None,
    progress: bool = True,
) -> Transfer:
    """Craft images on every source once, and test them on every target.

    sources     on which images are crafted. Several models are one surrogate, by the mean of their logits
    targets     which are tested. One that is also a source, under the same name, is a white box there: its numbers are
                those of `evaluate`, to the last image
    dataset     a `Dataset`, or images and labels as a pair of tensors; models are attacked in pixels
    attack      any attack. One that stops at its first success on the source (`stop_early`, and every minimal attack)
                transfers less than it could. A mapping has one for each source: learned adversaries have a generator
                that was trained on it
    name        what the attack is called, which seeds its noise; default: the call that makes it
    batch_size, seed   as for `evaluate`
    executor    where blocks of images are worked on; default: here
    folder      where the crafted images (4 bytes a pixel) and the targets' tables are kept, so that a transfer that was
                killed goes on, and targets that come later are tested on the same images
    known       an earlier transfer of the same attack and images, in place of a folder: its pairs of models are not
                made again

    Cost: the attack's on each source; one forward pass on every target for each source, and one unattacked.

    Raises:
        ValueError: no sources or targets, two different models under one name, models that cannot take the images or
            answer for other classes, a known transfer of another attack, model or data.
    """
    if not sources or not targets:
        raise ValueError("a transfer needs at least one source and one target")
    attacks = attack if isinstance(attack, Mapping) else dict.fromkeys(sources, attack)
    if lacking := [source for source in sources if source not in attacks]:
        raise ValueError(f"there is no attack for the source {lacking[0]}; a mapping has one for each")
    name = name or str(attacks[next(iter(sources))])
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    models = {source: one if callable(one) else MeanLogits(one) for source, one in sources.items()}
    _check(models, targets, next(batches_of(dataset, 2)[0]))
    digests = {source: identity.digest((attacks[source], model)) for source, model in models.items()}
    sent = models if executor is None else _on_cpu(models)
    index = dataset.index.tolist() if isinstance(dataset, Dataset) else range(len(dataset[0]))
    tables = {}
    with TemporaryDirectory() if folder is None else _held(Path(folder)) as place:
        crafted = Path(place).absolute() / "crafted"
        crafted.mkdir(parents=True, exist_ok=True)
        for target, model in targets.items():
            named = {
                from_source(name, source): CraftedOnSource(
                    attacks[source], sent[source], source, name, _is_white_box(one, model), crafted / digests[source]
                )
                for source, one in models.items()
            }
            table = evaluate(
                model,
                dataset,
                named,
                batch_size=batch_size,
                seed=seed,
                executor=executor,
                progress=progress,
                known=None if known is None else known.tables.get(target),
                folder=None if folder is None else Path(folder) / _folder(target),
            )
            names = [CLEAN, *named]
            table = table.only(names).of_images(index)
            tables[target] = table.replaced(records=sorted(table.records, key=lambda each: names.index(each.name)))
    found = Transfer(name, tables)
    if folder is not None:
        found._write_index(Path(folder))
    return found


@contextmanager
def _held(folder: Path) -> Iterator[Path]:
    """A transfer's folder, for one process at a time; files that killed processes left unfinished are removed."""
    with working_in(folder):
        for partial in (folder / "crafted").glob(f"*/*{PARTIAL}"):
            partial.unlink()
        yield folder


def _on_cpu(models: Mapping[str, Model]) -> dict[str, Model]:
    return {name: deepcopy(one).cpu() if isinstance(one, nn.Module) else one for name, one in models.items()}


def _is_white_box(source: Model, target: Model) -> bool:
    return any(_same(part, target) for part in (source.models if isinstance(source, MeanLogits) else (source,)))


def _same(one: Model, other: Model) -> bool:
    same_class = type(one) is type(other)
    return one is other or (same_class and identity.model_parts(one) == identity.model_parts(other))


def _check(sources: Mapping[str, Model], targets: Mapping[str, Model], batch: Batch) -> None:
    """Raises ValueError where a name means two models, or where models are not of the same data."""
    for name in sources:
        if name in targets and not _same(sources[name], targets[name]):
            raise ValueError(f"the source and the target called {name} are different models: give one another name")
    classes: dict[int, str] = {}
    for name, model in {**sources, **targets}.items():
        try:
            with evaluation_mode(model), torch.no_grad():
                answer = answer_of(model, batch.x)
        except RuntimeError as error:
            raise ValueError(
                f"{name} cannot take images of shape {tuple(batch.x.shape[1:])}, so it is of other data: {error}"
            ) from error
        check_answer(answer, len(batch), int(batch.y.max()))
        if answer.is_floating_point():
            classes.setdefault(answer.shape[1] - (reject_class(model) is not None), name)
    if len(classes) > 1:
        (one, first), (two, second), *_ = classes.items()
        raise ValueError(
            f"{first} answers for {one} classes and {second} for {two}: only models of the same data can be compared"
        )
