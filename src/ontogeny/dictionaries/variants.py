"""Further dictionaries of a run, trained with other settings or on other batches, to hold the studied one against."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from ontogeny.activations.stream import stream_of
from ontogeny.config import CrosscoderConfig
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.load import load_dictionary
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.run import Run, is_kept, keeping, remove
from ontogeny.settings import fingerprint


def variant(
    run: Run, name: str, *, batches: Callable[[], Iterable[Tensor]] | None = None, of: Any = None, **changes: Any
) -> Crosscoder:
    """A dictionary trained as the run's own but for some settings; kept in `variants/NAME` and not trained again.

    Args:
        batches: makes other batches than the run's own stream.
        of: what those depend on beside the run, for the variant's fingerprint.
        changes: settings of `CrosscoderConfig`.
    """
    config = CrosscoderConfig(**run.study.crosscoder.model_dump() | changes)
    key = fingerprint(run.manifest["stages"]["train"]["key"], config, of)
    folder = run.folder / "variants" / name
    checkpoint = run.checkpoints / f"{name}.pt"
    if not is_kept(folder, key):
        given = stream_of(run) if batches is None else batches()
        trained = train_crosscoder(given, config, checkpoint=checkpoint, key=key, events=run.events, stage=name)
        with keeping(folder, key) as temporary:
            trained.save(temporary / "dictionary")
        remove(checkpoint)
    loaded = load_dictionary(folder / "dictionary")
    assert isinstance(loaded, Crosscoder)
    return loaded
