"""Are a suite's snapshots what their names say? Published branches often are not.

From the hub's listing alone, without fetching weights: equal files at different steps, weights of `main` at an early
step, shards that are missing, configurations and tokenizers that differ. Of snapshots on disk also how their embeddings
move: one that sits at the end of training long before its time is not what its name says.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ontogeny.errors import SuiteError
from ontogeny.families import family_of
from ontogeny.files import content_state, file_hash
from ontogeny.suites.hub import Hub
from ontogeny.suites.registry import find_suite, parse_all
from ontogeny.suites.source import FILES, WEIGHT_FILES, Snapshot
from ontogeny.suites.suite import Suite, tensors_of

AUDIT = {
    "step": pl.Int64,
    "revision": pl.String,
    "commit": pl.String,
    "weights": pl.String,
    "problems": pl.List(pl.String),
}
TOO_NEAR = 0.5
"""A snapshot nearer to the last one than this share of its neighbours' distances sits where it should not be yet."""
NOT_SHAPE = (
    "_name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "architectures",
    "_commit_hash",
)
"""Settings of a configuration that say nothing of the architecture."""
PIECES, ROWS = 64, 64
"""Of an embedding: as many pieces of as many rows are looked at."""
EMBEDDINGS = ("embed_in.weight", "embed_tokens.weight", "wte.weight", "word_embeddings.weight")


class _Held(NamedTuple):
    """What a snapshot holds: digests of its weights, the shards that are missing, its tokenizer's digest; of one on
    disk also the files that are cut short, and its tensors' names and shapes."""

    weights: tuple[str, ...]
    missing: tuple[str, ...]
    tokenizer: str | None
    short: tuple[str, ...] = ()
    tensors: tuple[tuple[str, str], ...] | None = None


def audit_suite(suite: Suite, *, embeddings: bool = True) -> pl.DataFrame:
    """A row per snapshot: step, revision, commit, the beginning of its weights' digest, and what is wrong with it.

    Args:
        embeddings: whether those of snapshots on disk are read.
    """
    held = [_held(snapshot) for snapshot in suite.snapshots]
    problems: dict[int, list[str]] = defaultdict(list)
    for place, one in enumerate(held):
        if one.missing:
            problems[place].append(f"lacks {', '.join(one.missing)}")
        elif not one.weights:
            problems[place].append("has no weights")
        if one.short:
            problems[place].append(f"has damaged or cut short {', '.join(one.short)}")
    _duplicates(suite, held, problems)
    configs = [_architecture(snapshot) for snapshot in suite.snapshots]
    _odd(configs, problems, "configuration", _difference)
    _odd([one.tokenizer for one in held], problems, "tokenizer", lambda *_: "")
    _odd([one.tensors for one in held], problems, "set of tensors", _difference)
    if embeddings:
        _too_near(suite, problems)
    rows = [
        (
            one.step,
            one.revision,
            one.commit,
            held[place].weights[0][:16] if held[place].weights else None,
            problems[place],
        )
        for place, one in enumerate(suite.snapshots)
    ]
    return pl.DataFrame(rows, schema=AUDIT, orient="row")


def refuse_bad(suite: Suite) -> None:
    """Check a suite by its listing before anything is done with it.

    Raises:
        SuiteError: a snapshot is not what its name says.
    """
    table = audit_suite(suite, embeddings=False).filter(pl.col("problems").list.len() > 0)
    if not len(table):
        return
    said = [f"step {row['step']} {row['problems'][0]}" for row in table.head(3).to_dicts()]
    more = f"; {len(table) - 3} more" if len(table) > 3 else ""
    raise SuiteError(
        f"suite {suite.name}: {'; '.join(said)}{more}: leave them out of suite.steps (ontogeny suites audit), or set "
        "suite.bad_snapshots: accept"
    )


def _held(snapshot: Snapshot) -> _Held:
    if isinstance(snapshot.source, Hub):
        hub, commit = snapshot.source, str(snapshot.commit)
        files = {file.path: file for file in hub.files(snapshot.repo, commit)}
        weights, tokenizer = hub.weights(snapshot.repo, commit), files.get("tokenizer.json")
        index = next((file.path for file in weights if file.path.endswith(".json")), None)
        missing = () if index is None else _missing(hub.small(snapshot.repo, commit, index), set(files))
        digests = tuple(sorted(file.digest for file in weights if not file.path.endswith(".json")))
        return _Held(digests, missing, None if tokenizer is None else tokenizer.digest)
    if snapshot.source is FILES:
        return _Held((_digest(snapshot.path),), (), None, *_tensors([snapshot.path]))
    there = {path.name for path in snapshot.path.iterdir()}
    first = next((name for name in WEIGHT_FILES if name in there), None)
    index = snapshot.path / first if first is not None and first.endswith(".json") else None
    names = [] if first is None else [first] if index is None else _shards(index)
    tokenizer = snapshot.path / "tokenizer.json"
    return _Held(
        tuple(sorted(_digest(snapshot.path / name) for name in names if name in there)),
        () if index is None else _missing(index, there),
        file_hash(tokenizer) if tokenizer.is_file() else None,
        *_tensors([snapshot.path / name for name in names if name in there]),
    )


