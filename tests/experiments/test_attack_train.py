"""A learned adversary trained against a run's classifier: `steelman attack-train`, and what its run is good for."""

import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steelman import FGSM, L2LDA, PGD, AttackTraining, Training, checkpoint, evaluate
from steelman.data import Digits, sampled
from steelman.experiments.assess import attacked, battery_of
from steelman.experiments.attack_train import attack_train
from steelman.experiments.recipe import load_recipe
from steelman.experiments.run import Run, train
from steelman.measures import accuracy
from steelman.methods import methods
from steelman.networks import MLP
from steelman.table import Evaluation
from steelman.training import Adam, play, trained_weights

CLASSIFIER = """
data = "Digits"
network = { kind = "MLP", hidden = [24], preprocess = "SubtractMean" }
defence = "Plain"
training = { epochs = 4, batch_size = 64, images = 400, optimiser = { kind = "Adam", lr = 0.02 } }
"""
SMALL = [
    "training.epochs=2",
    "training.images=300",
    "training.validation=50",
    "defence.adversary.width=2",
    "defence.adversary.steps=2",
    "defence.adversary.eps=0.2",
    "defence.adversary.optimiser={kind='Adam', lr=0.03}",
    "training.batch_size=20",
    "evaluation.images=60",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and a generator trained against it."""
    root = tmp_path_factory.mktemp("root")
    (root / "plain.toml").write_text(CLASSIFIER)
    train(str(root / "plain.toml"), root / "runs", None)
    attack_train(root / "runs" / "plain", "L2LDA", root / "runs", None, SMALL)
    return root


def state(folder: Path, name: str = "last") -> dict:
    return checkpoint.load(folder / f"{name}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def learned(run: Run) -> L2LDA:
    assert isinstance(run.recipe.defence, AttackTraining)
    assert isinstance(run.recipe.defence.adversary, L2LDA)
    return run.recipe.defence.adversary


def test_only_the_generator_is_trained(root: Path):
    nets = state(root / "runs" / "L2LDA-on-plain")["nets"]
    assert same(nets["classifier"], trained_weights(root / "runs" / "plain"))
    run = Run.open(root / "runs" / "L2LDA-on-plain")
    like = run.data("test", None)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert same(run.player("generator", like).cpu().state_dict(), trained_weights(run.folder, net="generator"))
    assert torch.equal(torch.get_rng_state(), before)
    assert [set(line) for line in run.log[1:]] == [
        {"epoch", "generator loss", "lr", "seconds", "clean", "generated"}
    ] * 2
    assert run.log[1]["lr"] == 0.03
    assert run.log[2]["generator loss"] < run.log[1]["generator loss"]


def test_the_recipe_says_all(root: Path):
    folder = root / "runs" / "L2LDA-on-plain"
    recipe = load_recipe(folder / "recipe.toml")
    adversary = L2LDA(eps=0.2, width=2, steps=2, optimiser=Adam(lr=0.03))
    assert recipe.defence == AttackTraining(adversary)
    assert recipe.evaluation.attacks == {"L2LDA": adversary, "PGD": PGD(eps=0.2)}
    assert recipe.start == str(root / "runs" / "plain" / "best.safetensors")
    theirs = load_recipe(root / "plain.toml")
    assert (recipe.data, recipe.network) == (theirs.data, theirs.network)
    assert recipe.training == Training(epochs=2, images=300, validation=50, batch_size=20)


def test_held_out_images_are_a_tenth_and_at_most_a_thousand(root: Path, monkeypatch: pytest.MonkeyPatch):
    made = attack_train(root / "runs" / "plain", "L2LDA", root / "short", None, ["training.epochs=0", *SMALL[3:5]])
    assert made.recipe.training.validation == len(Digits().load("train")) // 10
    many = Digits().load("train").subset(torch.arange(30).repeat(400))
    monkeypatch.setattr(Digits, "load", lambda *_: many)
    monkeypatch.setattr("steelman.experiments.attack_train.train_recipe", lambda recipe, *_: Run(root, recipe))
    made = attack_train(root / "runs" / "plain", "L2LDA", root / "short", None, SMALL[3:5])
    assert made.recipe.training == Training(validation=1000, batch_size=L2LDA.batch_size)


def test_its_run_is_evaluated_with_its_own_generator(root: Path, call):
    folder = root / "runs" / "L2LDA-on-plain"
    assert call("evaluate", folder)[0] == 0
    run = Run.open(folder)
    test = sampled(run.data("test", None), 60)
    adversary = learned(run)
    table = table_of(run)
    attack = adversary.with_generator(run.player("generator", test))
    ours = evaluate(run.network(test), test, {"L2LDA": attack}, progress=False)
    assert accuracy(table, "L2LDA").value == accuracy(ours, "L2LDA").value < accuracy(table, "clean").value
    untrained = attack.with_generator(adversary.players(test)["generator"].network)
    weak = evaluate(run.network(test), test, {"weak": untrained}, progress=False)
    assert accuracy(ours, "L2LDA").value < accuracy(weak, "weak").value
    for name in ("generated", "generator-loss", "clean"):
        assert (folder / "evaluation" / f"convergence-{name}.svg").is_file()
    page = (folder / "evaluation" / "report.html").read_text()
    for said in ("Accuracy under the generator, held-out images by epoch", "Training loss of the generator by epoch"):
        assert said in page
    assert "AttackTraining(adversary=L2LDA(" in page
    assert str(run.recipe.start) in page


def table_of(run: Run) -> Evaluation:
    subject = run.subject(None)
    return attacked(subject, battery_of(subject), progress=False)["pixels"]


def test_another_run_is_attacked_by_a_generators_path(root: Path, tmp_path: Path):
    folder = root / "runs" / "L2LDA-on-plain"
    battery = f"""
[evaluation]
images = 60
[evaluation.attacks]
"folder" = {{ kind = "L2LDA", eps = 0.2, steps = 2, generator = "{folder}" }}
"checkpoint" = {{ kind = "L2LDA", eps = 0.2, steps = 2, generator = "{folder / "best.safetensors"}" }}
"""
    (tmp_path / "other.toml").write_text(CLASSIFIER.replace("epochs = 4", "epochs = 4, seed = 1") + battery)
    run = train(str(tmp_path / "other.toml"), tmp_path, None)
    table = table_of(run)
    test = sampled(run.data("test", None), 60)
    generator = Run.open(folder).player("generator", test)
    attack = L2LDA(eps=0.2, steps=2, generator=generator)
    for name in ("folder", "checkpoint"):
        ours = evaluate(run.network(test), test, {name: attack}, progress=False)
        assert accuracy(table, name).value == accuracy(ours, name).value < accuracy(table, "clean").value


def test_training_goes_on_from_a_given_generator(root: Path, tmp_path: Path):
    folder = root / "runs" / "L2LDA-on-plain"
    more = attack_train(
        root / "runs" / "plain",
        "L2LDA",
        tmp_path,
        None,
        [*SMALL[1:], "training.epochs=0", f"defence.adversary.generator={folder}"],
    )
    ours, theirs = (trained_weights(each, net="generator") for each in (more.folder, folder))
    assert same(ours, theirs)
    own = replace(learned(more), generator=None)  # the run's, not the one that it began with
    assert more.recipe.evaluation.attacks["L2LDA"] == own != learned(more)


def test_a_recipe_names_the_adversary_and_its_training(root: Path, tmp_path: Path):
    (tmp_path / "mine.toml").write_text("""
data = "MNIST"
network = { kind = "LeNet" }
start = "reference_mnist_lenet.toml"
defence = { kind = "AttackTraining", adversary = { kind = "L2LDA", width = 2, steps = 1, eps = 0.1 } }
training = { epochs = 1, images = 100, batch_size = 50 }
[evaluation]
attacks = { FGSM = { kind = "FGSM", eps = 0.1 } }
""")
    run = attack_train(
        root / "runs" / "plain" / "last.safetensors", str(tmp_path / "mine.toml"), tmp_path, None, ["training.seed=3"]
    )
    assert run.name == "mine-on-plain-last"
    assert learned(run).eps == 0.1
    assert run.recipe.training == Training(epochs=1, images=100, batch_size=50, seed=3)
    assert run.recipe.evaluation.attacks == {"FGSM": FGSM(eps=0.1)}
    assert isinstance(run.recipe.data, Digits)
    assert run.recipe.start == str(root / "runs" / "plain" / "last.safetensors")


def test_an_ensembles_run_is_attacked_as_a_whole(root: Path, tmp_path: Path):
    member = '{ kind = "MLP", hidden = [8] }'
    (tmp_path / "both.toml").write_text(
        f'data = "Digits"\nnetwork = {{ kind = "Ensemble", members = [{member}, {member}] }}\ndefence = "Plain"\n'
        "training = { epochs = 0 }"
    )
    both = train(str(tmp_path / "both.toml"), tmp_path, None)
    run = attack_train(both.folder, "L2LDA", tmp_path, None, [*SMALL[3:5], "training.epochs=0"])
    assert same(trained_weights(run.folder), trained_weights(both.folder))


def attacking(root: Path, *words: object) -> list[object]:
    sets = [word for change in SMALL for word in ("--set", change)]
    return ["attack-train", root / "runs" / "plain", "L2LDA", "--runs", root / "runs", *sets, *words]


def test_a_finished_run_is_left_as_it_is_and_another_one_refused(root: Path, tmp_path: Path, call):
    last = root / "runs" / "L2LDA-on-plain" / "last.safetensors"
    before = last.read_bytes()
    code, out, err = call(*attacking(root))
    assert (code, err) == (0, "")
    assert re.search(r"L2LDA-on-plain: epoch 2, generator loss -\d.*, generated 0\.\d+\n", out)
    assert f"next: steelman evaluate {root / 'runs' / 'L2LDA-on-plain'}" in out
    code, _, err = call(*attacking(root, "--set", "defence.adversary.eps=0.1", "--set", "training.seed=2"))
    assert code == 2
    assert "another defence.adversary.eps and training.seed: give this one another --name" in err
    assert last.read_bytes() == before


def test_a_classifier_that_was_trained_anew_is_another_one(root: Path, tmp_path: Path, call):
    shutil.copytree(root / "runs" / "plain", tmp_path / "runs" / "plain")
    short = ("--set", "training.epochs=1")
    assert call(*attacking(tmp_path, *short))[0] == 0
    shutil.rmtree(tmp_path / "runs" / "plain")
    train(str(root / "plain.toml"), tmp_path / "runs", None, ["training.seed=5"])
    code, _, err = call(*attacking(tmp_path, *short))
    assert code == 2
    assert "holds a run with another frozen classifier: use another folder, or delete this one" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "L2LAD"], r"no learned adversary L2LAD; did you mean L2LDA\? \(or give a recipe whose defence is Att"),
        (["RUN", "PGD"], r"no learned adversary PGD"),
        (["RUN", "plain_mnist_cnn"], r"plain_mnist_cnn\.toml does not attack a classifier: its defence is Plain\(\)"),
        (["NONE", "L2LDA"], r"NONE is no run"),
        (
            ["RUN", "L2LDA", "--set", "defence.adversary.epps=1"],
            r"defence\.adversary\.epps: L2LDA .*did you mean eps\?",
        ),
        (["RUN", "L2LDA", "--set", "defence=Plain"], r"Plain\(\) trains it: use steelman train"),
        (["RUN", "L2LDA", "--set", "defence.adversary=PGD"], r"defence\.adversary\.kind: there is no Adversary 'PGD'"),
        (["RUN", "L2LDA", "--set", "training.ema=0.9"], r"training\.ema does nothing here"),
        (["RUN", "L2LDA", "--set", "training.optimiser=Adam"], r"training\.optimiser does nothing here"),
        (["RUN", "L2LDA", "--set", "training.monitor=PGD"], r"training\.monitor does nothing here"),
        (["RUN", "L2LDA", "--set", "training.micro_batch=5"], r"AttackTraining is none: leave it out"),
        (["RUN", "L2LDA", "--set", "defence.adversary.generator=RUN"], r"plain.* has no generator, only classifier"),
        (["RUN", "L2LDA", "--set", "defence.adversary.generator=NONE"], r"NONE is no run"),
    ],
)
def test_a_user_s_error_is_one_line(words: list[str], message: str, root: Path, tmp_path: Path, call):
    places = {"RUN": str(root / "runs" / "plain"), "NONE": str(root / "NONE")}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    small = [word for change in SMALL[3:5] for word in ("--set", change)] if message.startswith("training") else []
    code, out, err = call("attack-train", *words, *small, "--runs", tmp_path / "new")
    assert code == 2
    assert err.startswith("steelman: ")
    assert re.search(message, err), err
    assert out == ""
    assert not list(tmp_path.glob("new/*/*.safetensors"))


def test_a_recipe_without_a_classifier_is_refused(tmp_path: Path):
    path = tmp_path / "alone.toml"
    path.write_text(
        'data = "Digits"\nnetwork = { kind = "MLP" }\ndefence = { kind = "AttackTraining", adversary = "L2LDA" }\n'
    )
    with pytest.raises(ValueError, match=r"alone\.toml: AttackTraining attacks a trained classifier: .* as start"):
        load_recipe(path)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none/best\.safetensors"):
        train(str(path), tmp_path / "runs", None, [f"start={tmp_path}/none/best.safetensors"])


def test_a_run_without_a_generator_says_so(root: Path, tmp_path: Path, call):
    shutil.copytree(root / "runs" / "plain", tmp_path / "plain")
    with (tmp_path / "plain" / "recipe.toml").open("a") as file:
        file.write('[evaluation.attacks."L2L-DA"]\nkind = "L2LDA"\n')
    code, _, err = call("evaluate", tmp_path / "plain")
    assert code == 2
    assert re.search(
        r"plain has no generator of L2LDA, since its defence is Plain\(\): .*attack-train .*plain L2LDA", err
    )


def test_a_generator_for_other_images_or_classes_is_refused(root: Path):
    attack = L2LDA(eps=0.2, steps=2, generator=str(root / "runs" / "L2LDA-on-plain"))
    x, y = torch.rand(3, 1, 12, 12), torch.arange(3)
    with pytest.raises(ValueError, match=r"trained for images of \(1, 8, 8\); these are \(1, 12, 12\)"):
        attack(MLP(shape=(1, 12, 12), hidden=(8,)), x, y)
    with pytest.raises(ValueError, match=r"trained for 10 classes; here are 12 or more"):
        attack(MLP(shape=(1, 8, 8), hidden=(8,), classes=12), x[..., :8, :8], y + 9)
    with pytest.raises(ValueError, match=r"trained with normalise='image', delta=True: L2LDA needs that too"):
        replace(attack, normalise="rms", delta=False)(MLP(shape=(1, 8, 8), hidden=(8,)), x[..., :8, :8], y)
    with pytest.raises(ValueError, match="L2LDA has no targeted form"):
        attack(MLP(shape=(1, 8, 8), hidden=(8,)), x[..., :8, :8], y, target=y + 1)
    with pytest.raises(ValueError, match=r"has no generator yet: train one \(steelman attack-train RUN L2LDA\)"):
        L2LDA()(MLP(shape=(1, 8, 8), hidden=(8,)), x[..., :8, :8], y)
    with pytest.raises(ValueError, match="network or the path of a run; got 5"):
        L2LDA(generator=5)(MLP(shape=(1, 8, 8), hidden=(8,)), x[..., :8, :8], y)


def test_an_interrupt_changes_no_bit(root: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C in the middle of the second epoch; then the same command to the end."""
    loop, batches = sys.modules["steelman.training.loop"], []

    def interrupted(*args: object) -> dict[str, float]:
        batches.append(1)
        if len(batches) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return play(*args)  # pyright: ignore[reportArgumentType]

    sets = [word for change in SMALL for word in ("--set", change)]
    command = ["attack-train", root / "runs" / "plain", "L2LDA", "--runs", tmp_path, "--name", "stopped", *sets]
    monkeypatch.setattr(loop, "play", interrupted)
    code, _, err = call(*command)
    assert (code, err) == (130, "steelman: training was interrupted; the same call resumes it from its checkpoint\n")
    assert state(tmp_path / "stopped")["position"][:2] == [1, 5]
    assert call(*command)[0] == 0
    assert len(batches) == 2 * 15
    stopped, whole = tmp_path / "stopped", root / "runs" / "L2LDA-on-plain"
    ours, theirs = state(stopped), state(whole)
    for name in ("classifier", "generator"):
        assert same(ours["nets"][name], theirs["nets"][name])
    moments, expected = (each["optimisers"]["generator"]["state"] for each in (ours, theirs))
    assert moments.keys() == expected.keys() != set()
    assert all(same(moments[key], expected[key]) for key in moments)
    ours, theirs = state(stopped, "best"), state(whole, "best")
    assert ours["epoch"] == theirs["epoch"]
    assert same(ours["generator"], theirs["generator"])


def test_help_and_citations_know_the_adversaries(call):
    code, out, _ = call("attack-train", "--help")
    assert code == 0
    assert "Example: steelman attack-train " in out
    assert "Defences" not in out
    _, train_help, _ = call("train", "--help")
    for each in methods("adversary"):
        shown = rf"\b{each.name} +{re.escape(each.summary[:20])}"
        assert re.search(shown, train_help)
        assert bool(re.search(shown, out)) == (each.name != "AttackTraining"), "which is what the command does itself"
    code, out, _ = call("cite", "L2LDA")
    assert code == 0
    assert "Yunseok Jang and Tianchen Zhao" in out
