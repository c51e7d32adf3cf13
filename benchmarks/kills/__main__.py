"""Kill `train`, `evaluate`, `sweep`, `compare --transfer` and `attack-train` at random moments, again and again.

    make soak ARGS='--kills 20 --verb train --json kills.json'

Each command runs once undisturbed. Then it is started in another folder, and killed (SIGKILL, all its processes) two to
five times, at moments that are spread over its work or in the middle of a write, and at last left to its end. What the
two folders hold has to be the same to the last bit, but for times and dates. Needs no data; minutes.

Exit code 1: something differs, did not end, was left behind, or could not be killed as often as asked.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.kills.cases import CASES, fresh
from benchmarks.kills.chain import Reference, chain, moments, uninterrupted
from benchmarks.kills.same import differences

MANY = 12
"""Differences of one chain that are told; a broken checkpoint has them by the hundred."""


@dataclass
class Row:
    """What came of one verb."""

    verb: str
    kills: int = 0
    within: int = 0
    chains: int = 0
    differences: list[str] = field(default_factory=list)
    written: dict[str, int] = field(default_factory=dict)
    """Which files were being written when a kill came, and how often."""


def soak(verb: str, kills: int, seed: int, root: Path) -> Row:
    """Kill one verb so often, in as many chains as it takes, its cases in turn."""
    chance, row, references = random.Random(f"{seed} {verb}"), Row(verb), dict[str, Reference]()
    while row.kills < kills and row.chains < 2 * kills:
        start, cases = time.monotonic(), CASES[verb]
        case = cases[row.chains % len(cases)]
        place = root / verb / case.name.replace(" ", "-")
        begin = case.name not in references
        if begin:
            references[case.name] = uninterrupted(case.command, fresh(case, place / "whole", root))
            _say(f"{verb}, {case.name}: {references[case.name].work:.1f} s of work, undisturbed")
        reference = references[case.name]
        unseen = max(0, len(cases) - 1 - row.chains)
        count = min(chance.randint(2, 5), max(kills - row.kills - 2 * unseen, min(2, kills - row.kills)))
        folder = fresh(case, place / f"chain-{row.chains}", root)
        plan = moments(count, reference.work, chance, begin)
        done = chain(case.command, folder, reference, plan)
        if done.kills < count and not done.problem:  # it was faster than undisturbed, when others were at work
            references[case.name] = replace(reference, work=min(reference.work, done.work))
        wrong = [done.problem] if done.problem else differences(reference.folder, folder)
        left = [f"and {len(wrong) - MANY} more"] if len(wrong) > MANY else []
        row.differences += [f"{case.name}, chain {row.chains}: {each}" for each in (*wrong[:MANY], *left)]
        row.kills, row.within, row.chains = row.kills + done.kills, row.within + len(done.within), row.chains + 1
        for path in done.within:
            name = Path(path).name
            row.written[name] = row.written.get(name, 0) + 1
        _say(
            f"{verb}, {case.name}, chain {row.chains - 1}: {done.kills} kills, {len(done.within)} within a write "
            f"({', '.join(Path(path).name for path in done.within)}), {len(wrong)} differences, "
            f"{time.monotonic() - start:.0f} s"
        )
    if row.kills < kills:
        row.differences.append(f"only {row.kills} kills in {row.chains} chains: it ends too soon")
    return row


def _table(rows: list[Row]) -> Iterator[str]:
    form = "{:<14}{:>7}{:>16}{:>8}{:>13}"
    yield form.format("verb", "kills", "within a write", "chains", "differences")
    for row in rows:
        yield form.format(row.verb, row.kills, row.within, row.chains, len(row.differences))
    whole = [sum(getattr(row, name) for row in rows) for name in ("kills", "within", "chains")]
    yield form.format("all", *whole, sum(len(row.differences) for row in rows))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--verb", action="append", choices=list(CASES), help="only this one; as often as you like")
    parser.add_argument("--kills", type=int, default=10, help="of each verb (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table there")
    parser.add_argument("--keep", action="store_true", help="leave the folders, to look into")
    asked = parser.parse_args()
    spec = find_spec("steelman")
    tested = str(Path(spec.origin).parent) if spec and spec.origin else ""
    root, start = Path(tempfile.mkdtemp(prefix="kills-")), time.monotonic()
    _say(f"{tested}, in {root}")
    try:
        rows = [soak(verb, asked.kills, asked.seed, root) for verb in asked.verb or CASES]
    finally:
        if not asked.keep:
            shutil.rmtree(root, ignore_errors=True)
    seconds = time.monotonic() - start
    for row in rows:
        for each in row.differences:
            print(f"{row.verb}, {each}")
    print(*_table(rows), f"{seconds:.0f} s", sep="\n")
    if asked.json:
        said = {"steelman": tested, "seed": asked.seed, "seconds": round(seconds), "verbs": list(map(asdict, rows))}
        asked.json.write_text(json.dumps(said, indent=1) + "\n")
    return any(row.differences for row in rows)


if __name__ == "__main__":
    sys.exit(main())
