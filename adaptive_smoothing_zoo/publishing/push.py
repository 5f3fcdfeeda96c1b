"""Uploads an exported folder to the Hugging Face Hub, through the Hub's own client."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adaptive_smoothing_zoo.errors import ConfigError, HubError, WeightsError, reason
from adaptive_smoothing_zoo.publishing.card import how_to_load, model_card
from adaptive_smoothing_zoo.publishing.export import (
    CARD_FILE,
    CARD_OF,
    HERE,
    OPTIONAL_FILES,
    PICTURE_FILE,
    card_of,
    export,
    export_files,
    front_of,
    mark_of,
    picture_of,
)
from adaptive_smoothing_zoo.storage.files import file_sha256, write_text
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.zoo.entry import Entry, read_entry
from adaptive_smoothing_zoo.zoo.place import CONFIG_FILE
from adaptive_smoothing_zoo.zoo.triplet import Triplet
from adaptive_smoothing_zoo.zoo.weights import INDEX_FILE, WEIGHTS_FILE, WEIGHTS_PATTERNS

logger = logging.getLogger(__name__)

_LOG_IN = "run `hf auth login`, set HF_TOKEN, or give a token"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The result of an upload, and what an entry needs to load exactly that."""

    repo: str  # "org/name"
    commit: str  # full hash
    url: str  # of the repository at that commit
    entry: Entry  # what config.json says

    @property
    def entry_text(self) -> str:
        """The lines for the entry's "weights": repository, revision and SHA-256."""
        fields: dict[str, Any] = {"hub_repo": self.repo, "revision": self.commit}
        fields |= {name: to_json(getattr(self.entry.weights, name)) for name in ("sha256", "shards")}
        return json.dumps({name: value for name, value in fields.items() if value}, indent=2)


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> Pushed:
    """Upload a folder that ``export`` wrote, as one commit. After an interruption, call it again.

    The folder is checked before anything is sent. The commit deletes weights of an earlier upload that are not part of
    this one; earlier commits keep them. Other files in the folder are not uploaded.

    Args:
        repo: "org/name"; created if it does not exist.
        private: create a private repository; an existing public one is refused.
        token: an access token that may write there; the stored one if None.
        revision: the branch, created from ``main`` if it does not exist; ``main`` if None.

    Raises:
        ConfigError, WeightsError: the folder is no export, or incomplete, or a file has changed.
        HubError: the Hub refuses or cannot be reached; the message says why.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    folder = Path(folder)
    entry = check_export(folder)
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"cannot push to {repo!r}: offline mode is on; unset HF_HUB_OFFLINE")
    if not (token or get_token()):
        raise HubError(f"cannot push to {repo!r}: there is no token; {_LOG_IN}")
    api = HfApi(token=token, library_name="adaptive-smoothing-zoo")
    try:
        # None leaves it to the organization's own rule, which may make every repository private.
        repo = api.create_repo(repo, private=private or None, exist_ok=True).repo_id
        if private and not api.model_info(repo).private:
            raise HubError(
                f"will not push to {repo!r}: it exists and is public; choose another name, or push without private"
            )
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        with _with_card_for(folder, entry, repo) as upload:
            info = api.upload_folder(
                repo_id=repo,
                folder_path=upload,
                allow_patterns=sorted(export_files(entry) | _optional_files(folder)),
                delete_patterns=[*WEIGHTS_PATTERNS],
                revision=revision,
                commit_message=commit_message or f"Upload {entry.key}",
            )
    except HubError:
        raise
    except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise HubError(f"cannot push to {repo!r}: {_explain(error)}") from error
    return Pushed(repo=repo, commit=info.oid, url=f"{api.endpoint}/{repo}/tree/{info.oid}", entry=entry)


def push_model(model: Triplet, repo: str, *, results: Path | None = None, **options: Any) -> Pushed:
    """Upload a triplet from memory: its export, with a card that shows the records in ``results``; see ``push``."""
    with TemporaryDirectory() as folder:
        target = Path(folder) / "export"
        if results is None:
            export(model, target, card=model_card(model.described(), None))
        else:
            card, evidence = card_of(model, results, picture=PICTURE_FILE)
            export(model, target, card=card, picture=picture_of(model, results, evidence))
        return push(target, repo, **options)


def push_own(folder: Path, repo: str, *, results: Path, **options: Any) -> Pushed:
    """Upload a folder of ``asz tune`` or ``save_pretrained``, with a card that shows ``results`` and the choice."""
    with TemporaryDirectory() as name:
        target, model = Path(name) / "export", Triplet.from_pretrained(folder)
        card, evidence = card_of(model, results, front_of(folder), PICTURE_FILE)
        export(model, target, card=card, picture=picture_of(model, results, evidence))
        for file in _optional_files(folder) - {PICTURE_FILE}:
            shutil.copy(folder / file, target)
        return push(target, repo, **options)


def _optional_files(folder: Path) -> set[str]:
    return {file for file in OPTIONAL_FILES if (folder / file).is_file()}


@contextmanager
def _with_card_for(folder: Path, entry: Entry, repo: str) -> Iterator[Path]:
    """The folder as it is uploaded: links to its files, and a card that says how to load from the repository."""
    with TemporaryDirectory() as name:
        upload = Path(name)
        for file in (export_files(entry) | _optional_files(folder)) - {CARD_FILE}:
            (upload / file).symlink_to((folder / file).absolute())
        card = (folder / CARD_FILE).read_text(encoding="utf-8")
        there = card.replace(how_to_load(entry, HERE), how_to_load(entry, f"hf-hub:{repo}"))
        write_text(upload / CARD_FILE, there)
        yield upload


def check_export(folder: str | Path) -> Entry:
    """The entry of a folder that ``export`` wrote, after checking that all files are there and unchanged.

    Raises:
        ConfigError: no such folder; its ``config.json``, card or index of shards is missing or damaged; or the card was
            exported for another model, name or radius. A card without our mark is taken as it is.
        WeightsError: a file of the weights is missing, or has another hash than ``config.json`` says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; asz export makes one")
    entry = read_entry(folder / CONFIG_FILE)
    weights: dict[str, str | None] = {**entry.weights.shards} or {WEIGHTS_FILE: entry.weights.sha256}
    if None in weights.values():
        raise ConfigError(f"{folder / CONFIG_FILE} has no SHA-256 of the weights; asz export writes it")
    missing = sorted(name for name in export_files(entry) if not (folder / name).is_file())
    if missing:
        raise WeightsError(f"{folder} is not a complete export: {', '.join(missing)} is missing; run asz export again")
    _check_card(folder / CARD_FILE, entry)
    if entry.weights.shards:
        _check_index(folder / INDEX_FILE, set(entry.weights.shards))
    for name, sha256 in weights.items():
        if (found := file_sha256(folder / name)) != sha256:
            raise WeightsError(
                f"{folder / name} has SHA-256 {found}, but {CONFIG_FILE} says {sha256}; run asz export again"
            )
    known = export_files(entry) | {*OPTIONAL_FILES}
    extra = sorted(path.name for path in folder.iterdir() if path.name not in known)
    if extra:
        logger.warning("%s: not part of the export, and not uploaded: %s", folder, ", ".join(extra))
    return entry


