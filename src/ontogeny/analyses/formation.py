"""How features form: how alike the activations at a feature's later examples are, snapshot by snapshot.

Source: SAE-Track, arXiv 2412.17626 (progress of formation). What activations do that are their tokens' alone, and
where all activations become alike, is worked out here.
"""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ontogeny.intervals import bootstrap_mean
from ontogeny.progress import progress_bar
from ontogeny.run import Run
from ontogeny.tables import from_rows

if TYPE_CHECKING:
    from torch import Tensor

    from ontogeny.features.codes import StoredCodes

MOST_ALIKE, JUMP = 0.9, 5.0
"""Mean similarity of random tokens, and its jump in median absolute deviations, at which activations have collapsed."""
RANDOM_CODES = 1000
"""Random tokens whose codes are compared with each other."""


def formation(run: Run) -> pl.DataFrame:
    """The table `formation`: a row per feature and snapshot.

    A feature's examples are the tokens on which it is most active at the last snapshot; its progress at another one is
    the mean similarity within their activations there, less that within random tokens.
    """
    import torch

    from ontogeny.features.codes import stored_codes
    from ontogeny.features.formation import cosines_by_token, expected_at_start, set_cosines
    from ontogeny.features.sample import leading_of, stored_activations

    settings, stored = run.study.analysis, stored_codes(run)
    leading = leading_of(stored, ranks=settings.formation_examples)
    points = (leading >= 0).sum(1)
    chance = _random_tokens(run, stored)
    coded = np.sort(np.random.default_rng([settings.seed, 7]).permutation(chance)[:RANDOM_CODES])
    sampled = _in_feature_space(run, points)
    parts, table = [], run.table("similarity").sort("snapshot")
    with torch.no_grad(), progress_bar("formation", len(run.steps), unit="snapshots") as bar:
        for snapshot, step in enumerate(run.steps):
            x = stored_activations(run, snapshot, stored.sequences)
            within, pairs = set_cosines(x, leading), cosines_by_token(x, leading, stored.token)
            within[points < settings.least_examples] = np.nan
            row = table.row(snapshot, named=True)
            of_codes = _feature_space(stored_codes(run, snapshot=snapshot).codes, leading, coded, sampled)
            parts.append(
                pl.DataFrame(
                    {
                        "feature": np.arange(len(leading)),
                        "snapshot": snapshot,
                        "step": step,
                        "within": within,
                        "progress": within - row["random"],
                        "expected": expected_at_start(pairs.share, row["same_token_share"], row["between_tokens"]),
                        "same_token_share": pairs.share,
                        "same_token": pairs.same,
                        "other_tokens": pairs.other,
                        "points": points,
                        **of_codes,
                    }
                )
            )
            bar.advance(1)
    return pl.concat(parts).with_columns(pl.col(pl.Float64).fill_nan(None)).sort("feature", "snapshot")


def similarity(run: Run) -> pl.DataFrame:
    """The table `similarity`: how alike random tokens' activations are at each snapshot, and where they collapse."""
    from ontogeny.features.codes import stored_codes
    from ontogeny.features.formation import between_tokens, participation_ratio, random_set, same_token_share
    from ontogeny.features.sample import stored_activations

    settings, stored, rows = run.study.analysis, stored_codes(run), []
    chance = _random_tokens(run, stored)
    token = stored.token[chance]
    for snapshot, step in enumerate(run.steps):
        x = stored_activations(run, snapshot, stored.sequences)
        random = random_set(x[chance], samples=settings.bootstrap, seed=settings.seed)
        rows.append(
            {
                "snapshot": snapshot,
                "step": step,
                "random": random.mean,
                "random_ci_low": random.low,
                "random_ci_high": random.high,
                "participation_ratio": participation_ratio(x),
                "same_token_share": same_token_share(token),
                "between_tokens": between_tokens(x[chance], token),
                "tokens": len(chance),
            }
        )
    curves = (np.array([row[name] for row in rows]) for name in ("random", "participation_ratio"))
    flags = collapsed(*curves)
    return from_rows("similarity", (row | {"collapsed": flag} for row, flag in zip(rows, flags, strict=True)))


