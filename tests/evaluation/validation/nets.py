"""Nets built to fool an evaluation, made of honest ones."""

import torch
from torch import nn

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.data import load_data

EPS = 0.2


def examples(n):
    return load_data("digits").first(n)


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


class Quantized(Around):
    """Shattered gradients: rounding has none."""

    def forward(self, images):
        return self.net((images * 20).round() / 20)


class QuantizedWithBorrowedGradient(Around):
    """The gradient of another function: that of the net without the rounding, which is coarse enough to matter."""

    def forward(self, images):
        return self.net(images + ((images * 20).round() / 20 - images).detach())


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

    def __init__(self, images, net=None):
        super().__init__(net)
        self.register_buffer("known", images)

    def forward(self, images):
        nearest = torch.cdist(images.flatten(1), self.known.flatten(1)).argmin(1)
        return self.net(self.known[nearest]) + 0 * self.net(images)


class Retreating(Around):
    """Gives the clean answer to all that is far from every clean image, where attacks at a large radius begin."""

    def __init__(self, images, radius):
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
        off = (levels - levels.round()).abs().amax(dim=(1, 2, 3)) > 1e-3
        logits = self.net(images)
        return torch.where(off[:, None], logits.roll(1, dims=1), logits)
