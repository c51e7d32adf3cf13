"""Our whole battery of attacks beside six libraries', in one run on three networks, with equal settings.

    python -m benchmarks.battery --data-dir DATA --markdown docs/benchmarks.md

Run it from the repository's root. Each round runs every library once, one after the other; ratios are medians of the
rounds' ratios, so that a busy machine slows all of them alike. The networks' parameters want no gradient, so that no
library computes gradients that nobody reads. Every result is clipped to [0, 1] and judged here, by one forward pass.
Figures are kept in --json as they are measured: a second call fills in what is missing. The networks are trained where
--cache does not have them. Two images of every cell are probed, to know how many fit into --seconds; --plan stops there
and says how long the whole will take.
"""

import argparse
import logging
import shlex
import sys
import time
import warnings
from pathlib import Path

import torch
from benchmarks.battery.measure import Turn, pass_seconds
from benchmarks.battery.networks import NETWORKS, ground
from benchmarks.battery.oracle import oracle
from benchmarks.battery.page import page
from benchmarks.battery.peers import LIBRARIES, OURS, Adapters, load
from benchmarks.battery.plan import estimate, images, probe, rounds_of
from benchmarks.battery.rows import ROWS, Row
from benchmarks.battery.store import Store


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.battery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's and CIFAR-10's files")
    parser.add_argument("--leave-out", help="npz file with places of CIFAR-10 images not to be used")
    parser.add_argument("--images", type=int, default=1000, help="the most per row; slow attacks have fewer")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long ours may take; decides a cell's images")
    parser.add_argument("--rounds", type=int, default=3, help="on the plain LeNet; elsewhere 1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--attacks", nargs="*", default=[row.name for row in ROWS], help="names, or beginnings of them")
    parser.add_argument("--networks", nargs="*", default=[*NETWORKS, "affine"])
    parser.add_argument("--libraries", nargs="*", default=list(LIBRARIES))
    parser.add_argument("--cache", type=Path, default=Path("temp"), help="where the trained networks are kept")
    parser.add_argument("--json", type=Path, default=Path("temp/battery.json"))
    parser.add_argument("--plan", action="store_true", help="probe, say how long it will take, and stop")
    parser.add_argument("--again", action="store_true", help="measure even what is there")
    parser.add_argument("--hardware", default="unnamed processor", help="for the page")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--markdown", type=Path, help="write the page here, from the figures in --json alone")
    return parser.parse_args()


def plainly(argument: str) -> str:
    """Where something lies on this machine is nobody's business."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def missing(store: Store, row: Row, network: str, library: Adapters, again: bool) -> Adapters:
    """The libraries to run: those without a cell, and ours beside them."""
    wanted = {name: run for name, run in library.items() if again or store.get(row.name, network, name) is None}
    return {name: run for name, run in library.items() if name in wanted or (wanted and name == OURS)}


def main() -> None:
    options = arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    rows = [row for row in ROWS if any(row.name.startswith(name) for name in options.attacks)]
    store = Store.open(options.json)
    adapters, versions = load(options.libraries)
    store.about["versions"] = {**store.about.get("versions", {}), **versions}
    store.about.update(
        {
            "command": shlex.join(["python", "-m", "benchmarks.battery", *map(plainly, sys.argv[1:])]),
            "date": options.date,
            "hardware": options.hardware,
            "threads": options.threads,
            "torch": torch.__version__,
            "images": options.images,
            "rounds": options.rounds,
        }
    )
    known, whole = {}, 0.0
    for network in options.networks:
        here, passes = None, (0.0, 0.0)
        if network != "affine":
            here = ground(network, options.images, options.data_dir, options.cache, options.leave_out)
            store.about[network] = {"accuracy": here.accuracy, "radii": here.radii, "images": len(here.x)}
            for name in adapters:  # warm up
                Turn(ROWS[0], here, {name: adapters[name].get("FGSM Linf", lambda job: job.x)}, {name: 10}, 1).cells()
            passes = pass_seconds(here.model, here.x[:100])
        for row in rows:
            having = {name: found[row.name] for name, found in adapters.items() if row.name in found}
            having = missing(store, row, network, having, options.again)
            if here is None:
                if not options.plan:
                    store.put(row.name, network, oracle(row, having, known))
                continue
            probe(store, row, here, having, passes)
            having = {name: run for name, run in having.items() if f"{row.name}|{network}|{name}" in store.probes}
            count = images(store, row, network, list(having), options.images, options.seconds)
            rounds = rounds_of(network, options.rounds)
            seconds, line = estimate(store, row, network, count, rounds)
            whole += seconds
            if options.plan:
                print(line, flush=True)
            elif having:
                store.put(row.name, network, Turn(row, here, having, count, rounds).cells())
    if options.plan:
        print(f"in all {whole / 60:.0f} minutes; affine models and probes come on top")
        return
    store.save()
    if options.markdown:
        options.markdown.write_text(page(store))
    print(page(store))


if __name__ == "__main__":
    main()
