"""Attack a triplet inside its own certificates: nothing may break.

python eval/attack_certificates.py Demo2026Lipschitz --dataset digits --threat-model L2 --results eval/results

Every certified example is attacked by PGD in l_2 with its own radius, and by AutoAttack with each radius of the grid
that it has; both start from the label that is certified, right or wrong. The counts are written beside the
certificates, as ``<NAME>.attacked.json``.
"""

import json
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.objectives import cross_entropy, cw_margin
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.certification import Certificates, read_log
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.files import write_text
from adaptive_smoothing_zoo.publishing.certification import certification_path, read_certification
from adaptive_smoothing_zoo.publishing.results import installed_versions, source_commit
from adaptive_smoothing_zoo.zoo.loading import load_model


@click.command()
@click.argument("name")
@click.option("--dataset", required=True)
@click.option("--threat-model", default="L2", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("eval/results"), show_default=True)
@click.option("--radius", "radii", type=float, multiple=True, help="for AutoAttack; 0.1, 0.25 and 0.5 if not given")
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
    examples, found = load_data(dataset, data_dir=data_dir), {}
    for bound, of in record.bounds.items():
        log = read_log(certification_path(results, model.entry, "x").with_name(of.log))
        found[bound] = attack(model, examples.images[log.index.tolist()], log, radii or (0.1, 0.25, 0.5), seed)
        click.echo(f"{bound}: {found[bound]}")
    about = {
        "model": name,
        "dataset": dataset,
        "threat_model": threat_model,
        "weights_sha256": record.weights_sha256,
        "seed": seed,
        "bounds": found,
        "versions": installed_versions(),
        "commit": source_commit(),
    }
    path = certification_path(results, model.entry, "attacked.json")
    write_text(path, json.dumps(about, indent=2) + "\n")
    click.echo(f"wrote {path}")
    broken = sum(attacked["broken"] for attacks in found.values() for attacked in attacks.values())
    if broken:
        raise click.ClickException(f"{broken} certificates do not hold")


def attack(
    model: nn.Module, images: Tensor, certificates: Certificates, radii: tuple[float, ...], seed: int
) -> dict[str, dict[str, int]]:
    """How many certified examples were attacked inside their radius, and how many labels changed, by attack."""
    certified = certificates.radius > 0
    counts = {"PGD, each with its radius": certified}
    broken = {"PGD, each with its radius": pgd_breaks(model, images, certificates, certified, seed)}
    for radius in radii:
        reach = certificates.radius >= radius
        if reach.any():
            labels = torch.tensor(certificates.prediction[reach])
            held = evaluate(
                model, images[torch.tensor(reach)], labels, norm="L2", eps=radius, seed=seed, engine="fast"
            ).robust
            counts[f"AutoAttack, {radius:g}"], broken[f"AutoAttack, {radius:g}"] = reach, int((~held).sum())
    return {name: {"attacked": int(counts[name].sum()), "broken": broken[name]} for name in counts}


def pgd_breaks(model: nn.Module, images: Tensor, certificates: Certificates, chosen: np.ndarray, seed: int) -> int:
    """How many of the chosen examples PGD moves to another label within their radius, by either of two losses."""
    images, labels = images[torch.from_numpy(chosen)], torch.from_numpy(certificates.prediction[chosen])
    eps = torch.from_numpy(certificates.radius[chosen]).float()
    broken = torch.zeros(len(labels), dtype=torch.bool)
    for loss in (cross_entropy, cw_margin):
        points = pgd(
            model,
            images,
            labels,
            eps=eps,
            step_size=eps / 10,
            steps=100,
            norm="L2",
            random_start=True,
            restarts=3,
            loss=loss,
            keep="best",
            seed=seed,
        )
        with torch.no_grad():
            broken |= model(points).argmax(1) != labels
    return int(broken.sum())


if __name__ == "__main__":
    main()
