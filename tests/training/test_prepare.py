"""Data made before training."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from preparations import Whole, digits, everything
from steelman import (
    FGSM,
    PGD,
    DeepFool,
    Plain,
    UniversalPerturbation,
    VirtualAdversarial,
    checkpoint,
    fit,
)
from steelman.data import Dataset, Digits, InMemory, Streamed, split_off
from steelman.experiments import run as rooms
from steelman.networks import MLP
from steelman.training import SGD, Training, prepare
from steelman.training.prepare import Crafted, CraftedPairs, NoisyCopies, Preparation, SoftLabels


def streamed(data: InMemory) -> Streamed:
    (batch,) = data.in_order(len(data))
    items = list(zip(batch.x, batch.y.tolist(), strict=True))
    return Streamed("Digits", items, data.shape, data.classes, labels=data.labels)


@pytest.fixture(scope="module")
def reference() -> MLP:
    torch.manual_seed(0)
    model, train = MLP(shape=(1, 8, 8), hidden=(16,)), Digits().load("train")
    fit(model, train, Plain(), Training(epochs=3, batch_size=32, optimiser=SGD(lr=0.05)), progress=False)
    return model.train()  # whatever mode it comes in


# --- noisy copies


@pytest.mark.parametrize("keep_clean", [True, False])
def test_noisy_copies_are_the_images_and_so_many_noisy_ones_of_each(keep_clean: bool):
    data = digits()
    clean, made = everything(data), everything(NoisyCopies(sigma=0.3, keep_clean=keep_clean)(data))
    if keep_clean:
        assert torch.equal(made.x[:60], clean.x)
        assert torch.equal(made.indices[:60], clean.indices)
        made = Whole(*(each[60:] for each in made))
    assert len(made.x) == 600
    assert torch.equal(made.y, clean.y.repeat(10))
    noise = ((made.x - clean.x.repeat(10, 1, 1, 1)) / 0.3).flatten()
    assert len(noise) == 38400
    assert abs(float(noise.mean())) < 4 / math.sqrt(len(noise))
    assert abs(float(noise.square().mean()) - 1) < 4 * math.sqrt(2 / len(noise))
    ends = noise.abs().reshape(10, -1)
    assert float((ends > 1.959964).double().mean()) == pytest.approx(0.05, abs=0.005)
    assert torch.corrcoef(noise.reshape(10, -1)).fill_diagonal_(0).abs().max() < 4.5 / math.sqrt(ends.shape[1])
    assert made.x.min() < 0
    assert made.x.max() > 1


def test_uniform_noise_and_clipping():
    data = digits()
    clean = everything(data)
    noise = everything(NoisyCopies(sigma=0.3, copies=5, keep_clean=False, noise="uniform")(data)).x
    noise = (noise - clean.x.repeat(5, 1, 1, 1)).flatten()
    assert noise.abs().max() <= 0.3 + 1e-6
    assert float(noise.square().mean()) == pytest.approx(0.3**2 / 3, rel=0.03)
    free, clipped = (everything(NoisyCopies(clip=clip)(data)).x for clip in (False, True))
    assert torch.equal(clipped, free.clamp(0, 1))
    assert not torch.equal(clipped, free)


def test_a_copy_meets_the_same_noise_whatever_is_read_with_it():
    data = NoisyCopies(copies=3, sigma=0.2)(digits(), seed=4)
    whole = everything(data)
    assert len(set(whole.indices.tolist())) == len(data) == 240
    order = torch.randperm(240, generator=torch.Generator().manual_seed(0))
    for places, batch in zip(order.split(50), data.batches(order.split(50)), strict=True):
        assert torch.equal(batch.x, whole.x[places])
        assert torch.equal(batch.y, whole.y[places])
        assert batch.index is not None
        assert torch.equal(batch.index, whole.indices[places])
    part = data.subset(order[:30])
    assert torch.equal(everything(part).x, whole.x[order[:30]])
    assert torch.equal(part.index, whole.indices[order[:30]])
    assert part.labels is not None
    assert torch.equal(part.labels, whole.y[order[:30]])
    again = everything(part.subset(torch.tensor([5, 2])).to("cpu"))
    assert torch.equal(again.x, whole.x[order[[5, 2]]])
    # The noise belongs to the image and not to its place, so a part of the images has the same.
    half = everything(NoisyCopies(copies=3, sigma=0.2)(digits().subset(torch.arange(30, 60)), seed=4))
    assert torch.equal(half.x, whole.x.reshape(4, 60, 1, 8, 8)[:, 30:].flatten(0, 1))
    other = everything(NoisyCopies(copies=3, sigma=0.2)(digits(), seed=5))
    assert not torch.isclose(other.x[60:], whole.x[60:]).all(3).any()


@pytest.mark.parametrize("preparation", [NoisyCopies(copies=2), Crafted(FGSM(eps=0.1)), SoftLabels()])
def test_streamed_images_are_prepared_as_those_in_memory(preparation: Preparation, reference: MLP):
    data = digits()
    data = InMemory("Digits", everything(data).x, everything(data).y, data.classes)
    ours, theirs = (everything(preparation(each, reference)) for each in (streamed(data), data))
    assert torch.equal(ours.x, theirs.x)
    assert torch.equal(ours.y, theirs.y)
    assert torch.equal(ours.indices, theirs.indices)
    assert torch.equal(ours.soft, theirs.soft)


# --- crafted and labelled images


def test_crafted_images_are_those_of_the_attack_on_the_reference(reference: MLP):
    data, attack = digits(), FGSM(eps=0.1)
    clean = everything(data)
    x = clean.x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(reference(x), clean.y)
    x_adv = (x + 0.1 * torch.autograd.grad(loss, x)[0].sign()).clamp(0, 1).detach()
    both = everything(Crafted(attack)(data, reference))
    torch.testing.assert_close(both.x, torch.cat([clean.x, x_adv]))
    assert torch.equal(both.y, clean.y.repeat(2))
    assert len(set(both.indices.tolist())) == 120
    alone = everything(Crafted(attack, keep_clean=False)(data, reference))
    assert torch.equal(alone.x, both.x[60:])
    assert torch.equal(alone.y, clean.y)
    assert torch.equal(alone.indices, both.indices[60:])


def test_versions_of_an_image_are_beside_it(reference: MLP, tmp_path: Path):
    data, attacks = digits(), (FGSM(eps=0.1), PGD(eps=0.2, steps=2))
    clean = everything(data)
    alone = [everything(Crafted(each, keep_clean=False)(data, reference)).x for each in attacks]
    made = CraftedPairs(attacks)(data, reference, folder=tmp_path)
    again = CraftedPairs(attacks)(data, reference, folder=tmp_path)
    assert torch.equal(everything(made).x, clean.x)
    assert torch.equal(everything(made).indices, clean.indices)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for copies in (made, again, made.subset(torch.arange(60)).to("cpu")):
        for batch, which in zip(copies.batches(order.split(25)), order.split(25), strict=True):
            assert batch.crafted is not None
            assert batch.crafted.shape == (len(which), 2, 1, 8, 8)
            for version, wanted in zip(batch.crafted.unbind(1), alone, strict=True):
                assert torch.equal(version, wanted[which])
    (part,) = made.batches([torch.arange(60)])
    assert part.crafted is not None
    assert torch.equal(part[torch.tensor([3, 5])].crafted, part.crafted[[3, 5]])  # pyright: ignore
    assert made.digest() != CraftedPairs(attacks[:1])(data, reference).digest()


def test_unbounded_images_stay_where_the_attack_puts_them(reference: MLP):
    data, attack = digits(), DeepFool(steps=5, box=None)
    made = everything(Crafted(attack, keep_clean=False)(data, reference))
    clean = everything(data)
    assert torch.equal(made.x, attack(reference.eval(), clean.x, clean.y))
    assert made.x.min() < 0
    right = reference(clean.x).argmax(1) == clean.y
    assert (reference(made.x).argmax(1) != clean.y)[right].all()
    assert torch.equal(made.x[~right], clean.x[~right])


def test_an_attack_leaves_the_prediction_of_the_reference(reference: MLP):
    data = digits()
    clean = everything(data)
    y = reference(clean.x).argmax(1)
    assert not torch.equal(y, clean.y)
    made = everything(Crafted(FGSM(eps=0.1, reference="prediction"), keep_clean=False)(data, reference))
    torch.testing.assert_close(made.x, FGSM(eps=0.1)(reference.eval(), clean.x, y))
    assert torch.equal(made.y, clean.y)


def test_the_noise_of_an_attack_belongs_to_the_image(reference: MLP):
    data, attack = digits(), Crafted(VirtualAdversarial(eps=1.0), keep_clean=False)
    whole, half = (everything(attack(each, reference)) for each in (data, data.subset(torch.arange(30, 60))))
    torch.testing.assert_close(whole.x[30:], half.x)
    other = everything(attack(data, reference, seed=1))
    assert not torch.equal(whole.x, other.x)


def test_soft_labels_are_the_softmax_at_the_temperature(reference: MLP):
    data = digits()
    clean, made = everything(data), everything(SoftLabels(20.0)(data, reference), size=7)
    powers = (reference(clean.x).double() / 20).exp()
    torch.testing.assert_close(made.soft, (powers / powers.sum(1, keepdim=True)).float())
    assert torch.equal(made.x, clean.x)
    assert torch.equal(made.y, clean.y)
    assert torch.equal(made.indices, clean.indices)


def test_preparations_follow_one_another(reference: MLP):
    data = NoisyCopies(copies=2)(SoftLabels(5.0)(digits(), reference))
    made = everything(data)
    assert torch.equal(made.soft, made.soft[:60].repeat(3, 1))
    data = SoftLabels(5.0)(NoisyCopies(copies=2)(digits()), reference)
    assert torch.equal(everything(data).x, made.x)
    torch.testing.assert_close(everything(data).soft, (reference(made.x) / 5).softmax(1).detach())


@pytest.mark.parametrize(
    "preparation", [Crafted(PGD(eps=0.1, steps=2)), CraftedPairs((PGD(eps=0.1, steps=2),)), SoftLabels()]
)
def test_the_reference_is_left_as_it_was_and_asked_in_evaluation_mode(preparation: Preparation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 10))
    model[1].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = everything(preparation(digits(), model))
    assert all(module.training for module in model.modules())
    assert [key for key, value in model.named_parameters() if not value.requires_grad] == ["1.weight"]
    assert all(value.grad is None for value in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    again = everything(preparation(digits(), model.eval()))
    assert torch.equal(made.x, again.x)
    assert torch.equal(made.soft, again.soft)


# --- kept in parts


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts of 20 images in batches of 10; the sizes of the batches that were made."""
    made: list[int] = []
    work = prepare.in_parts

    def counting(data, make, *rest):
        return work(data, lambda batch: made.append(len(batch)) or make(batch), *rest)

    monkeypatch.setattr(prepare, "BATCH", 10)
    monkeypatch.setattr(prepare, "PART", 20)
    monkeypatch.setattr("steelman.training.prepare.in_parts", counting)
    return made


