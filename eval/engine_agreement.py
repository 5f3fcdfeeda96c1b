"""Do the fast engine and the reference agree by no less than the reference does with itself, seeded anew?

    python eval/engine_agreement.py Demo2026Adaptive --dataset digits --runs runs/engine_agreement

Evaluates a triplet with both engines and several seeds, and writes ``engine_agreement.json`` and ``.md`` beside its
results: the robust accuracy of every run, and on how many examples the verdicts of two runs differ. Every finished run
is kept in RUNS and an unfinished one keeps its state there, so that the same command goes on after an interruption.

If the engines were the same, any five of the ten runs could have been the reference's. So the differences that are
found are compared with those of all ways to call five runs the reference's (a permutation test: a p-value near 0
would refute that the engines agree).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import click
import numpy as np

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.data import Examples, load_data
from adaptive_smoothing_zoo.evaluation import evaluate, pick_device
from adaptive_smoothing_zoo.publishing.record import results_path
from adaptive_smoothing_zoo.storage.bound_state import remove_state
from adaptive_smoothing_zoo.storage.files import write_text, write_with
from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions, tensors_sha256
from adaptive_smoothing_zoo.zoo.triplet import Triplet

ENGINES = ("reference", "fast")


@dataclass(frozen=True)
class EngineRun:
    """One evaluation: the engine's name with its version, the verdicts (N,), accuracies after each attack, seconds."""

    engine: str
    seed: int
    robust: np.ndarray
    accuracy_after: dict[str, float]
    seconds: float

    @property
    def accuracy(self) -> float:
        return float(self.robust.mean())


def run_path(folder: Path, engine: str, seed: int) -> Path:
    return folder / f"{engine}-{seed}.npz"


def make_run(
    path: Path, model: Triplet, examples: Examples, engine: str, seed: int, device: str, identity: dict[str, object]
) -> None:
    """Evaluate and keep the outcome."""
    entry, state = model.entry, path.with_suffix(".state")
    evaluation = evaluate(
        model,
        examples.images,
        examples.labels,
        norm=entry.threat_model,
        eps=entry.eps_value,
        seed=seed,
        device=device,
        engine=engine,
        state=state,
    )
    about = {
        "identity": identity,
        "engine": evaluation.engine,
        "seconds": sum(evaluation.seconds.values()),
        "accuracy_after": evaluation.accuracy_after,
    }
    robust, text = evaluation.robust, np.array(json.dumps(about))
    write_with(path, lambda temporary: np.savez_compressed(temporary, robust=robust, about=text))
    remove_state(state)


