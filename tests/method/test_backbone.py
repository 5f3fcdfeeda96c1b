"""timm's interface: what code written for a backbone asks of a mixed classifier."""

import inspect

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def model_with(alpha):
    """Two nets of different family and width: maps of (4, 8, 16, 32) and of (6, 12, 24) channels."""
    std_model, rob_model = (
        build("resnet18", width=4, num_classes=5),
        build("resnet20", width=6, num_classes=5),
    )
    if alpha == "adaptive":
        alpha = AdaptiveAlpha(MixingNetwork(4 + 6, 8 + 12, (4, 6, 8)), alpha_min=0.3, alpha_max=0.9)
    return MixedClassifier(std_model, rob_model, alpha, std_map=2.0, rob_map=0.5).eval()


@pytest.fixture(params=[0.0, 0.3, 1.0, "adaptive"])
def model(request):
    return model_with(request.param)


def outputs_of_modules(model, names, images):
    """What the named modules give during a forward pass."""
    found = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
        for name in names
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return [found[name] for name in names]


def test_head_after_features_is_forward_and_pre_logits_are_the_pooled_features_of_both_nets(model):
    expected = model(IMAGES)
    pooled = [net.forward_features(IMAGES).mean(dim=(2, 3)) for net in (model.std_model, model.rob_model)]
    for features in (model.forward_features(IMAGES), model.forward_intermediates(IMAGES)[0]):
        torch.testing.assert_close(model.forward_head(features), expected)
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), torch.cat(pooled, dim=1))
    assert expected.shape == (3, model.num_classes) == (3, 5)
    assert model.num_features == 32 + 24


def test_the_last_feature_is_the_alpha_logit():
    model = model_with("adaptive")
    features = model.forward_features(IMAGES)
    assert features.shape == (3, model.num_features + 1)
    torch.testing.assert_close(features[:, -1], model.alpha_logit_of(IMAGES))


def test_feature_info_tells_channels_and_reduction_of_each_map(model):
    maps = model.forward_intermediates(IMAGES, intermediates_only=True)
    channels = [4, 6, 8, 12, 16, 24, 32]  # in the order of their reduction, those of g before those of h
    assert [info["num_chs"] for info in model.feature_info] == channels
    for feature_map, info in zip(maps, model.feature_info, strict=True):
        side = 16 // info["reduction"]
        assert feature_map.shape == (3, info["num_chs"], side, side)


def test_feature_info_names_the_module_that_gives_each_map():
    model = model_with(0.5)
    names = [info["module"] for info in model.feature_info]
    maps = model.forward_intermediates(IMAGES, intermediates_only=True)
    for expected, found in zip(outputs_of_modules(model, names, IMAGES), maps, strict=True):
        assert torch.equal(expected, found)


def test_the_classifier_is_the_two_linear_heads(model):
    heads = model.get_classifier()
    assert [head.weight.shape for head in heads] == [(5, 32), (5, 24)]
    assert heads[0] is model.std_model.head
    assert heads[1] is model.rob_model.head


def test_gradients_through_features_and_head_are_those_of_forward():
    model = model_with("adaptive").double()
    images = IMAGES.double().requires_grad_()
    for label in range(2):
        direct, in_two_parts = (
            torch.autograd.grad(output[:, label].sum(), images)[0]
            for output in (model(images), model.forward_head(model.forward_features(images)))
        )
        assert direct.abs().sum() > 0
        torch.testing.assert_close(direct, in_two_parts)


def calls_of(model, call):
    """The modules of the nets that ``call`` runs, by name."""
    called = []
    hooks = [
        module.register_forward_pre_hook(lambda _, __, name=name: called.append(name))
        for name, module in model.named_modules()
        if name.startswith(("std_model", "rob_model"))
    ]
    call()
    for hook in hooks:
        hook.remove()
    return called


