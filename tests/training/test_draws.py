import torch
import torch.nn.functional as F

from adaptive_smoothing_zoo.attacks.random_streams import run_keys
from adaptive_smoothing_zoo.training.draws import augment, batch_of_round, derived_seed, permutation


def keys(seed, count):
    return run_keys(seed, "augment", 0, torch.arange(count))


def test_a_crop_is_a_shift_of_the_padded_image_and_mirroring_reverses_columns():
    images = torch.arange(2 * 1 * 4 * 5, dtype=torch.float32).reshape(2, 1, 4, 5) + 1
    padded = F.pad(images, (1, 1, 1, 1))
    shifts = [(r, c) for r in range(3) for c in range(3)]
    seen = set()
    for seed in range(60):
        for original, cropped in zip(padded, augment(images, 1, False, keys(seed, 2)), strict=True):
            match = [s for s in shifts if torch.equal(cropped, original[:, s[0] : s[0] + 4, s[1] : s[1] + 5])]
            assert len(match) == 1
            seen.add(match[0])
    assert len(seen) == 9
    mirrored = [augment(images, 0, True, keys(seed, 2)) for seed in range(20)]
    kinds = {
        "same" if torch.equal(image, original) else "mirrored" if torch.equal(image, original.flip(2)) else "neither"
        for batch in mirrored
        for image, original in zip(batch, images, strict=True)
    }
    assert kinds == {"same", "mirrored"}


def test_crops_and_mirrors_are_uniform():
    images = torch.zeros(6000, 1, 2, 2)
    images[:, :, 0, 0] = 1.0
    cropped = augment(images, 2, True, keys(0, 6000))
    # A pixel at the upper left (upper right if mirrored) is moved by -2 .. 2 and often out of sight.
    assert abs(float(cropped.sum()) / 6000 - (2 / 5) * (2 / 5)) < 0.02
    mirrored = augment(images, 0, True, keys(0, 6000))
    assert abs(float(mirrored[:, 0, 0, 1].mean()) - 0.5) < 0.03


def test_an_image_is_augmented_the_same_whatever_its_company():
    images = torch.rand(10, 3, 6, 6)
    together = augment(images, 2, True, keys(3, 10))
    order = torch.randperm(10)
    assert torch.equal(augment(images[order], 2, True, keys(3, 10)[order]), together[order])
    assert not torch.equal(augment(images, 2, True, keys(4, 10)), together)


def test_every_epoch_is_a_permutation_of_its_own_cut_into_whole_batches():
    epochs = [torch.cat([batch_of_round(0, 4 * epoch + i, 14, 3) for i in range(4)]) for epoch in range(3)]
    for epoch in epochs:
        assert len(epoch.unique()) == 12
        assert epoch.max() < 14
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], torch.cat([batch_of_round(1, i, 14, 3) for i in range(4)]))


def test_permutations_are_fair():
    firsts = torch.stack([permutation(0, "order", number, 5) for number in range(3000)])
    assert (firsts.sort(dim=1).values == torch.arange(5)).all()
    counts = torch.stack([(firsts == value).double().mean(0) for value in range(5)])
    assert (counts - 0.2).abs().max() < 0.03


def test_derived_seeds_differ_by_seed_name_and_number():
    seeds = {derived_seed(seed, what, number) for seed in range(5) for what in ("round", "net") for number in range(50)}
    assert len(seeds) == 500
