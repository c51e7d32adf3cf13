"""docs/benchmarks.md, from the stored figures alone."""

import statistics
import textwrap
from typing import Any

from benchmarks.battery.measure import Cell
from benchmarks.battery.networks import NETWORKS
from benchmarks.battery.peers import LIBRARIES, OURS
from benchmarks.battery.rows import ROWS, Row
from benchmarks.battery.store import Store
from benchmarks.battery.verdict import correct, falls_short, figures, twice_as_fast

COLUMNS = (
    *("attack", "library", "images", "success", "median", "mean", "margin"),
    *("forward", "gradient", "ms", "ratio", "over floor"),
)

NOTES = """\
- *Success*: images whose class differs from the label (for JSMA: is the target), those that were wrong to begin with
  among them. A perturbation longer than eps is none. *Median*: of the attack's own norm over all images that were right
  to begin with, a failure counting as infinite. *Mean*: over the successes. *Margin* (bounded attacks): the highest
  other logit minus the label's, on average over what was returned; attacks that leave at the first success stop there.
- *Forward*, *gradient*: images through the network per image attacked. *ms*: milliseconds per image.
- *Ratio*: the library's time over ours, the median over the rounds; above 1, we are faster. A library five times slower
  than ours has one round. *Over floor*: our time over that of a bare loop of as many forward and gradient passes.
- Peers are compared with ours on the images that they had. A peer counts as correct where affine models (table below)
  say so. Minimal attacks: 99 % found, and the median at most 1.05 times the optimum (L2, Linf) or 1.1 (L0, L1). Bounded
  ones: at least .85 of what the best library finds (chance has its part), and nothing outside the ball.
"""

UNEQUAL = """\
What could not be set equal:

- adv-lib's PGD and APGD return a successful iterate, and its PGD the clean image where none succeeded; PGD of the
  others returns the last iterate. Its DDN was given no rounding to 256 levels. Where torchvision is missing, its
  modules are imported one by one.
- DeepFool: ours linearises at x + r, as the paper does; the peers linearise at the overshot point, so that their
  overshoot is a fiftieth of the last step, and ours of all steps: up to 2 % of the norm. All clip.
- Carlini-Wagner L2: ours begins at DeepFool's answer, as is its default, the peers at the image; from there tanh with
  so few steps hardly moves pixels that are black or white. torchattacks has no search over the constant:
  one run of as many iterations with its default c = 1. Foolbox returns a black image where it finds nothing; here that
  is no success. ART halves and doubles the constant besides.
- PGD L1: CleverHans has sparse descent (1 % of the entries per step) only.
- DDN, FMN, ALMA, Sigma-zero: start at the linearised boundary and polish count among our gradient passes.
- APGD-T: images that are done leave, in ours at once, in the peers before the next target.
- FAB-T: AutoAttack's own stops at the first target within eps; here its single runs are joined, the nearest kept.
- AutoAttack's ensemble in ART is another one: APGD on two losses, DeepFool and Square. torchattacks' APGD-T and Square
  within it have their library's defaults of steps.
- VAT: ART wants probabilities, so it was given a softmax on top, and takes finite differences pixel by pixel.
- Universal: one perturbation for all; both had the images it is judged on. ART goes image by image.
- Boundary: ART was given a tenth of the steps, since each of its steps has 25 trials of up to 20 samples.
- Salt and pepper, boundary, HopSkipJump: what counts as a step differs from library to library; see the passes.
"""


def page(store: Store) -> str:
    about = store.about
    parts = [f"# Benchmarks\n\n## Attacks beside peers\n\n{_wrap(_ground(about))}\n"]
    parts.append(f"### Where ours falls short\n\n{_bullets(falls_short(store, ROWS))}\n")
    parts.append(f"### At least twice as fast on the plain LeNet?\n\n{_bullets(twice_as_fast(store, ROWS))}\n")
    parts.append(f"### How to read the tables\n\n{NOTES}\n{UNEQUAL}")
    parts += [_network(store, name) for name in NETWORKS if name in about]
    parts.append(_affine(store))
    parts.append("### Settings\n\n" + _bullets([f"{row.name}: {row.settings}." for row in ROWS if row.settings]))
    problems = [f"{key.replace('|', ', ')}: {cell['error']}" for key, cell in store.cells.items() if "error" in cell]
    if problems:
        parts.append(f"### What did not run\n\n{_bullets(problems)}\n")
    return "\n".join(parts)


