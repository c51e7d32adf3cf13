"""Our attacks beside those of adv-lib, Foolbox and torchattacks, in one run on one LeNet, with equal settings.

    python benchmarks/attacks.py --data-dir DATA --markdown docs/benchmarks.md

Each round runs every library once, one after the other; seconds are medians over the rounds, ratios are medians of the
rounds' ratios, so that a busy machine slows all of them alike. The network's parameters want no gradient, so that no
library computes gradients that nobody reads. Every result is clipped to [0, 1] and judged here, by one forward pass.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import textwrap
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelman import FGSM, PGD, CarliniWagner, DeepFool, Plain, fit
from steelman.data import MNIST
from steelman.networks import LeNet
from steelman.training import Training

Run = Callable[[nn.Module, Tensor, Tensor], Tensor]

EPS, STEPS, STEP = 0.2, 40, 0.01
PART = {("DeepFool", "Foolbox"): 5, ("DeepFool", "torchattacks"): 10}
"""So much slower that this part of the images is enough to know their speed."""

SEARCH = {"search_steps": 5, "steps": 200, "c": 1e-2}


class Counting(nn.Module):
    """Counts the images that pass forwards and backwards; the same for every library."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.gradients = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._count(len(gradient)))
        return logits

    def _count(self, images: int) -> None:
        self.gradients += images


def ours() -> dict[str, Run]:
    return {
        "FGSM": FGSM(eps=EPS),
        "PGD": PGD(eps=EPS, steps=STEPS, step_size=STEP),
        "DeepFool": DeepFool(steps=50),
        "Carlini-Wagner": CarliniWagner(**SEARCH, second_look=False),
    }


