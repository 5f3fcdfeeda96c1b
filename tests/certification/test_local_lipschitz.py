"""The estimate of local constants against nets whose constants are known; it never exceeds them."""

import numpy as np
import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.certification.bounds.theorem4 import lipschitz_radius
from adaptive_smoothing_zoo.certification.local_lipschitz import estimate_local_lipschitz
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.threat import ThreatModel


class Slope(nn.Module):
    """Probabilities (1 + m) / 2 and (1 - m) / 2, m = w . x: linear, so that every constant is known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.1, 0.15]))

    def forward(self, images):
        m = (images.flatten(1) * self.weight).sum(dim=1, keepdim=True)
        return torch.cat([(1 + m) / 2, (1 - m) / 2], dim=1).log()


IMAGES = 0.4 + 0.2 * torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1), ("L2", 2)])
def test_a_linear_net_has_its_dual_norm_everywhere(norm, dual):
    found = estimate_local_lipschitz(Slope(), IMAGES, ThreatModel(norm, 0.1))
    exact = float(torch.linalg.vector_norm(Slope().weight.detach(), dual)) / 2
    assert (found.constants <= exact * (1 + 1e-5)).all()
    np.testing.assert_allclose(found.constants, exact, rtol=0.01)
    np.testing.assert_allclose(found.estimated_radius, lipschitz_radius(found.probabilities, 1.0, found.constants))
    np.testing.assert_array_equal(found.estimated_robust, found.estimated_radius >= 0.1)


def test_a_sharp_step_shows_only_in_the_balls_that_reach_it():
    class Step(nn.Module):
        def forward(self, images):
            pixel = images.flatten(1)[:, :1]
            return torch.cat([torch.zeros_like(pixel), 40 * (pixel - 0.6)], dim=1)

    images = torch.tensor([0.2, 0.5, 0.55])[:, None, None, None]
    found = estimate_local_lipschitz(Step(), images, ThreatModel("Linf", 0.1), steps=40)
    assert found.constants[0].max() < 1e-3
    assert found.constants[2].min() > 4
    assert found.estimated_robust.tolist() == [True, False, False]
    # At 0.5 the ball ends on the boundary: h_y falls from 0.98 to 1/2.
    np.testing.assert_allclose(found.constants[1], (1 / (1 + np.exp(-4.0)) - 0.5) / 0.1, rtol=0.02)


def test_a_mix_counts_with_its_robust_half_and_alpha_min():
    model = MixedClassifier(Slope(), Slope(), 0.95)
    found = estimate_local_lipschitz(model, IMAGES, ThreatModel("Linf", 0.01))
    alone = estimate_local_lipschitz(Slope(), IMAGES, ThreatModel("Linf", 0.01), alpha=0.95)
    np.testing.assert_allclose(found.constants, alone.constants, rtol=1e-5)
    np.testing.assert_allclose(found.estimated_radius, alone.estimated_radius, rtol=1e-4)
    one = estimate_local_lipschitz(Slope(), IMAGES, ThreatModel("Linf", 0.01))
    assert (found.estimated_radius <= one.estimated_radius).all()


def test_batches_change_nothing_and_nonsense_is_refused():
    whole = estimate_local_lipschitz(Slope(), IMAGES, ThreatModel("Linf", 0.1))
    parts = estimate_local_lipschitz(Slope(), IMAGES, ThreatModel("Linf", 0.1), batch_size=2)
    np.testing.assert_allclose(whole.constants, parts.constants, rtol=1e-5)
    with pytest.raises(ValueError, match="eps must be positive"):
        estimate_local_lipschitz(Slope(), IMAGES, ThreatModel("Linf", 0.0))


def test_the_caller_s_modes_change_nothing():
    torch.manual_seed(0)
    net, threat = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), ThreatModel("L2", 0.1)
    expected = estimate_local_lipschitz(net, IMAGES, threat)
    for mode in (torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16)):
        with mode:
            np.testing.assert_array_equal(estimate_local_lipschitz(net, IMAGES, threat).constants, expected.constants)
    with pytest.raises(EvaluationError, match=r"the model fails on torch.float32 images .* number formats"):
        estimate_local_lipschitz(net.double(), IMAGES, threat)


def test_a_net_in_train_mode_is_estimated_in_eval_mode_and_left_as_it_was():
    class Named(nn.Module):
        """Logits by name, behind a batch norm whose batch would decide them."""

        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3))

        def forward(self, images):
            return {"logits": self.layers(images)}

    torch.manual_seed(0)
    net, threat = Named(), ThreatModel("L2", 0.1)
    expected = estimate_local_lipschitz(net.eval().layers, IMAGES, threat)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for model in (net.train(), MixedClassifier(Slope(), net, 1.0).train()):
        found = estimate_local_lipschitz(model, IMAGES, threat)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-6)
        np.testing.assert_allclose(found.constants, expected.constants, rtol=1e-4)
        assert all(module.training for module in net.modules())
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
