"""The batteries `standard` and `thorough` beside AutoAttack's own code: what each leaves, and at what cost.

`make evaluate DATA=folder ARGS="--runs RUNS"`: networks on MNIST, CIFAR-10 and Digits, none of them one on which
the thresholds of `CascadeAttack` were set. Those of papers are runs that `steelman reproduce survey` and its like have
trained into RUNS; one that is not there is left out, and the page says so. Those on Digits, some of which mask their
gradients, are tests/helpers/zoo's, with their weights.

All sides get the same network, images and thread, one after the other in one process. Every returned image is judged in
a fresh forward pass, inside box and ball. A pass is one image through the network, or one gradient back: of ours, those
that the table counts and one for each row, by which successes are verified; of AutoAttack's code, all that reach the
network. Finished networks are kept in RUNS/evaluate, so that a run that was stopped goes on.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steelman.checkup import checkup
from steelman.data import Digits
from steelman.data.dataset import Dataset
from steelman.data.sample import sampled
from steelman.evaluation import evaluate
from steelman.evaluation.battery import Battery, named_battery
from steelman.experiments.run import Run
from steelman.measures.accuracies import clean_accuracy, still_correct
from steelman.measures.audits import audits, suspicions
from steelman.measures.chance import mid_p
from steelman.norms import L2, Linf, Norm
from steelman.table import Evaluation

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "helpers"))

BATCH = 250
"""AutoAttack's default, and ours."""
MANY = 350
"""From so many images on that are left, 60 of them are audited."""
SIDES = ("standard", "thorough", "AutoAttack")


@dataclass(frozen=True)
class Case:
    """A network and how it is attacked.

    run  of a trained network, or of the zoo "zoo NAME"
    """

    title: str
    run: str
    norm: Norm
    eps: float
    images: int


CASES = (
    Case("PGD, CNN, Digits", "zoo pgd_cnn", Linf, 0.15, 120),
    Case("TRADES, MLP, Digits", "zoo trades", Linf, 0.15, 120),
    Case("PGD in L2, CNN, Digits", "zoo l2_trained", L2, 0.8, 100),
    Case("k-winners, Digits", "zoo kwta", Linf, 0.15, 100),
    Case("one bit a pixel, Digits", "zoo bit_depth", Linf, 0.15, 60),
    Case("noise, CNN, Digits", "zoo gaussian", Linf, 0.05, 60),
    Case("PGD, MLP, Digits", "zoo pgd_mlp", Linf, 0.15, 60),
    Case("bounded ReLU, Digits", "zoo bounded_relu", Linf, 0.05, 60),
    Case("PGD, CNN, Digits", "zoo pgd_cnn", Linf, 0.1, 500),
    Case("TRADES, MLP, Digits", "zoo trades", Linf, 0.1, 500),
    Case("PGD in L2, CNN, Digits", "zoo l2_trained", L2, 0.4, 500),
    Case("noise, CNN, Digits", "zoo gaussian", Linf, 0.05, 500),
    Case("PGD, CNN, MNIST", "survey_mnist_pgd-hour", Linf, 0.2, 100),
    Case("TRADES, CNN, MNIST", "survey_mnist_trades-beta1-hour", Linf, 0.2, 100),
    Case("MMA, CNN, MNIST", "survey_mnist_mma-hour", Linf, 0.2, 100),
    Case("PGD in Linf, CNN, MNIST", "survey_mnist_pgd-hour", L2, 2.0, 100),
    Case("distillation, CarliniNet, MNIST", "distillation_mnist_carlini-hour", Linf, 0.1, 100),
    Case("YOPO, SmallCNN, MNIST", "yopo-5-10_mnist_smallcnn-hour", Linf, 0.3, 100),
    Case("PGD in L2, ConvPoolCNN, CIFAR-10", "pgd-l2_cifar10_convpool-hour", L2, 0.25, 100),
    Case("PGD, ResNet-20, CIFAR-10", "evaluate_cifar10_resnet20", Linf, 4 / 255, 60),
)
"""From those that cost least."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the networks are")
    parser.add_argument("--only", nargs="*", default=[], help="runs to take alone, by their names")
    parser.add_argument("--images", type=int, help="of each network (default: as in the page)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/standard", help="without a suffix")
    parser.add_argument("--hardware", default="one core of an x86-64 machine", help="what the page says it was run on")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows, absent = [], []
    for case in CASES:
        there = case.run.startswith("zoo ") or (chosen.runs / case.run).is_dir()
        if not there or (chosen.only and case.run not in chosen.only):
            absent.append(f"{case.title} ({case.norm})")
            continue
        rows.append(_measured(case, chosen))
        print(json.dumps(rows[-1]), flush=True)
    found = {
        "command": "python -m benchmarks.evaluate --data-dir DATA --runs RUNS",
        "date": date.today().isoformat(),
        "hardware": chosen.hardware,
        "torch": torch.__version__,
        "absent": absent,
        "networks": rows,
    }
    chosen.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    chosen.out.with_suffix(".md").write_text(page(found))


def _measured(case: Case, chosen: argparse.Namespace) -> dict[str, Any]:
    """One network's row; kept, so that a run that was stopped goes on with the next network."""
    count = chosen.images or case.images
    kept = chosen.runs / "evaluate" / f"{case.run.replace(' ', '-')}-{case.norm}-{case.eps:g}-{count}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    model, test = _network(case, chosen, count)
    warned = _warned(model, test, case.norm, case.eps)
    batch = next(test.batches([torch.arange(len(test))]))
    row: dict[str, Any] = {"title": case.title, "norm": str(case.norm), "eps": case.eps, "images": len(test)}
    row["warned"] = warned
    standing = dict[str, np.ndarray]()
    for name in ("standard", "thorough"):
        table, seconds = timed(lambda name=name: _ours(model, test, named_battery(name, norm=case.norm, eps=case.eps)))
        standing[name] = still_correct(table, case.norm, case.eps)
        passes = int(table["forwards"].sum() + table["gradients"].sum()) + len(table)
        row[name] = {"standing": int(standing[name].sum()), "passes": passes, "seconds": seconds}
        if name == "standard":
            row["clean"] = clean_accuracy(table).value
            row["suspicions"] = suspicions(table)
            row["audit"] = [(each.sampled, each.standing, each.at_most) for each in audits(table)]
    (x_adv, passes), seconds = timed(lambda: _theirs(model, batch.x, batch.y, case))
    standing["AutoAttack"] = _standing(model, batch.x, batch.y, x_adv, case)
    row["AutoAttack"] = {"standing": int(standing["AutoAttack"].sum()), "passes": passes, "seconds": seconds}
    ours = standing["standard"]
    for name in SIDES[1:]:
        only = int((~ours & standing[name]).sum()), int((ours & ~standing[name]).sum())
        row[name] |= {"only ours": only[0], "only theirs": only[1], "p": mid_p(*only)}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(row, indent=1))
    return row


