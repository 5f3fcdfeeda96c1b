"""``asz certify`` and ``asz plot certified`` as a user meets them."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command_line import run

from adaptive_smoothing_zoo.certification import mix_certificates, read_log
from adaptive_smoothing_zoo.cli.certify_commands import aligned

H = ("Demo2026Constant", "--dataset", "digits", "--part", "rob_model", "--sigma", 0.25)
FEW = ("--n", 300, "--n-examples", 4)
LIPSCHITZ = ("Demo2026Lipschitz", "--dataset", "digits")
SMOOTHED = ("Demo2026Smoothed", "--dataset", "digits")


def certified(capsys, out, *arguments):
    """The folder of a run that must succeed, and what it said."""
    code, text, err = run(capsys, "certify", *arguments, "--out", out)
    assert code == 0, err
    (folder,) = (out / "digits").glob("*/certificates")
    return folder, text


def test_a_smoothed_net_is_certified_with_log_and_record(capsys, tmp_path):
    folder, text = certified(capsys, tmp_path, *H, *FEW)
    name = "Demo2026Constant.rob_model.smoothed-0.25-hard"
    log, record = read_log(folder / f"{name}.tsv"), json.loads((folder / f"{name}.json").read_text())
    assert log.index.tolist() == [0, 1, 2, 3]
    cohen = record["bounds"]["cohen"]
    assert cohen["log"] == f"{name}.tsv"
    assert cohen["average_radius"] == log.average_certified_radius()
    np.testing.assert_array_equal(cohen["certified_accuracy"], log.certified_accuracy(record["radii"]))
    assert record["sampling"]["n"] == 300
    assert record["sampling"]["mean_samples"] == 400
    assert (record["part"], record["smoothed"], record["norm"]) == ("rob_model", True, "L2")
    assert "cohen: Cohen, Rosenfeld and Kolter 2019" in text
    again, _ = certified(capsys, tmp_path, *H, *FEW)  # nothing is done again
    assert read_log(again / f"{name}.tsv").seconds.tolist() == log.seconds.tolist()


def test_the_record_says_which_precision_the_certified_net_has(capsys, tmp_path):
    folder, _ = certified(capsys, tmp_path, *H, "--n", 100, "--n-examples", 2, "--dtype", "bfloat16")
    sampling = json.loads((folder / "Demo2026Constant.rob_model.smoothed-0.25-hard.json").read_text())["sampling"]
    assert (sampling["dtype"], sampling["tf32"]) == ("bfloat16", False)
    code, _, err = run(capsys, "certify", *H, "--n", 100, "--n-examples", 2, "--dtype", "tf32", "--out", tmp_path / "b")
    assert code == 2
    assert "TF32 is a precision of CUDA" in err


def test_skipping_takes_every_kth_example_of_the_data_set(capsys, tmp_path):
    folder, _ = certified(capsys, tmp_path / "a", *H, "--n", 100, "--skip", 100, "--seed", 3)
    log = read_log(folder / "Demo2026Constant.rob_model.smoothed-0.25-hard.tsv")
    assert log.index.tolist() == [0, 100, 200, 300]
    fewer, _ = certified(capsys, tmp_path / "b", *H, "--n", 100, "--skip", 100, "--n-examples", 2, "--seed", 3)
    part = read_log(fewer / "Demo2026Constant.rob_model.smoothed-0.25-hard.tsv")
    assert part.index.tolist() == [0, 100]
    np.testing.assert_array_equal(part.radius, log.radius[:2])


def test_one_radius_takes_fewer_samples(capsys, tmp_path):
    settings = ("--n", 5000, "--n-examples", 4)
    folder, text = certified(capsys, tmp_path, *H, *settings, "--radius", 0.1)
    name = "Demo2026Constant.rob_model.smoothed-0.25-hard-at-0.1"
    record, log = json.loads((folder / f"{name}.json").read_text()), read_log(folder / f"{name}.tsv")
    assert record["radii"] == [0.1]
    assert record["bounds"]["cohen"]["average_radius"] is None
    assert record["sampling"]["mean_samples"] == log.samples.mean() < 2500
    assert "noisy images per example" in text
    assert set(log.radius.tolist()) <= {0.0, 0.1}


@pytest.mark.parametrize("more", [(), ("--radius", 0.1)])
def test_the_bar_ends_full_also_where_nothing_is_left_to_do(capsys, tmp_path, more):
    for _ in range(2):
        code, _, err = run(capsys, "certify", *H, "--n", 5000, "--n-examples", 4, *more, "--out", tmp_path)
        assert code == 0
        last = err.strip().split("\r")[-1]
        assert "100%" in last
        assert "< 00:00" in last
    assert "|" not in run(capsys, "certify", *LIPSCHITZ, "--n-examples", 4, "--out", tmp_path)[2]


def test_columns_stand_apart_and_above_each_other():
    rows = [["l_2 radius", "> 0", "1.25", "average radius"], ["theorem5", "100.00", "2.50", "0.123"]]
    assert aligned(rows) == [
        "l_2 radius     > 0  1.25  average radius",
        "theorem5    100.00  2.50           0.123",
    ]


def test_numbers_of_samples_and_of_images_have_names_of_their_own(capsys, tmp_path):
    logs = []
    for name, samples in (("a", ("--n-samples", 300, "--n0-samples", 50)), ("b", ("--n", 300, "--n0", 50))):
        folder, _ = certified(capsys, tmp_path / name, *H, *samples, "--n-examples", 2, "--no-times")
        logs.append({path.name: path.read_bytes() for path in folder.glob("*.tsv*")})
    assert logs[0] == logs[1]
    text = " ".join(run(capsys, "certify", "--help")[1].split())
    assert "--n-samples, --n N maximal noise samples per image" in text
    assert "--n-examples N use the first N test images" in text


def test_a_noise_in_units_of_bytes_is_warned_of_once(capsys, tmp_path):
    code, _, err = run(capsys, "certify", *H[:-1], 64, *FEW, "--out", tmp_path)
    assert code == 0
    assert (
        err.count("Warning: the noise's sigma 64 is larger than all of pixel space, [0, 1]; did you mean 64/255?") == 1
    )


def test_a_triplet_with_a_lipschitz_net_is_certified_by_both_bounds(capsys, tmp_path):
    folder, text = certified(capsys, tmp_path, *LIPSCHITZ, "--n-examples", 40)
    record = json.loads((folder / "Demo2026Lipschitz.certified.json").read_text())
    logs = {bound: read_log(folder / of["log"]) for bound, of in record["bounds"].items()}
    assert list(logs) == ["theorem4", "sharp"]
    assert (logs["sharp"].radius >= logs["theorem4"].radius).all()
    assert record["sampling"] is None
    assert record["clean_accuracy"] > 0.9
    assert record["logits_lipschitz"] == pytest.approx(3.0, rel=1e-5)
    assert "> 0" in text
    assert "never smaller than theirs" in text

    alone, _ = certified(capsys, tmp_path / "h", *LIPSCHITZ, "--part", "rob_model", "--n-examples", 40)
    of_h = read_log(alone / "Demo2026Lipschitz.rob_model.certified-sharp.tsv")
    assert (of_h.radius >= logs["sharp"].radius).all()
    one, _ = certified(capsys, tmp_path / "one", *LIPSCHITZ, "--bound", "sharp", "--n-examples", 5)
    assert list(json.loads((one / "Demo2026Lipschitz.certified.json").read_text())["bounds"]) == ["sharp"]

    where = ("--dataset", "digits", "--threat-model", "L2", "--results", tmp_path)
    code, _, _ = run(capsys, "card", "Demo2026Lipschitz", *where, "--out", tmp_path / "cards")
    card = (tmp_path / "cards" / "Demo2026Lipschitz-digits-L2.md").read_text()
    assert code == 0
    assert "| l_2 radius | > 0 |" in card
    assert "proven layer by layer" in card


def test_labels_are_certified_to_stay_in_the_top_k_of_a_mix_with_a_lipschitz_net(capsys, tmp_path):
    few = ("--n-examples", 60)
    folder, text = certified(capsys, tmp_path, *LIPSCHITZ, *few, "--top-k", 2)
    assert "top 2: the label stays among the k = 2 likeliest classes" in text
    record = json.loads((folder / "Demo2026Lipschitz.certified-top-2.json").read_text())
    assert record["top_k"] == 2
    certified(capsys, tmp_path, *LIPSCHITZ, *few, "--top-k", 1)
    certified(capsys, tmp_path, *LIPSCHITZ, *few)
    usual = json.loads((folder / "Demo2026Lipschitz.certified.json").read_text())
    first = json.loads((folder / "Demo2026Lipschitz.certified-top-1.json").read_text())
    assert (usual["top_k"], first["top_k"]) == (None, 1)
    assert usual["clean_accuracy"] == first["clean_accuracy"] <= record["clean_accuracy"]
    for bound in ("theorem4", "sharp"):
        assert record["bounds"][bound]["log"] == f"Demo2026Lipschitz.certified-{bound}-top-2.tsv"
        log = read_log(folder / record["bounds"][bound]["log"])
        np.testing.assert_array_equal(
            record["bounds"][bound]["certified_accuracy"], log.certified_accuracy(record["radii"])
        )
        assert log.average_certified_radius() > usual["bounds"][bound]["average_radius"]
        for name in ("average_radius", "certified_accuracy"):
            assert first["bounds"][bound][name] == usual["bounds"][bound][name]


def test_labels_are_certified_to_stay_in_the_top_k_of_smoothed_nets_and_mixes_with_them(capsys, tmp_path):
    few = ("--n", 200, "--n-examples", 3, "--top-k", 2)
    folder, text = certified(capsys, tmp_path / "mix", *SMOOTHED, *few, "--runner-up")
    assert "and k other classes share 1 - p [JCWG20]" in text
    assert "200 noisy images per example on average" in text
    record = json.loads((folder / "Demo2026Smoothed.certified-top-2-runner-up.json").read_text())
    assert (record["top_k"], record["sampling"]["n0"], record["sampling"]["runner_up"]) == (2, 0, True)
    h = read_log(folder / "Demo2026Smoothed.rob_model.smoothed-0.25-soft-top-2-runner-up.tsv")
    for bound in ("theorem4", "theorem5", "sharp"):
        log = read_log(folder / f"Demo2026Smoothed.certified-{bound}-top-2-runner-up.tsv")
        np.testing.assert_array_equal(log.radius, mix_certificates(h, 0.7, 0.25, bound=bound).radius)
    alone, text = certified(capsys, tmp_path / "h", *H, *few)
    name = "Demo2026Constant.rob_model.smoothed-0.25-hard-top-2"
    log, record = read_log(alone / f"{name}.tsv"), json.loads((alone / f"{name}.json").read_text())
    assert record["bounds"]["cohen"]["average_radius"] == log.average_certified_radius() > 0
    certified(capsys, tmp_path / "h", *H, *few)  # nothing is done again
    assert read_log(alone / f"{name}.tsv").seconds.tolist() == log.seconds.tolist()


SCRIPT = "import sys; from adaptive_smoothing_zoo.cli import main; sys.argv = {argv!r}; main()"


def certified_with_a_kill(folder, log, arguments, lines):
    """Kill ``asz certify`` once its log has so many lines, then let the same command go on; the seconds that took."""
    argv = ["asz", "certify", *map(str, arguments), "--out", str(folder)]
    command = [sys.executable, "-c", SCRIPT.format(argv=argv)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = time.monotonic()
    process = subprocess.Popen(command, **quiet)
    while not log.exists() or len(log.read_text().splitlines()) < lines:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < start + 300
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seconds, start = time.monotonic() - start, time.monotonic()
    killed = len(read_log(log))
    subprocess.run(command, check=True, **quiet)
    assert lines - 1 <= killed < len(read_log(log))
    return seconds + time.monotonic() - start


@pytest.mark.slow
def test_100_examples_of_the_smoothed_triplet_in_two_minutes_and_the_same_after_a_kill_half_way(capsys, tmp_path):
    settings = ("--n", 10_000, "--n-examples", 100, "--no-times")
    log = tmp_path / "killed" / "digits" / "L2" / "certificates" / "Demo2026Smoothed.rob_model.smoothed-0.25-soft.tsv"
    seconds = certified_with_a_kill(tmp_path / "killed", log, (*SMOOTHED, *settings), 51)
    assert seconds < 120, "on two cores that do nothing else"
    whole, _ = certified(capsys, tmp_path / "whole", *SMOOTHED, *settings)
    names = {path.name for path in whole.glob("*.tsv*")}
    assert {f"Demo2026Smoothed.certified-{bound}.tsv" for bound in ("theorem4", "theorem5", "sharp")} < names
    for name in names:
        assert (log.parent / name).read_bytes() == (whole / name).read_bytes()
    assert len(read_log(log)) == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Demo2026Constant", "--dataset", "digits"), "nothing is known that certifies a SmallCNN; give a sigma"),
        (("Demo2026Constnt", "--dataset", "digits"), "did you mean Demo2026Constant"),
        ((*H, "--skip", 0), "skip must be at least 1"),
        ((*H, "--n-examples", 1000), "n must be between 1 and the 359"),
        ((*H, "--n", 0, "--n-examples", 1), "n must be at least 1"),
        ((*H, "--bound", "sharp"), "the bound sharp does not apply here; those that do: cohen"),
        ((*H, "--radius", 9, "--n-examples", 1), "no vote, however clear"),
        ((*H, "--failure-probability", 2, "--n-examples", 1), "failure probability"),
        ((*H, "--batch-size", 0, "--n-examples", 1), "batch size must be at least 1"),
        ((*LIPSCHITZ, "--radius", 0.5), "omit the radius"),
        ((*LIPSCHITZ, "--bound", "theorem5"), "the bound theorem5 does not apply here; those that do: theorem4, sharp"),
        ((*LIPSCHITZ, "--threat-model", "Linf"), "it exists for digits/L2"),
        ((*LIPSCHITZ, "--top-k", 10), "top_k must be at most 9, one less than the 10 classes, got 10"),
        ((*SMOOTHED, "--top-k", 10, "--n-examples", 1), "top_k must be at most 9, one less than the 10 classes"),
        ((*H, "--top-k", 0, "--n-examples", 1), "top_k must be a whole number >= 1, got 0"),
        ((*H, "--top-k", 2, "--radius", 0.1), "omit the radius or top_k"),
        ((*LIPSCHITZ, "--part", "std_model"), "certifies a SmallCNN; give a sigma"),
    ],
)
def test_what_a_user_gets_wrong_ends_with_one_sentence_and_code_2(capsys, tmp_path, arguments, message):
    code, _, err = run(capsys, "certify", *arguments, "--out", tmp_path)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.tsv"))


def test_a_log_of_other_settings_is_refused(capsys, tmp_path):
    certified(capsys, tmp_path, *H, *FEW)
    code, _, err = run(capsys, "certify", *H, "--n", 400, "--n-examples", 4, "--out", tmp_path)
    assert code == 2
    assert "was made with n 300, this run has n 400" in err


# ---- pictures


def curves_of(monkeypatch):
    """What is drawn, kept for a look."""
    import adaptive_smoothing_zoo.certification as certification

    drawn, draw = [], certification.plot_certified_curves
    monkeypatch.setattr(
        certification,
        "plot_certified_curves",
        lambda curves, **options: drawn.extend(curves) or draw(curves, **options),
    )
    return drawn


def test_logs_are_drawn_as_mixes_and_baselines(capsys, tmp_path, monkeypatch):
    drawn = curves_of(monkeypatch)
    folder, _ = certified(capsys, tmp_path, *H, *FEW)
    log = folder / "Demo2026Constant.rob_model.smoothed-0.25-hard.tsv"
    picture = tmp_path / "picture.svg"
    mixes = ("--alpha", 0.9, "--alpha", 1, "--bound", "theorem5", "--bound", "sharp")
    code, out, _ = run(capsys, "plot", "certified", log, *mixes, "--baseline", log, "--title", "h", "--out", picture)
    assert code == 0
    assert f"wrote {picture}" in out
    assert picture.read_text().startswith("<?xml")
    assert [(curve.jumps, curve.baseline) for curve in drawn] == [(True, False)] * 2 + [(False, False)] * 2 + [
        (False, True)
    ]
    expected = mix_certificates(read_log(log), 0.9, 0.25, bound="sharp").radius
    np.testing.assert_array_equal(drawn[1].certificates.radius, expected)

    drawn.clear()
    lipschitz = ("--bound", "theorem4", "--alpha", 0.9, "--baseline", log)
    assert run(capsys, "plot", "certified", log, *lipschitz, "--out", picture)[0] == 0
    assert [(curve.jumps, curve.baseline) for curve in drawn] == [(True, False), (False, True), (False, True)]
    expected = mix_certificates(read_log(log), 1.0, 0.25, bound="theorem4").radius
    np.testing.assert_array_equal(drawn[2].certificates.radius, expected)
    np.testing.assert_array_equal(drawn[1].certificates.radius, read_log(log).radius)

    foreign = tmp_path / "foreign.tsv"
    foreign.write_bytes(log.read_bytes())
    code, _, err = run(capsys, "plot", "certified", foreign, "--out", picture)
    assert code == 2
    assert "pass --sigma" in err
    assert run(capsys, "plot", "certified", foreign, "--sigma", 0.25, "--out", picture)[0] == 0
    code, _, err = run(capsys, "plot", "certified", foreign, log, foreign, "--sigma", 1, "--sigma", 2, "--out", picture)
    assert code == 2
    assert "one for each of 3, not 2" in err
    code, _, err = run(capsys, "plot", "certified", "--out", picture)
    assert code == 2
    assert "no certified curves" in err
    code, _, err = run(capsys, "plot", "certified", "nofile.tsv", "--out", picture)
    assert code == 2
    assert "there is no certification log nofile.tsv" in err


def test_triplets_are_drawn_with_their_clean_accuracy(capsys, tmp_path, monkeypatch):
    drawn = curves_of(monkeypatch)
    certified(capsys, tmp_path, *LIPSCHITZ, "--n-examples", 30)
    where = ("--triplet", "Demo2026Lipschitz", "--dataset", "digits", "--results", tmp_path)
    code, _, _ = run(capsys, "plot", "certified", *where, "--out", tmp_path / "a.png")
    assert code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [curve.label.split(", ")[1] for curve in drawn] == ["theorem4", "sharp"]
    assert all(curve.jumps and curve.clean_accuracy > 0.9 for curve in drawn)
    code, _, err = run(capsys, "plot", "certified", *where, "--bound", "theorem5", "--out", tmp_path / "b.png")
    assert code == 2
    assert "was certified by theorem4, sharp, not by theorem5" in err
    nowhere = ("--triplet", "Demo2026Lipschitz", "--dataset", "digits", "--results", tmp_path / "none")
    code, _, err = run(capsys, "plot", "certified", *nowhere, "--out", tmp_path / "b.png")
    assert code == 2
    assert "run asz certify" in err
