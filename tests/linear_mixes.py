"""Mixes of nets so simple that their exact robustness is known."""

import torch
from torch import nn

from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier

SHAPE = (1, 6, 6)
PIXELS = 36


class Tapped(nn.Module):
    """A net of one layer whose feature maps are the image itself."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, images):
        return self.layer(images.flatten(1))

    def forward_intermediates(self, images, indices):
        return images, [images for _ in indices]

    def forward_head(self, images):
        return self(images)


class LinearAlpha(nn.Module):
    """A mixing network that is linear in the pixels."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, std_maps, rob_maps):
        return (std_maps[0].flatten(1) - 0.5) @ self.weight[:, None]


def adaptive(std, rob, weight, bias, **settings):
    """A mix with alpha_logit = weight . (x - 1/2) + bias."""
    alpha = AdaptiveAlpha(LinearAlpha(weight), logit_scale=1.0, logit_bias=bias, **settings)
    return MixedClassifier(Tapped(std), Tapped(rob), alpha).eval().requires_grad_(False)


def a_linear_mix(classes=5, constant=None):
    """g and h are the same linear net, so the mix is it, too, whatever alpha does (and it does change)."""
    layer = nn.Linear(PIXELS, classes)
    if constant is not None:
        return MixedClassifier(Tapped(layer), Tapped(layer), constant).eval().requires_grad_(False)
    return adaptive(layer, layer, torch.randn(PIXELS), 0.3, alpha_min=0.2)


def distance(mix, images, labels, norm):
    """To the nearest decision boundary of ``a_linear_mix`` without the box, (N,)."""
    layer = mix.std_model.layer
    weight, logits = layer.weight.double(), layer(images.flatten(1)).double()
    gaps = logits.gather(1, labels[:, None]) - logits
    steps = weight[labels][:, None] - weight[None]
    size = steps.abs().sum(2) if norm == "Linf" else steps.norm(dim=2)
    return torch.where(size > 0, gaps / size, torch.inf).amin(1)


EPS = 0.1


class Lured(nn.Module):
    """g of ``a_lured_mix``: sure of class 0, and of class 1 at the far end of the pattern's direction."""

    def __init__(self, pattern):
        super().__init__()
        self.register_buffer("pattern", pattern)

    def forward(self, pixels):
        along = (pixels - 0.5) @ self.pattern / (EPS * PIXELS)  # in [-1, 1] in the l_inf ball of radius EPS around 1/2
        half = 6.0 - 7.0 * along
        return torch.stack([half, -half, 0 * half - 20.0, 0 * half - 21.0], dim=1)


class Same(nn.Module):
    """h of ``a_lured_mix``: the same answer, class 0 and not very sure, for every image."""

    def forward(self, pixels):
        answer = torch.tensor([0.6, 0.2, 0.12, 0.08], dtype=pixels.dtype).log()
        return answer.expand(len(pixels), 4) + 0 * pixels[:, :1]


def a_lured_mix(alpha_min=0.0):
    """Every image near gray is of class 0, and lost at the end of the ball at which alpha is low and g wrong.

    Around the image g is surer than h, so the loss of the mix rises as alpha does, away from that end.
    """
    pattern = torch.randint(0, 2, (PIXELS,), generator=torch.Generator().manual_seed(5)) * 2.0 - 1.0
    return adaptive(Lured(pattern), Same(), -6.0 * pattern / (EPS * PIXELS), 1.0, alpha_min=alpha_min)
