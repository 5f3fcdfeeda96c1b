"""What strange inputs and files once did: ended in a traceback, were taken for something, or left half a file."""

import errno
import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, AttackSettings
from adaptive_smoothing_zoo.attacks.verify import count_classes, predict
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.certification import Certificates, certify, certify_lipschitz
from adaptive_smoothing_zoo.certification.bounds.theorem4 import lipschitz_radius
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.confidence import clopper_pearson_lower
from adaptive_smoothing_zoo.certification.journal import open_journal
from adaptive_smoothing_zoo.certification.logs import parse_log
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import ConfigError, EvaluationError, ResultsError, WeightsError, reason, shown
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.evaluation.evaluation_state import Binding
from adaptive_smoothing_zoo.evaluation.ledger import Chunk, Ledger
from adaptive_smoothing_zoo.evaluation.screening import screen
from adaptive_smoothing_zoo.method.logit_maps import Scale
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import read_json
from adaptive_smoothing_zoo.threat import ThreatModel, parse_eps
from adaptive_smoothing_zoo.zoo import weights as weights_module
from adaptive_smoothing_zoo.zoo.checkpoints import convert_base_net, convert_mixing_network, read_checkpoint
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig, read_entry
from adaptive_smoothing_zoo.zoo.registry import ENTRIES, find_entry
from adaptive_smoothing_zoo.zoo.triplet import meta_triplet

CPU = torch.device("cpu")
IMAGES, LABELS = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return build("small_cnn", widths=(2, 3), num_classes=5).eval()


class Answers(nn.Module):
    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, images):
        return self.change(self.net(images))


class TestJson:
    @pytest.mark.parametrize(
        "content",
        [
            b"[" * 100_000 + b"]" * 100_000,
            b'{"a": NaN}',
            b'{"a": -Infinity}',
            b'{"a": 1e999}',
            b'{"a": "\\ud800"}',
            b"9" * 5000,
            b"\xff",
            b"",
        ],
        ids=["nested", "NaN", "infinity", "huge", "half a character", "long", "no text", "empty"],
    )
    def test_what_could_not_be_written_again_is_not_read(self, tmp_path, content):
        path = tmp_path / "x.json"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"x\.json is not a JSON file"):
            read_json(path)

    def test_a_folder_in_the_file_s_place_is_refused_and_a_missing_file_is_told_apart(self, tmp_path):
        with pytest.raises(ConfigError, match="is not a JSON file"):
            read_json(tmp_path)
        with pytest.raises(FileNotFoundError):
            read_json(tmp_path / "missing")

    def test_long_values_and_errors_are_cut_short_in_messages(self):
        assert len(shown("x" * 5000)) < 150
        assert shown("short") == "'short'"
        assert len(reason(ValueError("x" * 5000))) < 350
        assert reason(ValueError("two\nlines")) == "two lines"
        assert reason(ValueError()) == "ValueError"


class TestEntries:
    @pytest.mark.timeout(20)
    @pytest.mark.parametrize("text", ["1e999999999", "1E-9_9_9_9_9_9", "1e99999999999999999999", "9" * 5000])
    def test_a_radius_of_any_length_is_read_or_refused_at_once(self, text):
        with pytest.raises(ConfigError, match="a fraction like 8/255"):
            parse_eps(text)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"dataset": "../../etc"}, "dataset: must match pattern"),
            ({"dataset": ""}, "dataset: must match pattern"),
            ({"num_classes": 1}, "num_classes: must be greater than or equal to 2"),
            ({"image_shape": (1, 0, 8)}, r"image_shape\[1\]: must be greater"),
        ],
    )
    def test_values_that_cannot_be_are_refused(self, changes, message):
        with pytest.raises(ConfigError, match=message):
            replace(find_entry("Demo2026Adaptive", "digits", "Linf"), **changes)

    @pytest.mark.parametrize("number", [2**63, -1, 0])
    def test_an_entry_whose_mixing_network_cannot_be_built_is_refused(self, number):
        entry = find_entry("Demo2026Adaptive", "digits", "Linf")
        with pytest.raises(ConfigError, match="cannot be built"):
            meta_triplet(replace(entry, alpha=replace(entry.alpha, planes=(number, 48, 64))))

    def test_every_shipped_entry_is_read(self):
        assert all(read_entry(path) for path in ENTRIES.glob("*/*/*.json"))


