"""Brute-force transfer: every image has been tried from every surrogate, against a plain loop."""

import torch

from affine import Another, images, small_net
from steelman.attacks import PGD, Surrogate, WorstOf
from steelman.norms import Linf

VICTIM = small_net()
X = images(16, seed=4)
Y = VICTIM(X).argmax(1)


def test_an_image_falls_if_any_surrogate_fools_the_victim() -> None:
    attack = PGD(eps=0.15, steps=6, random_start=False)
    surrogates = [Another(seed) for seed in range(1, 6)]
    crafted = [attack(each, X, Y) for each in surrogates]
    falls = torch.stack([VICTIM(image).argmax(1) != Y for image in crafted])
    assert bool((falls.any(0) & ~falls[0]).any()), "more surrogates were of no use: nothing was tested"
    assert not bool(falls.any(0).all())
    for count in (1, 3, 5):
        brute = WorstOf(tuple(Surrogate(attack, each) for each in surrogates[:count]))
        result = brute.run(VICTIM, X, Y)
        assert torch.equal(result.success, falls[:count].any(0))
        assert (Linf.size(result.x_adv - X) <= 0.15).all()
        for row in torch.where(result.success)[0].tolist():
            assert any(torch.equal(result.x_adv[row], image[row]) for image in crafted)