@pytest.mark.parametrize("preparation", [Crafted(PGD(eps=0.1, steps=2)), SoftLabels()])
def test_what_was_made_is_not_made_again(
    preparation: Preparation, reference: MLP, small_parts: list[int], tmp_path: Path
):
    data = digits(50)
    once = everything(preparation(data, reference, folder=tmp_path))
    assert small_parts == [10] * 5
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "0-19.safetensors",
        "20-39.safetensors",
        "40-49.safetensors",
    ]
    again = everything(preparation(data, reference, folder=tmp_path))
    assert small_parts == [10] * 5
    (tmp_path / "20-39.safetensors").unlink()  # as if a kill had come
    third = everything(preparation(data, reference, folder=tmp_path))
    assert small_parts == [10] * 7
    for other in (again, third, everything(preparation(data, reference))):
        assert torch.equal(once.x, other.x)
        assert torch.equal(once.soft, other.soft)


@pytest.mark.parametrize("kept", [True, False])
def test_an_interrupt_says_what_is_kept(kept: bool, reference: MLP, small_parts: list[int], tmp_path: Path):
    class Interrupted(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return reference(x)

    told = "resumes at image 20" if kept else "it is not kept"
    with pytest.raises(KeyboardInterrupt, match=rf"the preparation of Digits was interrupted; .*{told}"):
        SoftLabels()(digits(50), Interrupted(), folder=tmp_path if kept else None)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == (["0-19.safetensors"] if kept else [])


def test_what_was_made_otherwise_is_refused(reference: MLP, tmp_path: Path):
    data, preparation = digits(), Crafted(FGSM(eps=0.1))
    preparation(data, reference, folder=tmp_path)
    reversed = data.subset(torch.arange(59, -1, -1))
    mirrored = InMemory(data.name, data.images.flip(3), data.labels, data.classes, levels=16, index=data.index)
    others = [
        ("preparation", lambda: Crafted(FGSM(eps=0.2))(data, reference, folder=tmp_path)),
        ("seed", lambda: preparation(data, reference, seed=1, folder=tmp_path)),
        ("set of images", lambda: preparation(reversed, reference, folder=tmp_path)),
        ("set of images", lambda: preparation(mirrored, reference, folder=tmp_path)),
        ("reference", lambda: preparation(data, MLP(shape=(1, 8, 8)), folder=tmp_path)),
    ]
    for told, call in others:
        with pytest.raises(ValueError, match=rf"holds data made with another {told}: use another folder"):
            call()
    (tmp_path / "0-59.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"0-59\.safetensors is not a readable checkpoint"):
        preparation(data, reference, folder=tmp_path)


def test_parts_of_an_older_version_are_taken(reference: MLP, small_parts: list[int], tmp_path: Path):
    """Of their data and reference they say what this version does not ask."""
    data, preparation = digits(50), Crafted(FGSM(eps=0.1))
    once = everything(preparation(data, reference, folder=tmp_path))
    for path in tmp_path.glob("*.safetensors"):
        state = checkpoint.load(path)
        origin = {name: state["origin"][name] for name in ("preparation", "seed")} | {
            "data set": "...",
            "reference network": "...",
        }
        checkpoint.save(path, {**state, "origin": origin})
    assert torch.equal(everything(preparation(data, reference, folder=tmp_path)).x, once.x)
    assert small_parts == [10] * 5


# --- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoisyCopies(sigma=-1.0), r"NoisyCopies needs sigma >= 0; got -1\.0"),
        (lambda: NoisyCopies(sigma=float("nan")), r"sigma finite and >= 0"),
        (lambda: NoisyCopies(copies=0), "needs copies >= 1; got 0"),
        (lambda: SoftLabels(0.0), r"SoftLabels needs temperature > 0; got 0\.0"),
        (lambda: Crafted(UniversalPerturbation()), r"UniversalPerturbation finds one perturbation for all images"),
        (lambda: Crafted(FGSM(eps=torch.ones(3))), r"radius per image"),
        (lambda: CraftedPairs(()), "CraftedPairs needs at least one attack"),
        (lambda: CraftedPairs((FGSM(), UniversalPerturbation())), r"one perturbation for all images"),
        (lambda: CraftedPairs((FGSM(eps=torch.ones(3)),)), r"radius per image"),
        (lambda: CraftedPairs((FGSM(),))(digits()), r"CraftedPairs needs a trained network as its reference"),
        (lambda: Crafted(FGSM())(digits()), r"Crafted needs a trained network as its reference"),
        (lambda: SoftLabels()(digits()), r"SoftLabels needs a trained network"),
        (lambda: SoftLabels()(digits(), MLP(shape=(1, 8, 8), classes=3)), r"\(60, 3\), and Digits has 10 classes"),
        (lambda: Crafted(FGSM())(NoisyCopies()(digits()), MLP(shape=(1, 8, 8))), r"images must lie in \[0, 1\]"),
    ],
)
def test_invalid_settings_are_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


