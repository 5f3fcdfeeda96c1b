"""Nets of timm with another pooling than the average as base nets of a backbone."""

import pytest
import torch

from adaptive_smoothing_zoo import MixedClassifier

timm = pytest.importorskip("timm")
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def mix(**pools):
    made = {
        name: timm.create_model("test_byobnet", num_classes=3, global_pool=pools.get(name, "avg"))
        for name in ("std_model", "rob_model")
    }
    return MixedClassifier(**made, alpha=0.5).eval()


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_a_pooling_that_keeps_the_number_of_channels_works(pool):
    model = mix(rob_model=pool)
    torch.testing.assert_close(model.forward_head(model.forward_features(IMAGES)), model(IMAGES))


@pytest.mark.parametrize("name", ["std_model", "rob_model"])
def test_a_pooling_that_does_not_is_refused_by_name_where_features_are_taken(name):
    model = mix(**{name: "catavgmax"})
    assert model(IMAGES).shape == (2, 3)
    assert [each.shape[0] for each in model.forward_intermediates(IMAGES, intermediates_only=True)] == [2] * len(
        model.feature_info
    )
    with pytest.raises(ValueError, match=rf"features of {name} have shape \(2, \d+\), .* such as timm's global_pool"):
        model.forward_features(IMAGES)
