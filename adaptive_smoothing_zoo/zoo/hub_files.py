"""Files from the Hugging Face Hub, through its own client with its cache, endpoint, tokens and offline mode."""

import errno
from dataclasses import dataclass
from pathlib import Path

from adaptive_smoothing_zoo.errors import WeightsError

MAKE_ROOM = "make room there, or set HF_HOME to a folder that can be written and locked"

# Error numbers of file systems, not of networks.
_LOCAL = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE),
    *(errno.ENOLCK, errno.ENOSYS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
}


class NotOnHubError(WeightsError):
    """The repository, revision or file does not exist, or is not in the cache and the Hub was not reached."""


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """Options for requests to the Hub.

    Attributes:
        cache_dir: the Hub client's cache folder; its default (HF_HUB_CACHE) if None.
        token: an access token, or whether to use the stored one.
        local_files_only: use only the cache, without requests.
    """

    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False


def hub_file(repo: str, filename: str, revision: str | None = None, options: HubOptions | None = None) -> Path:
    """The local path of a file in a Hub repository, downloaded unless it is in the cache.

    Args:
        repo: "org/name".
        revision: branch, tag or full commit hash. A full hash that is in the cache costs no request.

    Raises:
        NotOnHubError: there is no such repository, revision or file; or the file is not in the cache, and the client
            works offline or cannot reach the Hub.
        WeightsError: the download fails (permission, server), the cache cannot be written, or the name is invalid.
    """
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    options = options or HubOptions()
    try:
        return Path(hf_hub_download(repo, filename, revision=revision, **vars(options)))
    except errors.HFValidationError as error:
        raise WeightsError(f"{repo!r} is neither an existing folder nor a repository name (org/name)") from error
    except (errors.EntryNotFoundError, httpx.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: of hf_xet
        where = f"{filename} from {repo!r} on the Hub" + (f" at revision {revision}" if revision else "")
        raise _told(error, where, options) from error


def _told(error: Exception, where: str, options: HubOptions) -> WeightsError:
    """The client's error in one sentence that says what to do."""
    from huggingface_hub import constants, errors

    absent = {
        errors.RepositoryNotFoundError: "there is no such repository, or it is private and no token that may read it "
        "was given (`hf auth login`, HF_TOKEN)",
        errors.RevisionNotFoundError: "the repository has no such revision",
        errors.LocalEntryNotFoundError: "it is not in the cache, and the Hub was not asked (offline) or could not be "
        f"reached ({_first_line(error.__cause__ or error)})",
        errors.EntryNotFoundError: "the repository has no such file",
    }
    if isinstance(error, errors.GatedRepoError):  # a kind of RepositoryNotFoundError
        return WeightsError(f"cannot get {where}: its owners must grant access first; ask on its page")
    for kind, why in absent.items():
        if isinstance(error, kind):
            return NotOnHubError(f"cannot get {where}: {why}")
    if is_local(error):
        cache = options.cache_dir or constants.HF_HUB_CACHE
        return WeightsError(f"cannot keep {where} in the cache {cache}: {_first_line(error)}; {MAKE_ROOM}")
    return WeightsError(f"cannot get {where}: {_first_line(error)}; run it again to try again")


def is_local(error: BaseException) -> bool:
    """Whether an error of a download comes from this machine's file system (disk full, no permission, no locks)."""
    if isinstance(error, NotImplementedError):  # of a file lock, on a file system without locks
        return True
    return isinstance(error, OSError) and error.errno in _LOCAL


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