def progress(run: Run) -> pl.DataFrame:
    """The table `progress`: mean progress over features at each snapshot, and how far tokens alone foretell it."""
    settings, rows = run.study.analysis, []
    masked = dict(run.table("similarity").select("snapshot", "collapsed").iter_rows())
    random = dict(run.table("similarity").select("snapshot", "random").iter_rows())
    for (snapshot, step), part in (
        run.table("formation").drop_nulls("progress").group_by("snapshot", "step", maintain_order=True)
    ):
        values, expected = part["progress"].to_numpy(), part["expected"].to_numpy()
        ones, each = np.ones(len(values)), np.arange(len(values))
        low, high = bootstrap_mean(values, ones, each, samples=settings.bootstrap, seed=settings.seed)
        spread = expected.std()
        share, same, other = (part[name].to_numpy() for name in ("same_token_share", "same_token", "other_tokens"))
        rows.append(
            {
                "snapshot": snapshot,
                "step": step,
                "features": len(values),
                "progress": values.mean(),
                "progress_ci_low": low,
                "progress_ci_high": high,
                "normalised": values.mean() / (1 - random[snapshot]),
                "collapsed": masked[snapshot],
                "expected": expected.mean(),
                "same_token": _mean_over_pairs(same, share),
                "other_tokens": _mean_over_pairs(other, 1 - share),
                "expected_correlation": np.corrcoef(expected, values)[0, 1] if spread > 0 else np.nan,
                "expected_slope": np.polyfit(expected, values, 1)[0] if spread > 0 else np.nan,
            }
        )
    return from_rows("progress", rows).sort("snapshot")


def _mean_over_pairs(values: np.ndarray, share: np.ndarray) -> float:
    """The mean over all sets' pairs of a kind, of which each set has a share; nan where none has one."""
    there = share > 0
    return float(np.average(values[there], weights=share[there])) if there.any() else np.nan


def collapsed(random: np.ndarray, participation: np.ndarray) -> np.ndarray:
    """At which snapshots activations have become alike, so that similarity within a set says little [snapshot].

    There random tokens are alike by more than .9; or their similarity jumps by 5 median absolute deviations more than
    it mostly does while activations vary in fewer directions, and for as long as it stays that high.
    """
    found = random > MOST_ALIKE
    changes = np.diff(random)
    if len(changes) == 0:
        return found
    middle = np.median(changes)
    jump = JUMP * max(float(np.median(np.abs(changes - middle))), 1e-3)
    for place in np.flatnonzero((changes - middle > jump) & (np.diff(participation) < 0)):
        high = random[place] + middle + jump
        after = place + 1
        while after < len(random) and random[after] > high:
            found[after] = True
            after += 1
    return found


def _random_tokens(run: Run, stored: "StoredCodes") -> np.ndarray:
    """Tokens of the random set, the same at all snapshots."""
    settings = run.study.analysis
    count = min(settings.random_tokens, stored.tokens)
    return np.sort(np.random.default_rng([settings.seed, 4]).permutation(stored.tokens)[:count])


def _in_feature_space(run: Run, points: np.ndarray) -> np.ndarray:
    """Features whose examples are also compared by their codes: some, and all their examples there."""
    settings = run.study.analysis
    able = np.flatnonzero(points == settings.formation_examples)
    return np.sort(np.random.default_rng([settings.seed, 5]).permutation(able)[: settings.feature_space_features])


def _feature_space(
    codes: "Tensor", leading: np.ndarray, chance: np.ndarray, sampled: np.ndarray
) -> dict[str, np.ndarray]:
    """Progress of the sampled features by their examples' codes, in cosine, Jaccard and weighted Jaccard; else nan."""
    import torch

    from ontogeny.features.codes import as_csr
    from ontogeny.features.formation import mean_cosine, mean_jaccard, mean_weighted_jaccard

    by_token = as_csr(codes).T.tocsr()

    def rows(tokens: np.ndarray) -> "Tensor":
        return torch.from_numpy(by_token[tokens.ravel()].toarray()).view(*tokens.shape, -1)

    found = {}
    random = rows(chance)
    sets = (
        [rows(block) for block in np.array_split(leading[sampled], max(1, len(sampled) // 16))] if len(sampled) else []
    )
    for name, measure in (
        ("code_cosine", mean_cosine),
        ("jaccard", mean_jaccard),
        ("weighted_jaccard", mean_weighted_jaccard),
    ):
        found[name] = np.full(len(leading), np.nan)
        if len(sampled):
            found[name][sampled] = np.concatenate([measure(block).numpy() for block in sets]) - float(measure(random))
    return found