def adv_lib() -> dict[str, Run]:
    # adv_lib.attacks imports all its attacks, and one of those we do not run needs torchvision, which has no build for
    # every torch. So its modules are imported one by one.
    spec = importlib.util.find_spec("adv_lib")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("adv-lib is not installed")
    try:
        importlib.import_module("adv_lib.attacks")
    except Exception:
        for name in [name for name in sys.modules if name.startswith("adv_lib")]:
            del sys.modules[name]
        package = types.ModuleType("adv_lib.attacks")
        package.__path__ = [str(Path(spec.submodule_search_locations[0]) / "attacks")]
        sys.modules["adv_lib.attacks"] = package
    from adv_lib.attacks.carlini_wagner.l2 import carlini_wagner_l2  # pyright: ignore
    from adv_lib.attacks.deepfool import df  # pyright: ignore
    from adv_lib.attacks.projected_gradient_descent import pgd_linf  # pyright: ignore

    def pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return pgd_linf(model, x, y, ε=EPS, steps=STEPS, absolute_step_size=STEP)

    def carlini_wagner(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return carlini_wagner_l2(
            model, x, y, initial_const=SEARCH["c"], binary_search_steps=5, max_iterations=SEARCH["steps"]
        )

    return {
        "PGD": pgd,
        "DeepFool": lambda model, x, y: df(model, x, y, steps=50, return_unsuccessful=True),
        "Carlini-Wagner": carlini_wagner,
    }


def foolbox() -> dict[str, Run]:
    import foolbox as fb  # pyright: ignore

    def run(attack: Any, epsilon: float | None) -> Run:
        def go(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            wrapped = fb.PyTorchModel(model, bounds=(0, 1), device="cpu")
            x_adv = attack.run(
                wrapped, x, fb.criteria.Misclassification(y), **({"epsilon": epsilon} if epsilon else {})
            )
            found = x_adv.flatten(1).any(1)  # its Carlini-Wagner returns a black image where it found nothing
            return torch.where(found[:, None, None, None], x_adv, x)

        return go

    attacks = fb.attacks
    return {
        "FGSM": run(attacks.LinfFastGradientAttack(), EPS),
        "PGD": run(attacks.LinfProjectedGradientDescentAttack(abs_stepsize=STEP, steps=STEPS), EPS),
        "DeepFool": run(attacks.L2DeepFoolAttack(steps=50), None),
        "Carlini-Wagner": run(
            attacks.L2CarliniWagnerAttack(binary_search_steps=5, steps=SEARCH["steps"], initial_const=SEARCH["c"]),
            None,
        ),
    }


def torchattacks() -> dict[str, Run]:
    import torchattacks as ta  # pyright: ignore

    def run(kind: Any, **settings: Any) -> Run:
        return lambda model, x, y: kind(model, **settings)(x, y)

    return {
        "FGSM": run(ta.FGSM, eps=EPS),
        "PGD": run(ta.PGD, eps=EPS, alpha=STEP, steps=STEPS),
        "DeepFool": run(ta.DeepFool, steps=50),
        # No search over c: one run of as many passes, with the c that its documentation has.
        "Carlini-Wagner": run(ta.CW, c=1, steps=SEARCH["search_steps"] * SEARCH["steps"], lr=0.01),
    }


def trained(data_dir: Path | None, cache: Path) -> nn.Module:
    """LeNet after two epochs of MNIST, kept in `cache`."""
    model, weights = LeNet(), cache / "attacks_lenet.pt"
    if weights.exists():
        model.load_state_dict(torch.load(weights, weights_only=True))
    else:
        torch.manual_seed(0)
        fit(model, MNIST().load("train", data_dir), Plain(), Training(epochs=2))
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), weights)
    return model.eval().requires_grad_(False)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def pass_seconds(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Seconds of one bare forward pass without a graph, and of one gradient pass."""

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def both() -> None:
        image = x.detach().requires_grad_()
        torch.autograd.grad(model(image).logsumexp(1).sum(), image)

    turns = [(timed(forward)[1], timed(both)[1]) for _ in range(5)]
    alone, together = (statistics.mean(column) for column in zip(*turns, strict=True))
    return alone, together - alone


def measure(name: str, libraries: dict[str, Run], model: nn.Module, x: Tensor, y: Tensor, rounds: int) -> list[dict]:
    seconds: dict[str, list[float]] = {library: [] for library in libraries}
    floors: list[float] = []
    rows: dict[str, dict[str, Any]] = {}
    for turn in range(rounds):
        order = list(libraries)
        for library in order[turn % len(order) :] + order[: turn % len(order)]:
            if turn and seconds[library][0] > 5 * seconds["Steelman"][0]:
                continue  # too slow to wait for again
            run, counting, share = libraries[library], Counting(model).eval(), PART.get((name, library), 1)
            clean, labels = x[: len(x) // share], y[: len(x) // share]
            torch.manual_seed(turn)
            x_adv, spent = timed(lambda: run(counting, clean.clone(), labels.clone()))  # noqa: B023 (called at once)
            seconds[library].append(spent * share)
            x_adv = x_adv.detach().clamp(0, 1)
            with torch.no_grad():
                won = model(x_adv).argmax(1) != labels
            size = (x_adv - clean).flatten(1).norm(dim=1)
            attacked = won & (size > 0)
            rows[library] = {
                "attack": name,
                "library": library,
                "images": len(clean),
                "success": float(won.double().mean()),
                "median L2": float(size[attacked].median()),
                "forward passes": counting.forwards / len(clean),
                "gradient passes": counting.gradients / len(clean),
            }
            print(f"{name:15} {library:13} {spent * share:8.2f} s", file=sys.stderr, flush=True)
        forward, gradient = pass_seconds(model, x)
        mine = rows["Steelman"]
        floors.append(mine["forward passes"] * forward + mine["gradient passes"] * gradient)
    for library, row in rows.items():
        row["seconds"] = statistics.median(seconds[library])
        row["ratio"] = statistics.median(
            other / own for other, own in zip(seconds[library], seconds["Steelman"], strict=False)
        )
    floor = [own / bare for own, bare in zip(seconds["Steelman"], floors, strict=True)]
    rows["Steelman"]["over floor"] = statistics.median(floor)
    return list(rows.values())


def markdown(rows: list[dict], about: dict[str, Any], command: str) -> str:
    peers = ", ".join(f"{name} {version}" for name, version in about["peers"].items())
    ground = (
        f"{about['date']}, `{command}`: LeNet after two epochs of MNIST ({about['accuracy']:.1%} right on the test "
        f"images used here), {about['hardware']}, {about['threads']} thread(s), torch {about['torch']}; {peers}. "
        f"Libraries take turns, {about['rounds']} rounds of {about['images']} images, for Carlini-Wagner a tenth; "
        "a library five times slower than ours has one round. The machine does other work too: ratios say more than "
        "seconds."
    )
    page = f"""# Benchmarks

## Attacks beside peers

{textwrap.fill(ground, 118, break_on_hyphens=False)}

| attack | library | seconds | ratio to ours | success | median L2 | forward | gradient passes | over floor |
|---|---|--:|--:|--:|--:|--:|--:|--:|
"""
    for row in rows:
        over = f"{row['over floor']:.2f}" if "over floor" in row else ""
        page += (
            f"| {row['attack']} | {row['library']} | {row['seconds']:.2f} | {row['ratio']:.2f} | {row['success']:.1%} "
            f"| {row['median L2']:.3f} | {row['forward passes']:.1f} | {row['gradient passes']:.1f} | {over} |\n"
        )
    return f"""{page}
- *Ratio*: the library's seconds over ours, the median over the rounds; above 1, we are faster.
- *Success*: images whose class differs from the label, those that were wrong to begin with among them.
- *Median L2*: of the successes that were moved. *Passes*: images through the network, per image attacked.
- *Over floor*: our seconds over those of a bare loop of as many forward and gradient passes.

Settings: FGSM and PGD Linf with eps {EPS}; PGD {STEPS} steps of {STEP} from a random start; DeepFool L2, at most 50
steps, overshoot .02, all ten classes; Carlini-Wagner L2, {SEARCH["search_steps"]} search steps of at most
{SEARCH["steps"]} iterations, first constant {SEARCH["c"]}, learning rate .01, early abort.

What could not be set equal:

- adv-lib has no FGSM. Its PGD returns a successful iterate, and the clean image where none succeeded; the others
  return the last iterate.
- DeepFool: ours linearises at x + r, as the paper does; the peers linearise at the overshot point, so that their
  overshoot is a fiftieth of the last step, and ours of all steps: up to 2 % of the norm. adv-lib and Foolbox lengthen
  every step by 1e-4 of distance. All clip. Foolbox was given a fifth of the images and torchattacks, which goes
  image by image, a tenth: their seconds are scaled to all, their medians are of other images than ours.
- Carlini-Wagner: ours runs without its second look, which no peer has. We abort image by
  image, adv-lib when all images stall, Foolbox when their sum does. Foolbox returns a
  black image where it finds nothing; here that is no success. torchattacks has no search over the constant: one run of
  as many iterations with its default c = 1, which its own rule may abort.
- adv-lib imports torchvision for an attack that is not run here; where torchvision is missing, its modules are imported
  one by one.
"""


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("adv-lib", "foolbox", "torchattacks")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's files; default STEELMAN_DATA, then a cache")
    parser.add_argument("--images", type=int, default=1000, help="Carlini-Wagner has a tenth of them")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attacks", nargs="*", default=["FGSM", "PGD", "DeepFool", "Carlini-Wagner"])
    parser.add_argument("--cache", type=Path, default=Path("temp"), help="where the trained network is kept")
    parser.add_argument("--hardware", default="unnamed processor", help="for the page")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)

    model = trained(options.data_dir, options.cache)
    test = MNIST().load("test", options.data_dir)
    batch = next(iter(test.batches([torch.arange(options.images)])))
    with torch.no_grad():
        accuracy = float((model(batch.x).argmax(1) == batch.y).double().mean())
    libraries: dict[str, dict[str, Run]] = {"Steelman": ours()}
    for name, load in (("adv-lib", adv_lib), ("Foolbox", foolbox), ("torchattacks", torchattacks)):
        libraries[name] = load()
    rows = []
    for attacks in libraries.values():  # warm up
        attacks["PGD"](model, batch.x[:10], batch.y[:10])
    for attack in options.attacks:
        images = options.images // 10 if attack == "Carlini-Wagner" else options.images
        runs = {name: attacks[attack] for name, attacks in libraries.items() if attack in attacks}
        rows += measure(attack, runs, model, batch.x[:images], batch.y[:images], options.repeats)
    about = {
        "date": options.date,
        "accuracy": accuracy,
        "hardware": options.hardware,
        "threads": options.threads,
        "torch": torch.__version__,
        "peers": versions(),
        "rounds": options.repeats,
        "images": options.images,
    }
    page = markdown(rows, about, "python benchmarks/attacks.py")
    print(page)
    if options.markdown:
        options.markdown.write_text(page)
    if options.json:
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