# --- in a training


@pytest.mark.parametrize("preparation", [NoisyCopies(copies=2, sigma=0.1), Crafted(FGSM(eps=0.1))])
def test_no_copy_of_a_validation_image_is_trained_on(preparation: Preparation, reference: MLP):
    data, seen = digits(), []
    training = Training(epochs=1, batch_size=16, validation=0.25, seed=3, optimiser=SGD(lr=0.01))
    rest, held_out = split_off(data, 15, seed=3)

    def prepare(part: Dataset) -> Dataset:
        assert set(part.index.tolist()) == set(rest.index.tolist())
        seen.append(preparation(part, reference))
        return seen[0]

    fit(MLP(shape=(1, 8, 8), hidden=(8,)), data, Plain(), training, prepare=prepare, progress=False)
    (made,) = seen
    held, own = everything(held_out).x.flatten(1), everything(made).x.flatten(1)
    assert torch.cdist(own, held).amin() > 1.0  # a copy is within .1 sqrt(64) = .8 of its original
    assert torch.cdist(own, everything(rest).x.flatten(1)).amin(1).max() < 1.0


def test_a_training_of_another_preparation_is_refused(tmp_path: Path):
    training = Training(epochs=1, batch_size=16)
    for sigma in (0.1, 0.2):
        call = lambda: fit(  # noqa: E731
            MLP(shape=(1, 8, 8), hidden=(8,)),
            digits(),
            Plain(),
            training,
            prepare=rooms.Stages((NoisyCopies(sigma=sigma),), (None,), 0, tmp_path / "prepared"),  # noqa: B023
            folder=tmp_path,
            progress=False,
        )
        if sigma == 0.1:
            call()
    with pytest.raises(ValueError, match=r"holds a run with another prepare"):
        call()
