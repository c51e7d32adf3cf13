"""Models small enough to train and attack within a test, and everything that a report shows of them."""

from functools import cache

import torch
from torch import nn

from steelman.attacks import FGSM, PGD, DeepFool
from steelman.checkup import Checkup, Finding
from steelman.data import Digits
from steelman.evaluation import evaluate
from steelman.evaluation.transferability import transfer
from steelman.measures.transfer import Transfer
from steelman.report import Document, Entry, Gallery, report_page

ATTACKS = {
    str(attack): attack
    for attack in (FGSM(eps=0.1), PGD(eps=0.1, steps=5), DeepFool(), DeepFool(steps=5, reference="prediction"))
}
RECIPE = (
    'network = { kind = "MLP" }\ndefence = { kind = "AdversarialTraining", attack = { kind = "PGD", eps = 0.1 } }\n'
)
CHECKUP = Checkup(
    (
        Finding("range", "all pixels in [0, 1]"),
        Finding("gradients", "one in three is zero", "warning", "use a loss <without> scale"),
    ),
    "gradients",
)


def trained(attack: PGD | None) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    (train,) = Digits().load("train").batches([torch.arange(600)])
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(40):
        x = train.x if attack is None else attack(network, train.x, train.y)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), train.y).backward()
        optimiser.step()
    return network


@cache
def models() -> dict[str, nn.Sequential]:
    return {"Plain <b>": trained(None), "PGD training": trained(PGD(eps=0.1, steps=3))}


@cache
def entries() -> tuple[Entry, ...]:
    """Two models on 60 images; the second has a check-up and a recipe."""
    test = Digits().load("test").subset(torch.arange(60))
    found = []
    for name, network in models().items():
        table = evaluate(network, test, ATTACKS)
        log = [{"epoch": e, "clean": 0.1 + 0.2 * e, "robust": 0.05 * e, "loss": 2.0 / (e + 1)} for e in range(4)]
        more = {"checkup": CHECKUP, "recipe": RECIPE} if found else {}
        gallery = Gallery.of(network, test, table, ATTACKS, count=12)
        found.append(Entry(name, table, log, gallery, {"data": "digits", "seed": "0"}, **more))
    return tuple(found)


@cache
def transferred() -> Transfer:
    return transfer(models(), models(), Digits().load("test").subset(torch.arange(60)), FGSM(eps=0.1))


@cache
def document() -> Document:
    return Document(entries(), [transferred()], on="2020-02-02")


@cache
def page() -> str:
    """The report of all that."""
    return report_page(document())
