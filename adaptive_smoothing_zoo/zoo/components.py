"""The original checkpoints of a triplet's parts: downloaded from their authors, checked, converted and cached.

Each part is converted once to a safetensors file with our keys in the cache folder. Triplets that share a part (the
same net from the same sources) share that file. After an interruption, run the same call again.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from filelock import FileLock
from torch import Tensor, nn

from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.storage.files import file_sha256
from adaptive_smoothing_zoo.storage.schema import parse, to_json
from adaptive_smoothing_zoo.zoo.checkpoints import convert_base_net, convert_mixing_network, read_checkpoint
from adaptive_smoothing_zoo.zoo.downloads import download_from_drive, download_url
from adaptive_smoothing_zoo.zoo.entry import PARTS, Component, Entry, HubFile, RobustBenchFile, Source, UrlFile
from adaptive_smoothing_zoo.zoo.hub_files import HubOptions, hub_file
from adaptive_smoothing_zoo.zoo.robustbench import drive_ids
from adaptive_smoothing_zoo.zoo.triplet import Triplet, load_triplet, meta_triplet
from adaptive_smoothing_zoo.zoo.weights import (
    cache_folder,
    check_sha256,
    kept_in,
    read_metadata,
    read_safetensors,
    write_safetensors,
)

logger = logging.getLogger(__name__)

Files = dict[str, tuple[Path, Source | None]]
"""By part, the file that was read and its source; the source is None for our cached file, which records it itself."""


def load_components(
    entry: Entry,
    skeleton: nn.Module,
    *,
    model_dir: Path | None = None,
    options: HubOptions | None = None,
) -> tuple[dict[str, Tensor], Files]:
    """A triplet's state dict from its original checkpoints, and the files that were read.

    A part comes from RobustBench's cache folder ``model_dir`` if that has the file, else from our cache, else from the
    first of its sources that has it.

    Args:
        entry: its ``weights.components`` list the sources of the parts.
        skeleton: the triplet that the weights must fit, on any device (also meta).

    Raises:
        WeightsError: a part is not available; the message lists the error of each source.
    """
    state: dict[str, Tensor] = {}
    files: Files = {}
    for part, component in entry.weights.components.items():
        module = skeleton.get_submodule(part)
        local = None if model_dir is None else robustbench_file(model_dir, entry, part)
        if local is not None:
            files[part] = local
            path, source = local
            logger.info("%s of %s comes from %s", part, entry.key, path)
            if source.sha256 is not None:
                check_sha256(path, source.sha256)
            tensors = convert_part(entry, part, module, path)
        else:
            path = _cached(entry, part, component, module, options)
            files[part] = path, None
            tensors = read_safetensors(path)
        state |= {f"{part}.{key}": value for key, value in tensors.items()}
    return state, files


def are_pinned(entry: Entry, files: Files) -> bool:
    """Whether each part's original file was checked against a known hash."""
    read = (
        entry.weights.components[part].sources if source is None else [source] for part, (_, source) in files.items()
    )
    return all(source.sha256 is not None for sources in read for source in sources)


def pinned_source(path: Path, source: Source | None) -> Source:
    """The source of a part's weights, with hash and size of the original file (and its commit on the Hub).

    Args:
        path, source: a value of ``Files``.

    Raises:
        WeightsError: our cached file does not record its source.
    """
    if source is not None:
        return replace(source, sha256=file_sha256(path), size=path.stat().st_size)
    try:
        noted = {"sources": [json.loads(read_metadata(path)["source"])]}
        return parse(Component, noted, str(path)).sources[0]
    except (KeyError, ValueError):
        raise WeightsError(f"{path} does not record its source; delete it and load again") from None


def robustbench_file(model_dir: Path, entry: Entry, part: str) -> tuple[Path, RobustBenchFile] | None:
    """The file of one part of a triplet in RobustBench's cache folder, and its source; None if it is not there."""
    known = [s for s in entry.weights.components[part].sources if isinstance(s, RobustBenchFile)]
    sha256 = next((source.sha256 for source in known), None)  # RobustBench gives the same file to both models
    own = RobustBenchFile(model=entry.name, index=PARTS.index(part), sha256=sha256)
    folder = model_dir / entry.dataset / entry.threat_model
    return next(
        ((folder / source.filename, source) for source in (own, *known) if (folder / source.filename).is_file()), None
    )


def convert_part(entry: Entry, part: str, module: nn.Module, path: Path) -> dict[str, Tensor]:
    """The weights of one part, with our keys, from a foreign checkpoint file.

    Raises:
        WeightsError: it is no checkpoint, or one of another net; the message names the file.
    """
    checkpoint = read_checkpoint(path)
    if part == "alpha":
        return convert_mixing_network(checkpoint, module, str(path))
    return convert_base_net(checkpoint, getattr(entry, part), module, str(path))