def _ground(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if name != OURS)
    return (
        f"{about['date']}, `{about['command']}`: {about['hardware']}, {about['threads']} thread(s), torch "
        f"{about['torch']}; {versions}. Libraries take turns, {about['rounds']} rounds on the plain LeNet and one on "
        f"the other networks, {about['images']} images at most (fewer for slow attacks: see the column). "
        + ("Seconds are the thread's own." if about["threads"] == 1 else "Seconds are those of the wall.")
    )


def _wrap(text: str) -> str:
    return textwrap.fill(text, 118, break_on_hyphens=False, break_long_words=False)


def _bullets(lines: list[str]) -> str:
    return "".join(
        textwrap.fill(line, 118, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False) + "\n"
        for line in lines
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None or value == float("inf") else f"{value:.{digits}f}"


def _network(store: Store, network: str) -> str:
    here = store.about[network]
    radii = ", ".join(f"{norm} {value:.4g}" for norm, value in here["radii"].items())
    lines = [
        f"### {network[0].upper()}{network[1:]}\n",
        _wrap(f"{here['accuracy']:.1%} right on the {here['images']} test images; eps of bounded attacks: {radii}.\n"),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in ROWS:
        for library in LIBRARIES:
            cell = store.get(row.name, network, library)
            if cell is not None and "error" not in cell:
                lines.append(_line(row, library, cell))
    return "\n".join(lines) + "\n"


def _line(row: Row, library: str, cell: Cell) -> str:
    found = figures(cell)
    ratio = "" if library == OURS or not cell["ratios"] else f"{statistics.median(cell['ratios']):.2f}"
    floor = f"{statistics.median(cell['over floor']):.2f}" if "over floor" in cell else ""
    outside = f" ({cell['outside']:.0%} outside)" if cell["outside"] else ""
    parts = [
        row.name,
        library,
        str(cell["images"]),
        f"{found.success:.1%}{outside}",
        _number(found.median) if not row.bounded else "",
        _number(found.mean),
        _number(cell["margin"], 2) if row.bounded else "",
        f"{cell['forwards']:.1f}",
        f"{cell['gradients']:.1f}",
        f"{1000 * statistics.median(cell['seconds']):.3g}",
        ratio,
        floor,
    ]
    return f"| {' | '.join(parts)} |"


def _affine(store: Store) -> str:
    lines = [
        "### Who is right: random affine models of ten classes\n",
        _wrap(
            "Two models, 24 images each, with known smallest perturbations within the box (tests/helpers/affine.py). "
            "Minimal attacks: share found, and worst ratio to the optimum. Bounded ones, with the median optimum as "
            "eps: share found of those images that can be changed. The same settings as on the networks, which may be "
            "short for some. Bold: not correct by the rule above."
        ),
        "",
        f"| attack | {' | '.join(LIBRARIES)} |",
        f"|---|{'---|' * len(LIBRARIES)}",
    ]
    for row in ROWS:
        cells = [_oracle(store, row, library) for library in LIBRARIES]
        if any(cells):
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _oracle(store: Store, row: Row, library: str) -> str:
    cell = store.get(row.name, "affine", library)
    if cell is None:
        return ""
    if "error" in cell:
        return "does not run"
    outside = f", {cell['outside']} outside" if cell["outside"] else ""
    worst = f", {cell['worst']:.3f}" if cell["worst"] is not None else ""
    text = f"{cell['success']:.0%}{worst}{outside}"
    return text if correct(store, row, library) else f"**{text}**"
