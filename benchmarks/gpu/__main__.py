"""`python -m benchmarks.gpu`: see the package."""

import argparse
from pathlib import Path

import torch
from benchmarks import gpu
from benchmarks.gpu.ground import Setting
from benchmarks.gpu.page import page
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.running import Store, about, apart, run, write_rows

from steelman.files import write_text


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=(gpu.__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"), help="keeps what is done")
    parser.add_argument("--page", type=Path, help="the page that is written from it")
    parser.add_argument(
        "--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    parser.add_argument("--small", action="store_true", help="few images and steps: whether it runs, no timings")
    parser.add_argument("--peers", type=Path, help="a folder with checkouts of torchattacks and AutoAttack")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no part goes on (default: 8)")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--again", nargs="*", choices=list(PARTS), default=[], metavar="PART", help="done or not")
    parser.add_argument("--folder", type=Path, help="of the trained networks; default: beside --out")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    folder = asked.folder or asked.out.with_suffix(".parts")
    setting = Setting(asked.device, folder, asked.small, asked.peers)
    if asked.part:
        write_rows(PARTS[asked.part], setting, asked.rows)
        return
    folder.mkdir(parents=True, exist_ok=True)
    store = Store.open(asked.out, about(setting))
    run(store, store.wanted(asked.parts, asked.again), setting, 60 * asked.minutes, apart)
    if asked.page:
        write_text(asked.page, page(store.about, store.parts))


if __name__ == "__main__":
    main()
