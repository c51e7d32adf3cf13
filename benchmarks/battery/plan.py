"""How many images each cell gets, by a probe of two images: as many as take `--seconds`; and how long all will take."""

from dataclasses import replace

import torch
from benchmarks.battery.measure import PATIENCE, Turn, images_later, patience
from benchmarks.battery.networks import Ground
from benchmarks.battery.peers import OURS, Adapters
from benchmarks.battery.rows import Row
from benchmarks.battery.store import Store

COUNTS = (1000, 500, 300, 200, 150, 100, 75, 50, 30, 20, 10, 5, 2)
PROBED = 2
LEEWAY = 3
"""A peer may take so many times the seconds before it gets fewer images than ours."""


def probe(store: Store, row: Row, ground: Ground, libraries: Adapters, passes: tuple[float, float]) -> None:
    """Seconds per image of the libraries that have not been probed yet. `passes` are those of one forward and one
    gradient pass in a large batch: a library that attacks images together is faster there than on two."""
    with torch.no_grad():
        right = torch.where(ground.model(ground.x).argmax(1) == ground.y)[0][:PROBED]
    ground = replace(ground, x=ground.x[right], y=ground.y[right])
    for name, run in libraries.items():
        key = f"{row.name}|{ground.name}|{name}"
        if key not in store.probes:
            with patience(PATIENCE):
                cell = Turn(row, ground, {name: run}, {name: PROBED}, 1).cells()[name]
            if "error" in cell:
                store.put(row.name, ground.name, {name: cell})
            else:
                together = 1.3 * (cell["forwards"] * passes[0] + cell["gradients"] * passes[1])
                alone = cell["seconds"][0]
                store.probes[key] = alone if cell["at once"] < 1.4 else min(alone, max(together, alone / 8))
    store.save()


def images(store: Store, row: Row, network: str, names: list[str], most: int, seconds: float) -> dict[str, int]:
    """Ours as many as `seconds` allow, the others no more than ours."""
    each = {name: store.probes.get(f"{row.name}|{network}|{name}", 0.0) for name in names}
    most = min(row.images, most)
    own = _fitting(each[OURS], most, seconds) if OURS in each else most
    return {name: own if name == OURS else _fitting(each[name], own, LEEWAY * seconds) for name in names}


def _fitting(each: float, most: int, seconds: float) -> int:
    return min(most, next((count for count in COUNTS if count * each <= seconds), COUNTS[-1]))


def rounds_of(network: str, most: int) -> int:
    """Speed is compared on the plain LeNet; elsewhere one round says how good an attack is."""
    return most if network == "plain LeNet" else 1


def estimate(store: Store, row: Row, network: str, images: dict[str, int], rounds: int) -> tuple[float, str]:
    """Seconds of a row, and a line about it."""
    parts, whole = [], 0.0
    own = store.probes.get(f"{row.name}|{network}|{OURS}", float("inf"))
    for name, count in images.items():
        each = store.probes.get(f"{row.name}|{network}|{name}", 0.0)
        later = 0 if each > 5 * own else (rounds - 1) * images_later(count)
        parts.append(f"{name} {count}: {each * (count + later):.0f} s")
        whole += each * (count + later)
    return whole, f"{network:13} {row.name:20} {whole:5.0f} s: {', '.join(parts)}"
