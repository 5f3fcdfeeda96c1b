import inspect
import json

import pytest
import timm
import torch
from timm.models._features import FeatureInfo

import adaptive_smoothing_zoo
from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.plug.timm_models import timm_name
from adaptive_smoothing_zoo.zoo.registry import list_models

adaptive_smoothing_zoo.register()

ADAPTIVE, CONSTANT = "demo2026adaptive_digits_linf", "demo2026constant_digits_linf"
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_every_entry_is_a_timm_model_once():
    before = timm.list_models("*demo2026*")
    adaptive_smoothing_zoo.register()
    assert timm.list_models("*demo2026*") == before
    assert {timm_name(entry) for entry in list_models()} <= set(timm.list_models(pretrained=False))


def test_create_model_returns_the_pretrained_triplet_or_random_weights():
    ours = load_model("Demo2026Constant", dataset="digits")
    assert torch.equal(timm.create_model(CONSTANT, pretrained=True).eval()(IMAGES), ours(IMAGES))
    assert not torch.equal(timm.create_model(CONSTANT).std_model.head.weight, ours.std_model.head.weight)


def test_a_checkpoint_path_is_loaded(tmp_path):
    ours = load_model("Demo2026Constant", dataset="digits")
    ours.std_model.head.bias.add_(1.0)
    ours.save_pretrained(tmp_path)
    theirs = timm.create_model(CONSTANT, pretrained=True, checkpoint_path=str(tmp_path / "model.safetensors"))
    assert torch.equal(theirs.std_model.head.bias, ours.std_model.head.bias)


class TestClasses:
    @pytest.mark.parametrize("pretrained", [True, False])
    def test_another_number_of_classes_gets_a_fresh_trainable_head(self, pretrained):
        model = timm.create_model(ADAPTIVE, pretrained=pretrained, num_classes=37)
        assert model(IMAGES).shape == (3, model.num_classes) == (3, 37)
        assert model.head.weight.requires_grad

    @pytest.mark.parametrize("number", [37, 0])
    def test_the_features_are_the_pretrained_model_s(self, number):
        model = timm.create_model(ADAPTIVE, pretrained=True, num_classes=number).eval()
        ours = load_model("Demo2026Adaptive", dataset="digits")
        expected = ours.forward_head(ours.forward_features(IMAGES), pre_logits=True)
        assert torch.equal(model.forward_head(model.forward_features(IMAGES), pre_logits=True), expected)
        assert torch.equal(model(IMAGES), expected) is (number == 0)

    def test_the_entry_s_own_number_keeps_the_mix(self):
        model = timm.create_model(ADAPTIVE, pretrained=True, num_classes=10, global_pool="avg", in_chans=1)
        assert torch.equal(model(IMAGES), load_model("Demo2026Adaptive", dataset="digits")(IMAGES))


