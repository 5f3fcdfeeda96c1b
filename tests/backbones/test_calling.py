"""A mix of anybody's nets: each is called as it always is, and does what it likes to its own images."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_ecosystem import cifar_model
from torch import nn

from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier, MixingNetwork, SmoothedClassifier, load_model
from adaptive_smoothing_zoo.attacks.margin_bounds import bounded_margins
from adaptive_smoothing_zoo.attacks.views import GrayBox, WithAlphaLoss
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.asking import number_of_classes
from adaptive_smoothing_zoo.backbones.base import BaseNet
from adaptive_smoothing_zoo.backbones.small_cnn import SmallCNN
from adaptive_smoothing_zoo.data import load_data

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))
C = 4


class Polite(nn.Module):
    """Somebody's net, with as much of timm's interface as a mix can ask for; maps flattened the textbook way."""

    num_features = 8

    def __init__(self):
        super().__init__()
        self.feature_info = [{"num_chs": 5, "reduction": 1, "module": "first"}]
        self.feature_info.append({"num_chs": 8, "reduction": 2, "module": "second"})
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 8, 2, stride=2)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8 * 16, C)

    def forward(self, images):
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images):
        return self.forward_intermediates(images, [0])[0]

    def forward_intermediates(self, images, indices, stop_early=False, intermediates_only=False):
        first = self.first(self.begin(images)).relu()
        second = self.norm(self.second(first)).relu()
        maps = [(first, second)[i] for i in indices]
        return maps if intermediates_only else (second, maps)

    def forward_head(self, features, pre_logits=False):
        flat = features.view(features.size(0), -1)  # refuses an empty batch
        return features.mean((2, 3)) if pre_logits else self.fc(flat)

    def reset_classifier(self, num_classes):
        self.fc = nn.Identity()

    def begin(self, images):
        return -images


class Negating(Polite):
    """The same function, which writes into its input."""

    def begin(self, images):
        return images.neg_()


ALPHAS = pytest.mark.parametrize("alpha", [0.0, 0.4, 0.7, 1.0, "adaptive"])


def mix_of(kind, alpha):
    torch.manual_seed(1)
    nets = kind(), kind()
    if alpha == "adaptive":
        alpha = AdaptiveAlpha(MixingNetwork(10, 16, (4, 6, 8)), alpha_min=0.6, alpha_max=0.9)
    return MixedClassifier(*nets, alpha, std_map=2.0).eval()


def entry_points(model):
    """Every call of images, by name."""
    calls = {
        "forward": model,
        "predict": model.predict,
        "sweep": lambda images: model.sweep(images, [0.0, 0.3, 1.0]),
        "alpha_of": model.alpha_of,
        "forward_features": model.forward_features,
        "maps": lambda images: torch.cat([part.flatten(1) for part in model.forward_intermediates(images)[1]], dim=1),
        "gray box": GrayBox(model),
        "eq. (3)": SmoothedClassifier(model.std_model, model.rob_model, trust="std_gradient"),
    }
    if model.alpha.alpha_min < model.alpha.alpha_max:
        calls |= {"alpha_logit_of": model.alpha_logit_of, "alpha's loss": WithAlphaLoss(model)}
    if (margins := bounded_margins(model)) is not None:
        zeros = torch.zeros(len(IMAGES))
        calls["margins"] = lambda images: margins(images, zeros.long()[: len(images)], zeros[: len(images)] + 50.0)
    return calls


class TestHooks:
    """Hooks on g and h run once a pass, and see what they always see: the images, and the logits."""

    @pytest.mark.parametrize("model", [mix_of(Polite, "adaptive"), mix_of(Polite, 0.4), cifar_model()])
    def test_they_see_images_and_logits_and_change_nothing(self, model):
        images = torch.rand(2, 3, 32, 32) if isinstance(model.std_model, BaseNet) else IMAGES
        nets, seen = (model.std_model, model.rob_model), []
        expected, logits = model(images), [net(images) for net in nets]
        handles = [net.register_forward_pre_hook(lambda net, args: seen.append((net, args[0]))) for net in nets]
        handles += [net.register_forward_hook(lambda net, _, output: seen.append((net, output))) for net in nets]
        assert torch.equal(model(images), expected)
        for handle in handles:
            handle.remove()
        assert [net for net, _ in seen] == [nets[0], nets[0], nets[1], nets[1]]
        assert all(torch.equal(value, images) for _, value in seen[::2])
        assert all(torch.equal(value, wanted) for (_, value), wanted in zip(seen[1::2], logits, strict=True))
        assert "forward" not in {**vars(nets[0]), **vars(nets[1])}

    @ALPHAS
    def test_what_they_put_in_place_of_input_and_output_counts(self, alpha):
        model, twin = mix_of(Polite, alpha), mix_of(Polite, alpha)
        for net in (model.std_model, model.rob_model):
            net.register_forward_pre_hook(lambda _, args: (args[0].square(),))
            net.register_forward_hook(lambda *args: 3.0 * args[2])
        for net in (twin.std_model, twin.rob_model):
            net.fc.weight.data, net.fc.bias.data = 3.0 * net.fc.weight, 3.0 * net.fc.bias
        torch.testing.assert_close(model(IMAGES), twin(IMAGES.square()))
        assert torch.equal(model.predict(IMAGES), twin.predict(IMAGES.square()))

    def test_they_run_when_the_mix_serves_as_a_backbone(self):
        model, ran = load_model("Demo2026Adaptive", dataset="digits"), []
        model.reset_classifier(3)
        model.rob_model.register_forward_hook(lambda *_: ran.append("h"))
        model(torch.rand(2, 1, 8, 8))
        assert ran == ["h"]

    def test_one_net_in_several_threads_gives_each_its_own_maps(self):
        model = mix_of(Polite, "adaptive")
        batches = torch.rand(40, 2, 3, 8, 8)
        with torch.no_grad():
            expected = [model(batch) for batch in batches]
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(torch.no_grad()(model), batches))
        assert all(map(torch.equal, found, expected))

    @pytest.mark.parametrize("hooked", [pytest.param(False, marks=pytest.mark.slow), True])
    def test_a_compiled_mix_is_the_same_function_and_runs_them(self, hooked):
        model, ran = mix_of(Polite, "adaptive"), []
        if hooked:
            model.std_model.register_forward_hook(lambda net, *_: ran.append(net is model.std_model))
        expected = model(IMAGES)
        torch.compiler.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=not hooked)  # a hook breaks the graph
        for count in (1, 2):
            torch.testing.assert_close(compiled(IMAGES), expected)
            assert ran == [True] * (1 + count) * hooked
        assert "forward" not in vars(model.std_model)
        torch.compiler.reset()

    def test_a_net_that_fails_is_left_as_it_was(self):
        model = mix_of(Polite, "adaptive")
        with pytest.raises(RuntimeError):
            model(torch.rand(2, 5, 8, 8))
        assert "forward" not in vars(model.std_model)

    def test_a_net_of_ours_with_another_forward_is_called_with_images_alone(self):
        class Halved(SmallCNN):
            def forward(self, images):
                return 0.5 * super().forward(images)

        nets = [Halved(widths=(4, 8), num_classes=C, mean=(0.5,) * 3, std=(0.5,) * 3) for _ in range(2)]
        model = MixedClassifier(*nets, AdaptiveAlpha(MixingNetwork(8, 16, (4, 6, 8)))).eval()
        expected = nets[0](IMAGES), nets[1](IMAGES)
        assert torch.equal(model.sweep(IMAGES, [0.0, 1.0]), torch.stack([e.log_softmax(1) for e in expected]))
        assert model(IMAGES).shape == (6, C)


class TestImages:
    @ALPHAS
    def test_nets_that_write_into_their_input_see_and_leave_the_same_images(self, alpha):
        rude, polite = entry_points(mix_of(Negating, alpha)), entry_points(mix_of(Polite, alpha))
        for name, call in rude.items():
            images = IMAGES.clone()
            assert torch.equal(call(images), polite[name](IMAGES)), name
            assert torch.equal(images, IMAGES), name

    def test_their_gradient_reaches_the_images(self):
        images, twins = IMAGES.clone().requires_grad_(), IMAGES.clone().requires_grad_()
        mix_of(Negating, "adaptive")(images)[:, 0].sum().backward()
        mix_of(Polite, "adaptive")(twins)[:, 0].sum().backward()
        assert torch.equal(images.grad, twins.grad)


class TestNoImages:
    @pytest.mark.parametrize("training", [False, True])
    @ALPHAS
    def test_the_result_is_the_empty_part_of_any_other(self, alpha, training):
        model = mix_of(Polite, alpha).train(training)
        before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
        found = {name: call(IMAGES[:0]) for name, call in entry_points(model).items()}
        assert [module.training for module in model.modules()] == modes
        after = {key: value for key, value in model.state_dict().items() if key.startswith(("std_model", "rob_model"))}
        assert all(torch.equal(value, before[key]) for key, value in after.items())
        for name, call in entry_points(model.eval()).items():
            expected = call(IMAGES)
            shape = expected.shape if name != "sweep" else expected.transpose(0, 1).shape
            empty = found[name] if name != "sweep" else found[name].transpose(0, 1)
            assert (empty.shape, empty.dtype) == ((0, *shape[1:]), expected.dtype), name

    def test_after_reset_classifier(self):
        model = mix_of(Polite, 0.4)
        model.reset_classifier(7)
        assert model(IMAGES[:0]).shape == (0, 7)
        assert model.predict(IMAGES[:0]).shape == (0,)


class TestClasses:
    @pytest.mark.parametrize(
        ("std", "rob"),
        [
            (build("resnet20", num_classes=1000), build("resnet20")),
            (nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), build("resnet20")),
            (build("resnet20"), nn.Sequential(nn.Flatten(), nn.Sequential(nn.ReLU(), nn.Linear(192, 3)))),
        ],
    )
    @pytest.mark.parametrize("alpha", [0.0, 0.8])
    def test_nets_that_tell_different_numbers_are_no_mix(self, std, rob, alpha):
        with pytest.raises(ValueError, match=r"std_model has \d+ classes and rob_model \d+; mix nets"):
            MixedClassifier(std, rob, alpha)

    class Columns(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.shape = shape

        def forward(self, images):
            return images.mean() + torch.zeros(len(images), *self.shape)

    @pytest.mark.parametrize("counts", [(3, 4), (10, 5), (2, 4)])
    @pytest.mark.parametrize("alpha", [0.3, 0.8])
    def test_others_are_refused_at_the_first_pass(self, counts, alpha):
        model = MixedClassifier(*(self.Columns(count) for count in counts), alpha)
        for name, call in entry_points(model).items():
            if name not in ("alpha_of", "forward_features", "maps", "eq. (3)"):
                with pytest.raises(ValueError, match=f"std_model gives {counts[0]} classes and rob_model {counts[1]}"):
                    call(IMAGES)

    @pytest.mark.parametrize("shape", [(), (1,), (4, 2)])
    def test_what_are_no_logits_is_refused_by_the_net_s_name_and_never_broadcast(self, shape):
        for nets in ((self.Columns(*shape), self.Columns(4)), (self.Columns(4), self.Columns(*shape))):
            model = MixedClassifier(*nets, 0.8)
            with pytest.raises(ValueError, match=r"Columns gives \(6.* for 6 images; a base net gives logits"):
                model(IMAGES)

    def test_logits_in_another_output_are_found(self):
        class Wrapped(Polite):
            def forward(self, images):
                return {"logits": super().forward(images), "loss": None}

        assert torch.equal(mix_of(Wrapped, 0.4)(IMAGES), mix_of(Polite, 0.4)(IMAGES))

    def test_a_number_that_stayed_behind_is_not_believed(self):
        net = build("resnet20", num_classes=1000)
        net.head = nn.Linear(64, 10)
        assert number_of_classes(net) == 10
        stale = Polite()
        stale.num_classes = 1000
        assert number_of_classes(stale) is None
        stale.num_classes = C
        assert number_of_classes(stale) == C


class TestFrozenNets:
    def buffers(self, model):
        names = ("std_model.", "rob_model.", "alpha.")
        return {key: value.clone() for key, value in model.named_buffers() if key.startswith(names)}

    @pytest.mark.parametrize("reset", [False, True])
    def test_training_leaves_their_statistics_alone(self, reset):
        model = load_model("Demo2026Adaptive", dataset="digits")
        if reset:
            model.reset_classifier(2)
        before, images = self.buffers(model), 0.3 * load_data("digits").images
        model.train()
        for batch in images[:160].split(32):
            model(batch)
        after = self.buffers(model)
        assert before.keys() == after.keys()
        assert len(before) > 10
        assert all(torch.equal(value, after[key]) for key, value in before.items())

    def test_nets_that_are_trained_are_in_train_mode(self):
        model = load_model("Demo2026Adaptive", dataset="digits")
        model.reset_classifier(2)
        model.rob_model.requires_grad_(True)
        assert model.train() is model
        assert (model.training, model.head.training) == (True, True)
        assert not any(module.training for module in model.std_model.modules())
        assert all(module.training for module in model.rob_model.modules())
        model.eval()
        assert not any(module.training for module in model.modules())
