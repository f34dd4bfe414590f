"""Case study: what the activations collapse to early in pre-training."""

from typing import Any

import altair as alt
import numpy as np
import polars as pl
import torch

from ontogeny.analyses.ngrams import fit_ngrams
from ontogeny.corpus.pack import Corpus
from ontogeny.features.codes import sampled_sequences
from ontogeny.features.sample import stored_activations
from ontogeny.models.hookpoints import logit_directions
from ontogeny.models.load import load_snapshot
from ontogeny.report.figures.axes import BLUE, GREY, ORANGE, VERMILION, step_axis
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of

STUDIES, STAGE = ("english",), "analyse"
DIRECTIONS = 8
"""Leading directions whose share of the variance is told."""
DASHES = [[1, 0], [5, 3]]
SAMPLES = 1000
"""Bootstrap samples of the vocabulary."""


@torch.no_grad()
def facts(run: Run) -> dict[str, Any]:
    """What there is at every snapshot: shares, and how the mean's effect on the logits goes with token frequency."""
    sequences, suite = sampled_sequences(run), suite_of(run)
    ngrams = fit_ngrams(Corpus(run.corpus_folder / "train"))
    seen = np.flatnonzero(ngrams.unigram > ngrams.unigram.min())
    frequency = np.log(ngrams.unigram[seen])
    living = ~run.features.sort("feature")["dead"].to_numpy()
    strength = run.matrix("strength_relative")[:, living]
    phases, rows = run.analysis("phases").sort("snapshot"), []
    for place, snapshot in enumerate(suite.snapshots):
        x = stored_activations(run, place, sequences)
        mean = x.mean(0)
        variance = torch.linalg.svdvals(x - mean).square()
        model = load_snapshot(snapshot, dtype="float32", device=torch.device("cpu"))
        effect = logit_directions(model, mean[None])[0].numpy()[seen]
        rows.append(
            {
                "step": snapshot.step,
                "mean": float(mean.norm() / x.norm(dim=1).mean()),
                "leading": float(variance[:DIRECTIONS].sum() / variance.sum()),
                "strong": float((strength[place] >= 0.5).mean()),
                "frequency": _correlation(effect, frequency),
                "above_unigram": [phases[name][place] for name in ("above_unigram_ci_low", "above_unigram_ci_high")],
            }
        )
    return {"features": int(living.sum()), "vocabulary": len(seen), "rows": rows}


def _correlation(effect: np.ndarray, frequency: np.ndarray) -> list[float]:
    """Pearson's correlation over tokens and its 95 % interval."""
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(effect), size=len(effect)) for _ in range(SAMPLES)]
    values = [np.corrcoef(effect[each], frequency[each])[0, 1] for each in drawn]
    middle = float(np.corrcoef(effect, frequency)[0, 1])
    return [middle, *map(float, np.quantile(values, [0.025, 0.975]))]


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """What the page tells beside the facts: the snapshot with the fewest strong features, that whose mean knows
    frequencies best, and the steps between which the model becomes better than unigrams."""
    rows = found["rows"]
    after = next(place for place, row in enumerate(rows) if row["above_unigram"][1] < 0)
    return found | {
        "lowest": min(rows, key=lambda row: row["strong"]),
        "highest": max(rows, key=lambda row: row["frequency"][0]),
        "passing": [rows[after - 1]["step"], rows[after]["step"]],
    }


def chart(found: dict[str, Any]) -> alt.TopLevelMixin:
    """What shrinks beside what grows."""
    told = shown(found)
    left = {f"variance in {DIRECTIONS} directions": "leading", "features at half strength or more": "strong"}
    right = {
        "length of the mean activation, as a share": "mean",
        "its logits with log token frequency, correlation": "frequency",
    }
    panels = [
        _panel(told, left, "Few directions are left …", "share", [VERMILION, BLUE]),
        _panel(told, right, "… and the mean knows token frequencies", "share, correlation", [GREY, ORANGE]),
    ]
    subtitle = "shaded: held-out loss passes that of the unigram model; intervals of 95 % over tokens"
    title = alt.Title("Activations collapse while the model learns how frequent tokens are", subtitle=subtitle)
    return alt.hconcat(*panels).resolve_scale(color="independent", strokeDash="independent").properties(title=title)


def _panel(told: dict[str, Any], lines: dict[str, str], title: str, unit: str, colours: list[str]) -> alt.LayerChart:
    rows = told["rows"]
    points = [
        {"step": row["step"], "what": name, "value": value, "low": low, "high": high}
        for row in rows
        for name, key in lines.items()
        for value, low, high in [row[key] if isinstance(row[key], list) else [row[key]] * 3]
    ]
    passing = pl.DataFrame([told["passing"]], schema=["step", "to"], orient="row")
    x = step_axis([row["step"] for row in rows], labels=7)
    shade = alt.Chart(passing).mark_rect(color=GREY, opacity=0.2).encode(x=x, x2="to:Q")
    names = list(lines)
    legend = alt.Legend(orient="bottom", direction="vertical", labelLimit=320, title=None)
    base = alt.Chart(pl.DataFrame(points)).encode(
        x=x,
        y=alt.Y("value:Q", title=unit, scale=alt.Scale(domain=[-0.05, 1], nice=False)),
        color=alt.Color("what:N", sort=names, scale=alt.Scale(domain=names, range=colours), legend=legend),
        strokeDash=alt.StrokeDash("what:N", sort=names, scale=alt.Scale(domain=names, range=DASHES), legend=legend),
    )
    spread = base.mark_rule().encode(y="low:Q", y2="high:Q", strokeDash=alt.value([1, 0]))
    return (shade + base.mark_line(point=True) + spread).properties(width=330, height=240, title=title)
