"""How the learning rate changes over a training, as a factor between 0 and 1."""

import math

WARM_UP = 25  # the cosine's warm-up has a time constant of this part of the steps, as the authors have it


def cosine(step: int, total: int) -> float:
    """Cosine decay from 1 to 0 behind an exponential warm-up, ``1 - exp(-(step + 1) / (total / 25))``.

    It is what the authors make of PyTorch's CosineAnnealingLR and pytorch_warmup's ExponentialWarmup, whose period is
    a whole number of steps (here at least one).
    """
    warm_up = 1.0 - math.exp(-(step + 1) / max(1, total // WARM_UP))
    return 0.5 * (1.0 + math.cos(math.pi * step / total)) * warm_up


def triangle(step: int, total: int) -> float:
    """A linear rise over the first 30 % of the steps and a linear fall to zero."""
    return min(1.0, (step + 1) / (0.3 * total), (total - step) / (0.7 * total))


def thirds(step: int, total: int) -> float:
    """A tenth of the rate after each third of the steps, as in most trainings of nets that will be smoothed."""
    return float(10.0 ** -(3 * step // total))


SCHEDULES = {"cosine": cosine, "triangle": triangle, "thirds": thirds}
