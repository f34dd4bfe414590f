"""Are splits, absorptions and handovers that were planted called so?"""

import numpy as np
import polars as pl
import torch

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.features.kinship import kin_of_births, partings
from ontogeny.features.life import alive_mask
from ontogeny.truth.planted import Planted
from ontogeny.truth.recovery import HELD_OUT_SEED, score_recovery


@torch.no_grad()
def score_relations(
    planted: Planted,
    crosscoder: Crosscoder,
    *,
    kin_threshold: float = 0.4,
    alive_threshold: float = 0.5,
    tokens: int = 16_384,
) -> pl.DataFrame:
    """What a dictionary's lineage says of planted features.

    A related feature is called by the label of its match with its parent's match, as a birth or as a parting, in either
    order; where no row has both, by what its own match is called, or nothing.

    Args:
        tokens: held-out tokens whose codes tell kinship.
    Returns:
        feature, relation (nothing for unrelated ones), label (null where the lineage has none), right; a row for every
        related feature, for every recovered unrelated one that is found to be born later, and, with the relation
        `parted`, never right, for every pair of recovered unrelated ones said to have parted.
    """
    features = score_recovery(planted, crosscoder, alive_threshold=alive_threshold, tokens=tokens).features
    batch = 1024
    held_out = planted.batches(batch, n_batches=max(1, tokens // batch), seed=HELD_OUT_SEED)
    scaled = (x * crosscoder.norm_scale[:, None] for x in held_out)
    code = torch.cat([crosscoder.widest_code(crosscoder.pre_activations(x)) for x in scaled])
    fired = (code > 0).any(0).numpy()
    strength = crosscoder.strength().numpy() * fired
    relative = strength / np.maximum(strength.max(0), 1e-12)
    birth = np.where(fired, alive_mask(strength, alive_threshold).argmax(0), -1)
    W_dec, codes = crosscoder.W_dec.detach(), code.T.to_sparse()
    found = kin_of_births(
        W_dec, lambda _: codes, tokens=len(code), relative=relative, birth=birth, kin_threshold=kin_threshold
    )
    born = {kin.feature: kin for kin in found}
    pairs = {frozenset((kin.feature, kin.parent)): kin.label for kin in born.values() if kin.label != "novel"}
    parted = [
        (parting, frozenset((parting.feature, parting.other)))
        for parting in partings(W_dec, lambda _: codes, relative=relative)
    ]
    pairs = {pair: parting.label for parting, pair in parted} | pairs

    parents = {int(parent) for parent in planted.parent if parent >= 0}
    match = features["match"].to_list()
    related = {match[child] for child in (planted.parent >= 0).nonzero().flatten().tolist()}
    related |= {match[parent] for parent in parents}
    unrelated = {own for own, known in zip(match, features["recovered"], strict=True) if known} - related
    rows = [
        {"feature": parting.feature, "relation": "parted", "label": parting.label, "right": False}
        for parting, pair in parted
        if pair <= unrelated
    ]
    for one in features.iter_rows(named=True):
        own = born[one["match"]].label if one["match"] in born else None
        if one["relation"]:
            parent = match[int(planted.parent[one["feature"]])]
            label = pairs.get(frozenset((one["match"], parent)), own)
            right = pairs.get(frozenset((one["match"], parent))) == one["relation"]
        elif own and one["recovered"] and one["feature"] not in parents:
            label, right = own, own == "novel"
        else:
            continue
        rows.append({"feature": one["feature"], "relation": one["relation"], "label": label, "right": right})
    dtypes = {"feature": pl.Int64, "relation": pl.String, "label": pl.String, "right": pl.Boolean}
    return pl.DataFrame(rows, schema=dtypes)
