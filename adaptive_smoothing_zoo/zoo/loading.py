"""``load_model``: from a name to a module with weights, wherever the weights are."""

import difflib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

from adaptive_smoothing_zoo.errors import ConfigError, WeightsError
from adaptive_smoothing_zoo.machine.devices import known_device
from adaptive_smoothing_zoo.method.half_precision import known_dtype
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.zoo.checkpoints import read_triplet_state
from adaptive_smoothing_zoo.zoo.components import are_pinned, load_components, robustbench_file
from adaptive_smoothing_zoo.zoo.entry import Entry
from adaptive_smoothing_zoo.zoo.hub_files import HubOptions, NotOnHubError
from adaptive_smoothing_zoo.zoo.place import CONFIG_FILE, place_of
from adaptive_smoothing_zoo.zoo.registry import entries_named, find_entry, list_models
from adaptive_smoothing_zoo.zoo.triplet import Triplet, load_triplet, meta_triplet
from adaptive_smoothing_zoo.zoo.weights import EMBEDDED, read_safetensors

logger = logging.getLogger(__name__)


@own_surroundings()
def load_model(
    model_name: str | Path,
    model_dir: str | Path | None = None,
    dataset: str = "cifar10",
    threat_model: str = "Linf",
    custom_checkpoint: str | Path = "",
    *,
    hub_repo: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Triplet:
    """Load a triplet. The first arguments are RobustBench's, in RobustBench's order.

    Weights are looked for in ``custom_checkpoint``; in ``model_dir``; in the package; in a Hub repository
    (``hub_repo``, the entry's own, or the one of the organization named by the environment variable ``ASZ_HUB_ORG``);
    and in the original checkpoints of the triplet's authors, which are downloaded, checked, converted and cached
    once. Caches, endpoint, tokens and offline mode are those of the Hugging Face client (``HF_HOME``, ``HF_ENDPOINT``,
    ``HF_TOKEN``, ``HF_HUB_OFFLINE``).

    Args:
        model_name: a name or an alias that ``list_models()`` knows; or any triplet in our format, as "hf-hub:org/name",
            "hf-hub:org/name@revision", "local-dir:folder" or the path of a folder. For such a triplet ``dataset`` and
            ``threat_model`` are ignored: its own ``config.json`` names them.
        model_dir: a folder that ``save_pretrained`` wrote, or that has one called ``<name>-<dataset>-<threat model>``;
            or RobustBench's cache folder with files ``<dataset>/<threat model>/<name>.pt_m0.pt`` and so on. A folder
            without such files is no error, since RobustBench would fill it; the weights then come from elsewhere. A
            missing folder is logged, and refused if its name looks like a slip.
        dataset, threat_model: plain strings or RobustBench's enumerations.
        custom_checkpoint: a safetensors or PyTorch file with the triplet's whole state dict.
        hub_repo: a Hub repository in our format ("org/name"); only ``custom_checkpoint`` and ``model_dir`` take
            precedence over it.
        revision: branch, tag or commit of the Hub repository, instead of the one that the entry pins.
        token: for the Hub, instead of the stored one.
        device: where to put the module, straight from the file; the CPU if None.
        dtype: torch.bfloat16 or torch.float16, or their names, for inference. Evaluation accepts only float32, the
            default.
        cache_dir: of the Hub's client, instead of its default.
        local_files_only: use only files that are in caches; make no request.

    Returns:
        The triplet in eval mode, its weights frozen: images (N, channels, H, W) in [0, 1] to log-probabilities (N, C).

    Raises:
        UnknownModelError: the zoo has no such triplet; the message lists what exists.
        ConfigError: ``model_dir`` is the name of a data set or a threat model, a file, or nearly the name of a folder
            with the weights; or it is given for a triplet that is named by its place.
        WeightsError: the weights cannot be found, are damaged, or do not fit.
        ValueError: the machine has no such device, or inference does not support the dtype.
    """
    model_name = str(model_name) if isinstance(model_name, Path) else model_name
    device = None if device is None else known_device(device)
    dtype = None if dtype is None else known_dtype(dtype)
    dataset, threat_model = _plain(dataset), _plain(threat_model)
    options = HubOptions(cache_dir=cache_dir, token=token, local_files_only=local_files_only)

    def pretrained(folder_or_repo: str | Path, revision: str | None = None) -> Triplet:
        return Triplet.from_pretrained(folder_or_repo, revision=revision, device=device, dtype=dtype, **vars(options))

    listed = entries_named(model_name)
    if not listed and place_of(model_name) is not None:
        if model_dir or custom_checkpoint or hub_repo:
            raise ConfigError(
                f"{model_name} says where the weights are; omit model_dir (--model-dir), custom_checkpoint "
                "(--checkpoint) and hub_repo"
            )
        return pretrained(model_name, revision)
    if model_dir is not None:
        wanted = [entry for entry in listed if (entry.dataset, entry.threat_model) == (dataset, threat_model)]
        _check_model_dir(model_dir, model_name, wanted)
    if hub_repo is not None and not listed:
        return _of_that_name(model_name, pretrained(hub_repo, revision=revision), hub_repo)
    entry = find_entry(model_name, dataset, threat_model)
    if custom_checkpoint:
        state = read_triplet_state(Path(custom_checkpoint), device)
        return load_triplet(entry.without_numbers().self_contained(), state, device, dtype)
    folder = None if model_dir is None else Path(model_dir)
    if folder is not None and (saved := local_folder(folder, entry)) is not None:
        return _checked(pretrained(saved), entry, str(saved))
    if folder is None or not _in_cache(folder, entry):
        triplet = _from_hub(entry, hub_repo, revision, pretrained)
        if triplet is not None:
            return triplet
    if entry.weights.embedded is not None:
        state = read_safetensors(EMBEDDED / entry.weights.embedded, entry.weights.sha256, device)
        return load_triplet(entry, state, device, dtype, checked=entry.weights.sha256 is not None)
    if entry.comes_along:
        return load_triplet(entry, {}, device, dtype)
    if entry.weights.components:
        state, files = load_components(entry, meta_triplet(entry), model_dir=folder, options=options)
        return load_triplet(entry, state, device, dtype, checked=are_pinned(entry, files))
    raise WeightsError(
        f"the weights of {entry.key} are not published in a form this version can load; give a folder that "
        "save_pretrained wrote as model_dir, or a file with the whole state dict as custom_checkpoint"
    )


def _check_model_dir(model_dir: str | Path, name: str, wanted: list[Entry]) -> None:
    """Refuse slips: another argument in the place of ``model_dir``, a file, a misspelt name of the right folder.

    Any other missing folder is only logged. A folder with weights is accepted even if it is named like a data set.

    Args:
        wanted: the entries of that name, data set and threat model.
    """
    folder = Path(model_dir)
    if any(has_weights(folder, entry) for entry in wanted):
        return
    for argument in ("dataset", "threat_model"):
        for known in {getattr(entry, argument) for entry in list_models()}:
            if isinstance(model_dir, str) and model_dir.lower() == known.lower():
                raise ConfigError(
                    f"{model_dir!r} is a {argument.replace('_', ' ')}, and no folder of that name has weights of "
                    f'{name}; the second argument is model_dir. Write load_model("{name}", {argument}="{known}"), or, '
                    f'if you mean a folder, load_model("{name}", "./{model_dir}")'
                )
    if not wanted or folder.is_dir():
        return
    if folder.exists():
        raise ConfigError(f"model_dir {folder} is a file; a weights file is given as custom_checkpoint")
    siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
    holding = [sibling.name for sibling in siblings if sibling.is_dir() and has_weights(sibling, wanted[0])]
    if near := difflib.get_close_matches(folder.name, holding, n=1, cutoff=0.75):
        raise ConfigError(f"there is no folder {folder}; did you mean {folder.with_name(near[0])}?")
    logger.warning("there is no folder %s (model_dir); the weights of %s come from elsewhere", folder, wanted[0].key)


def has_weights(folder: Path, entry: Entry) -> bool:
    """Whether a folder has weights of the entry, in our format or in RobustBench's cache."""
    return local_folder(folder, entry) is not None or _in_cache(folder, entry)


def _in_cache(folder: Path, entry: Entry) -> bool:
    """Whether RobustBench's cache folder has files of the entry."""
    return any(robustbench_file(folder, entry, part) for part in entry.weights.components)


def local_folder(model_dir: Path, entry: Entry) -> Path | None:
    """The folder at or below ``model_dir`` that ``save_pretrained`` wrote for ``entry``, if there is one."""
    return next((folder for folder in (model_dir / entry.key, model_dir) if (folder / CONFIG_FILE).is_file()), None)


def _from_hub(
    entry: Entry, hub_repo: str | None, revision: str | None, pretrained: Callable[..., Triplet]
) -> Triplet | None:
    """The triplet from a repository in our format; None if none is named, or the organization's does not exist."""
    own, organization = entry.weights.hub_repo, os.environ.get("ASZ_HUB_ORG")
    repo = hub_repo or own
    if repo is None and organization and not entry.comes_along:
        repo = f"{organization}/{entry.key}"
    if repo is None:
        if revision is not None:
            raise WeightsError(f"no Hub repository of {entry.key} is known, so there is no revision {revision!r} of it")
        return None
    try:
        triplet = pretrained(repo, revision or (entry.weights.revision if repo == own else None))
    except NotOnHubError as error:
        if hub_repo is not None or revision is not None or own is not None:
            raise
        logger.warning("%s (ASZ_HUB_ORG is %s); looking for the original files instead", error, organization)
        return None
    found, pinned = triplet.entry.weights.sha256, entry.weights.sha256
    if repo == own and pinned not in (None, found):
        raise WeightsError(f"{repo} holds weights of SHA-256 {found}, but {pinned} are pinned")
    return _checked(triplet, entry, repo)


def _of_that_name(name: str, triplet: Triplet, repo: str) -> Triplet:
    """A repository's triplet that is not in the zoo; WeightsError if it has another name than asked for."""
    if triplet.entry.name != name:
        raise WeightsError(f'{repo} holds {triplet.entry.key}, not {name}; write "hf-hub:{repo}" for what is there')
    return triplet


def _checked(triplet: Triplet, entry: Entry, where: str) -> Triplet:
    """The triplet, if all that decides its outputs is as in ``entry``; else WeightsError."""
    if differences := triplet.entry.differences(entry):
        raise WeightsError(
            f"{where} holds {triplet.entry.key} with other {', '.join(differences)} than {entry.key} of the zoo; "
            "load it by Triplet.from_pretrained if that is what you want"
        )
    return triplet


def _plain(value: str) -> str:
    """RobustBench passes enumerations whose value is the string."""
    return str(getattr(value, "value", value))
