"""A triplet is an ordinary module: it compiles, exports, copies, travels and trains with PyTorch's own tools."""

import copy
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch._dynamo.testing import CompileCounterWithBackend

from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier, MixingNetwork, Triplet, load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.method.half_precision import to_dtype

SHAPES = {"digits": (1, 8, 8), "digits reset": (1, 8, 8), "digits bfloat16": (1, 8, 8), "cifar": (3, 32, 32)}


def cifar_model():
    """The kinds of net of the published triplets, small: BiT's on enlarged images, DeepMind's, a mixing network."""
    g = build("bit_resnet", depth=(1, 1, 1, 1), width=1, image_size=128)
    h = build("dm_wide_resnet", depth=10, width=1, activation="swish", mean=(0.5,) * 3, std=(0.2,) * 3)
    channels = [g.feature_info[i]["num_chs"] + h.feature_info[i]["num_chs"] for i in (0, 1)]
    alpha = AdaptiveAlpha(MixingNetwork(*channels, (4, 6, 8)), alpha_min=0.8, alpha_max=0.95)
    return MixedClassifier(g, h, alpha, std_map=2.0).eval().requires_grad_(False)


def model_called(kind):
    model = cifar_model() if kind.startswith("cifar") else load_model("Demo2026Adaptive", dataset="digits")
    if kind.endswith("reset"):
        model.reset_classifier(3)
    return to_dtype(model, torch.bfloat16) if kind.endswith("bfloat16") else model


def images_for(kind, count):
    return torch.rand(count, *SHAPES[kind])


@pytest.fixture(params=["digits", "digits reset", pytest.param("cifar", marks=pytest.mark.slow)])
def kind(request):
    return request.param


@pytest.fixture
def digits():
    return load_model("Demo2026Adaptive", dataset="digits")


class TestCompile:
    @pytest.fixture(autouse=True)
    @staticmethod
    def _fresh():
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    def check(self, kind, backend):
        model, counter = model_called(kind), CompileCounterWithBackend(backend)
        compiled = torch.compile(model, fullgraph=True, backend=counter)
        for count in (4, 2, 7):
            images = images_for(kind, count)
            torch._dynamo.mark_dynamic(images, 0)
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-5, atol=1e-5)
        assert counter.frame_count == 1

    @pytest.mark.parametrize("kind", sorted(set(SHAPES) - {"cifar"}))
    def test_one_graph_serves_all_batch_sizes(self, kind):
        self.check(kind, "eager")

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["digits", "digits reset"])
    def test_the_compiler_s_own_code_gives_the_same(self, kind):
        self.check(kind, "inductor")

    def test_the_gradient_of_the_compiled_model_is_the_model_s(self, digits):
        compiled = torch.compile(digits, fullgraph=True, backend="aot_eager")
        images = images_for("digits", 5).requires_grad_()
        expected, found = (torch.autograd.grad(net(images)[:, 3].sum(), images)[0] for net in (digits, compiled))
        assert (expected.flatten(1).abs().sum(dim=1) > 0).all()
        torch.testing.assert_close(found, expected)


class TestExport:
    @pytest.fixture
    @staticmethod
    def batch():
        return ({0: torch.export.Dim("batch")},)

    def test_an_exported_program_takes_any_batch_and_can_be_stored(self, kind, batch, tmp_path):
        model = model_called(kind)
        program = torch.export.export(model, (images_for(kind, 3),), dynamic_shapes=batch)
        torch.export.save(program, tmp_path / "model.pt2")
        restored = torch.export.load(tmp_path / "model.pt2").module()
        for count in (1, 2, 5):
            images = images_for(kind, count)
            torch.testing.assert_close(restored(images), model(images))

    @pytest.mark.parametrize(
        "kind", ["digits", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("digits reset", "cifar"))]
    )
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    def test_onnxruntime_gives_the_same_from_the_whole_triplet(self, kind, batch, tmp_path):
        """Both compute in float32; the log-probabilities are of size 1 to 10 and rounded at 6e-8 of that per layer."""
        pytest.importorskip("onnxscript")
        onnxruntime = pytest.importorskip("onnxruntime")
        model, path = model_called(kind), tmp_path / "model.onnx"
        torch.onnx.export(
            model,
            (images_for(kind, 3),),
            path,
            dynamo=True,
            dynamic_shapes=batch,
            input_names=["images"],
            verbose=False,
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for count in (1, 2, 5):
            images = images_for(kind, count)
            (found,) = session.run(None, {"images": images.numpy()})
            torch.testing.assert_close(torch.from_numpy(found), model(images), rtol=1e-5, atol=1e-5)

    @pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
    )
    def test_the_older_exporter_gives_the_same(self, kind, tmp_path):
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
        model, path = model_called(kind), tmp_path / "model.onnx"
        names = {"input_names": ["images"], "dynamic_axes": {"images": {0: "batch"}}}
        torch.onnx.export(model, (images_for(kind, 2),), path, dynamo=False, **names)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for count in (1, 3):
            images = images_for(kind, count)
            (found,) = session.run(None, {"images": images.numpy()})
            torch.testing.assert_close(torch.from_numpy(found), model(images), rtol=1e-5, atol=1e-5)

    def test_a_symbolic_trace_is_the_same_function_with_its_checks(self, kind):
        model = model_called(kind)
        traced = torch.fx.symbolic_trace(model)
        for count in (1, 4):
            images = images_for(kind, count)
            assert torch.equal(traced(images), model(images))
        with pytest.raises(ValueError, match="floating-point"):
            traced(images_for(kind, 1).long())


