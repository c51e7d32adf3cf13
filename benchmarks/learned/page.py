"""docs/results/learned-figures.md and its pictures, from the figures' data; what is written by hand stays."""

from pathlib import Path
from typing import Any

from benchmarks.learned import networks
from benchmarks.learned.strength import EPS, against, line

from steelman.evaluation.draws import STEP
from steelman.measures import Axis, Line, Measure, Point, robustness_curve
from steelman.report import draw, lines_chart, robustness_chart, save_figure
from steelman.report.plots import panels

BEGIN, END = "<!-- written by `make learned-figures` -->", "<!-- end -->"
RHO_CW = "rho_cw, mean L2 norm of C&W"
TITLES = {"l2lda": "L2L-DA training", "pgd-10": "PGD-10 training"}


def write_page(found: dict[str, Any], out: Path) -> None:
    """The part between the marks, and the pictures, beside `out`."""
    page = out.with_suffix(".md")
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Learned adversaries: figures\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    parts = [write(found, out.parent) for key, write in PARTS.items() if key in found]
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def strength_part(found: dict[str, Any], folder: Path) -> str:
    victims: dict[str, Any] = found["strength"]
    all_axes = panels(len(victims))
    lines = ["| classifier | c of PGN | mean norm | PGN | FGM there | PGD there |", "|---|---:|---:|---:|---:|---:|"]
    for axes, (victim, methods) in zip(all_axes, victims.items(), strict=True):
        figure = draw(lines_chart({method: line(points) for method, points in methods.items()}), axes)
        axes.set_title(f"{victim}-trained")
        for each in against(methods):
            others = " | ".join("" if each[m] is None else f"{100 * each[m]:.1f}" for m in ("FGM", "PGD"))
            lines.append(f"| {victim} | {each['c']:g} | {each['norm']:.2f} | {100 * each['accuracy']:.1f} | {others} |")
    save_figure(figure, folder / "learned-strength.png")
    told = found["told"]["strength"]
    return (
        "## Strength of FGM, PGD and PGN attacks (PGN's figure 3)\n\n"
        f"Two ConvPool-CNNs of width {networks.WIDTH}, trained with FGM and with PGD-10 in L2 at eps {EPS:g} for "
        f"{told['iterations']} batches of {networks.BATCH}, and frozen. FGM and PGD are run at several radii; PGN's "
        f"generator (width {networks.GENERATOR_WIDTH}) is trained for {told['generator iterations']} batches on each "
        "classifier for each c. *There* is the straight line between two radii, at PGN's mean norm.\n\n"
        "What differs: the paper's classifiers are of width 64, of CIFAR-100, with eps .5 and 200 epochs; its rates "
        f"are 5e-4 and its average decays by .998, where these are {networks.RATE:g} and {networks.EMA:g}; its "
        f"gradient images are scaled by 1/128, these by {networks.SCALE:g}. Distances in MNIST are larger, so c is "
        "smaller.\n\n"
        "![accuracy against mean norm](learned-strength.svg)\n\n" + "\n".join(lines) + _signed(told)
    )


def curve_part(found: dict[str, Any], folder: Path) -> str:
    points: list[dict[str, Any]] = list(found["curve"].values())
    lines = ["| training | clean | rho_cw | median | not found |", "|---|---:|---:|---:|---:|"]
    models: dict[str, dict[str, dict[str, Measure]]] = {}
    methods = list(dict.fromkeys(each["method"] for each in points))
    for each in sorted(points, key=lambda each: (methods.index(each["method"]), each["clean"])):
        low, high = each["rho_cw interval"]
        measures = {
            "clean accuracy": Measure(each["clean"], *each["clean interval"], each["images"]),
            RHO_CW: Measure(each["rho_cw"], low, high, each["images"], "length", each["failures"]),
        }
        models.setdefault(each["method"], {})[f"{each['strength']:g}"] = measures
        lines.append(
            f"| {each['name']} | {100 * each['clean']:.1f} | {each['rho_cw']:.2f} [{low:.2f}, {high:.2f}] | "
            f"{each['median']:.2f} | {each['failures']} of {each['images']} |"
        )
    curves = {method: robustness_curve(found, RHO_CW) for method, found in models.items()}
    save_figure(draw(robustness_chart(curves)), folder / "learned-curve.png")
    told = found["told"]["curve"]
    return (
        "## Robustness curve (PGN's figures 5 and 7)\n\n"
        f"One point for each training of a ConvPool-CNN of width {networks.WIDTH}, {told['iterations']} batches of "
        f"{networks.BATCH}; the number is the radius, or PGN's c. Clean accuracy is of all test images. rho_cw is the "
        "mean L2 norm of Carlini and Wagner's attack (100 steps, 5 search steps) over those of a few test images that "
        "it moved to a wrong class, natural errors counting as 0 as in PGN's code. Settings are those of the figure "
        "above.\n\n"
        "![rho_cw against clean accuracy](learned-curve.svg)\n\n" + "\n".join(lines) + _signed(told)
    )


def steps_part(found: dict[str, Any], folder: Path) -> str:
    classifiers: dict[str, Any] = found["steps"]
    all_axes = panels(len(classifiers))
    lines = [
        "| classifier | attack | largest loss at the end | deviation | accuracy: best, mean, worst draw | all draws |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for axes, (classifier, attacks) in zip(all_axes, classifiers.items(), strict=True):
        title = TITLES.get(classifier.removeprefix("learned_mnist_"), classifier)
        figure = draw(lines_chart({attack: _losses(each) for attack, each in attacks.items()}), axes)
        axes.set_title(title)
        for attack, each in attacks.items():
            shares = ", ".join(f"{100 * each[key]:.1f}" for key in ("best", "mean accuracy", "worst"))
            lines.append(
                f"| {title} | {attack} | {each['largest'][-1]:.3f} | {each['deviation'][-1]:.3f} | {shares} | "
                f"{100 * each['worst case']:.1f} |"
            )
    save_figure(figure, folder / "learned-steps.png")
    one = next(iter(next(iter(classifiers.values())).values()))
    return (
        "## Loss at every step (L2L-DA's figure 2)\n\n"
        f"{one['draws']} draws for each of {one['images']} test images: L2L-DA draws z, PGD its random start; steps "
        "are as many and as long. Lines are each step's mean over the images of the largest loss over the draws, bars "
        "the mean of the standard deviation over the draws. The paper's lines end at about 1.64 (classifier of L2L-DA) "
        "and 1.90 (of PGD).\n\n"
        "![loss at every step](learned-steps.svg)\n\n" + "\n".join(lines) + _signed(found["told"]["steps"])
    )


PARTS = {"strength": strength_part, "curve": curve_part, "steps": steps_part}


def _losses(each: dict[str, Any]) -> Line:
    """The mean of the largest losses at each step, with the deviation."""
    pairs = enumerate(zip(each["largest"], each["deviation"], strict=True))
    points = (Point(float(step), loss, loss - by, loss + by) for step, (loss, by) in pairs)
    return Line(tuple(points), STEP, Axis("cross-entropy"))


def _signed(told: dict[str, Any]) -> str:
    return f"\n\n{told['hardware']}, {told['date']}."