def _network(case: Case, chosen: argparse.Namespace, count: int) -> tuple[nn.Module, Dataset]:
    if case.run.startswith("zoo "):
        from zoo import ENTRIES

        return ENTRIES[case.run.removeprefix("zoo ")].build().eval(), sampled(Digits().load("test"), count)
    run = Run.open(chosen.runs / case.run)
    test = run.data("test", chosen.data_dir)
    return run.network(test).eval(), test.subset(torch.arange(count))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What came of it, and the seconds of this thread."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def _ours(model: nn.Module, test: Dataset, battery: Battery) -> Evaluation:
    """As `steelman evaluate`, without the attacks that are made for a suspected model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gradients that are zero, which is what some networks are here for
        norm, eps = next(each.budget for each in battery.attacks.values() if each.budget is not None)
        suspected = bool(battery.suspicion) and _warned(model, test, norm, float(eps))
        how: dict[str, Any] = {"survivors_only": True, "batch_size": BATCH, "progress": False}
        return evaluate(model, test, battery.attacks, **battery.afterwards, suspected=suspected, **how)


def _warned(model: nn.Module, test: Dataset, norm: Norm, eps: float) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(checkup(model, test, norm=norm, eps=eps).warnings)


class Counted(nn.Module):
    """A network that counts the images that pass it, and the gradients that come back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.passes = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x)
        logits = self.network(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, slope: Tensor) -> None:
        self.passes += len(slope)


def _theirs(model: nn.Module, x: Tensor, y: Tensor, case: Case) -> tuple[Tensor, int]:
    from pyautoattack import AutoAttack  # pyright: ignore

    counted = Counted(model).eval()
    attack = AutoAttack(counted, norm=str(case.norm), eps=case.eps, version="standard", seed=0, device="cpu")
    x_adv = attack.run_standard_evaluation(x, y, batch_size=BATCH)[0]
    return x_adv, counted.passes


def _standing(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, case: Case) -> np.ndarray:
    """Which images are still right; raises where one has left the box or the ball."""
    sizes = case.norm.size(x_adv.double() - x.double())
    if x_adv.min() < 0 or x_adv.max() > 1 or float(sizes.max()) > case.eps * (1 + 1e-5):
        raise RuntimeError("AutoAttack's own code has left the box or the ball")
    with torch.no_grad():
        return ((model(x).argmax(1) == y) & (model(x_adv).argmax(1) == y)).numpy()


