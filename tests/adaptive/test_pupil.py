"""The pupil: what it learns from which answers, and that it leaves everything else as it was."""

import pickle

import pytest
import torch
from torch import Tensor, nn

from digits_network import trained
from steelman.adaptive import Pupil, pupil
from steelman.attacks import PGD
from steelman.data import Digits
from steelman.identity import digest
from steelman.losses import Margin
from steelman.norms import L0, L1, L2, Linf
from steelman.types import Images, Labels

NET = trained()
EPS = 0.15


def some(count: int) -> tuple[Images, Labels]:
    (batch,) = Digits().load("test").batches([torch.arange(150)])
    with torch.no_grad():
        right = NET(batch.x).argmax(1) == batch.y
    return batch.x[right][:count], batch.y[right][:count]


X, Y = some(40)


class Answers(nn.Module):
    """The network behind a head, without a graph."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.net, self.head = NET, head

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            if self.head == "random":
                x = x + 0.1 * torch.randn_like(x)
            logits = self.net(x)
        heads = {
            "classes": lambda z: z.argmax(1),
            "one-hot": lambda z: nn.functional.one_hot(z.argmax(1), 10).float(),
        }
        return heads.get(self.head, lambda z: z)(logits)


@pytest.mark.parametrize("head", ["classes", "one-hot", "random"])
def test_it_answers_as_the_model_does_and_what_misleads_it_misleads_the_model(head: str) -> None:
    learned = pupil(Answers(head), X, Y, norm=Linf, eps=EPS, draws=3 if head == "random" else 1, examples=1200)
    with torch.no_grad():
        agreed = (learned(X).argmax(1) == NET(X).argmax(1)).float().mean()
        attacked = PGD(EPS, loss=Margin())(learned, X, Y, generator=torch.arange(len(X)))
        corner = torch.randn(X.shape, generator=torch.Generator().manual_seed(0)).sign()
        noise = (X + EPS * corner).clamp(0, 1)
        kept, under_noise = ((NET(each).argmax(1) == Y).float().mean() for each in (attacked, noise))
    assert float(agreed) >= 0.9
    assert float(kept) <= float(under_noise) - 0.1


def test_the_seed_decides_it_and_torchs_generator_is_left_as_it_was() -> None:
    NET.train()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, again, other = (pupil(NET, X[:10], Y[:10], norm=Linf, eps=EPS, seed=s, examples=80) for s in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert NET.training
    assert all(parameter.requires_grad for parameter in NET.parameters())
    NET.eval()
    assert digest(first) == digest(again) != digest(other)
    assert torch.equal(pickle.loads(pickle.dumps(first))(X), first(X))
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_it_asks_the_model_as_often_as_its_card_says() -> None:
    asked = []

    def model(x: Images) -> Labels:
        asked.append(len(x))
        return x.flatten(1).sum(1).gt(30).long()

    pupil(model, X[:20], Y[:20].clamp(max=1), norm=Linf, eps=EPS, draws=2, examples=240)
    assert sum(asked) == 20 + 2 * (20 + 240)


@pytest.mark.parametrize("shape", [(5,), (12, 9), (3, 16, 16), (1, 2, 2), (2, 3, 4, 4)], ids=str)
@pytest.mark.parametrize("norm", [Linf, L2, L1], ids=str)
def test_images_of_any_shape(shape: tuple[int, ...], norm: object) -> None:
    x, y = torch.rand(6, *shape, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    learned = pupil(lambda images: images.flatten(1)[:, :4], x, y, norm=norm, eps=0.3, examples=24)  # pyright: ignore
    assert learned(x).shape == (6, 4)
    assert learned(x).dtype is torch.float64
    convolutions = [each for each in learned.modules() if isinstance(each, nn.Conv2d)]
    assert len(convolutions) == (2 if shape in {(12, 9), (3, 16, 16)} else 0)


def test_its_gradient_is_nowhere_flat() -> None:
    net = Pupil((1, 8, 8), 10)
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).square().sum(), x)
    assert bool((slope.flatten(1).abs().amax(1) > 0).all())


def test_the_scale_of_the_scores_and_probabilities_in_their_place_change_nothing() -> None:
    made = [
        pupil(model, X, Y, norm=Linf, eps=EPS, examples=160)(X)
        for model in (NET, lambda x: 1e6 * NET(x), lambda x: NET(x).double().log_softmax(1).exp())
    ]
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=0.05)
    torch.testing.assert_close(made[2], made[0], rtol=0, atol=0.5)


def test_what_cannot_be_is_refused() -> None:
    for options in ({"norm": L0, "eps": 3.0}, {"norm": Linf, "eps": 0.0}, {"norm": Linf, "eps": 0.1, "draws": 0}):
        with pytest.raises(ValueError, match="pupil needs"):
            pupil(NET, X, Y, **options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="did you mean"):
        pupil(NET, X, Y, norm=Linf, eps=8.0)
