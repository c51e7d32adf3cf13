"""Probes against loops, closed forms and finite samples."""

import math
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affine import images, small_net
from probed import of
from steelman import config
from steelman.attacks import PGD
from steelman.data.memory import InMemory, as_dataset
from steelman.evaluation import CLEVER, PASS, LossSensitivity, Probe, TrainingSetDistance, evaluate
from steelman.evaluation.battery import Battery
from steelman.evaluation.probes import perceptual
from steelman.norms import Linf
from steelman.types import Images, Model

# LossSensitivity


def naive_sensitivity(model: Model, x: Images, y: Tensor, form: str) -> Tensor:
    sizes = []
    for image, label in zip(x, y, strict=True):
        image = image[None].clone().requires_grad_()
        logits = model(image)
        value = F.cross_entropy(logits, label[None]) if form == "paper" else logits.softmax(1).max()
        sizes.append(torch.autograd.grad(value, image)[0].norm())
    return torch.stack(sizes)


@pytest.mark.parametrize("form", ["paper", "code2017"])
def test_loss_sensitivity_is_each_images_own_gradient(form: str) -> None:
    model, x, y = small_net(), images(6), torch.tensor([0, 3, 9, 1, 1, 5])
    found = of(LossSensitivity(form), model, x, y)
    assert torch.allclose(found, naive_sensitivity(model, x, y, form), rtol=1e-9)
    alone = torch.cat([of(LossSensitivity(form), model, x[i : i + 1], y[i : i + 1]) for i in range(6)])
    assert torch.allclose(found, alone, rtol=1e-12)


@pytest.mark.parametrize(("gap", "lost"), [(30.0, "the label's part"), (110.0, "all")])
@pytest.mark.parametrize("form", ["paper", "code2017"])
def test_loss_sensitivity_of_a_confident_model_is_not_lost(gap: float, lost: str, form: str) -> None:
    """Two classes: |grad CE| = (1 - p) |w|, and 1 - p = exp(-gap) / (1 + exp(-gap))."""
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]])

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight.T + torch.tensor([gap, 0.0])

    x, y = torch.zeros(1, 1, 1, 2), torch.tensor([0])
    unsure = math.exp(-gap) / (1 + math.exp(-gap))
    expected = unsure * 5 * (1.0 if form == "paper" else 1 - unsure)
    assert of(LossSensitivity(form), model, x, y).item() == pytest.approx(expected, rel=1e-6)
    rounded = float(naive_sensitivity(model, x, y, form)[0])
    assert abs(rounded - expected) > 0.1 * expected  # what float32 makes of it: the test is about something


def test_loss_sensitivity_of_an_infinitely_confident_model_is_zero_and_not_nan() -> None:
    def model(x: Tensor) -> Tensor:
        return x.flatten(1) * torch.tensor([1e4, 0.0])

    assert of(LossSensitivity(), model, torch.ones(1, 1, 1, 2)).item() == 0


# TrainingSetDistance


def begun(train: Images, block: int = 1024) -> TrainingSetDistance:
    data = as_dataset((train, torch.zeros(len(train), dtype=torch.int64)))
    return TrainingSetDistance(block).setup(lambda: data)


def naive_distance(x: Images, train: Images) -> list[float]:
    return [min(math.sqrt(math.fsum(((a.double() - b.double()) ** 2).flatten().tolist())) for b in train) for a in x]


def test_training_set_distance_is_that_of_a_double_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    train = torch.rand(50, 2, 3, 4, generator=generator)
    x = torch.rand(7, 2, 3, 4, generator=generator)
    x[2], x[3] = train[31], (train[4] + 1e-6).clamp(0, 1)
    found = [of(begun(train, block), small_net(), x) for block in (1, 7, 1024)]
    assert torch.allclose(found[0], torch.tensor(naive_distance(x, train), dtype=torch.float64), rtol=1e-14, atol=0)
    assert found[0][2] == 0
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])
    alone = torch.cat([of(begun(train), small_net(), x[i : i + 1]) for i in range(7)])
    assert found[0].equal(alone)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_training_set_distance_is_exact_where_float32_takes_another_neighbour(precision: str) -> None:
    """Bright images a hair's breadth away, at lengths that differ in the fifth digit."""
    generator = torch.Generator().manual_seed(1)
    x = 0.9 + 0.05 * torch.rand(8, 1, 16, 16, generator=generator)
    steps = 1e-3 * (1 + 1e-5 * torch.arange(40)).reshape(-1, 1, 1, 1)
    train = torch.cat([each + steps * torch.randn(40, 1, 16, 16, generator=generator).sign() for each in x])
    train = train[torch.randperm(len(train), generator=generator)]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = of(begun(train, 100), small_net(), x)
    finally:
        torch.set_float32_matmul_precision(before)
    exact = (x[:, None].double() - train[None].double()).flatten(2).norm(dim=2)
    assert torch.allclose(found, exact.amin(1), rtol=1e-14, atol=0)
    flat, others = x.flatten(1), train.flatten(1)
    trick = (flat.square().sum(1)[:, None] + others.square().sum(1) - 2 * flat @ others.T).argmin(1)
    assert not exact.argmin(1).equal(trick)


