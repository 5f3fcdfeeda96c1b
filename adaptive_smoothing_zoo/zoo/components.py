"""The original checkpoints of a triplet's parts: got from where their authors put them, checked, converted, cached.

Each part becomes one safetensors file with our keys in the cache folder, once. Parts that several triplets share (the
same net from the same sources) share that file. Whatever is interrupted is simply run again.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock
from torch import Tensor, nn
from tqdm import tqdm

from adaptive_smoothing_zoo.errors import WeightsError, reason
from adaptive_smoothing_zoo.storage.files import file_sha256, write_text
from adaptive_smoothing_zoo.storage.schema import parse, to_json
from adaptive_smoothing_zoo.zoo.checkpoints import convert_base_net, convert_mixing_network, read_checkpoint
from adaptive_smoothing_zoo.zoo.entry import PARTS, Component, Entry, HubFile, RobustBenchFile, Source, UrlFile
from adaptive_smoothing_zoo.zoo.hub_files import HubOptions, hub_file, is_local
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

_TIMEOUT = 30  # seconds without an answer after which a server counts as gone


def load_components(
    entry: Entry,
    skeleton: nn.Module,
    *,
    model_dir: Path | None = None,
    options: HubOptions | None = None,
) -> tuple[dict[str, Tensor], dict[str, tuple[Path, Source | None]]]:
    """A triplet's state dict from its original checkpoints.

    A part is taken from RobustBench's cache ``model_dir`` if the file is there (read as it is, nothing is copied),
    else from our cache, else from its sources, the first that has it.

    Args:
        entry: whose ``weights.components`` say where the parts are.
        skeleton: the triplet that the weights must fit, on any device (also meta).

    Returns:
        The state dict, mapped from disk; and for each part the file that was read, with what is known of it if that is
        RobustBench's (see ``pinned_source``).

    Raises:
        WeightsError: a part cannot be had; the message says what each source answered.
    """
    state: dict[str, Tensor] = {}
    files: dict[str, tuple[Path, Source | None]] = {}
    for part, component in entry.weights.components.items():
        local = None if model_dir is None else robustbench_file(model_dir, entry, part)
        if local is not None:
            path, source = local
            logger.info("%s of %s comes from %s", part, entry.key, path)
            if source.sha256 is not None:
                check_sha256(path, source.sha256)
            tensors = convert_part(entry, part, skeleton.get_submodule(part), path)
            files[part] = path, source
        else:
            path = _cached(entry, part, component, skeleton.get_submodule(part), options)
            tensors = read_safetensors(path)
            files[part] = path, None
        state |= {f"{part}.{key}": value for key, value in tensors.items()}
    return state, files


def are_pinned(entry: Entry, files: Mapping[str, tuple[Path, Source | None]]) -> bool:
    """Whether the hash of each part's original file was known before it was read, and so checked.

    Args:
        files: as ``load_components`` gave them.
    """
    read = {
        part: entry.weights.components[part].sources if source is None else (source,)
        for part, (_, source) in files.items()
    }
    return all(source.sha256 is not None for sources in read.values() for source in sources)


def pinned_source(path: Path, source: Source | None) -> Source:
    """Where a part's weights came from, with hash and size of the original file (and its commit on the Hub).

    Args:
        path, source: as ``load_components`` gave them.

    Raises:
        WeightsError: our file in the cache does not say it.
    """
    if source is not None:
        return replace(source, sha256=file_sha256(path), size=path.stat().st_size)
    try:
        noted = {"sources": [json.loads(read_metadata(path)["source"])]}
        return parse(Component, noted, str(path)).sources[0]
    except (KeyError, ValueError):
        raise WeightsError(f"{path} does not say what it was made of; delete it and load again") from None


def robustbench_file(model_dir: Path, entry: Entry, part: str) -> tuple[Path, RobustBenchFile] | None:
    """The file of one part of a triplet in RobustBench's cache folder, if it is there, and what is known of it."""
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
        WeightsError: not a checkpoint, or that of another net; the message names the file.
    """
    checkpoint = read_checkpoint(path)
    if part == "alpha":
        return convert_mixing_network(checkpoint, module, str(path))
    return convert_base_net(checkpoint, getattr(entry, part), module, str(path))


def convert_triplet(entry: Entry, files: Mapping[str, Path]) -> Triplet:
    """The triplet of an entry from foreign checkpoint files of its parts.

    Args:
        files: one for "std_model", one for "rob_model", and one for "alpha" if a mixing network gives it.

    Raises:
        WeightsError: a file is missing or too many, is no checkpoint, or is that of another net.
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
    """Our file of this part; made now if it is not in the cache."""
    name = _component_name(entry, part, component)
    converted = cache_folder("components") / f"{name}.safetensors"
    with kept_in(converted.parent.parent):
        if not converted.is_file():
            converted.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(converted.with_suffix(".lock")):  # released by the system if the process dies
                if not converted.is_file():  # no other process made it meanwhile
                    _make(entry, part, component, module, converted, options)
    return converted


def _make(
    entry: Entry, part: str, component: Component, module: nn.Module, converted: Path, options: HubOptions | None
) -> None:
    """Get and convert the part from the first of its sources that has it."""
    problems = []
    for source in component.sources:
        try:
            with _fetched(source, entry, converted.stem, options) as path:
                _convert(entry, part, source, module, path, converted)
            return
        except WeightsError as error:
            logger.info("%s of %s: %s", part, entry.key, error)
            problems.append(str(error))
    listed = "\n".join(f"- {problem}" for problem in problems)
    raise WeightsError(
        f"cannot get {part} of {entry.key}:\n{listed}\nRun it again to try again; or get the files of "
        f"RobustBench's {entry.name} in any way and name their folder (model_dir), or convert them (asz convert)"
    )


