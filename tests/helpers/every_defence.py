"""One table of defences. `test_every_defence.py` runs each through every property that a defence has.

Run as a script, this file trains the table in two processes, and is killed in training it.
"""

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts import in_a_pair, killed
from steelman import (
    AWP,
    FGSM,
    GAP,
    L2LDA,
    MART,
    MMA,
    PGD,
    PGN,
    TRADES,
    VAT,
    YOPO,
    AdvBNN,
    AdversarialTraining,
    AdvGAN,
    AttackTraining,
    Batch,
    Bilateral,
    Cascade,
    CrossLipschitz,
    DeepDefense,
    DeepFool,
    Distillation,
    Free,
    GaussianAugmentation,
    InputGradientRegularisation,
    JacobianRegularisation,
    LabelSmoothing,
    NoiseMixture,
    Orthogonal,
    Parseval,
    Plain,
    SteadyState,
    Sum,
    TradesYOPO,
    Training,
    UniformAugmentation,
    checkpoint,
    fit,
)
from steelman.data import Digits, InMemory
from steelman.defences import Game, Objective
from steelman.losses import Margin
from steelman.networks import MLP, ODENet, bayesian
from steelman.norms import L2
from steelman.schedules import Linear
from steelman.training import SGD, Cosine, Diverged, History

FAST = SGD(lr=0.1, momentum=0.9)
"""For generators, so that a few batches teach them something.

Not faster: where one value is within rounding of a kink (ReLU, clamp), two processes and one may find themselves on
different sides, and differ by as much as a gradient that jumps times the rate: 4e-5 at a rate of 1, where the same
training in double precision agrees to 4e-16.
"""