def read_run(path: Path, seed: int, identity: dict[str, object]) -> EngineRun:
    with np.load(path, allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        robust = arrays["robust"]
    if about["identity"] != identity:
        raise click.ClickException(f"{path} is a run of {about['identity']}, not of {identity}; move it away")
    return EngineRun(about["engine"], seed, robust, about["accuracy_after"], about["seconds"])


def differing(a: EngineRun, b: EngineRun) -> int:
    return int((a.robust != b.robust).sum())


def counts(first: list[EngineRun], second: list[EngineRun] | None = None) -> dict[str, float]:
    """On how many examples two runs differ: of one group, or one run of each of two."""
    pairs = combinations(first, 2) if second is None else ((a, b) for a in first for b in second)
    found = [differing(a, b) for a, b in pairs]
    return {"least": min(found), "mean": round(float(np.mean(found)), 2), "most": max(found)}


def permutation_test(runs: dict[str, list[EngineRun]]) -> dict[str, float]:
    """Of all ways to split the runs in two like this, the share with differences at least as large.

    By the difference of mean accuracies, and by how many more examples differ between the halves than within them.
    """
    everything = [run for name in ENGINES for run in runs[name]]
    accuracy = np.array([run.accuracy for run in everything])
    table = np.array([[differing(a, b) for b in everything] for a in everything])
    half, n = len(runs[ENGINES[0]]), len(everything)

    def measures(chosen: tuple[int, ...]) -> tuple[float, float]:
        first = np.zeros(n, dtype=bool)
        first[list(chosen)] = True
        between = table[first][:, ~first].mean()
        pairs = half * (half - 1) + (n - half) * (n - half - 1)
        within = (table[first][:, first].sum() + table[~first][:, ~first].sum()) / pairs
        return abs(float(accuracy[first].mean() - accuracy[~first].mean())), float(between - within)

    found = measures(tuple(range(half)))
    others = [measures(chosen) for chosen in combinations(range(n), half)]
    slack = 1e-9  # equal but for rounding counts as equal
    return {
        name: round(float(np.mean([other[i] >= found[i] - slack for other in others])), 3)
        for i, name in enumerate(("accuracy", "verdicts"))
    }


def summary(runs: dict[str, list[EngineRun]], identity: dict[str, object], device: str) -> dict[str, object]:
    between = counts(runs["reference"], runs["fast"])
    return {
        **identity,
        "device": device_name(device),
        "versions": installed_versions(),
        "engines": {
            name: {
                "engine": group[0].engine,
                "robust_accuracy": {run.seed: run.accuracy for run in group},
                "accuracy_after": {run.seed: run.accuracy_after for run in group},
                "mean": float(np.mean([run.accuracy for run in group])),
                "spread": max(run.accuracy for run in group) - min(run.accuracy for run in group),
                "seconds": {run.seed: round(run.seconds, 1) for run in group},
            }
            for name, group in runs.items()
        },
        "differing_verdicts": {**{name: counts(group) for name, group in runs.items()}, "between": between},
        "permutation_p": permutation_test(runs),
    }


def table(runs: dict[str, list[EngineRun]], name: str, p: dict[str, float], device: str) -> str:
    n = len(runs["fast"][0].robust)
    seeds = [run.seed for run in runs["fast"]]
    lines = [
        f"# Fast engine and reference on {name}",
        "",
        f"Robust accuracy of {n} examples, %, by seed ({device_name(device)}). One example is {100 / n:.2f} points.",
        "",
        "| engine | " + " | ".join(map(str, seeds)) + " | mean | spread |",
        "| --- " * (len(seeds) + 3) + "|",
    ]
    for group in runs.values():
        accuracies = [100 * run.accuracy for run in group]
        row = [group[0].engine, *(f"{value:.2f}" for value in accuracies)]
        row += [f"{np.mean(accuracies):.2f}", f"{max(accuracies) - min(accuracies):.2f}"]
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", f"Examples, of {n}, on which the verdicts of two runs differ:", ""]
    lines += ["| pairs of runs | least | mean | most |", "| --- | --- | --- | --- |"]
    for what, found in (
        ("reference, other seed", counts(runs["reference"])),
        ("fast, other seed", counts(runs["fast"])),
        ("reference and fast", counts(runs["reference"], runs["fast"])),
    ):
        lines.append(f"| {what} | {found['least']} | {found['mean']:.1f} | {found['most']} |")
    lines += [
        "",
        "Among all ways to divide these runs into two such groups, the share with mean accuracies at least as far "
        f"apart as those of the engines is {p['accuracy']:.2f}; with at least as many more differing verdicts between "
        f"the groups than within them, {p['verdicts']:.2f}.",
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.argument("name")
@click.option("--dataset", default="digits", show_default=True)
@click.option("--threat-model", default="Linf", show_default=True)
@click.option("--n", type=int, default=None, help="Take the first N test examples; all if not given.")
@click.option("--seeds", type=int, default=5, show_default=True, help="How many, from 0.")
@click.option("--device", default="auto", show_default=True)
@click.option("--data-dir", default=None)
@click.option("--runs", "folder", type=click.Path(path_type=Path), required=True, help="Where runs are kept.")
@click.option("--at-most", type=int, default=None, help="Make no more runs than this now.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("eval/results"), show_default=True)
def main(
    name: str,
    dataset: str,
    threat_model: str,
    n: int | None,
    seeds: int,
    device: str,
    data_dir: str | None,
    folder: Path,
    at_most: int | None,
    out: Path,
) -> None:
    chosen = str(pick_device(device))
    model = load_model(name, dataset=dataset, threat_model=threat_model, device=chosen)
    examples = load_data(dataset, data_dir=data_dir).first(n)
    identity: dict[str, object] = {
        "model": model.entry.key,
        "eps": model.entry.eps,
        "n": len(examples),
        "data_sha256": tensors_sha256({"images": examples.images, "labels": examples.labels}),
        "weights_sha256": tensors_sha256(model.state_dict()),
    }
    wanted = [(engine, seed) for seed in range(seeds) for engine in ENGINES]
    missing = [run for run in wanted if not run_path(folder, *run).exists()]
    for engine, seed in missing[:at_most]:
        make_run(run_path(folder, engine, seed), model, examples, engine, seed, chosen, identity)
        run = read_run(run_path(folder, engine, seed), seed, identity)
        click.echo(f"{run.engine}, seed {seed}: {100 * run.accuracy:.2f} % in {run.seconds:.0f} s")
    if at_most is not None and len(missing) > at_most:
        click.echo(f"{len(missing) - at_most} runs are missing")
        return
    runs = {
        engine: [read_run(run_path(folder, engine, seed), seed, identity) for seed in range(seeds)]
        for engine in ENGINES
    }
    found = summary(runs, identity, chosen)
    path = results_path(out, model.entry).with_name("engine_agreement.json")
    write_text(path, json.dumps(found, indent=2) + "\n")
    text = table(runs, model.entry.key, permutation_test(runs), chosen)
    write_text(path.with_suffix(".md"), text)
    click.echo(text)


if __name__ == "__main__":
    main()