def _tensors(files: Sequence[Path]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...] | None]:
    """Which of some files are not as long as their headers say, and all their tensors; None where not all are known."""
    if any(file.suffix != ".safetensors" for file in files):
        return (), None
    read = {file.name: tensors_of(file) for file in files}
    short = tuple(name for name, shapes in read.items() if shapes is None)
    every = sorted((name, str(list(shape))) for shapes in read.values() if shapes for name, shape in shapes.items())
    return short, None if short else tuple(every)


def _digest(file: Path) -> str:
    """What tells a file's content: its hash, or where it is large its size and a hash of pieces of it."""
    size, state = content_state(file)
    if len(state) == 64:
        return state
    from hashlib import sha256

    digest = sha256(str(size).encode())
    with file.open("rb") as opened:
        for place in np.linspace(0, max(size - (1 << 16), 0), 64).astype(int).tolist():
            opened.seek(place)
            digest.update(opened.read(1 << 16))
    return digest.hexdigest()


def _shards(index: Path) -> list[str]:
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _missing(index: Path, there: set[str]) -> tuple[str, ...]:
    return tuple(shard for shard in _shards(index) if shard not in there)


def _duplicates(suite: Suite, held: Sequence[_Held], problems: dict[int, list[str]]) -> None:
    """Equal weights at different steps, and those of `main` before the last step."""
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, one in enumerate(held):
        if one.weights and not one.missing:
            places[one.weights].append(place)
    for same in places.values():
        for place in same if len(same) > 1 else ():
            others = ", ".join(f"{suite.steps[other]}" for other in same if other != place)
            problems[place].append(f"has the same weights as step {others}")
    final, last = _of_main(suite)
    for place, step in enumerate(suite.steps):
        if step < last and held[place].weights == final and len(places[held[place].weights]) == 1:
            problems[place].append("has the final weights, those of main")


def _of_main(suite: Suite) -> tuple[tuple[str, ...] | None, int]:
    """The digests of main's weights, None where there are none to compare, and the last step of the repository, whether
    it is among those chosen or not."""
    first = suite.snapshots[0]
    source = first.source
    if not isinstance(source, Hub) or first.revision == "main":
        return None, suite.steps[-1]
    try:
        refs = source.refs(first.repo)
        weights = source.weights(first.repo, refs["main"]) if "main" in refs else []
    except SuiteError:
        return None, suite.steps[-1]
    _, public = find_suite(first.repo)
    steps = [one.step for one in parse_all(refs, public).values()]
    digests = tuple(sorted(file.digest for file in weights if not file.path.endswith(".json")))
    return digests or None, max([suite.steps[-1], *steps])


def _architecture(snapshot: Snapshot) -> tuple[tuple[str, str], ...]:
    """What a configuration says of the architecture, defaults that it leaves out among it."""
    from transformers import CONFIG_MAPPING, AutoConfig

    config = snapshot.source.config(snapshot)
    if (family := str(config.get("model_type"))) in CONFIG_MAPPING:
        config = AutoConfig.for_model(family, **{key: config[key] for key in config if key != "model_type"}).to_dict()
    return tuple(sorted((key, json.dumps(value)) for key, value in config.items() if key not in NOT_SHAPE))


def _odd(found: Sequence[Any], problems: dict[int, list[str]], what: str, say: Any) -> None:
    """Snapshots that differ from what most have; where none is known, nothing is said."""
    known = Counter(one for one in found if one is not None)
    if len(known) < 2:
        return
    usual = known.most_common(1)[0][0]
    for place, one in enumerate(found):
        if one is not None and one != usual:
            problems[place].append(f"has another {what} than most{say(one, usual)}")


def _difference(one: tuple[tuple[str, str], ...], usual: tuple[tuple[str, str], ...]) -> str:
    own, others = dict(one), dict(usual)
    names = sorted(name for name in own.keys() | others.keys() if own.get(name) != others.get(name))
    return " (" + ", ".join(f"{name} {own.get(name)} for {others.get(name)}" for name in names[:3]) + ")"


def _too_near(suite: Suite, problems: dict[int, list[str]]) -> None:
    """Snapshots on disk whose embedding lies by the last one's long before its neighbours' do."""
    read = [_embedding(snapshot) for snapshot in suite.snapshots]
    if len(read) < 4 or any(one is None or one.shape != read[-1].shape for one in read):  # type: ignore[union-attr]
        return
    distance = np.asarray([float(np.linalg.norm(one - read[-1])) for one in read])  # type: ignore[operator]
    for place in range(1, len(read) - 2):
        beside = min(distance[place - 1], distance[place + 1])
        if distance[place] < TOO_NEAR * beside:
            problems[place].append(
                f"lies {beside / max(distance[place], 1e-12):.1f} times nearer to the last snapshot than its neighbours"
            )


def _embedding(snapshot: Snapshot) -> np.ndarray | None:
    """Rows of the embedding of a snapshot on disk in safetensors, spread over it; None for others."""
    if snapshot.commit is not None:
        return None
    from safetensors import SafetensorError, safe_open

    family_of(str(snapshot.source.config(snapshot).get("model_type")))
    files = [snapshot.path] if snapshot.source is FILES else sorted(snapshot.path.glob("*.safetensors"))
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - no mapping
                    if name.endswith(EMBEDDINGS):
                        rows = weights.get_slice(name)
                        n = rows.get_shape()[0]
                        starts = sorted({round(start) for start in np.linspace(0, max(n - ROWS, 0), PIECES)})
                        return np.concatenate([rows[start : start + ROWS].float().numpy() for start in starts])
        except SafetensorError:
            return None
    return None
