"""How strongly two texts show each feature: sums against loops, intervals against their nulls, a planted passage."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import kstest

from conftest import quick_study
from ontogeny import Crosscoder
from ontogeny.activations.harvest import Harvester
from ontogeny.config.study import StudyConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.features.measure import Chunk, chunks_of
from ontogeny.features.texts import LEAST_GROUPS, add_shown, mean_gap_interval, shown_strength, text_gap
from ontogeny.run import Run
from ontogeny.study import run_study
from ontogeny.suites.suite import suite_of

N, D, F = 3, 6, 10


def crosscoder_of(gate: str, seed: int = 0) -> Crosscoder:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    activation = {"activation": "jumprelu", "threshold": torch.full((F,), 0.4)}
    return Crosscoder(
        W_enc=normal(N, D, F), W_dec=normal(N, F, D), b_enc=normal(F), b_dec=normal(N, D), norm_scale=torch.ones(N),
        gate=gate, **(activation if gate == "per_snapshot" else {"activation": "relu"}),
    ).requires_grad_(False)  # fmt: skip


def sums(crosscoder: Crosscoder, chunks: list[Chunk], groups: list[torch.Tensor], n_groups: int) -> np.ndarray:
    product = torch.zeros(crosscoder.n_snapshots, n_groups, crosscoder.n_features)
    square, active = torch.zeros_like(product), torch.zeros(crosscoder.n_features, dtype=torch.int64)
    for chunk, group in zip(chunks, groups, strict=True):
        add_shown(product, square, crosscoder, chunk, group, active)
    return np.stack([product.numpy(), square.numpy()])


@pytest.mark.parametrize("gate", ["shared", "per_snapshot"])
def test_sums_are_those_of_a_loop_over_tokens(gate: str) -> None:
    crosscoder, draw = crosscoder_of(gate), torch.Generator().manual_seed(1)
    usable = torch.rand(4, 5, generator=draw) > 0.2
    chunk = Chunk(torch.arange(4), usable, torch.randn(20, N, D, generator=draw))
    group = torch.arange(4).repeat_interleave(5) % 3
    found = sums(crosscoder, [chunk], [group], 3)
    expected = np.zeros_like(found)
    code = crosscoder.encode(chunk.x)
    x_hat = crosscoder.decode(code)
    for token in range(20):
        if not usable.flatten()[token]:
            continue
        for snapshot in range(N):
            own = code[token, snapshot] if gate == "per_snapshot" else code[token]
            for feature in range(F):
                unit = crosscoder.W_dec[snapshot, feature] / crosscoder.W_dec[snapshot, feature].norm()
                f = float(own[feature])
                # what the activation has of the feature: all that the other features and the bias leave
                rest = x_hat[token, snapshot] - f * crosscoder.W_dec[snapshot, feature]
                expected[0, snapshot, group[token], feature] += f * float((chunk.x[token, snapshot] - rest) @ unit)
                expected[1, snapshot, group[token], feature] += f * f
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_passage_that_shows_a_feature_more_strongly_is_seen() -> None:
    # every feature in its own direction; one text has feature 3 half as strong again
    crosscoder = Crosscoder(
        W_enc=torch.eye(F)[None], W_dec=torch.eye(F)[None], b_enc=torch.zeros(F), b_dec=torch.zeros(1, F),
        norm_scale=torch.ones(1), activation="relu",
    ).requires_grad_(False)  # fmt: skip
    crosscoder.W_enc[0, 3, 3] = 1 / 1.5
    draw = torch.Generator().manual_seed(2)

    def text(factor: float) -> np.ndarray:
        x = torch.rand(40, 50, F, generator=draw) + 0.1 * torch.randn(40, 50, F, generator=draw)
        x[..., 3] *= factor
        chunk = Chunk(torch.arange(40), torch.ones(40, 50, dtype=torch.bool), x.flatten(0, 1)[:, None])
        return sums(crosscoder, [chunk], [torch.arange(40).repeat_interleave(50)], 40)[:, 0].astype(np.float64)

    shown, error = shown_strength(*text(1.5))
    assert shown[3] == pytest.approx(1.5, rel=1e-5)
    assert shown[4] == pytest.approx(1, rel=1e-5)
    assert error[3] < 1e-5
    crosscoder.W_enc[0, 3, 3] = 1.0  # the code now grows with the activation, and the strength stays
    assert shown_strength(*text(1.5))[0][3] == pytest.approx(1, rel=1e-5)


def _text(draw: np.random.Generator, groups: int, features: int, strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups of different sizes, strengths that vary between them."""
    square = draw.gamma(2.0, 50.0, (groups, 1)) * draw.gamma(5.0, 0.2, (groups, features))
    return square * (strength + 0.2 * draw.standard_normal((groups, features))), square


