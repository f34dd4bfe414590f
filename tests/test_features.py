"""Tables of features against brute force, and the life history against cases worked out by hand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ontogeny.activations.harvest import Harvester, usable_positions
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.start import norm_scale_of
from ontogeny.features.codes import _sparse_code
from ontogeny.features.examples import Leaders
from ontogeny.features.life import life_history
from ontogeny.features.measure import Chunk, chosen_sequences
from ontogeny.models.hookpoints import logit_directions, read_hookpoint, spliced
from ontogeny.models.load import load_snapshot
from ontogeny.models.names import parse_hookpoint
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of

STEPS = [0, 10, 100, 1000, 2000, 3000, 4000, 5000]
# strengths over eight snapshots, and what they mean with the default settings
LIVES = {
    "there from the start": [1, 1, 1, 1, 1, 1, 1, 1],
    "born at 100": [0, 0.1, 0.6, 1, 1, 1, 1, 1],
    "transient": [0, 1, 0.8, 0, 0, 0, 0, 0],
    "revived": [0, 1, 0.2, 1, 1, 1, 1, 1],
    "censored": [0, 0, 0, 0, 0, 0.1, 0.9, 1],
    "fades at the end": [1, 1, 1, 1, 1, 1, 1, 0.4],
    "silent": [1, 1, 1, 1, 1, 1, 1, 1],
}
# rise from 10 % to 90 % in log2(1 + step), persistence by snapshots and by log-steps; worked out by hand
L = [np.log2(1 + step) for step in STEPS]
WIDTHS = {
    "there from the start": (None, 1, 1),
    "born at 100": (L[2] + 0.75 * (L[3] - L[2]) - L[1], 1, 1),
    "transient": (0.8 * (L[1] - L[0]), 1 / 6, (L[2] - L[1]) / (L[7] - L[1])),
    "revived": (0.8 * (L[1] - L[0]), 5 / 6, 1 - (L[2] - L[1]) / (L[7] - L[1])),
    "censored": (L[6] - L[5], 1, 1),
    "fades at the end": (None, 6 / 7, 1 - (L[7] - L[6]) / L[7]),
    "silent": (None, None, None),
}
EXPECTED = {
    "there from the start": ("initial", "persistent", None, 0, 0, None, False),
    "born at 100": ("emergent", "persistent", 10, 100, 1000, None, False),
    "transient": ("emergent", "transient", 0, 10, 10, 1000, False),
    "revived": ("emergent", "persistent", 0, 10, 10, None, True),
    "censored": ("emergent", "censored", 3000, 4000, 5000, None, False),
    "fades at the end": ("initial", "persistent", None, 0, 0, 5000, False),
    "silent": (None, None, None, None, None, None, None),
}


def test_life_histories_worked_out_by_hand() -> None:
    dead = np.array([name == "silent" for name in LIVES])
    table = life_history(np.array(list(LIVES.values()), dtype=float).T, STEPS, dead=dead)
    columns = ["origin", "fate", "birth_after", "birth_step", "peak_step", "death_step", "revived"]
    for row, (name, expected) in zip(table.select(columns).iter_rows(), EXPECTED.items(), strict=True):
        assert row == expected, name
    assert table["dead"].to_list() == dead.tolist()
    for row, (name, expected) in zip(
        table.select("rise_width", "persistence", "persistence_log").iter_rows(), WIDTHS.items(), strict=True
    ):
        assert row == pytest.approx(expected), name


@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 5)), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_leaders_hold_what_sorting_everything_gives(shape: tuple[int, int, int], seed: int) -> None:
    sequences, ranks, n_features = shape
    values = torch.randn(sequences, 9, n_features, generator=torch.Generator().manual_seed(seed))
    values[:, 0] = -torch.inf
    leaders = Leaders.empty(n_features, ranks, before=2, after=1, device=torch.device("cpu"))
    for first in range(0, sequences, 7):
        part = values[first : first + 7]
        leaders.update(part.amax(1), part, torch.arange(first, first + len(part)))
    for feature in range(n_features):
        peaks = values[:, :, feature].amax(1)
        order = peaks.argsort(descending=True)[:ranks]
        kept = min(ranks, sequences)
        assert leaders.sequence[feature, :kept].tolist() == order.tolist()
        assert bool((leaders.score[feature, kept:] == -torch.inf).all())
        for rank, sequence in enumerate(order.tolist()):
            peak = int(values[sequence, :, feature].argmax())
            assert int(leaders.position[feature, rank]) == peak
            for place, position in enumerate(range(peak - 2, peak + 2)):
                found = float(leaders.values[feature, rank, place])
                if 0 < position < 9:
                    assert found == float(values[sequence, position, feature])
                else:
                    assert np.isnan(found)


class BruteForce:
    """Codes and own parts of every measured token at once."""

    def __init__(self, run: Run) -> None:
        self.run, self.corpus = run, Corpus(run.corpus_folder / "train")
        dictionary = run.dictionary()
        assert isinstance(dictionary, Crosscoder)
        self.dictionary, config = dictionary, run.study.measure
        chunks = chosen_sequences(
            self.corpus, tokens=config.tokens, sequences_at_once=config.model_batch_size, seed=config.seed
        )
        self.sequences = np.concatenate(chunks)
        harvester = Harvester(suite_of(run), run.study.hookpoint)
        tokens = torch.from_numpy(self.corpus.tokens[self.sequences].astype(np.int64))
        self.usable = torch.from_numpy(usable_positions(self.corpus.lengths[self.sequences], tokens.shape[1]))
        x = torch.stack([harvester.read(s, tokens) for s in range(harvester.n_snapshots)], dim=2)
        x = x * dictionary.norm_scale[:, None]
        self.code = dictionary.encode(x.flatten(0, 1)).view(*tokens.shape, -1).masked_fill(~self.usable[..., None], 0)
        self.own = torch.einsum("apsd,sdf->sapf", x, dictionary.W_enc)


@pytest.fixture(scope="module")
def brute(small_run: Run) -> BruteForce:
    return BruteForce(small_run)


def test_densities_and_activations_are_those_of_all_codes_at_once(small_run: Run, brute: BruteForce) -> None:
    active = brute.code > 0
    tokens = int(brute.usable.sum())
    assert tokens >= small_run.study.measure.tokens
    features = small_run.features.sort("feature")
    np.testing.assert_allclose(features["density"], active.sum((0, 1)) / tokens, atol=2e-4)
    np.testing.assert_allclose(features["max_activation"], brute.code.amax((0, 1)), rtol=1e-3, atol=1e-4)
    assert features["dead"].to_list() == (active.sum((0, 1)) == 0).tolist()
    assert not features["dead"].all()
    living = features.filter(~pl.col("dead"))["feature"].to_list()
    last = small_run.trajectories.filter(pl.col("snapshot") == 3).sort("feature")
    mean = (brute.code.sum((0, 1)) / active.sum((0, 1)))[living]
    np.testing.assert_allclose(last["mean_activation"].to_numpy()[living], mean, rtol=2e-2)
    own = (brute.own * active).sum((1, 2)) / active.sum((0, 1))
    np.testing.assert_allclose(last["own_part"].to_numpy()[living], own[3][living], rtol=2e-2, atol=1e-2)


def test_examples_are_the_leading_contexts_one_a_sequence(small_run: Run, brute: BruteForce) -> None:
    living = small_run.features.filter(~pl.col("dead"), pl.col("density") > 0.005)["feature"].to_list()
    examples = small_run.examples
    for feature in living[:15]:
        rows = examples.filter(pl.col("feature") == feature, pl.col("kind") == "top").sort("rank")
        peaks = brute.code[:, :, feature].amax(1).sort(descending=True).values[: len(rows)]
        shown = [row["activations"][row["position"] - row["first_position"]] for row in rows.iter_rows(named=True)]
        np.testing.assert_allclose(shown, peaks, rtol=1e-3, atol=1e-3)
        assert rows["sequence"].n_unique() == len(rows)
        for row in rows.iter_rows(named=True):
            span = slice(row["first_position"], row["first_position"] + len(row["tokens"]))
            assert brute.corpus.tokens[row["sequence"], span].tolist() == row["tokens"]
            place = int(np.flatnonzero(brute.sequences == row["sequence"])[0])
            np.testing.assert_allclose(row["activations"], brute.code[place, span, feature], atol=2e-3)


def test_own_examples_lead_by_the_snapshots_own_part(small_run: Run, brute: BruteForce) -> None:
    own = brute.own.masked_fill(~brute.usable[..., None], -torch.inf)
    rows = small_run.examples.filter(pl.col("kind") == "own", pl.col("rank") == 0)
    assert set(rows["snapshot"]) == {0, 1, 2, 3}
    for row in rows.filter(pl.col("feature") % 17 == 0).iter_rows(named=True):
        peak = row["activations"][row["position"] - row["first_position"]]
        assert peak == pytest.approx(float(own[row["snapshot"], :, :, row["feature"]].max()), rel=1e-3, abs=1e-3)


def test_quantile_examples_are_firing_contexts_in_order(small_run: Run) -> None:
    rows = small_run.examples.filter(pl.col("kind") == "quantile").sort("feature", "rank")
    peaks = [row["activations"][row["position"] - row["first_position"]] for row in rows.iter_rows(named=True)]
    assert min(peaks) > 0
    for feature in rows["feature"].unique()[:10]:
        of_feature = [peak for peak, f in zip(peaks, rows["feature"], strict=True) if f == feature]
        assert of_feature == sorted(of_feature, reverse=True)


def test_trajectories_hold_the_dictionarys_strengths(small_run: Run) -> None:
    strength = small_run.dictionary().strength().numpy()
    table = small_run.trajectories.sort("snapshot", "feature")
    living = ~small_run.features.sort("feature")["dead"].to_numpy()
    own, relative = (table[name].to_numpy().reshape(strength.shape) for name in ("strength", "strength_relative"))
    np.testing.assert_allclose(own[:, living], strength[:, living], rtol=1e-6)
    np.testing.assert_allclose(relative[:, living], (strength / strength.max(0))[:, living], rtol=1e-6)
    assert not own[:, ~living].any()


def test_quality_is_what_the_definitions_give_on_the_held_out_tokens(small_run: Run) -> None:
    corpus, dictionary = Corpus(small_run.corpus_folder / "held_out"), small_run.dictionary()
    config = small_run.study.measure
    chosen = np.concatenate(
        chosen_sequences(corpus, tokens=config.held_out_tokens, sequences_at_once=config.model_batch_size, seed=0)
    )
    harvester = Harvester(suite_of(small_run), small_run.study.hookpoint)
    tokens = torch.from_numpy(corpus.tokens[chosen].astype(np.int64))
    usable = torch.from_numpy(usable_positions(corpus.lengths[chosen], tokens.shape[1]))
    x = torch.stack([harvester.read(s, tokens)[usable] for s in range(4)], dim=1) * dictionary.norm_scale[:, None]
    out = dictionary(x)
    expected = 1 - (x - out.x_hat).square().sum((0, 2)) / (x - x.mean(0)).square().sum((0, 2))
    quality = small_run.table("quality")
    np.testing.assert_allclose(quality["explained_variance"], expected, atol=1e-3)
    assert quality["l0"][0] == pytest.approx(float((out.code > 0).sum(1).float().mean()), rel=1e-2)
    assert quality["tokens"][0] == len(x)
    assert quality["dead_share"][0] == pytest.approx(small_run.features["dead"].mean())
    k = round(quality["l0"][0])
    train = Corpus(small_run.corpus_folder / "train")
    seen = np.concatenate(
        chosen_sequences(train, tokens=config.tokens, sequences_at_once=config.model_batch_size, seed=0)
    )
    tokens = torch.from_numpy(train.tokens[seen].astype(np.int64))
    usable = torch.from_numpy(usable_positions(train.lengths[seen], tokens.shape[1]))
    for s in range(4):
        fitted = harvester.read(s, tokens)[usable] * dictionary.norm_scale[s]
        _, _, directions = torch.linalg.svd((fitted - fitted.mean(0)).double(), full_matrices=False)
        centred = x[:, s].double() - fitted.mean(0)
        left = centred - centred @ directions[:k].T @ directions[:k]
        total = (x[:, s] - x[:, s].mean(0)).square().sum()
        assert quality["pca_explained_variance"][s] == pytest.approx(1 - float(left.square().sum() / total), abs=1e-3)


def test_births_are_counted_again_under_the_other_normalisation(small_run: Run) -> None:
    corpus, dictionary, config = Corpus(small_run.corpus_folder / "held_out"), small_run.dictionary(), small_run.study
    places = {"tokens": config.measure.held_out_tokens, "sequences_at_once": 8, "seed": 0}
    chosen = np.concatenate(chosen_sequences(corpus, **places))
    harvester = Harvester(suite_of(small_run), config.hookpoint)
    usable = torch.from_numpy(usable_positions(corpus.lengths[chosen], corpus.sequence_length))
    tokens = torch.from_numpy(corpus.tokens[chosen].astype(np.int64))
    x = torch.stack([harvester.read(s, tokens)[usable] for s in range(4)], dim=1)
    robust = norm_scale_of(x, robust=True) / dictionary.norm_scale
    strength = (dictionary.strength() * robust[:, None]).numpy()
    features = small_run.features.sort("feature")
    again = life_history(strength, small_run.steps, dead=features["dead"].to_numpy())
    same = (again["birth_step"] == features["birth_step_rescaled"]).fill_null(value=True)
    assert same.mean() > 0.97  # centred on the measuring corpus there, on the held-out tokens here
    assert robust.max() > 1.2


def test_splicing_in_the_activations_themselves_changes_nothing_and_zeros_cost_what_ablation_costs(
    small_run: Run,
) -> None:
    snapshot = suite_of(small_run).snapshots[-1]
    model = load_snapshot(snapshot)
    tokens = torch.from_numpy(Corpus(small_run.corpus_folder / "held_out").tokens[:2].astype(np.int64))
    clean = model(tokens).logits
    for name in ("resid_post.0", "resid_pre.1", "mlp_out.0", "attn_out.1"):
        with spliced(model, parse_hookpoint(name), lambda x: x * 1):
            assert torch.equal(model(tokens).logits, clean), name
        with spliced(model, parse_hookpoint(name), lambda x: x * 0):
            assert not torch.allclose(model(tokens).logits, clean), name
    assert torch.equal(model(tokens).logits, clean)


def test_loss_recovered_is_what_running_every_sequence_by_itself_gives(small_run: Run) -> None:
    corpus, dictionary, config = Corpus(small_run.corpus_folder / "held_out"), small_run.dictionary(), small_run.study
    places = {"tokens": config.measure.sample_tokens, "sequences_at_once": 8, "seed": 0}
    sequences = np.concatenate(chosen_sequences(corpus, **places))
    suite, hookpoint = suite_of(small_run), parse_hookpoint(config.hookpoint)
    models = [load_snapshot(snapshot) for snapshot in suite.snapshots]
    quality, sums, count = small_run.table("quality"), torch.zeros(4, 2), 0
    for sequence in sequences:
        ids = torch.from_numpy(corpus.tokens[[sequence], : corpus.lengths[sequence]].astype(np.int64))
        read = [read_hookpoint(model, ids, hookpoint)[0] for model in models]
        x_hat = dictionary(torch.stack(read, dim=1) * dictionary.norm_scale[:, None]).x_hat
        for s, model in enumerate(models):
            spliced_in = torch.cat([read[s][:1], (x_hat[:, s] / dictionary.norm_scale[s])[1:]])[None]
            for place, by in enumerate((read[s][None], spliced_in)):
                with spliced(model, hookpoint, lambda _, by=by: by):
                    logits = model(ids).logits[0, 1:-1]
                sums[s, place] += torch.nn.functional.cross_entropy(logits, ids[0, 2:], reduction="sum")
        count += ids.shape[1] - 2
    assert quality["splice_tokens"].to_list() == [count] * 4
    np.testing.assert_allclose(quality["ce_clean"], sums[:, 0] / count, rtol=1e-4)
    np.testing.assert_allclose(quality["ce_spliced"], sums[:, 1] / count, rtol=2e-4)
    np.testing.assert_allclose(quality["delta_ce"], quality["ce_spliced"] - quality["ce_clean"])
    assert quality["loss_recovered"][0] is None
    assert 0.3 < quality["loss_recovered"][-1] < 1


def test_sampled_codes_are_the_dictionarys(small_run: Run) -> None:
    corpus, dictionary = Corpus(small_run.corpus_folder / "held_out"), small_run.dictionary()
    table = small_run.table("codes")
    harvester = Harvester(suite_of(small_run), small_run.study.hookpoint)
    for sequence in table["sequence"].unique(maintain_order=True)[:3]:
        ids = torch.from_numpy(corpus.tokens[[sequence]].astype(np.int64))
        x = torch.stack([harvester.read(s, ids)[0] for s in range(4)], dim=1) * dictionary.norm_scale[:, None]
        code = dictionary.encode(x)
        code[0] = 0
        code[corpus.lengths[sequence] :] = 0
        rows = table.filter(pl.col("sequence") == sequence)
        found = torch.zeros_like(code)
        found[rows["position"].to_list(), rows["feature"].to_list()] = torch.from_numpy(rows["code"].to_numpy().copy())
        assert ((found > 0) == (code > 0)).float().mean() > 0.999
        torch.testing.assert_close(found, code, rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("activation", ["batch_topk", "relu"])
def test_what_is_not_finite_where_no_token_counts_has_no_code(activation: str) -> None:
    crosscoder = Crosscoder(
        W_enc=torch.eye(4)[None], W_dec=torch.eye(4)[None], b_enc=torch.zeros(4), b_dec=torch.zeros(1, 4),
        activation=activation, threshold=torch.full((4,), 0.1) if activation == "batch_topk" else None,
    ).requires_grad_(False)  # fmt: skip
    x = torch.rand(6, 1, 4) + 0.2
    x[0] = torch.inf  # as of a start token in half precision
    usable = torch.tensor([[False, True, True], [False, True, False]])
    code = _sparse_code(crosscoder, Chunk(torch.arange(2), usable, x))
    assert set(code.indices()[0].tolist()) == {1, 2, 4}
    assert code.values().isfinite().all()


def test_l0_at_inference_is_near_the_k_of_training(small_run: Run) -> None:
    assert small_run.table("quality")["l0"][0] == pytest.approx(small_run.study.dictionary.k, rel=0.15)


def test_logit_effects_are_the_extremes_of_the_unembedded_direction(small_run: Run) -> None:
    suite, dictionary = suite_of(small_run), small_run.dictionary()
    table = small_run.table("logit_effects")
    for index in (0, 3):
        unit = torch.nn.functional.normalize(dictionary.W_dec[index], dim=-1)
        effects = logit_directions(load_snapshot(suite.snapshots[index]), unit)
        for kind, extreme in (("promoted", effects.amax(1)), ("suppressed", effects.amin(1))):
            rows = table.filter(pl.col("snapshot") == index, pl.col("kind") == kind, pl.col("rank") == 0).sort(
                "feature"
            )
            np.testing.assert_allclose(rows["effect"], extreme, rtol=1e-4, atol=1e-5)
            found = effects[torch.arange(len(effects)), torch.tensor(rows["token"].to_list())]
            np.testing.assert_allclose(found, extreme, rtol=1e-4, atol=1e-5)


def test_measuring_at_another_batch_size_gives_the_same_features(small_run: Run, tmp_path: Path) -> None:
    from ontogeny.features.measure import measure_features

    dictionary = small_run.dictionary()
    assert isinstance(dictionary, Crosscoder)
    config = small_run.study.measure.model_copy(update={"tokens": 5000})
    corpus = Corpus(small_run.corpus_folder / "train")
    harvester = Harvester(suite_of(small_run), small_run.study.hookpoint)
    one = measure_features(dictionary, harvester, corpus, config.model_copy(update={"model_batch_size": 1}))
    many = measure_features(dictionary, harvester, corpus, config.model_copy(update={"model_batch_size": 8}))
    assert abs(one.tokens - many.tokens) == 0
    torch.testing.assert_close(one.code_sum, many.code_sum, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(one.top.score, many.top.score, rtol=1e-3, atol=1e-3)


def test_dictionaries_measured_together_are_measured_as_alone(small_run: Run) -> None:
    from ontogeny.features.quality import reconstruct_held_out, reconstruct_together

    whole, config = small_run.dictionary(), small_run.study.measure.model_copy(update={"held_out_tokens": 1000})
    assert isinstance(whole, Crosscoder)
    tensors = whole.tensors()
    half = tensors | {"norm_scale": tensors["norm_scale"] * 1.5}
    half |= {name: tensors[name][..., :48] for name in ("W_enc", "b_enc", "threshold")} | {
        "W_dec": tensors["W_dec"][:, :48]
    }
    dictionaries = [whole, Crosscoder(**half, activation="relu").requires_grad_(False)]
    corpus = Corpus(small_run.corpus_folder / "held_out")
    harvester = Harvester(suite_of(small_run), small_run.study.hookpoint)
    for together, alone in zip(
        reconstruct_together(dictionaries, harvester, corpus, config),
        [reconstruct_held_out(each, harvester, corpus, config) for each in dictionaries],
        strict=True,
    ):
        assert together.tokens == alone.tokens
        torch.testing.assert_close(together.explained_variance, alone.explained_variance, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together.l0, alone.l0, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(together.rescaling("robust"), alone.rescaling("robust"))
    assert (
        abs(
            together.explained_variance - reconstruct_held_out(whole, harvester, corpus, config).explained_variance
        ).min()
        > 0.01
    )


def test_with_the_per_snapshot_gate_each_snapshot_is_measured_by_its_own_codes(small_run: Run) -> None:
    from ontogeny.features.codes import sample_codes
    from ontogeny.features.measure import chunks_of, measure_features
    from ontogeny.features.quality import reconstruct_held_out
    from ontogeny.features.splice import measure_splices
    from ontogeny.features.tables import trajectories_table

    trained = small_run.dictionary()
    tensors = trained.tensors() | {"threshold": torch.full((trained.n_features,), 0.7)}
    tensors["W_dec"] = tensors["W_dec"] * torch.tensor([0.2, 0.5, 1.0, 1.0])[:, None, None]
    gated = Crosscoder(**tensors, activation="jumprelu", gate="per_snapshot").requires_grad_(False)
    config = small_run.study.measure.model_copy(update={"tokens": 3000, "held_out_tokens": 1000})
    corpus, suite = Corpus(small_run.corpus_folder / "train"), suite_of(small_run)
    harvester = Harvester(suite, small_run.study.hookpoint)
    measurement = measure_features(gated, harvester, corpus, config)
    places = {"tokens": config.tokens, "sequences_at_once": config.model_batch_size, "seed": config.seed}
    chunks = list(chunks_of(gated, harvester, corpus, **places))
    x = torch.cat([chunk.x[chunk.usable.flatten()] for chunk in chunks])
    code = gated.encode(x)
    table = trajectories_table(measurement, steps=suite.steps).sort("snapshot", "feature")
    rates = (code > 0).double().mean(0)
    assert float(rates[0].sum()) < float(rates[3].sum()) / 2
    np.testing.assert_allclose(table["firing_rate"].to_numpy().reshape(4, -1), rates, atol=1e-3)
    means = (code.sum(0) / (code > 0).sum(0)).nan_to_num(-1)
    found = table["mean_activation"].fill_null(-1).to_numpy().reshape(4, -1)
    often = ((code > 0).sum(0) > 20).numpy()
    np.testing.assert_allclose(found[often], means.numpy()[often], rtol=2e-2)
    own = torch.einsum("tsd,sdf->tsf", x, gated.W_enc)
    own_mean = ((own * (code > 0)).sum(0) / (code > 0).sum(0)).numpy()
    np.testing.assert_allclose(measurement.own_part_mean().numpy()[often], own_mean[often], rtol=2e-2, atol=2e-2)
    held = reconstruct_held_out(gated, harvester, corpus, config)
    l0 = held.l0.tolist()
    assert l0[0] < l0[1] < l0[3]
    sample = sample_codes(gated, harvester, corpus, config)
    places = {"tokens": config.sample_tokens, "sequences_at_once": config.model_batch_size, "seed": config.seed}
    chunk = next(chunks_of(gated, harvester, corpus, **places))
    for snapshot in range(4):
        at = gated.code_at(sample.codes[0].to_dense(), snapshot, strength=gated.strength())
        expected = gated.encode(chunk.x)[:, snapshot] * chunk.usable.view(-1, 1)
        torch.testing.assert_close(at, expected)
    splices = measure_splices(gated, suite, corpus, sample, harvester=harvester, centre=measurement.mean())
    assert (splices["delta_ce"].abs() > 0).all()
