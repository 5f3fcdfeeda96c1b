"""Certificates rely on the range that an alpha of a user's own declares; one that leaves it is refused."""

import math

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.certification.kinds import subject_of
from adaptive_smoothing_zoo.certification.mixes import certify_lipschitz, certify_mix
from adaptive_smoothing_zoo.certification.running import Run
from adaptive_smoothing_zoo.method.alpha import Alpha, ConstantAlpha, keeps_its_range

IMAGES, LABELS = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1])


class Given(Alpha):
    """These alphas for the images, declared to lie in [0.75, 0.9]."""

    alpha_min, alpha_max = 0.75, 0.9

    def __init__(self, *alphas):
        super().__init__()
        self.alphas = torch.tensor(alphas)

    def log_weights(self, outputs):
        alphas = self.alphas[: len(outputs.log_std)].unsqueeze(1)
        return torch.log1p(-alphas), alphas.log()


def mix(alpha, smoothed=False):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    h = GaussianSmoothed(net, sigma=0.5, image_shape=(1, 2, 2), num_noises=2) if smoothed else net
    return MixedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), h, alpha)


def through_subject(model, tmp_path):
    subject = subject_of(model, n0=2, n=20)
    return subject.certify(IMAGES, LABELS, (), lambda name: tmp_path / name, Run())


CERTIFY = {
    "mix": lambda alpha, _: certify_mix(mix(alpha, smoothed=True), IMAGES, LABELS, n0=2, n=20),
    "subject": lambda alpha, folder: through_subject(mix(alpha, smoothed=True), folder),
    "lipschitz": lambda alpha, _: certify_lipschitz(mix(alpha), IMAGES, LABELS, lipschitz=1.0),
    "top k": lambda alpha, _: certify_lipschitz(mix(alpha), IMAGES, LABELS, lipschitz=1.0, top_k=1),
}


@pytest.mark.parametrize("how", CERTIFY)
@pytest.mark.parametrize("wrong", [0.7, 0.95, math.nan])
def test_an_alpha_outside_of_its_declared_range_is_refused(how, wrong, tmp_path):
    with pytest.raises(ValueError, match=rf"alpha is {wrong:g} at an image, .*Given declares .* \[0.75, 0.9\]"):
        CERTIFY[how](Given(0.8, 0.8, wrong), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", CERTIFY)
def test_a_replaced_method_is_code_of_the_user_s_own(how, tmp_path):
    alpha = ConstantAlpha(0.9)
    alpha.log_weights = lambda outputs: (0.0, -math.inf)  # the mix is g
    with pytest.raises(ValueError, match=r"alpha is 0 at an image, .*ConstantAlpha declares .* \[0.9, 0.9\]"):
        CERTIFY[how](alpha, tmp_path)
    assert not keeps_its_range(alpha)


@pytest.mark.parametrize("how", CERTIFY)
def test_an_alpha_inside_is_certified_and_its_module_stays_as_it_was(how, tmp_path):
    alpha = Given(0.75, 0.8, 0.9)
    CERTIFY[how](alpha, tmp_path)
    assert alpha.training
