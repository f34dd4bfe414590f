"""Does a model show features more strongly on the text that it was trained on than on text that it has not seen?

A feature of a memorised passage is there on the training text and not elsewhere. Both texts are read by the same
dictionary, which has seen the first of them too: what it has learned by heart shows at every snapshot, and the first,
untrained model can have memorised nothing.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ontogeny.config.settings import fingerprint
from ontogeny.corpus.pack import Corpus
from ontogeny.features.life import alive_mask
from ontogeny.files import is_kept, keeping
from ontogeny.progress import progress_bar
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of
from ontogeny.tables import from_rows

if TYPE_CHECKING:
    from ontogeny.features.texts import TextSums

TEXTS = ("train", "held_out")


def memorisation(run: Run) -> pl.DataFrame:
    """The table `memorisation`: a row per living feature and snapshot."""
    from ontogeny.features.texts import text_gap

    greatest, living, tables = _greatest(run), _living(run), []
    for snapshot, place, texts in _sums(run):
        one, other = (texts[name].at(place) for name in TEXTS)
        found = text_gap(one, other, greatest=greatest)
        low, high = found.interval(min(len(one[0]), len(other[0])))
        density = {f"density_{name}": texts[name].active / texts[name].tokens for name in TEXTS}
        columns = {"gap": found.gap, "gap_ci_low": low, "gap_ci_high": high, "p": found.p, **density}
        tables.append(
            pl.DataFrame({"feature": np.arange(len(greatest)), "snapshot": snapshot, "step": run.steps[snapshot]})
            .with_columns(**{name: pl.Series(values) for name, values in columns.items()})
            .filter(pl.Series(living))
        )
    return pl.concat(tables).with_columns(pl.col(pl.Float64).fill_nan(None)).sort("feature", "snapshot")


def memorisation_snapshots(run: Run) -> pl.DataFrame:
    """The table `memorisation_snapshots`: the mean gap over the features alive at each snapshot, and how many are
    beyond chance, with the same where documents are dealt to the two texts at random."""
    from ontogeny.features.levels import significant
    from ontogeny.features.texts import mean_gap_interval, text_gap

    settings, greatest, living = run.study.analysis, _greatest(run), _living(run)
    alive = alive_mask(run.matrix("strength"), run.study.measure.alive_threshold)
    rows = []
    for snapshot, place, texts in _sums(run):
        both = [texts[name].at(place) for name in TEXTS]
        chosen = np.flatnonzero(alive[snapshot] & living & ~np.isnan(text_gap(*both, greatest=greatest).gap))
        own = [(product[:, chosen], square[:, chosen]) for product, square in both]
        row: dict[str, Any] = {"snapshot": snapshot, "step": run.steps[snapshot], "features": len(chosen)}
        if len(chosen):
            found = text_gap(*own, greatest=greatest[chosen])
            drawn = {"samples": settings.bootstrap, "seed": settings.seed}
            low, high = mean_gap_interval(*own, greatest=greatest[chosen], **drawn)
            beyond = significant(found.p)
            at_random = text_gap(*_dealt(*own, seed=settings.seed), greatest=greatest[chosen]).p
            row |= {
                "gap": found.gap.mean(),
                "gap_ci_low": low,
                "gap_ci_high": high,
                "stronger": int((beyond & (found.gap > 0)).sum()),
                "weaker": int((beyond & (found.gap < 0)).sum()),
                "at_random": int(significant(np.nan_to_num(at_random, nan=1.0)).sum()),
            }
        rows.append(row)
    return from_rows("memorisation_snapshots", rows)


def _dealt(one: Any, other: Any, *, seed: int) -> tuple[Any, Any]:
    """Groups of documents of both texts, dealt to two texts of the same sizes at random."""
    n = len(one[0])
    order = np.random.default_rng([seed, 6]).permutation(n + len(other[0]))
    product, square = (np.concatenate([one[part], other[part]])[order] for part in (0, 1))
    return (product[:n], square[:n]), (product[n:], square[n:])


def _greatest(run: Run) -> np.ndarray:
    return run.matrix("strength").max(0).astype(np.float64)


def _living(run: Run) -> np.ndarray:
    return ~run.features.sort("feature")["dead"].to_numpy()


def _sums(run: Run) -> "list[tuple[int, int, dict[str, TextSums]]]":
    """Of every snapshot: its number, its place in the sums of the part that covers it, and those of both texts.

    They are kept, so that one more snapshot of a series costs its own reading alone.
    """
    from ontogeny.activations.harvest import harvester_of
    from ontogeny.features.measure import chosen_sequences
    from ontogeny.features.parts import part_key
    from ontogeny.features.texts import TextSums, text_sums

    suite, settings = suite_of(run), run.study.measure
    corpora = {name: Corpus(run.corpus_folder / name) for name in TEXTS}
    places = {
        "tokens": settings.held_out_tokens,
        "sequences_at_once": settings.model_batch_size,
        "seed": settings.seed,
    }
    found, parts = [], run.dictionary().parts()
    chunks = sum(len(chosen_sequences(corpus, **places)) for corpus in corpora.values())
    with progress_bar("memorisation", chunks * len(parts), unit="chunks") as bar:
        for part in parts:
            own = suite.only(range(len(suite.snapshots))[part.snapshots])
            key = fingerprint(part_key(run, part), places)
            folder = run.folder / "texts" / f"step{own.steps[0]}"
            if not is_kept(folder, key):
                harvester = harvester_of(run, suite=own)
                crosscoder = part.crosscoder.to(harvester.device)
                with keeping(folder, key) as temporary:
                    for name, corpus in corpora.items():
                        sums = text_sums(crosscoder, harvester, corpus, **places, bar=bar)
                        np.savez(temporary / f"{name}.npz", **vars(sums))
            else:
                bar.advance(chunks)
            texts = {}
            for name in TEXTS:
                with np.load(folder / f"{name}.npz") as kept:
                    texts[name] = TextSums(kept["product"], kept["square"], kept["active"], int(kept["tokens"]))
            found += [(part.snapshots.start + place, place, texts) for place in range(len(own.steps))]
    return found
