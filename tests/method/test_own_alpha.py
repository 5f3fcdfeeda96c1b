"""An alpha of the user's own, of neither kind that the package knows, wherever a mix and its alpha go."""

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo import Alpha, MixedClassifier, ThreatModel, load_model
from adaptive_smoothing_zoo.attacks.adaptive import ADAPTIVE_ATTACKS
from adaptive_smoothing_zoo.attacks.catalogue import complete
from adaptive_smoothing_zoo.attacks.losses import alpha_loss
from adaptive_smoothing_zoo.attacks.margin_bounds import BoundedMargins, bounded_margins
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.attacks.views import GrayBox, WithAlphaLoss
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.certification.bounds.margin import margin_needed
from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.method.alpha import with_mixing_network
from adaptive_smoothing_zoo.method.half_precision import to_dtype
from adaptive_smoothing_zoo.storage.identity import identity_of

IMAGES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Cautious(Alpha):
    """More of h where g is unsure: alpha = 0.6 + 0.4 (1 - max g)."""

    alpha_min = 0.6

    def log_weights(self, outputs):
        alpha = 1.0 - 0.4 * outputs.log_std.exp().amax(dim=1, keepdim=True)
        return torch.log1p(-alpha), alpha.log()


class SecondMap(Cautious):
    """alpha = 0.6 + 0.4 sigmoid(mean of h's second map)."""

    rob_taps = (1,)

    def forward(self, std_maps, rob_maps):
        return rob_maps[0].mean(dim=(1, 2, 3))

    def alpha(self, alpha_logit):
        return 0.6 + 0.4 * alpha_logit.sigmoid()

    def log_weights(self, outputs):
        alpha = self.alpha(self.alpha_logit(outputs)).unsqueeze(1)
        return torch.log1p(-alpha), alpha.log()


class Duck(nn.Module):
    """The contract alone, without the base class."""

    alpha_min, alpha_max, std_taps, rob_taps, varies = 0.6, 1.0, None, None, True
    log_weights, alpha_logit, alpha = Cautious.log_weights, Alpha.alpha_logit, Alpha.alpha


def expected_alpha(model, images):
    if isinstance(model.alpha, SecondMap):
        return 0.6 + 0.4 * model.rob_model.forward_intermediates(images)[1][1].mean(dim=(1, 2, 3)).sigmoid()
    return 1.0 - 0.4 * (2.0 * model.std_model(images)).softmax(dim=1).amax(dim=1)


@pytest.fixture(params=[Cautious, SecondMap, Duck])
def model(request):
    torch.manual_seed(0)
    g, h = (build("small_cnn", widths=(4, 6), num_classes=4) for _ in range(2))
    return MixedClassifier(g, h, request.param(), std_map=2.0).eval()


def test_it_weighs_the_nets_in_every_call(model):
    alpha = expected_alpha(model, IMAGES)
    g, h = (2.0 * model.std_model(IMAGES)).softmax(dim=1), model.rob_model(IMAGES).softmax(dim=1)
    expected = ((1 - alpha[:, None]) * g + alpha[:, None] * h).log()
    torch.testing.assert_close(model(IMAGES), expected)
    torch.testing.assert_close(model.alpha_of(IMAGES), alpha)
    torch.testing.assert_close(model.forward_head(model.forward_features(IMAGES)), expected)
    assert torch.equal(model.predict(IMAGES), expected.argmax(dim=1))
    torch.testing.assert_close(to_dtype(model, "bfloat16")(IMAGES), expected, rtol=0.05, atol=0.05)


def test_attacks_see_and_move_it(model):
    images = IMAGES.clone().requires_grad_()
    output = WithAlphaLoss(model)(images)
    torch.testing.assert_close(output[:, :-1], model(IMAGES))
    torch.testing.assert_close(alpha_loss(output), -model.alpha_logit_of(IMAGES).sigmoid().log())
    (gradient,) = torch.autograd.grad(alpha_loss(output).sum(), images)
    assert gradient.abs().sum() > 0
    gray, white = (torch.autograd.grad(view(images)[:, 0].sum(), images)[0] for view in (GrayBox(model), model))
    torch.testing.assert_close(GrayBox(model)(IMAGES), model(IMAGES))
    assert not torch.allclose(gray, white, rtol=1e-3, atol=0)
    labels = model.predict(IMAGES)
    margins = BoundedMargins(model)(IMAGES, labels, torch.full((8,), 100.0))
    top_two = model(IMAGES).topk(2, dim=1).values
    torch.testing.assert_close(margins, top_two[:, 0] - top_two[:, 1])


def test_adaptive_attacks_run_through_it(model):
    threat = ThreatModel("Linf", 0.2)
    settings = complete(AttackSettings(attacks=ADAPTIVE_ATTACKS, seed=0, batch_size=8)).limited(iterations=3)
    engine = Search(model, threat, settings, num_classes=4, device=torch.device("cpu"))
    labels = model.predict(IMAGES)
    for name in ADAPTIVE_ATTACKS:
        for positions, found in engine.attack(name, IMAGES, labels, torch.arange(8)):
            assert bool((threat.distance(IMAGES[positions], found) <= 0.2 + 1e-6).all())


def test_what_it_says_of_its_range_spares_an_attack_nothing(model):
    assert bounded_margins(model) is None
    model.alpha = type("Untrue", (Cautious,), {"alpha_min": 0.999})()
    assert bounded_margins(model) is None


def test_certificates_count_its_alpha_min(model):
    assert margin_needed(model.alpha) == margin_needed(0.6)


def test_it_belongs_to_the_model_s_identity_and_entries_cannot_say_it(model, tmp_path):
    triplet = load_model("Demo2026Constant", dataset="digits")
    before, triplet.alpha = identity_of(triplet, (1, 8, 8)), model.alpha
    assert identity_of(triplet, (1, 8, 8)) != before
    name = type(model.alpha).__name__
    with pytest.raises(ConfigError, match=f"entries support a constant or an adaptive alpha, not a {name}"):
        triplet.save_pretrained(tmp_path / "saved")


def test_what_it_lacks_is_said(model):
    with pytest.raises(TypeError, match="Linear has no alpha_min"):
        MixedClassifier(model.std_model, model.rob_model, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="alpha_max must be in"):
        MixedClassifier(model.std_model, model.rob_model, type("Wide", (Cautious,), {"alpha_max": 1.5})())
    with pytest.raises(NotImplementedError, match="Alpha has no log_weights"):
        MixedClassifier(model.std_model, model.rob_model, Alpha())(IMAGES)
    with pytest.raises(ValueError, match=f"a {type(model.alpha).__name__}; there is no mixing network to train"):
        with_mixing_network(model.alpha)
