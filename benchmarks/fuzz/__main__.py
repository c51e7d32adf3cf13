"""Damage files by chance and read them, again and again.

    python -m benchmarks.fuzz --count 100000 --seed 7 --only pt,checkpoint        (all: make soak FUZZ='--seed 7')

Each file has to be refused by a ValueError or OSError of one line that names the file, or to be read as a value of the
right kind; where its format has a checksum, as the value that was written. Needs no data; 100,000 files in some ten
minutes. Exit code 1: a reader raised something else, took too long, or let a changed value through.
"""

import argparse
import sys

from benchmarks.fuzz.damage import fuzz
from benchmarks.fuzz.readers import READERS


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="damaged files in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help=f"readers, with commas between them: {', '.join(READERS)}")
    options = parser.parse_args()
    names = [name for name in READERS if not options.only or name.startswith(tuple(options.only.split(",")))]
    found = fuzz(names, options.count, options.seed, say=lambda text: print(text, flush=True))
    for fault in found.faults:
        print(fault)
    print(f"{found.refused} refused, {found.same} as written, {found.other} others, {len(found.faults)} faults")
    sys.exit(1 if found.faults else 0)


if __name__ == "__main__":
    main()
