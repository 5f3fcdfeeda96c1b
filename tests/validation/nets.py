"""Nets built to fool an evaluation, made of honest ones; and examples to attack them on."""

import torch
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.attacks.views import pin_alpha
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha

EPS = 0.2


def examples(n):
    """The first digits, as (images, labels)."""
    found = load_data("digits").first(n)
    return found.images, found.labels


def triplet(name="Demo2026Adaptive"):
    return load_model(name, dataset="digits", threat_model="Linf")


def honest_net():
    """A plain convolutional net, adversarially trained."""
    return triplet("Demo2026Constant").rob_model


class TextbookHead(nn.Module):
    """The log of the sum of softmaxes, which is -inf as soon as both nets are confident."""

    def __init__(self, scale=100.0):
        super().__init__()
        mix = triplet("Demo2026Constant")
        self.std_model, self.rob_model, self.alpha, self.scale = mix.std_model, mix.rob_model, 0.95, scale

    def forward(self, images):
        std, rob = ((self.scale * net(images)).softmax(1) for net in (self.std_model, self.rob_model))
        return ((1 - self.alpha) * std + self.alpha * rob).log()


def saturated_alpha():
    """The adaptive triplet with alpha_logit a hundred times as large."""
    model = triplet()
    model.alpha.logit_scale, model.alpha.logit_bias = 100.0 * model.alpha.logit_scale, 100.0 * model.alpha.logit_bias
    return model


class Around(nn.Module):
    """A net of which a subclass changes what goes in or comes out."""

    def __init__(self, net=None):
        super().__init__()
        self.net = net or honest_net()

    def forward(self, images):
        return self.net(images)


def quantized(images):
    return (images * 20).round() / 20


class Quantized(Around):
    """Shattered gradients: rounding has none."""

    def forward(self, images):
        return self.net(quantized(images))


class Rippled(Around):
    """Shattered gradients: a ripple on every pixel, too small to matter but steep."""

    def forward(self, images):
        return self.net(images + 0.01 * torch.sin(4e3 * images))


class QuantizedWithBorrowedGradient(Around):
    """The gradient of another function: that of the net without the rounding, which is coarse enough to matter."""

    def forward(self, images):
        return self.net(images + (quantized(images) - images).detach())


class GradientAtHomeOnly(Around):
    """A gradient at the clean images alone."""

    def __init__(self, images):
        super().__init__()
        self.register_buffer("known", images)

    def forward(self, images):
        away = (images[:, None] - self.known[None]).abs().flatten(2).amax(2).amin(1)
        return self.net(torch.where((away == 0).view(-1, 1, 1, 1), images, images.detach()))


class TwoFaced(Around):
    """Answers differently when a gradient is to be taken."""

    def forward(self, images):
        logits = self.net(images)
        return logits.roll(1, dims=1) if torch.is_grad_enabled() and images.requires_grad else logits


class Randomized(Around):
    def forward(self, images):
        return self.net(images + 0.05 * torch.randn_like(images))


class BatchDependent(Around):
    """Classifies an image relative to its batch."""

    def forward(self, images):
        logits = self.net(images)
        return logits - logits.mean(dim=0)


class LeansOnTheBatch(Around):
    """Its logits lean a little on the batch; its labels need not."""

    def forward(self, images):
        logits = self.net(images)
        return logits + 0.1 * logits.mean(dim=0)


class Overconfident(Around):
    """The same labels, with logits so large that cross-entropy and its gradient are exactly zero."""

    def forward(self, images):
        return 1e4 * self.net(images)


class DoubleMinded(Around):
    """Another net in float64."""

    def forward(self, images):
        logits = self.net(images)
        return logits.roll(1, dims=1) if images.dtype == torch.float64 else logits


class Fortress(Around):
    """Gives the clean answer for whatever comes: no attack succeeds, however much room it has."""

    def __init__(self, images):
        super().__init__()
        self.register_buffer("known", images)

    def forward(self, images):
        nearest = torch.cdist(images.flatten(1), self.known.flatten(1)).argmin(1)
        return self.net(self.known[nearest]) + 0 * self.net(images)


