"""Search and judge have precisions of their own; on a CPU, bfloat16 stands in for TF32."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adaptive_smoothing_zoo.attacks.adaptive import judged_by
from adaptive_smoothing_zoo.attacks.autoattack.reference import ReferenceEngine
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.evaluation.evaluate import Call
from adaptive_smoothing_zoo.machine.precision import float32_precision, tf32_allowed
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.validation.checks.precisions import agreement
from adaptive_smoothing_zoo.validation.subject import Budget, Subject

CPU = torch.device("cpu")
IMAGES = 0.3 + 0.4 * torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(2))
THREAT = ThreatModel("Linf", 0.06)


class Optimist(nn.Module):
    """A linear net that in low precision is wrong long before it is in float32; it notes how it was asked."""

    asked = []  # noqa: RUF012  (of all copies: whether in low precision, and whether TF32 was allowed)

    def __init__(self, bias=1.0, scale=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)), requires_grad=False)
        self.bias, self.scale = bias, scale

    def forward(self, images):
        logits = F.linear(images.flatten(1), self.weight)
        low = logits.dtype == torch.bfloat16
        self.asked.append((low, tf32_allowed(), type(self).__name__))
        return self.scale * logits + self.bias * torch.arange(5.0) if low else logits


def _broken(model, precision, *, images=IMAGES, seed=0, **numbers):
    lengths = {"iterations": 20, "queries": 60} | numbers
    settings = AttackSettings(search_precision=precision, batch_size=4, seed=seed).limited(**lengths)
    search = Search(model, THREAT, settings, num_classes=5, device=CPU)
    labels, broken = model(images).argmax(1), torch.zeros(len(images), dtype=torch.bool)
    for verdict in search.run(images, labels, torch.arange(len(images))):
        broken[verdict.points[verdict.broken]] = True
        found = verdict.candidates[verdict.broken]
        assert (model(found).argmax(1) != labels[verdict.points[verdict.broken]]).all()  # float32 says so, too
    return broken, search


def test_what_only_the_search_believes_broken_goes_on_being_attacked():
    # In low precision most images are misclassified at the start: were the search believed, they would not be attacked.
    model = Optimist(bias=3.0)
    with torch.autocast("cpu", torch.bfloat16):
        wrong = model(IMAGES).argmax(1)
    assert int((wrong != model(IMAGES).argmax(1)).sum()) >= 5
    expected, _ = _broken(model, "float32")
    found, search = _broken(model, "bfloat16")
    assert 0 < int(expected.sum()) < len(IMAGES)
    assert torch.equal(found, expected)
    assert search.asked["apgd-ce"] >= 20 * int((~expected).sum())  # no run is given up for what float32 denies


def test_the_judge_is_asked_in_float32_and_the_search_in_its_own_precision(monkeypatch):
    monkeypatch.setattr(Optimist, "asked", [])
    outside = []
    settings = AttackSettings(search_precision="tf32", batch_size=4).limited(iterations=3, queries=10)
    model = Optimist()
    Judge = type("Judge", (Optimist,), {})
    model.__class__ = Judge
    search = Search(model, THREAT, settings, num_classes=5, device=CPU)
    labels = model(IMAGES).argmax(1)
    with float32_precision(False):
        search.prepare(IMAGES)
        inner = search.prepared.model.model  # within the images' format and the copying of images
        inner.__class__ = type("Copy", (Optimist,), {})
        Optimist.asked.clear()
        for name in settings.names:
            for _ in search.attack(name, IMAGES, labels, torch.arange(8)):
                outside.append(tf32_allowed())
    assert {tf32 for _, tf32, who in Optimist.asked if who == "Judge"} == {False}
    assert {tf32 for _, tf32, who in Optimist.asked if who == "Copy"} == {True}
    assert outside
    assert not any(outside)


def test_an_adaptive_attack_asks_its_judge_in_float32(monkeypatch):
    monkeypatch.setattr(Optimist, "asked", [])
    model, no = Optimist(), torch.zeros(8, dtype=torch.bool)
    labels = model(IMAGES).argmax(1)
    state = SimpleNamespace(found=no, exhausted=no, labels=labels)
    unsure = {"prepared": lambda points: torch.zeros(8, 5), "precision": "tf32", "deterministic": True}
    Optimist.asked.clear()
    with float32_precision(True):
        wrong = judged_by(SimpleNamespace(judge=model, **unsure), alike=False)(IMAGES, torch.zeros(8, 5), state)
        assert tf32_allowed()
    assert not wrong.any()
    assert [tf32 for _, tf32, _ in Optimist.asked] == [False]


@pytest.mark.parametrize(
    ("named", "engine", "cpu", "cuda"),
    [
        (None, "fast", "float32", "tf32"),
        (None, "reference", "float32", "float32"),
        ("float32", "fast", "float32", "float32"),
        ("tf32", "reference", "float32", "tf32"),
        ("bfloat16", "fast", "bfloat16", "bfloat16"),
    ],
)
def test_a_device_has_a_precision_of_its_own(named, engine, cpu, cuda):
    settings = AttackSettings(search_precision=named, engine=engine)
    assert settings.on("cpu").search_precision == cpu
    assert settings.on("cuda").search_precision == cuda


def test_the_record_says_both_precisions():
    model = Optimist(bias=0.0)
    settings = AttackSettings(search_precision="bfloat16").limited(iterations=2, queries=5)
    found = evaluate(model, IMAGES, model(IMAGES).argmax(1), threat=THREAT, settings=settings, device="cpu")
    assert (found.settings.search_precision, found.settings.judge_precision) == ("bfloat16", "float32")
    assert found.settings.protocol.endswith("search in bfloat16")
    assert not AttackSettings(search_precision="bfloat16").is_standard
    usual = evaluate(model, IMAGES, model(IMAGES).argmax(1), threat=THREAT, settings=settings.limited(), device="cpu")
    assert usual.settings == found.settings
    both = {"tf32": True, "search_precision": "tf32"}
    with pytest.raises(ValueError, match="give either search_precision or tf32"):
        evaluate(model, IMAGES, model(IMAGES).argmax(1), threat=THREAT, device="cpu", **both)


def test_the_reference_searches_in_its_precision(monkeypatch):
    monkeypatch.setattr(Optimist, "asked", [])
    model = Optimist()
    settings = AttackSettings(search_precision="tf32", engine="reference", batch_size=4).limited(
        iterations=2, queries=3
    )
    engine = ReferenceEngine(model, THREAT, settings, num_classes=5, device=CPU)
    labels = model(IMAGES).argmax(1)
    Optimist.asked.clear()
    with float32_precision(False):
        list(engine.attack("apgd-ce", IMAGES, labels))
        assert not tf32_allowed()
    assert {tf32 for _, tf32, _ in Optimist.asked} == {True}


@pytest.mark.parametrize(("scale", "passed"), [(1.0, True), (-1.0, False)])
def test_validation_compares_the_precisions(scale, passed):
    model = Optimist(bias=0.0, scale=scale)  # -1: in low precision every step leads away
    settings = AttackSettings(batch_size=4)
    labels = model(IMAGES).argmax(1)
    threat, budget = ThreatModel("Linf", 0.15), Budget(steps=10, restarts=1)
    subject = Subject(model, IMAGES, labels, threat, settings, CPU, budget, None)
    outcome = agreement(subject, "bfloat16")
    assert outcome.passed == passed, outcome
    assert outcome.measured["points"] == 8
    assert outcome.measured["broken_in_float32"] > 0
    assert subject.passes > 0


def test_on_a_gpu_few_images_still_fill_batches():
    model = Optimist()
    for device, engine, expected in (("cpu", "fast", 8), ("cuda", "fast", 50), ("cuda", "reference", 8)):
        settings = AttackSettings(batch_size=50, engine=engine)
        call = Call.of(THREAT, settings, {}, device="cpu", state=None, on_progress=None)
        assert replace(call, device=torch.device(device))._batch_size(model, IMAGES) == expected