class TestArgumentsOfForwardIntermediates:
    def test_they_are_timms_in_timms_order(self, model):
        timm = pytest.importorskip("timm")
        theirs = inspect.signature(timm.models.resnet.ResNet.forward_intermediates).parameters
        for net in (model, model.std_model):
            ours = inspect.signature(net.forward_intermediates).parameters
            assert list(ours)[1:] == list(theirs)[2:]  # images; self, x
            assert [ours[name].default for name in list(ours)[1:]] == [
                theirs[name].default for name in list(theirs)[2:]
            ]

    @pytest.mark.parametrize(
        ("indices", "expected"), [(2, [5, 6]), ([5, 6], [5, 6]), ((-2, -1), [5, 6]), ([5, 0, -1], [5, 0, 6])]
    )
    def test_maps_come_in_the_order_asked_for_and_a_number_means_the_last(self, model, indices, expected):
        everything = model.forward_intermediates(IMAGES, intermediates_only=True)
        for found, i in zip(model.forward_intermediates(IMAGES, indices)[1], expected, strict=True):
            assert torch.equal(found, everything[i])

    def test_no_more_is_run_than_the_maps_need(self):
        model = model_with("adaptive")
        of_g = calls_of(model, lambda: model.forward_intermediates(IMAGES, [0, 2], intermediates_only=True))
        assert "std_model.stages.1" in of_g
        assert not any(name.startswith(("rob_model", "std_model.stages.2", "std_model.head")) for name in of_g)
        of_h = calls_of(model, lambda: model.forward_intermediates(IMAGES, [1], False, True, "NCHW", True))
        assert "rob_model.stages.0" in of_h
        assert not any(name.startswith(("std_model", "rob_model.stages.1")) for name in of_h)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"norm": True}, "use norm=False"),
            ({"output_fmt": "NLC"}, "must be 'NCHW', got 'NLC'"),
            ({"stop_early": True}, "with intermediates_only=True only"),
        ],
    )
    def test_what_cannot_be_done_is_refused(self, arguments, message):
        model = model_with(0.5)
        for net in (model, model.std_model):
            with pytest.raises(ValueError, match=message):
                net.forward_intermediates(IMAGES, **arguments)

    @pytest.mark.parametrize("indices", [0, -1, 8, [7], [-8]])
    def test_maps_that_there_are_not_are_refused(self, indices):
        with pytest.raises(IndexError, match="there are 7"):
            model_with(0.5).forward_intermediates(IMAGES, indices)


TRUNKS = {"both": ["std_model", "rob_model"], "std_model": ["std_model"], "rob_model": ["rob_model"]}


def pooled_features(model, features):
    return torch.cat(
        [getattr(model, name).forward_features(IMAGES).mean(dim=(2, 3)) for name in TRUNKS[features]], dim=1
    )