DEFENCES: dict[str, Game] = {
    "plain": Plain(),
    "fgsm": AdversarialTraining(FGSM(eps=0.1)),
    "pgd": AdversarialTraining(PGD(eps=0.1, steps=3)),
    "mixed": AdversarialTraining(FGSM(eps=0.1), clean_weight=0.5),
    "crafting in train mode": AdversarialTraining(FGSM(eps=0.1), crafting="train"),
    "fast": AdversarialTraining(PGD(eps=0.1, steps=1, step_size=0.125), crafting="train"),
    "growing eps": AdversarialTraining(PGD(eps=0.02, steps=2, step_size=0.015), schedule=Linear()),
    "deepfool": AdversarialTraining(DeepFool(steps=3), clean_weight=0.5),
    "free": Free(eps=0.1, replays=3),
    "free in L2": Free(eps=0.5, replays=2, norm=L2),
    "bilateral": Bilateral(PGD(eps=0.1, steps=1, step_size=0.1)),
    "bilateral, untargeted and smooth": Bilateral(PGD(eps=0.1, steps=2), target=None, labels="smooth", eps_y=0.3),
    "deep defense": DeepDefense(weight=2.0, c=3.0, d=1.0, steps=2),
    "deep defense of a layer": DeepDefense(weight=2.0, c=3.0, d=1.0, steps=2, layers=("fc1",)),
    "sum": Sum((DeepDefense(weight=2.0, c=3.0, d=1.0, steps=2), AdversarialTraining(FGSM(eps=0.1))), (1.0, 0.5)),
    "jacobian": JacobianRegularisation(weight=0.1),
    "jacobian by projections": JacobianRegularisation(weight=0.05, root="none", projections=2),
    "input gradient": InputGradientRegularisation(weight=1.0),
    "cross-lipschitz": CrossLipschitz(weight=0.05),
    "cross-lipschitz by projections": CrossLipschitz(weight=0.05, projections=2),
    "sum of regularisers": Sum((JacobianRegularisation(weight=0.1), LabelSmoothing()), (0.5, 0.5)),
    "parseval": Parseval(beta=0.02),
    "parseval of deep defense": Parseval(DeepDefense(weight=2.0, c=3.0, d=1.0, steps=2), beta=0.02, rows=1.0),
    "orthogonal": Orthogonal(AdversarialTraining(FGSM(eps=0.1)), weight=0.01),
    "cascade": Cascade(factor=0.5, similarity=0.01, eps=0.1, stored=0.0),
    "adv-bnn": AdvBNN(AdversarialTraining(FGSM(eps=0.1), crafting="train"), alpha=0.1),
    "adv-bnn without noise": AdvBNN(AdversarialTraining(FGSM(eps=0.1), crafting="train"), alpha=0.1),
    "steady state": SteadyState(weight=0.5, times=(0.75, 1.25)),
    "steady state of noise": NoiseMixture(SteadyState(weight=0.5, times=(0.75, 1.25)), sigmas=(0.1,)),
    "distillation": Distillation(temperature=5.0),
    "trades": TRADES(PGD(eps=0.1, steps=3, normal_start=0.001)),
    "mart": MART(PGD(eps=0.1, steps=3, normal_start=0.001)),
    "awp": AWP(AdversarialTraining(PGD(eps=0.1, steps=3)), gamma=0.02),
    "mma": MMA(d_max=0.05, eps_min=0.02, steps=3, bisections=6, loss=Margin()),
    "omma in L2": MMA(d_max=0.3, eps_min=0.1, norm=L2, steps=3, bisections=6, clean_weight=0.0, loss=Margin()),
    "awp of trades": AWP(TRADES(PGD(eps=0.1, steps=3)), gamma=0.02, warmup=0.5),
    "yopo": YOPO(m=2, n=2, eps=0.1, step_size=0.05),
    "yopo, first layer by the hamiltonian": YOPO(
        m=2, n=2, eps=0.1, step_size=0.05, first_layer_grad="hamiltonian", first_layer="fc1"
    ),
    "yopo of the paper": YOPO(m=2, n=2, eps=0.1, step_size=0.05, variant="paper"),
    "yopo by gradients": YOPO(m=2, n=2, eps=0.1, step_size=0.05, variant="gradient"),
    "trades yopo": TradesYOPO(m=2, n=2, eps=0.1, step_size=0.05),
    "gaussian augmentation": GaussianAugmentation(sigma=0.2, copies=3),
    "noise mixture": NoiseMixture(sigmas=(0.2, 0.4)),
    "noise mixture of label smoothing": NoiseMixture(LabelSmoothing(), sigmas=(0.1,), share=0.8, clip=False),
    "uniform augmentation": UniformAugmentation(eps=0.2, copies=2, keep_clean=True, clip=True),
    "label smoothing": LabelSmoothing(),
    "vat": VAT(eps=0.5),
    "vat of two iterations, clipped": VAT(eps=0.5, weight=0.5, iterations=2, clip=True),
    "l2l-da": L2LDA(eps=0.1, steps=2, width=2, optimiser=FAST),
    "l2l-da, sums, without delta and label": L2LDA(
        eps=0.1,
        steps=2,
        width=2,
        diversity=0.002,
        ratio="sum",
        total="sum",
        delta=False,
        label=False,
        optimiser=FAST,
    ),
    "pgn": PGN(norm_weight=1.0, width=2, hidden=4, optimiser=FAST),
    "pgn, detached, with clean images": PGN(
        norm_weight=1.0, clean_weight=0.5, detach_adv=True, width=2, hidden=4, optimiser=FAST
    ),
    "advgan": AdvGAN(eps=0.1, width=2, optimiser=SGD(lr=3e-5)),
    "gap": GAP(eps=0.1, width=2, blocks=1, optimiser=FAST),
    "training of l2l-da": AttackTraining(L2LDA(eps=0.1, steps=2, width=2, optimiser=FAST)),
    "training of advgan": AttackTraining(AdvGAN(eps=0.1, width=2, optimiser=SGD(lr=3e-5))),
    "training of gap": AttackTraining(GAP(eps=0.1, width=2, blocks=1, optimiser=FAST)),
}

KILLED = list({type(defence): name for name, defence in reversed(DEFENCES.items())}.values())
"""The first of each class: a class decides what there is to go on with, a setting does not."""

SURGERY: dict[str, Callable[[nn.Module], nn.Module]] = {
    "adv-bnn": partial(bayesian, std=0.05),
    "adv-bnn without noise": partial(bayesian, std=1e-30),
}
"""What a defence needs done to a network first."""

RANDOM = ("adv-bnn",)
"""Draws weights for a whole batch, so that parts of it learn otherwise."""

# 55 of 97 images, in batches of 20: neither the epoch nor the last batch (15) nor two processes' halves come out even.
TRAINING = Training(
    epochs=2,
    images=55,
    batch_size=20,
    optimiser=SGD(lr=0.02, weight_decay=1e-4),
    schedule=Cosine(),
    ema=0.7,
    validation=16,
    seed=3,
)


@cache
def images() -> InMemory:
    train = Digits().load("train")
    return train.subset(torch.arange(0, len(train), 11)[:113])


