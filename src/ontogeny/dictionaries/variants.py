"""Further dictionaries of a run, trained with other settings or on other batches, to hold the studied one against."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from ontogeny.activations.key import snapshot_keys
from ontogeny.activations.stream import SnapshotStream, stream_of
from ontogeny.config.learner import CrosscoderConfig, SAESeriesConfig
from ontogeny.config.settings import fingerprint
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.load import load_dictionary
from ontogeny.dictionaries.sae_series import SAESeries
from ontogeny.dictionaries.track import train_sae_series
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.files import is_kept, keeping, remove
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of


def variant(
    run: Run,
    name: str,
    *,
    batches: Callable[[], Iterable[Tensor]] | None = None,
    of: Any = None,
    start: Callable[[], Crosscoder] | None = None,
    **changes: Any,
) -> Crosscoder:
    """A dictionary trained as the run's own but for some settings; kept in `variants/NAME` and not trained again.

    Args:
        batches: makes other batches than the run's own stream.
        of: what those and the start depend on beside the run, for the variant's fingerprint.
        start: makes the crosscoder that its weights start from, in place of random ones.
        changes: settings of `CrosscoderConfig`.
    """
    config = CrosscoderConfig(**run.study.crosscoder.model_dump() | changes)
    key = fingerprint(run.manifest["stages"]["train"]["key"], config, of)
    folder = run.folder / "variants" / name
    checkpoint = run.checkpoints / f"{name}.pt"
    if not is_kept(folder, key):
        given = stream_of(run) if batches is None else batches()
        begun = None if start is None else start()
        trained = train_crosscoder(
            given, config, checkpoint=checkpoint, key=key, events=run.events, stage=name, start=begun
        )
        with keeping(folder, key) as temporary:
            trained.save(temporary / "dictionary")
        remove(checkpoint)
    loaded = load_dictionary(folder / "dictionary")
    assert isinstance(loaded, Crosscoder)
    return loaded


def seed_variant(run: Run, seed: int) -> Crosscoder:
    """The run's dictionary trained in full with another seed, on the tokens in another order."""
    return variant(run, f"seed-{seed}", batches=partial(stream_of, run, seed=seed), of=seed, seed=seed)


def batch_topk(run: Run, name: str, *, k: int, snapshot: int | None = None, **changes: Any) -> Crosscoder:
    """A dictionary of all snapshots, or an SAE of one alone: otherwise as the run's own, but BatchTopK with this k."""
    of = {} if snapshot is None else _only(run, snapshot)
    return variant(run, name, activation="batch_topk", gate="shared", sparsity="none", k=k, **of, **changes)


def refit_slice(run: Run, snapshot: int) -> Crosscoder:
    """An SAE of one snapshot that starts from the crosscoder's weights there, so that features keep their numbers.

    A crosscoder's code is a sum over snapshots: a slice of its encoder sees its own part alone. It starts scaled up by
    the number of snapshots and is trained, as BatchTopK with as many active features as the crosscoder has there, on a
    fifth of the study's tokens.
    """
    k = max(1, round(run.table("quality").sort("snapshot")["l0"][snapshot]))
    steps, only = max(1, run.study.train.steps // 5), _only(run, snapshot)
    only["of"] = ["slice", only["of"]]
    changes = {"activation": "batch_topk", "gate": "shared", "sparsity": "none", "encoder": "sum", "k": k}
    start = partial(_slice, run, snapshot)
    return variant(run, f"slice-step{run.steps[snapshot]}", start=start, steps=steps, **only, **changes)


def _slice(run: Run, snapshot: int) -> Crosscoder:
    whole, place = run.dictionary(), slice(snapshot, snapshot + 1)
    many = 1 if whole.encoder == "mean" else whole.n_snapshots
    return Crosscoder(
        W_enc=whole.W_enc[place] * many, W_dec=whole.W_dec[place], b_enc=whole.b_enc, b_dec=whole.b_dec[place],
        norm_scale=whole.norm_scale[place], activation="relu",
    )  # fmt: skip


def _only(run: Run, snapshot: int) -> dict[str, Any]:
    """Batches of one snapshot alone, and what they depend on."""
    one = suite_of(run).only([snapshot])
    return {"batches": partial(stream_of, run, suite=one), "of": one.steps}


def series(
    run: Run,
    folder: Path,
    *,
    places: Sequence[int] | None = None,
    rounds: Sequence[int] | None = None,
    **changes: Any,
) -> SAESeries:
    """An SAE series on a run's snapshots; its SAEs stay in the folder and are not trained again.

    Each SAE reads on in the corpus after all the rounds that the one before it in the chain may have taken. Over the
    gap of a number it takes as many tokens in every series, whichever snapshots stand at its ends, and the same ones
    in every series of one direction.

    Args:
        places: snapshots in the order of the series, which may repeat or be permuted; None for the run's own order.
        rounds: in how many each SAE takes its tokens, in the order of training; None for as many as help.
        changes: settings of `SAESeriesConfig`.
    """
    places = range(len(run.steps)) if places is None else places
    config = SAESeriesConfig(**run.study.sae_series.model_dump() | changes)
    n, turn = len(places), 1 if config.direction == "forward" else -1
    steps = [config.rounds * config.steps_of(config.gap_of(place, n)) for place in range(n)][::turn]
    firsts = [0, *accumulate(steps[:-1])][::turn]
    keys = snapshot_keys(run)
    return train_sae_series(
        [SnapshotStream(run, place, first=first) for place, first in zip(places, firsts, strict=True)],
        config,
        folder=folder,
        rounds=rounds,
        key=[fingerprint(keys[place], run.study.train, first) for place, first in zip(places, firsts, strict=True)],
        events=run.events,
    )
