"""A small Hugging Face Hub on loopback: real repositories with history, for the real client, and failures on request.

``HubServer`` is a context manager; the fixture ``hub`` also points the client of this process at it. A client in a
process of its own is started with the environment ``hub.environment``.
"""

import base64
import json
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import pytest
import yaml

# Who may write to which namespaces, and read what is private there.
OWNER, STRANGER = "hf_owner", "hf_stranger"
TOKENS = {OWNER: {"org"}, STRANGER: {"elsewhere"}}

_BLOCK = 1 << 20
_OTHER_BYTES = bytes(255 - byte for byte in range(256))


@dataclass(frozen=True)
class Blob:
    """A file's content; the bytes are in the server's store under their SHA-256."""

    sha256: str
    git_sha1: str
    size: int
    lfs: bool

    @property
    def oid(self) -> str:
        """What the client compares its own file with, and what it calls the file in its cache."""
        return self.sha256 if self.lfs else self.git_sha1


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    message: str
    files: dict[str, Blob]


@dataclass
class Repository:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag or a full hash names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(sha)

    def add(self, branch: str, message: str, files: dict[str, Blob]) -> str:
        parent = self.branches.get(branch)
        content = json.dumps([parent, message, {path: blob.sha256 for path, blob in sorted(files.items())}])
        sha = sha1(f"{content} {len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, message, files)
        self.branches[branch] = sha
        return sha


@dataclass
class Failure:
    """What to do instead of what a request asks for."""

    kind: str
    path: str
    methods: tuple[str, ...]
    times: int | None  # None: always
    status: int


class HubServer:
    """The server, its repositories, and a record of what was asked of it.

    Args:
        store: a folder for the files' contents, so that gigabytes need no memory.
        lfs: whether .safetensors files go through the large file storage, as on the real Hub. The client must then
            have its xet protocol switched off, for that one speaks to another server.
    """

    def __init__(self, store: Path, *, lfs: bool = True) -> None:
        store.mkdir(parents=True, exist_ok=True)
        self.store, self.lfs = store, lfs
        self.tokens = {token: set(namespaces) for token, namespaces in TOKENS.items()}
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []  # (method, path with query)
        self.failures: list[Failure] = []
        self.environment: dict[str, str] = {}  # of a client in another process; the fixture fills it
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Go away, as a server does when the connection is lost. Harmless if it happened before."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._server.shutdown()
            self._server.server_close()
            self._server.close_connections()

    def create_repo(self, repo: str, *, private: bool = False) -> Repository:
        """A repository with a first commit, as the Hub makes one."""
        with self.lock:
            repository = self.repositories[repo] = Repository(private)
            repository.add("main", "initial commit", {".gitattributes": self.put(b"*.safetensors filter=lfs\n", False)})
            return repository

    def commit(self, repo: str, files: dict[str, bytes | None], *, branch: str = "main", message: str = "-") -> str:
        """Put files into a repository without a client (None removes one), and return the commit's hash."""
        with self.lock:
            repository = self.repositories.get(repo) or self.create_repo(repo)
            tree = dict(repository.commits[repository.branches[branch]].files)
            for path, content in files.items():
                if content is None:
                    del tree[path]
                else:
                    tree[path] = self.put(content, self.is_lfs(path))
            return repository.add(branch, message, tree)

    def content(self, repo: str, path: str, revision: str = "main") -> bytes:
        """What a repository holds."""
        commit = self.repositories[repo].find(revision)
        assert commit is not None
        return (self.store / commit.files[path].sha256).read_bytes()

    def paths(self, repo: str, revision: str = "main") -> list[str]:
        """The names of the files of a commit, without the Hub's own .gitattributes."""
        commit = self.repositories[repo].find(revision)
        assert commit is not None
        return sorted(set(commit.files) - {".gitattributes"})

    def fail(
        self,
        kind: str,
        path: str = "model.safetensors",
        *,
        methods: tuple[str, ...] = ("GET",),
        times: int | None = 1,
        status: int = 503,
    ) -> None:
        """Let the next ``times`` requests (all, if None) whose path ends in ``path`` fail.

        Kinds, for files that are downloaded: ``cut`` closes the connection in the middle of the file, ``reset`` breaks
        it there, ``truncate`` sends half of the file as if it were all, ``stall`` sends half and then nothing, ``swap``
        sends other bytes of the same length; for any request: ``status`` answers with that status, ``html`` with a web
        page.
        """
        assert kind in ("cut", "reset", "truncate", "stall", "swap", "status", "html"), kind
        with self.lock:
            self.failures.append(Failure(kind, path, methods, times, status))

    def heal(self) -> None:
        """No failures from now on."""
        with self.lock:
            self.failures.clear()

    def count(self, part: str = "", method: str | None = None) -> int:
        """How many requests had ``part`` in their path (and that method)."""
        with self.lock:
            return sum(part in path and method in (None, verb) for verb, path in self.requests)

    def is_lfs(self, path: str) -> bool:
        return self.lfs and path.endswith(".safetensors")

    def put(self, content: bytes, lfs: bool) -> Blob:
        digest = sha256(content).hexdigest()
        target = self.store / digest
        if not target.exists():
            temporary = self.store / f"{digest}.{uuid4().hex}"
            temporary.write_bytes(content)
            temporary.replace(target)
        return Blob(digest, sha1(b"blob %d\0" % len(content) + content).hexdigest(), len(content), lfs)

    def failure_for(self, method: str, path: str) -> Failure | None:
        with self.lock:
            for failure in self.failures:
                if path.endswith(failure.path) and method in failure.methods:
                    if failure.times is not None:
                        failure.times -= 1
                        if failure.times == 0:
                            self.failures.remove(failure)
                    return failure
            return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments: object) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*arguments)  # type: ignore[arg-type]

    def process_request(self, request, client_address):  # type: ignore[no-untyped-def]
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):  # type: ignore[no-untyped-def]
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        """A client that goes away in the middle is no error of the server's."""

    def close_connections(self) -> None:
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already