@pytest.mark.parametrize("features", sorted(TRUNKS))
class TestResetClassifier:
    def test_the_new_head_acts_on_the_pooled_features(self, model, features):
        pooled = pooled_features(model, features)
        model.reset_classifier(3, features=features)
        head = model.get_classifier()
        expected = pooled @ head.weight.T + head.bias
        torch.testing.assert_close(model(IMAGES), expected)
        torch.testing.assert_close(model.forward_head(model.forward_features(IMAGES)), expected)
        torch.testing.assert_close(model.forward_head(model.forward_features(IMAGES), pre_logits=True), pooled)
        assert torch.equal(model.predict(IMAGES), model(IMAGES).argmax(dim=1))
        assert (head.in_features, head.out_features) == (model.num_features, model.num_classes)
        assert (model.num_features, model.num_classes) == (pooled.shape[1], 3)

    def test_zero_classes_leave_the_pooled_features(self, model, features):
        pooled = pooled_features(model, features)
        model.reset_classifier(0, features=features)
        torch.testing.assert_close(model(IMAGES), pooled)
        assert (model.num_features, model.num_classes) == (pooled.shape[1], 0)
        with pytest.raises(ValueError, match="no classes to predict"):
            model.predict(IMAGES)

    def test_feature_info_and_maps_are_those_of_the_nets_in_use(self, model, features):
        everything = model.forward_intermediates(IMAGES, intermediates_only=True)
        wanted = [i for i, info in enumerate(model.feature_info) if info["module"].split(".")[0] in TRUNKS[features]]
        expected_info = [model.feature_info[i] for i in wanted]
        model.reset_classifier(3, features=features)
        assert model.feature_info == expected_info
        final, maps = model.forward_intermediates(IMAGES)
        torch.testing.assert_close(model.forward_head(final), model(IMAGES))
        for i, feature_map in zip(wanted, maps, strict=True):
            assert torch.equal(feature_map, everything[i])

    def test_the_other_net_is_not_run_and_can_be_dropped(self, model, features):
        model.reset_classifier(3, features=features)
        expected = model(IMAGES)
        assert {name.split(".")[0] for name in calls_of(model, lambda: model(IMAGES))} == set(TRUNKS[features])
        for name in ("std_model", "rob_model"):
            if name not in TRUNKS[features]:
                setattr(model, name, None)
        assert torch.equal(model(IMAGES), expected)

    def test_all_parameters_of_the_nets_in_use_get_a_gradient(self, model, features):
        model.reset_classifier(3, features=features)
        model(IMAGES).sum().backward()
        without = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is None}
        assert without == {"std_model", "rob_model"} - set(TRUNKS[features])

    def test_what_is_about_the_mix_refuses(self, model, features):
        model.reset_classifier(3, features=features)
        for call in (model.alpha_of, model.alpha_logit_of, lambda images: model.sweep(images, [0.5])):
            with pytest.raises(ValueError, match=r"has replaced the mix .* load the model again"):
                call(IMAGES)

    def test_it_can_be_reset_again_to_any_features(self, model, features):
        pooled = pooled_features(model, features)
        for before in TRUNKS:
            model.reset_classifier(4, features=before)
        model.reset_classifier(2, features=features)
        torch.testing.assert_close(model.forward_head(model.forward_features(IMAGES), pre_logits=True), pooled)
        assert model(IMAGES).shape == (3, 2)

    def test_the_head_is_where_and_what_the_nets_are(self, model, features):
        model = model.double().train().requires_grad_(False)
        model.reset_classifier(3, features=features)
        assert model.head.weight.dtype == model(IMAGES.double()).dtype == torch.float64
        assert model.head.training
        trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trainable == ["head.weight", "head.bias"]  # frozen nets stay frozen
        model.to("meta").reset_classifier(3, features=features)
        assert model.head.weight.device.type == "meta"

    def test_the_state_dict_holds_the_trunks_and_the_head(self, model, features):
        model.reset_classifier(3, features=features)
        keys = set(model.state_dict())
        assert {"head.weight", "head.bias"} <= keys
        assert not any(key.startswith("alpha") for key in keys)
        assert not any(key.startswith(f"{name}.head") for key in keys for name in TRUNKS[features])
        twin = model_with(0.5)
        twin.reset_classifier(3, features=features)
        twin.load_state_dict(model.state_dict())
        assert torch.equal(twin(IMAGES), model(IMAGES))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": -1}, "number of classes must be >= 0, got -1"),
        ({"num_classes": 3, "global_pool": "max"}, "global_pool must be None or 'avg', got 'max'"),
        ({"num_classes": 3, "features": "g"}, "features must be one of both, std_model, rob_model, got 'g'"),
    ],
)
def test_a_reset_that_is_refused_leaves_the_mix(model, arguments, message):
    expected = model(IMAGES)
    with pytest.raises(ValueError, match=message):
        model.reset_classifier(**arguments)
    assert torch.equal(model(IMAGES), expected)


def test_nets_that_are_no_backbones_cannot_be_reset():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    model = MixedClassifier(build("resnet20", width=4, num_classes=5), net, 0.5).eval()
    with pytest.raises(ValueError, match=r"rob_model \(Sequential\) has no feature_info"):
        model.reset_classifier(3)
    assert model(IMAGES).shape == (3, 5)
    model.reset_classifier(3, features="std_model")
    assert model(IMAGES).shape == (3, 3)


def plain_net():
    """A net without timm's interface."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))


class TestPlainNets:
    """A mix of modules that are no backbones is a classifier, and says what it lacks."""

    def test_a_mix_is_itself_a_net_that_can_be_mixed(self):
        g, h, other = plain_net(), plain_net(), plain_net()
        inner = MixedClassifier(g, h, 0.3)
        assert inner.num_classes == 5
        expected = 0.6 * (0.7 * g(IMAGES).softmax(1) + 0.3 * h(IMAGES).softmax(1)) + 0.4 * other(IMAGES).softmax(1)
        torch.testing.assert_close(MixedClassifier(inner, other, 0.4)(IMAGES).exp(), expected)

    def test_what_needs_a_backbone_names_the_net_that_is_none(self):
        model = MixedClassifier(build("resnet20", width=4, num_classes=5), plain_net(), 0.5)
        assert not hasattr(model, "feature_info")
        for call in (
            lambda: model.forward_features(IMAGES),
            lambda: model.forward_intermediates(IMAGES),
            model.get_classifier,
        ):
            with pytest.raises(ValueError, match=r"rob_model \(Sequential\) has no .*; use nets with timm's"):
                call()


class Adapted(nn.Module):
    """A linear layer with a trainable correction of low rank."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.low = nn.Sequential(nn.Linear(linear.in_features, 1), nn.Linear(1, linear.out_features))

    def forward(self, features):
        return self.linear(features) + self.low(features)


