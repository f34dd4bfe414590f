"""Controls with known answers on planted suites: nulls, relations, shrunken decoders, trust."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from benchmarks.truth.cases import (
    ACTIVE,
    BATCH,
    L1,
    OURS,
    PUBLISHED,
    RECIPES,
    SEEDS,
    STEPS,
    UNSEEN_SEEDS,
    VERSION,
    Case,
    of_recipe,
    trained,
    with_weight,
)
from torch import Tensor

from ontogeny.config.learner import CrosscoderConfig
from ontogeny.config.settings import fingerprint
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.features.life import alive_mask
from ontogeny.features.matching import match_features
from ontogeny.features.probes import auc, confirm_births, linear_probe, refit_strength, there_before
from ontogeny.truth.nulls import NoChange, ShuffledRows, matched_lives, specific_share
from ontogeny.truth.planted import Planted, plant
from ontogeny.truth.recovery import RECOVERED, score_recovery
from ontogeny.truth.relations import score_relations
from ontogeny.truth.trust import trust_levels

Result = dict[str, Any]
THRESHOLDS = (0.3, 0.5, 0.7)
TOKENS = 32_768
KINDS = ("true", "copy", "false")
KIN: dict[str, dict[str, Any]] = {
    "cosine .5, two fifths of the tokens": {},
    "cosine .3, a quarter": {"kin_cosine": 0.3, "kin_share": 0.25},
    "cosine .6, three fifths": {"kin_cosine": 0.6, "kin_share": 0.6},
}
FROM_START = [1.0] + [0.0] * 7
SHRUNKEN = Case({"births": FROM_START, "growing": 0.5, "rotating": 0.0}, {**PUBLISHED, **L1}, 0)


def fitted(batches: Iterable[Tensor], seed: int, **changes: Any) -> Crosscoder:
    """A dictionary of the size for the standard suite, with our defaults."""
    config = CrosscoderConfig(**{"n_features": 320, "k": ACTIVE, "steps": STEPS, "seed": seed, **changes})
    return train_crosscoder(batches, config)


def firing(dictionary: Crosscoder, batches: Iterable[Tensor]) -> np.ndarray:
    """Which features fire on some batches."""
    with torch.no_grad():
        return sum((dictionary.encode(x * dictionary.norm_scale[:, None]) > 0).sum(0) for x in batches).numpy() > 0


def no_change(seed: int) -> Result:
    """The same activations at every snapshot, turned and scaled; decoders start independently."""
    still = plant(n_snapshots=1, seed=seed)
    null = NoChange(still.batches(BATCH), n_snapshots=8, seed=seed)
    dictionary = fitted(null, seed, decoder_start="independent")
    held_out = NoChange(still.batches(BATCH, n_batches=16, seed=1), n_snapshots=8, seed=seed)
    strength = dictionary.strength().numpy()[:, firing(dictionary, held_out)]
    born = alive_mask(strength, 0.5).argmax(0) > 0
    return {
        "features": int(strength.shape[1]),
        "births": float(born.mean()),
        "within 5 %": float((strength.min(0) >= 0.95 * strength.max(0)).mean()),
        "median least / greatest": float(np.median(strength.min(0) / strength.max(0))),
    }


def shuffled_rows(seed: int) -> Result:
    """The standard suite with each snapshot's rows in an order of its own, beside itself."""
    suite, found = plant(seed=seed), {}
    for name, batches, held_out in (
        ("aligned", suite.batches(BATCH), suite.batches(BATCH, n_batches=16, seed=1)),
        ("shuffled", ShuffledRows(suite.batches(BATCH), seed=seed),
         ShuffledRows(suite.batches(BATCH, n_batches=16, seed=1), seed=seed)),
    ):  # fmt: skip
        dictionary = trained(of_recipe(OURS, seed)) if name == "aligned" else fitted(batches, seed)
        found[name] = specific_share(dictionary.strength().numpy()[:, firing(dictionary, held_out)])
    return found


def order(seed: int) -> Result:
    """An SAE for each snapshot, trained cold and matched to its neighbours, in the right order and in others.

    Each has the k that its snapshot asks for.
    """
    suite = plant(seed=seed)
    rows = []
    for snapshot in range(8):
        one = (x[:, snapshot : snapshot + 1] for x in suite.batches(BATCH, n_batches=STEPS))
        active = float(suite.frequency[suite.there[snapshot]].sum())
        dictionary = fitted(one, seed + snapshot, k=max(1, round(active)))
        fires = firing(dictionary, (x[:, snapshot : snapshot + 1] for x in suite.batches(BATCH, n_batches=16, seed=1)))
        rows.append(dictionary.W_dec[0, torch.from_numpy(fires)].detach())
    generator = np.random.default_rng(seed)

    def reached(places: Iterable[int]) -> float:
        """Mean number of snapshots before the last that chains from its features reach back over."""
        return float(matched_lives([rows[place] for place in places])[:-1].sum(0).mean())

    permuted = [reached([*generator.permutation(7), 7]) for _ in range(20)]
    return {"ordered": reached(range(8)), "permuted": float(np.mean(permuted)), "greatest permuted": max(permuted)}