def output_of(model, images):
    """What a worker process computes and sends back, as numbers that need no shared memory."""
    torch.set_num_threads(1)
    return model(images).tolist()


class TestCopies:
    def test_a_deep_copy_is_equal_and_independent(self, kind):
        model, images = model_called(kind), images_for(kind, 2)
        twin, expected = copy.deepcopy(model), model(images)
        assert torch.equal(twin(images), expected)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert torch.equal(model(images), expected)
        assert not torch.equal(twin(images), expected)

    @pytest.mark.slow
    def test_a_worker_process_gets_the_same_model(self):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            for kind in ("digits", "digits reset"):
                model, images = model_called(kind), images_for(kind, 2)
                found = torch.tensor(pool.submit(output_of, model, images).result())
                torch.testing.assert_close(found, model(images), rtol=0, atol=1e-6)

    def test_a_state_dict_restores_a_random_model(self, digits):
        images, fresh = images_for("digits", 4), Triplet(digits.entry).eval()
        assert not torch.allclose(fresh(images), digits(images))
        fresh.load_state_dict(digits.state_dict())
        assert torch.equal(fresh(images), digits(images))

    def test_a_state_dict_of_another_kind_is_refused(self, digits):
        state = digits.state_dict()
        digits.reset_classifier(10)
        with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "head.weight"'):
            digits.load_state_dict(state)


class TestMoves:
    def test_to_another_dtype_and_back(self, kind):
        model, images = model_called(kind), images_for(kind, 2)
        expected = model(images)
        exact = model.to(torch.float64)(images.double())
        assert exact.dtype == torch.float64
        torch.testing.assert_close(exact.float(), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(model.to(torch.float32)(images), expected)

    def test_to_another_device(self, kind):
        model, images = model_called(kind), images_for(kind, 2)
        expected = model(images)
        if torch.cuda.is_available():
            torch.testing.assert_close(model.to("cuda")(images.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)
        assert model.to("meta")(images.to("meta")).shape == expected.shape
        assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}

    def test_to_another_memory_format(self, kind):
        model, images = model_called(kind), images_for(kind, 2)
        expected = model(images)
        found = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class TestDistributed:
    @pytest.fixture(autouse=True)
    @staticmethod
    def _alone():
        """A process group of one, which needs no port."""
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        yield
        distributed.destroy_process_group()

    def check(self, model, loss_of, steps=2):
        """Train a copy without and the model with DistributedDataParallel; both must learn, and learn the same."""
        plain = copy.deepcopy(model)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for net in (plain, nn.parallel.DistributedDataParallel(model)):
            optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05)
            for _ in range(steps):  # a parameter without a gradient would stop the second step
                optimizer.zero_grad()
                loss_of(net).backward()
                optimizer.step()
        for (name, found), expected in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(found, expected)
            trained = dict(model.named_parameters()).get(name)
            if trained is not None:
                assert torch.equal(found, before[name]) != trained.requires_grad, name

    def test_the_mixing_network_is_trained(self, digits):
        images, labels = images_for("digits", 6), torch.arange(6)
        digits.alpha.requires_grad_(True)
        digits.alpha.set_range(0.0, 1.0)
        self.check(digits, lambda net: F.cross_entropy(net(images), labels))

    @pytest.mark.parametrize("whole", [False, True])
    def test_a_new_head_is_trained(self, digits, whole):
        images, labels = images_for("digits", 6), torch.arange(6) % 3
        digits.reset_classifier(3)
        digits.requires_grad_(whole)
        digits.head.requires_grad_(True)
        self.check(digits, lambda net: F.cross_entropy(net(images), labels))

    def test_a_feature_net_of_timm_is_trained(self, digits):
        from timm.models._features import FeatureGetterNet

        images, net = images_for("digits", 6), FeatureGetterNet(digits, out_indices=(1, 2)).requires_grad_(True)
        self.check(net, lambda net: sum(feature_map.square().mean() for feature_map in net(images)))


class TestFunctional:
    def test_functional_call_with_other_weights(self, digits):
        images = images_for("digits", 3)
        other = Triplet(digits.entry).eval()
        found = torch.func.functional_call(other, digits.state_dict(), (images,))
        assert torch.equal(found, digits(images))

    def test_per_example_gradients_are_those_of_single_examples(self, digits):
        images, labels = images_for("digits", 3), torch.tensor([1, 5, 7])
        digits.reset_classifier(10)
        weights = {name: value.detach() for name, value in digits.named_parameters() if name.startswith("head.")}

        def loss(head, image, label):
            return F.cross_entropy(torch.func.functional_call(digits, head, (image[None],)), label[None])

        found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, images, labels)
        for i in range(3):
            digits.zero_grad()
            F.cross_entropy(digits(images[i : i + 1]), labels[i : i + 1]).backward()
            torch.testing.assert_close(found["head.weight"][i], digits.head.weight.grad)
