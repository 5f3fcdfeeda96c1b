"""``asz check-adversarials``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from adaptive_smoothing_zoo.cli.options import DATA_DIR, DEVICE, RESULTS_OPTION, ModelChoice, example, model_options


@click.command(
    "check-adversarials",
    epilog=example(
        "asz eval Demo2026Constant --dataset digits --save-adversarials adv.npz",
        "asz check-adversarials adv.npz Demo2026Constant --dataset digits",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@model_options()
@DEVICE
@DATA_DIR
@RESULTS_OPTION
def check_adversarials_command(
    file: Path, choice: ModelChoice, device: str, data_dir: str | None, results: Path
) -> None:
    """Classify the adversarial images in FILE with MODEL, which asz eval --save-adversarials wrote.

    The images must obey the threat model in the file. Exit code 1 if the accuracy differs from the recorded one.
    """
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.evaluation.judging import judge_adversarials
    from adaptive_smoothing_zoo.publishing.adversarial_file import read_adversarials
    from adaptive_smoothing_zoo.storage.identity import identity_of

    saved, chosen = read_adversarials(file), pick_device(device)
    entry = choice.entry(results, None if saved.threat is None else str(saved.threat.eps), data_dir)
    named = choice.load(entry, chosen)
    model, threat = named.net, saved.threat or entry.threat
    examples = load_data(entry.dataset, data_dir=data_dir, n=len(saved.images), preprocessing=entry.preprocessing)
    if saved.labels is not None and not saved.labels.equal(examples.labels):
        raise ValueError(f"the labels in {file} differ from those of {examples.source}; set --data-dir")
    robust = judge_adversarials(model, examples, saved.images, threat, batch_size=saved.batch_size, device=chosen)
    count, n = int(robust.sum()), len(robust)
    click.echo(f"{named.entry.key}: {count} of {n} are classified correctly, {100 * count / n:.2f} %, within {threat}")
    if saved.robust_accuracy is None:
        click.echo("the file has no recorded accuracy")
    elif not saved.is_of(identity_of(model, examples.images.shape[1:])):
        click.echo(
            f"the images were made for another model, with accuracy {100 * saved.robust_accuracy:.2f} %", err=True
        )
        sys.exit(1)
    elif count != round(n * saved.robust_accuracy):
        click.echo(f"the recorded accuracy is {100 * saved.robust_accuracy:.2f} %", err=True)
        sys.exit(1)
    else:
        click.echo("as recorded")
