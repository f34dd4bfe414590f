"""Can an SAE series be trusted? How far activations move between its snapshots, whether features keep their place, and
how much of their drift is retraining alone.

Source: SAE-Track, arXiv 2412.17626 (Theorem 2.1, drift of directions); the controls are ours: the same chain on one
snapshot again and again (null), backwards (reverse), and over the snapshots in another order.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from ontogeny.intervals import bootstrap_difference, bootstrap_mean, wilson_count
from ontogeny.run import Run
from ontogeny.tables import from_rows

if TYPE_CHECKING:
    from torch import Tensor

    from ontogeny.dictionaries.crosscoder import Crosscoder
    from ontogeny.dictionaries.sae_series import SAESeries

FEW = 0.05
"""Share of a null track's features that may be further from the last direction than what counts as retraining alone."""


def gaps(run: Run) -> pl.DataFrame:
    """The table `gaps`: how far the same tokens' activations move from one snapshot to the next, and how many indices
    stand for the same features then."""
    from ontogeny.activations.schedule import moved
    from ontogeny.features.carried import KEPT, correlations_before
    from ontogeny.features.codes import as_csr, sampled_sequences, stored_codes
    from ontogeny.features.sample import stored_activations
    from ontogeny.features.similarity import linear_cka

    sequences, rows = sampled_sequences(run), []
    codes = [as_csr(stored_codes(run, snapshot=place).codes) for place in range(len(run.steps))]
    before, correlation = stored_activations(run, 0, sequences), correlations_before(codes)
    for place in range(1, len(run.steps)):
        x = stored_activations(run, place, sequences)
        known = correlation[place - 1][np.isfinite(correlation[place - 1])]
        rows.append(
            {
                "step_a": run.steps[place - 1],
                "step_b": run.steps[place],
                "moved": moved(before, x),
                "cka_distance": 1 - linear_cka(before, x),
                "tokens": len(x),
                "carried": float((known >= KEPT).mean()) if len(known) else None,
                "features": len(known),
            }
        )
        before = x
    return from_rows("gaps", rows)


def track_drift(run: Run) -> pl.DataFrame:
    """The table `track_drift`: by which angle directions turn at each link of the series and of its controls."""
    settings, rows = run.study.analysis, []
    turned = {name: list(_links(run, series, places)) for name, places, series in _chains(run)}
    for name, links in turned.items():
        for number, link in enumerate(links):
            low, high = _interval(link.angles, settings.bootstrap, settings.seed)
            row = {
                "variant": name,
                "link": number,
                "step_a": link.step_a,
                "step_b": link.step_b,
                "features": len(link.angles),
                "angle": _mean(link.angles),
                "angle_ci_low": low,
                "angle_ci_high": high,
                "cosine_last": _mean(link.cosine_last),
                "cosine_last_low": np.quantile(link.cosine_last, FEW) if len(link.cosine_last) else np.nan,
            }
            if "null" in turned and name != "null":
                floor = turned["null"][number].angles  # over the gap of the same number
                row |= _beyond(link.angles, floor, samples=settings.bootstrap, seed=settings.seed)
            rows.append(row)
    return from_rows("track_drift", rows)


def identity(run: Run) -> pl.DataFrame:
    """The table `identity`: whether a feature's nearest neighbour in the next SAE is itself."""
    import torch

    rows = []
    for name, places, series in _chains(run):
        unit, fires = _directions(series), _fires(run, series, places)
        for a, b in pairwise(range(len(places))):
            both = np.flatnonzero(fires[a] & fires[b])
            if len(both) == 0:
                continue
            nearest = torch.cat([(block @ unit[b, both].T).argmax(1) for block in unit[a, both].split(4096)])
            same = int((nearest.numpy() == np.arange(len(both))).sum())
            low, high = wilson_count(same, len(both))
            rows.append(
                {
                    "variant": name,
                    "link": a,
                    "step_a": run.steps[places[a]],
                    "step_b": run.steps[places[b]],
                    "features": len(both),
                    "same": same / len(both),
                    "same_ci_low": low / len(both),
                    "same_ci_high": high / len(both),
                }
            )
    return from_rows("identity", rows)


