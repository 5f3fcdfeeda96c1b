"""A toy: four classes, each a bright quadrant in noise; nets that learn it in seconds."""

import torch

from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier, MixingNetwork
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.training.keeping import read_log

LABELS = torch.arange(64) % 4
IMAGES = 0.2 * torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
for i, label in enumerate(LABELS.tolist()):
    row, column = divmod(label, 2)
    IMAGES[i, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.5


def a_net():
    torch.manual_seed(0)
    return build("small_cnn", widths=(4, 8), num_classes=4)


def a_mix(**alpha):
    """g and h are the same untrained net."""
    torch.manual_seed(1)
    return MixedClassifier(a_net(), a_net(), AdaptiveAlpha(MixingNetwork(8, 16, (8, 8, 8)), **alpha))


def same_tensors(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def log_without_times(folder):
    return [{**row, "seconds": 0} for row in read_log(folder)]