def _check_card(path: Path, entry: Entry) -> None:
    from huggingface_hub import ModelCard
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        license_name = ModelCard.load(path).data.license
    except (OSError, ValueError, YAMLError) as error:
        raise ConfigError(f"the front matter of {path} cannot be read: {error}") from error
    if license_name is None:
        raise ConfigError(f"the front matter of {path} names no license; asz export writes it")
    text = path.read_text(encoding="utf-8")
    if CARD_OF in text and mark_of(entry) not in text:
        raise ConfigError(
            f"{path} was exported for another model, name or radius than {CONFIG_FILE} now describes; run asz export "
            "again, or write a card of your own"
        )


def _check_index(path: Path, shards: set[str]) -> None:
    try:
        named = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not an index of shards: {type(error).__name__} {error}") from error
    if named != shards:
        raise ConfigError(f"{path} and {CONFIG_FILE} name different shards; run asz export again")


def _explain(error: BaseException) -> str:
    """Why the client failed, in one sentence with what to do."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # one file of several
        return _explain(error.__cause__)
    if isinstance(error, errors.HFValidationError):
        return "that is not a repository name; it must be like org/name"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such branch, and it could not be created"
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_answer(error.response.status_code, (error.server_message or "").strip())
    if isinstance(error, json.JSONDecodeError):
        return "the answer is not a Hub's; a sign-in page may stand in between, or HF_ENDPOINT names another server"
    if isinstance(error, (httpx.ConnectError, httpx.TimeoutException)):
        return f"the Hub cannot be reached ({reason(error)}); check the connection, or HF_ENDPOINT if you set it"
    if isinstance(error, httpx.TransportError):
        return f"the transfer was interrupted ({reason(error)}); simply run it again"
    return reason(error)


def _explain_answer(status: int, said: str) -> str:
    answer = f"the Hub answered {status}" + (f" ({said})" if said else "")
    if status == 401:
        return f"{answer}: the token is not valid; {_LOG_IN}"
    if status in (403, 404):
        return f"{answer}: the token has no right to write there; check the name, or use another token"
    if status == 429 or status >= 500:
        return f"{answer}; try again later"
    return answer
