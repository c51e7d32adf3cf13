"""Preprocessing: every layer against numpy, its statistics and its gradients."""

import copy

import numpy as np
import pytest
import torch

from steelman.data import InMemory
from steelman.networks import MLP, Normalise, Preprocess, Preprocessed, StandardiseImage, SubtractMean, Whiten


def dataset(shape: tuple[int, int, int] = (3, 4, 4), count: int = 90) -> InMemory:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    return InMemory("random", images, torch.arange(count) % 2, ("a", "b"))


def test_normalise() -> None:
    x = torch.rand(4, 3, 5, 5)
    given = Normalise(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))(x)
    assert torch.allclose(given[:, 1], (x[:, 1] - 0.2) / 0.6)
    data = dataset()
    values = data.images.numpy().astype(np.float64) / 255
    fitted = Normalise(shape=data.shape).fit(data)
    for channel in range(3):
        expected = (x[:, channel] - values[:, channel].mean()) / values[:, channel].std()
        assert torch.allclose(fitted(x)[:, channel], expected.float(), atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_standardise_image_is_tensorflows(scale: float) -> None:
    x = torch.rand(5, 3, 6, 4, dtype=torch.float64)
    x[1] = 0.3
    x[2] = 0.3 + 1e-3 * x[2]
    got = StandardiseImage(scale=scale)(x)
    for image, result in zip(scale * x.numpy(), got.numpy(), strict=True):
        assert np.allclose(result, (image - image.mean()) / max(image.std(), 1 / np.sqrt(72)), atol=1e-9)
    assert got[0].std(correction=0).item() == pytest.approx(1)
    assert got[1].abs().max() < 1e-9
    layer = StandardiseImage(scale=scale)
    assert layer.fit(dataset()) is layer
    layer.load_state_dict(layer.state_dict())
    flat = x[1:2].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(flat)[0, 0, 0, 0], flat)
    assert gradient.isfinite().all()
    x = x[[0, 3]].requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))
    with pytest.raises(ValueError, match="scale > 0; got 0"):
        StandardiseImage(scale=0.0)


@pytest.mark.parametrize("options", [{"mean": (0.5,) * 3}, {"mean": (0.5,), "std": (1.0,)}])
def test_normalise_refuses(options) -> None:
    with pytest.raises(ValueError, match="3 numbers each"):
        Normalise(**options)
    with pytest.raises(ValueError, match="std > 0"):
        Normalise(mean=(0.5,) * 3, std=(0.0, 1.0, 1.0))


def test_subtract_mean() -> None:
    data = dataset()
    mean = data.images.numpy().mean(0) / 255
    x = torch.rand(4, *data.shape)
    assert np.allclose(SubtractMean(shape=data.shape).fit(data)(x).numpy(), x.numpy() - mean, atol=1e-6)


def whitened_by_numpy(train: np.ndarray, x: np.ndarray, contrast: float, root: float, total: float) -> np.ndarray:
    """The preprocessing as MatConvNet has it, image by image: pixels in 0 .. 255."""
    mean = train.mean(0)

    def contrasted(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [image - mean - (image - mean).mean() for image in images]
        deviations = [row.std(ddof=1) for row in rows]
        return np.array(rows), np.array(deviations)

    rows, deviations = contrasted(train)
    level = deviations.mean()
    rows = rows * (level / np.maximum(deviations, contrast))[:, None]
    u, s, _ = np.linalg.svd(rows.T, full_matrices=True)
    d = np.zeros(len(u))
    d[: len(s)] = s**2 / (total * len(train))
    w = u @ np.diag(np.sqrt(d.mean()) / np.maximum(np.sqrt(d), root)) @ u.T
    tested, deviations = contrasted(x)
    return (tested * (level / np.maximum(deviations, contrast))[:, None]) @ w / 255


@pytest.mark.parametrize(("contrast", "root", "total"), [(40.0, 10.0, 1.2), (74.0, 40.0, 1.0), (75.0, 1.0, 1.2)])
def test_whitening_is_matconvnets(contrast: float, root: float, total: float) -> None:
    data = dataset()
    layer = Whiten(shape=data.shape, contrast_floor=contrast, root_floor=root, total=total).fit(data)
    train = data.images.numpy().reshape(len(data), -1).astype(np.float64)
    x = np.random.default_rng(1).integers(0, 256, (20, 48)).astype(np.float64)
    x[0] = x[0] / 100 + 100  # of little contrast
    got = layer.double()(torch.from_numpy(x / 255).reshape(20, 3, 4, 4)).reshape(20, 48).numpy()
    assert np.allclose(got, whitened_by_numpy(train, x, contrast, root, total), atol=2e-6)


def test_whitening_has_gradients_even_for_the_mean_image() -> None:
    data = dataset()
    layer = Whiten(shape=data.shape).fit(data).double()
    x = (layer.get_buffer("mean") / 255)[None].repeat(2, 1, 1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    assert gradient.isfinite().all()
    x = torch.rand(2, *data.shape, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))
    with pytest.raises(ValueError, match="root_floor"):
        Whiten(root_floor=0.0)


LAYERS = [Normalise, SubtractMean, Whiten]


@pytest.mark.parametrize("kind", LAYERS)
def test_fitted_layers_refuse_to_guess_and_travel_with_checkpoints(kind) -> None:
    data = dataset()
    x = torch.rand(4, *data.shape)
    fresh: Preprocess = kind(shape=data.shape)
    with pytest.raises(ValueError, match=f"{kind.__name__} has no statistics yet"):
        fresh(x)
    unfitted = Preprocessed(fresh, MLP(shape=data.shape))
    model = Preprocessed(copy.deepcopy(fresh).fit(data), MLP(shape=data.shape))
    assert {id(each) for each in model.parameters()} == {id(each) for each in model.network.parameters()}
    assert torch.equal(model(x), model.network(model.preprocess(x)))
    unfitted.load_state_dict(model.state_dict())
    assert torch.equal(unfitted(x), model(x))
    again = copy.deepcopy(unfitted)
    again.load_state_dict(Preprocessed(kind(shape=data.shape), MLP(shape=data.shape)).state_dict())
    with pytest.raises(ValueError, match="no statistics yet"):
        again(x)
    assert torch.equal(unfitted(x), model(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_fit_does_not_depend_on_batches_or_on_a_stream(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset()
    whole = kind(shape=data.shape).fit(data).state_dict()
    monkeypatch.setattr("steelman.networks.preprocess.AT_ONCE", 7)
    for name, value in kind(shape=data.shape).fit(data).state_dict().items():
        assert torch.allclose(value, whole[name], rtol=1e-6, atol=1e-9)
