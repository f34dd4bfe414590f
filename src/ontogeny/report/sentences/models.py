"""What the models learn, and how well the dictionary stands in for their activations."""

import polars as pl

from ontogeny.report.sentences.sentence import Sentence
from ontogeny.run import Run


def model(run: Run) -> Sentence:
    phases = run.analysis("phases")
    return Sentence(
        f"Held-out loss falls from {phases['loss'][0]:.2f} to {phases['loss'][-1]:.2f} nat a token over "
        f"{phases['step'][-1]:,} steps; it {_passing(phases, 'unigram')} and {_passing(phases, 'bigram')}.",
        ("phases",),
    )


def _passing(phases: pl.DataFrame, bound: str) -> str:
    """Between which steps the loss goes from above a bound to below it for good, each beyond doubt (95 %)."""
    value, step = f"{phases[bound][0]:.2f}", phases["step"].to_list()
    if phases[f"above_{bound}_ci_low"].is_null().any():
        last = phases["loss"][-1] < phases[bound][-1]
        side = "below" if last else "above"
        return f"ends {side} the {bound} model ({value}), on too few held-out documents to say how surely"
    above = (phases[f"above_{bound}_ci_low"] > 0).to_list()
    below = (phases[f"above_{bound}_ci_high"] < 0).to_list()
    if not below[-1]:
        return f"does not pass the {bound} model ({value})"
    if not any(above):
        return f"is never above the {bound} model ({value})"
    last_above = len(above) - 1 - above[::-1].index(True)
    since = next(index for index in range(last_above + 1, len(below)) if all(below[index:]))
    return f"passes the {bound} model ({value}) between steps {step[last_above]:,} and {step[since]:,}"


def dictionary(run: Run) -> Sentence:
    quality, n_features = run.table("quality").sort("snapshot"), len(run.features)
    ahead = int((quality["explained_variance"] > quality["pca_explained_variance"]).sum())
    last, worst = quality.row(-1, named=True), quality.sort("dead_share", descending=True).row(0, named=True)
    dead = float(run.features["dead"].mean() or 0)  # pyright: ignore[reportArgumentType]
    recovered = last["loss_recovered"]
    l0 = (
        f"{last['l0']:.1f}"
        if quality["l0"].n_unique() == 1
        else f"{quality['l0'].min():.1f} to {quality['l0'].max():.1f}"
    )
    return Sentence(
        f"The dictionary has {n_features:,} features, {l0} active a token; it explains "
        f"{quality['explained_variance'].min():.1%} to {quality['explained_variance'].max():.1%} of each snapshot's "
        f"variance on held-out tokens, more than a PCA with as many components at {ahead} of {len(quality)} snapshots. "
        f"With its reconstruction spliced in, the last snapshot loses {last['delta_ce']:.3f} nat a token"
        + (f" and keeps {recovered:.1%} of what the activations are worth" if recovered is not None else "")
        + f". {int(run.features['dead'].sum()):,} of the features are dead"
        + (f", {worst['dead_share']:.1%} at step {worst['step']:,}." if worst["dead_share"] > dead else "."),
        ("quality", "features"),
    )


def beside_saes(run: Run) -> Sentence:
    table = run.analysis("single_saes")
    gaps = [
        f"{row['sae_explained_variance'] - row['explained_variance']:+.3f} at step {row['step']:,}"
        for row in table.iter_rows(named=True)
    ]
    return Sentence(
        "SAEs of single snapshots, with as many features and active features, explain more or less than it by "
        f"{', '.join(gaps)} (share of the variance).",
        ("single_saes",),
    )
