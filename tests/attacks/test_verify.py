"""Verdicts and the threat model."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_smoothing_zoo.attacks.verify import among_likeliest, check_adversarials, predict
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.threat import TOLERANCE, ThreatModel

CPU = torch.device("cpu")


class Recorder:
    """Logits are the image's pixels; the shapes of all batches are kept."""

    def __init__(self):
        self.shapes = []

    def __call__(self, images):
        self.shapes.append(tuple(images.shape))
        return images.flatten(1)


class TestPredict:
    @pytest.mark.parametrize("n", [1, 4, 5, 8, 11])
    def test_labels_are_the_largest_logits_and_every_batch_has_the_same_shape(self, n):
        model, images = Recorder(), torch.rand(n, 1, 2, 3)
        labels = predict(model, images, 4, CPU)
        assert torch.equal(labels, images.flatten(1).argmax(dim=1))
        assert model.shapes == [(4, 1, 2, 3)] * math.ceil(n / 4)

    @pytest.mark.parametrize("k", [1, 2, 5])
    def test_a_label_is_among_the_likeliest_if_a_full_ranking_has_it_there(self, k):
        model, images, labels = Recorder(), torch.rand(11, 1, 2, 3), torch.arange(11) % 6
        order = images.flatten(1).argsort(dim=1, descending=True)
        found = among_likeliest(model, images, labels, k, 4, CPU)
        assert torch.equal(found, (order[:, :k] == labels[:, None]).any(dim=1))
        assert model.shapes == [(4, 1, 2, 3)] * 3
        with pytest.raises(EvaluationError, match="gives NaN"):
            among_likeliest(model, images * float("nan"), labels, k, 4, CPU)

    def test_nothing_has_a_gradient(self):
        weight = torch.ones(1, requires_grad=True)

        def model(images):
            logits = images.flatten(1) * weight
            assert not logits.requires_grad
            return logits

        predict(model, torch.rand(3, 1, 1, 2), 2, CPU)

    def test_labels_come_back_to_the_images_device(self):
        images = torch.rand(3, 1, 1, 2)
        assert predict(Recorder(), images, 2, CPU).device == images.device

    @pytest.mark.parametrize("shape", [(2,), (2, 3, 1)])
    def test_an_output_that_is_not_a_row_of_classes_is_refused(self, shape):
        with pytest.raises(EvaluationError, match=r"must have shape \(N, classes\)"):
            predict(lambda images: torch.zeros(shape), torch.rand(2, 1, 1, 1), 2, CPU)

    def test_nan_in_one_logit_is_refused(self):
        images = torch.rand(5, 1, 1, 3)
        images[4, 0, 0, 1] = float("nan")
        with pytest.raises(EvaluationError, match="gives NaN"):
            predict(Recorder(), images, 2, CPU)

    def test_a_class_of_probability_zero_is_no_error(self):
        images = torch.tensor([[-math.inf, 0.0, -math.inf]]).view(1, 1, 1, 3)
        assert predict(Recorder(), images, 2, CPU).tolist() == [1]


class TestThreatModel:
    originals = torch.full((4, 1, 2, 2), 0.5)
    indices = torch.tensor([10, 11, 12, 13])

    def check(self, adversarials, norm="Linf", eps=0.1):
        check_adversarials(self.originals, adversarials, self.indices, ThreatModel(norm, eps))

    def changed(self, offset, pixels=slice(None)):
        """Image 2 moved by ``offset`` in some pixels."""
        adversarials = self.originals.clone()
        adversarials[2].view(-1)[pixels] += offset
        return adversarials

    @pytest.mark.parametrize(("norm", "offset"), [("Linf", 0.1), ("Linf", -0.1), ("L2", 0.05), ("L2", -0.05)])
    def test_points_on_the_ball_pass(self, norm, offset):
        self.check(self.changed(offset), norm)  # four pixels of 0.05 have length 0.1

    @pytest.mark.parametrize("norm", ["Linf", "L2"])
    def test_rounding_is_forgiven_and_nothing_more(self, norm):
        for offset in (0.1, -0.1):
            sign = math.copysign(1.0, offset)
            self.check(self.changed(offset + 0.5 * sign * TOLERANCE, 0), norm)
            with pytest.raises(EvaluationError, match=rf"image 12 leaves the {norm} ball of radius 0\.1"):
                self.check(self.changed(offset + 2 * sign * TOLERANCE, 0), norm)

    def test_the_norms_are_told_apart(self):
        self.check(self.changed(0.09))
        with pytest.raises(EvaluationError, match="leaves the L2 ball"):
            self.check(self.changed(0.09), "L2")

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("norm", ["Linf", "L2"])
    def test_a_pixel_that_is_not_finite_is_refused(self, norm, value):
        adversarials = self.originals.clone()
        adversarials[3, 0, 1, 1] = value
        with pytest.raises(EvaluationError, match="image 13 has a pixel that is not finite"):
            self.check(adversarials, norm, eps=10.0)

    @pytest.mark.parametrize("offset", [0.5 + 1e-6, -0.5 - 1e-6])
    def test_the_box_is_not_left_by_any_amount(self, offset):
        with pytest.raises(EvaluationError, match=r"image 12 leaves \[0, 1\]"):
            self.check(self.changed(offset, 1), eps=1.0)

    def test_the_first_bad_example_is_named(self):
        adversarials = self.originals.clone()
        adversarials[[1, 3]] += 0.2
        with pytest.raises(EvaluationError, match="image 11 "):
            self.check(adversarials)

    def test_no_example_at_all_passes(self):
        check_adversarials(self.originals[:0], self.originals[:0], self.indices[:0], ThreatModel("Linf", 0.1))


@given(st.integers(0, 5), st.sampled_from([(3, 224, 224), (1, 5, 7)]), st.sampled_from([0.1, 3.0, 20.0, 100.0]))
@settings(max_examples=30)
def test_what_rounding_has_put_outside_an_l2_ball_comes_back_and_nothing_else(seed, shape, eps):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, *shape, generator=generator) * 0.2 + 0.4
    away = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    radius = min(eps, 0.03 * (images[0].numel() ** 0.5))
    unit = away / away.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    lengths = torch.tensor([0.5, 1.0 + 4e-6, 1.1], dtype=torch.float64).view(-1, 1, 1, 1)  # inside, rounding, outside
    candidates = (images.double() + radius * lengths * unit).float()
    ball = ThreatModel("L2", radius)
    moved = ball.without_rounding(images, candidates)
    check_adversarials(images[:2], moved[:2], torch.arange(2), ball)
    assert torch.equal(moved[[0, 2]], candidates[[0, 2]])
    with pytest.raises(EvaluationError, match="leaves the L2 ball"):
        check_adversarials(images[2:], moved[2:], torch.arange(1), ball)
    assert torch.equal(ThreatModel("Linf", radius).without_rounding(images, candidates), candidates)
    assert ball.without_rounding(images[:0], candidates[:0]).shape == (0, *shape)


def test_no_class_at_all_is_no_label():
    logits = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]])
    assert predict(lambda images: logits[:1].repeat(len(images), 1), torch.rand(1, 1, 1, 1), 1, CPU).tolist() == [0]
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        predict(lambda images: logits, torch.rand(2, 1, 1, 1), 2, CPU)
