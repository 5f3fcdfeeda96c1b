"""What training draws at random: a function of a seed, a name and a number, never of when it is drawn.

So checkpoints hold no random state, and an example meets the same crop and the same attack in whatever process it is.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_smoothing_zoo.attacks.random_streams import bits, run_keys, uniform

_ALL = -1  # the "index" of what all examples share


def derived_seed(seed: int, what: str, number: int) -> int:
    """A seed of its own for the ``number``-th of something."""
    return int(bits(run_keys(seed, what, number, torch.tensor([_ALL])), torch.tensor(0)))


@lru_cache(maxsize=4)
def permutation(seed: int, what: str, number: int, count: int) -> Tensor:
    """The numbers below ``count`` in random order, (count,) int64, not to be changed: the last few are remembered."""
    return bits(run_keys(seed, what, number, torch.arange(count)), torch.tensor(0)).argsort(stable=True)


def batch_of_round(seed: int, number: int, count: int, batch_size: int) -> Tensor:
    """The examples of a round, (batch_size,): every epoch is a permutation of its own, cut into whole batches."""
    epoch, place = divmod(number, count // batch_size)
    order = permutation(seed, "order", epoch, count)
    return order[place * batch_size : (place + 1) * batch_size]


def augment(images: Tensor, padding: int, flip: bool, keys: Tensor) -> Tensor:
    """Random mirroring (with probability 1/2) and random crops of zero-padded images.

    Args:
        images: (N, channels, H, W).
        padding: pixels on each side.
        flip: whether images are mirrored.
        keys: (N,) of ``run_keys``: an image with the same key gets the same crop.
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
