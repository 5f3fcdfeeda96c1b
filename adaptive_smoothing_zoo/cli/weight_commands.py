"""``asz verify``, ``convert`` and ``check-entry``."""

from __future__ import annotations

from pathlib import Path

import click

from adaptive_smoothing_zoo.cli.model_dir import check_model_dir
from adaptive_smoothing_zoo.cli.options import RESULTS, dataset_option, example, examples_option
from adaptive_smoothing_zoo.errors import WeightsError


@click.command("verify", epilog=example("asz verify Bai2023Improving_edm --dataset cifar10 --data-dir data"))
@click.argument("name")
@dataset_option()
@examples_option(1000)
@click.option("--batch-size", type=int, default=100, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option("--model-dir", default=None, help="a folder with the weights; default where load_model finds them")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--update-entry", is_flag=True, help="write hashes and verdict into the package's entry")
def verify_command(
    name: str,
    dataset: str,
    threat_model: str,
    n: int,
    batch_size: int,
    device: str,
    data_dir: str | None,
    model_dir: str | None,
    out: Path,
    update_entry: bool,
) -> None:
    """Compare the clean accuracy of a triplet's weights with the published one, and record their hashes."""
    from adaptive_smoothing_zoo.cli.progress import open_bar
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.publishing import verification
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import ENTRIES, find_entry

    chosen = pick_device(device)
    entry = find_entry(name, dataset, threat_model)
    check_model_dir(model_dir, entry)
    examples = load_data(entry.dataset, data_dir=data_dir, n=n or None, preprocessing=entry.preprocessing)
    model = load_model(name, model_dir, dataset, threat_model, device=chosen)
    files = verification.original_files(model.entry, Path(model_dir) if model_dir else None)
    with open_bar(total=len(examples), unit="image") as bar:
        found = verification.verify(
            model, examples, batch_size=batch_size, device=chosen, components=files, on_progress=bar.update
        )
    low, high = found.interval
    click.echo(
        f"{entry.key}: clean accuracy {100 * found.clean_accuracy:.2f} % on {found.n} examples "
        f"(95 % interval {100 * low:.2f} to {100 * high:.2f} %)"
    )
    if found.published is not None:
        verdict = "agrees" if found.agrees else "does NOT agree"
        click.echo(f"published: {100 * found.published:.2f} %, which {verdict}")
    for part, source in files.items():
        click.echo(f"{part}: SHA-256 {source.sha256}")
    click.echo(f"wrote {found.write(out, entry)}")
    if update_entry:
        click.echo(f"wrote {verification.write_entry(ENTRIES, verification.verified_entry(entry, found))}")
    if found.agrees is False:
        raise WeightsError(f"the weights of {entry.key} do not have the published clean accuracy")


@click.command("convert", epilog=example("asz convert Bai2024MixedNUTS out/ --std-model std.pt --rob-model rob.pt"))
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@dataset_option()
@click.option("--std-model", "std_model", type=click.Path(path_type=Path), required=True, help="checkpoint of g")
@click.option("--rob-model", "rob_model", type=click.Path(path_type=Path), required=True, help="checkpoint of h")
@click.option("--mixing-network", "alpha", type=click.Path(path_type=Path), help="checkpoint of the mixing network")
@click.option("--shard-size", default=None, help="of one weights file at most, as 1GB; one file if not given")
def convert_command(
    name: str,
    folder: Path,
    dataset: str,
    threat_model: str,
    std_model: Path,
    rob_model: Path,
    alpha: Path | None,
    shard_size: str | None,
) -> None:
    """Convert original checkpoints of a triplet's parts to FOLDER, which load_model accepts as model_dir.

    The files may be PyTorch's (old or new), safetensors or BiT's .npz; weights may be under 'model', 'state_dict' or
    'model_state_dict' and their names start with 'module.', 'module.0.', '_orig_mod.', 'model.' or 'backbone.'.
    """
    from adaptive_smoothing_zoo.zoo.components import convert_triplet
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    entry = find_entry(name, dataset, threat_model)
    files = {"std_model": std_model, "rob_model": rob_model} | ({} if alpha is None else {"alpha": alpha})
    convert_triplet(entry, files).save_pretrained(folder, shard_size)
    click.echo(f"wrote {folder}")


@click.command("embed", epilog=example("asz embed runs/digits_adaptive"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--limit", "limits", multiple=True, help="a further limit for the entry; repeatable")
def embed_command(folder: Path, limits: tuple[str, ...]) -> None:
    """Write the triplet in FOLDER into the package (for maintainers): its entry and missing weights.

    A base net that is already in the package is referenced, not stored again.
    """
    from adaptive_smoothing_zoo.zoo import embedding

    entry = embedding.embed(folder, limits)
    click.echo(f"embedded {entry.key}: {entry.weights.embedded or 'its base nets are there'}")


@click.command("check-entry", epilog=example("asz check-entry entry.json", "asz check-entry --schema > schema.json"))
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--schema", is_flag=True, help="print the JSON schema of entries instead")
def check_entry_command(file: Path | None, schema: bool) -> None:
    """List what is missing or wrong in FILE, the entry of a triplet; exit code 1 if anything is.

    Checks its fields, that its nets can be built, and that the hashes of its weights are pinned. Nothing is downloaded.
    """
    from adaptive_smoothing_zoo.zoo.entry_check import problems_of, schema_text

    if schema:
        click.echo(schema_text(), nl=False)
        return
    if file is None:
        raise click.UsageError("give the FILE of an entry, or --schema")
    for problem in (problems := problems_of(file)):
        click.echo(problem)
    if problems:
        raise SystemExit(1)
    click.echo(f"{file} is complete")