def _component_name(entry: Entry, part: str, component: Component) -> str:
    """The same for the same net with the same weights, whatever triplet it is a part of."""
    if part == "alpha":
        what, net = "mixing_network", to_json(entry.alpha)
    else:
        config = getattr(entry, part)
        what, net = config.architecture, [to_json(config.arguments), entry.num_classes]
    # A Drive id is known by its model's name, which is unique only within data set and threat model.
    identity = [net, to_json(component), entry.dataset, entry.threat_model]
    return f"{what}-{sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]}"


def _convert(entry: Entry, part: str, source: Source, module: nn.Module, path: Path, converted: Path) -> None:
    size = path.stat().st_size
    if source.size is not None and size != source.size:
        raise WeightsError(
            f"{path} ({_named(source)}) has {size} bytes, not {source.size}: it is truncated or another file"
        )
    with _bytes_bar(2 * size, f"converting {part}") as bar:
        tensors = convert_part(entry, part, module, path)
        found = file_sha256(path, bar.update)
        if source.sha256 not in (None, found):
            raise WeightsError(
                f"{path} ({_named(source)}) has SHA-256 {found}, not {source.sha256}: it is another file"
            )
        pinned = replace(source, sha256=found, size=size)
        if isinstance(pinned, HubFile):
            pinned = replace(pinned, revision=_commit_of(path) or pinned.revision)
        write_safetensors(converted, tensors, {"source": json.dumps(to_json(pinned))})
        bar.update(size)


@contextmanager
def _fetched(source: Source, entry: Entry, name: str, options: HubOptions | None) -> Iterator[Path]:
    """The original file.

    What we downloaded ourselves is deleted when it was converted or turned out to be bad, but not on an interruption.
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
        download_from_drive(drive_id_of(source, entry), path)
    try:
        yield path
    except WeightsError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _bytes_bar(total: int, what: str, done: int = 0) -> "tqdm[Any]":
    """A progress bar on a terminal, unless the Hub client's bars are switched off."""
    from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]

    disable = True if are_progress_bars_disabled() else None
    return tqdm(total=total or None, initial=done, unit="B", unit_scale=True, desc=what, disable=disable)


def _named(source: Source) -> str:
    if isinstance(source, HubFile):
        return f"{source.filename} of {source.repo}"
    return source.url if isinstance(source, UrlFile) else f"RobustBench's {source.filename} on Google Drive"


def _commit_of(path: Path) -> str:
    """The commit of a file in the Hub client's cache, .../snapshots/<commit>/..."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""


def download_url(url: str, path: Path) -> None:
    """Download a file; what an earlier, interrupted call left is gone on with, if the file is still the same.

    Raises:
        WeightsError: the server cannot be reached, refuses, or ends before the end of the file.
        OSError: the file cannot be written.
    """
    if path.is_file():
        return
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".etag")
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    headers = {"Range": f"bytes={have}-", "If-Range": tag.read_text()} if have else {}
    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT, headers=headers) as response:
            if response.status_code == 416:  # nothing is left to send, which cannot be told from another length
                part.unlink()
                return download_url(url, path)
            response.raise_for_status()
            if response.status_code != 206:
                have = 0
            if etag := response.headers.get("ETag"):
                write_text(tag, etag)
            total = have + int(response.headers.get("Content-Length", 0))
            with (
                part.open("ab" if have else "wb") as file,
                _bytes_bar(total, url.rsplit("/", 1)[-1], have) as bar,
            ):
                for block in response.iter_content(1 << 20):
                    file.write(block)
                    bar.update(len(block))
    except requests.RequestException as error:
        raise WeightsError(f"cannot get {url}: {error}; run it again to go on") from error
    if total and part.stat().st_size != total:
        raise WeightsError(f"{url} ended after {part.stat().st_size} of {total} bytes; run it again to go on")
    part.replace(path)


def drive_id_of(source: RobustBenchFile, entry: Entry) -> str:
    """The Google Drive id of a file of RobustBench's model zoo.

    Raises:
        WeightsError: RobustBench is not installed, or does not know the file.
    """
    from adaptive_smoothing_zoo.zoo.robustbench_ids import drive_ids

    ids = drive_ids(source.model, entry.dataset, entry.threat_model)
    index = source.index or 0
    if index >= len(ids):
        raise WeightsError(f"RobustBench knows {len(ids)} files of {source.model}, and not {source.filename}")
    return ids[index]


def download_from_drive(drive_id: str, path: Path) -> None:
    """Download a file from Google Drive by gdown, which goes on with what an interrupted call left.

    Raises:
        WeightsError: Drive refuses or cannot be reached.
    """
    if path.is_file():
        return
    try:
        import gdown
    except ModuleNotFoundError:
        raise WeightsError(
            "files on Google Drive are downloaded by gdown: pip install 'adaptive-smoothing-zoo[robustbench]'"
        ) from None
    try:
        done = gdown.download(id=drive_id, output=str(path), resume=True)
        if done is None:  # it found leftovers of several interrupted downloads and does not choose among them
            for leftover in path.parent.glob(path.name + "*"):
                leftover.unlink()
            done = gdown.download(id=drive_id, output=str(path))
    except Exception as error:  # gdown raises requests' errors, its own, and plain ones
        if is_local(error):
            raise
        raise WeightsError(f"cannot get the Google Drive file {drive_id}: {reason(error)}") from error
    if done is None or not path.is_file():
        raise WeightsError(f"cannot get the Google Drive file {drive_id}: gdown gave up; run it again to try again")
