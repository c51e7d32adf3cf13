"""Our measures beside those of the Adversarial Robustness Toolbox, on one model and the same images, in one run.

    make bench-measures DATA=folder ARGS='--hardware "one core of ..."'

It has empirical robustness, loss sensitivity and CLEVER scores. Writes docs/results/measures-beside-art.json and .md.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from steelman.attacks import DeepFool, MinimalFGSM
from steelman.evaluation import CLEVER, LossSensitivity, evaluate
from steelman.experiments.run import Run
from steelman.measures import empirical_robustness
from steelman.types import Batch

T = TypeVar("T")
PEER = "adversarial-robustness-toolbox"
GRID, EPS_MAX = 0.05, 0.5
SCORE = CLEVER(batches=100, batch_size=50, pool=10)
"""Few points: with 9 rivals the toolbox takes 18 gradients at each, one class and ten points at a time."""


def timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def classifier(model: nn.Module, batch: Batch, reduction: str = "mean") -> Any:
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore

    loss, shape = nn.CrossEntropyLoss(reduction=reduction), tuple(batch.x.shape[1:])
    return PyTorchClassifier(model, loss, shape, 10, clip_values=(0.0, 1.0), device_type="cpu")


def robustness(model: nn.Module, batch: Batch) -> dict[str, Any]:
    from art.metrics import empirical_robustness as theirs  # pyright: ignore

    attack = MinimalFGSM(eps_max=EPS_MAX, grid=GRID, reference="prediction")
    evaluate(model, (batch.x[:2], batch.y[:2]), {"MinimalFGSM": attack})  # loads what a table needs
    table, seconds = timed(lambda: evaluate(model, (batch.x, batch.y), {"MinimalFGSM": attack}))
    settings = {"eps": EPS_MAX, "eps_step": GRID}
    peer, peer_seconds = timed(lambda: theirs(classifier(model, batch), batch.x.numpy(), "fgsm", settings))
    ours = empirical_robustness(table, "MinimalFGSM", form="code")
    return {
        "ours": ours.value,
        "theirs": float(peer),
        "seconds": [seconds, peer_seconds],
        "failures": ours.failures,
        "by hand, float32": by_hand(model, batch, torch.float32),
        "by hand, float64": by_hand(model, batch, torch.float64),
    }


def by_hand(model: nn.Module, batch: Batch, precision: torch.dtype) -> float:
    """The same number from a plain loop, in this precision."""
    net, x = copy.deepcopy(model).to(precision), batch.x.to(precision).clone().requires_grad_()
    own = net(x).argmax(1)
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(x), own, reduction="sum"), x)
    ratios = []
    for image, sign, label in zip(x.detach(), gradient.sign(), own, strict=True):
        steps = torch.arange(1, round(EPS_MAX / GRID) + 1, dtype=precision).reshape(-1, 1, 1, 1)
        moved = (image + GRID * steps * sign).clamp(0, 1)
        changed = torch.where(net(moved).argmax(1) != label)[0]
        if len(changed):
            ratios.append(float((moved[changed[0]] - image).abs().max() / image.abs().max()))
    return float(np.mean(ratios))


def sensitivity(model: nn.Module, batch: Batch) -> dict[str, Any]:
    from art.metrics import loss_sensitivity as theirs  # pyright: ignore

    x, y = batch.x.numpy(), np.eye(10, dtype=np.float32)[batch.y.numpy()]
    seeds = torch.zeros_like(batch.y)
    ours, seconds = timed(lambda: LossSensitivity()(model, batch.x, batch.y, batch.x, seeds))
    peer, peer_seconds = timed(lambda: theirs(classifier(model, batch), x, y))
    summed = classifier(model, batch, "sum")
    gradients = summed.loss_gradient(x, y).reshape(len(x), -1).astype(np.float64)
    each = np.linalg.norm(gradients, axis=1)
    wide = batch.x.double().requires_grad_()
    losses = F.cross_entropy(copy.deepcopy(model).double()(wide), batch.y, reduction="sum")
    exact = torch.autograd.grad(losses, wide)[0].flatten(1).norm(dim=1).numpy()
    return {
        "ours": float(ours.mean()),
        "theirs": float(peer),
        "theirs, of sums": float(theirs(summed, x, y)),
        "seconds": [seconds, peer_seconds],
        "smallest of ours": float(ours.min()),
        "theirs 0": int((each == 0).sum()),
        "theirs off": int((np.abs(each - exact) > 0.1 * exact).sum()),
        "ours off by at most": float((np.abs(ours.numpy() - exact) / exact).max()),
    }


def scores(model: nn.Module, batch: Batch) -> dict[str, Any]:
    from art.metrics import metrics  # pyright: ignore

    ends = _Ends(metrics.weibull_min)
    metrics.weibull_min = ends
    np.random.seed(0)  # noqa: NPY002 - what the toolbox draws from
    settings = {"nb_batches": SCORE.batches, "batch_size": SCORE.batch_size, "pool_factor": SCORE.pool}
    estimator = classifier(model, batch)

    def theirs() -> list[float]:
        return [
            float(metrics.clever_u(estimator, image, radius=SCORE.radius, norm=2, verbose=False, **settings))
            for image in batch.x.numpy()
        ]

    peer, peer_seconds = timed(theirs)
    metrics.weibull_min = ends.distribution
    seeds = torch.arange(len(batch))
    found, seconds = timed(lambda: SCORE(model, batch.x, batch.y, batch.x, seeds).numpy())
    again = SCORE(model, batch.x, batch.y, batch.x, seeds + len(batch)).numpy()
    distance = DeepFool().run(model, batch.x, model(batch.x).argmax(1)).l2.numpy()
    return {
        "ours": float(found.mean()),
        "theirs": float(np.mean(peer)),
        "seconds": [seconds, peer_seconds],
        "each of ours": found.tolist(),
        "each of ours, again": again.tolist(),
        "each of theirs": peer,
        "each of DeepFool": distance.tolist(),
        "ends of theirs / maxima": ends.ratios,
    }


class _Ends:
    """The toolbox's distribution; notes each fitted end, as a multiple of the largest gradient that was fitted."""

    def __init__(self, distribution: Any) -> None:
        self.distribution, self.ratios = distribution, list[float]()

    def fit(self, data: np.ndarray, *settings: Any, **more: Any) -> Any:
        found = self.distribution.fit(data, *settings, **more)
        self.ratios.append(float(found[1] / data.min()))
        return found


