"""Training that stops: signals, divergence, checkpoints, and what is refused in a folder."""

import math
import os
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from steelman import FGSM, AdversarialTraining, Batch, Plain, Surrogate, checkpoint, fit
from steelman.data import InMemory, PadCrop
from steelman.defences import Objective
from steelman.networks import MLP
from steelman.training import (
    SGD,
    Adam,
    Diverged,
)
from trainings import TRAINING, Spy, images, network, network_of, same


@pytest.mark.parametrize(
    ("number", "average", "at"),
    [
        (signal.SIGINT, {"ema": 0.9}, 1),
        (signal.SIGTERM, {"swa": 0.3}, 8),
        (signal.SIGTERM, {"ema": 0.9}, 15),
        (signal.SIGINT, {"swa": 0.3}, 15),
    ],
)
def test_a_signal_writes_a_checkpoint_and_training_resumes_in_the_same_bits(
    number: signal.Signals, at: int, average: dict[str, float], tmp_path: Path
):
    """With dropout and augmentation, whose chance must go on too, and whatever the generators are at."""
    training = replace(TRAINING, augment=(PadCrop(1),), **average)
    whole = network(0.5)
    wanted = fit(whole, images(), Spy(), training)
    before = signal.getsignal(number)
    spy = Spy(lambda batch, model: os.kill(os.getpid(), number) if batch == at else None)
    with pytest.raises(KeyboardInterrupt, match="resumes it from its checkpoint"):
        fit(network(0.5), images(), spy, training, folder=tmp_path)
    assert len(spy.seen) == at  # the batch is finished, and no other begun
    assert signal.getsignal(number) is before
    torch.manual_seed(at)
    again = network(0.5)
    torch.rand(at)
    found = fit(again, images(), Spy(), training, folder=tmp_path)
    assert same(again, whole)
    assert [{**line, "seconds": 0} for line in found.log] == [{**line, "seconds": 0} for line in wanted.log]
    assert same(network_of(tmp_path), whole)
    finished = network(0.5)
    fit(finished, images(), Spy(lambda batch, model: pytest.fail("there was nothing left")), training, folder=tmp_path)
    assert same(finished, whole)


def test_the_generators_are_handed_back_and_decide_nothing():
    models = []
    for seed in (1, 2):
        model = network(0.5)
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        fit(model, images(), Plain(), TRAINING)
        assert torch.equal(torch.get_rng_state(), state)
        models.append(model)
    assert same(*models)


def test_a_worker_thread_may_train():
    model, failed = network(), []
    thread = threading.Thread(target=lambda: failed.append(fit(model, images(), Plain(), TRAINING)))
    thread.start()
    thread.join()
    assert failed[0].last["epoch"] == 3


@pytest.mark.parametrize("defence", [None, "fgsm"])
def test_divergence_names_its_batch_and_keeps_the_last_good_checkpoint(defence: str | None, tmp_path: Path):
    from steelman import AdversarialTraining

    def poison(batch: int, model: nn.Module) -> None:
        if batch == 7:
            with torch.no_grad():
                next(model.parameters()).fill_(math.nan)

    @dataclass(frozen=True)
    class Poisoned(Objective):
        spy: Spy

        def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
            loss = self.spy(model, batch)
            return AdversarialTraining(FGSM(eps=0.1))(model, batch) if defence else loss

    with pytest.raises(Diverged, match=r"in epoch 2, batch 2 of 5 .*last good checkpoint is .*last\.safetensors"):
        fit(network(), images(), Poisoned(Spy(poison)), TRAINING, folder=tmp_path)
    state = checkpoint.load(tmp_path / "last.safetensors")
    assert state["position"][:2] == [1, 0]
    assert all(bool(value.isfinite().all()) for value in state["nets"]["classifier"].values())


def test_a_rate_beyond_reason_diverges():
    with pytest.raises(Diverged, match=r"Lower the learning rate"):
        fit(network(), images(), Plain(), replace(TRAINING, optimiser=SGD(lr=1e30), validation=10))


def test_another_run_in_the_folder_is_refused_by_what_differs(tmp_path: Path):
    fit(network(), images(), Plain(), TRAINING, folder=tmp_path)

    def refused(message: str, model: nn.Module | None = None, data: InMemory | None = None, **changes: object) -> None:
        defence = changes.pop("defence", Plain())
        with pytest.raises(ValueError, match=message):
            fit(model or network(), data or images(), defence, replace(TRAINING, **changes), folder=tmp_path)

    refused(r"another training\.epochs \(3, now 4\)", epochs=4)
    refused(r"another training\.seed \(0, now 1\)", seed=1)
    refused(r"another training\.optimiser", optimiser=Adam())
    refused("another defence", defence=Spy())
    refused("another architecture", model=MLP(shape=(1, 8, 8), hidden=(7,)))
    refused("another set of images: use another folder", data=images(80))
    assert len(fit(network(), images(), Plain(), replace(TRAINING, checkpoint_seconds=1.0), folder=tmp_path).log) == 4


def test_other_pixels_with_the_same_labels_are_another_set_of_images(tmp_path: Path):
    """As where images were read mirrored, and now are not."""
    (whole,) = images().in_order(90)
    fit(network(), (whole.x.flip(3), whole.y), Plain(), TRAINING, folder=tmp_path)
    with pytest.raises(ValueError, match=r"holds a run with another set of images: use another folder, or delete"):
        fit(network(), (whole.x, whole.y), Plain(), TRAINING, folder=tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    assert fit(network(), (whole.x.flip(3), whole.y), Plain(), TRAINING, folder=tmp_path).last["epoch"] == 3
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_another_surrogate_in_a_defence_is_refused(tmp_path: Path):
    """Its text is the same: the weights are not."""

    def defence(scale: float) -> AdversarialTraining:
        surrogate = network()
        surrogate[1].weight.data *= scale
        return AdversarialTraining(Surrogate(FGSM(eps=0.1), surrogate))

    assert repr(defence(1.0)) == repr(defence(2.0))
    for _ in range(2):
        fit(network(), images(), defence(1.0), TRAINING, folder=tmp_path)
    with pytest.raises(ValueError, match="another network, tensor or function in an attack: use another folder"):
        fit(network(), images(), defence(2.0), TRAINING, folder=tmp_path)


def test_a_users_own_objective_goes_on_though_its_address_is_another(tmp_path: Path):
    assert " at 0x" in repr(Spy())
    fit(network(), images(), Spy(), TRAINING, folder=tmp_path)
    assert fit(network(), images(), Spy(), TRAINING, folder=tmp_path).last["epoch"] == 3


def test_a_folder_with_half_a_checkpoint_is_refused_by_name(tmp_path: Path):
    (tmp_path / "last.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match=r"last\.safetensors is not a readable checkpoint"):
        fit(network(), images(), Plain(), TRAINING, folder=tmp_path)
