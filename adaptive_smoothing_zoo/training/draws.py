"""Random numbers of training: functions of a seed, a name and a number, independent of when they are drawn.

So checkpoints need no random state, and an example gets the same crop and the same attack in any process.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_smoothing_zoo.attacks.random_streams import bits, run_keys, uniform

_ALL = -1  # the "index" of random numbers that all examples share


def derived_seed(seed: int, what: str, number: int) -> int:
    """A separate seed for the ``number``-th draw named ``what``."""
    return int(bits(run_keys(seed, what, number, torch.tensor([_ALL])), torch.tensor(0)))


@lru_cache(maxsize=4)
def permutation(seed: int, what: str, number: int, count: int) -> Tensor:
    """0 to ``count - 1`` in random order, (count,) int64; cached, so do not modify it."""
    return bits(run_keys(seed, what, number, torch.arange(count)), torch.tensor(0)).argsort(stable=True)


def batch_of_round(seed: int, number: int, count: int, batch_size: int) -> Tensor:
    """Indices of a round's examples, (batch_size,): every epoch is a new permutation, cut into whole batches."""
    epoch, place = divmod(number, count // batch_size)
    order = permutation(seed, "order", epoch, count)
    return order[place * batch_size : (place + 1) * batch_size]


def augment(images: Tensor, padding: int, flip: bool, keys: Tensor) -> Tensor:
    """Mirror images with probability 1/2 and crop them at random from zero-padded ones: (N, channels, H, W).

    Args:
        images: (N, channels, H, W).
        padding: pixels on each side; 0 for no crops.
        flip: whether to mirror.
        keys: (N,) from ``run_keys``; the same key gives the same crop.
    """
    _, _, height, width = images.shape
    device = images.device
    draws = uniform(keys.view(-1, 1), torch.arange(3)).to(device)  # (N, 3)
    if flip:
        images = torch.where((draws[:, 0] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
    if padding:
        padded = F.pad(images, (padding,) * 4)
        top, left = ((draws[:, i] * (2 * padding + 1)).long().view(-1, 1) for i in (1, 2))
        rows = (top + torch.arange(height, device=device)).unsqueeze(2)  # (N, H, 1)
        columns = (left + torch.arange(width, device=device)).unsqueeze(1)  # (N, 1, W)
        example = torch.arange(len(images), device=device).view(-1, 1, 1)
        # Indexing with three index arrays around a slice moves channels last.
        images = padded[example, :, rows, columns].permute(0, 3, 1, 2).contiguous()
    return images