def page(record: dict[str, Any]) -> str:
    fgsm, slope, clever = record["empirical robustness"], record["loss sensitivity"], record["CLEVER"]
    images, scored = record["images"], record["scored"]
    rows = (
        (f"empirical robustness, FGSM at {GRID}, {2 * GRID}, ..., {EPS_MAX}", images, fgsm),
        ("loss sensitivity", images, slope),
        (f"CLEVER, untargeted, L2, radius {SCORE.radius:g}", scored, clever),
    )
    ours, again, theirs = (np.array(clever[key]) for key in ("each of ours", "each of ours, again", "each of theirs"))
    nearest, ends = np.array(clever["each of DeepFool"]), np.array(clever["ends of theirs / maxima"])
    below, still, gone = (int(where.sum()) for where in (ends < 1, (ends >= 1) & (ends < 1.001), ends > 10))
    return f"""# Measures beside the Adversarial Robustness Toolbox

    make bench-measures DATA=folder

The model is {record["model"]}, the images are the first of MNIST's test set. Seconds are processor time of one run on
{record["hardware"]}, {record["date"]}; Steelman {record["versions"]["steelman"]}, {PEER}
{record["versions"][PEER]}, torch {record["versions"]["torch"]}. Numbers are means over the images.

| measure | images | ours | theirs | ours, s | theirs, s | theirs / ours |
|---|---|---|---|---|---|---|
{chr(10).join(_row(*row) for row in rows)}

**Empirical robustness** is our `form="code"`: over the images whose prediction has changed
({images - fgsm["failures"]} of {images} here), in the attack's own norm, Linf. A plain loop gives
{fgsm["by hand, float64"]:.6g} with gradients in float64, and {fgsm["by hand, float32"]:.6g} in float32: where the model
is sure, float32 loses the gradient's direction, and FGSM goes further than it has to. Our attacks do not lose it. Our
seconds are for a whole table, with all that a row holds.

**Loss sensitivity.** The toolbox differentiates the *mean* of the losses: every gradient is divided by the number of
images, and the result depends on how many are given. Times {images}, it is {images * slope["theirs"]:.6g}; of a
classifier with `CrossEntropyLoss(reduction="sum")` it is {slope["theirs, of sums"]:.6g}, and ours {slope["ours"]:.6g}.
The mean is made by a few images of which the model is unsure. Of single gradients, {slope["theirs off"]} of {images}
are off by more than a tenth of what float64 gives, {slope["theirs 0"]} of them 0: in float32, the softmax of a sure
model has few digits left. Ours, the smallest of which is {slope["smallest of ours"]:.2g}, are off by at most
{slope["ours off by at most"]:.1g} of it.

**CLEVER**, with {SCORE.batches} maxima of {SCORE.batch_size} points each, drawn from {SCORE.pool} times as many. The
points differ, so the scores do: image by image, ours are {_ratios(ours / theirs)} times theirs, and ours with another
seed {_ratios(again / ours)} times ours. The toolbox fits the distribution once, from the shape 1. Of its {len(ends)}
fits, {below} have their upper end below a gradient that went into them, {still} have it within a thousandth of the
largest, where the search has hardly moved, and {gone} more than ten times further, where it has diverged. We fit
as the authors of CLEVER do, and refuse an end below the largest gradient. DeepFool finds an adversarial image nearer
than the score for {int((nearest < ours).sum())} of {scored} images with ours, and for {int((nearest < theirs).sum())}
with theirs.
"""


def _row(name: str, images: int, row: dict[str, Any]) -> str:
    seconds, peer = row["seconds"]
    cells = (f"{row['ours']:.6g}", f"{row['theirs']:.6g}", f"{seconds:.2g}", f"{peer:.2g}", f"{peer / seconds:.1f}")
    return f"| {name} | {images} | {' | '.join(cells)} |"


def _ratios(ratios: np.ndarray) -> str:
    return f"{np.median(ratios):.3f} (median; {ratios.min():.3f} to {ratios.max():.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/evaluate_mnist_plain"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--scored", type=int, default=6, help="images that get a CLEVER score")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--hardware", default="hardware not told")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = Run.open(options.run)
    test = run.data("test", options.data_dir)
    model = run.network(test)
    batch = next(test.in_order(options.images))
    few = batch[slice(options.scored)]
    record = {
        "model": run.name,
        "images": len(batch),
        "scored": len(few),
        "hardware": options.hardware,
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("steelman", PEER, "torch")},
        "empirical robustness": robustness(model, batch),
        "loss sensitivity": sensitivity(model, batch),
        "CLEVER": scores(model, few),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "measures-beside-art.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "measures-beside-art.md").write_text(page(record))


if __name__ == "__main__":
    main()
