"""`python -m benchmarks.gpu` in small on a CPU: every part runs, errors and limits are kept, no times."""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu import agreement, attacks, page, running, training, waits
from benchmarks.gpu.ground import Setting, ground
from benchmarks.gpu.loops import Counting, GraphedPGD, compiled_pgd, plain_pgd
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.running import Store, apart, here, run
from benchmarks.gpu.timing import Measured, in_turns
from torch import Tensor, nn

from every_attack import ATTACKS
from steelman import APGD, FGSM, PGD, Attack, evaluate
from steelman.attacks import CascadeAttack
from steelman.data import InMemory
from steelman.norms import L2

DOCS = Path(__file__).parents[2] / "docs"
CPU = torch.device("cpu")
ABOUT = {"device": "cpu", "hardware": "a processor", "torch": "2", "cuda": None, "python": "3", "small": True}
ABOUT |= {"date": "2026-11-30"}

PEER = """
class PGD:
    def __init__(self, model, eps, alpha, steps, random_start):
        self.all = model, eps, alpha, steps
    def __call__(self, x, y):
        from benchmarks.gpu.loops import plain_pgd
        print("peers talk")
        model, eps, alpha, steps = self.all
        return plain_pgd(model, x, y, eps, alpha, steps)
"""


class Inline(Executor):
    """Works at once, in this process."""

    def submit(self, fn: Any, /, *args: Any, **named: Any) -> Future:
        done = Future[Any]()
        done.set_result(fn(*args, **named))
        return done


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """With a checkout of a peer, and one that cannot be imported."""
    folder = tmp_path_factory.mktemp("gpu")
    for name, text in (("torchattacks", PEER), ("autoattack", "raise RuntimeError('no such device')")):
        (folder / "peers" / f"{name}-main" / name).mkdir(parents=True)
        (folder / "peers" / f"{name}-main" / name / "__init__.py").write_text(text)
    return Setting(CPU, folder, True, folder / "peers")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be compiled runs as it is."""
    monkeypatch.setattr(torch, "compile", lambda work, **how: work)


TITLES = {"step": "PGD's step in several forms", "agreement": "The CPU's results", "workers": "Two workers"}
TITLES |= {"machine": "A launch", "launches": "Launches", "attacks": "Attacks beside", "training": "Training"}
TITLES |= {"standard": "The battery", "bf16": "Floats"}

SLOW = {
    "bf16",
    "step, ResNet-18",
    "launches, ResNet-18",
    "attacks, ResNet-18",
    "agreement, ResNet-18",
    "training, ResNet-18",
    "standard, ResNet-18",
    "two workers",
    "waits",
}
"""The same code as for the LeNet; and what has a test of its own below."""


@pytest.mark.parametrize("name", [name for name in PARTS if name not in SLOW])
@pytest.mark.usefixtures("eager")
def test_every_part_runs_and_has_its_table(name: str, setting: Setting, monkeypatch: pytest.MonkeyPatch):
    few = ("FGSM", "Square L2", "FMN Linf")
    cases = agreement.cases
    monkeypatch.setattr(agreement, "cases", lambda *how: {name: cases(*how)[name] for name in few})
    found = here(name, setting, 0)
    assert found["state"] == "done", found
    rows = [row for row in found["rows"] if row["table"] != "missing"]
    assert rows
    assert not [row for row in rows if "error" in row and row.get("side") != "torchattacks"]  # it has no more than PGD
    json.dumps(rows)
    text = page.page(ABOUT | {"device": "a GPU", "small": False}, {name: found})
    assert f"## {TITLES[rows[0]['table']]}" in text
    if name.startswith(("step", "attacks")):
        assert [row["error"] for row in found["rows"] if row["table"] == "missing"] == ["RuntimeError: no such device"]
        assert "torchattacks" in {row.get("form", row.get("side")) for row in rows}
    if name.startswith("step"):
        assert {row["apart"] for row in rows} == {0}, "every form gives the same images"


def test_loops_by_hand_are_pgd(setting: Setting):
    net = ground("LeNet", setting)
    x, y = net.images(5)
    given = x.clone()
    attack = PGD(net.eps, steps=3, step_size=net.eps / 4, random_start=False)
    wanted = attack(net.model, x, y)
    assert (wanted != x).any()
    graphed = GraphedPGD(net.model, x.flip(0), y.flip(0), net.eps, net.eps / 4)
    for found in (plain_pgd(net.model, x, y, net.eps, net.eps / 4, 3), graphed(x, y, 3), graphed(x, y, 3)):
        torch.testing.assert_close(found, wanted)
    assert torch.equal(x, given)


@pytest.mark.usefixtures("eager")
def test_the_whole_step_can_be_compiled_by_function_transforms(setting: Setting):
    net = ground("LeNet", setting)
    x, y = net.images(5)
    found = compiled_pgd(net.model, net.eps, net.eps / 4)(x, y, 3)
    torch.testing.assert_close(found, plain_pgd(net.model, x, y, net.eps, net.eps / 4, 3))


def test_passes_alone_are_those_of_the_attack(setting: Setting):
    net = ground("LeNet", setting)
    counting = Counting(net.model).eval()
    x, y = net.images(4)
    PGD(net.eps, steps=3)(counting, x, y)
    passes = [list(each) for each in counting.passes]
    assert passes.count([4, 1]) == 3
    again = Counting(net.model).eval()
    counting.model = again
    counting.again(x)
    assert again.passes == passes


def test_calls_take_turns_and_one_that_fails_is_named():
    calls: list[str] = []

    def fail() -> None:
        raise ValueError("no\nkernel")

    works = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b"), "c": fail}
    found = in_turns(works, CPU, 3)
    assert found["c"] == "ValueError: no kernel"
    assert isinstance(found["a"], Measured)
    assert (found["a"].ratio, found["a"].rounds, found["a"].peak) == (1, 3, None)
    assert "".join(calls[-6:]) == "baabba"
    assert isinstance(in_turns({"a": fail, "b": works["b"]}, CPU, 1)["b"], Measured), "also without the first"


def test_two_devices_that_round_otherwise_agree_and_other_networks_do_not(setting: Setting):
    net = ground("LeNet", setting)
    x, y = (each[:6] for each in (net.x.double(), net.y))
    model = Rounding(net.model.double())
    try:
        cases = agreement.cases(net.eps, 2, 4)
        for name in ("PGD Linf", "PGD L1", "APGD Linf", "Square L2", "DeepFool", "DDN"):
            found = agreement.compared(cases[name], net.model, model, x, y)
            assert found["holds"], (name, found)
        assert agreement.compared(PGD(net.eps, norm=L2, steps=5), net.model, model, x, y)["furthest"] > 0
        model.by = 1e-3
        found = agreement.compared(PGD(3 * net.eps, norm=L2, steps=5), net.model, model, x, y)
        assert not found["holds"]
        assert found["twice"]
    finally:
        net.model.float()


class Rounding(nn.Module):
    """The network with the rounding of another device."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.by = model, 1e-14

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x * (1 + self.by * torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).reshape(x.shape[1:])))


