"""Weights on disk: safetensors only, loaded strictly."""

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256 as sha256_of
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaptive_smoothing_zoo.errors import ResultsError, WeightsError, reason
from adaptive_smoothing_zoo.storage.files import file_sha256, write_text, write_with
from adaptive_smoothing_zoo.zoo.hub_files import MAKE_ROOM

logger = logging.getLogger(__name__)

EMBEDDED = Path(str(resources.files("adaptive_smoothing_zoo"))) / "pretrained"

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_NUMBER = "[0-9]" * 5
_LFS = b"version https://git-lfs"  # begins a file whose content git lfs pull fetches
WEIGHTS_PATTERNS = (WEIGHTS_FILE, INDEX_FILE, f"model-{_NUMBER}-of-{_NUMBER}.safetensors")  # of weights that we wrote

# Files below this size are hashed at every load, larger ones only if their size or time of change differs.
_ALWAYS_HASHED = 64 << 20


def read_safetensors(
    path: Path, sha256: str | None = None, device: str | torch.device | None = None
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped from disk (or, if ``device`` is a GPU, read into its memory).

    Raises:
        WeightsError: the file is missing, damaged, no safetensors file, or has another hash than ``sha256``.
    """
    with readable(path):
        if not path.is_file():
            raise WeightsError(f"there is no weights file {path}")
        if sha256 is not None:
            check_sha256(path, sha256)
        on_gpu = device is not None and torch.device(device).type == "cuda"
        tensors: dict[str, Tensor] = load_file(path, device=str(device) if on_gpu else "cpu")
        return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises WeightsError for any other file."""
    with readable(path), safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors to a safetensors file and return its SHA-256.

    Raises:
        ResultsError: it cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    try:
        write_with(path, lambda temporary: save_file(tensors, temporary, metadata={"format": "pt", **(metadata or {})}))
    except SafetensorError as error:  # also where the disk is full
        raise ResultsError(f"cannot write {path}: {reason(error)}") from error
    return file_sha256(path)


def write_shards(folder: Path, state: Mapping[str, Tensor], max_size: str | int | None = None) -> dict[str, str]:
    """Write tensors to one safetensors file, or to several and their index, as the Hub's tools expect them.

    Args:
        max_size: of one file, in bytes or like "1GB"; a larger tensor gets a file of its own. No limit if None.

    Returns:
        File names to SHA-256. If all fits into one file, that is ``model.safetensors``, and there is no index.

    Raises:
        ResultsError: a file cannot be written.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    if max_size is None:
        return {WEIGHTS_FILE: write_safetensors(folder / WEIGHTS_FILE, state)}
    split = split_torch_state_dict_into_shards(dict(state), max_shard_size=max_size)
    shards = {
        name: write_safetensors(folder / name, {key: state[key] for key in keys})
        for name, keys in split.filename_to_tensors.items()
    }
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_text(folder / INDEX_FILE, json.dumps(index, indent=2) + "\n")
    return shards


def drop_other_weights(folder: Path, shards: Collection[str]) -> None:
    """Delete the weights of an earlier save: all files of weights but these, and the index if these need none.

    Raises:
        ResultsError: one cannot be deleted.
    """
    kept = {*shards} if WEIGHTS_FILE in shards else {*shards, INDEX_FILE}
    for path in sorted(path for pattern in WEIGHTS_PATTERNS for path in folder.glob(pattern) if path.name not in kept):
        try:
            path.unlink()
        except OSError as error:
            raise ResultsError(f"cannot delete the earlier weights {path}: {reason(error)}; delete them") from error


def check_sha256(path: Path, expected: str) -> None:
    """Raise WeightsError unless the file has this SHA-256.

    Hashing gigabytes takes longer than mapping them, so a large file that passed once is remembered by its size and
    time of change, in the cache folder. Whoever can forge those can replace the package as well.
    """
    with readable(path):
        about = path.stat()
        memo = _memo_file(path) if about.st_size >= _ALWAYS_HASHED else None
        state = f"{about.st_size} {about.st_mtime_ns} {expected}"
        if memo is not None and _says(memo, state):
            return
        found = file_sha256(path)
    if found != expected:
        # Resolved: in the Hub's cache the name is a link, and the bad content would stay behind it.
        raise WeightsError(
            f"{path.resolve()} has SHA-256 {found}, but {expected} was expected; it is {_what_else(path)}"
        )
    if memo is not None:
        try:
            write_text(memo, state)
        except ResultsError as error:  # a cache that cannot be written costs time, nothing else
            logger.info("the hash of %s will be computed again next time: %s", path, error)


def _what_else(path: Path) -> str:
    """What a file with another hash may be, and what to do."""
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            return "a pointer of Git LFS; run git lfs pull there"
    return "damaged or another file; copy it again, or in a download cache delete it and load again"


def _says(memo: Path, state: str) -> bool:
    """Whether the file exists with this text."""
    try:
        return memo.read_text() == state
    except (OSError, UnicodeDecodeError):
        return False


def _memo_file(path: Path) -> Path:
    return cache_folder("hashed") / f"{sha256_of(str(path.resolve()).encode()).hexdigest()}.txt"


def cache_folder(name: str) -> Path:
    """Our folder of that name inside the Hugging Face cache (``HF_HOME`` or ``HF_ASSETS_CACHE``)."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "adaptive-smoothing-zoo" / name


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of reading the file, of the system or of safetensors, into a WeightsError with its name."""
    try:
        yield
    except WeightsError:  # itself a ValueError
        raise
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {reason(error)}") from error
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is not a complete safetensors file: {reason(error)}") from error


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Turn errors of reading, writing or locking a file of the cache into a WeightsError with the folder's name."""
    try:
        yield
    except (OSError, NotImplementedError, ResultsError) as error:  # no flock: NotImplementedError of older filelocks
        raise WeightsError(f"cannot keep weights in {folder}: {reason(error)}; {MAKE_ROOM}") from error


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load exactly the tensors of ``state`` into ``module``, in the module's own dtypes.

    The module may be on the meta device: its parameters are replaced, not copied into.

    Raises:
        WeightsError: a key is missing or unexpected, or a shape or kind of number differs; the message lists them.
    """
    check_fit(module, state, what)
    own = module.state_dict()
    with torch.no_grad():
        module.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()}, assign=True)


def check_fit(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Raise WeightsError unless ``state`` has the keys, shapes and kinds of number (float or not) of ``module``."""
    own = module.state_dict()
    both = [(key, state[key], own[key]) for key in sorted(own.keys() & state.keys())]
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{key} has shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
            for key, found, wanted in both
            if found.shape != wanted.shape
        ],
        "of another kind of number": [
            f"{key} is {found.dtype}, not {wanted.dtype}"
            for key, found, wanted in both
            if found.is_floating_point() != wanted.is_floating_point() or found.is_complex()
        ],
    }
    listed = [
        f"{len(keys)} {kind}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
        for kind, keys in problems.items()
        if keys
    ]
    if listed:
        raise WeightsError(f"the weights do not fit {what}; {'; '.join(listed)[:1000]}")