def convert_triplet(entry: Entry, files: Mapping[str, Path]) -> Triplet:
    """The triplet of an entry from foreign checkpoint files of its parts.

    Args:
        files: by part: "std_model", "rob_model" and, for a triplet with a mixing network, "alpha".

    Raises:
        WeightsError: a file is missing or superfluous, is no checkpoint, or is one of another net.
    """
    skeleton = meta_triplet(entry)
    needed = [part for part in PARTS if any(skeleton.get_submodule(part).state_dict())]
    if sorted(needed) != sorted(files):
        given = ", ".join(files) or "nothing"
        raise WeightsError(f"{entry.key} has the parts {', '.join(needed)}; checkpoints of {given} were given")
    state: dict[str, Tensor] = {}
    for part, path in files.items():
        tensors = convert_part(entry, part, skeleton.get_submodule(part), path)
        state |= {f"{part}.{key}": value for key, value in tensors.items()}
    return load_triplet(entry.self_contained(), state)


def _cached(entry: Entry, part: str, component: Component, module: nn.Module, options: HubOptions | None) -> Path:
    """Our cached file of a part; if it is missing, it is made from the first source that has the part."""
    path = cache_folder("components") / f"{_component_name(entry, part, component)}.safetensors"
    with kept_in(path.parent.parent):
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        problems = []
        with FileLock(path.with_suffix(".lock")):  # released by the system if the process dies
            if path.is_file():  # another process made it meanwhile
                return path
            for source in component.sources:
                try:
                    with _fetched(source, entry, path.stem, options) as original:
                        _convert(entry, part, source, module, original, path)
                    return path
                except WeightsError as error:
                    logger.info("%s of %s: %s", part, entry.key, error)
                    problems.append(f"- {error}\n")
    raise WeightsError(
        f"cannot get {part} of {entry.key}:\n{''.join(problems)}Run it again to retry; or get the files of "
        f"RobustBench's {entry.name} in another way and give their folder as model_dir, or convert them by asz convert"
    )


def _component_name(entry: Entry, part: str, component: Component) -> str:
    """A file name that is the same for the same net with the same sources in any triplet."""
    if part == "alpha":
        what, net = "mixing_network", to_json(entry.alpha)
    else:
        config = getattr(entry, part)
        what, net = config.architecture, [to_json(config.arguments), entry.num_classes]
    # A Drive id is known by its model's name, which is unique only within data set and threat model.
    identity = [net, to_json(component), entry.dataset, entry.threat_model]
    return f"{what}-{sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]}"


def _convert(entry: Entry, part: str, source: Source, module: nn.Module, path: Path, converted: Path) -> None:
    """Check an original file against its known size and hash, and write our file, which records its source."""
    size, what = path.stat().st_size, f"{path} ({_named(source)})"
    if source.size is not None and size != source.size:
        raise WeightsError(f"{what} has {size} bytes, not {source.size}: it is truncated or another file")
    tensors = convert_part(entry, part, module, path)
    found = file_sha256(path)
    if source.sha256 not in (None, found):
        raise WeightsError(f"{what} has SHA-256 {found}, not {source.sha256}: it is another file")
    pinned = replace(source, sha256=found, size=size)
    if isinstance(pinned, HubFile):
        pinned = replace(pinned, revision=_commit_of(path) or pinned.revision)
    write_safetensors(converted, tensors, {"source": json.dumps(to_json(pinned))})


@contextmanager
def _fetched(source: Source, entry: Entry, name: str, options: HubOptions | None) -> Iterator[Path]:
    """The original file.

    Our own downloads are deleted after conversion or if they are invalid, but not on an interruption.
    """
    from huggingface_hub import constants

    if isinstance(source, HubFile):
        yield hub_file(source.repo, source.filename, source.revision, options)
        return
    if constants.HF_HUB_OFFLINE or (options is not None and options.local_files_only):
        raise WeightsError(f"{_named(source)} is not in the cache, and downloads are switched off (offline)")
    folder = cache_folder("downloads") / f"{name}-{source.kind}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint"
    if isinstance(source, UrlFile):
        download_url(source.url, path)
    else:
        download_from_drive(_drive_id(source, entry), path)
    try:
        yield path
    except WeightsError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _drive_id(source: RobustBenchFile, entry: Entry) -> str:
    ids, index = drive_ids(source.model, entry.dataset, entry.threat_model), source.index or 0
    if index >= len(ids):
        raise WeightsError(f"RobustBench knows {len(ids)} files of {source.model}, and not {source.filename}")
    return ids[index]


def _named(source: Source) -> str:
    if isinstance(source, HubFile):
        return f"{source.filename} of {source.repo}"
    return source.url if isinstance(source, UrlFile) else f"RobustBench's {source.filename} on Google Drive"


def _commit_of(path: Path) -> str:
    """The commit of a file in the Hub client's cache, .../snapshots/<commit>/..."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""