# --- waits


class Waiting(Attack):
    """One of each that waits, and of some that do not."""

    def search(self, oracle: Any, x: Tensor, goal: Any, draws: Any) -> Tensor:
        flags = x.flatten(1).amax(1) > 0.5
        if bool(flags.any()):
            x = x + float(flags.sum()) * 0
        x[flags], x[~flags] = x[flags], 0.0
        places = torch.where(flags)[0]
        x = x.index_add(0, places, torch.zeros(len(places), *x.shape[1:], device=x.device))
        x = x + torch.as_tensor(0.0, device=x.device) + torch.full((), 0.0, device=x.device)
        return x + x.new_zeros(1) + torch.zeros_like(x)


def test_waits_are_counted_where_they_are(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waits, "HOME", Path(__file__).parents[2])  # of the attack here
    net = ground("LeNet", setting)
    found = waits.counted(Waiting(), net.model, *net.images(4))
    kinds = sorted(place.split(": ", 1)[1] for place in found.waits.elements() if place.startswith("tests/"))
    by_mask = ["__getitem__ by a mask", "__setitem__ by a mask"]
    assert kinds == ["__bool__", "__float__", *by_mask, "as_tensor from the host", "where"]
    assert not found.mixed


def test_a_step_of_pgd_never_waits(setting: Setting):
    net = ground("LeNet", setting)
    short, long = (waits.counted(PGD(net.eps, steps=steps), net.model, *net.images(4)) for steps in (3, 8))
    assert long.waits == short.waits


