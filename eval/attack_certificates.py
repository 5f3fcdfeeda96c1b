"""Attack a triplet inside its own certificates: nothing may break.

python eval/attack_certificates.py Demo2026Lipschitz --dataset digits

Every certified example is attacked in l_2 from the label that is certified, right or wrong: by PGD with its own radius,
the largest that any bound gives it, and by AutoAttack with the largest radius of a grid that it has.

A mix with a Lipschitz h is attacked as it is. The certificates of a mix with a smoothed h are about h's exact mean over
all noise, which nobody can evaluate. Attacked are the model as it is, with its bank of noises, and, by PGD, a mix with
a larger bank of others. A label may change there, where the bank decides; a certificate is broken only if the mix with
exact h changes its label, which is judged by a mean over 10,000 noises that no attack has seen. What PGD ends at is
judged whether the label changed or not.

The counts are written next to the certificates, as ``<NAME>.attacked.json``; the exit code is 1 if a certificate broke.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.attacks.losses import cross_entropy, cw_margin, probability_margin
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.attacks.verify import predict
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.certification import Certificates, read_log
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.publishing.certification_record import certification_path, read_certification
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.provenance import installed_versions, source_commit
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.zoo.loading import load_model

RADII = (0.001, 0.01, 0.03, 0.06, 0.1, 0.25, 0.5)  # of AutoAttack, which has one for all of its examples
LARGER_BANK, JUDGES = 256, 10_000  # noises
INSIDE = 1.0 - 1e-6  # float32 points of a ball of this share of a radius are inside the radius


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """What an attack came to.

    Attributes:
        classifier: what was attacked.
        attack: with which settings.
        examples: how many, all of them certified.
        changed: of how many the attacked classifier changed its label.
        broken: of how many the certified classifier, as the judge stands for it, did.
    """

    classifier: str
    attack: str
    examples: int
    changed: int
    broken: int


@dataclass(frozen=True, kw_only=True)
class Target:
    """A classifier under attack, and how hard PGD tries."""

    name: str
    model: MixedClassifier
    steps: int
    restarts: int


@click.command()
@click.argument("name")
@click.option("--dataset", required=True)
@click.option("--threat-model", default="L2", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("eval/results"), show_default=True)
@click.option("--radius", "radii", type=float, multiple=True, help="for AutoAttack; from 0.001 to 0.5")
@click.option("--data-dir", default=None)
@click.option("--seed", type=int, default=0, show_default=True)
def main(
    name: str,
    dataset: str,
    threat_model: str,
    results: Path,
    radii: tuple[float, ...],
    data_dir: str | None,
    seed: int,
) -> None:
    model = load_model(name, dataset=dataset, threat_model=threat_model)
    record = read_certification(results, model.entry)
    if record is None:
        raise click.ClickException(f"there are no certificates of {model.entry.key} in {results}")
    folder = certification_path(results, model.entry, "x").parent
    certificates = largest([read_log(folder / bound.log) for bound in record.bounds.values()])
    chosen = np.flatnonzero(certificates.radius > 0)
    images = load_data(dataset, data_dir=data_dir).images[certificates.index[chosen].tolist()]
    labels, reach = torch.from_numpy(certificates.prediction[chosen]), certificates.radius[chosen]
    found = []
    for attacked in attacks(model, images, labels, reach, radii or RADII, seed):
        click.echo(attacked)
        found.append(attacked)
    about = {
        "model": name,
        "dataset": dataset,
        "threat_model": threat_model,
        "identity": to_json(record.identity),
        "certified": len(chosen),
        "judge": judge_of(model)[0],
        "seed": seed,
        "attacks": [asdict(attacked) for attacked in found],
        "versions": installed_versions(),
        "commit": source_commit(),
    }
    path = certification_path(results, model.entry, "attacked.json")
    write_text(path, json.dumps(about, indent=2) + "\n")
    click.echo(f"wrote {path}")
    if any(attacked.broken for attacked in found):
        raise click.ClickException("certificates do not hold")


def largest(logs: list[Certificates]) -> Certificates:
    """Each example's certificate of largest radius."""
    best = np.argmax([log.radius for log in logs], axis=0)
    rows = zip(best, range(len(best)), strict=True)
    chosen = [(logs[i].index[k], logs[i].label[k], logs[i].prediction[k], logs[i].radius[k]) for i, k in rows]
    index, label, prediction, radius = (np.array(column) for column in zip(*chosen, strict=True))
    return Certificates(
        index=index,
        label=label,
        prediction=prediction,
        radius=radius,
        correct=prediction == label,
        seconds=np.full(len(best), np.nan),
    )


