"""Two nodes on one machine, each with torchrun's agent: a process that is killed, the restart, and the same bits."""

import atexit
import os
import signal
import socket
import sys
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scripts import in_a_pair, run_script
from steelman import PGD, AdversarialTraining, Batch, checkpoint, fit
from steelman.defences import Objective
from steelman.identity import digest
from steelman.training import SGD
from trainings import TRAINING, images

RESTARTS = 2


@dataclass(frozen=True)
class Killed(Objective):
    """Adversarial training; in the first start one of the processes dies at the eighth of 15 batches."""

    rank: int | None

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        here = (os.environ.get("TORCHELASTIC_RESTART_COUNT"), os.environ["RANK"], round(15 * batch.progress))
        if here == ("0", str(self.rank), 7):
            os.kill(os.getpid(), signal.SIGKILL)
        return AdversarialTraining(PGD(eps=0.1, steps=2))(model, batch)

    def __repr__(self) -> str:
        return "Killed()"  # the same training, whoever dies


def runs(folder: Path) -> tuple[Path, Path]:
    """The second machine does not see the disk of the first."""
    return folder / "first", folder / "second"


def network() -> nn.Module:
    """Its running statistics, with which images are crafted, are of a process's own images."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10)
    )


def train(folder: Path, rank: int | None) -> None:
    """What every process does; the digest of its network goes into a file."""
    with (folder / f"starts-{os.environ['RANK']}").open("a") as starts:
        starts.write("start\n")
    training = replace(TRAINING, optimiser=SGD(lr=1.0), validation=20, checkpoint_seconds=0.0, patience=2, ema=0.9)
    model = network()  # the best one is that of the first epoch, not the last
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "each process updates", UserWarning)
        fit(model, images(110), Killed(rank), training, folder=runs(folder)[int(os.environ["RANK"])])
    (folder / f"digest-{os.environ['RANK']}").write_text(digest(model.state_dict()))


def node(folder: Path, rank: int, port: int) -> None:
    """What torchrun does on one of two machines, but that its agent forks the processes, which have imported all."""
    from torch.distributed import run
    from torch.distributed.launcher import elastic_launch

    words = f"--nnodes=2 --nproc-per-node=1 --max-restarts={RESTARTS} --rdzv-backend=c10d --local-addr=127.0.0.1"
    words += f" --rdzv-endpoint=127.0.0.1:{port} --rdzv-id=test --start-method=fork --monitor-interval=0.05 train"
    config, *_ = run.config_from_args(run.parse_args(words.split()))
    elastic_launch(config, train)(folder, rank)
    leave()


def alone(folder: Path) -> None:
    train(folder, None)
    leave()


def leave() -> None:
    atexit._run_exitfuncs()
    os._exit(0)  # what is imported is not taken down piece by piece, which would take seconds


def two_nodes(folder: Path, rank: int) -> None:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    in_a_pair(partial(node, folder, rank, port))


def moved(folder: Path) -> None:
    """The first process is now on the machine that has no checkpoint."""
    rank = int(os.environ["RANK"])
    with pytest.raises(ValueError, match="is there on another machine, and not on that of the first process"):
        fit(network(), images(110), Killed(None), TRAINING, folder=runs(folder)[1 - rank])
    (folder / f"refused-{rank}").touch()
    leave()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restarts")
    run_script(__file__, str(folder))
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_is_killed_and_the_agents_start_again_to_the_same_bits(trained: Path, rank: int):
    killed, undisturbed = trained / f"killed-{rank}", trained / "undisturbed"
    starts = [len((killed / f"starts-{each}").read_text().split()) for each in (0, 1)]
    assert starts == [2, 2]  # no start failed for want of the others
    digests = {(folder / f"digest-{each}").read_text() for folder in (killed, undisturbed) for each in (0, 1)}
    assert len(digests) == 1
    assert checkpoint.load(runs(killed)[0] / "best.safetensors")["epoch"] < 3
    ours, theirs = (checkpoint.load(runs(folder)[0] / "last.safetensors") for folder in (killed, undisturbed))
    for state in (ours, theirs):
        state["position"][4] = 0.0
        state["log"] = [{**line, "seconds": 0.0} for line in state["log"]]
    assert digest(ours) == digest(theirs)


def test_a_run_on_the_disk_of_another_machine_is_not_begun_anew(trained: Path):
    assert [(trained / "undisturbed" / f"refused-{each}").exists() for each in (0, 1)] == [True, True]
    assert not list(runs(trained / "undisturbed")[1].glob("*.safetensors"))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # a process is killed here, but the machine is not
    fit(network(), images(110), AdversarialTraining(PGD(eps=0.1, steps=2)), replace(TRAINING, epochs=0))  # imports all
    (folder / "undisturbed").mkdir()
    in_a_pair(partial(alone, folder / "undisturbed"))
    in_a_pair(partial(moved, folder / "undisturbed"))
    for rank in (0, 1):
        two_nodes(folder / f"killed-{rank}", rank)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
