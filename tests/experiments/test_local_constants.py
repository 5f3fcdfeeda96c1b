"""The experiment on local constants: rows against direct computation."""

import numpy as np
import pytest
from making import CPU, EXAMPLES, a_bench, a_table

from adaptive_smoothing_zoo import ThreatModel, load_model
from adaptive_smoothing_zoo.certification import certify_lipschitz, estimate_local_lipschitz
from adaptive_smoothing_zoo.experiments import find_experiment
from adaptive_smoothing_zoo.experiments.bench import Pgd

EXPERIMENT = find_experiment("local-constants")


def test_a_row_holds_the_estimate_the_attack_and_the_certificate():
    model, threat = load_model("Demo2026Lipschitz", dataset="digits", threat_model="L2"), ThreatModel("L2", 0.25)
    bench = a_bench(model=model, threat=threat, examples=EXAMPLES.first(6), pgd=Pgd(3), device=CPU)
    row = EXPERIMENT.measure(bench, {"alpha": "0.9"})
    found = estimate_local_lipschitz(bench.mix(1.0), bench.images, threat, alpha=0.9, steps=3, restarts=1, batch_size=5)
    h, labels = found.probabilities, bench.labels.numpy()
    reached = []
    for p, constants, y in zip(h, found.constants, labels, strict=True):
        top = p.argmax()
        others = [i for i in range(10) if i != top]
        radius = min((p[top] - p[i] - 0.1 / 0.9) / (constants[top] + constants[i]) for i in others)
        reached.append(top == y and radius >= 0.25)
    assert row["estimated"] == np.mean(reached)
    assert row["constant"] == pytest.approx(found.constants.max(axis=1).mean())
    certified = certify_lipschitz(bench.mix(0.9), bench.images, bench.labels)
    assert row["certified"] == (certified.correct & (certified.radius >= 0.25)).mean()
    assert row["largest"] <= row["proven"]
    assert row["attacked"] == bench.accuracy(bench.mix(0.9), bench.attack(bench.mix(0.9)))


def test_an_h_that_proves_nothing_is_no_answer_and_a_violation_is_seen():
    known = {"estimated": 0.5, "attacked": 0.6, "constant": 0.2}
    rows = [(case, dict(known)) for case in EXPERIMENT.cases()]
    table = a_table(EXPERIMENT.name, *rows)
    assert "not answered: nothing is proven of this h" in EXPERIMENT.agreement(table)
    assert "not known" in EXPERIMENT.summary(table)
    proven = {"certified": 0.4, "proven": 1.0, "largest": 0.9}
    assert EXPERIMENT.agreement(a_table(EXPERIMENT.name, *((c, v | proven) for c, v in rows))).startswith("yes")
    for wrong in ({"largest": 1.1}, {"certified": 0.55}):
        worse = a_table(EXPERIMENT.name, *((c, v | proven | wrong) for c, v in rows))
        assert EXPERIMENT.agreement(worse).startswith("in part")
