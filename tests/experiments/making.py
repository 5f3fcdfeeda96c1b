"""Benches and tables for tests of experiments."""

import copy
from dataclasses import replace

import torch

from adaptive_smoothing_zoo import ThreatModel, load_model
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.experiments.bench import Bench, Pgd, Table
from adaptive_smoothing_zoo.experiments.experiment import Row
from adaptive_smoothing_zoo.storage.identity import Identity

MODEL = load_model("Demo2026Adaptive", dataset="digits")
EXAMPLES = load_data("digits").first(12)
CPU = torch.device("cpu")
ABOUT = {
    "dataset": "digits",
    "n": 100,
    "data": "nothing",
    "data_sha256": "0",
    "device": "none",
    "versions": {},
    "commit": None,
}
OF_THE_TRIPLET = {
    **ABOUT,
    "model": "Demo2026Adaptive",
    "threat_model": "Linf",
    "eps": "1/5",
    "steps": 5,
    "seed": 0,
    "identity": Identity(sha256="0"),
}


def settings(**changes):
    """What every bench of the triplet takes."""
    common = {"model": MODEL, "examples": EXAMPLES, "threat": ThreatModel("Linf", 0.2), "pgd": Pgd(5), "device": CPU}
    return {**common, "batch_size": 5, **changes}


def a_bench(**changes):
    return Bench(**settings(**changes))


def a_table(experiment, *rows, kind=Table, about=OF_THE_TRIPLET, **more):
    rows = tuple(Row(case=case, values=values) for case, values in rows)
    return kind(experiment=experiment, rows=rows, **{**about, **more})


def measuring(experiment, measure):
    """The experiment with another function in the place of its measure."""
    changed = copy.copy(experiment)
    changed.measure = measure
    return changed


def begun(experiment, bench, out, rows):
    """Run an experiment and stop it after some rows."""
    running = experiment.run(bench, out)
    for _ in range(rows):
        next(running)
    running.close()


def of_images(examples, images, labels=None):
    """Examples with other images."""
    return replace(examples, images=images, labels=examples.labels[: len(images)] if labels is None else labels)
