"""What `steelman evaluate` says of every model of the zoo, beside the truth.

    python -m benchmarks.zoo --battery standard --images 100 one_hot kwta; all of them are a part of `make soak`

The models are those of tests/helpers/zoo: masked, honest, and without gradients but robust. Exit code 1 where a masked
model is called supported, where an honest one is not, or where fewer than ten of twelve masked ones have a number
within five points of the truth. Needs no data; half an hour on one core with the battery "quick".
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from zoo import ENTRIES
from zoo.judging import Judged, judged, table

SHARE = 10 / 12
"""Of the masked models, whose numbers have to be near the truth."""


def faults(found: Sequence[Judged]) -> list[str]:
    wrong = [f"{each.entry.name} ({each.entry.kind}) is called {each.word}" for each in found if not each.sound]
    hidden = [each for each in found if each.entry.kind == "masked"]
    near = [each for each in hidden if each.near]
    if len(near) < SHARE * len(hidden):
        wrong.append(f"the numbers of {len(near)} of {len(hidden)} masked models are within five points of the truth")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.zoo", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL", help="default: all")
    parser.add_argument("--battery", default="quick", choices=["quick", "standard", "thorough", "signs"])
    parser.add_argument("--images", type=int, default=100, help="test images, up to 200 (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found = list[Judged]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in asked.names or ENTRIES:
            found.append(judged(ENTRIES[name], asked.battery, asked.images, asked.seed))
            print(found[-1], file=sys.stderr, flush=True)
    wrong = faults(found)
    print(*table(found), *wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
