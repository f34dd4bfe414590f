"""Suites on the Hugging Face hub: listed, pinned to commits, fetched ahead, and dropped again within a disk budget.

Weights lie in the hub client's own cache, so that what a user has already is not fetched again; only what was fetched
here is ever dropped. Listings and configurations are small and are kept in our own cache, by commit.
"""

import fcntl
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from ontogeny.errors import SuiteError
from ontogeny.files import atomic_path, default_cache, write_json
from ontogeny.suites.source import WEIGHT_FILES, Snapshot, Source

Found = TypeVar("Found")
AGAIN = (408, 425, 429, 500, 502, 503, 504)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
ATTEMPTS, FIRST_WAIT, LONGEST_WAIT = 8, 0.5, 30.0


class RepoFile(NamedTuple):
    """A file of a repository at a commit.

    Attributes:
        path: in the repository.
        size: in bytes.
        digest: SHA-256 of a large file, git's hash of a small one: equal content has equal digests.
    """

    path: str
    size: int
    digest: str


def patiently(call: Callable[[], Found], what: str) -> Found:
    """The result of a call to the hub, made again while it fails in ways that pass.

    Raises:
        SuiteError: it is refused, or fails too often.
    """
    import httpx2
    from huggingface_hub import errors

    problem: BaseException | None = None
    for attempt in range(ATTEMPTS):
        wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)
        try:
            return call()
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
            raise SuiteError(
                f"the hub has no {what}: {_line(error)} (private or gated ones need `hf auth login`)"
            ) from None
        except errors.OfflineModeIsEnabled as error:
            raise SuiteError(f"{what} is not in the cache and HF_HUB_OFFLINE is set: {_line(error)}") from None
        except errors.HfHubHTTPError as error:
            problem = error
            if error.response is not None and error.response.status_code not in AGAIN:
                raise SuiteError(f"the hub refuses {what}: {_line(error)}") from None
            header = "" if error.response is None else error.response.headers.get("retry-after", "")
            wait = min(float(header), LONGEST_WAIT) if header.isdigit() else wait
        except (errors.LocalEntryNotFoundError, httpx2.HTTPError, ConnectionError, TimeoutError, OSError) as error:
            if getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError | TimeoutError):
                raise  # the disk's, not the network's
            problem = error
        if attempt < ATTEMPTS - 1:
            time.sleep(wait)
    raise SuiteError(f"{what} could not be fetched in {ATTEMPTS} attempts: {_line(problem)}: try again later")


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:200]