class Retreating(Around):
    """Gives the clean answer to all that is far from every clean image, where attacks at a large radius begin."""

    def __init__(self, images, radius=1.5 * EPS):
        super().__init__()
        self.register_buffer("known", images)
        self.radius = radius

    def forward(self, images):
        away = (images[:, None] - self.known[None]).abs().flatten(2).amax(2)
        distance, nearest = away.min(1)
        far = (distance > self.radius).view(-1, 1, 1, 1)
        return self.net(torch.where(far, self.known[nearest], images))


class Fragile(Around):
    """Falls to changes that are not whole gray levels."""

    def forward(self, images):
        levels = images * 255
        off = (levels - levels.round()).abs().amax(dim=(1, 2, 3)) > 1e-2
        logits = self.net(images)
        return torch.where(off[:, None], logits.roll(1, dims=1), logits)


class _QuantizedMix(MixedClassifier):
    def forward(self, images):
        return super().forward(quantized(images))


def quantized_mix():
    """A mix that hides the gradients of its nets, as if mixing had made it robust."""
    model = pin_alpha(triplet("Demo2026Constant"))
    model.__class__ = _QuantizedMix
    return model


class _FollowsStandardNet(MixedClassifier):
    def forward(self, images):
        return pin_alpha(self, 0.0)(images)


def follows_standard_net():
    """Says that h has the last word and lets g have it."""
    model = pin_alpha(triplet("Demo2026Constant"))
    model.__class__ = _FollowsStandardNet
    return model


class FarClass(nn.Module):
    """Twelve classes; only the least likely one can be reached, and all the gradients of the others lead away from it.

    Label 0 has logit 0. Ten classes follow closely, hardly move, and rather fall where the right half of the image
    gets brighter. The last one is far behind and rises fast with that half: it leads from a rise by ``reach`` on.
    """

    reach = 0.15

    def forward(self, images):
        right = images[..., images.shape[-1] // 2 :].mean(dim=(1, 2, 3)) - 0.5
        close = [-1.0 - 0.01 * k - 0.1 * right for k in range(10)]
        return torch.stack([0.0 * right, *close, 30.0 * (right / self.reach - 1.0)], dim=1)


def even_images(n):
    """Images around 0.5, all of label 0 for :class:`FarClass`."""
    ramp = torch.linspace(-0.05, 0.05, 64).view(1, 1, 8, 8)
    images = 0.5 + ramp * torch.linspace(-1, 1, n).view(n, 1, 1, 1)
    return images, torch.zeros(n, dtype=torch.int64)


class _Halves(nn.Module):
    """Three classes by the brightness of the left half; its feature maps are the image itself."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        first = self.logits(left_of(images))
        return torch.stack([first, -first, -10.0 + 0.0 * first], dim=1)

    def forward_intermediates(self, images, indices):
        return images, [images for _ in indices]

    def forward_head(self, images):
        return self(images)


class _LeftAlpha(AdaptiveAlpha):
    def forward(self, std_maps, rob_maps):
        return 10.0 * left_of(std_maps[0])


def left_of(images):
    return images[..., : images.shape[-1] // 2].mean(dim=(1, 2, 3)) - 0.5


def misleading_alpha():
    """A mix whose own gradient leads to where alpha is high and h, though unsure, is right.

    g falls where the left half gets darker by 0.1, and there alpha is low; but before it falls it is so certain that
    more of h looks better to an attack, and h counts for more where the left half is brighter.
    """
    std_model = _Halves(lambda left: 100.0 * (left + 0.1))
    rob_model = _Halves(lambda left: 0.15 + 0.01 * left)
    return MixedClassifier(std_model, rob_model, _LeftAlpha(nn.Identity(), alpha_min=0.0, alpha_max=1.0))
