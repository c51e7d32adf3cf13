"""How many images and rounds each cell gets, and how long the whole will take."""

from benchmarks.battery.peers import LIBRARIES
from benchmarks.battery.rows import Row
from benchmarks.battery.store import Store

SLOW: dict[tuple[str, str], int] = {}
"""Libraries so slow at a row that this many images are enough."""

FEWER: dict[tuple[str, str], int] = {}
"""Rows that take longer on a network than on the plain LeNet, where attacks end early."""


def images_of(row: Row, network: str, library: str, most: int) -> int:
    slow = min((count for (name, start), count in SLOW.items() if name == library and row.name.startswith(start)),
               default=most)  # fmt: skip
    fewer = min((count for (name, start), count in FEWER.items() if name == network and row.name.startswith(start)),
                default=most)  # fmt: skip
    return min(row.images, most, slow, fewer)


def rounds_of(row: Row, network: str, most: int) -> int:
    """Speed is compared on the plain LeNet; elsewhere one round says how good an attack is."""
    return most if network == "plain LeNet" else 1


def plan(rows: list[Row], networks: list[str], most: int, rounds: int, like: Store) -> str:
    """Seconds of every row, from the seconds per image of an earlier run."""
    lines, total, unknown = [], 0.0, []
    for network in networks:
        whole = 0.0
        for row in rows:
            parts = []
            for library in LIBRARIES:
                cell = like.get(row.name, network, library)
                if cell is None or not cell.get("seconds"):
                    if cell is None and network != "affine" and library == "Steelman":
                        unknown.append(f"{row.name} on {network}")
                    continue
                images = images_of(row, network, library, most)
                own = (like.get(row.name, network, "Steelman") or {}).get("seconds") or [float("inf")]
                later = 0 if cell["seconds"][0] > 5 * own[0] else rounds_of(row, network, rounds) - 1
                seconds = cell["seconds"][0] * (images + later * min(images, 250))
                parts.append(f"{library} {images}: {seconds:.0f} s")
                whole += seconds
            if parts:
                lines.append(f"{network:13} {row.name:20} {', '.join(parts)}")
        lines.append(f"{network:13} {'in all':20} {whole / 60:.1f} minutes")
        total += whole
    lines.append(f"in all {total / 60:.1f} minutes; the affine models and the training of missing networks come on top")
    if unknown:
        lines.append(f"not known yet: {', '.join(unknown)}")
    return "\n".join(lines)
