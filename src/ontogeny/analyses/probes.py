"""Is strength a good proxy? What each snapshot's activations alone know of every feature, beside what the token tells.

A shared code reads all snapshots at once, so that a decoder has something to regress even where the model itself knows
nothing. A birth is confirmed where a probe on the snapshot alone gains in the same interval as the strength.
"""

import numpy as np
import polars as pl

from ontogeny.corpus.pack import Corpus
from ontogeny.progress import progress_bar
from ontogeny.run import Run

FEATURES_AT_ONCE = 2048
SEQUENCES_AT_ONCE = 16


def probes(run: Run) -> pl.DataFrame:
    """The table `probes`: a row per feature and snapshot.

    Probes are fitted on every other sequence of the sampled held-out tokens and measured on the rest. Where snapshots
    have codes of their own, `active` is what the last one says.
    """
    import torch

    from ontogeny.activations.harvest import harvester_of, usable_positions
    from ontogeny.features.codes import stored_codes
    from ontogeny.features.probes import auc, linear_probe, refit_strength, token_rates
    from ontogeny.models.pretrain import padded

    stored, corpus = stored_codes(run), Corpus(run.corpus_folder / "held_out")
    harvester, dictionary, steps = harvester_of(run), run.dictionary(), run.steps
    lengths = corpus.lengths[stored.sequences].astype(np.int64) - 1
    for_test = torch.from_numpy(np.repeat(np.arange(len(lengths)) % 2 == 1, lengths))
    token = torch.from_numpy(stored.token)
    vocabulary, n_features = int(token.max()) + 1, len(run.features)
    blocks = [slice(first, first + FEATURES_AT_ONCE) for first in range(0, n_features, FEATURES_AT_ONCE)]
    chunks = [stored.sequences[at : at + SEQUENCES_AT_ONCE] for at in range(0, len(lengths), SEQUENCES_AT_ONCE)]

    def active(block: slice) -> "torch.Tensor":
        feature, at = stored.codes.indices()
        inside = (feature >= block.start) & (feature < block.stop) & (stored.codes.values() > 0)
        found = torch.zeros(stored.tokens, len(range(n_features)[block]), dtype=torch.bool)
        found[at[inside], feature[inside] - block.start] = True
        return found

    def of_token(block: slice) -> np.ndarray:
        here = active(block)
        rates = token_rates(token[~for_test], here[~for_test], vocabulary=vocabulary)
        return auc(rates[token[for_test]], here[for_test])

    with torch.no_grad(), progress_bar("probes", len(steps) + 1, unit="snapshots") as bar:
        baseline = np.concatenate([of_token(block) for block in blocks])
        positives = np.concatenate([active(block)[for_test].sum(0).numpy() for block in blocks])
        bar.advance(1)
        tables = []
        for snapshot, step in enumerate(steps):
            read = []
            for chunk in chunks:
                usable = torch.from_numpy(usable_positions(corpus.lengths[chunk], corpus.sequence_length))
                read.append(harvester.read(snapshot, padded(corpus, chunk).clamp_min(0)).cpu()[usable])
            x = torch.cat(read) * dictionary.norm_scale[snapshot]
            areas, own = [], []
            for block in blocks:
                here = active(block)
                weights, mean = linear_probe(x[~for_test], here[~for_test])
                areas.append(auc((x[for_test] - mean) @ weights, here[for_test]))
                own.append(auc(x[for_test] @ dictionary.W_enc[snapshot][:, block], here[for_test]))
            codes = dictionary.kept_at(stored_codes(run, snapshot=snapshot).codes, snapshot)
            refit = refit_strength(x, codes, dictionary.W_dec[snapshot], dictionary.b_dec[snapshot], for_test=for_test)
            tables.append(
                pl.DataFrame(
                    {
                        "feature": np.arange(n_features),
                        "snapshot": snapshot,
                        "step": step,
                        "strength_refit": refit,
                        "auc": np.concatenate(areas),
                        "auc_own": np.concatenate(own),
                        "auc_token": baseline,
                        "positives": positives,
                        "tokens": int(for_test.sum()),
                    }
                )
            )
            bar.advance(1)
    return (
        pl.concat(tables)
        .with_columns(pl.col("strength_refit", "auc", "auc_own", "auc_token").fill_nan(None))
        .sort("feature", "snapshot")
    )