class TestWeights:
    def test_whole_numbers_for_a_float_weight_are_refused(self, net):
        state = net.state_dict()
        state["head.weight"] = state["head.weight"].long()
        with pytest.raises(WeightsError, match=r"of another kind of number: head\.weight is torch\.int64"):
            weights_module.load_strictly(build("small_cnn", widths=(2, 3), num_classes=5), state, "a net")

    @pytest.mark.parametrize(
        "change",
        [
            lambda tensor: tensor.to_sparse(),
            lambda tensor: tensor.to("meta"),
            lambda tensor: torch.complex(tensor, tensor),
            lambda tensor: np.array(["a"]),
            lambda tensor: np.array([None]),
            lambda tensor: {"a": tensor},
        ],
    )
    def test_a_checkpoint_holds_plain_tensors(self, net, change):
        config = BaseNetConfig(architecture="small_cnn", arguments={"widths": [2, 3]})
        state = dict(net.state_dict())
        with pytest.raises(WeightsError, match="a file"):
            convert_base_net(state | {"head.bias": change(state["head.bias"])}, config, net, "a file")

    @pytest.mark.parametrize("key", [3, None, ("a",)])
    def test_names_that_are_no_text_are_refused(self, net, key):
        config = BaseNetConfig(architecture="bit_resnet", arguments={})
        with pytest.raises(WeightsError, match="holds no weights"):
            convert_base_net({key: torch.zeros(1)}, config, net, "a file")
        alpha = meta_triplet(find_entry("Demo2026Adaptive", "digits", "Linf")).alpha
        with pytest.raises(WeightsError, match="holds no weights"):
            convert_mixing_network({"model": {key: torch.zeros(1)}, "bn": {}}, alpha, "a file")

    def test_arrays_become_tensors(self, net):
        config = BaseNetConfig(architecture="small_cnn", arguments={"widths": [2, 3]})
        converted = convert_base_net({k: v.numpy() for k, v in net.state_dict().items()}, config, net, "a file")
        assert all(torch.equal(converted[key], value) for key, value in net.state_dict().items())

    def test_a_damaged_pickle_of_the_old_format_is_refused(self, net, tmp_path):
        path = tmp_path / "old.pt"
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        refusals = []
        for place in range(0, len(content), len(content) // 60):
            path.write_bytes(content[:place] + bytes([content[place] ^ 0x11]) + content[place + 1 :])
            try:
                read_checkpoint(path)
            except WeightsError as error:
                refusals.append(str(error))
        assert len(refusals) > 10
        assert all("old.pt" in text for text in refusals)

    def test_a_full_disk_is_told_of(self, monkeypatch, tmp_path):
        def full(*arguments, **settings):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        monkeypatch.setattr(weights_module, "save_file", full)
        with pytest.raises(ResultsError, match=r"cannot write .*model\.safetensors: .*No space left"):
            load_model("Demo2026Constant", dataset="digits").save_pretrained(tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("device", ["tpu", "cuda:-1", "cuda:77", "meta"])
    def test_a_device_that_is_not_there_is_refused(self, device):
        with pytest.raises(ValueError, match="device"):
            load_model("Demo2026Constant", dataset="digits", device=device)


class TestImages:
    @pytest.mark.parametrize("images", [None, [[0.5]], "images", np.zeros((1, 1, 8, 8), np.float32)])
    @pytest.mark.parametrize("method", ["forward", "predict", "alpha_of", "alpha_logit_of"])
    def test_no_tensor(self, method, images):
        model = load_model("Demo2026Adaptive", dataset="digits")
        with pytest.raises(TypeError, match=r"images must be a torch\.Tensor"):
            getattr(model, method)(images)

    @pytest.mark.parametrize(
        "images",
        [
            IMAGES.to_sparse(),
            IMAGES.to(torch.complex64),
            IMAGES.to(torch.float8_e4m3fn),
            IMAGES[:, :, :0],
            IMAGES[:, :0],
        ],
    )
    def test_tensors_that_are_no_images(self, net, images):
        with pytest.raises(ValueError, match="images must"):
            MixedClassifier(net, net, 0.9)(images)

    def test_examples_are_tensors_with_values(self):
        for images, labels in ((IMAGES, LABELS.tolist()), (IMAGES.numpy(), LABELS)):
            with pytest.raises(TypeError, match=r"must be a torch\.Tensor"):
                check_examples(images, labels)
        for images, labels in ((IMAGES.to("meta"), LABELS), (IMAGES, LABELS.to("meta")), (IMAGES.to_sparse(), LABELS)):
            with pytest.raises(ValueError, match="dense tensor with values"):
                check_examples(images, labels)

    @pytest.mark.parametrize("scale", [1e39, math.inf, math.nan, 0.0, -1.0])
    def test_a_scale_that_float32_does_not_hold(self, scale):
        with pytest.raises(ValueError, match="a logit scale must be"):
            Scale(scale)
        assert torch.isfinite(Scale(3e38)(torch.tensor([[1.0, -1.0, 3e38]]))).all()


class TestAnswers:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda logits: (logits,), r"must be a torch\.Tensor"),
            (lambda logits: logits[:1], "must have shape"),
            (lambda logits: torch.cat([logits, logits]), "must have shape"),
            (lambda logits: logits[:, :0], "must have shape"),
            (lambda logits: logits.double(), "must be float32"),
            (lambda logits: logits.long(), "must be float32"),
            (lambda logits: logits.to("meta"), "must be float32"),
            (lambda logits: logits + math.inf, "NaN or infinity"),
            (lambda logits: logits * math.nan, "NaN or infinity"),
        ],
    )
    def test_what_a_model_answers_is_one_number_per_image_and_class(self, net, change, message):
        with pytest.raises(EvaluationError, match=message):
            predict(Answers(net, change), IMAGES, 3, CPU)

    def test_a_class_that_is_impossible_is_an_answer(self, net):
        answers = Answers(net, lambda logits: torch.where(logits < logits.amax(1, keepdim=True), -math.inf, logits))
        assert torch.equal(predict(answers, IMAGES, 3, CPU), net(IMAGES).argmax(dim=1))

    @pytest.mark.parametrize("change", [lambda logits: logits.detach(), torch.zeros_like])
    def test_attacks_need_a_gradient(self, net, change):
        with pytest.raises(EvaluationError, match="has no gradient"):
            count_classes(Answers(net, change), IMAGES, CPU)
        with pytest.raises(EvaluationError, match="has no gradient"):
            screen(Answers(net, change).eval(), IMAGES, LABELS, eps=0.1, device="cpu")

    @pytest.mark.parametrize(
        "settings", [{"eps": -1.0}, {"eps": math.nan}, {"norm": "L1"}, {"batch_size": 0}, {"batch_size": -1}]
    )
    def test_a_screening_checks_its_settings(self, net, settings):
        with pytest.raises(ValueError, match="must be"):
            screen(net, IMAGES, LABELS, **{"eps": 0.1, "device": "cpu", **settings})

    def test_a_screening_needs_the_classes_of_the_targeted_loss(self, net):
        with pytest.raises(EvaluationError, match="at least 4 classes"):
            screen(Answers(net, lambda logits: logits[:, :3]).eval(), IMAGES, LABELS, eps=0.1, device="cpu")