def targets_of(model: MixedClassifier) -> list[Target]:
    """What is attacked."""
    whole = Target(name="the model", model=model, steps=100, restarts=3)
    if not isinstance(model.rob_model, GaussianSmoothed):
        return [whole]
    larger = Target(name=f"{LARGER_BANK} other noises", model=with_bank(model, LARGER_BANK, 1), steps=40, restarts=1)
    return [whole, larger]


def judge_of(model: MixedClassifier) -> tuple[str, MixedClassifier]:
    """What stands for the classifier that is certified."""
    if not isinstance(model.rob_model, GaussianSmoothed):
        return "the model", model
    return f"mean over {JUDGES:,} noises that no attack has seen", with_bank(model, JUDGES, 2)


def with_bank(model: MixedClassifier, num_noises: int, seed: int) -> MixedClassifier:
    """The same mix whose smoothed h averages over other noises."""
    h = model.rob_model
    assert isinstance(h, GaussianSmoothed)
    other = GaussianSmoothed(
        h.voter, sigma=h.sigma, image_shape=h.noise.shape[1:], num_noises=num_noises, seed=1000 + seed, votes=h.votes
    )
    return MixedClassifier(model.std_model, other, model.alpha, std_map=model.std_map, rob_map=model.rob_map).eval()


def attacks(
    model: MixedClassifier, images: Tensor, labels: Tensor, reach: np.ndarray, radii: tuple[float, ...], seed: int
) -> Iterator[Attacked]:
    """Attack certified examples inside their radii ``reach``, (N,)."""
    _, judge = judge_of(model)

    def count(target: Target, attack: str, points: Tensor, wanted: Tensor, changed: Tensor, judged: Tensor) -> Attacked:
        broken = torch.zeros(0)
        if judged.any():
            broken = predict(judge, points[judged], 64, torch.device("cpu")) != wanted[judged]
        return Attacked(
            classifier=target.name,
            attack=attack,
            examples=len(wanted),
            changed=int(changed.sum()),
            broken=int(broken.sum()),
        )

    for target in targets_of(model):
        points = pgd_points(target, images, labels, torch.from_numpy(reach), seed)
        changed = predict(target.model, points, 64, torch.device("cpu")) != labels
        attack = f"PGD, {target.steps} steps, {target.restarts} starts, two losses, each example with its radius"
        yield count(target, attack, points, labels, changed, torch.ones_like(changed))
    steps = np.append(np.sort(radii), np.inf)
    for radius, next_radius in zip(steps[:-1].tolist(), steps[1:].tolist(), strict=True):
        held = torch.from_numpy((reach >= radius) & (reach < next_radius))
        if held.any():
            whole = targets_of(model)[0]
            found = evaluate(model, images[held], labels[held], norm="L2", eps=radius, seed=seed)
            changed = torch.from_numpy(~found.robust)
            points = torch.from_numpy(np.asarray(found.adversarials))
            yield count(whole, f"AutoAttack standard, radius {radius:g}", points, labels[held], changed, changed)


def pgd_points(target: Target, images: Tensor, labels: Tensor, reach: Tensor, seed: int) -> Tensor:
    """The point of largest margin of probabilities that PGD finds for each example, by either of two losses."""
    eps = (reach * INSIDE).float()
    runs = [
        pgd(
            target.model,
            images,
            labels,
            eps=eps,
            step_size=eps * 2.5 / target.steps,
            steps=target.steps,
            norm="L2",
            random_start=True,
            restarts=target.restarts,
            loss=loss,
            keep="best",
            seed=seed,
        )
        for loss in (cross_entropy, cw_margin)
    ]
    with torch.no_grad():
        margins = torch.stack([probability_margin(target.model(points), labels) for points in runs])
    return torch.stack(runs)[margins.argmax(dim=0), torch.arange(len(labels))]


if __name__ == "__main__":
    main()
