"""How complex is what a feature is about, and are the complex ones born later?

Source: arXiv 2509.17196, where a language model scores features from 1 to 5. Without one there are proxies: over how
many words a feature's leading tokens spread, how much of its code the current token leaves open, for how many tokens in
a row it is active. The first is of equally many tokens for every feature, so that frequent ones do not seem the more
complex.
"""

from typing import Any

import numpy as np
import polars as pl

from ontogeny.corpus.pack import Corpus
from ontogeny.intervals import Correlation, correlations
from ontogeny.run import Run
from ontogeny.tables import from_rows

MEASURES = ("score", "words", "context_dependence", "span")
LEAST_FEATURES = 8
"""Fewer are not correlated."""


def complexity(run: Run) -> pl.DataFrame:
    """The table `complexity`: a row per feature that is not dead."""
    from ontogeny.features.codes import as_csr, stored_codes
    from ontogeny.features.kinds import explained_by
    from ontogeny.features.levels import Kinds, composition
    from ontogeny.features.reading import mean_span
    from ontogeny.features.sample import leading_of, words_of

    stored, settings = stored_codes(run), run.study.analysis
    codes = as_csr(stored.codes)
    corpus = Corpus(run.corpus_folder / "held_out")
    _, word = words_of(stored, corpus, corpus.tokenizer)
    leading = leading_of(stored, ranks=settings.formation_examples)
    words = composition(leading, Kinds(stored.token, word, word, stored.sequence)).effective
    words[leading[:, -1] < 0] = np.nan
    by_token = explained_by(codes.T.tocsr(), stored.token)
    span = mean_span(stored.codes, stored.sequence)
    living = run.features.filter(~pl.col("dead")).sort("feature")
    scores = _scores(run)
    rows = []
    for feature, birth, density in living.select("feature", "birth_step", "density").iter_rows():
        own = {"words": words[feature], "context_dependence": 1 - by_token[feature], "span": span[feature]}
        rows.append({"feature": feature, "birth_step": birth, "density": density, **own, **scores.get(feature, {})})
    return from_rows("complexity", rows)


def complexity_births(run: Run) -> pl.DataFrame:
    """The table `complexity_births`: each measure of complexity beside the log-step of birth."""
    table = run.table("complexity")
    rows = []
    for measure in MEASURES:
        known = table.drop_nulls([measure, "density"])
        for group, part in (("living", known), ("emergent", known.filter(pl.col("birth_step") > run.steps[0]))):
            if len(part) < LEAST_FEATURES:
                continue
            found = correlations(
                part[measure].to_numpy(),
                np.log2(1 + part["birth_step"].to_numpy().astype(float)),
                given=np.log(part["density"].to_numpy()),
                samples=run.study.analysis.bootstrap,
                seed=run.study.analysis.seed,
            )
            rows.append({"measure": measure, "group": group, "features": len(part), **_columns(found)})
    return from_rows("complexity_births", rows)


def _columns(found: dict[str, Correlation]) -> dict[str, float]:
    return {
        f"{name}{end}": value
        for name, one in found.items()
        for end, value in zip(("", "_ci_low", "_ci_high", "_p"), one, strict=True)
    }


def complexity_agreement(run: Run) -> pl.DataFrame:
    """The table `complexity_agreement`: whether the two wordings agree; empty without an endpoint."""
    from ontogeny.endpoint import spent
    from ontogeny.features.reading import weighted_kappa

    endpoint = run.study.analysis.endpoint
    if endpoint is None:
        return from_rows("complexity_agreement", [])
    table = run.table("complexity")
    both = table.drop_nulls(["first", "second"]).select("first", "second").to_numpy()
    draw = np.random.default_rng(run.study.analysis.seed)
    draws = draw.integers(len(both), size=(run.study.analysis.bootstrap, len(both))) if len(both) else []
    kappas = [weighted_kappa(*both[drawn].T) for drawn in draws]
    low, high = np.nanquantile(kappas, [0.025, 0.975]) if kappas else (None, None)
    row = {
        "model": endpoint.model,
        "asked": min(run.study.analysis.scored_features, len(table)),
        "scored": len(both),
        "kappa": weighted_kappa(*both.T) if len(both) else None,
        "kappa_ci_low": low,
        "kappa_ci_high": high,
        "tokens": spent(run.replies),
    }
    return from_rows("complexity_agreement", [row])


def _scores(run: Run) -> dict[int, dict[str, Any]]:
    """What the endpoint says of some features drawn at random; nothing without one."""
    from ontogeny.endpoint import Endpoint
    from ontogeny.features.describe import drawn_features
    from ontogeny.features.reading import complexity_questions, marked_examples

    settings = run.study.analysis
    if settings.endpoint is None:
        return {}
    chosen = drawn_features(run, settings.scored_features)
    passages = marked_examples(run, chosen, count=settings.scored_examples)
    with Endpoint(settings.endpoint, run.replies) as endpoint:
        questions = [question for feature in chosen for question in complexity_questions(passages[feature])]
        answers = endpoint.ask(questions, name="complexity")
    found = {}
    for feature, first, second in zip(chosen, answers[::2], answers[1::2], strict=True):
        given = [answer for answer in (first, second) if answer is not None]
        row = {
            "score": float(np.mean([answer.complexity for answer in given])) if given else None,
            "consistency": float(np.mean([answer.consistency for answer in given])) if given else None,
            "first": None if first is None else first.complexity,
            "second": None if second is None else second.complexity,
        }
        if first is not None:
            row |= {name: getattr(first, name) for name in ("description", "interpretability", "languages")}
        found[feature] = row
    return found