class TestPGD:
    @pytest.mark.parametrize(
        "settings",
        [
            {"eps": -0.1},
            {"eps": math.nan},
            {"eps": torch.tensor([0.1, -0.1, 0.1])},
            {"eps": torch.full((4,), 0.1)},
            {"step_size": math.inf},
            {"momentum": 1.1},
            {"steps": -1},
            {"labels": torch.tensor([0, 1])},
            {"labels": torch.tensor([0.0, 1.0, 2.0])},
            {"labels": LABELS.to("meta")},
            {"seed": 1, "random_start": True, "indices": torch.arange(4)},
            {"images": IMAGES.to(torch.uint8)},
        ],
    )
    def test_arguments_that_make_no_sense(self, net, settings):
        given = {"images": IMAGES, "labels": LABELS, "eps": 0.1, "step_size": 0.05, "steps": 1, **settings}
        with pytest.raises(ValueError, match=r"must be|do not fit"):
            pgd(net, **given)

    def test_labels_are_a_tensor(self, net):
        with pytest.raises(TypeError, match=r"labels must be a torch\.Tensor"):
            pgd(net, IMAGES, [0, 1, 2], eps=0.1, step_size=0.1, steps=1)


class TestCertification:
    def test_the_model_stays_where_its_weights_are(self, net):
        with pytest.raises(ValueError, match="'meta'"):
            certify(net, IMAGES, LABELS, sigma=0.5, n0=1, n=2, device="meta")
        assert {parameter.device.type for parameter in net.parameters()} == {"cpu"}

    @pytest.mark.parametrize("indices", [[0.5, 1.5, 2.5], [2**70, 1, 2], [True, False, True], ["a", "b", "c"]])
    def test_dataset_indices_are_whole_numbers(self, net, indices):
        with pytest.raises(ValueError, match="indices must be"):
            certify(net, IMAGES, LABELS, sigma=0.5, n0=1, n=2, indices=indices)

    def test_any_number_may_be_the_noise(self, net):
        assert len(certify(net, IMAGES, LABELS, sigma=10**30, n0=1, n=2)) == 3

    @pytest.mark.parametrize("batch_size", [0, -1])
    def test_the_batch_size_of_lipschitz_certificates(self, net, batch_size):
        with pytest.raises(ValueError, match="batch size"):
            certify_lipschitz(net, IMAGES, LABELS, lipschitz=1.0, batch_size=batch_size)

    def test_bounds_are_numbers_for_the_smallest_failure_probabilities(self):
        votes, samples = np.arange(11.0), 10
        low = clopper_pearson_lower(votes, samples, 1e-300)
        assert (low >= 0).all()
        assert (low <= votes / samples).all()

    def test_a_radius_is_a_number_for_the_smallest_noise(self):
        assert smoothing_radius(1.0, 0.0, 1.0, 5e-324) == math.inf

    def test_complex_numbers_are_refused(self):
        for probabilities in (np.array([0.5 + 1j, 0.5]), torch.tensor([0.5 + 1j, 0.5])):
            with pytest.raises(ValueError, match="must be real numbers"):
                lipschitz_radius(probabilities, 1.0, 1.0)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("index", [0.5]), ("label", [2**70]), ("correct", [math.inf]), ("radius", ["0.5"]), ("prediction", [True])],
    )
    def test_certificates_change_no_number(self, name, value):
        given = {"index": [0], "label": [1], "prediction": [1], "radius": [0.5], "correct": [True], "seconds": [1.0]}
        assert len(Certificates(**given)) == 1
        if name == "prediction":  # True is 1
            assert Certificates(**given | {name: value}).prediction.tolist() == [1]
            return
        with pytest.raises(ValueError, match=name):
            Certificates(**given | {name: value})

    @pytest.mark.parametrize("field", [0, 1, 2, 5])
    def test_numbers_of_a_log_that_nothing_holds(self, field):
        fields = ["0", "1", "1", "0.5", "1", "0:00:01"]
        fields[field] = str(10**30) if field < 5 else "1e20"
        header = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
        with pytest.raises(ResultsError, match=r"log, line 2 is damaged"):
            parse_log(header + "\t".join(fields) + "\n", "log")

    def test_a_line_that_could_not_be_written_is_not_left_in_part(self, monkeypatch, tmp_path):
        line = Certificates(index=[0], label=[1], prediction=[1], radius=[0.5], correct=[True], seconds=[1.0])
        with open_journal(tmp_path / "log.tsv", {}) as journal:
            journal.append(line)
            before = (tmp_path / "log.tsv").read_bytes()

            def full(handle):
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)
            with pytest.raises(ResultsError, match=r"cannot write .*log\.tsv: No space left"):
                journal.append(replace(line, index=[1]))
        assert (tmp_path / "log.tsv").read_bytes() == before

    @pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b"[]"])
    def test_settings_of_a_log_that_are_damaged(self, tmp_path, content):
        with open_journal(tmp_path / "log.tsv", {}):
            pass
        (tmp_path / "log.tsv.json").write_bytes(content)
        with pytest.raises(ResultsError, match="settings"), open_journal(tmp_path / "log.tsv", {}):
            pass