class _Refused(Exception):
    """An answer that is not what was asked for."""

    def __init__(self, status: int, code: str | None = None, message: str = "", commit: str | None = None) -> None:
        super().__init__(message)
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        self.status = status
        self.headers = {name: value for name, value in headers.items() if value}
        self.body = {"error": message or code or str(status)}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    failure: Failure | None
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are separate writes, and a test makes hundreds of requests

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        address = urlsplit(self.path)
        if address.path == "/api/agent-harnesses":  # asked for by clients on their own account
            return self._json({"error": "none"}, 404)
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path))
        self._body_read = 0
        try:
            self.failure = self.hub.failure_for(self.command, address.path)
            if self.failure is not None and self.failure.kind == "html":
                page = b"<!doctype html><html><body>Sign in to this network to go on.</body></html>"
                self._drain()
                return self._bytes(page, 200, {"Content-Type": "text/html"})
            if self.failure is not None and self.failure.kind == "status":
                raise _Refused(self.failure.status, message="The server is having a bad day.")
            for method, pattern, action in _ROUTES:
                if method == self.command.replace("HEAD", "GET") and (match := re.fullmatch(pattern, address.path)):
                    return action(self, *map(unquote, match.groups()), **self._query(address.query))
            raise _Refused(404, message="Sorry, we can't find the page you are looking for.")
        except _Refused as refused:
            self._drain()
            self._json(refused.body, refused.status, refused.headers)

    @staticmethod
    def _query(text: str) -> dict[str, str]:
        return {key: values[-1] for key, values in parse_qs(text).items()}

    # Reading and answering.

    def _read(self) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        self._body_read = length
        return self.rfile.read(length)

    def _drain(self) -> None:
        """Take in what the client still sends, so that the connection can be used again."""
        rest = int(self.headers.get("Content-Length", 0)) - self._body_read
        while rest > 0 and (block := self.rfile.read(min(rest, _BLOCK))):
            rest -= len(block)

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._bytes(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _bytes(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # Who may do what.

    def _namespaces(self) -> set[str] | None:
        """What the request's token opens; None without a token."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            return None
        if token not in self.hub.tokens:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def _repository(self, repo: str) -> Repository:
        """The repository, if it exists and the request may see it; the Hub does not tell these two apart."""
        namespaces = self._namespaces()
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and repo.split("/")[0] not in (namespaces or ())):
            if namespaces is None:
                raise _Refused(401, "RepoNotFound", "Invalid username or password.")
            raise _Refused(404, "RepoNotFound", "Repository not found")
        return repository

    def _commit(self, repo: str, revision: str) -> Commit:
        commit = self._repository(repo).find(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _check_write(self, namespace: str) -> None:
        namespaces = self._namespaces()
        if namespaces is None:
            raise _Refused(401, message="Invalid username or password.")
        if namespace not in namespaces:
            raise _Refused(403, message=f"You don't have the rights to write under the namespace {namespace}")

    def _writable(self, repo: str) -> Repository:
        repository = self._repository(repo)
        self._check_write(repo.split("/")[0])
        return repository

    # Downloads.

    def resolve(self, repo: str, revision: str, path: str, **_: str) -> None:
        commit = self._commit(repo, revision)
        if path not in commit.files:
            raise _Refused(404, "EntryNotFound", "Entry not found", commit.sha)
        self._file(commit, commit.files[path])

    def _file(self, commit: Commit, blob: Blob) -> None:
        start, stop = self._range(blob.size)
        kind = self.failure.kind if self.failure is not None else ""
        half = start + (stop - start) // 2
        sent = half if kind in ("cut", "reset", "truncate", "stall") else stop
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("X-Repo-Commit", commit.sha)
        self.send_header("ETag", f'"{blob.oid}"')
        if blob.lfs:
            self.send_header("X-Linked-Etag", f'"{blob.oid}"')
            self.send_header("X-Linked-Size", str(blob.size))
        self.send_header("Accept-Ranges", "bytes")
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{blob.size}")
        self.send_header("Content-Length", str((sent if kind == "truncate" else stop) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        with (self.hub.store / blob.sha256).open("rb") as file:
            file.seek(start)
            while (rest := sent - file.tell()) > 0:
                block = file.read(min(rest, _BLOCK))
                self.wfile.write(block.translate(_OTHER_BYTES) if kind == "swap" else block)
        if kind == "stall":
            self.hub.stopping.wait(60)
        if kind in ("cut", "reset", "stall"):
            self._hang_up(broken=kind == "reset")

    def _range(self, size: int) -> tuple[int, int]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        start, stop = (int(match[1]), int(match[2]) + 1 if match[2] else size) if match else (0, size)
        if start >= size > 0:
            raise _Refused(416, message="Range not satisfiable")
        return start, min(stop, size)

    def _hang_up(self, *, broken: bool) -> None:
        self.wfile.flush()
        if broken:  # with nothing to wait for, closing sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
        self.close_connection = True

    # What a repository is.

    def info(self, repo: str, revision: str = "main", **_: str) -> None:
        commit = self._commit(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        private = self.hub.repositories[repo].private
        self._json({"id": repo, "sha": commit.sha, "private": private, "siblings": siblings, "tags": []})

    def tree(self, repo: str, revision: str, **_: str) -> None:
        entries = []
        for path, blob in sorted(self._commit(repo, revision).files.items()):
            entry: dict[str, object] = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_sha1}
            if blob.lfs:
                entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
            entries.append(entry)
        self._json(entries)

    def refs(self, repo: str, **_: str) -> None:
        repository = self._repository(repo)

        def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

        heads, tags = listed("heads", repository.branches), listed("tags", repository.tags)
        self._json({"branches": heads, "tags": tags, "converts": []})

    def history(self, repo: str, revision: str, **_: str) -> None:
        commits, commit = self._repository(repo).commits, self._commit(repo, revision)
        entries = []
        while commit is not None:
            date = "2026-01-01T00:00:00.000Z"
            entries.append({"id": commit.sha, "title": commit.message, "message": "", "date": date, "authors": []})
            commit = commits.get(commit.parent) if commit.parent else None  # type: ignore[assignment]
        self._json(entries)

    # Uploads.

    def create(self, **_: str) -> None:
        wanted = json.loads(self._read())
        self._check_write(wanted["organization"])
        repo = f"{wanted['organization']}/{wanted['name']}"
        existed = repo in self.hub.repositories
        if not existed:
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self.hub.create_repo(repo, private=private)
        self._json({"url": f"{self.hub.endpoint}/{repo}"}, 409 if existed else 200)

    def validate_yaml(self, **_: str) -> None:
        match = re.match(r"---\n(.*?)\n---", json.loads(self._read())["content"], re.DOTALL)
        try:
            good = match is not None and isinstance(yaml.safe_load(match[1]), dict)
        except yaml.YAMLError:
            good = False
        errors = [] if good else [{"message": "the front matter is no YAML"}]
        self._json({"errors": errors, "warnings": []}, 200 if good else 400)

    def preupload(self, repo: str, revision: str, **_: str) -> None:
        self._writable(repo)
        files = self._commit(repo, revision).files
        answers = []
        for file in json.loads(self._read())["files"]:
            path = file["path"]
            mode = "lfs" if self.hub.is_lfs(path) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
            if path in files:
                answers[-1]["oid"] = files[path].oid
        self._json({"files": answers})

    def lfs_batch(self, repo: str, **_: str) -> None:
        self._writable(repo)
        objects = []
        for wanted in json.loads(self._read())["objects"]:
            href = f"{self.hub.endpoint}/storage/{wanted['oid']}"
            stored = (self.hub.store / wanted["oid"]).exists()
            objects.append({**wanted, **({} if stored else {"actions": {"upload": {"href": href}}})})
        self._json({"transfer": "basic", "objects": objects})

    def storage(self, oid: str, **_: str) -> None:
        """Take a large file; its address was told only to those who may write."""
        rest, digest = int(self.headers["Content-Length"]), sha256()
        temporary = self.hub.store / f"{oid}.{uuid4().hex}"
        with temporary.open("wb") as file:
            while rest > 0 and (block := self.rfile.read(min(rest, _BLOCK))):
                rest -= len(block)
                digest.update(block)
                file.write(block)
        self._body_read = int(self.headers["Content-Length"])
        if rest or digest.hexdigest() != oid:
            temporary.unlink()
            raise _Refused(400, message="the content does not have that hash")
        temporary.replace(self.hub.store / oid)
        self._json({})

    def make_commit(self, repo: str, branch: str, **_: str) -> None:
        repository = self._writable(repo)
        with self.hub.lock:
            if branch not in repository.branches:
                raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {branch}")
            tree = dict(repository.commits[repository.branches[branch]].files)
            message = ""
            for line in self._read().splitlines():
                operation = json.loads(line)
                value = operation["value"]
                if operation["key"] == "header":
                    message = value["summary"]
                    if value.get("parentCommit", repository.branches[branch]) != repository.branches[branch]:
                        raise _Refused(412, message="The branch has moved on since that parent commit")
                else:
                    self._apply(tree, operation["key"], value)
            sha = repository.add(branch, message, tree)
        self._json({"commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{sha}", "success": True})

    def _apply(self, tree: dict[str, Blob], key: str, value: dict[str, str]) -> None:
        path = value["path"]
        if key == "file":
            tree[path] = self.hub.put(base64.b64decode(value["content"], validate=True), False)
        elif key == "lfsFile":
            stored = self.hub.store / value["oid"]
            if not stored.exists():
                raise _Refused(400, message=f"the content of {path} was never uploaded")
            size = stored.stat().st_size
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {size}\n".encode()
            oid = sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
            tree[path] = Blob(value["oid"], oid, size, True)
        elif key == "deletedFile" and path in tree:
            del tree[path]
        else:
            raise _Refused(404 if key == "deletedFile" else 400, "EntryNotFound", f"cannot do {key} to {path}")

    def branch(self, repo: str, name: str, **_: str) -> None:
        repository = self._writable(repo)
        start = self._commit(repo, json.loads(self._read() or b"{}").get("startingPoint", "main"))
        existed = name in repository.branches
        repository.branches.setdefault(name, start.sha)
        self._json({}, 409 if existed else 200)

    def tag(self, repo: str, revision: str, **_: str) -> None:
        repository = self._writable(repo)
        name = json.loads(self._read())["tag"]
        existed = name in repository.tags
        repository.tags.setdefault(name, self._commit(repo, revision).sha)
        self._json({}, 409 if existed else 200)


_REPO, _REV = r"([\w.-]+/[\w.-]+)", r"([^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", rf"/{_REPO}/resolve/{_REV}/(.+)", _Handler.resolve),
    ("GET", rf"/api/models/{_REPO}", _Handler.info),
    ("GET", rf"/api/models/{_REPO}/revision/{_REV}", _Handler.info),
    ("GET", rf"/api/models/{_REPO}/tree/{_REV}", _Handler.tree),
    ("GET", rf"/api/models/{_REPO}/refs", _Handler.refs),
    ("GET", rf"/api/models/{_REPO}/commits/{_REV}", _Handler.history),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", rf"/api/models/{_REPO}/preupload/{_REV}", _Handler.preupload),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/storage/([0-9a-f]{64})", _Handler.storage),
    ("POST", rf"/api/models/{_REPO}/commit/{_REV}", _Handler.make_commit),
    ("POST", rf"/api/models/{_REPO}/branch/{_REV}", _Handler.branch),
    ("POST", rf"/api/models/{_REPO}/tag/{_REV}", _Handler.tag),
]


def client_environment(endpoint: str, home: Path) -> dict[str, str]:
    """The variables under which a client knows only that endpoint and that folder."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


# What a client would read besides: tokens and settings of whoever runs the tests.
FOREIGN_VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_OIDC_RESOURCE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HUGGINGFACE_HUB_CACHE",
    "HUGGINGFACE_CO_STAGING",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that this process's client uses, with an empty cache, no token, and no xet.

    The client reads its settings when it is imported, hence the many replacements. Its waits between tries are left
    out.
    """
    from huggingface_hub import constants, file_download, hf_api
    from huggingface_hub.utils import _detect_agent, _http, close_session

    with HubServer(tmp_path / "hub-store") as server:
        home = tmp_path / "hf-home"
        variables = client_environment(server.endpoint, home)
        server.environment = {k: v for k, v in os.environ.items() if k not in FOREIGN_VARIABLES} | variables
        for name in FOREIGN_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for name in ("HF_HOME", "HF_HUB_CACHE", "HF_ASSETS_CACHE", "HF_XET_CACHE", "HF_TOKEN_PATH"):
            monkeypatch.setattr(constants, name, variables[name])
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / ".agent_harnesses.json"))
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hf_api.api, "endpoint", server.endpoint)
        monkeypatch.setattr(_detect_agent, "_registry", _detect_agent._EMPTY_REGISTRY)
        for module in (_http, file_download):
            monkeypatch.setattr(module, "time", SimpleNamespace(**vars(module.time) | {"sleep": lambda _: None}))
        close_session()  # connections and proxies of before
        yield server
        close_session()