def test_training_set_distance_says_what_is_missing() -> None:
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match="needs the training images"):
        of(TrainingSetDistance(), small_net(), x)
    with pytest.raises(ValueError, match=r"\(1, 4, 4\).*\(1, 4, 5\)"):
        of(begun(torch.rand(3, 1, 4, 5)), small_net(), x)
    with pytest.raises(ValueError, match="with 0 training images"):
        of(begun(torch.rand(0, 1, 4, 4)), small_net(), x)
    with pytest.raises(ValueError, match="NaN"):
        of(begun(x), small_net(), x, x_adv=x / 0)
    with pytest.raises(ValueError, match="block"):
        TrainingSetDistance(0)
    assert str(begun(x)) == str(TrainingSetDistance()) == "TrainingSetDistance()"
    assert begun(x) == TrainingSetDistance()


# PASS


@pytest.fixture(scope="module")
def cv2() -> types.ModuleType:
    pytest.importorskip("skimage")
    return pytest.importorskip("cv2")


def picture(height: int = 20, width: int = 22) -> np.ndarray:
    """A bright blob with a dark one in it, on black."""
    rows, columns = np.mgrid[:height, :width]
    blob = np.exp(-((rows - 9) ** 2 + (columns - 11) ** 2) / 18)
    return 0.9 * blob - 0.6 * np.exp(-((rows - 7) ** 2 + (columns - 12) ** 2) / 4) * blob


def as_images(*pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(pictures))[:, None].clamp(0, 1)


def naive_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al.'s formula, window by window."""
    weight = np.array([[math.exp(-(i * i + j * j) / 4.5) for j in range(-5, 6)] for i in range(-5, 6)])
    weight /= weight.sum()
    found = []
    for row in range(a.shape[0] - 10):
        for column in range(a.shape[1] - 10):
            p, q = a[row : row + 11, column : column + 11], b[row : row + 11, column : column + 11]
            m, n = (weight * p).sum(), (weight * q).sum()
            s, t = (weight * (p - m) ** 2).sum(), (weight * (q - n) ** 2).sum()
            both = (weight * (p - m) * (q - n)).sum()
            luminance = (2 * m * n + 0.01**2) / (m * m + n * n + 0.01**2)
            found.append(luminance * (2 * both + 0.03**2) / (s + t + 0.03**2))
    return float(np.mean(found))


def test_pass_is_ssim_after_alignment(cv2: types.ModuleType) -> None:
    x = as_images(picture(), picture().T[:20, :20].repeat(2, 1)[:, :22])
    x_adv = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)).clamp(0, 1)
    found = of(PASS(), small_net(), x, x_adv=x_adv)
    for image, attacked, score in zip(x[:, 0].numpy(), x_adv[:, 0].numpy(), found.tolist(), strict=True):
        moved, motion = perceptual._aligned(cv2, attacked, image)
        assert motion == "homography"
        assert np.corrcoef(moved.ravel(), image.ravel())[0, 1] >= np.corrcoef(attacked.ravel(), image.ravel())[0, 1]
        assert score == pytest.approx(naive_ssim(moved, image), abs=1e-12)
    alone = torch.cat([of(PASS(), small_net(), x[i : i + 1], x_adv=x_adv[i : i + 1]) for i in range(2)])
    assert found.equal(alone)
    assert of(PASS(), small_net(), x).tolist() == [1, 1]


def test_pass_sees_through_a_change_of_view(cv2: types.ModuleType) -> None:
    image = picture()
    view = np.array([[1.05, 0.1, -2.5], [-0.08, 0.95, 2.0], [0.001, -0.001, 1]])
    x, x_adv = as_images(image), as_images(cv2.warpPerspective(image, view, (22, 20)))
    assert naive_ssim(x_adv[0, 0].numpy(), x[0, 0].numpy()) < 0.9
    assert of(PASS(), small_net(), x, x_adv=x_adv).item() > 0.97


