"""What features are about, snapshot by snapshot: one token, a few words, a concept, or nothing that examples share.

Source: SAE-Track, arXiv 2412.17626, which reads examples by hand; the rules and their nulls are ours.
"""

import numpy as np
import polars as pl

from ontogeny.corpus.pack import Corpus
from ontogeny.progress import progress_bar
from ontogeny.run import Run


def levels(run: Run) -> pl.DataFrame:
    """The table `levels`: a row per feature and snapshot, from the tokens on which it is most active there."""
    from ontogeny.features.codes import stored_codes
    from ontogeny.features.formation import set_cosines
    from ontogeny.features.levels import Kinds, against_random_directions, composition
    from ontogeny.features.levels import levels as levels_of
    from ontogeny.features.sample import contexts_of, leading_of, stems_of, stored_activations, words_of

    settings, corpus, tables = run.study.analysis, Corpus(run.corpus_folder / "held_out"), []
    stored = stored_codes(run)
    context = contexts_of(stored)
    words, word = words_of(stored, corpus, corpus.tokenizer)
    stem = stems_of(words, language=settings.language)[word]
    kinds = Kinds(stored.token, word, stem, stored.sequence)
    with progress_bar("levels", len(run.steps), unit="snapshots") as bar:
        for snapshot, step in enumerate(run.steps):
            leading = leading_of(stored_codes(run, snapshot=snapshot), ranks=settings.formation_examples)
            points = (leading >= 0).sum(1)
            leading[points < settings.least_examples] = -1
            x = stored_activations(run, snapshot, stored.sequences)
            within, found = set_cosines(x, leading), composition(leading, kinds)
            chance = against_random_directions(within, leading, x, kinds, context=context, seed=settings.seed)
            level = levels_of(found, np.maximum(*chance))
            tables.append(
                pl.DataFrame(
                    {
                        "feature": np.arange(len(leading)),
                        "snapshot": snapshot,
                        "step": step,
                        "level": [one or None for one in level.tolist()],
                        "points": points,
                        "token_share": found.token,
                        "word_share": found.word,
                        "stem_share": found.stem,
                        "effective": found.effective,
                        "within": within,
                        "p_random_directions": np.where(np.isfinite(within), chance.directions, np.nan),
                        "p_same_tokens": np.where(np.isfinite(within), chance.same_tokens, np.nan),
                    }
                )
            )
            bar.advance(1)
    return pl.concat(tables).with_columns(pl.col(pl.Float64).fill_nan(None)).sort("feature", "snapshot")
