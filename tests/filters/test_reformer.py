"""MagNet's reformer: what it is, and how it falls."""

import pytest
import torch
from torch import nn

from steelman import FGSM, PGD, IgnoringFilter, Plain, Reformer, Training, fit
from steelman.attacks import Attack
from steelman.data import Digits
from steelman.defences.generative import Denoising
from steelman.networks import MLP, DenoisingAutoencoder, Filtered
from steelman.training import Adam

SHAPE = (1, 8, 8)


def test_it_is_the_autoencoder_with_its_own_gradient() -> None:
    network = DenoisingAutoencoder(shape=SHAPE)
    filter, x = Reformer(network), torch.rand(4, *SHAPE, requires_grad=True)
    assert torch.equal(filter(x), network(x))
    assert filter(x.double()).dtype == torch.float64
    weight = torch.randn(4, *SHAPE)
    (around,) = torch.autograd.grad((Filtered(filter, nn.Flatten())(x) * weight.flatten(1)).sum(), x)
    (within,) = torch.autograd.grad((network(x) * weight).sum(), x)
    torch.testing.assert_close(around, within)
    with pytest.raises(ValueError, match=r"trained on images of \(1, 8, 8\); these are \(1, 6, 8\)"):
        filter(torch.rand(2, 1, 6, 8))
    with pytest.raises(ValueError, match="such as a DenoisingAutoencoder, with shape; got Flatten"):
        Reformer(nn.Flatten())


def test_attacks_through_it_break_it_where_one_past_it_does_less() -> None:
    torch.manual_seed(0)
    data = Digits().load("train")
    network, autoencoder = MLP(shape=SHAPE, hidden=(32,)), DenoisingAutoencoder(shape=SHAPE, width=12)
    how = Training(epochs=4, batch_size=32, optimiser=Adam(lr=0.01))
    fit(network, data, Plain(), how, progress=False)
    history = fit(
        autoencoder,
        data,
        Denoising(),
        Training(epochs=6, batch_size=32, optimiser=Adam(lr=0.02), validation=100),
        progress=False,
    )
    assert history.log[-1]["held_out"] < 0.2 * history.log[0]["held_out"]
    model = Filtered(Reformer(autoencoder), network).eval()
    batch = next(Digits().load("test").in_order(100))

    def accuracy(attack: Attack) -> float:
        return 1 - float(attack.run(model, batch.x, batch.y, generator=torch.arange(100)).success.double().mean())

    assert float((model(batch.x).argmax(1) == batch.y).double().mean()) > 0.85
    naive = accuracy(IgnoringFilter(FGSM(eps=0.2)))
    assert naive > 0.2
    assert accuracy(PGD(eps=0.2, steps=10, step_size=0.05)) < naive - 0.15
