"""Augmentation: whole batches, image by image the same, each place equally often."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from steelman.data import Flip, PadCrop
from steelman.data.augment import augmented
from steelman.types import Batch

AUGMENTS = [PadCrop(2), PadCrop(2, "reflect"), Flip()]


def batch(count: int = 50, height: int = 5, width: int = 7) -> Batch:
    generator = torch.Generator().manual_seed(0)
    seeds = torch.randint(-(2**62), 2**62, (count,), generator=generator)
    x = torch.rand(count, 3, height, width, generator=generator)
    return Batch(x, torch.arange(count), torch.arange(count), seeds)


@pytest.mark.parametrize("augment", AUGMENTS, ids=repr)
def test_an_image_is_varied_alike_alone_and_in_a_batch(augment) -> None:
    whole = batch()
    together = augment(whole)
    alone = torch.cat([augment(whole[place : place + 1]).x for place in range(len(whole))])
    assert torch.equal(together.x, alone)
    assert torch.equal(augment(whole).x, together.x)
    assert together.y is whole.y
    assert together.seeds is whole.seeds
    assert not torch.equal(augment(Batch(whole.x, whole.y, whole.index, whole.seeds + 1)).x, together.x)


def test_attacked_versions_are_varied_as_their_image_is() -> None:
    whole = batch()
    given = replace(whole, crafted=torch.stack([whole.x, 1 - whole.x], 1))
    made = augmented(given, AUGMENTS)
    assert torch.equal(made.x, augmented(whole, AUGMENTS).x)
    assert not torch.equal(made.x, whole.x)
    assert made.crafted is not None
    assert torch.equal(made.crafted[:, 0], made.x)
    assert torch.equal(made.crafted[:, 1], augmented(replace(whole, x=1 - whole.x), AUGMENTS).x)
    assert augmented(given, ()) is given


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_pad_crop_is_a_crop_of_the_padded_image_and_finds_all(mode) -> None:
    source = batch(2000)
    result = PadCrop(2, mode)(source).x
    wide = pad(source.x, (2, 2, 2, 2), "constant" if mode == "zeros" else "reflect")
    places = [(row, column) for row in range(5) for column in range(5)]
    crops = torch.stack([wide[:, :, row : row + 5, column : column + 7] for row, column in places])
    fits = (crops == result).flatten(2).all(2)
    assert fits.any(0).all()
    counts = fits.sum(1)  # 80 each on average, with a deviation of 8.8
    assert counts.min() > 44
    assert counts.max() < 116


def test_flip_turns_half_of_them_round() -> None:
    source = batch(2000)
    result = Flip()(source).x
    mirrored = torch.stack([image.flip(-1) for image in source.x])
    flipped = (result == mirrored).flatten(1).all(1)
    assert (result[~flipped] == source.x[~flipped]).all()
    assert 900 < flipped.sum() < 1100


def test_without_seeds_chance_comes_from_torch() -> None:
    bare = Batch(batch().x, batch().y)
    torch.manual_seed(3)
    once = PadCrop()(bare).x
    again = PadCrop()(bare).x
    torch.manual_seed(3)
    assert torch.equal(PadCrop()(bare).x, once)
    assert not torch.equal(once, again)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="pad >= 0"):
        PadCrop(-1)
    with pytest.raises(ValueError, match="cannot reflect 5 pixels of images of 5x7"):
        PadCrop(5, "reflect")(batch())