def track_matches(run: Run) -> pl.DataFrame:
    """The table `track_matches`: how many features of the series have a counterpart in the one in the other direction.

    SAEs of single snapshots trained from the start are in the table `single_saes`.
    """
    from ontogeny.features.agreement import LEVELS
    from ontogeny.features.matching import match_features

    (_, places, own), *controls = _chains(run)
    fires, last, rows = _fires(run, own, places), len(run.steps) - 1, []
    for name, _, other in controls:
        for at in sorted({0, last // 2, last}) if name in ("forward", "reverse") else ():
            living, living_other = (np.flatnonzero(one) for one in (fires[at], _fires_on(run, at, other.sae(at))))
            match = match_features(own.sae(at), other.sae(at), living=living, living_other=living_other)
            for level in LEVELS:
                rows.append(
                    {
                        "variant": name,
                        "step": run.steps[at],
                        "features": len(living),
                        "level": level,
                        "matched": (match.cosine >= level).sum() / max(len(living), 1),
                        "cosine": _mean(match.cosine),
                    }
                )
    return from_rows("track_matches", rows)


def _chains(run: Run) -> Iterator[tuple[str, list[int], "SAESeries"]]:
    """Name, snapshots and SAEs of the series itself and of its controls."""
    from ontogeny.dictionaries.sae_series import SAESeries
    from ontogeny.dictionaries.track import rounds_taken
    from ontogeny.dictionaries.variants import series

    own, n = run.dictionary(), len(run.steps)
    assert isinstance(own, SAESeries)
    places = list(range(n))
    settings = run.study.series
    yield settings.direction, places, own
    folder = run.folder / "variants"
    if "reverse" in run.study.analysis.track_controls:
        other = "reverse" if settings.direction == "forward" else "forward"
        yield other, places, series(run, folder / other, direction=other)
    taken = rounds_taken(run.folder / "series", n)
    if settings.direction == "reverse":
        taken.reverse()
    if "null" in run.study.analysis.track_controls:
        yield "null", [n - 1] * n, series(run, folder / "null", places=[n - 1] * n, rounds=taken)
    if "order" in run.study.analysis.track_controls:
        order = np.random.default_rng([run.study.analysis.seed, 6]).permutation(n).tolist()
        yield "order", order, series(run, folder / "order", places=order, rounds=taken)


def _directions(series: "SAESeries") -> "Tensor":
    import torch

    return torch.nn.functional.normalize(series.W_dec.detach(), dim=2)


def _fires(run: Run, series: "SAESeries", places: list[int]) -> np.ndarray:
    """Which features each SAE has that are active on the sampled tokens [link, feature]."""
    return np.stack([_fires_on(run, place, series.sae(number)) for number, place in enumerate(places)])


def _fires_on(run: Run, place: int, sae: "Crosscoder") -> np.ndarray:
    """Which features of an SAE are active on the sampled tokens at a snapshot [feature]."""
    import torch

    from ontogeny.features.codes import sampled_sequences
    from ontogeny.features.sample import stored_activations

    x = stored_activations(run, place, sampled_sequences(run)) * sae.norm_scale
    with torch.no_grad():
        return torch.stack([(sae.encode(rows[:, None]) > 0).any(0) for rows in x.split(4096)]).any(0).numpy()


class _Link(NamedTuple):
    """From one SAE of a chain to the next.

    Attributes:
        angles: degrees by which the features turn that are active at both ends.
        cosine_last: cosines of directions at the link's beginning and at the end of the chain, of features active at
            both.
    """

    step_a: int
    step_b: int
    angles: np.ndarray
    cosine_last: np.ndarray


def _links(run: Run, series: "SAESeries", places: list[int]) -> Iterator[_Link]:
    unit, fires = _directions(series).numpy(), _fires(run, series, places)
    for a, b in pairwise(range(len(places))):
        both, last = fires[a] & fires[b], fires[a] & fires[-1]
        chords = np.linalg.norm(unit[b, both] - unit[a, both], axis=1)
        angles = np.degrees(2 * np.arcsin(np.minimum(chords / 2, 1)))
        cosine_last = (unit[a, last] * unit[-1, last]).sum(1)
        yield _Link(run.steps[places[a]], run.steps[places[b]], angles, cosine_last)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _interval(values: np.ndarray, samples: int, seed: int) -> tuple[float, float]:
    """95 % interval of a mean over features."""
    if len(values) == 0:
        return np.nan, np.nan
    return bootstrap_mean(values, np.ones(len(values)), np.arange(len(values)), samples=samples, seed=seed)


def _beyond(angles: np.ndarray, floor: np.ndarray, *, samples: int, seed: int) -> dict[str, float]:
    """Mean angle less the null's, with its interval over features of both."""
    low, high = bootstrap_difference(angles, floor, samples=samples, seed=seed)
    return {"beyond": _mean(angles) - _mean(floor), "beyond_ci_low": low, "beyond_ci_high": high}