def test_intervals_hold_no_gap_and_a_planted_one() -> None:
    draw, greatest = np.random.default_rng(3), np.full(4000, 2.0)
    strength = np.ones(4000)
    strength[:100] += 0.4
    one, other = _text(draw, 60, 4000, strength), _text(draw, 24, 4000, np.ones(4000))
    found = text_gap(one, other, greatest=greatest)
    low, high = found.interval(24)
    truth = (strength - 1) / 2
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97
    assert (low[:100] > 0).mean() > 0.95
    assert kstest(found.p[100:], "uniform").statistic < 0.04
    inside = []
    for number in range(60):  # features that share documents' chance: their mean's interval has to know
        shared = draw.standard_normal((60, 1)), draw.standard_normal((24, 1))
        texts = [
            (product + 0.1 * noise * square, square)
            for noise, (product, square) in zip(
                shared, (_text(draw, 60, 50, np.ones(50)), _text(draw, 24, 50, np.ones(50))), strict=True
            )
        ]
        low, high = mean_gap_interval(*texts, greatest=np.full(50, 2.0), samples=400, seed=number)
        inside.append(low <= 0 <= high)
    assert np.mean(inside) >= 0.85  # 60 draws of .95: .85 is beyond three standard errors


def test_features_on_few_documents_are_not_compared() -> None:
    square = np.zeros((20, 2))
    square[: LEAST_GROUPS - 1, 0], square[:LEAST_GROUPS, 1] = 1, 1
    shown, error = shown_strength(2 * square, square)
    assert np.isnan(shown[0])
    assert np.isnan(error[0])
    assert shown[1] == 2
    assert np.isnan(text_gap((2 * square, square), (square, square), greatest=np.array([1.0, 0.0])).gap).all()


@pytest.fixture(scope="module")
def run(small_run: Run, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    changes = {
        "suite": {"folder": str(small_run.suite_folder)},
        "corpus": {"files": str(text_file), "sequence_length": 64, "held_out_share": 0.4},
        "analyses": ["memorisation"],
    }
    study = StudyConfig(**quick_study(text_file, **changes))
    return run_study(study, out=tmp_path_factory.mktemp("memorised") / "run", say=lambda line: None)


def test_a_study_compares_its_two_texts(run: Run) -> None:
    table, crosscoder = run.table("memorisation"), run.dictionary()
    assert isinstance(crosscoder, Crosscoder)
    living = run.features.filter(~pl.col("dead"))
    assert len(table) == len(living) * len(run.steps)
    settings = run.study.measure
    harvester, shown = Harvester(suite_of(run), run.study.hookpoint), []
    for name in ("train", "held_out"):
        places = {"tokens": settings.held_out_tokens, "sequences_at_once": 8, "seed": settings.seed}
        chunks = list(chunks_of(crosscoder, harvester, Corpus(run.corpus_folder / name), **places))
        zero = [torch.zeros(len(chunk.x), dtype=torch.int64) for chunk in chunks]
        product, square = sums(crosscoder, chunks, zero, 1)
        shown.append(product[:, 0] / np.maximum(square[:, 0], 1e-12))
        density = sum((crosscoder.encode(chunk.x[chunk.usable.flatten()]) > 0).sum(0) for chunk in chunks)
        count = sum(int(chunk.usable.sum()) for chunk in chunks)
        own = table.filter(snapshot=0).sort("feature")
        np.testing.assert_allclose(
            own[f"density_{name}"], (density / count).numpy()[own["feature"].to_numpy()], rtol=0.02
        )
    gap = (shown[0] - shown[1]) / np.maximum(run.matrix("strength").max(0), 1e-12)
    known = table.drop_nulls("gap")
    assert len(known) > len(table) / 2
    np.testing.assert_allclose(known["gap"], gap[known["snapshot"], known["feature"]], rtol=1e-3, atol=1e-4)
    assert (known["gap_ci_low"] <= known["gap"]).all()
    rows = run.table("memorisation_snapshots")
    assert rows["step"].to_list() == run.steps
    assert (rows["gap_ci_low"] <= rows["gap"]).all()
    assert (rows["gap"] <= rows["gap_ci_high"]).all()
    assert (rows["at_random"] <= rows["features"]).all()


def test_what_was_read_is_not_read_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("ontogeny.features.texts.text_sums", refused)
    from ontogeny.analyses import memorisation_snapshots

    assert memorisation_snapshots(run).equals(run.table("memorisation_snapshots"))


def test_the_report_says_it(run: Run) -> None:
    from ontogeny.report.figures import drawn
    from ontogeny.report.sentences import summary

    assert "memorisation" in drawn(run)
    assert any("training text" in sentence.text for sentence in summary(run))
    page = run.report_path.read_text(encoding="utf-8")
    assert "Is it memorised?" in page
