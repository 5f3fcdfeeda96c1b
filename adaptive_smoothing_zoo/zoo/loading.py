"""``load_model``: from a name to a module with weights."""

from importlib import resources
from pathlib import Path

import torch

from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo.entry import Entry
from adaptive_smoothing_zoo.zoo.registry import find_entry
from adaptive_smoothing_zoo.zoo.triplet import CONFIG_FILE, Triplet, load_triplet
from adaptive_smoothing_zoo.zoo.weights import read_safetensors

EMBEDDED = Path(str(resources.files("adaptive_smoothing_zoo"))) / "pretrained"


def load_model(
    model_name: str,
    model_dir: str | Path | None = None,
    dataset: str = "cifar10",
    threat_model: str = "Linf",
    custom_checkpoint: str | Path = "",
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
) -> Triplet:
    """Load a triplet of the zoo. The arguments are RobustBench's, in RobustBench's order.

    Args:
        model_name: a name that ``list_models()`` knows.
        model_dir: a folder that ``save_pretrained`` wrote, itself or below it as ``<name>-<dataset>-<threat model>``;
            its weights are used if it is there. A folder without one is no error: in RobustBench it is a cache.
        dataset, threat_model: plain strings or RobustBench's enumerations.
        custom_checkpoint: a safetensors file with the triplet's whole state dict, used instead of the published one.
        revision: branch, tag or commit of the Hub repository, instead of the one that the entry pins.
        device: where to put the module; the CPU if None.

    Returns:
        The triplet in eval mode, the gradients of its weights off. Images in [0, 1] to log-probabilities.

    Raises:
        UnknownModelError: the zoo has no such triplet; the message lists what exists.
        WeightsError: the weights are not to be found, damaged, or do not fit.
    """
    entry = find_entry(model_name, _plain(dataset), _plain(threat_model))
    if custom_checkpoint:
        return load_triplet(entry.self_contained(), read_safetensors(Path(custom_checkpoint)), device)
    if model_dir is not None and (folder := local_folder(Path(model_dir), entry)) is not None:
        triplet = Triplet.from_pretrained(folder, device=device)
        if triplet.entry.key != entry.key:
            raise WeightsError(f"{folder} holds {triplet.entry.key}, not {entry.key}")
        return triplet
    weights = entry.weights
    if revision is not None and weights.hub_repo is None:
        raise WeightsError(f"the weights of {entry.key} come from no Hub repository, so there is no revision of them")
    if weights.embedded is not None:
        return load_triplet(entry, read_safetensors(EMBEDDED / weights.embedded, weights.sha256), device)
    if weights.hub_repo is not None:
        return Triplet.from_pretrained(weights.hub_repo, revision=revision or weights.revision, device=device)
    raise WeightsError(
        f"the weights of {entry.key} are not published in a form this version can load; give a folder that "
        "save_pretrained wrote as model_dir, or a safetensors file as custom_checkpoint"
    )


def _plain(value: str) -> str:
    """RobustBench passes enumerations whose value is the string."""
    return str(getattr(value, "value", value))


def local_folder(model_dir: Path, entry: Entry) -> Path | None:
    """The folder at or below ``model_dir`` that ``save_pretrained`` wrote for ``entry``, if there is one."""
    return next((folder for folder in (model_dir / entry.key, model_dir) if (folder / CONFIG_FILE).is_file()), None)
