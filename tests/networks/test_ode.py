"""Neural ODEs: sizes, every layer against torch's functions, and the solver against matrix powers and torchdiffeq."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, group_norm, linear

from steelman.networks import ODENet, build

SMALL = {"shape": (1, 9, 9), "classes": 3, "width": 4}
VARIANTS = ("cnn", "ode", "tisode")
IMAGES = torch.rand(5, 1, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def small(variant: str = "tisode", **options) -> ODENet:
    """With random scales and biases in its normalisations, so that none of them is without effect."""
    torch.manual_seed(0)
    model = ODENet(variant=variant, **SMALL, **options).double()
    for layer in model.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return model


def slope(model: ODENet, z: Tensor, t: float) -> Tensor:
    """f, with torch's functions."""
    for place in (1, 2):
        conv, gn = model.slope.get_submodule(f"conv{place}"), model.slope.get_submodule(f"gn{place}")
        assert isinstance(conv, nn.Conv2d)
        if model.slope.timed:
            z = torch.cat([torch.full_like(z[:, :1], t), z], 1)
        z = conv2d(z, conv.weight, conv.bias, padding=1)
        z = group_norm(z, z.shape[1] // 2, gn.weight, gn.bias).clamp(min=0)
    return z


def features(model: ODENet, x: Tensor) -> Tensor:
    strides = [1] + [2] * (len(model.features) // 3 - 1)
    for place, stride in enumerate(strides, start=1):
        conv, gn = model.features.get_submodule(f"conv{place}"), model.features.get_submodule(f"gn{place}")
        x = conv2d(x, conv.weight, conv.bias, stride=stride, padding=stride - 1)
        x = group_norm(x, x.shape[1] // 2, gn.weight, gn.bias).clamp(min=0)
    return x


def head(model: ODENet, z: Tensor) -> Tensor:
    return linear(z.mean((2, 3)), model.head.get_parameter("fc1.weight"), model.head.get_parameter("fc1.bias"))


@pytest.mark.parametrize(
    ("options", "cnn", "ode", "side"),
    [
        ({}, 141_130, 142_410, 13),
        ({"shape": (3, 32, 32), "stem": (4, 4)}, 208_010, 209_290, 7),
        ({"shape": (3, 64, 64), "stem": (4, 4, 4)}, 273_738, 275_018, 7),
        ({"width": 16, "stem": (4, 3)}, 11_530, 11_850, 7),
        ({"fdn": "gaussian"}, 149_450, 150_730, 13),
    ],
)
def test_sizes_of_the_paper_and_of_the_other_forms(options: dict, cnn: int, ode: int, side: int) -> None:
    with torch.device("meta"):
        models = [ODENet(variant=variant, **options) for variant in VARIANTS]
        counts = [sum(each.numel() for each in model.parameters()) for model in models]
        shape = options.get("shape", (1, 28, 28))
        assert models[0].features(torch.rand(2, *shape)).shape[2:] == (side, side)
    assert counts == [cnn, ode, cnn]


def test_parts_of_the_paper_and_defaults_of_the_code() -> None:
    sizes = {name: sum(each.numel() for each in part.parameters()) for name, part in ODENet().named_children()}
    assert sizes == {"features": 66_496, "denoise": 0, "slope": 75_264, "head": 650}
    assert [(ODENet(variant=each).step, ODENet(variant=each).times) for each in VARIANTS] == [
        (1.0, (0.0, 1.0)),
        (0.1, (0.0, 1.0)),
        (0.05, (0.0, 1.0)),
    ]
    norms = [each for each in ODENet().modules() if isinstance(each, nn.GroupNorm)]
    assert [each.num_groups for each in norms] == [32] * 4


@pytest.mark.parametrize(("shape", "stem"), [((3, 32, 32), (4, 4)), ((3, 64, 64), (4, 4, 4)), ((2, 17, 30), (3,))])
def test_forms_for_larger_images_learn(shape: tuple[int, ...], stem: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(6, *shape), torch.tensor([0, 1, 2, 0, 1, 2])
    model = ODENet(shape=shape, classes=3, variant="tisode", width=4, stem=stem)
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=0.01), []
    for _ in range(8):
        loss = cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_by_layer_with_eulers_steps(variant: str) -> None:
    model = small(variant, stem=(4, 3))
    z = features(model, IMAGES)
    for place in range(round(1 / model.step)):
        z = z + model.step * slope(model, z, place * model.step)
    torch.testing.assert_close(model(IMAGES), head(model, z))
    alone = torch.cat([model(image[None]) for image in IMAGES])
    torch.testing.assert_close(model(IMAGES), alone)
    assert torch.equal(model.train()(IMAGES), model.eval()(IMAGES))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_go_back_through_the_steps(variant: str) -> None:
    """Against finite differences of the logits along a random direction."""
    model, direction = small(variant), torch.randn(5, 1, 9, 9, dtype=torch.float64)
    x = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    with torch.no_grad():
        above, below = (model(IMAGES + sign * 1e-6 * direction).square().sum() for sign in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx(float(above - below) / 2e-6, rel=1e-4)
    model(IMAGES).square().sum().backward()
    assert all(each.grad is not None and bool(each.grad.any()) for each in model.parameters())


class Matrix(nn.Module):
    """f(z, t) = M z over the channels."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, z: Tensor, t: float | Tensor) -> Tensor:
        return torch.einsum("ij,bjhw->bihw", self.matrix, z)


@torch.no_grad()
def test_euler_on_a_linear_slope_is_a_matrix_power_and_tends_to_the_exponential() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(4, 4, dtype=torch.float64)
    errors = []
    for steps in (10, 20, 640, 1280):
        model = small(step=1 / steps)
        model.slope = Matrix(matrix)
        begun = model.features(IMAGES)
        power = torch.linalg.matrix_power(torch.eye(4, dtype=torch.float64) + matrix / steps, steps)
        wanted = torch.einsum("ij,bjhw->bihw", power, begun)
        torch.testing.assert_close(model(IMAGES), model.head(wanted))
        exact = torch.einsum("ij,bjhw->bihw", torch.linalg.matrix_exp(matrix), begun)
        errors.append(float((wanted - exact).norm() / exact.norm()))
    assert errors[3] < 0.01
    assert errors[2] / errors[3] == pytest.approx(2, rel=0.02), "of first order"


@torch.no_grad()
def test_halving_the_step_halves_the_error_of_the_network() -> None:
    answers = []
    for step in (1 / 32, 1 / 64, 1 / 128, 1 / 256):
        answers.append(small("ode", step=step)(IMAGES))
    differences = [float((b - a).norm()) for a, b in pairwise(answers)]
    assert differences[1] / differences[2] == pytest.approx(2, rel=0.2)


def test_zero_weights_on_the_time_leave_the_time_invariant_slope_with_a_bias() -> None:
    timed, free = small("ode", step=0.25), small("tisode", step=0.25)
    state = timed.state_dict()
    for conv in ("slope.conv1", "slope.conv2"):
        state[f"{conv}.weight"][:, 0] = 0
        state[f"{conv}.bias"][:] = 0
    timed.load_state_dict(state)
    bare = {key: value for key, value in state.items() if key not in ("slope.conv1.bias", "slope.conv2.bias")}
    for conv in ("slope.conv1", "slope.conv2"):
        bare[f"{conv}.weight"] = bare[f"{conv}.weight"][:, 1:]
    free.load_state_dict(bare)
    torch.testing.assert_close(timed(IMAGES), free(IMAGES))
    state["slope.conv1.weight"][:, 0] = 1
    timed.load_state_dict(state)
    assert not torch.allclose(timed(IMAGES), free(IMAGES))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("times", [(0.75, 1.25), (0.0, 1.0), (1.0, 2.0), (0.25, 0.5), (1.5, 2.0)])
def test_the_integral_of_the_slope_is_what_z_moves(variant: str, times: tuple[float, float]) -> None:
    """f >= 0, so that A = z(t3) - z(t1)."""
    model = small(variant, step=0.25)
    calls: list[float] = []
    model.slope.register_forward_hook(lambda module, inputs, output: calls.append(inputs[1]))
    logits, area = model.trajectory(IMAGES, *times)
    assert calls == [0.25 * place for place in range(round(4 * max(1, times[1])))], "each step once"
    torch.testing.assert_close(logits, model(IMAGES), rtol=0, atol=0)
    z, states = features(model, IMAGES), {}
    for place in range(9):
        states[0.25 * place] = z
        z = z + 0.25 * slope(model, z, 0.25 * place)
    torch.testing.assert_close(area, states[times[1]] - states[times[0]])
    assert bool((area >= 0).all())


def test_the_integral_is_of_the_absolute_slope() -> None:
    model = small(step=0.25)
    model.slope = Matrix(-torch.eye(4, dtype=torch.float64))
    _, area = model.trajectory(IMAGES, 0.5, 1.5)
    begun = model.features(IMAGES)
    torch.testing.assert_close(area, begun * (0.75**2 - 0.75**6))  # z shrinks by a quarter each time


def test_a_slope_of_zero_is_steady() -> None:
    model = small()
    for place in ("weight", "bias"):
        nn.init.zeros_(model.slope.gn2.get_parameter(place))
    logits, area = model.trajectory(IMAGES, 0.75, 1.05)
    assert not area.any()
    torch.testing.assert_close(logits, model.head(model.features(IMAGES)))


@pytest.mark.parametrize("t0", [0.0, 0.5])
@pytest.mark.parametrize("variant", VARIANTS)
def test_euler_is_that_of_torchdiffeq(variant: str, t0: float) -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    model = small(variant, times=(t0, t0 + 1))
    begun, times = model.features(IMAGES), torch.tensor([t0, t0 + 1], dtype=torch.float64)
    theirs = torchdiffeq.odeint(
        lambda t, z: model.slope(z, t), begun, times, method="euler", options={"step_size": model.step}
    )
    torch.testing.assert_close(model(IMAGES), model.head(theirs[-1]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("solver", "order"), [("midpoint", 2), ("heun3", 3), ("rk4", 4)])
@torch.no_grad()
def test_other_solvers_are_of_their_order(solver: str, order: int) -> None:
    """On dz/dt = M z; and the integral of |f| goes by the same solver."""
    pytest.importorskip("torchdiffeq")
    torch.manual_seed(0)
    matrix = torch.randn(4, 4, dtype=torch.float64)
    errors = []
    for steps in (8, 16):
        model = small(step=1 / steps, solver=solver)
        model.slope = Matrix(matrix)
        exact = torch.einsum("ij,bjhw->bihw", torch.linalg.matrix_exp(matrix), model.features(IMAGES))
        errors.append(float((model(IMAGES) - model.head(exact)).norm()))
        logits, area = model.trajectory(IMAGES, 0.5, 1.5)
        torch.testing.assert_close(logits, model(IMAGES))
        model.slope = Matrix(torch.eye(4, dtype=torch.float64))
        _, area = model.trajectory(IMAGES, 0.5, 1.5)  # z and so f grow as exp(t)
        rise = torch.tensor(1.5, dtype=torch.float64).exp() - torch.tensor(0.5, dtype=torch.float64).exp()
        torch.testing.assert_close(area, model.features(IMAGES) * rise, rtol=0.02, atol=0)
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.3)


def test_other_solvers_train_and_load_the_same_weights() -> None:
    pytest.importorskip("torchdiffeq")
    euler, other = small("ode", step=1 / 256), small("ode", step=0.125, solver="rk4")
    other.load_state_dict(euler.state_dict())
    torch.testing.assert_close(other(IMAGES), euler(IMAGES), rtol=0.01, atol=0.01)
    other(IMAGES).square().sum().backward()
    assert all(each.grad is not None and bool(each.grad.any()) for each in other.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "resnet"}, "variant is .*; got 'resnet'"),
        ({"width": 5}, "even number of them; got 5"),
        ({"width": 0}, "even number of them; got 0"),
        ({"shape": (1, 5, 28)}, r"maps of at least 2x2; the stem \(4,\) leaves 1x13 of images of 5x28"),
        ({"stem": (4, 4, 4, 4)}, "leaves 1x1 of images of 28x28: take larger images or a shorter stem"),
        ({"shape": (28, 28)}, "needs an image shape"),
        ({"times": (1.0, 0.0)}, r"t0 < T; got \(1.0, 0.0\)"),
        ({"times": (0.0, 0.0)}, "t0 < T"),
        ({"times": (0.0, 0.75, 1.0)}, r"times are \(t0, T\)"),
        ({"times": (0.0, float("inf"))}, "t0 < T"),
        ({"step": 0.0}, "a step above 0; got 0"),
        ({"step": -0.1}, "a step above 0; got -0.1"),
        ({"step": float("nan")}, "a step above 0; got nan"),
        ({"step": 0.3}, "the time 1 is not a multiple of the step 0.3 after 0"),
        ({"step": 2.0}, "the time 1 is not a multiple of the step 2 after 0"),
        ({"step": 1e9}, r"the step 1e\+09 is longer"),
        ({"solver": "dopri5"}, "solver is .*; got 'dopri5'"),
        ({"fdn": "softmax"}, 'similarity is "gaussian" or "dot"; got \'softmax\''),
    ],
)
def test_impossible_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("ODENet", **{"shape": (1, 28, 28), "classes": 10, **options})


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((0.75, 1.03), "the time 1.03 is not a multiple of the step 0.05 after 0"),
        ((1.0, 1.0), "0 <= start < end; got 1, 1"),
        ((-0.5, 1.0), "0 <= start < end; got -0.5, 1"),
    ],
)
def test_impossible_trajectories_are_refused(times: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().trajectory(IMAGES, *times)


def test_a_solver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelman.extras.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"solver 'rk4' needs torchdiffeq: pip install 'steelman\[ode\]'"):
        ODENet(solver="rk4")
    ODENet()
