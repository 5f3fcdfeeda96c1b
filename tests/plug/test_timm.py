import pytest
import timm
import torch

import adaptive_smoothing_zoo
from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.plug.timm_models import timm_name
from adaptive_smoothing_zoo.zoo.registry import list_models

adaptive_smoothing_zoo.register()


def test_every_entry_is_a_timm_model():
    for entry in list_models():
        assert timm.is_model(timm_name(entry))
        assert timm_name(entry) in timm.list_models(pretrained=False)


def test_timms_create_model_returns_the_pretrained_triplet():
    theirs = timm.create_model("demo2026constant_digits_linf", pretrained=True)
    ours = load_model("Demo2026Constant", dataset="digits")
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(theirs.eval()(images), ours(images))


def test_without_pretrained_the_weights_are_random():
    model = timm.create_model("demo2026constant_digits_linf", pretrained=False)
    ours = load_model("Demo2026Constant", dataset="digits")
    assert not torch.equal(model.std_model.head.weight, ours.std_model.head.weight)


def test_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="10 classes, not 7"):
        timm.create_model("demo2026constant_digits_linf", num_classes=7)


def test_a_checkpoint_path_is_loaded(tmp_path):
    ours = load_model("Demo2026Constant", dataset="digits")
    ours.std_model.head.bias.add_(1.0)
    ours.save_pretrained(tmp_path)
    theirs = timm.create_model(
        "demo2026constant_digits_linf", pretrained=True, checkpoint_path=str(tmp_path / "model.safetensors")
    )
    assert torch.equal(theirs.std_model.head.bias, ours.std_model.head.bias)


def test_registering_again_changes_nothing():
    before = timm.list_models("*demo2026*")
    adaptive_smoothing_zoo.register()
    assert timm.list_models("*demo2026*") == before