def relations(seed: int) -> Result:
    """Eight splits, absorptions and handovers each, beside unrelated features; as rules were made on, and others."""
    found: Result = {}
    for name, changes in KIN.items():
        case = Case({"related": 8, **changes}, {}, seed)
        rows = score_relations(case.suite(), trained(case)).group_by("relation").agg(pl.len(), pl.col("right").sum())
        counts = {relation or "novel": [right, n] for relation, n, right in rows.iter_rows()}
        found[name] = {"parted": [0, 0], **counts}
    return found


def shrinkage(seed: int) -> Result:
    """Features there from the start, half of them at a quarter of their strength: who takes them for unborn?"""
    found: Result = {}
    l1 = with_weight(replace(SHRUNKEN, seed=seed))
    for name, case in ((OURS, replace(l1, recipe={})), ("ReLU, l1", l1), ("ReLU, l1, λ × 2", l1)):
        if name.endswith("2"):
            case = replace(case, recipe={**case.recipe, "sparsity_weight": 2 * case.recipe["sparsity_weight"]})
        suite, dictionary = case.suite(), trained(case)
        score = score_recovery(suite, dictionary)
        rows = score.features.filter(pl.col("recovered"))
        own, match = rows["feature"].to_numpy(), rows["match"].to_numpy()
        true = _relative((suite.W_dec.norm(dim=2) * dictionary.norm_scale[:, None]).numpy()[:, own])
        learned = _relative(dictionary.strength().numpy()[:, match])
        refit = _own_snapshots(suite, dictionary).refit[:, match]
        birth = rows["birth_found"].to_numpy()
        late = (rows["birth_found"] > rows["birth"]).to_numpy()
        exact = (rows["birth_found"] == rows["birth"]).to_numpy() & (birth > 0)
        before = there_before(refit, dictionary.strength().numpy()[:, match], birth, alive_threshold=0.5) == 1
        weak = true <= 0.4
        found[name] = {
            "L0": score.l0,
            "recovered": score.recovered,
            "learned / true": float(np.median(learned[weak] / true[weak])),
            "refitted / true": float(np.nanmedian(_relative(refit)[weak] / true[weak])),
            "late": int(late.sum()),
            "late flagged": int((late & before).sum()),
            "exact": int(exact.sum()),
            "exact flagged": int((exact & before).sum()),
        }
    return found


def trust(seed: int) -> Result:
    """Levels of trust of true and of false births, the measures made as those of a study."""
    found: Result = {}
    for name in (OURS, "ReLU, l1"):
        case = with_weight(of_recipe(name, seed))
        levels = _levels(case)
        found[name] = {kind: dict(levels.filter(kind=kind)["level"].value_counts().iter_rows()) for kind in KINDS}
    return found


class _OwnSnapshots:
    """What each snapshot alone knows of every feature."""

    def __init__(self, areas: np.ndarray, refit: np.ndarray, positives: np.ndarray, tokens: int) -> None:
        self.areas, self.refit, self.positives, self.tokens = areas, refit, positives, tokens