def page(found: dict[str, Any]) -> str:
    """The figures as a page."""
    rows = found["networks"]
    absent = f" Not measured: {'; '.join(found['absent'])}." if found["absent"] else ""
    lines = [
        "# The batteries beside AutoAttack's own code",
        "",
        f"{found['date']}, `{found['command']}` (`make evaluate`): {found['hardware']}, one thread, PyTorch "
        f"{found['torch']}. No network here is one of those on which the thresholds of `standard` were set; that few "
        "higher margins of Square are tried again before they are suspicious follows from TRADES, MLP. AutoAttack's "
        "code is pyautoattack's 0.2.0, version `standard`. All were asked for the worst case alone, on the same "
        f"images, one after the other in one process.{absent}",
        "",
        "| trained by, network, data | threat | images | right unattacked | left by standard | thorough | AutoAttack "
        "| broken by standard only : by thorough only | by standard only : by AutoAttack only |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        left = " | ".join(str(row[side]["standing"]) for side in SIDES)
        pairs = [f"{row[side]['only ours']} : {row[side]['only theirs']}" for side in SIDES[1:]]
        lines.append(
            f"| {row['title']} | {row['norm']} {row['eps']:g} | {row['images']} | {100 * row['clean']:.1f} % | {left} "
            f"| {pairs[0]} | {pairs[1]} |"
        )
    lines += [
        "",
        "A pass is one image through the network, or one gradient back. What followed on `standard`: the audit's "
        "sample, and how many more of the images that are left would fall to Square at most, with 95 %; or what made "
        "gradients suspicious, so that all of `thorough` was run on them.",
        "",
        "| trained by, network, data | threat | passes in 1,000: standard | thorough | AutoAttack "
        "| AutoAttack : standard | seconds: standard | thorough | AutoAttack | what followed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        passes = " | ".join(f"{row[side]['passes'] / 1000:.0f}" for side in SIDES)
        seconds = " | ".join(f"{row[side]['seconds']:.0f}" for side in SIDES)
        times = row["AutoAttack"]["passes"] / row["standard"]["passes"]
        lines.append(
            f"| {row['title']} | {row['norm']} {row['eps']:g} | {passes} | {times:.1f} | {seconds} | {_followed(row)} |"
        )
    lines += ["", *_sentences(rows)]
    return "\n".join(lines) + "\n"


def _followed(row: dict[str, Any]) -> str:
    if row["audit"]:
        ((sampled, standing, most),) = row["audit"]
        return f"{sampled} of {standing}: at most {most}"
    return " ".join(row["suspicions"]) or ("the check-up warned" if row["warned"] else "all were audited")


def _sentences(rows: list[dict[str, Any]]) -> list[str]:
    """What the tables show, counted."""
    no_more = sum(row["standard"]["standing"] <= row["AutoAttack"]["standing"] for row in rows)
    differ = sum(row["thorough"]["p"] < 0.05 for row in rows)
    quiet = [row for row in rows if not (row["suspicions"] or row["warned"])]
    times = [row["AutoAttack"]["passes"] / row["standard"]["passes"] for row in quiet if _left(row) >= MANY]
    few = [_at_400(row) for row in quiet if _left(row) < MANY]
    return [
        f"`standard` left no more images than AutoAttack's code on {no_more} of {len(rows)} rows. It differs from "
        f"`thorough` by more than chance (mid-p McNemar, 5 %) on {differ}.",
        "",
        "An audit of 60 images costs the same however many are left, so the more these are, the more is saved. "
        f"{_saved(times)}By arithmetic from these counts, on the {len(few)} other rows without a suspicion "
        f"AutoAttack's code would take {min(few):.1f} to {max(few):.1f} times the passes of `standard` where 400 "
        "images are left; this was not run.",
    ]


def _left(row: dict[str, Any]) -> int:
    return row["standard"]["standing"]


def _saved(times: list[float]) -> str:
    if not times:
        return ""
    between = f"{min(times):.1f} to {max(times):.1f}" if len(times) > 1 else f"{times[0]:.1f}"
    return (
        f"Where `standard` left {MANY} images or more and suspected nothing, AutoAttack's code took {between} times "
        f"its passes ({len(times)} of the rows). "
    )


def _at_400(row: dict[str, Any]) -> float:
    """AutoAttack's passes over those of `standard`, were 400 images like these left, of which 60 are audited."""
    left, query = row["standard"]["standing"], 5001
    audited = row["audit"][0][0] if row["audit"] else left
    ours = (row["standard"]["passes"] - audited * query) / left + 60 * query / 400
    return row["AutoAttack"]["passes"] / left / ours


if __name__ == "__main__":
    main()