@pytest.mark.parametrize("head", [Adapted, lambda linear: nn.Sequential(nn.Dropout(), linear)])
def test_nets_with_other_heads_keep_their_number_of_classes(head):
    model = model_with(0.3)
    for net in (model.std_model, model.rob_model):
        net.head = head(net.head).eval()
        assert net.num_classes == 5
    assert model.num_classes == 5
    torch.testing.assert_close(model.forward_head(model.forward_features(IMAGES)), model(IMAGES))


def test_a_head_made_in_inference_mode_can_be_trained():
    model = model_with(0.3)
    with torch.inference_mode():
        model.reset_classifier(3)
    model(IMAGES).sum().backward()
    assert model.head.weight.grad is not None


class TestPruning:
    @pytest.mark.parametrize(
        ("indices", "left"),
        [
            ([0, 3], {"std_model": 1, "rob_model": 2}),
            ([4, 0], {"std_model": 3}),
            (1, {"std_model": 4}),
            ([-2], {"rob_model": 3}),
            (None, {"std_model": 4, "rob_model": 3}),
        ],
    )
    def test_the_maps_stay_and_what_they_do_not_need_goes(self, model, indices, left):
        expected = model.forward_intermediates(IMAGES, indices, intermediates_only=True)
        remaining = model.prune_intermediate_layers(indices)
        maps = model.forward_intermediates(IMAGES, remaining, intermediates_only=True)
        for found, wanted in zip(maps, expected, strict=True):
            assert torch.equal(found, wanted)
        for name in ("std_model", "rob_model"):
            net = getattr(model, name)
            assert (0 if net is None else len(net.stages)) == left.get(name, 0)

    def test_what_remains_is_a_smaller_net(self, model):
        model.prune_intermediate_layers([2])
        assert model.num_features == 8
        assert model(IMAGES).shape == (3, 8)
        assert model.std_model.num_classes == 0

    @pytest.mark.parametrize("arguments", [{"indices": []}, {"indices": [0], "prune_head": False}])
    def test_what_would_not_be_a_net_is_refused(self, model, arguments):
        expected = model(IMAGES)
        with pytest.raises(ValueError, match="at least one feature map"):
            model.prune_intermediate_layers(**arguments)
        assert torch.equal(model(IMAGES), expected)


class TestBaseNet:
    """A base net alone is a backbone too."""

    @pytest.fixture
    @staticmethod
    def net():
        return build("preact_resnet18", width=4, num_classes=5).eval()

    def test_reset_classifier(self, net):
        pooled = net.forward_features(IMAGES).mean(dim=(2, 3))
        net.reset_classifier(3)
        torch.testing.assert_close(net(IMAGES), pooled @ net.head.weight.T + net.head.bias)
        assert net.num_classes == 3
        net.reset_classifier(0, "avg")
        torch.testing.assert_close(net(IMAGES), pooled)
        assert net.num_classes == 0
        with pytest.raises(ValueError, match="global_pool"):
            net.reset_classifier(3, "")

    def test_stop_early_runs_no_stage_behind_the_last_map(self, net):
        ran = []
        for i, stage in enumerate(net.stages):
            stage.register_forward_hook(lambda *_, i=i: ran.append(i))
        expected = net.forward_intermediates(IMAGES, [1, 0])[1]
        assert ran == [0, 1, 2, 3]
        found = net.forward_intermediates(IMAGES, [1, 0], stop_early=True, intermediates_only=True)
        assert ran == [0, 1, 2, 3, 0, 1]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    def test_pruning_keeps_the_norm_behind_the_last_stage_with_it(self, net):
        expected = net.forward_features(IMAGES)
        assert net.prune_intermediate_layers(1) == [3]
        assert torch.equal(net.forward_features(IMAGES), expected)
        net.prune_intermediate_layers([3], prune_norm=True)
        assert torch.equal(net.forward_features(IMAGES), net.forward_intermediates(IMAGES)[1][3])
        with pytest.raises(ValueError, match="at least one feature map"):
            net.prune_intermediate_layers([])


class Pairs(nn.Module):
    """A head without layers of torch, whose output's length only a pass tells."""

    def forward(self, features):
        return torch.stack([features[:, :2].sum(dim=1), features[:, 2:].sum(dim=1)], dim=1)