class Hub(Source):
    """Repositories on the hub as a source of snapshots.

    Args:
        disk_gb: disk for weights fetched here, in 1e9 bytes; None: they are kept.
    """

    def __init__(self, disk_gb: float | None = None) -> None:
        self.disk = None if disk_gb is None else disk_gb * 1e9
        self.folder = default_cache() / "hub"
        self._next: dict[Snapshot, Snapshot | None] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hub")
        self._lock = threading.Lock()
        self._coming: dict[str, Future[Path | None]] = {}

    def in_order(self, snapshots: Sequence[Snapshot]) -> None:
        """Say in which order snapshots are read: while one is, the next one's files come."""
        ended = dict.fromkeys(snapshots[-1:])
        self._next |= {**dict(pairwise(snapshots)), **ended}

    # what is small, and kept by commit

    def refs(self, repo: str) -> dict[str, str]:
        """The commit of every branch and tag; offline, those that were seen last."""
        from huggingface_hub import HfApi, constants

        path = self._kept(repo) / "refs.json"
        if constants.HF_HUB_OFFLINE:
            if not path.is_file():
                raise SuiteError(f"{repo} was never listed here and HF_HUB_OFFLINE is set: list it once online")
            return json.loads(path.read_text(encoding="utf-8"))
        found = patiently(lambda: HfApi().list_repo_refs(repo), repo)
        refs = {ref.name: ref.target_commit for ref in (*found.branches, *found.tags)}
        write_json(path, refs)
        return refs

    def files(self, repo: str, commit: str) -> list[RepoFile]:
        """All files at a commit, from the hub's listing; nothing of them is fetched."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile as Listed

        path = self._kept(repo, commit) / "files.json"
        if not path.is_file():
            api = HfApi()
            listed = patiently(
                lambda: list(api.list_repo_tree(repo, revision=commit, recursive=True)), f"{repo} at {commit}"
            )
            rows = [
                (entry.path, entry.size, entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)
                for entry in listed
                if isinstance(entry, Listed)
            ]
            write_json(path, rows)
        return [RepoFile(*row) for row in json.loads(path.read_text(encoding="utf-8"))]

    def small(self, repo: str, commit: str, name: str) -> Path:
        """A small file, fetched once and kept beside the listing."""
        from huggingface_hub import hf_hub_download

        path = self._kept(repo, commit) / name
        if not path.is_file():
            fetched = patiently(lambda: hf_hub_download(repo, name, revision=commit), f"{name} of {repo} at {commit}")
            with atomic_path(path) as temporary:
                temporary.write_bytes(Path(fetched).read_bytes())
        return path

    def weights(self, repo: str, commit: str) -> list[RepoFile]:
        """The files that hold the weights, and their index where there is one: safetensors before others."""
        files = {file.path: file for file in self.files(repo, commit)}
        for name in WEIGHT_FILES:
            if name not in files:
                continue
            if not name.endswith(".json"):
                return [files[name]]
            shards = set(json.loads(self.small(repo, commit, name).read_text(encoding="utf-8"))["weight_map"].values())
            return [files[name], *(files[shard] for shard in sorted(shards) if shard in files)]
        return []

    def _kept(self, repo: str, commit: str = "") -> Path:
        return self.folder / repo.replace("/", "--") / commit

    # as a source of snapshots

    def config(self, snapshot: Snapshot) -> dict[str, Any]:
        path = self.small(snapshot.repo, _commit(snapshot), "config.json")
        return json.loads(path.read_text(encoding="utf-8"))

    def tokenizer(self, snapshot: Snapshot) -> Path | None:
        commit = _commit(snapshot)
        names = {file.path for file in self.files(snapshot.repo, commit)}
        if "tokenizer.json" not in names:
            return None
        for name in TOKENIZER_FILES:
            if name in names:
                self.small(snapshot.repo, commit, name)
        return self._kept(snapshot.repo, commit)

    def state(self, snapshot: Snapshot) -> list[tuple[int | str, ...]]:
        return [(snapshot.step, snapshot.revision, snapshot.repo, _commit(snapshot))]

    def bytes_to_fetch(self, snapshot: Snapshot) -> int:
        files = self.weights(snapshot.repo, _commit(snapshot))
        is_here = self._is_here(snapshot, [file.path for file in files])
        return 0 if is_here else sum(file.size for file in files)

    @contextmanager
    def opened(self, snapshot: Snapshot) -> Iterator[Path]:
        """The snapshot's files on disk; the next one's come meanwhile. While it is open no process drops it."""
        with self._in_use(snapshot):
            folder = self._ask(snapshot).result()
            if folder is None or not self._is_here(snapshot):
                # there was no room for it while it was only ahead, or another process has dropped it since
                folder = self._ask(snapshot, anew=True).result()
            if folder is None:
                size = sum(file.size for file in self.weights(snapshot.repo, _commit(snapshot))) / 1e9
                raise SuiteError(
                    f"suite.disk_gb is {(self.disk or 0) / 1e9:g}, but {snapshot.label} takes {size:.3g}: give more"
                )
            if (following := self._next.get(snapshot)) is not None:
                self._ask(following)
            yield folder

    def _ask(self, snapshot: Snapshot, *, anew: bool = False) -> "Future[Path | None]":
        key = _key(snapshot)
        with self._lock:
            known = self._coming.get(key)
            failed = known is not None and known.done() and (known.cancelled() or known.exception() is not None)
            if known is None or anew or failed:
                known = self._coming[key] = self._pool.submit(self._fetch, snapshot)
            return known

    def _fetch(self, snapshot: Snapshot) -> Path | None:
        """Fetch a snapshot's weights; None where the budget has no room for them."""
        with self._in_use(snapshot):
            return self._fetch_now(snapshot)

    def _fetch_now(self, snapshot: Snapshot) -> Path | None:
        from huggingface_hub import constants, snapshot_download

        repo, commit = snapshot.repo, _commit(snapshot)
        files = self.weights(repo, commit)
        if not files:
            raise SuiteError(f"{snapshot.label} has no weights: leave it out of suite.steps")
        names = [file.path for file in files]
        if not self._is_here(snapshot, names):
            if constants.HF_HUB_OFFLINE:
                raise SuiteError(
                    f"{snapshot.label} is not in the cache and HF_HUB_OFFLINE is set: fetch it once online"
                )
            if not self._make_room(_key(snapshot), sum(file.size for file in files)):
                return None
        wanted = [*names, "config.json", "generation_config.json"]

        def download() -> str:
            folder = snapshot_download(repo, revision=commit, allow_patterns=wanted)
            if not self._is_here(snapshot, names):  # without a connection it gives what is there
                raise ConnectionError(f"{snapshot.label} came without all of its weights")
            return folder

        return Path(patiently(download, snapshot.label))

    def _is_here(self, snapshot: Snapshot, names: list[str] | None = None) -> bool:
        """Whether the files, or all weights, are in the cache."""
        from huggingface_hub import try_to_load_from_cache

        repo, commit = snapshot.repo, _commit(snapshot)
        if names is None:
            names = [file.path for file in self.weights(repo, commit)]
        return all(isinstance(try_to_load_from_cache(repo, name, revision=commit), str) for name in names)

    # what was fetched here, and may be dropped; several processes may do so

    @contextmanager
    def _in_use(self, snapshot: Snapshot) -> Iterator[None]:
        """While the block runs, no process drops the snapshot."""
        with self._lock_of(_key(snapshot)) as lock:
            if self.disk is not None and _is_free(lock):
                self._sweep(_key(snapshot))
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    @contextmanager
    def _lock_of(self, name: str) -> Iterator[IO[bytes]]:
        path = self.folder / "locks" / name.replace("/", "--")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            yield file

    def _fetched(self) -> dict[str, int]:
        """Bytes of each snapshot that was fetched here, the one fetched longest ago first."""
        path = self.folder / "fetched.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _make_room(self, key: str, size: int) -> bool:
        """Note down a snapshot that is to be fetched, and drop others until it fits; False where that cannot be."""
        if self.disk is None:
            return True
        with self._lock_of("fetched") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fetched = {name: held for name, held in self._fetched().items() if name != key}
            for victim in list(fetched):
                if sum(fetched.values()) + size <= self.disk:
                    break
                if self._drop_idle(victim):
                    del fetched[victim]
                    write_json(self.folder / "fetched.json", fetched)
            fits = sum(fetched.values()) + size <= self.disk
            if fits:
                write_json(self.folder / "fetched.json", {**fetched, key: size})
            return fits

    def _drop_idle(self, key: str) -> bool:
        """Drop a snapshot unless it is in use."""
        with self._lock_of(key) as lock:
            if not _is_free(lock):
                return False
            with self._lock:
                self._coming.pop(key, None)
            self._drop(key)
            self._sweep(key)
            return True

    def _sweep(self, key: str) -> None:
        """Remove what killed downloads of a snapshot left: the client gives each attempt a name of its own."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        repo, commit = key.split("@")
        blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
        for file in self.weights(repo, commit) if blobs.is_dir() else ():
            for left in blobs.glob(f"{file.digest}*.incomplete"):
                left.unlink(missing_ok=True)

    def _drop(self, key: str) -> None:
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound

        repo, commit = key.split("@")
        try:
            cache = scan_cache_dir()
        except CacheNotFound:
            return
        here = {revision.commit_hash for one in cache.repos if one.repo_id == repo for revision in one.revisions}
        if commit in here:
            cache.delete_revisions(commit).execute()


@lru_cache(maxsize=16)
def hub_of(disk_gb: float | None = None) -> Hub:
    """The one `Hub` of a budget in this process: who uses it may not drop what another one reads."""
    return Hub(disk_gb)


def _is_free(lock: IO[bytes]) -> bool:
    """Take a lock for oneself, if nobody else has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _commit(snapshot: Snapshot) -> str:
    assert snapshot.commit is not None
    return snapshot.commit


def _key(snapshot: Snapshot) -> str:
    return f"{snapshot.repo}@{_commit(snapshot)}"
