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
from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, AttackSettings, Plan
from adaptive_smoothing_zoo.attacks.verify import count_classes, predict
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.certification import Certificates, certify, certify_at_radius, certify_lipschitz
from adaptive_smoothing_zoo.certification.bounds.theorem4 import lipschitz_radius
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.confidence import clopper_pearson_lower
from adaptive_smoothing_zoo.certification.journal import open_journal
from adaptive_smoothing_zoo.certification.logs import parse_log
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import ConfigError, EvaluationError, ResultsError, WeightsError, reason, shown
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.evaluation.adapt import evaluate_adaptive
from adaptive_smoothing_zoo.evaluation.evaluation_state import Binding
from adaptive_smoothing_zoo.evaluation.ledger import Chunk, Ledger
from adaptive_smoothing_zoo.evaluation.screening import screen
from adaptive_smoothing_zoo.method.alpha import ConstantAlpha
from adaptive_smoothing_zoo.method.logit_maps import Scale
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import read_json
from adaptive_smoothing_zoo.threat import ThreatModel, parse_eps
from adaptive_smoothing_zoo.validation import Budget, validate
from adaptive_smoothing_zoo.zoo import weights as weights_module
from adaptive_smoothing_zoo.zoo.checkpoints import convert_base_net, read_checkpoint
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig, read_entry
from adaptive_smoothing_zoo.zoo.registry import ENTRIES, find_entry
from adaptive_smoothing_zoo.zoo.triplet import meta_triplet

CPU, EACH = torch.device("cpu"), torch.full((3,), 0.1)
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


def given(function, *arguments, **settings):
    """A call that takes the net of these tests first."""
    return lambda net, folder: function(net, *arguments, **settings)


def answering(function, change, *arguments, **settings):
    return lambda net, folder: function(Answers(net, change).eval(), *arguments, **settings)


def json_file(content):
    def read(net, folder):
        (folder / "x.json").write_bytes(content)
        read_json(folder / "x.json")

    return read


def entry(**changes):
    return lambda net, folder: replace(find_entry("Demo2026Adaptive", "digits", "Linf"), **changes)


def mixing_network(planes):
    made = entry(alpha=replace(find_entry("Demo2026Adaptive", "digits", "Linf").alpha, planes=(planes, 48, 64)))
    return lambda net, folder: meta_triplet(made(net, folder))


def converted(change):
    config = BaseNetConfig(architecture="small_cnn", arguments={"widths": [2, 3]})
    return lambda net, folder: convert_base_net(change(dict(net.state_dict())), config, net, "a file")


def with_bias(change):
    return converted(lambda state: state | {"head.bias": change(state["head.bias"])})


def nameless(key):
    config = BaseNetConfig(architecture="bit_resnet", arguments={})
    return lambda net, folder: convert_base_net({key: torch.zeros(1)}, config, net, "a file")


def asked_for(method, images):
    return lambda net, folder: getattr(load_model("Demo2026Adaptive", dataset="digits"), method)(images)


def mixed(images):
    return lambda net, folder: MixedClassifier(net, net, 0.9)(images)


def called(function, *arguments, **settings):
    return lambda net, folder: function(*arguments, **settings)


def attacked(**settings):
    wanted = {"images": IMAGES, "labels": LABELS, "eps": 0.1, "step_size": 0.05, "steps": 1, **settings}
    return lambda net, folder: pgd(net, **wanted)


def adapted(attacks):
    mix, standing = load_model("Demo2026Adaptive", dataset="digits"), np.ones(3, dtype=bool)
    return called(evaluate_adaptive, mix, IMAGES, LABELS, standing, eps=0.1, device="cpu", attacks=attacks)


def certificates(**changes):
    one = {"index": [0], "label": [1], "prediction": [1], "radius": [0.5], "correct": [True], "seconds": [1.0]}
    return lambda net, folder: Certificates(**one | changes)


def log_line(field):
    fields = ["0", "1", "1", "0.5", "1", "0:00:01"]
    fields[field] = str(10**30) if field < 5 else "1e20"
    header = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
    return called(parse_log, header + "\t".join(fields) + "\n", "log")


def log_settings(content):
    def opened(net, folder):
        with open_journal(folder / "log.tsv", {}):
            pass
        (folder / "log.tsv.json").write_bytes(content)
        with open_journal(folder / "log.tsv", {}):
            pass

    return opened


def whole_numbers(net, folder):
    state = net.state_dict()
    state["head.weight"] = state["head.weight"].long()
    weights_module.load_strictly(build("small_cnn", widths=(2, 3), num_classes=5), state, "a net")