class Steep(nn.Module):
    """Logits whose gradient is not finite on the images whose first pixel is bright."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        root = (flat[:, :1] - flat[:, :1].detach()).abs().sqrt() * (flat[:, :1].detach() > 0.5)
        return flat[:, :3] + root


@pytest.mark.parametrize(
    "attack",
    [PGD(eps=0.1, steps=3, random_start=False), APGD(eps=0.1, steps=4), CascadeAttack(eps=0.1, steps=4)],
    ids=["PGD", "APGD", "Cascade"],
)
def test_gradients_that_are_not_finite_are_refused_on_a_gpu_too(attack: Attack):
    """There the host does not look at every step, but when the attack is over, also of an attack inside an attack."""
    x = torch.full((4, 1, 2, 2), 0.3)
    y = torch.zeros(4, dtype=torch.long)
    bright = x.clone()
    bright[2, 0, 0, 0] = 0.9
    for on in (lambda *given: attack.run(*given), lambda *given: waits.counted(attack, *given)):
        with pytest.raises(ValueError, match="gradients are NaN or infinite"):
            on(Steep().eval(), bright, y)


class Mixing(Attack):
    def search(self, oracle: Any, x: Tensor, goal: Any, draws: Any) -> Tensor:
        return x + torch.zeros(len(x), 1, 1, 1)


def test_a_tensor_of_the_host_among_those_of_the_device_is_found(setting: Setting):
    net = ground("LeNet", setting)
    assert sum(waits.counted(Mixing(), net.model, *net.images(2)).mixed.values()) == 1


LEFT_OUT = {"Surrogate", "L2LDA", "AdvGAN", "GAP", "PGN"}
"""They move a network to the device themselves, which the mode does not follow."""
LEFT_OUT |= {"CarliniWagnerL0", "BoundaryAttack", "LBFGS", "Latent", "BestOf", "SmallestRadius", "SaltAndPepper"}
LEFT_OUT |= {"UniversalPerturbation", "CarliniWagnerLinf", "CarliniWagner", "Adaptive"}
"""Many passes."""


def test_no_attack_mixes_devices():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)).eval()
    x = torch.rand(3, 1, 4, 6)
    with torch.no_grad():
        y = model(x).argmax(1)
    tried = set[str]()
    for case in ATTACKS:
        name = type(case.attack).__name__
        if name in tried | LEFT_OUT or case.targeted:
            continue
        tried.add(name)
        assert not waits.counted(case.attack, model, x, y).mixed, name
    assert len(tried) > 20


# --- parts in processes of their own


def test_a_second_call_makes_what_is_missing(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = True

    def rows(setting: Setting) -> Iterator[dict]:
        yield {"table": "waits", "row": 1}
        if broken:
            raise RuntimeError("out of memory")
        yield {"table": "waits", "row": 2}

    monkeypatch.setattr(Part, "rows", lambda part, setting: rows(setting))
    path, names = tmp_path / "gpu.json", ["machine", "waits"]
    store = Store.open(path, ABOUT)
    run(store, names, setting, 100, here)
    assert [store.parts[name]["state"] for name in names] == ["failed", "failed"]
    assert store.parts["waits"]["rows"] == [{"table": "waits", "row": 1}]
    assert store.parts["waits"]["error"] == "RuntimeError: out of memory"
    broken = False
    store = Store.open(path, ABOUT | {"date": "2027-01-01"})
    assert store.about == ABOUT
    run(store, store.wanted(names)[:1], setting, 100, here)
    store = Store.open(path, ABOUT)
    assert store.wanted(names) == ["waits"]
    assert store.wanted(names, ["machine"]) == names
    run(store, ["waits"], setting, running.LEAST - 1, here)
    assert Store.open(path, ABOUT).wanted(names) == ["waits"], "no time was left"
    with pytest.raises(SystemExit, match="another torch"):
        Store.open(path, ABOUT | {"torch": "3"})


def test_a_part_has_a_process_of_its_own(setting: Setting):
    found = apart("machine", setting, 100)
    assert (found["state"], [row["table"] for row in found["rows"]]) == ("done", ["machine"])


SCRIPT = """#!/bin/sh
while test "$1" != --rows; do shift; done
echo '{"table": "machine"}' > "$2"
"""


@pytest.mark.skipif(os.name != "posix", reason="a script")
@pytest.mark.parametrize(
    ("end", "state", "error"),
    [("sleep 100", "out of time", "cut short after 1 s"), ("echo 'RuntimeError: boom'; exit 3", "failed", "boom")],
)
def test_a_part_that_does_not_end_well_keeps_its_rows(
    end: str, state: str, error: str, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script = tmp_path / "python"
    script.write_text(SCRIPT + end)
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    found = apart("machine", setting, 1)
    assert (found["state"], found["rows"]) == (state, [{"table": "machine"}])
    assert error in found["error"]


def test_floats_of_half_the_size(setting: Setting):
    rows = list(attacks.bf16(setting, "LeNet"))
    assert [row["form"] for row in rows] == ["float32, no TF32", "float32, TF32", "bfloat16"]
    assert not [row for row in rows if "error" in row]
    assert rows[1]["apart"] == 0 < rows[2]["apart"]


def test_two_workers(setting: Setting):
    (row,) = training.two_workers(setting, pool=Inline())
    assert row["equal"]
    assert row["predictions"] == 1


# --- the page


def test_a_small_form_shows_no_times():
    rows = [
        {"table": "step", "network": "LeNet", "seconds": 0.1234, "ratio": 2.0, "form": "x", "images": 1, "steps": 2}
    ]
    each = {"table": "waits", "attack": "PGD", "each": 1.0, "waits": 3, "mixed": {}, "places": {"a.py f: item": 1.0}}
    parts = {
        "step, LeNet": {"state": "done", "rows": rows},
        "waits": {"state": "failed", "rows": [each], "error": "a|b"},
    }
    text = page.page(ABOUT, parts)
    assert "No GPU was at hand" in text
    assert "| PGD | 1.0 | 3 | 0 | `a.py f: item` 1.0 |" in text
    assert "| waits | failed: a/b |" in text
    assert "| agreement, LeNet | not begun |" in text
    assert "123" not in text
    text = page.page(ABOUT | {"device": "NVIDIA H200", "small": False, "cuda": "13"}, parts)
    assert "No GPU was at hand" not in text
    assert "NVIDIA H200" in text
    assert "| LeNet | 1 | 2 | x | 123.40 | 0.50 |  |  |  |" in text


def test_the_page_in_the_documentation_is_that_of_its_file():
    kept = json.loads((DOCS / "results" / "gpu.json").read_text())
    assert (DOCS / "gpu.md").read_text() == page.page(kept["about"], kept["parts"])


@pytest.mark.parametrize("kind", ["pair", "data set", "worker"])
def test_an_evaluation_mixes_no_devices(kind: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    mode, x, y = waits.Pretended(), torch.rand(6, 1, 8, 8), torch.randint(10, (6,))
    model = mode.module(net)
    mode.on(x, y)
    with mode:
        data = (x, y) if kind == "pair" else InMemory("made", x, y, tuple("0123456789"))
        evaluate(model, data, [FGSM(0.1)], executor=Inline() if kind == "worker" else None, progress=False)
    assert not mode.mixed
