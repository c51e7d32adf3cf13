"""A look at a model before anything attacks it."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from steelman.attacks.core import Access, buffers_kept, check_labels
from steelman.checkup.checks import ModelCheck
from steelman.checkup.finding import Finding
from steelman.checkup.labels import Known
from steelman.data.dataset import Data
from steelman.data.sample import sample_order, sampled
from steelman.types import Images, Labels, Model

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Checkup:
    """What was found of a model, and the most that attacks may ask of it.

    `str` and `rich.print` give a line for each finding, `plain` is for JSON and `of` reads it again.
    """

    findings: tuple[Finding, ...]
    access: Access

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "warning")

    def plain(self) -> dict[str, Any]:
        return {"access": self.access, "findings": [asdict(finding) for finding in self.findings]}

    @staticmethod
    def of(plain: dict[str, Any]) -> "Checkup":
        return Checkup(tuple(Finding(**finding) for finding in plain["findings"]), plain["access"])

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))

    def _repr_html_(self) -> str:
        from html import escape

        lines = ((each.level, each.name, each.found, each.advice) for each in self.findings)
        rows = ("".join(f"<td>{escape(said)}</td>" for said in line) for line in lines)
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    def __rich__(self) -> "RenderableType":
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        colours = {"fine": "green", "note": "cyan", "warning": "bold red"}
        for each in self.findings:  # as Text, in which a name such as "a[/b]" is no markup
            found = Text(each.found).append(f"\n{each.advice}" if each.advice else "", style="dim")
            table.add_row(Text(each.level, colours.get(each.level, "")), Text(each.name), found)
        return table


def checkup(model: Model, dataset: Data, *, images: int = 100, batch_size: int = 100, seed: int = 0) -> Checkup:
    """What a few images tell of a model: whether it is handed over as meant, and what attacks may ask of it.

    Looked at, as far as the model answers: the images' range; the answer (logits, probabilities, classes; NaN); classes
    against labels; accuracy, also behind the usual normalisations where it is low; train mode; randomness; whether an
    image's answer depends on its neighbours; cross-entropy lost in rounding (1 - p below the precision); gradients that
    are 0, NaN, vanishing (the next class, by the linear model at the image, further than the box is wide) or exploding
    (nearer than 1/1000 of the box's edge); and whether finite differences bear autograd out (`Slopes`).

    model   as for `evaluate`; also one that answers with classes alone. Found as it was: mode, gradients, buffers and
            torch's random state
    images  at most so many (default 100), a sample by class
    batch_size  images at once
    seed    of what is drawn: a jitter of the images, directions, and a random model's own draws

    What is wrong with the model is a finding, not an error: an exception that it raises too.

    Cost: about 15 forward and 3 gradient passes per image.

    Raises:
        ValueError: no images; images or batch_size below 1.
    """
    if images < 1 or batch_size < 1:
        raise ValueError(f"a check-up needs images and batch_size of at least 1; got {images} and {batch_size}")
    x, y = _some(dataset, images)
    devices = [x.device] if x.is_cuda else []
    with torch.inference_mode(False), torch.random.fork_rng(devices), buffers_kept(model):
        torch.manual_seed(seed)
        look = ModelCheck(model, x.detach().clone(), y, batch_size, seed, Known.of(dataset, y))
        access = look.go()
    return Checkup(tuple(look.findings), access)


def _some(dataset: Data, images: int) -> tuple[Images, Labels]:
    """So many images, a sample by class."""
    count = len(dataset[0]) if isinstance(dataset, tuple) else len(dataset)
    if count == 0:
        raise ValueError("there are no images to look at")
    if isinstance(dataset, tuple):
        check_labels("y", dataset[1], dataset[0])
        places = sample_order(dataset[1], torch.arange(count))[:images].sort().values
        return dataset[0][places.to(dataset[0].device)], dataset[1][places.to(dataset[1].device)]
    some = sampled(dataset, images)
    (batch,) = some.batches([torch.arange(len(some))])
    return batch.x, batch.y