NESTED = b"[" * 100_000 + b"]" * 100_000
REFUSED = [
    # what is refused, by which error, with which words
    *[
        (json_file(content), ConfigError, r"x\.json is not a JSON file")
        for content in (NESTED, b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b"9" * 5000)
    ],
    *[(json_file(content), ConfigError, r"x\.json is not a JSON file") for content in (b"\xff", b"")],
    (lambda net, folder: read_json(folder), ConfigError, "is not a JSON file"),
    (lambda net, folder: read_json(folder / "missing"), FileNotFoundError, "missing"),
    *[
        (called(parse_eps, text), ConfigError, "a fraction like 8/255")  # at once, whatever its length
        for text in ("1e999999999", "1E-9_9_9_9_9_9", "1e99999999999999999999", "9" * 5000)
    ],
    (entry(dataset="../../etc"), ConfigError, "dataset: must match pattern"),
    (entry(dataset=""), ConfigError, "dataset: must match pattern"),
    (entry(num_classes=1), ConfigError, "num_classes: must be greater than or equal to 2"),
    (entry(image_shape=(1, 0, 8)), ConfigError, r"image_shape\[1\]: must be greater"),
    *[(mixing_network(planes), ConfigError, "cannot be built") for planes in (2**63, -1, 0)],
    (whole_numbers, WeightsError, r"of another kind of number: head\.weight is torch\.int64"),
    *[
        (with_bias(change), WeightsError, "a file")
        for change in (
            lambda tensor: tensor.to_sparse(),
            lambda tensor: tensor.to("meta"),
            lambda tensor: torch.complex(tensor, tensor),
            lambda tensor: np.array(["a"]),
            lambda tensor: np.array([None]),
            lambda tensor: {"a": tensor},
        )
    ],
    *[(nameless(key), WeightsError, "holds no weights") for key in (3, None, ("a",))],
    *[
        (called(load_model, "Demo2026Constant", dataset="digits", device=device), ValueError, "device")
        for device in ("tpu", "cuda:-1", "cuda:77", "meta")
    ],
    *[
        (asked_for(method, images), TypeError, r"images must be a torch\.Tensor")
        for method, images in (("forward", None), ("predict", [[0.5]]), ("alpha_of", "images"))
    ],
    (asked_for("alpha_logit_of", np.zeros((1, 1, 8, 8), np.float32)), TypeError, r"images must be a torch\.Tensor"),
    *[
        (mixed(images), ValueError, "images must")
        for images in (IMAGES.to_sparse(), IMAGES.to(torch.complex64), IMAGES.to(torch.float8_e4m3fn))
    ],
    *[(mixed(images), ValueError, "images must") for images in (IMAGES[:, :, :0], IMAGES[:, :0])],
    (called(check_examples, IMAGES, LABELS.tolist()), TypeError, r"labels must be a torch\.Tensor"),
    (called(check_examples, IMAGES.numpy(), LABELS), TypeError, r"images must be a torch\.Tensor"),
    (called(check_examples, IMAGES.to("meta"), LABELS), ValueError, "dense tensor with values"),
    (called(check_examples, IMAGES, LABELS.to("meta")), ValueError, "dense tensor with values"),
    (called(check_examples, IMAGES.to_sparse(), LABELS), ValueError, "dense tensor with values"),
    *[(called(Scale, scale), ValueError, "a logit scale must be") for scale in (1e39, math.inf, math.nan, 0.0, -1.0)],
    *[
        (called(Scale, scale), TypeError, "a logit scale must be a finite positive number")
        for scale in ("2", None, [2.0])
    ],
    *[
        (called(ConstantAlpha, alpha), TypeError, r"alpha must be a number in \[0, 1\]")
        for alpha in ("0.5", None, [0.5])
    ],
    *[
        (answering(predict, change, IMAGES, 3, CPU), EvaluationError, message)
        for change, message in (
            (lambda logits: (logits,), r"must be a torch\.Tensor"),
            (lambda logits: logits[:1], "must have shape"),
            (lambda logits: torch.cat([logits, logits]), "must have shape"),
            (lambda logits: logits[:, :0], "must have shape"),
            (lambda logits: logits.double(), "must be float32"),
            (lambda logits: logits.long(), "must be float32"),
            (lambda logits: logits.to("meta"), "must be float32"),
            (lambda logits: logits + math.inf, "NaN or infinity"),
            (lambda logits: logits * math.nan, "NaN or infinity"),
        )
    ],
    *[
        (answering(function, change, *arguments, **settings), EvaluationError, "has no gradient")
        for change in (lambda logits: logits.detach(), torch.zeros_like)
        for function, arguments, settings in (
            (count_classes, (IMAGES, CPU), {}),
            (screen, (IMAGES, LABELS), {"eps": 0.1, "device": "cpu"}),
        )
    ],
    *[
        (given(screen, IMAGES, LABELS, **{"eps": 0.1, "device": "cpu", **settings}), ValueError, "must be")
        for settings in ({"eps": -1.0}, {"eps": math.nan}, {"norm": "L1"}, {"batch_size": 0}, {"batch_size": -1})
    ],
    (
        answering(screen, lambda logits: logits[:, :1], IMAGES, LABELS, eps=0.1, device="cpu"),
        EvaluationError,
        "at least 2 classes",
    ),
    *[
        (attacked(**settings), ValueError, r"must be|must have values|do not fit")
        for settings in (
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
            {"labels": LABELS.to_sparse()},
            *[{"seed": 1, "random_start": True, "indices": odd} for odd in (LABELS.to_sparse(), LABELS.to("meta"))],
            *[{name: EACH.to_sparse()} for name in ("eps", "step_size", "momentum")],
            *[{name: EACH.to("meta")} for name in ("eps", "step_size", "momentum")],
        )
    ],
    (attacked(labels=[0, 1, 2]), TypeError, r"labels must be a torch\.Tensor"),
    (given(certify, IMAGES, LABELS, sigma=0.5, n0=1, n=2, device="meta"), ValueError, "'meta'"),
    *[
        (given(certify, IMAGES, LABELS, sigma=0.5, n0=1, n=2, indices=indices), ValueError, "indices must be")
        for indices in ([0.5, 1.5, 2.5], [2**70, 1, 2], [True, False, True], ["a", "b", "c"])
    ],
    *[
        (given(function, IMAGES, LABELS, sigma=sigma, n0=1, n=2, **settings), ValueError, "sigma must be positive and")
        for function, settings in ((certify, {}), (certify_at_radius, {"radius": 0.1}))
        for sigma in (1e308, 1e39)
    ],
    *[
        (answering(certify, change, IMAGES, LABELS, sigma=0.5, n0=1, n=2, votes=votes), EvaluationError, message)
        for votes in ("hard", "soft")
        for change, message in (
            (lambda logits: logits + math.inf, "NaN or infinity"),
            (lambda logits: logits - math.inf, "NaN or infinity"),
            (lambda logits: torch.where(logits < logits.amax(), logits, math.inf), "NaN or infinity"),
            (lambda logits: torch.complex(logits, logits), "a dense tensor of real numbers"),
            (lambda logits: logits > 0, "a dense tensor of real numbers"),
            (lambda logits: logits.to_sparse(), "a dense tensor of real numbers"),
            (lambda logits: logits[:2], "must have shape"),
        )
    ],
    *[
        (answering(validate, change, IMAGES, LABELS, eps=0.1, device="cpu", batch_size=2), EvaluationError, message)
        for change, message in (
            (lambda logits: logits[:1], r"must have shape \(N, classes\), got \(1, 5\) for 2 images"),
            (lambda logits: logits[:, :1], "at least 2 classes"),
            (lambda logits: logits.double(), "must be float32"),
            (lambda logits: logits.long(), "must be float32"),
            (lambda logits: logits.to("meta"), "must be float32"),
            (lambda logits: logits.detach(), "has no gradient"),
        )
    ],
    *[
        (given(evaluate, IMAGES, LABELS, eps=0.1, device="cpu", shard=shard), ValueError, "a shard is a pair")
        for shard in ((0,), (0, 1, 2), (), None, 5, "01", "0/2", (0.0, 1.0), (0, math.nan), ("a", "b"))
    ],
    *[
        (adapted(attacks), ValueError, message)
        for attacks, message in (
            *[([odd], "an attack's name") for odd in (None, 3, b"x", ["apgd-ce-mix"])],
            *[(odd, "attacks must be a tuple of names or plans, got") for odd in (5, "apgd-ce-mix")],
            ([], "at least one attack"),
        )
    ],
    (
        given(evaluate, IMAGES, LABELS, eps=0.1, engine="reference", seed=2**64),
        ValueError,
        "the reference engine's seed",
    ),
    *[
        (given(function, IMAGES, LABELS, eps=0.1, seed=seed), TypeError, "the seed must be an integer, got")
        for function in (evaluate, screen, validate)
        for seed in (0.5, np.float64(3.0), "1")
    ],
    *[
        (given(certify_lipschitz, IMAGES, LABELS, lipschitz=1.0, batch_size=size), ValueError, "batch size")
        for size in (0, -1)
    ],
    *[
        (called(lipschitz_radius, probabilities, 1.0, 1.0), ValueError, "must be real numbers")
        for probabilities in (np.array([0.5 + 1j, 0.5]), torch.tensor([0.5 + 1j, 0.5]))
    ],
    (certificates(index=[0.5]), ValueError, "index"),
    (certificates(label=[2**70]), ValueError, "label"),
    (certificates(correct=[math.inf]), ValueError, "correct"),
    (certificates(radius=["0.5"]), ValueError, "radius"),
    *[(log_line(field), ResultsError, r"log, line 2 is damaged") for field in (0, 1, 2, 5)],
    *[(log_settings(content), ResultsError, "settings") for content in (b"\xff", b"[" * 100_000, b"[]")],
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_it_is_refused_in_a_sentence(call, error, message, net, tmp_path):
    with pytest.raises(error, match=message):
        call(net, tmp_path)
    assert {parameter.device.type for parameter in net.parameters()} == {"cpu"}


def test_long_values_and_errors_are_cut_short_in_messages():
    assert len(shown("x" * 5000)) < 150
    assert shown("short") == "'short'"
    assert len(reason(ValueError("x" * 5000))) < 350
    assert reason(ValueError("two\nlines")) == "two lines"
    assert reason(ValueError()) == "ValueError"


def test_what_is_odd_and_right_is_taken(net):
    assert all(read_entry(path) for path in ENTRIES.glob("*/*/*.json"))
    config = BaseNetConfig(architecture="small_cnn", arguments={"widths": [2, 3]})
    arrays = convert_base_net({k: v.numpy() for k, v in net.state_dict().items()}, config, net, "a file")
    assert all(torch.equal(arrays[key], value) for key, value in net.state_dict().items())
    assert torch.isfinite(Scale(3e38)(torch.tensor([[1.0, -1.0, 3e38]]))).all()
    impossible = Answers(net, lambda logits: torch.where(logits < logits.amax(1, keepdim=True), -math.inf, logits))
    assert torch.equal(predict(impossible, IMAGES, 3, CPU), net(IMAGES).argmax(dim=1))
    assert len(certify(impossible, IMAGES, LABELS, sigma=0.5, n0=1, n=2)) == 3
    assert len(certify(net, IMAGES, LABELS, sigma=10**30, n0=1, n=2)) == 3
    assert smoothing_radius(1.0, 0.0, 1.0, 5e-324) == math.inf
    assert certificates(prediction=[True])(net, None).prediction.tolist() == [1]


SEEDS = (np.int64(-5), np.uint64(2**64 - 1), 2**63, -(2**63) - 1, 10**30)
LIKE_THESE = (np.int64(5), -7, 2**64 + 3)
FEW = Budget(steps=1, restarts=1, grid_steps=1, long_steps=1, queries=1, noises=2, planted=1, inner=1, search=1)


@pytest.mark.parametrize(
    "seed", [*SEEDS, *(pytest.param(seed, marks=pytest.mark.slow) for seed in LIKE_THESE)], ids=repr
)
def test_a_seed_of_any_kind_and_size_is_that_number(net, seed):
    labels, settings = net(IMAGES).argmax(dim=1), {"eps": 0.1, "device": "cpu"}
    mix = load_model("Demo2026Adaptive", dataset="digits")
    standard = AttackSettings(attacks=(Plan("apgd-ce", 1), Plan("square", queries=2)), seed=seed)
    adaptive = AttackSettings(attacks=(Plan("apgd-ce-mix", 1, restarts=2),), seed=seed)
    evaluate(net, IMAGES, labels, settings=standard, **settings)
    evaluate_adaptive(mix, IMAGES, mix.predict(IMAGES), np.ones(3, dtype=bool), settings=adaptive, **settings)
    screen(net, IMAGES, labels, seed=seed, **settings)
    validate(net, IMAGES, labels, seed=seed, budget=FEW, only=["batch_company", "noise_is_weaker"], **settings)
    certify(net, IMAGES, labels, sigma=0.5, n0=1, n=2, seed=seed)
    same = [attacked(labels=labels, seed=number, random_start=True)(net, None) for number in (seed, int(seed))]
    assert torch.equal(*same)


def test_a_net_that_is_always_wrong_is_validated(net):
    wrong = (net(IMAGES).argmax(dim=1) + 1) % 5
    only = ["losses_agree", "planted_boundaries_are_found"]
    found = validate(net, IMAGES, wrong, eps=0.1, device="cpu", budget=FEW, only=only)
    assert found.accuracy == 0.0
    assert [result.verdict for result in found.checks] == ["passed", "not applicable"]


def test_bounds_are_numbers_for_the_smallest_failure_probabilities():
    votes, samples = np.arange(11.0), 10
    low = clopper_pearson_lower(votes, samples, 1e-300)
    assert ((low >= 0) & (low <= votes / samples)).all()


def test_a_damaged_pickle_of_the_old_format_is_refused(net, tmp_path):
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


def test_a_full_disk_is_told_of(monkeypatch, tmp_path):
    def full(*arguments, **settings):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights_module, "save_file", full)
    with pytest.raises(ResultsError, match=r"cannot write .*model\.safetensors: .*No space left"):
        load_model("Demo2026Constant", dataset="digits").save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_could_not_be_written_is_not_left_in_part(monkeypatch, tmp_path):
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
            ({"stage": 3}, "stage"),
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
        with pytest.raises(ResultsError, match="belongs to other data"):
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
