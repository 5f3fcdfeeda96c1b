"""Cards, claims and reports: their numbers and links."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from recorded import CIFAR_ENTRY, ENTRY, MODEL, a_check, a_record, a_validation

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.card import model_card, trade_off
from adaptive_smoothing_zoo.publishing.claim import claim
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve, CurvePoint
from adaptive_smoothing_zoo.publishing.evidence import Evidence
from adaptive_smoothing_zoo.publishing.info import info_page
from adaptive_smoothing_zoo.publishing.known import known_of
from adaptive_smoothing_zoo.publishing.pages import page
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig, ConstantAlphaConfig, Published, Weights
from adaptive_smoothing_zoo.zoo.registry import find_entry

WEIGHTS = identity_of(MODEL)
SHORT = AttackSettings().limited(iterations=10)


def card(record=None, curve=None):
    return model_card(ENTRY, None if record is None else Evidence(run=record), curve)


@pytest.mark.slow
def test_the_template_engine_is_loaded_with_the_first_page_only():
    code = "import sys, adaptive_smoothing_zoo.publishing.card; sys.exit('jinja2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_value_that_a_template_lacks_is_an_error():
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        page("claim.md", entry=ENTRY, evidence=Evidence(run=a_record()), checkpoint="")


def test_a_search_in_tf32_is_the_standard_protocol_if_the_settings_say_that_float32_judged():
    searched = a_record(CIFAR_ENTRY, tf32=True, settings=AttackSettings(search_precision="tf32"))
    assert searched.is_standard
    assert not a_record(CIFAR_ENTRY, tf32=True, settings=None).is_standard
    assert not a_record(CIFAR_ENTRY, settings=AttackSettings(search_precision="tf32")).is_standard


class TestClaim:
    def test_it_holds_what_the_form_asks_for(self):
        text = claim(CIFAR_ENTRY, Evidence(run=a_record(CIFAR_ENTRY)), "https://example.org/weights", WEIGHTS)
        for line in (
            "[New Model] <Demo2026Adaptive>",
            f"- Paper URL: {ENTRY.paper.link}",
            "- Dataset: cifar10",
            "- Threat Model: Linf",
            "- eps: 8/255",
            "- Clean accuracy: 87.50%",
            "- Robust accuracy: 50.00%",
            "- Additional data: false",
            "- Checkpoint and code: https://example.org/weights",
        ):
            assert line in text.splitlines()
        assert "pyautoattack 0.2.0, full test set of 8 images" in text
        assert "Best known" not in text
        for line in ("Attacks adapted to the model: not run", "Checks of asz validate: not run"):
            assert f"- {line}\n" in text
        assert "- Images that chose the model: not said\n" in text
        broken = Evidence(run=a_record(CIFAR_ENTRY), broken=frozenset({1}))
        assert "- Best known robust accuracy: 37.50%\n" in claim(CIFAR_ENTRY, broken, "https://example.org", WEIGHTS)

    @pytest.mark.parametrize(
        ("entry", "changes", "message"),
        [
            (CIFAR_ENTRY, {"n": 7}, "has 7 examples"),
            (CIFAR_ENTRY, {"test_set_size": None}, "all of the test set"),
            (CIFAR_ENTRY, {"protocol": "quick"}, "it is not standard: quick"),
            (CIFAR_ENTRY, {"deterministic": False}, "deterministic"),
            (CIFAR_ENTRY, {"chosen_among": 3}, "3 of its images chose the mix"),
            (CIFAR_ENTRY, {"attacks": ("apgd-ce",)}, "AutoAttack standard, apgd-ce, float32, TF32 off"),
            (CIFAR_ENTRY, {"dtype": "bfloat16"}, "square, bfloat16, TF32 off"),
            (CIFAR_ENTRY, {"tf32": True}, "TF32 on"),
            (CIFAR_ENTRY, {"identity": Identity(sha256="0" * 64)}, "model that was evaluated is not the one"),
            (CIFAR_ENTRY, {"eps": "4/255"}, "eps was 4/255, the entry's is 8/255"),
            (
                replace(CIFAR_ENTRY, eps="1/255"),
                {},
                "eps was 1/255; RobustBench's leaderboard for cifar10 Linf has 8/255",
            ),
            (replace(CIFAR_ENTRY, chosen_on="test:5:200"), {"chosen_among": 0}, "3 of its images chose the mix"),
            (CIFAR_ENTRY, {"settings": SHORT}, "apgd-ce iterations=10 restarts=1"),
            (CIFAR_ENTRY, {"settings": AttackSettings(search_precision="bfloat16")}, "search in bfloat16"),
            (ENTRY, {}, "no leaderboard for digits Linf"),
            (replace(CIFAR_ENTRY, dataset="cifar100", threat_model="L2"), {}, "no leaderboard for cifar100 L2"),
        ],
    )
    def test_a_run_that_is_not_the_full_protocol_cannot_be_claimed(self, entry, changes, message):
        with pytest.raises(ResultsError, match=message):
            claim(entry, Evidence(run=a_record(entry, **changes)), "https://example.org", WEIGHTS)

    def test_what_else_was_run_is_told(self):
        evidence = Evidence(run=a_record(CIFAR_ENTRY), validation=a_validation())
        text = claim(replace(CIFAR_ENTRY, chosen_on="test:8:99"), evidence, "https://example.org", WEIGHTS)
        assert "- Checks of asz validate: 2 passed, none failed, on 6 images\n" in text
        assert "- Images that chose the model: test:8:99\n" in text

    def test_records_that_no_longer_count_must_be_made_again(self):
        evidence = Evidence(run=a_record(CIFAR_ENTRY), stale=("X.adaptive.json started from other verdicts",))
        with pytest.raises(ResultsError, match=r"X\.adaptive\.json started from other verdicts"):
            claim(CIFAR_ENTRY, evidence, "https://example.org", WEIGHTS)
        assert "Left aside: X.adaptive.json started" in model_card(ENTRY, replace(evidence, run=a_record()))

    def test_imagenet_has_a_leaderboard(self):
        entry = replace(CIFAR_ENTRY, dataset="imagenet", eps="4/255")
        assert "- Dataset: imagenet\n" in claim(entry, Evidence(run=a_record(entry)), "https://example.org", WEIGHTS)


def test_the_best_known_accuracy_is_never_above_autoattack_s():
    published = Published(clean="90.00", autoattack="60.00", source="s", adaptive="61.00")
    assert known_of(replace(ENTRY, name="Doe2026Other", published=published)).best == "60.00"


def test_the_weights_of_base_nets_that_come_along_are_not_called_none(tmp_path):
    net = BaseNetConfig(architecture="resnet18", pretrained="cifar10_resnet18_nfgsm")
    changes = {"alpha": ConstantAlphaConfig(value=0.5), "weights": Weights(), "std_model": net, "rob_model": net}
    entry = replace(ENTRY, name="Doe2026Other", **changes)
    page = info_page(entry, tmp_path, "folder")
    assert "weights        those of base nets that the package" in page
    assert 'load_model("folder")' in page  # the zoo has no such name


def test_a_model_of_the_zoo_is_loaded_by_its_name(tmp_path):
    page = info_page(find_entry("Demo2026Adaptive", "digits", "Linf"), tmp_path, "folder")
    assert 'load_model("Demo2026Adaptive", dataset="digits"' in page


def a_curve(*points, **changes):
    fields = {
        "model": "X",
        "dataset": "digits",
        "threat_model": "Linf",
        "eps": "1/5",
        "engine": "pyautoattack 0.2.0",
        "n": 8,
        "seed": 0,
        "batch_size": 8,
        "device": "d",
        "data": "d",
        "data_sha256": a_record().data_sha256,
        "std_sha256": "0" * 64,
        "rob_sha256": "0" * 64,
        "versions": {},
        "points": tuple(CurvePoint(alpha=a, clean=c, robust=r) for a, c, r in points),
    }
    return ConstantCurve(**(fields | changes))


def test_the_curve_is_read_at_equal_robustness(tmp_path):
    curve = a_curve((0.0, 1.0, 0.0), (0.5, 0.9, 0.4), (1.0, 0.8, 0.6))
    assert curve.clean_at(0.4) == 0.9
    assert curve.clean_at(0.5) == pytest.approx(0.85)
    assert curve.clean_at(0.2) == pytest.approx(0.95)
    assert curve.clean_at(0.61) is None
    apart = a_curve((0.0, 1.0, 0.0), (0.5, 0.95, 0.4), (1.0, 0.8, 0.6))
    assert apart.clean_at(0.4) == 0.95
    assert apart.clean_at(0.5) is None  # 15 points of clean accuracy lie between the neighbours
    # A later alpha may be better in both; the best one counts.
    assert a_curve((0.5, 0.7, 0.4), (1.0, 0.8, 0.6)).clean_at(0.4) == 0.8
    path = curve.write(tmp_path, ENTRY)
    assert path.name == "constant_alpha.curve.json"
    assert ConstantCurve.read(tmp_path, ENTRY) == curve
    path.write_text(path.read_text().replace('"model"', '"name"'))  # as older files have it
    assert ConstantCurve.read(tmp_path, ENTRY) == curve


class TestCard:
    def test_front_matter_parses_and_holds_what_was_measured(self):
        text = card(a_record(remarks=("Something to say",)))
        front = yaml.safe_load(text.split("---")[1])
        assert front["library_name"] == "adaptive-smoothing-zoo"
        assert front["license"] == "mit"
        metrics = front["model-index"][0]["results"]
        values = [metric["value"] for result in metrics for metric in result["metrics"]]
        assert values == [87.5, 50.0]
        assert "n = 8 (the whole test set" in text
        assert "| none (clean) | 87.50 |\n| and apgd-ce | 87.50 |\n| and apgd-t | 50.00 |" in text
        assert f"[{ENTRY.alpha.alpha_min:g}, {ENTRY.alpha.alpha_max:g}]" in text
        assert "\nSomething to say.\n" in text
        assert f"<{ENTRY.paper.link}>" in text

    def test_front_matter_says_what_other_attacks_left_and_what_speaks_against_it(self):
        failed = a_validation(1, failed=("eight_bits",))
        evidence = Evidence(run=a_record(chosen_among=3), validation=failed, broken=frozenset({1}))
        (result,) = yaml.safe_load(model_card(ENTRY, evidence).split("---")[1])["model-index"][0]["results"]
        doubt = ", Linf 1/5, not to be trusted: asz validate failed in eight_bits"
        assert {metric["name"]: metric["value"] for metric in result["metrics"]} == {
            "clean accuracy (%)": 87.5,
            f"AutoAttack accuracy (%){doubt}": 50.0,
            f"accuracy after all recorded attacks (%){doubt}": 37.5,
        }
        assert result["dataset"]["name"].startswith("8 examples, 3 of which chose the mix: ")

    def test_the_numbers_come_first_then_how_to_load_then_the_evidence(self):
        lines = card(a_record()).splitlines()
        table = [line for line in lines if re.match(r"\| (clean|AutoAttack|after all attacks) \|", line)]
        assert table == [
            "| clean | 87.50 | 47.35 to 99.68 | none |",
            "| AutoAttack | 50.00 | 15.70 to 84.30 | apgd-ce, apgd-t, fab-t, square |",
        ]
        headings = [line for line in lines if line.startswith("## ")]
        assert headings[:2] == ["## Load it", "## Evidence"]
        assert lines.index(table[0]) < lines.index("## Load it") < lines.index("| and apgd-t | 50.00 |")

    def test_the_picture_shows_the_model_and_the_curve_of_its_nets(self):
        curve = a_curve((0.0, 1.0, 0.0), (0.5, 0.9, 0.5), (1.0, 0.6, 0.6))
        evidence = Evidence(run=a_record(), broken=frozenset({1}))
        plot = trade_off(ENTRY, evidence, curve)
        assert [(p.clean, p.robust, p.open) for p in plot.points] == [(87.5, 50.0, False), (87.5, 37.5, True)]
        assert [(p.clean, p.robust) for p in plot.curve] == [(100.0, 0.0), (90.0, 50.0), (60.0, 60.0)]
        assert "](here.svg)" in model_card(ENTRY, evidence, curve, picture="here.svg")
        for given in (None, replace(curve, seed=1)):
            assert trade_off(ENTRY, evidence, given) is None
            assert "here.svg" not in model_card(ENTRY, evidence, given, picture="here.svg")
        assert trade_off(ENTRY, None, curve) is None

    def test_what_was_published_stands_where_nothing_was_measured(self):
        entry = replace(ENTRY, published=Published(clean="90.00", autoattack="60.00", source="s", adaptive="58.00"))
        rows = [line for line in model_card(entry, None).splitlines() if re.match(r"\| [a-zA-Z ]+ \| \d\d\.", line)]
        assert [row.split(" | ")[1] for row in rows] == ["90.00", "60.00", "58.00"]
        assert "(s); not measured here" in model_card(entry, None)

    def test_it_names_what_is_not_standard(self):
        text = card(a_record(settings=SHORT, protocol=SHORT.protocol), a_curve((0.0, 1.0, 0.0), (0.5, 0.9, 0.5)))
        assert f"{SHORT.protocol}." in text
        assert "iterations=10" in text
        assert "AutoAttack standard" not in text
        assert "AutoAttack accuracy (%)" not in text.split("---")[1]
        assert "| 0.5 | 90.00 | 50.00 |" not in text
        assert "not standard" not in card(a_record()).lower()

    def test_images_that_chose_the_mix_are_named_beside_its_numbers(self):
        among = a_record(replace(ENTRY, chosen_on="test:5:200"))
        assert among.chosen_among == 3
        assert "**3 of these images chose the mix**" in card(among)
        assert Evidence(run=among).remarks == ("3 of these examples chose the mix, which flatters it.",)
        for chosen_on in (None, "test:8:200", "validation:0:8"):
            apart = a_record(replace(ENTRY, chosen_on=chosen_on))
            assert apart.chosen_among == 0
            assert "chose the mix" not in card(apart)
            assert Evidence(run=apart).remarks == ()

    def test_without_results_it_claims_nothing(self):
        text = card()
        assert "Not measured here." in text
        assert "model-index" not in text
        assert "## Stronger attacks" not in text

    @pytest.mark.parametrize(
        ("clean", "expected"), [(0.95, "5.00 points above it"), (0.85, "5.00 points below it"), (0.9, "the same")]
    )
    def test_it_says_by_how_much_the_mix_beats_or_misses_the_constant_alphas(self, clean, expected):
        curve = a_curve((0.0, 1.0, 0.0), (0.5, 0.9, 0.5))
        text = card(a_record(clean_accuracy=clean, robust_accuracy=0.5), curve)
        assert "| 0.5 | 90.00 | 50.00 |" in text
        assert f"This model has {100 * clean:.2f} %, {expected}. One example is 12.50 points." in text

    def test_constant_alphas_are_compared_with_what_all_attacks_left_too(self):
        curve = a_curve((0.0, 1.0, 0.0), (0.5, 0.9, 0.5))
        text = model_card(ENTRY, Evidence(run=a_record(), broken=frozenset({1})), curve)
        sentence = (
            "After all recorded attacks this model has 37.50 %. There the curve, which only AutoAttack attacked, "
        )
        assert f"\n\n{sentence}has a clean accuracy of 92.50 %.\n\n#" in text
        assert "After all recorded attacks" not in card(a_record(), curve)

    def test_a_curve_that_is_less_robust_or_of_other_settings_is_no_yardstick(self):
        points = ((0.0, 1.0, 0.0), (0.5, 0.9, 0.4))
        text = card(a_record(), a_curve(*points))
        assert "| 0.5 | 90.00 | 40.00 |" in text
        assert " points " not in text
        assert card(a_record(), a_curve(*points, seed=1)) == card(a_record())

    @pytest.mark.parametrize("features", ["both", "std_model", "rob_model"])
    @pytest.mark.parametrize("classes", [0, 7])
    def test_a_fine_tuned_model_is_no_mix(self, features, classes):
        model = load_model("Demo2026Adaptive", dataset="digits")
        model.reset_classifier(classes, features=features)
        text = model_card(model.described(), None)
        assert (f"Logits of {classes} classes" in text) == bool(classes)
        assert f"| classes | {classes or 'none'} |" in text
        for name in ("std_model", "rob_model"):
            assert (f"({name})" in text) == (f"| {name} (" in text) == (features in (name, "both"))
        words = ("softmax", "alpha range", "t_g", "alpha_min", "## Certified", "log_prob")
        assert not any(word in text for word in words)


class TestReport:
    def test_it_has_every_check_and_every_number(self):
        checks = (a_check("first"), a_check("second", "failed"), a_check("third", "not applicable", "alpha"))
        text = a_validation(3, 1, checks=checks).report("net.png")
        assert "1 checks passed, 1 failed, 1 did not apply" in text
        assert "**: second.\n" in text
        assert "indices 3, 1" in text
        assert "25.00 %" in text
        assert "(net.png)" in text
        assert "| first | passed | a \\| b. | 2 | 1.0 |\n" in text
        assert "| all | | | 6 | 3.0 |\n" in text
        assert "| share | 0.25 |\n| points | 3 |\n" in text
        assert [line for line in text.splitlines() if line.startswith("##")] == [
            "## Strength",
            "### first: passed",
            "### second: failed",
            "## Alpha",
            "### third: not applicable",
        ]

    def test_without_failures_run_and_figure_it_says_so(self):
        text = a_validation(recorded_n=None, recorded_accuracy=None).report()
        assert "**" not in text
        assert "![" not in text
        assert "No recorded AutoAttack run" in text
        assert replace(a_validation(1)).union_accuracy == 3 / 8

    def test_the_figure_is_written_next_to_it(self, tmp_path):
        series = {"loss_ce": ((0.0, 1.0),), "accuracy_against_eps": ((0.0, 1.0), (1.0, 0.5)), "alpha": ((0.5,), (0.7,))}
        path = a_validation(series=series).write(tmp_path, ENTRY)
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert f"({path.stem}.png)" in path.with_suffix(".md").read_text()
