"""A study whose dictionary is an SAE series: its tables against brute force, and what a later snapshot costs."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import ontogeny as og
from conftest import Command, copied, small_study
from ontogeny.activations.harvest import Harvester, usable_positions
from ontogeny.analyses.embedding import _plane
from ontogeny.config.study import StudyConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries import track
from ontogeny.dictionaries.variants import series as chain
from ontogeny.errors import ConfigError, DictionaryError
from ontogeny.features import parts
from ontogeny.features.carried import carried, correlations_before
from ontogeny.features.codes import as_csr, sampled_sequences, stored_codes
from ontogeny.features.measure import chosen_sequences, chunks_of
from ontogeny.features.quality import reconstruct_held_out
from ontogeny.features.sample import stored_activations
from ontogeny.features.similarity import linear_cka
from ontogeny.interop.export import export_dictionary
from ontogeny.interop.formats import format_of
from ontogeny.interop.neuronpedia import export_neuronpedia
from ontogeny.run import Run
from ontogeny.study import run_study
from ontogeny.suites.suite import suite_of


def series_study(suite: Path, text_file: Path) -> StudyConfig:
    changes = {
        "suite": {"folder": str(suite)},
        "corpus": {"files": str(text_file), "sequence_length": 64},
        "dictionary": {"kind": "sae_series", "n_features": 64, "k": 6},
        "series": {"next_tokens": [10_000], "next_learning_rate": 0.3},
        "analyses": [
            "emergence",
            "turning_point",
            "single_saes",
            "probes",
            "formation",
            "tracking",
            "directions",
            "umap",
        ],
        "analysis": {"bootstrap": 100, "single_sae_steps": [60], "track_controls": ["reverse", "null", "order"]},
        "report": False,
    }
    study = small_study(text_file, **changes)
    study["train"] = {**study["train"], "tokens": 30_000}  # type: ignore[dict-item]
    study["measure"] = {**study["measure"], "tokens": 12_000}  # type: ignore[dict-item]
    return StudyConfig(**study)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def series_run(small_run: Run, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("series")
    return run_study(series_study(small_run.suite_folder, text_file), out=folder / "run", say=lambda line: None)


def test_each_snapshot_is_measured_by_its_own_sae(series_run: Run) -> None:
    series, settings = series_run.dictionary(), series_run.study.measure
    assert isinstance(series, og.SAESeries)
    harvester = Harvester(suite_of(series_run), series_run.study.hookpoint)
    x, codes = [], []
    places = {"tokens": settings.tokens, "sequences_at_once": settings.model_batch_size, "seed": settings.seed}
    for place in range(4):
        one = Harvester(suite_of(series_run).only([place]), series_run.study.hookpoint)
        chunks = chunks_of(series.sae(place), one, Corpus(series_run.corpus_folder / "train"), **places)
        x.append(torch.cat([chunk.x[chunk.usable.flatten()] for chunk in chunks])[:, 0])
        codes.append(series.sae(place).encode(x[-1][:, None]))
    code = torch.stack(codes)
    assert harvester.n_snapshots == 4
    rates = (code > 0).double().mean(1)
    np.testing.assert_allclose(series_run.matrix("firing_rate"), rates, atol=1e-3)
    sampled = [as_csr(stored_codes(series_run, snapshot=place).codes) for place in range(4)]
    there = carried(correlations_before(sampled), rates.numpy() > 0)
    assert 0 < there[:-1].mean() < 1
    strength = series.strength().numpy() * (rates.numpy() > 0) * there
    np.testing.assert_allclose(series_run.matrix("strength"), strength, rtol=1e-5)
    greatest = np.maximum(strength.max(0), 1e-30)
    np.testing.assert_allclose(series_run.matrix("strength_relative"), strength / greatest, rtol=1e-5)
    features = series_run.features.sort("feature")
    np.testing.assert_allclose(features["density"], rates.amax(0), atol=1e-3)
    np.testing.assert_allclose(features["max_activation"], code.amax((0, 1)), rtol=1e-3)
    quality = series_run.table("quality").sort("snapshot")
    silent = (rates == 0).double().mean(1)
    np.testing.assert_allclose(quality["dead_share"], silent, atol=0.02)


def test_an_sae_of_the_series_is_exported_as_it_is(series_run: Run, tmp_path: Path) -> None:
    series = series_run.dictionary()
    assert isinstance(series, og.SAESeries)
    said = export_dictionary(series_run, "saelens", tmp_path / "sae", step=25)
    assert said == f"wrote the SAE of step 25 for SAELens 6 to {tmp_path / 'sae'}"
    read, own = format_of("saelens").read(tmp_path / "sae").requires_grad_(False), series.sae(2).requires_grad_(False)
    x = torch.randn(50, 1, own.d_model, generator=torch.Generator().manual_seed(0))
    a, b = own(x * own.norm_scale[:, None]), read(x * read.norm_scale[:, None])
    assert ((a.code > 0) == (b.code > 0)).all()
    torch.testing.assert_close(
        a.x_hat / own.norm_scale[:, None], b.x_hat / read.norm_scale[:, None], rtol=1e-4, atol=1e-5
    )
    with pytest.raises(DictionaryError, match="holds crosscoders, this run has an SAE series"):
        export_dictionary(series_run, "openmoss", tmp_path / "crosscoder")


def test_an_sae_of_the_series_goes_out_to_neuronpedia_as_it_is_at_the_end(series_run: Run, tmp_path: Path) -> None:
    written = export_neuronpedia(series_run, tmp_path / "np", model="tiny", source="0-mine")
    held = gzip.decompress((tmp_path / "np" / "features" / "batch-0.jsonl.gz").read_bytes()).splitlines()
    rows = {int(row["index"]): row for row in map(json.loads, held)}
    last = series_run.trajectories.filter(snapshot=len(series_run.steps) - 1)
    rates = dict(last.filter(pl.col("firing_rate") > 0).select("feature", "firing_rate").iter_rows())
    assert written == len(rows) > 0
    assert rows.keys() == rates.keys() & set(series_run.features.filter(~pl.col("dead"))["feature"])
    assert all(row["frac_nonzero"] == pytest.approx(rates[feature], abs=1e-6) for feature, row in rows.items())


def test_examples_of_all_snapshots_and_of_each(series_run: Run) -> None:
    settings, corpus, examples = (
        series_run.study.measure,
        Corpus(series_run.corpus_folder / "train"),
        series_run.examples,
    )
    series, suite = series_run.dictionary(), suite_of(series_run)
    assert isinstance(series, og.SAESeries)
    chosen = np.concatenate(chosen_sequences(corpus, tokens=settings.tokens, sequences_at_once=8, seed=settings.seed))
    usable = torch.from_numpy(usable_positions(corpus.lengths[chosen], corpus.sequence_length))
    tokens = torch.from_numpy(corpus.tokens[chosen].astype(np.int64))
    peaks = []
    for place in range(4):
        x = Harvester(suite.only([place]), series_run.study.hookpoint).read(0, tokens).flatten(0, 1)
        code = series.sae(place).encode((x * series.norm_scale[place])[:, None]).view(*tokens.shape, -1)
        peaks.append((code * usable[..., None]).amax(1))
    peak = torch.stack(peaks)
    feature = int((peak > 0).sum((0, 1)).argmax())
    own = examples.filter(feature=feature, kind="own")
    assert sorted(own["snapshot"].unique()) == [0, 1, 2, 3]
    for place in range(4):
        found = own.filter(snapshot=place).sort("rank")["activations"].list.max()
        np.testing.assert_allclose(found, peak[place, :, feature].topk(settings.snapshot_examples).values, rtol=1e-3)
    top = examples.filter(feature=feature, kind="top").sort("rank")
    best = peak.amax(0)[:, feature].topk(settings.examples).values
    np.testing.assert_allclose(top["activations"].list.max(), best, rtol=1e-3)
    assert top["sequence"].n_unique() == settings.examples
    assert top["snapshot"].is_null().all()
    drawn = examples.filter(kind="quantile")
    assert drawn["snapshot"].is_null().all()
    assert drawn.group_by("feature").len()["len"].max() == settings.quantile_examples
    for table in (top, drawn.filter(feature=feature).sort("rank")):
        assert table["rank"].to_list() == list(range(len(table)))
        assert table["activations"].list.max().is_sorted(descending=True)


def test_codes_are_kept_by_snapshot_and_quality_is_each_saes(series_run: Run) -> None:
    series, settings = series_run.dictionary(), series_run.study.measure
    assert isinstance(series, og.SAESeries)
    held_out, suite = Corpus(series_run.corpus_folder / "held_out"), suite_of(series_run)
    quality = series_run.table("quality").sort("snapshot")
    for place in (0, 3):
        harvester = Harvester(suite.only([place]), series_run.study.hookpoint)
        stored = stored_codes(series_run, snapshot=place)
        tokens = torch.from_numpy(held_out.tokens[stored.sequences].astype(np.int64))
        usable = torch.from_numpy(usable_positions(held_out.lengths[stored.sequences], held_out.sequence_length))
        x = harvester.read(0, tokens)[usable] * series.norm_scale[place]
        code = series.sae(place).encode(x[:, None])
        torch.testing.assert_close(stored.codes.to_dense().T, code, atol=1e-4, rtol=1e-3)
        held = reconstruct_held_out(series.sae(place), harvester, held_out, settings)
        assert quality["explained_variance"][place] == pytest.approx(float(held.explained_variance[0]))
        assert quality["l0"][place] == pytest.approx(float(held.l0[0]))
    assert stored_codes(series_run).codes.to_dense().equal(stored_codes(series_run, snapshot=3).codes.to_dense())
    assert (quality["explained_variance"] > 0.5).all()
    assert series_run.table("single_saes")["step"].to_list() == [60]
    assert series_run.table("probes").filter(snapshot=3)["strength_refit"].is_not_null().any()


def test_formation_of_a_real_series(series_run: Run) -> None:
    levels = series_run.table("levels")
    assert set(levels["level"].drop_nulls()) <= {"token", "weak_concept", "concept", "noise"}
    assert float(levels.filter(snapshot=3)["level"].is_not_null().mean()) > 0.3  # type: ignore[arg-type]
    assert series_run.table("patterns")["features"].sum() == 64
    progress = series_run.table("progress")
    assert progress["step"].to_list() == series_run.steps
    first = progress.row(0, named=True)
    assert first["expected_correlation"] > 0.5
    similar = series_run.table("similarity")
    assert (similar["random_ci_low"] <= similar["random"]).all()
    assert (similar["random"] <= similar["random_ci_high"]).all()
    formed = series_run.table("formed")
    alive = formed.filter(~pl.col("pattern").is_in(["rare", "dead"]))
    assert alive["meaning_step"].is_not_null().all()


def test_formation_and_directions_of_a_crosscoder(small_run: Run, tmp_path: Path) -> None:
    shutil.copytree(small_run.folder, tmp_path / "run")
    study = small_run.study.model_copy(update={"analyses": ["formation", "directions"]})
    said: list[str] = []
    run = run_study(study, out=tmp_path / "run", say=said.append)
    assert [line for line in said if line.endswith("done already")] == [
        "pack: done already", "pretrain: done already", "train: done already", "measure: done already"
    ]  # fmt: skip
    found = run.table("formed")  # one code for all snapshots always means the same
    assert set(found["pattern"]) <= {"maintaining", "unformed", "rare", "dead"}
    assert set(found.filter(~pl.col("pattern").is_in(["rare", "dead"]))["meaning_step"]) == {0}
    assert run.table("progress").row(0, named=True)["expected_correlation"] > 0.8
    assert run.table("directions").filter(snapshot=3).drop_nulls()["cosine_last"].min() > 0.999  # type: ignore[operator]
    assert run.report_path.is_file()


def test_directions_by_their_cosines_and_in_one_plane(series_run: Run) -> None:
    table = series_run.table("directions").sort("snapshot", "feature")
    unit = torch.nn.functional.normalize(series_run.dictionary().W_dec, dim=2).numpy()
    fires = series_run.matrix("firing_rate") > 0
    cosine = np.where(fires & fires[-1], np.einsum("sfd,fd->sf", unit, unit[-1]), np.nan)
    np.testing.assert_allclose(table["cosine_last"].fill_null(np.nan).to_numpy().reshape(4, -1), cosine, atol=1e-5)
    known = unit[fires]
    _, spread, axes = np.linalg.svd(known - known.mean(0), full_matrices=False)
    places = table.drop_nulls("component_1")
    for name, axis in (("component_1", axes[0]), ("component_2", axes[1])):
        expected = (known - known.mean(0)) @ axis
        found = places[name].to_numpy()
        assert min(np.abs(found - expected).max(), np.abs(found + expected).max()) < 1e-3
    explained = series_run.table("direction_components")["explained"].to_list()
    np.testing.assert_allclose(explained, (spread**2 / (spread**2).sum())[:8], rtol=1e-4)


def test_datapoints_lie_in_one_plane_for_all_snapshots(series_run: Run) -> None:
    table = series_run.table("umap")
    assert table["step"].unique(maintain_order=True).to_list() == series_run.steps
    parts = [part for _, part in table.group_by("snapshot", maintain_order=True)]
    for part in parts[1:]:
        assert part.select("feature", "token").equals(parts[0].select("feature", "token"))
    features = parts[0].drop_nulls("feature").group_by("feature").len()
    assert 2 <= len(features) <= 6
    assert features["len"].max() <= series_run.study.analysis.formation_examples  # type: ignore[operator]
    assert parts[0]["feature"].is_null().sum() > 100
    places = parts[-1].select("x", "y").to_numpy()
    token = parts[-1]["token"].to_numpy()
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    same = (token[:, None] == token) & ~np.eye(len(token), dtype=bool)
    assert same.any()
    assert np.median(distances[same]) < 0.5 * np.median(distances)  # tokens that are the same lie together


def test_threads_are_set_back_after_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    class Numba:
        """What numba does to the whole process when it is first used."""

        def __init__(self, **options: object) -> None:
            torch.set_num_threads(threads + 1)

        def fit_transform(self, points: np.ndarray) -> np.ndarray:
            return points[:, :2]

    threads = torch.get_num_threads()
    monkeypatch.setattr("umap.UMAP", Numba)
    _plane(np.eye(8), seed=0)
    assert torch.get_num_threads() == threads


def test_directions_that_are_alike_lie_near_each_other(series_run: Run) -> None:
    table = series_run.table("umap_directions")
    living = series_run.features.filter(~pl.col("dead"))["feature"].sort()
    assert table["feature"].to_list() == living.to_list()
    directions = series_run.dictionary().W_dec[-1].detach().numpy()[living.to_numpy()]
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    places = table.select("x", "y").to_numpy()
    distance = np.linalg.norm(places[:, None] - places, axis=2)
    nearest = distance[np.arange(len(unit)), cosine.argmax(1)]
    assert np.median(nearest) < 0.5 * np.median(distance)


def test_an_analysis_without_its_extra_is_refused_in_one_line(
    text_file: Path, small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ontogeny.preflight.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"the analysis umap needs an extra: pip install 'ontogeny\[umap\]'"):
        run_study(series_study(small_run.suite_folder, text_file), out=tmp_path / "run")


def test_cka_is_that_of_the_kernels() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=draw, dtype=torch.float64)
    y = x @ torch.randn(6, 6, generator=draw, dtype=torch.float64) + 1
    centre = torch.eye(40, dtype=torch.float64) - 1 / 40
    k, m = (centre @ one @ one.T @ centre for one in (x, y))
    assert linear_cka(x, y) == pytest.approx(float((k * m).sum() / (k.norm() * m.norm())))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=draw, dtype=torch.float64))[0]
    assert linear_cka(x, 3 * x @ turn + 2) == pytest.approx(1)


def test_drift_of_the_series_and_its_controls(series_run: Run) -> None:
    series = series_run.dictionary()
    drift = series_run.table("track_drift")
    assert drift["variant"].unique(maintain_order=True).to_list() == ["forward", "reverse", "null", "order"]
    assert drift.group_by("variant").len()["len"].to_list() == [3] * 4
    fires = series_run.matrix("firing_rate") > 0
    unit = torch.nn.functional.normalize(series.W_dec, dim=2)
    for row in drift.filter(variant="forward").iter_rows(named=True):
        a, b = (series_run.steps.index(row[name]) for name in ("step_a", "step_b"))
        both = torch.from_numpy(fires[a] & fires[b])
        angle = torch.rad2deg(torch.arccos((unit[a, both] * unit[b, both]).sum(1).clamp(-1, 1))).mean()
        assert row["angle"] == pytest.approx(float(angle), rel=0.05)
        assert row["angle_ci_low"] <= row["angle"] <= row["angle_ci_high"]
        assert row["beyond_ci_low"] <= row["beyond"] <= row["beyond_ci_high"]
    null = drift.filter(variant="null")
    assert null["step_a"].unique().to_list() == [60]
    assert null["beyond"].is_null().all()
    for name in ("forward", "reverse", "order"):  # over the gap of a number all have the same tokens
        own = drift.filter(variant=name)
        np.testing.assert_allclose(own["beyond"], own["angle"] - null["angle"], atol=1e-4)
    last = series_run.table("directions").filter(snapshot=1)["cosine_last"].mean()
    assert drift.filter(variant="forward")["cosine_last"][1] == pytest.approx(last, rel=0.05)
    formed = series_run.table("formed").drop_nulls("path_after")
    places = [series_run.steps.index(step) for step in formed["meaning_step"]]
    turned = [null["angle"].to_numpy()[place:].sum() for place in places]
    np.testing.assert_allclose(formed["path_beyond"], formed["path_after"] - np.array(turned), atol=1e-3)
    assert null["angle"].max() < drift.filter(variant="forward")["angle"].max()
    order = drift.filter(variant="order")
    assert order["step_b"].to_list()[:-1] == order["step_a"].to_list()[1:]
    assert (null["cosine_last_low"] < null["cosine_last"]).all()
    same = series_run.table("identity")
    assert same.select("variant", "link").n_unique() == len(same)
    assert float(same.filter(variant="null")["same"].min()) > 0.9  # type: ignore[arg-type]
    matches = series_run.table("track_matches")
    assert set(matches["variant"]) == {"reverse"}
    single = series_run.table("single_saes")
    assert single["matched_0.9"][0] <= single["matched_0.7"][0] <= 1
    assert single["features"][0] > 10
    other = chain(series_run, series_run.folder / "variants" / "reverse", direction="reverse")
    x = stored_activations(series_run, 3, sampled_sequences(series_run))[:, None]
    rows = []
    for one in (series.sae(3), other.sae(3)):
        living = (one.encode(x * one.norm_scale) > 0).any(0)
        rows.append(torch.nn.functional.normalize(one.W_dec[0], dim=1)[living].double().numpy())
    cosine = rows[0] @ rows[1].T
    own, counterpart = linear_sum_assignment(-cosine)
    last = matches.filter(step=60).sort("level")
    expected = [(cosine[own, counterpart] >= level).sum() / len(rows[0]) for level in (0.7, 0.9)]
    assert last["matched"].to_list() == pytest.approx(expected)
    gate = series_run.table("gate")
    assert gate["tokens"].to_list() == [30_000 // 512 * 512, *[10_000 // 512 * 512] * 3]
    cold = gate.filter(step=60).row(0, named=True)
    assert cold["cold_explained_variance"] == single["sae_explained_variance"][0]
    for row in gate.iter_rows(named=True):
        fails = {
            "dead": row["dead_share"] > 0.1,
            "variance": row["explained_variance"] < (row["cold_explained_variance"] or 0) - 0.02,
            "active features": not 5.4 <= row["l0"] <= 6.6,
            "loss": (row["loss_recovered"] or 1) < 0.9,
        }
        assert row["failed"] == (", ".join(name for name, fail in fails.items() if fail) or None)
        assert row["passed"] == (row["failed"] is None)
    gaps = series_run.table("gaps")
    assert gaps["step_b"].to_list() == [10, 25, 60]
    assert (gaps["moved"] > 0).all()
    assert gaps["cka_distance"].is_between(0, 1).all()


def test_a_table_that_was_written_anew_is_no_record_of_earlier_settings(series_run: Run, tmp_path: Path) -> None:
    run = copied(series_run.folder, tmp_path)
    keys = {name: record["key"] for name, record in run.manifest["stages"].items()}
    assert all(run.stage_done(name, key) for name, key in keys.items())
    run.write_table("gaps", run.table("gaps"))  # of other settings, say, and then a kill
    assert [name for name, key in keys.items() if not run.stage_done(name, key)] == ["analyse tracking", "analyse"]
    said: list[str] = []
    run_study(run.study, out=run.folder, say=said.append)
    assert [line for line in said if line.startswith("analyse") and "done already" not in line]
    assert all(run.stage_done(name, key) for name, key in keys.items() if name.startswith("analyse"))


def test_checks_that_are_for_a_crosscoder_leave_a_series_run_as_it_is(
    series_run: Run, command: Command, tmp_path: Path
) -> None:
    run = copied(series_run.folder, tmp_path)
    before = run.study_path.read_text()
    code, lines = command("truth", run.folder)
    assert code == 2
    assert lines == ["ontogeny: small: leave out truth: these checks are for a crosscoder"]
    assert run.study_path.read_text() == before


def test_a_snapshot_that_comes_later_costs_only_itself(
    small_run: Run, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[str] = []

    def counted(function: object, name: str) -> object:
        def call(*arguments: object, **options: object) -> object:
            worked.append(f"{name} {options['stage']}" if name == "train" else f"{name} {arguments[2].steps}")  # type: ignore[attr-defined]
            return function(*arguments, **options)  # type: ignore[operator]

        return call

    monkeypatch.setattr(track, "train_crosscoder", counted(track.train_crosscoder, "train"))
    monkeypatch.setattr(parts, "measure_part", counted(parts.measure_part, "measure"))
    suite = tmp_path / "suite"
    for step in (0, 10, 25):
        shutil.copytree(small_run.suite_folder / f"step{step}", suite / f"step{step}")
    study = series_study(suite, text_file).model_copy(update={"analyses": ["emergence"]})
    run_study(study, out=tmp_path / "run", say=lambda line: None)
    assert worked == ["train sae-0", "train sae-1", "train sae-2", "measure [0]", "measure [10]", "measure [25]"]
    worked.clear()
    shutil.copytree(small_run.suite_folder / "step60", suite / "step60")
    run = run_study(study, out=tmp_path / "run", say=lambda line: None)
    assert worked == ["train sae-3", "measure [60]"]
    assert run.trajectories["snapshot"].unique().sort().to_list() == [0, 1, 2, 3]
    whole = run_study(study, out=tmp_path / "whole", say=lambda line: None)
    for name in ("features", "trajectories", "examples", "quality", "codes"):
        assert run.table(name).equals(whole.table(name)), name
    assert run.analysis("emergence").filter(pl.col("step") == 60)["alive"][0] > 0
