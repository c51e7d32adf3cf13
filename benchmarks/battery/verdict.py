"""Which peers are right, and where ours are weaker or slower than those."""

import statistics
from dataclasses import dataclass

from benchmarks.battery.measure import Cell
from benchmarks.battery.networks import NETWORKS
from benchmarks.battery.peers import LIBRARIES, OURS
from benchmarks.battery.rows import Row
from benchmarks.battery.store import Store

from steelman.norms import L2, Linf

WEAKER, NOISE = 1.01, 0.97
"""How much longer a median may be, and below which ratio of times a peer counts as faster."""


@dataclass(frozen=True)
class Figures:
    success: float
    median: float
    mean: float | None


def figures(cell: Cell, images: int | None = None) -> Figures:
    """Of the first `images`; the median over the images that were right to begin with, failures infinite."""
    sizes = cell["size"][:images]
    attacked = sorted(float("inf") if size is None else size for size in sizes if size != 0)
    won = [size for size in sizes if size]
    return Figures(
        success=sum(size is not None for size in sizes) / len(sizes),
        median=attacked[(len(attacked) - 1) // 2] if attacked else 0.0,
        mean=statistics.mean(won) if won else None,
    )


def correct(store: Store, row: Row, library: str) -> bool:
    cell = store.get(row.name, "affine", library)
    if cell is None or "error" in cell:
        return False
    if row.bounded:
        others = (store.get(row.name, "affine", name) for name in LIBRARIES)
        best = max(other["success"] for other in others if other is not None and "error" not in other)
        return cell["success"] >= 0.85 * best and not cell["outside"]
    limit = 1.05 if row.norm in (L2, Linf) else 1.1
    return cell["success"] >= 0.99 and cell["middle"] is not None and cell["middle"] <= limit


def falls_short(store: Store, rows: list[Row]) -> list[str]:
    lines = []
    for row in rows:
        for network in NETWORKS:
            own = store.get(row.name, network, OURS)
            if own is None or "error" in own:
                continue
            for library in LIBRARIES:
                cell = store.get(row.name, network, library)
                if library != OURS and cell is not None and "error" not in cell:
                    lines += _beside(store, row, network, own, library, cell)
            floor = statistics.median(own["over floor"])
            if row.bounded and row.steps > 1 and floor > 1.05:
                lines.append(f"{row.name}, {network}: {floor:.2f} times the floor.")
    return lines or ["Nowhere."]


def _beside(store: Store, row: Row, network: str, own: Cell, library: str, cell: Cell) -> list[str]:
    images = min(own["images"], cell["images"])
    ours, theirs = figures(own, images), figures(cell, images)
    where = f"{row.name}, {network}, {library}" + ("" if correct(store, row, library) else " (not correct)")
    lines = []
    if theirs.success > ours.success:
        lines.append(f"{where}: success {ours.success:.1%} against {theirs.success:.1%} of {images} images.")
    if not row.bounded and ours.median > WEAKER * theirs.median:
        lines.append(f"{where}: median {ours.median:.4g} against {theirs.median:.4g} over {images} images.")
    good = theirs.success >= ours.success - 0.01 and (row.bounded or theirs.median <= WEAKER * ours.median)
    ratio = statistics.median(cell["ratios"]) if cell["ratios"] else 1.0
    if good and ratio < NOISE:
        lines.append(f"{where}: {ratio:.2f} of our time.")
    return lines


def twice_as_fast(store: Store, rows: list[Row]) -> list[str]:
    """The rows that are to be at least twice as fast as the fastest correct peer."""
    lines = []
    for row in rows:
        if not row.name.startswith(("DeepFool", "Carlini-Wagner L2", "JSMA", "AutoAttack")):
            continue
        ratios = {}
        for library in LIBRARIES:
            cell = store.get(row.name, "plain LeNet", library)
            if library != OURS and cell is not None and cell.get("ratios") and correct(store, row, library):
                ratios[library] = statistics.median(cell["ratios"])
        if ratios:
            fastest = min(ratios, key=lambda name: ratios[name])
            verdict = "yes" if ratios[fastest] >= 2 else "no"
            lines.append(f"{row.name}: {verdict}, {ratios[fastest]:.2f} times as fast as {fastest}.")
    return lines or ["Not measured."]