@cache
def start() -> dict[str, Tensor]:
    """A network that knows a little: Deep Defense starts from one, and a fresh one has no boundary near."""
    torch.manual_seed(5)
    model, (batch,) = MLP(shape=(1, 8, 8), hidden=(24,)), images().in_order(200)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(15):
        optimiser.zero_grad()
        F.cross_entropy(model(batch.x), batch.y).backward()
        optimiser.step()
    return model.state_dict()


def network() -> MLP:
    model = MLP(shape=(1, 8, 8), hidden=(24,))
    model.load_state_dict(start())
    return model


def network_for(name: str) -> nn.Module:
    """The network that the table trains by this defence."""
    if "steady state" in name:
        torch.manual_seed(5)
        return ODENet(shape=(1, 8, 8), variant="tisode", width=4, step=0.25)
    return suited(name, network())


def suited(name: str, model: nn.Module) -> nn.Module:
    return SURGERY.get(name, lambda model: model)(model)


def train(name: str, folder: Path | None = None, training: Training = TRAINING) -> tuple[nn.Module, History]:
    model = network_for(name)
    return model, fit(model, images(), DEFENCES[name], training, folder=folder, progress=False)


def seated(game: Game, model: nn.Module) -> tuple[nn.ModuleDict, dict[str, torch.optim.Optimizer]]:
    """All networks of a game, and an optimiser for each."""
    nets = {"classifier": model, **{name: each.network for name, each in game.players(images()).items()}}
    return nn.ModuleDict(nets), {name: torch.optim.SGD(net.parameters(), lr=0.1) for name, net in nets.items()}


def bits(tensors: dict[str, Tensor]) -> bytes:
    return b"".join(value.numpy().tobytes() for value in tensors.values())


class Changeable(nn.Module):
    """A network whose answer depends on its mode, in all the ways there are."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.drop, self.fc2 = (
            nn.Linear(64, 16),
            nn.BatchNorm1d(16),
            nn.Dropout(0.3),
            nn.Linear(16, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(self.norm(self.fc1(x.flatten(1))).relu()))

    def trajectory(self, x: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        """The logits, and something that the weights can make smaller."""
        answer = self(x)
        logits = answer["logits"] if isinstance(answer, dict) else answer
        return logits, (end - start) * self.fc1.weight.square().expand(len(x), -1, -1)


def changeable(training: bool = True) -> Changeable:
    """Always the same one, without dropout, and with running statistics that are far from a batch's."""
    torch.manual_seed(0)
    model = Changeable().double().train(training)
    model.drop.p = 0.0
    model.norm.get_buffer("running_mean").uniform_(-1, 1)
    model.norm.get_buffer("running_var").uniform_(0.1, 3)
    return model


def first(count: int, dtype: torch.dtype = torch.float32) -> Batch:
    batch = next(images().batches([torch.arange(count)]))
    return Batch(batch.x.to(dtype), batch.y, batch.index, torch.arange(count))


def judged(folder: Path) -> dict[str, Tensor]:
    """What `fit` hands out: the moving average of the weights."""
    average = checkpoint.load(folder / "last.safetensors")["average"]
    return {key.removeprefix("module."): value for key, value in average.items() if key.startswith("module.")}


def _main(root: Path) -> None:
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # a process may be killed here, but the machine is not
    game, none = DEFENCES["training of gap"], replace(TRAINING, epochs=0)
    fit(MLP(shape=(1, 8, 8), hidden=(24,)), images(), game, none, folder=root / "first", progress=False)  # imports all
    in_a_pair(lambda: _train_in_a_pair(root / "pair"))
    for turn, name in enumerate(KILLED):
        often = replace(TRAINING, checkpoint_seconds=0.0)
        count = (3, 4, 5, 7, 8, 9)[turn % 6]
        killed(partial(train, name, root / "killed" / name, often), "last.safetensors", count)


def _train_in_a_pair(root: Path) -> None:
    for name in DEFENCES:
        train(name, root / name)
    _diverge(root)
    _normalise(root)


@dataclass(frozen=True)
class NotFinite(Objective):
    """From the fourth batch on NaN, but in the second process only."""

    batches: list[int]

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        self.batches.append(len(batch))
        bad = len(self.batches) > 3 and os.environ["RANK"] == "1"
        return Plain()(model, batch) * (float("nan") if bad else 1.0)


def _diverge(root: Path) -> None:
    try:
        fit(network(), images(), NotFinite([]), TRAINING, folder=root / "diverged")
    except Diverged as error:
        (root / f"diverged-{os.environ['RANK']}").write_text(str(error))


def _normalise(root: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Changeable(), images(), Plain(), TRAINING)
    (root / f"warned-{os.environ['RANK']}").write_text("".join(str(each.message) for each in caught))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