@torch.no_grad()
def _own_snapshots(suite: Planted, dictionary: Crosscoder) -> _OwnSnapshots:
    x = torch.cat(list(suite.batches(BATCH, n_batches=TOKENS // BATCH, seed=1))) * dictionary.norm_scale[:, None]
    widest = dictionary.widest_code(dictionary.pre_activations(x))
    active, for_test = widest > 0, torch.arange(len(x)) % 2 == 1
    codes = widest.T.to_sparse()
    areas, refit = [], []
    for snapshot in range(suite.W_dec.shape[0]):
        here, W_dec, b_dec = x[:, snapshot], dictionary.W_dec[snapshot], dictionary.b_dec[snapshot]
        weights, mean = linear_probe(here[~for_test], active[~for_test])
        areas.append(auc((here[for_test] - mean) @ weights, active[for_test]))
        refit.append(refit_strength(here, dictionary.kept_at(codes, snapshot), W_dec, b_dec, for_test=for_test))
    return _OwnSnapshots(np.stack(areas), np.stack(refit), active[for_test].sum(0).numpy(), int(for_test.sum()))


def _levels(case: Case) -> pl.DataFrame:
    """feature, kind (of KINDS), level, reasons; a row per feature that is found to be born later.

    A birth is true where the feature is recovered and born at the planted snapshot. A copy is no counterpart of a
    planted feature, for another one is, but has its direction where it lives, and its birth.
    """
    suite, dictionary = case.suite(), trained(case)
    score = score_recovery(suite, dictionary)
    others = [trained(replace(case, recipe={**case.recipe, "seed": case.seed + shift})) for shift in (50, 60)]
    batches = suite.batches(BATCH, n_batches=16, seed=1)
    living, strength = np.flatnonzero(firing(dictionary, batches)), dictionary.strength().numpy()
    births = [alive_mask(strength, threshold).argmax(0) for threshold in THRESHOLDS]
    birth = births[1]
    own = _own_snapshots(suite, dictionary)
    cosine = np.zeros((len(others), len(birth)))
    for row, other in zip(cosine, others, strict=True):
        match = match_features(dictionary, other, living=living, living_other=np.flatnonzero(firing(other, batches)))
        row[match.feature] = match.cosine
    x = next(iter(suite.batches(8192, seed=2)))
    rescale = (x - x.mean(0)).norm(dim=-1).median(0).values * dictionary.norm_scale
    rescaled = alive_mask(strength / rescale.numpy()[:, None], THRESHOLDS[1]).argmax(0)
    expected = score_recovery(replace(case, seed=case.seed + 70).suite(), trained(replace(case, seed=case.seed + 70)))
    of_birth = dict(expected.by_birth().select("birth", "recovered").iter_rows())
    found = confirm_births(own.areas, np.full(len(birth), 0.5), birth, positives=own.positives, tokens=own.tokens)
    truly = {
        row["match"]: row["birth"] == row["birth_found"]
        for row in score.features.filter(pl.col("recovered")).iter_rows(named=True)
    }
    copies = _copies(suite, dictionary, birth)
    born = living[birth[living] > 0]
    kinds = ["true" if truly.get(int(one), False) else "copy" if copies[one] else "false" for one in born]
    measures = pl.DataFrame(
        {
            "feature": born,
            "kind": kinds,
            "emergent": [True] * len(born),
            "seed_cosine": cosine.mean(0)[born],
            "confirmed": found.confirmed[born],
            "there_before": there_before(own.refit, strength, birth, alive_threshold=THRESHOLDS[1])[born],
            "same_at_thresholds": (np.ptp(np.stack(births), axis=0) <= 1)[born],
            "same_rescaled": (rescaled == birth)[born],
            "expected_recovery": [of_birth.get(int(at)) for at in birth[born]],
            "memorised": [0.0] * len(born),
        },
        schema_overrides={"expected_recovery": pl.Float64},
    ).with_columns(pl.col("there_before").fill_nan(None).cast(pl.Boolean))
    return trust_levels(measures)


def _copies(suite: Planted, dictionary: Crosscoder, birth: np.ndarray) -> np.ndarray:
    """Which features have the direction, while they live, and the birth of a planted one [feature]."""
    alive = torch.from_numpy(alive_mask(dictionary.strength().numpy(), THRESHOLDS[1])).float()
    own, planted = (torch.nn.functional.normalize(one, dim=2) for one in (dictionary.W_dec, suite.W_dec))
    cosine = torch.einsum("sfd,spd->sfp", own, planted * suite.there[..., None])
    mean = torch.einsum("sfp,sf->fp", cosine, alive) / alive.sum(0).clamp_min(1)[:, None]
    born = suite.there.float().argmax(0).numpy()
    return ((mean.numpy() >= RECOVERED) & (birth[:, None] == born)).any(1)


def _relative(strength: np.ndarray) -> np.ndarray:
    return strength / np.maximum(strength.max(0), 1e-12)


CONTROLS: dict[str, Callable[[int], Result]] = {
    "no change": no_change,
    "shuffled rows": shuffled_rows,
    "order": order,
    "relations": relations,
    "shrinkage": shrinkage,
    "trust": trust,
}


def seeds_of(name: str) -> tuple[int, ...]:
    """The seeds that a control is reported for."""
    return UNSEEN_SEEDS if name == "relations" else SEEDS


def control_key(name: str, seed: int) -> str:
    """A name for all that makes this control what it is."""
    return fingerprint(
        VERSION, name, seed, CrosscoderConfig().model_dump(exclude={"kernels", "moments"}), RECIPES, KIN, STEPS, BATCH
    )


def control(name: str, seed: int) -> Result:
    """What a control finds."""
    return CONTROLS[name](seed)