def test_pass_falls_back_to_a_translation_and_then_to_nothing(
    cv2: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ecc = cv2.findTransformECC

    def without_homographies(*arguments: object) -> object:
        if arguments[3] == cv2.MOTION_HOMOGRAPHY:
            raise cv2.error("not converged")
        return ecc(*arguments)

    monkeypatch.setattr(cv2, "findTransformECC", without_homographies)
    image = picture()
    flat = np.full_like(image, 0.5)
    x = as_images(image, image, image)
    x_adv = as_images(np.roll(image, 2, axis=1), flat, image)
    with pytest.warns(UserWarning, match="for 2 of 3 images: 1 were aligned by a translation, 1 not at all"):
        found = of(PASS(), small_net(), x, x_adv=x_adv).tolist()
    assert found[0] > 0.99 > naive_ssim(x_adv[0, 0].numpy(), image)
    assert found[1] == pytest.approx(naive_ssim(flat, x[0, 0].numpy()), abs=1e-12)
    assert found[2] == 1


def test_pass_of_colours_is_that_of_their_luminance(cv2: types.ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.rand(2, 2, 3, 14, 14, generator=generator, dtype=torch.float64)
    x_adv = 0.9 * x + 0.1 * noise
    grey, grey_adv = (0.299 * each[:, :1] + 0.587 * each[:, 1:2] + 0.114 * each[:, 2:] for each in (x, x_adv))
    colours, greys = of(PASS(), small_net(), x, x_adv=x_adv), of(PASS(), small_net(), grey, x_adv=grey_adv)
    assert torch.allclose(colours, greys, atol=1e-6)


def test_pass_says_what_it_cannot_compare(cv2: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    good = torch.rand(1, 1, 12, 12)
    for x, message in (
        (torch.rand(1, 1, 8, 8), "at least 11 x 11"),
        (torch.rand(1, 2, 12, 12), "grey or RGB"),
        (good - 0.5, r"in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            of(PASS(), small_net(), x)
    with pytest.raises(ValueError, match="NaN"):
        of(PASS(), small_net(), good, x_adv=good / 0)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install steelman\[perceptual\]"):
        PASS().setup(lambda: as_dataset((good, torch.zeros(1, dtype=torch.int64))))


# All


@pytest.mark.parametrize("probe", [LossSensitivity(), LossSensitivity("code2017"), CLEVER(batches=1, batch_size=3)])
def test_probes_leave_the_model_and_refuse_one_without_gradients(probe: Probe) -> None:
    model, x = small_net(classes=3).train(), images(2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = of(probe, model, x)
    assert found.dtype == torch.float64
    assert bool(found.isfinite().all())
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
    for black_box, message in (
        (lambda x: torch.zeros(len(x), dtype=torch.int64), "classes alone"),
        (torch.no_grad()(model), "no gradient"),
    ):
        with pytest.raises(ValueError, match=message):
            of(probe, black_box, x)
    with pytest.raises(ValueError, match="NaN or infinite"):
        of(probe, nn.Sequential(nn.Flatten(), nn.Linear(24, 3).double(), _Cliff()), x)


class _Cliff(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x).sqrt() + x.detach()


def test_probes_are_named_in_toml() -> None:
    table = {
        "probes": [
            "PASS",
            {"kind": "LossSensitivity", "form": "code2017"},
            {"kind": "TrainingSetDistance", "block": 5},
            {"kind": "CLEVER", "norm": "Linf", "radius": 0.3, "target": 3, "pool": 10},
            {"kind": "CLEVER", "target": "runner-up", "box": "none"},
        ]
    }
    battery = config.read(Battery, table)
    assert battery.probes == (
        PASS(),
        LossSensitivity("code2017"),
        TrainingSetDistance(5),
        CLEVER(Linf, 0.3, target=3, pool=10),
        CLEVER(target="runner-up", box=None),
    )
    assert config.read(Battery, config.write(battery)) == battery
    with pytest.raises(ValueError, match=r"probes\[0\]\.kind: there is no Probe 'Pass'; did you mean PASS\?"):
        config.read(Battery, {"probes": ["Pass"]})


def test_probes_are_columns_of_the_table() -> None:
    model, x = small_net(torch.float32, classes=3), images(6, torch.float32)
    y = model(x).argmax(1)
    data = InMemory("small", x, y, ("a", "b", "c"))
    probes = (LossSensitivity(), begun(x[:2]))
    table = evaluate(model, data, [PGD(eps=0.1, steps=2)], probes=probes, batch_size=4)
    assert table.probes == ("LossSensitivity()", "TrainingSetDistance()")
    clean, attacked = table.only("clean"), table.only(table.attacks[0])
    assert np.allclose(clean["LossSensitivity()"], of(LossSensitivity(), model, x, y), rtol=1e-5)
    assert np.isnan(clean["TrainingSetDistance()"]).all()
    assert np.isnan(attacked["LossSensitivity()"]).all()
    assert np.allclose(attacked["TrainingSetDistance()"][:2], attacked["l2"][:2], atol=1e-7)
    assert (attacked["TrainingSetDistance()"][2:] > attacked["l2"][2:]).all()