class TestHeads:
    """After ``reset_classifier`` any module may be the head."""

    @staticmethod
    def reset(head):
        model = model_with(0.3)
        model.reset_classifier(7)
        model.head = head(model.head).eval()
        return model

    @pytest.mark.parametrize(
        ("head", "count"),
        [
            (lambda linear: nn.Sequential(nn.Dropout(), linear), 7),
            (lambda linear: nn.Sequential(linear, nn.ReLU(), nn.Linear(7, 3)), 3),
            (lambda linear: nn.Sequential(nn.LayerNorm(56), Pairs()), 2),
            (lambda _: Pairs(), 2),
            (lambda linear: linear.double(), 7),
            (lambda linear: nn.Sequential(nn.Flatten(), linear.bfloat16()), 7),
        ],
    )
    def test_it_gives_logits_labels_and_their_number(self, head, count):
        model = self.reset(head)
        assert model.num_classes == count
        assert model(IMAGES).shape == (3, count)
        assert torch.equal(model.predict(IMAGES), model(IMAGES).argmax(dim=1))

    def test_one_without_classes_predicts_none(self):
        model = self.reset(lambda _: nn.Identity())
        assert model.num_classes == 0
        with pytest.raises(ValueError, match="no classes to predict"):
            model.predict(IMAGES)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize("alpha", [0.3, "adaptive"])
    @pytest.mark.parametrize("reset", [False, True])
    def test_quantized_linear_layers_give_nearly_the_same(self, alpha, reset):
        model = model_with(alpha)
        if reset:
            model.reset_classifier(7)
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
        torch.testing.assert_close(quantized(IMAGES), model(IMAGES), rtol=0.05, atol=0.05)
        if alpha == 0.3 or reset:
            torch.testing.assert_close(quantized.forward_head(quantized.forward_features(IMAGES)), quantized(IMAGES))
        assert quantized.num_classes == model.num_classes
        quantized.reset_classifier(4)
        assert quantized(IMAGES).shape == (3, 4)

    def test_a_head_of_integers_keeps_the_features(self):
        """Whole numbers in, as an int8 layer has them, must not make whole numbers of the features."""

        class Int8(nn.Module):
            def __init__(self, linear):
                super().__init__()
                self.scale = float(linear.weight.detach().abs().max()) / 127
                weight = (linear.weight.detach() / self.scale).round().to(torch.int8)
                self.weight = nn.Parameter(weight, requires_grad=False)

            def forward(self, features):
                return features @ (self.scale * self.weight.float()).T

        linear = nn.Linear(56, 7, bias=False)
        found, expected = self.reset(lambda _: Int8(linear)), self.reset(lambda _: linear)
        torch.testing.assert_close(found(IMAGES), expected(IMAGES), rtol=0.02, atol=0.02)


