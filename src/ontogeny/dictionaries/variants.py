"""Further dictionaries of a run, trained on its own stream with other settings, to hold the studied one against."""

from typing import Any

from ontogeny.activations.stream import stream_of
from ontogeny.config import CrosscoderConfig, fingerprint
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.load import load_dictionary
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.run import Run, remove, write_text
from ontogeny.suites.suite import Suite


def variant(run: Run, name: str, *, suite: Suite | None = None, **changes: Any) -> Crosscoder:
    """A dictionary trained as the run's own but for some settings; kept in `variants/NAME` and not trained again.

    Args:
        suite: some of the run's snapshots; None for all.
        changes: settings of `CrosscoderConfig`.
    """
    config = CrosscoderConfig(**run.study.crosscoder.model_dump() | changes)
    steps = None if suite is None else suite.steps
    key = fingerprint(run.manifest["stages"]["train"]["key"], config, steps)
    folder = run.folder / "variants" / name
    key_file, checkpoint = folder / "key", run.checkpoints / f"{name}.pt"
    if not key_file.is_file() or key_file.read_text(encoding="utf-8") != key:
        trained = train_crosscoder(
            stream_of(run, suite=suite), config, checkpoint=checkpoint, key=key, events=run.events, stage=name
        )
        key_file.unlink(missing_ok=True)
        trained.save(folder / "dictionary")
        write_text(key_file, key)
        remove(checkpoint)
    loaded = load_dictionary(folder / "dictionary")
    assert isinstance(loaded, Crosscoder)
    return loaded
