"""Four ways to follow features: an SAE series, a crosscoder over all snapshots, one over three of them, and SAEs of
each snapshot alone that are aligned afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.agreement.cold import alone
from benchmarks.agreement.planted import settled

from ontogeny.config.study import SeriesConfig
from ontogeny.dictionaries.sae_series import with_mean_code
from ontogeny.features.agreement import LEVELS, agreement
from ontogeny.features.codes import sampled_sequences
from ontogeny.features.life import alive_mask
from ontogeny.features.matching import match_rows
from ontogeny.features.sample import stored_activations
from ontogeny.intervals import rank_correlation
from ontogeny.run import Run
from ontogeny.study import run_study

SAME = LEVELS[0]
"""Cosine at the last snapshot from which on two features are the same."""


@dataclass(frozen=True)
class Method:
    """What one way finds.

    Attributes:
        steps: of its snapshots.
        unit: directions [snapshot, feature, d_model].
        strength: [snapshot, feature], 0 where a feature is never active.
    """

    name: str
    steps: list[int]
    unit: np.ndarray
    strength: np.ndarray

    @property
    def born(self) -> np.ndarray:
        """Step of the first snapshot at which each feature lives [feature]."""
        return np.array(self.steps)[alive_mask(self.strength, 0.5).argmax(0)]

    def settled(self, steps: list[int]) -> np.ndarray:
        """Place among some of its steps from which on each feature's direction is the last one's [feature]."""
        return settled(self.unit[[self.steps.index(step) for step in steps]], level=SAME)


def of_run(name: str, run: Run) -> Method:
    W_dec = run.dictionary().W_dec.detach()
    return Method(name, run.steps, torch.nn.functional.normalize(W_dec, dim=2).numpy(), run.matrix("strength"))


def aligned(run: Run) -> Method:
    """SAEs of each snapshot alone, features followed back from the last by matching each to its neighbour's.

    A feature ends where its counterpart's direction has a cosine under SAME.
    """
    sequences, unit, strength = sampled_sequences(run), [], []
    for snapshot in reversed(range(len(run.steps))):
        sae = alone(run, snapshot)
        code = sae.encode((stored_activations(run, snapshot, sequences) * sae.norm_scale)[:, None])
        count = (code > 0).sum(0)
        sized = with_mean_code(sae, code.sum(0) / count.clamp_min(1))
        rows = torch.nn.functional.normalize(sized.W_dec[0], dim=1).numpy()
        size = (sized.strength()[0] * (count > 0)).numpy()
        if unit:
            living, other = np.flatnonzero(strength[-1] > 0), np.flatnonzero(size > 0)
            match = match_rows(torch.from_numpy(unit[-1]), torch.from_numpy(rows), living=living, living_other=other)
            kept = match.cosine >= SAME
            own, found = np.zeros_like(unit[-1]), np.zeros_like(strength[-1])
            own[match.feature[kept]], found[match.feature[kept]] = rows[match.other[kept]], size[match.other[kept]]
            rows, size = own, found
        unit.append(rows)
        strength.append(size)
    return Method("SAEs aligned afterwards", run.steps, np.stack(unit[::-1]), np.stack(strength[::-1]))


def compared(a: Method, b: Method) -> dict[str, Any]:
    """How far two of them agree on features of the last snapshot and on births (`ontogeny.features.agreement`), on when
    directions settle, and median cosines of those that both have at the first and the middle common snapshot."""
    living, other = (np.flatnonzero(one.strength[-1] > 0) for one in (a, b))
    match = match_rows(torch.from_numpy(a.unit[-1]), torch.from_numpy(b.unit[-1]), living=living, living_other=other)
    common = [step for step in a.steps if step in b.steps]
    # a birth is known to the snapshots that both have
    place, place_b = (np.searchsorted(common, one.born) for one in (a, b))
    found = agreement(
        match.cosine,
        place[match.feature],
        place_b[match.other],
        n_features=len(living),
        n_emergent=int((place[living] > 0).sum()),
        level=SAME,
    )
    same = match.cosine >= SAME
    feature, counterpart = match.feature[same], match.other[same]
    along = [
        float(np.median((a.unit[a.steps.index(step), feature] * b.unit[b.steps.index(step), counterpart]).sum(1)))
        for step in (common[0], common[len(common) // 2])
    ]
    together = rank_correlation(a.settled(common)[feature], b.settled(common)[counterpart])
    found |= dict(zip(("settled_spearman", "settled_ci_low", "settled_ci_high"), together, strict=True))
    known = {name: value if np.isfinite(value) else None for name, value in found.items()}
    initial = [float((one[chosen] == 0).mean()) for one, chosen in ((place, feature), (place_b, counterpart))]
    return {"methods": [a.name, b.name], **known, "initial": initial, "cosines": along}


def methods(series: Run, out: Path) -> Iterator[Method]:
    """Every way to follow features: a series, and the others, made from its settings where they are not there."""
    yield of_run("series", series)
    study = series.study.model_copy(update={"analyses": ["emergence"], "report": False})
    shared = study.dictionary.model_copy(update={"kind": "crosscoder"})
    train = study.train.model_copy(update={"tokens": 2 * study.train.tokens, "store_gb": "auto"})
    crosscoder = study.model_copy(update={"dictionary": shared, "train": train, "series": SeriesConfig()})
    yield of_run("crosscoder", run_study(crosscoder, out=out / "crosscoder"))
    steps = [series.steps[0], series.steps[len(series.steps) // 2], series.steps[-1]]
    suite = study.suite.model_copy(update={"steps": steps})
    yield of_run("triplet", run_study(crosscoder.model_copy(update={"suite": suite}), out=out / "triplet"))
    yield aligned(series)
