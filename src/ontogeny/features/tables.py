"""From what was measured to the tables of a run."""

import numpy as np
import polars as pl
import torch

from ontogeny.config.study import MeasureConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.features.examples import Leaders
from ontogeny.features.life import life_history, relative_strength
from ontogeny.features.measure import Measurement
from ontogeny.models.hookpoints import logit_directions
from ontogeny.models.load import load_snapshot
from ontogeny.progress import progress_bar
from ontogeny.suites.suite import Suite

FEATURES_AT_ONCE = 512


def found_table(measurement: Measurement) -> pl.DataFrame:
    """What the table `features` takes from a measurement alone: feature, max_activation, density."""
    return pl.DataFrame(
        {
            "feature": np.arange(measurement.crosscoder.n_features),
            "max_activation": measurement.code_max.cpu().numpy(),
            "density": (measurement.active / measurement.tokens).cpu().numpy(),
        }
    )


def features_table(
    found: pl.DataFrame, trajectories: pl.DataFrame, quality: pl.DataFrame, config: MeasureConfig
) -> pl.DataFrame:
    """The table `features`, from other tables of the run and what `found_table` gives."""
    quality, found = quality.sort("snapshot"), found.sort("feature")
    strength = trajectories.sort("snapshot", "feature")["strength"].to_numpy().reshape(len(quality), -1)

    def lives(strength: np.ndarray) -> pl.DataFrame:
        return life_history(
            strength,
            quality["step"].to_list(),
            dead=found["density"].to_numpy() == 0,
            alive_threshold=config.alive_threshold,
            transient_below=config.transient_below,
            censored_last=config.censored_last,
        )

    rescaling = (quality["other_norm_scale"] / quality["norm_scale"]).to_numpy()
    rescaled = lives((strength * rescaling[:, None]).astype(np.float32))["birth_step"]
    return lives(strength).with_columns(found["max_activation"], found["density"], birth_step_rescaled=rescaled)


def trajectories_table(measurement: Measurement, *, steps: list[int]) -> pl.DataFrame:
    """The table `trajectories`; a code that all snapshots share has the same firing rate and mean at each."""
    strength = measurement.strength().cpu().numpy()
    n, n_features = strength.shape
    active = measurement.active_at.cpu().numpy()
    with np.errstate(invalid="ignore"):
        mean = measurement.code_sum.cpu().numpy() / active
    table = pl.DataFrame(
        {
            "feature": np.tile(np.arange(n_features), n),
            "snapshot": np.repeat(np.arange(n), n_features),
            "step": np.repeat(steps, n_features),
            "strength": strength.ravel(),
            "strength_relative": relative_strength(strength).ravel(),
            "firing_rate": np.broadcast_to(active / measurement.tokens, strength.shape).ravel(),
            "mean_activation": np.broadcast_to(mean, strength.shape).ravel(),
            "own_part": measurement.own_part_mean().cpu().numpy().ravel(),
        }
    )
    return table.with_columns(pl.col("mean_activation", "own_part").fill_nan(None)).sort("feature", "snapshot")


def examples_table(measurement: Measurement, corpus: Corpus) -> pl.DataFrame:
    """The table `examples`."""
    order = by_activation(measurement.quantile)
    parts = [
        _rows(measurement.top, corpus, kind="top", snapshot=None),
        _rows(order, corpus, kind="quantile", snapshot=None),
    ]
    parts += [_rows(leaders, corpus, kind="own", snapshot=snapshot) for snapshot, leaders in enumerate(measurement.own)]
    return pl.concat(parts).sort("feature", "snapshot", "kind", "rank", nulls_last=False)


def by_activation(leaders: Leaders) -> Leaders:
    """The same entries ranked by the value at their peak."""
    peak = leaders.values[:, :, leaders.before].nan_to_num(-torch.inf)
    order = peak.argsort(dim=1, descending=True, stable=True)
    wide = order[..., None].expand(-1, -1, leaders.values.shape[2])
    return Leaders(
        score=leaders.score.gather(1, order),
        sequence=leaders.sequence.gather(1, order),
        position=leaders.position.gather(1, order),
        values=leaders.values.gather(1, wide),
        before=leaders.before,
    )


def _rows(leaders: Leaders, corpus: Corpus, *, kind: str, snapshot: int | None) -> pl.DataFrame:
    filled = leaders.score > -torch.inf
    feature, rank = (index.cpu().numpy() for index in filled.nonzero(as_tuple=True))
    sequence = leaders.sequence[filled].cpu().numpy()
    position = leaders.position[filled].cpu().numpy()
    values = leaders.values[filled].cpu().numpy()
    places = position[:, None] + np.arange(values.shape[1]) - leaders.before
    inside = (places >= 0) & (places < corpus.lengths[sequence][:, None])
    tokens = corpus.tokens[sequence[:, None], np.clip(places, 0, corpus.sequence_length - 1)]
    lengths = inside.sum(1)
    return pl.DataFrame(
        {
            "feature": pl.Series(feature, dtype=pl.Int32),
            "snapshot": pl.Series([snapshot] * len(feature), dtype=pl.Int16),
            "kind": pl.Series([kind] * len(feature), dtype=pl.String),
            "rank": pl.Series(rank, dtype=pl.Int16),
            "sequence": pl.Series(sequence, dtype=pl.Int32),
            "position": pl.Series(position, dtype=pl.Int32),
            "first_position": pl.Series(places[np.arange(len(places)), inside.argmax(1)], dtype=pl.Int32),
            "tokens": _lists(tokens[inside].astype(np.uint32), lengths),
            "activations": _lists(np.nan_to_num(values[inside]), lengths),
        }
    )


def _lists(flat: np.ndarray, lengths: np.ndarray) -> pl.Series:
    """A list column from its flattened values and the length of each list."""
    frame = pl.DataFrame({"row": np.repeat(np.arange(len(lengths)), lengths), "value": flat})
    return frame.group_by("row", maintain_order=True).agg("value")["value"]


def logit_effects_table(
    crosscoder: Crosscoder, suite: Suite, config: MeasureConfig, *, dtype: str, device: torch.device
) -> pl.DataFrame:
    """The table `logit_effects`: the tokens that each unit decoder direction promotes and suppresses most."""
    parts = []
    with progress_bar("logits", len(suite.snapshots), unit="snapshots") as bar:
        for index, snapshot in enumerate(suite.snapshots):
            model = load_snapshot(snapshot, dtype=dtype, device=device)
            unit = torch.nn.functional.normalize(crosscoder.W_dec[index].to(device), dim=-1)
            for kind, sign in (("promoted", 1), ("suppressed", -1)):
                leading = [
                    logit_directions(model, sign * block).topk(config.logit_tokens)
                    for block in unit.split(FEATURES_AT_ONCE)
                ]
                strongest, token = (torch.cat([pair[place] for pair in leading]) for place in (0, 1))
                n_features, ranks = token.shape
                parts.append(
                    pl.DataFrame(
                        {
                            "feature": np.repeat(np.arange(n_features, dtype=np.int32), ranks),
                            "snapshot": np.full(n_features * ranks, index, dtype=np.int16),
                            "kind": [kind] * (n_features * ranks),
                            "rank": np.tile(np.arange(ranks, dtype=np.int16), n_features),
                            "token": token.cpu().numpy().astype(np.uint32).ravel(),
                            "effect": (sign * strongest).cpu().numpy().ravel(),
                        }
                    )
                )
            bar.advance(1)
    return pl.concat(parts).sort("feature", "snapshot", "kind", "rank")