CHUNK = {
    "stage": "apgd-ce",
    "indices": torch.tensor([0, 2]),
    "held": torch.tensor([True, False]),
    "adversarials": torch.zeros(1, 1, 8, 8),
}


class TestStates:
    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"stage": "no stage"}, "stage"),
            ({"indices": torch.tensor([0, -1])}, "indices"),
            ({"indices": torch.tensor([0.0, 2.0])}, "indices"),
            ({"held": torch.tensor([1, 0])}, "held"),
            ({"held": torch.tensor([True])}, "held"),
            ({"adversarials": torch.zeros(2, 1, 8, 8)}, "adversarials"),
            ({"adversarials": torch.zeros(1, 1, 8, 8, dtype=torch.float64)}, "adversarials"),
            ({"flat": torch.tensor([-3])}, "flat"),
            ({"deterministic": 1}, "deterministic"),
            ({"seconds": math.nan}, "seconds"),
            ({"batch_size": 2.5}, "batch_size"),
            ({"warnings": (["a list"],)}, "warnings"),
        ],
    )
    def test_chunks_whose_parts_do_not_fit(self, changes, what):
        Chunk(**CHUNK)
        with pytest.raises(ValueError, match=what):
            Chunk(**CHUNK | changes)

    @pytest.mark.parametrize(
        "changes", [{"indices": torch.tensor([0, 3])}, {"adversarials": torch.zeros(1, 3, 8, 8)}, {"flat": LABELS + 1}]
    )
    def test_chunks_of_other_data(self, changes):
        ledger = Ledger(IMAGES, torch.arange(3), STANDARD_ATTACKS)
        ledger.add(Chunk(**CHUNK))
        with pytest.raises(ResultsError, match="about other data"):
            ledger.add(Chunk(**CHUNK | changes))

    @pytest.mark.parametrize("shard", ["..", "1/1", "a/b", "1", "0/0", "٠/٢"])
    def test_shards_that_are_none(self, shard):
        fields = dict.fromkeys(("protocol", "data_sha256", "engine", "device"), "x")
        with pytest.raises(ValueError, match="a shard is i/k"):
            Binding(
                **fields,
                model=Identity(sha256="x"),
                examples=3,
                threat=ThreatModel("Linf", 0.1),
                settings=AttackSettings(),
                shard=shard,
            )

    def test_numbers_of_numpy_are_written_to_a_state(self, net, tmp_path):
        settings = {"eps": np.float32(0.0), "seed": np.int64(3), "engine": "fast", "device": "cpu"}
        found = evaluate(net, IMAGES, LABELS, state=tmp_path / "state", **settings)
        assert (found.eps, found.seed) == (0.0, 3)
        assert json.loads((tmp_path / "state" / "binding.json").read_text())["settings"]["seed"] == 3
        with pytest.raises(TypeError):
            evaluate(net, IMAGES, LABELS, eps=0.1, seed=0.5, engine="fast")
