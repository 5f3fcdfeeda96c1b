"""``load_model``: from a name to a module with weights, wherever these are."""

import difflib
import logging
import os
from importlib import resources
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
from adaptive_smoothing_zoo.zoo.registry import find_entry, is_listed, list_models
from adaptive_smoothing_zoo.zoo.triplet import Triplet, load_triplet, meta_triplet
from adaptive_smoothing_zoo.zoo.weights import read_safetensors

logger = logging.getLogger(__name__)

EMBEDDED = Path(str(resources.files("adaptive_smoothing_zoo"))) / "pretrained"


@own_surroundings()
def load_model(
    model_name: str,
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
        model_name: a name or an alias that ``list_models()`` knows; or a triplet of anybody's in our format, as
            "hf-hub:org/name", "hf-hub:org/name@revision", "local-dir:folder" or the path of such a folder. What it is
            made for then says its own ``config.json``, not ``dataset`` and ``threat_model``.
        model_dir: a folder that ``save_pretrained`` wrote, itself or below it as ``<name>-<dataset>-<threat model>``;
            or RobustBench's cache folder, whose files ``<dataset>/<threat model>/<name>.pt_m0.pt`` and so on are read.
            Files that are there are used. A folder without any, or none yet, is no error: in RobustBench it is a
            cache to be. A missing one is logged, and refused if it looks like a slip.
        dataset, threat_model: plain strings or RobustBench's enumerations.
        custom_checkpoint: a safetensors or PyTorch file with the triplet's whole state dict.
        hub_repo: a Hub repository in our format ("org/name"), used instead of all but the first two.
        revision: branch, tag or commit of the Hub repository, instead of the one that the entry pins.
        token: for the Hub, instead of the stored one.
        device: where to put the module, straight from the file; the CPU if None.
        dtype: torch.bfloat16 or torch.float16, or their names, for inference. Evaluation takes float32, the default,
            only.
        cache_dir: of the Hub's client, instead of its default.
        local_files_only: take what is in caches, and make no request.

    Returns:
        The triplet in eval mode, the gradients of its weights off. Images in [0, 1] to log-probabilities.

    Raises:
        UnknownModelError: the zoo has no such triplet; the message lists what exists.
        ConfigError: ``model_dir`` is a data set or a threat model, or nearly a folder that has the weights.
        WeightsError: the weights are not to be found, damaged, or do not fit.
        ValueError: the machine has no such device, or inference is not in such a dtype.
    """
    device = None if device is None else known_device(device)
    dtype = None if dtype is None else known_dtype(dtype)
    options = HubOptions(cache_dir=cache_dir, token=token, local_files_only=local_files_only)
    if not is_listed(model_name) and place_of(model_name) is not None:
        if model_dir or custom_checkpoint or hub_repo:
            raise ConfigError(f"{model_name} says where the weights are; leave model_dir and its like away")
        return Triplet.from_pretrained(model_name, revision=revision, device=device, dtype=dtype, **vars(options))
    if model_dir is not None:
        _check_no_argument(model_name, model_dir, _plain(dataset), _plain(threat_model))
    if hub_repo is not None and not is_listed(model_name):
        return _of_that_name(model_name, hub_repo, revision, options, device, dtype)
    entry = find_entry(model_name, _plain(dataset), _plain(threat_model))
    if model_dir is not None:
        _check_folder(Path(model_dir), entry)
    if custom_checkpoint:
        state = read_triplet_state(Path(custom_checkpoint), device)
        return load_triplet(entry.without_numbers().self_contained(), state, device, dtype)
    if model_dir is not None and (folder := local_folder(Path(model_dir), entry)) is not None:
        return _checked(Triplet.from_pretrained(folder, device=device, dtype=dtype), entry, str(folder))
    in_cache = model_dir is not None and _in_cache(Path(model_dir), entry)
    if not in_cache and (triplet := _from_hub(entry, hub_repo, revision, options, device, dtype)) is not None:
        return triplet
    if entry.weights.embedded is not None:
        state = read_safetensors(EMBEDDED / entry.weights.embedded, entry.weights.sha256, device)
        return load_triplet(entry, state, device, dtype, checked=entry.weights.sha256 is not None)
    if entry.weights.components:
        state, files = load_components(
            entry,
            meta_triplet(entry),
            model_dir=Path(model_dir) if model_dir else None,
            options=options,
        )
        return load_triplet(entry, state, device, dtype, checked=are_pinned(entry, files))
    raise WeightsError(
        f"the weights of {entry.key} are not published in a form this version can load; give a folder that "
        "save_pretrained wrote as model_dir, or a file with the whole state dict as custom_checkpoint"
    )


def _check_no_argument(name: str, model_dir: str | Path, dataset: str, threat_model: str) -> None:
    """Raise ConfigError if ``model_dir`` would be another argument, a frequent slip, and has no weights of the model.

    A folder of that name is no sign that it is meant: results and data have folders named after data sets.
    """
    given = _plain(model_dir) if isinstance(model_dir, str) else ""
    for argument in ("dataset", "threat_model"):
        for known in {getattr(entry, argument) for entry in list_models()}:
            if given.lower() == known.lower() and not _has_weights(Path(given), name, dataset, threat_model):
                raise ConfigError(
                    f"{given!r} is a {argument.replace('_', ' ')}, and no folder of that name has weights of {name}; "
                    f'the second argument is model_dir. Write load_model("{name}", {argument}="{known}"), or, if you '
                    f'mean a folder, load_model("{name}", "./{given}")'
                )


def _has_weights(folder: Path, name: str, dataset: str, threat_model: str) -> bool:
    """Whether a folder has files of the triplet of that name, which the zoo may not know."""
    return any(
        _holds(folder, entry)
        for entry in list_models()
        if name in (entry.name, *entry.aliases) and (entry.dataset, entry.threat_model) == (dataset, threat_model)
    )


def _check_folder(model_dir: Path, entry: Entry) -> None:
    """Say that there is no such folder, since what is loaded instead might not be what is wanted.

    Raises:
        ConfigError: it is a file, or a folder with nearly that name beside it has the weights of ``entry``.
    """
    if model_dir.is_dir():
        return
    if model_dir.exists():
        raise ConfigError(f"model_dir {model_dir} is a file; a weights file is given as custom_checkpoint")
    siblings = model_dir.parent.iterdir() if model_dir.parent.is_dir() else ()
    holding = [folder.name for folder in siblings if folder.is_dir() and _holds(folder, entry)]
    if near := difflib.get_close_matches(model_dir.name, holding, n=1, cutoff=0.75):
        raise ConfigError(f"there is no folder {model_dir}; did you mean {model_dir.with_name(near[0])}?")
    logger.warning("there is no folder %s (model_dir); the weights of %s come from elsewhere", model_dir, entry.key)


def _holds(folder: Path, entry: Entry) -> bool:
    return local_folder(folder, entry) is not None or _in_cache(folder, entry)


def _in_cache(folder: Path, entry: Entry) -> bool:
    """Whether RobustBench's cache folder has files of the entry."""
    return any(robustbench_file(folder, entry, part) for part in entry.weights.components)


def local_folder(model_dir: Path, entry: Entry) -> Path | None:
    """The folder at or below ``model_dir`` that ``save_pretrained`` wrote for ``entry``, if there is one."""
    return next((folder for folder in (model_dir / entry.key, model_dir) if (folder / CONFIG_FILE).is_file()), None)


def _from_hub(
    entry: Entry,
    hub_repo: str | None,
    revision: str | None,
    options: HubOptions,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
) -> Triplet | None:
    """The triplet from a repository in our format, or None if there is no reason to expect one."""
    repo = hub_repo or entry.weights.hub_repo
    organization = os.environ.get("ASZ_HUB_ORG")
    if repo is None and organization and entry.weights.embedded is None:
        repo = f"{organization}/{entry.key}"
    if repo is None:
        if revision is not None:
            raise WeightsError(f"no Hub repository of {entry.key} is known, so there is no revision {revision!r} of it")
        return None
    pinned = revision or (entry.weights.revision if repo == entry.weights.hub_repo else None)
    try:
        triplet = Triplet.from_pretrained(repo, revision=pinned, device=device, dtype=dtype, **vars(options))
    except NotOnHubError as error:
        if hub_repo is not None or revision is not None or entry.weights.hub_repo is not None:
            raise
        logger.warning("%s (ASZ_HUB_ORG is %s); looking for the original files instead", error, organization)
        return None
    if repo == entry.weights.hub_repo and entry.weights.sha256 not in (None, triplet.entry.weights.sha256):
        raise WeightsError(
            f"{repo} holds weights of SHA-256 {triplet.entry.weights.sha256}, but {entry.weights.sha256} are pinned"
        )
    return _checked(triplet, entry, repo)


def _of_that_name(
    name: str,
    repo: str,
    revision: str | None,
    options: HubOptions,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
) -> Triplet:
    """A triplet that is not in the zoo, from a repository."""
    triplet = Triplet.from_pretrained(repo, revision=revision, device=device, dtype=dtype, **vars(options))
    if triplet.entry.name != name:
        raise WeightsError(f'{repo} holds {triplet.entry.key}, not {name}; write "hf-hub:{repo}" for what is there')
    return triplet


def _checked(triplet: Triplet, entry: Entry, where: str) -> Triplet:
    """The triplet, if it is the one of ``entry`` in all that decides its outputs."""
    if differences := triplet.entry.differences(entry):
        raise WeightsError(
            f"{where} holds {triplet.entry.key} with other {', '.join(differences)} than {entry.key} of the zoo; "
            "load it by Triplet.from_pretrained if that is what you want"
        )
    return triplet


def _plain(value: str) -> str:
    """RobustBench passes enumerations whose value is the string."""
    return str(getattr(value, "value", value))