class TestFeaturesOnly:
    @pytest.mark.parametrize(
        ("out_indices", "taken"), [(None, [0, 1, 2, 3]), ((3, 1), [3, 1]), (2, [2, 3]), ((-4,), [0]), ((0, 2), [0, 2])]
    )
    def test_maps_and_their_description_are_those_of_the_model(self, out_indices, taken):
        net = timm.create_model(ADAPTIVE, pretrained=True, features_only=True, out_indices=out_indices).eval()
        ours = load_model("Demo2026Adaptive", dataset="digits")
        maps, expected = net(IMAGES), ours.forward_intermediates(IMAGES, taken, intermediates_only=True)
        assert len(maps) == len(taken)
        for found, wanted in zip(maps, expected, strict=True):
            assert torch.equal(found, wanted)
        assert isinstance(net.feature_info, FeatureInfo)
        assert net.feature_info.channels() == [m.shape[1] for m in maps] == [(24, 8, 48, 16)[i] for i in taken]
        assert net.feature_info.reduction() == [8 // m.shape[2] for m in maps] == [(1, 1, 2, 2)[i] for i in taken]

    @pytest.mark.parametrize("out_indices", [None, (0,), (1, 3), (0, 3)])
    def test_nothing_is_left_that_the_maps_do_not_need(self, out_indices):
        net = timm.create_model(ADAPTIVE, features_only=True, out_indices=out_indices)
        sum(feature_map.sum() for feature_map in net(IMAGES)).backward()
        without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
        assert without == []
        assert not any("mixing_network" in name or "head" in name for name in net.state_dict())

    def test_code_that_reads_the_configuration_finds_it(self):
        net = timm.create_model(ADAPTIVE, features_only=True)
        config = timm.data.resolve_model_data_config(net)
        assert (config["input_size"], config["mean"], config["std"]) == ((1, 8, 8), (0.0,), (1.0,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_chans": 3}, "takes images of 1 channels, not 3"),
        ({"drop_rate": 0.1}, "no dropout"),
        ({"global_pool": ""}, "global_pool must be None or 'avg', got ''"),
        ({"num_classes": -1}, "number of classes"),
        ({"out_indices": (0,)}, "features_only=True"),
        ({"out_indices": (4,), "features_only": True}, "no feature map 4; there are 4"),
        ({"pretrained_cfg": {"num_classes": 3}}, "omit pretrained_cfg"),
        ({"pretrained_cfg_overlay": {"crop_pct": 0.9}}, "omit pretrained_cfg_overlay"),
    ],
)
def test_what_the_model_cannot_be_is_refused(arguments, message):
    with pytest.raises((ValueError, IndexError), match=message):
        timm.create_model(ADAPTIVE, **arguments)


def test_a_triplet_without_feature_maps_says_so():
    with pytest.raises(ValueError, match=r"Demo2026Smoothed-digits-L2 has no feature maps.* omit features_only"):
        timm.create_model("demo2026smoothed_digits_l2", features_only=True)


def test_a_tag_that_no_weights_have_is_refused_and_ours_is_taken():
    with pytest.raises((ValueError, RuntimeError), match=r"asz|tag"):
        timm.create_model(f"{ADAPTIVE}.in1k", pretrained=True)
    assert timm.create_model(f"{ADAPTIVE}.asz", pretrained=True).entry.name == "Demo2026Adaptive"


def test_timm_lists_every_triplet_whose_weights_can_be_had():
    listed = timm.list_pretrained()
    expected = [entry for entry in list_models() if entry.comes_along or entry.weights.components]
    assert {f"{timm_name(entry)}.asz" for entry in expected} <= set(listed)
    assert sorted(timm.list_pretrained("demo2026*_digits_linf*")) == [f"{ADAPTIVE}.asz", f"{CONSTANT}.asz"]


class TestConfiguration:
    def test_timm_s_own_evaluation_transform_gives_the_model_s_accuracy(self):
        from PIL import Image
        from timm.data import create_transform, resolve_data_config

        model, examples = load_model("Demo2026Adaptive", dataset="digits"), load_data("digits")
        config = resolve_data_config({}, model=model)
        assert config["crop_pct"] == 1.0
        transform = create_transform(**config, is_training=False)
        pixels = (255 * examples.images[:, 0]).round().byte().numpy()
        images = torch.stack([transform(Image.fromarray(image, mode="L")) for image in pixels])
        found = (model.predict(images) == examples.labels).float().mean()
        ours = (model.predict(examples.images) == examples.labels).float().mean()
        assert found == pytest.approx(float(ours), abs=0.005)  # the digits have 17 levels of grey, 8 bits 256

    def test_it_can_be_set_as_timm_s_own_code_does(self):
        model = load_model("Demo2026Constant", dataset="digits")
        model.pretrained_cfg = {"crop_pct": 0.9}
        assert timm.data.resolve_data_config({}, model=model)["crop_pct"] == 0.9


class TestTraining:
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_layer_decay_gives_smaller_rates_to_earlier_layers_of_both_nets(self):
        from timm.optim.optim_factory import param_groups_layer_decay

        model = timm.create_model(ADAPTIVE, num_classes=3)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        scale = {
            names[id(parameter)]: group["lr_scale"]
            for group in param_groups_layer_decay(model, layer_decay=0.5)
            for parameter in group["params"]
        }
        assert scale.keys() == set(names.values())
        for net in ("std_model", "rob_model"):
            depths = [
                {scale[name] for name in scale if name.startswith(f"{net}.{part}")} for part in ("stages.0", "stages.1")
            ]
            assert max(depths[0]) < min(depths[1]) < 1.0
        assert {scale[name] for name in scale if name.startswith("head.")} == {1.0}

    def test_checkpointing_changes_neither_output_nor_gradient(self):
        outputs = []
        for enable in (False, True):
            model, images = load_model("Demo2026Adaptive", dataset="digits"), IMAGES.clone().requires_grad_()
            model.requires_grad_(True).set_grad_checkpointing(enable)
            ran = []
            model.std_model.stages[0].register_forward_pre_hook(lambda *_, ran=ran: ran.append(1))
            output = model(images)
            output[:, 3].sum().backward()
            assert len(ran) == (2 if enable else 1)
            weights = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            outputs.append((output, images.grad, *weights))
        assert all(torch.equal(*pair) for pair in zip(*outputs, strict=True))

    def test_nets_that_do_not_offer_it_are_named(self):
        model = MixedClassifier(torch.nn.Flatten(), torch.nn.Flatten(), 0.5)
        for call in (model.set_grad_checkpointing, model.group_matcher):
            with pytest.raises(ValueError, match=r"std_model \(Flatten\) has no"):
                call()


class TestPlaces:
    """Triplets that are in no zoo, by timm's own references."""

    @pytest.fixture
    @staticmethod
    def mine(tmp_path):
        model = load_model("Demo2026Constant", dataset="digits")
        model.std_model.head.bias.add_(1.0)
        model.save_pretrained(tmp_path / "mine")
        return model, tmp_path / "mine"

    @pytest.fixture
    @staticmethod
    def commit(hub, mine):
        """Of the model in org/mine; the newest one there is broken."""
        commit = hub.commit("org/mine", {path.name: path.read_bytes() for path in mine[1].iterdir()})
        hub.commit("org/mine", {"model.safetensors": b"broken"})
        return commit

    def test_a_repository_as_timm_tells_of_it(self, mine, commit):
        told = {"hf_hub_id": f"org/mine@{commit}", "source": "hf-hub"}

        def create(**options):
            return timm.create_model("adaptive_smoothing_triplet", pretrained_cfg=told, **options).eval()

        assert torch.equal(create(pretrained=True)(IMAGES), mine[0](IMAGES))
        assert create(pretrained=True, num_classes=3)(IMAGES).shape == (3, 3)
        assert not torch.equal(create()(IMAGES), mine[0](IMAGES))

    @pytest.mark.skipif(not timm.models._hub.has_hf_hub(), reason="timm 1.0.9 does not know this huggingface_hub")
    def test_a_repository(self, mine, commit):
        found = timm.create_model(f"hf-hub:org/mine@{commit}", pretrained=True)
        assert torch.equal(found(IMAGES), mine[0](IMAGES))

    def test_a_folder_as_newer_versions_of_timm_tell_of_it(self, mine):
        model, folder = mine
        cfg = json.loads((folder / "config.json").read_text())
        told = {**cfg["pretrained_cfg"], "file": str(folder / "model.safetensors"), "source": "local-dir"}
        found = timm.create_model(cfg["architecture"], pretrained=True, pretrained_cfg=told)
        assert torch.equal(found(IMAGES), model(IMAGES))

    @pytest.mark.skipif("local-dir" not in inspect.getsource(timm.models._factory), reason="needs a newer timm")
    def test_a_folder(self, mine):
        model, folder = mine
        assert torch.equal(timm.create_model(f"local-dir:{folder}", pretrained=True)(IMAGES), model(IMAGES))

    def test_nowhere_is_refused(self):
        with pytest.raises(ValueError, match="name a triplet"):
            timm.create_model("adaptive_smoothing_triplet")


class TestModelDir:
    @pytest.fixture
    def folder(self, tmp_path):
        """A cache that holds the triplet with one bias changed."""
        ours = load_model("Demo2026Constant", dataset="digits")
        ours.std_model.head.bias.fill_(5.0)
        ours.save_pretrained(tmp_path / "cache" / "Demo2026Constant-digits-Linf")
        return tmp_path / "cache"

    @staticmethod
    def came_from_the_folder():
        return bool((timm.create_model(CONSTANT, pretrained=True).std_model.head.bias == 5.0).all())

    def test_the_folder_that_the_environment_names_is_read(self, folder, monkeypatch, caplog):
        monkeypatch.setenv("ASZ_MODEL_DIR", str(folder))
        assert self.came_from_the_folder()
        monkeypatch.setenv("ASZ_MODEL_DIR", str(folder / "elsewhere"))
        assert not self.came_from_the_folder()
        assert "there is no folder" in caplog.text

    def test_a_folder_called_models_is_read(self, folder, monkeypatch):
        monkeypatch.delenv("ASZ_MODEL_DIR", raising=False)
        monkeypatch.chdir(folder.parent)
        assert not self.came_from_the_folder()
        folder.rename("models")
        assert self.came_from_the_folder()