class TestTimm:
    """timm's own nets as base nets; maps 1 and 2 of a ResNet have reductions 4 and 8."""

    @pytest.fixture(scope="class")
    @staticmethod
    def model():
        timm = pytest.importorskip("timm")
        nets = [timm.create_model("resnet10t", pretrained=False, num_classes=10) for _ in range(2)]
        channels = [2 * nets[0].feature_info[i]["num_chs"] for i in (1, 2)]
        alpha = AdaptiveAlpha(MixingNetwork(*channels, (4, 6, 8)), std_taps=(1, 2), rob_taps=(1, 2))
        return MixedClassifier(*nets, alpha).eval()

    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def test_the_output_is_the_mix_of_the_nets_own_outputs(self, model):
        with torch.no_grad():
            alpha = model.alpha_of(self.images)[:, None]
            g, h = (net(self.images).softmax(dim=1) for net in (model.std_model, model.rob_model))
            torch.testing.assert_close(model(self.images).exp(), (1 - alpha) * g + alpha * h)

    def test_the_mixing_network_reads_the_maps_that_feature_info_names(self, model):
        with torch.no_grad():
            names = [model.std_model.feature_info[i]["module"] for i in (1, 2)]
            std_maps = outputs_of_modules(model.std_model, names, self.images)
            rob_maps = outputs_of_modules(model.rob_model, names, self.images)
            torch.testing.assert_close(model.alpha_logit_of(self.images), model.alpha(std_maps, rob_maps))

    def test_feature_info_names_the_modules_inside_preprocessed_nets(self):
        timm = pytest.importorskip("timm")
        nets = [timm.create_model("resnet10t", num_classes=5).eval() for _ in range(2)]
        inner = Preprocessed(nets[0], (0.4,) * 3, (0.2,) * 3)
        model = MixedClassifier(Preprocessed(inner, (0.0,) * 3, (1.0,) * 3), nets[1], 0.5).eval()
        with torch.no_grad():
            names = [info["module"] for info in model.feature_info]
            maps = model.forward_intermediates(self.images, intermediates_only=True)
            for expected, found in zip(outputs_of_modules(model, names, self.images), maps, strict=True):
                assert torch.equal(expected, found)

    def test_features_head_and_feature_info_agree_with_forward(self, model):
        with torch.no_grad():
            features, maps = model.forward_intermediates(self.images)
            torch.testing.assert_close(model.forward_head(features), model(self.images))
        assert features.shape == (2, model.num_features + 1) == (2, 512 + 512 + 1)
        for feature_map, info in zip(maps, model.feature_info, strict=True):
            assert feature_map.shape[1:] == (
                info["num_chs"],
                64 // info["reduction"],
                64 // info["reduction"],
            )
            assert isinstance(model.get_submodule(info["module"]), nn.Module)

    def test_a_net_that_widens_its_features_before_its_head_is_one_too(self):
        timm = pytest.importorskip("timm")
        nets = [timm.create_model("mobilenetv3_small_050", num_classes=7) for _ in range(2)]
        model = MixedClassifier(*nets, 0.4).eval()
        with torch.no_grad():
            expected, features = model(self.images), model.forward_features(self.images)
            torch.testing.assert_close(model.forward_head(features), expected)
            assert features.shape == (2, model.num_features) == (2, 1024 + 1024)
            model.reset_classifier(3)
            assert torch.equal(model.forward_head(model.forward_features(self.images), pre_logits=True), features)
            assert model(self.images).shape == (2, 3)

    def test_a_head_that_is_a_convolution_is_applied_to_pooled_features(self):
        timm = pytest.importorskip("timm")
        norm = timm.layers.BatchNormAct2d
        nets = [
            timm.models.resnetv2.ResNetV2((1, 1, 1, 1), (16, 16, 16, 16), num_classes=7, stem_chs=8, norm_layer=norm)
            for _ in range(2)
        ]
        assert isinstance(nets[0].get_classifier(), nn.Conv2d)
        model = MixedClassifier(*nets, 0.4).eval()
        with torch.no_grad():
            expected = model(self.images)
            torch.testing.assert_close(model.forward_head(model.forward_features(self.images)), expected)

    @pytest.mark.filterwarnings("ignore:.* was made for")
    @pytest.mark.parametrize("kind", ["VOLO", "VisionTransformerDistilled"])
    def test_several_heads_of_a_net_are_refused_where_pooled_features_do_not_suffice(self, kind):
        timm = pytest.importorskip("timm")
        if kind == "VOLO":
            sizes = {"embed_dims": (12,) * 4, "num_heads": (1,) * 4, "stem_hidden_dim": 4}
            nets = [timm.models.volo.VOLO((1,) * 4, img_size=64, num_classes=7, **sizes) for _ in range(2)]
        else:
            sizes = {"depth": 1, "embed_dim": 24, "num_heads": 2}
            name = "deit_tiny_distilled_patch16_224"
            nets = [timm.create_model(name, img_size=64, num_classes=7, **sizes) for _ in range(2)]
        model = MixedClassifier(*nets, 0.4).eval()
        with torch.no_grad():
            assert model(self.images).shape == (2, model.num_classes) == (2, 7)
            for call in (lambda: model.forward_head(model.forward_features(self.images)), model.get_classifier):
                with pytest.raises(ValueError, match=rf"std_model \({kind}\) has several heads"):
                    call()
            model.reset_classifier(3)
            assert model(self.images).shape == (2, 3)

    def test_the_number_of_classes_is_that_of_a_head_that_was_replaced(self):
        timm = pytest.importorskip("timm")
        model = MixedClassifier(*(timm.create_model("resnet10t", num_classes=10) for _ in range(2)), 0.4)
        for net in (model.std_model, model.rob_model):
            net.fc = nn.Linear(net.num_features, 3)
        assert model.num_classes == 3

    def test_reset_and_feature_getter(self):
        timm = pytest.importorskip("timm")
        from timm.models._features import FeatureGetterNet

        nets = [timm.create_model("resnet10t", num_classes=10) for _ in range(2)]
        model = MixedClassifier(*nets, 0.4).eval()
        with torch.no_grad():
            maps = model.forward_intermediates(self.images, [2, 7], intermediates_only=True)
            getter = FeatureGetterNet(model, out_indices=(2, 7))
            for found, wanted in zip(getter(self.images), maps, strict=True):
                assert torch.equal(found, wanted)
            assert getter.feature_info.channels() == [feature_map.shape[1] for feature_map in maps]
