"""Variants of SmoothMix and SmoothAdv: recipes, PREDICT's column against the votes themselves, the page's words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from making import ABOUT, CPU, a_table
from scipy.stats import binomtest

from adaptive_smoothing_zoo.certification import read_log
from adaptive_smoothing_zoo.experiments.smoothed_methods import RADII, MethodsTable
from adaptive_smoothing_zoo.experiments.smoothed_variants import CHANGES, EXPERIMENT, PAPER, VARIANTS, VariantsBench
from adaptive_smoothing_zoo.training.recipe import RECIPES

CASE = {"method": "smoothmix_eta1", "sigma": "1", "seed": "2"}


def loss_of(method):
    bench = VariantsBench(experiment=EXPERIMENT, recipes=RECIPES / "smoothed", trained=RECIPES, device=CPU)
    return bench.recipe({**CASE, "method": method}).training.loss


def test_each_variant_differs_from_its_method_in_what_it_is_named_after():
    assert list(CHANGES) == list(VARIANTS)
    usual, adv = loss_of("smoothmix_eta1"), loss_of("smoothadv")
    assert (usual.weight, usual.steps * usual.step_size, usual.max_norm, usual.printed) == (1.0, 8.0, None, False)
    assert [usual.strength(epoch) for epoch in range(3)] == [1.0, 1.0, 1.0]
    assert loss_of("max_norm_2") == replace(usual, max_norm=2.0)
    assert loss_of("max_norm_4") == replace(usual, max_norm=4.0)
    assert loss_of("printed") == replace(usual, warm_up=0, printed=True)
    assert loss_of("smoothadv_ddn") == replace(adv, search="ddn")


@pytest.fixture
def bench(tmp_path):
    """Recipes that train a LeNet on 64 images for an epoch; 6 test images."""
    generator = np.random.default_rng(0)
    labels = np.arange(64) % 10
    images = (generator.integers(0, 40, (64, 28, 28)) + 20 * labels[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=labels.astype(np.uint8))
    for name in ("smoothmix_eta1", "smoothadv"):
        text = """
            kind = "smoothed_net"
            data = { dataset = "mnist" }
            net = { architecture = "lenet" }
            training = { sigma = 1.0, epochs = 1, batch_size = 32 }
        """
        (tmp_path / f"mnist_{name}.toml").write_text(text)
    return VariantsBench(
        experiment=EXPERIMENT,
        recipes=tmp_path,
        trained=tmp_path / "trained",
        n=6,
        samples=40,
        failure_probability=0.05,
        device=CPU,
        data_dir=str(tmp_path / "images.npz"),
        train_data_dir=str(tmp_path / "images.npz"),
    )


def test_a_row_has_what_certify_and_predict_answer(bench, monkeypatch):
    monkeypatch.setattr(type(EXPERIMENT), "source", lambda self, case: ("mnist_smoothmix_eta1.toml", ()))
    monkeypatch.chdir(bench.recipes)
    values = EXPERIMENT.measure(bench, CASE)
    (log,) = bench.trained.rglob("certificates.tsv")
    certificates = read_log(log)
    assert values["certify_abstained"] == certificates.abstained.mean()
    examples, net = bench.examples(), bench.net(CASE)
    generator = torch.Generator().manual_seed(0)
    right = abstained = doubtful = 0
    for image, label in zip(examples.images, examples.labels, strict=True):
        noisy = image + torch.randn(4000, *image.shape, generator=generator)
        first, second = net(noisy).argmax(1).bincount(minlength=10).topk(2)[0].tolist()
        share = first / (first + second)
        # With 40 votes the test decides for certain only far from the border; nearer to it, either answer may come.
        decided = [binomtest(round(40 * p), 40).pvalue <= 0.05 for p in (share - 0.15, min(share + 0.15, 1.0))]
        doubtful += decided[0] != decided[1]
        abstained += not any(decided)
        right += all(decided) and net(noisy).argmax(1).mode()[0] == label
    assert doubtful < 6
    assert right / 6 - 1e-9 <= values["predicted"] <= (right + doubtful) / 6 + 1e-9
    assert abstained / 6 - 1e-9 <= values["predict_abstained"] <= (abstained + doubtful) / 6 + 1e-9


def variants_table(acr, predicted=0.6):
    rows = []
    for case in EXPERIMENT.cases():
        values = {f"certified_{radius:g}": 0.5 for radius in RADII}
        values |= {"acr": acr(case["method"]), "certify_abstained": 0.125, "predicted": predicted}
        rows.append((case, {**values, "predict_abstained": 0.0625}))
    about = {**ABOUT, "samples": 1000, "failure_probability": 0.001, "recipes_sha256": "0"}
    return a_table("smoothed-variants", *rows, kind=MethodsTable, about=about)


def test_the_page_compares_rows_that_were_published_and_gives_the_others_no_number():
    table = variants_table(lambda method: PAPER["1"].get(method, 0.0))
    text = EXPERIMENT.summary(table)
    assert "| SmoothMix, search within eps = 2 | 1.7230 (0.0000) | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 1.723 |" in text
    assert "| SmoothAdv, DDN | 0.0000 (0.0000) | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 |  |" in text
    assert "| SmoothAdv, DDN | 50.00 | 12.50 | 60.00 | 6.25 |" in text
    assert "- sigma = 1: 6 of 6 pairs in the paper's order." in EXPERIMENT.agreement(table)
    assert f"for {len(table.rows)} of {len(table.rows)} nets" in EXPERIMENT.agreement(table)
    worse = variants_table(lambda method: -PAPER["1"].get(method, 0.0), predicted=0.4)
    assert "SmoothMix, search within eps = 2 over SmoothMix (eta = 1)" in EXPERIMENT.agreement(worse)
    assert f"for 0 of {len(table.rows)} nets" in EXPERIMENT.agreement(worse)
