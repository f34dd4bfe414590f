"""The SAE series: what it computes, that features keep their index, and that a killed one goes on."""

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

import ontogeny as og
from ontogeny.dictionaries import start, track
from ontogeny.dictionaries.backends import settled
from ontogeny.dictionaries.sae_series import with_mean_code
from ontogeny.dictionaries.start import carry_over, moments_of, tie_undetermined
from ontogeny.dictionaries.track import _of_neighbours, rounds_taken
from ontogeny.errors import ConfigError
from ontogeny.features.carried import carried, correlations_before
from ontogeny.features.life import alive_mask
from ontogeny.truth.planted import Planted, plant
from ontogeny.truth.recovery import score_recovery

SETTINGS = {"n_features": 48, "k": 4, "steps": [400, 200], "next_learning_rate": 0.3, "dead_after_tokens": 5000}


class Of:
    """One snapshot's batches of a planted suite."""

    def __init__(self, planted: Planted, place: int, *, two_axes: bool = False) -> None:
        self.planted, self.place, self.two_axes = planted, place, two_axes

    def __iter__(self) -> Iterator[Tensor]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[Tensor]:
        for x in self.planted.batches(256).starting_at(batch):
            yield x[:, self.place] if self.two_axes else x[:, self.place : self.place + 1]


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(n_features=32, n_snapshots=4, d_model=24, active=3.0, births=torch.tensor([1.0, 0, 0, 0]), seed=3)


@pytest.fixture(scope="module")
def series(planted: Planted) -> og.SAESeries:
    return og.train_sae_series([Of(planted, place) for place in range(4)], og.SAESeriesConfig(**SETTINGS))


def test_a_series_is_its_saes_side_by_side(planted: Planted, series: og.SAESeries) -> None:
    x = next(iter(planted.batches(64, seed=1))) * series.norm_scale[:, None]
    code, x_hat = series(x)
    assert code.shape == (64, 4, 48)
    for place in range(4):
        z = x[:, place] @ series.W_enc[place] + series.b_enc[place]
        assert series.threshold is not None
        kept = (z * series.strength()[place] > series.threshold[place]) & (z > 0)
        torch.testing.assert_close(code[:, place], z * kept)
        torch.testing.assert_close(x_hat[:, place], code[:, place] @ series.W_dec[place] + series.b_dec[place])
        one = series.sae(place)(x[:, place : place + 1])
        torch.testing.assert_close(one.code, code[:, place])
    folded = series.fold_normalisation()
    torch.testing.assert_close(folded(x / series.norm_scale[:, None]).x_hat * series.norm_scale[:, None], x_hat)


def test_saved_and_loaded_it_is_the_same(series: og.SAESeries, tmp_path: Path) -> None:
    loaded = og.load_dictionary(series.save(tmp_path / "series"))
    assert isinstance(loaded, og.SAESeries)
    for name, tensor in series.tensors().items():
        assert torch.equal(loaded.tensors()[name], tensor)
    assert torch.equal(og.SAESeries.of([series.sae(place) for place in range(4)]).W_enc, series.W_enc)


def test_features_keep_their_index_and_explain_what_a_cold_sae_does(planted: Planted, series: og.SAESeries) -> None:
    x = next(iter(planted.batches(2048, seed=1))) * series.norm_scale[:, None]
    config = og.CrosscoderConfig(n_features=48, k=4, steps=400, dead_after_tokens=5000)
    for place in (1, 3):
        cold = og.train_crosscoder(Of(planted, place), config)
        warm_ev, cold_ev = (
            float(og.crosscoder_losses(sae, x[:, place : place + 1]).explained_variance)
            for sae in (series.sae(place), cold)
        )
        assert warm_ev > cold_ev - 0.02 > 0.8
    unit = torch.nn.functional.normalize(series.W_dec, dim=2)
    for place in range(3):
        nearest = (unit[place] @ unit[place + 1].T).argmax(1)
        assert float((nearest == torch.arange(48)).float().mean()) > 0.9


def test_reverse_starts_at_the_end(planted: Planted) -> None:
    settings = SETTINGS | {"steps": [60, 1], "next_learning_rate": 1e-9}
    forward, reverse = (
        og.train_sae_series(
            [Of(planted, place, two_axes=True) for place in range(4)],
            og.SAESeriesConfig(**settings, direction=direction),
        )
        for direction in ("forward", "reverse")
    )
    unit = torch.nn.functional.normalize
    for found in (forward, reverse):
        same = unit(found.W_dec, dim=2)
        torch.testing.assert_close(same, same[:1].expand(4, -1, -1), rtol=0, atol=1e-6)
    alone = og.train_crosscoder(
        Of(planted, 3), og.CrosscoderConfig(n_features=48, k=4, steps=60, dead_after_tokens=5000)
    )
    torch.testing.assert_close(unit(reverse.W_dec[3], dim=1), unit(alone.W_dec[0], dim=1))
    assert not torch.allclose(unit(forward.W_dec[3], dim=1), unit(alone.W_dec[0], dim=1), atol=0.01)


@pytest.mark.parametrize("apply_b_dec_to_input", [False, True])
def test_what_deviates_alike_has_the_same_code(apply_b_dec_to_input: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    tensors = {
        "W_enc": torch.randn(2, 8, 12, generator=draw),
        "W_dec": torch.randn(2, 12, 8, generator=draw),
        "b_enc": torch.randn(12, generator=draw),
        "b_dec": torch.randn(2, 8, generator=draw),
    }
    sae = og.Crosscoder(**tensors, activation="relu", apply_b_dec_to_input=apply_b_dec_to_input)
    x, mean = torch.randn(50, 2, 8, generator=draw), torch.randn(2, 8, generator=draw)
    code, x_hat = sae(x)
    ratio = torch.tensor([0.3, 1.7])[:, None]
    carry_over(sae, moments_of(x), moments_of(x * ratio + mean))
    carried = sae(x * ratio + mean)
    torch.testing.assert_close(carried.x_hat, x_hat * ratio + mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(carried.code, code, atol=1e-4, rtol=1e-4)
    one = og.Crosscoder(**{name: tensor[:1] if name != "b_enc" else tensor for name, tensor in tensors.items()},
                        activation="jumprelu", threshold=torch.full((12,), 2.0),
                        apply_b_dec_to_input=apply_b_dec_to_input)  # fmt: skip
    code = one.encode(x[:, :1])
    carry_over(one, moments_of(x[:, :1]), moments_of(x[:, :1] * 0.3 + mean[:1]))
    torch.testing.assert_close(one.encode(x[:, :1] * 0.3 + mean[:1]), code, atol=1e-4, rtol=1e-4)
    assert 0.1 < float((code > 0).float().mean()) < 0.6


@pytest.mark.parametrize("apply_b_dec_to_input", [False, True])
def test_encoders_are_tied_where_activations_hardly_vary(
    apply_b_dec_to_input: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (2, 8, 12), "W_dec": (2, 12, 8), "b_enc": (12,), "b_dec": (2, 8)}
    tensors = {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}
    sae = og.Crosscoder(**tensors, activation="relu", apply_b_dec_to_input=apply_b_dec_to_input)
    span = torch.linalg.qr(torch.randn(2, 8, 8, generator=draw, dtype=torch.float64)).Q
    seen, unseen = span[..., :3], span[..., 3:]
    x = torch.einsum("bsk,sdk->bsd", torch.randn(200, 2, 3, generator=draw, dtype=torch.float64), seen)
    x = x + torch.randn(2, 8, generator=draw)
    code = sae.encode(x)
    monkeypatch.setattr(start, "UNDETERMINED", 1e-5)
    tie_undetermined(sae, moments_of(x))
    torch.testing.assert_close(sae.encode(x), code, atol=1e-3, rtol=1e-3)
    tied = (tensors["W_dec"] / tensors["W_dec"].square().sum(-1, keepdim=True)).mT
    torch.testing.assert_close(unseen.mT @ sae.W_enc, unseen.mT @ tied, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.mT @ sae.W_enc, seen.mT @ tensors["W_enc"], atol=1e-3, rtol=1e-3)


def test_tied_encoders_are_those_of_least_loss() -> None:
    draw = torch.Generator().manual_seed(2)
    shapes = {"W_enc": (1, 8, 12), "W_dec": (1, 12, 8), "b_enc": (12,), "b_dec": (1, 8)}
    tensors = {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}
    sae = og.Crosscoder(**tensors, activation="relu")
    x = torch.randn(500, 1, 8, generator=draw, dtype=torch.float64) * torch.linspace(0.01, 2, 8)
    inputs = moments_of(x)
    tie_undetermined(sae, inputs)
    weight = start.UNDETERMINED * inputs.covariance[0].trace() / 8
    tied = (tensors["W_dec"] / tensors["W_dec"].square().sum(-1, keepdim=True)).mT
    encoder = sae.W_enc.clone().requires_grad_()
    off = encoder - tensors["W_enc"]
    loss = torch.einsum("sdf,sde,sef->", off, inputs.covariance, off) + weight * (encoder - tied).square().sum()
    (gradient,) = torch.autograd.grad(loss, encoder)
    assert float(loss.detach()) > 1
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-5, rtol=0)


def test_a_series_follows_a_mean_that_jumps(planted: Planted) -> None:
    class Jumped(Of):
        def starting_at(self, batch: int) -> Iterator[Tensor]:
            return (x + 5.0 for x in super().starting_at(batch))

    config = og.SAESeriesConfig(**SETTINGS | {"steps": [400, 1], "next_learning_rate": 1e-9})
    series = og.train_sae_series([Of(planted, 0), Jumped(planted, 0)], config)
    x = torch.stack([next(iter(one(planted, 0, two_axes=True))) for one in (Of, Jumped)], dim=1)
    code, _ = series(x * series.norm_scale[:, None])
    fires = (code > 0).float().mean(0)
    torch.testing.assert_close(fires[1], fires[0], atol=0.08, rtol=0)  # 256 tokens


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk", "batch_topk"])
def test_a_mean_code_of_one_changes_sizes_and_nothing_else(activation: str) -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "W_enc": torch.randn(1, 8, 12, generator=draw),
        "W_dec": torch.randn(1, 12, 8, generator=draw),
        "b_enc": torch.randn(12, generator=draw) * 0.1,
        "b_dec": torch.randn(1, 8, generator=draw),
    }
    threshold = {"threshold": torch.full((12,), 2.0)} if activation in ("jumprelu", "batch_topk") else {}
    sae = og.Crosscoder(**tensors, **threshold, activation=activation, k=3).requires_grad_(False)  # type: ignore[arg-type]
    x = torch.randn(500, 1, 8, generator=draw)
    code, x_hat = sae(x)
    mean = code.sum(0) / (code > 0).sum(0).clamp_min(1)
    mean[4] = 0
    same = with_mean_code(sae, mean)
    torch.testing.assert_close(same(x).x_hat, x_hat)
    found = same.encode(x)
    torch.testing.assert_close(found > 0, code > 0)
    at_one = found.sum(0) / (found > 0).sum(0)
    assert at_one[mean > 0].tolist() == pytest.approx([1.0] * int((mean > 0).sum()))
    torch.testing.assert_close(found[:, 4], code[:, 4])


def test_codes_of_a_series_have_a_mean_of_one(planted: Planted, series: og.SAESeries) -> None:
    x = next(iter(planted.batches(20_000))) * series.norm_scale[:, None]
    code = series.encode(x)
    often = (code > 0).sum(0) > 200
    assert float(often.float().mean()) > 0.5
    mean = code.sum(0) / (code > 0).sum(0)
    assert float((mean[often] - 1).abs().max()) < 0.1


def test_correlations_are_with_the_codes_where_a_feature_was_last_active() -> None:
    draw = np.random.default_rng(0)
    codes = draw.random((5, 6, 200)) * (draw.random((5, 6, 200)) < 0.2)
    codes[2, 1], codes[1:, 2], codes[0, 3], codes[:, 4] = 0, 0, 0, 0
    found = correlations_before([csr_array(one) for one in codes])
    for feature in range(6):
        latest = codes[0, feature]
        for link, later in enumerate(codes[1:, feature]):
            if latest.any() and later.any():
                assert found[link, feature] == pytest.approx(np.corrcoef(latest, later)[0, 1])
            else:
                assert np.isnan(found[link, feature])
            latest = later if later.any() else latest


def test_a_feature_goes_back_to_where_its_index_stood_for_another() -> None:
    correlation = np.array([[0.9, 0.1, 0.9, np.nan], [0.8, 0.9, 0.4, 0.9], [0.6, 0.9, np.nan, 0.9]])
    expected = [[True, False, False, True], [True, True, False, True], [True] * 4, [True] * 4]
    always = np.ones((4, 4), dtype=bool)
    assert carried(correlation, always).tolist() == expected


def test_a_feature_that_has_faded_is_what_it_last_was() -> None:
    # active at the first two of three snapshots; a chance token of the sample at the third goes with nothing
    active = np.array([[True, True], [True, True], [False, True]])
    correlation = np.array([[0.9, 0.9], [0.0, 0.0]])
    assert carried(correlation, active).tolist() == [[True, False], [True, False], [True, True]]


def test_births_in_a_series_are_where_an_index_came_to_stand_for_the_feature() -> None:
    config = og.SAESeriesConfig(n_features=60, k=4, steps=[800, 600], next_learning_rate=0.5, dead_after_tokens=20_000)
    births, by_life, by_strength = [], [], []
    for seed in (0, 1):
        planted = plant(n_snapshots=4, d_model=32, n_features=48, active=4.0, seed=seed)
        series = og.train_sae_series([Of(planted, place) for place in range(4)], config)
        features = score_recovery(planted, series).features.filter("recovered")
        births += features["birth"].to_list()
        by_life += features["birth_found"].to_list()
        strength = series.strength().numpy()[:, features["match"].to_numpy()]
        by_strength += alive_mask(strength, 0.5).argmax(0).tolist()
    right, right_by_strength = (np.array(found) == births for found in (by_life, by_strength))
    assert len(births) > 0.7 * 96
    assert right.mean() > 0.9
    assert right[np.array(births) == 3].mean() > 0.9
    # by strength alone an index is there before what it stands for at the end
    assert right_by_strength.mean() < 0.75


def test_batches_that_can_be_read_once_are_refused(planted: Planted) -> None:
    with pytest.raises(ConfigError, match="only once: give a list"):
        og.train_sae_series([islice(Of(planted, 0), 40)], og.SAESeriesConfig(**SETTINGS | {"steps": [40]}))


def test_what_was_trained_on_is_not_read_again(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    class Counted(Of):
        def starting_at(self, batch: int) -> Iterator[Tensor]:
            for number, x in enumerate(super().starting_at(batch), batch):
                read.append(number)
                yield x

    monkeypatch.setattr(track, "FIRST_TOKENS", 256 * 12)
    config = og.SAESeriesConfig(**SETTINGS | {"steps": [30, 8], "norm_tokens": 1024})
    found = og.train_sae_series([Counted(planted, place) for place in range(2)], config)
    assert read == [*range(30), *range(8)]  # of 8 steps no more than their tokens
    monkeypatch.setattr(track, "MOST_NUMBERS", 0)
    again = og.train_sae_series([Counted(planted, place) for place in range(2)], config)
    assert read[38:] == [*range(30), *range(12), *range(8), *range(8)]
    for name, tensor in found.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


def test_a_snapshot_takes_its_tokens_again_while_that_helps(planted: Planted, tmp_path: Path) -> None:
    batches = [Of(planted, place) for place in range(2)]
    settings = SETTINGS | {"steps": [50, 20]}
    evs = {}
    for rounds, gain in ((1, 0.005), (2, 0.005), (8, 0.05), (8, 10.0)):
        folder = tmp_path / f"{rounds}-{gain}"
        config = og.SAESeriesConfig(**settings, rounds=rounds, gain=gain)
        series = og.train_sae_series(batches, config, folder=folder)
        x = next(iter(planted.batches(4096, seed=1)))[:, :2] * series.norm_scale[:, None]
        explained = [og.crosscoder_losses(series.sae(at), x[:, at : at + 1]).explained_variance for at in range(2)]
        evs[rounds, gain] = rounds_taken(folder, 2), [float(one) for one in explained]
    assert [taken for taken, _ in evs.values()][:2] == [[1, 1], [2, 2]]
    assert evs[2, 0.005][1][1] > evs[1, 0.005][1][1]
    first, second = evs[8, 0.05][0]
    assert 2 <= first < 8
    assert 2 <= second < 8
    assert evs[8, 10.0][0] == [2, 2]
    fixed = tmp_path / "fixed"
    og.train_sae_series(batches, og.SAESeriesConfig(**settings), rounds=[3, 1], folder=fixed)
    assert rounds_taken(fixed, 2) == [3, 1]
    finite = [[x[:, :1] for x in islice(planted.batches(256), 70)] for _ in range(2)]
    og.train_sae_series(finite, og.SAESeriesConfig(**settings, rounds=5, gain=1e-9), folder=tmp_path / "finite")
    assert rounds_taken(tmp_path / "finite", 2)[0] == 2


def test_a_series_killed_between_rounds_goes_on_where_it_stopped(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [Of(planted, place) for place in range(2)]
    config = og.SAESeriesConfig(**SETTINGS | {"steps": [50, 20]}, rounds=3, gain=1e-9)
    whole = og.train_sae_series(batches, config, folder=tmp_path / "whole")
    keep, kept = track._keep, []

    def killed(trained: object, folder: Path, key: str) -> None:
        kept.append(folder.name)
        keep(trained, folder, key)  # type: ignore[arg-type]
        if kept == ["sae-0000"] * 3 + ["sae-0001"] * 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(track, "_keep", killed)
    with pytest.raises(KeyboardInterrupt):
        og.train_sae_series(batches, config, folder=tmp_path / "killed")
    again = og.train_sae_series(batches, config, folder=tmp_path / "killed")
    assert kept == ["sae-0000"] * 3 + ["sae-0001"] * 3
    for name, tensor in whole.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


def test_a_killed_series_goes_on_where_it_stopped(
    planted: Planted, series: og.SAESeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(trained: object, folder: Path, key: str) -> None:
        if folder.name == "sae-0002":
            raise KeyboardInterrupt
        keep(trained, folder, key)  # type: ignore[arg-type]

    batches = [Of(planted, place) for place in range(4)]
    keep = track._keep
    monkeypatch.setattr(track, "_keep", killed)
    monkeypatch.setattr("ontogeny.loop.CHECKPOINT_SECONDS", 0.05)
    with pytest.raises(KeyboardInterrupt):
        og.train_sae_series(batches, og.SAESeriesConfig(**SETTINGS), folder=tmp_path)
    assert (tmp_path / "sae-0002.pt").is_file()
    monkeypatch.setattr(track, "_keep", keep)
    trained: list[str] = []

    def counted(*arguments: object, **options: object) -> og.Crosscoder:
        trained.append(str(options["stage"]))
        return train(*arguments, **options)  # type: ignore[arg-type]

    train = track.train_crosscoder
    monkeypatch.setattr(track, "train_crosscoder", counted)
    again = og.train_sae_series(batches, og.SAESeriesConfig(**SETTINGS), folder=tmp_path)
    assert trained == ["sae-2", "sae-3"]
    for name, tensor in series.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)
    assert not list(tmp_path.glob("*.pt"))
    og.train_sae_series(batches, og.SAESeriesConfig(**SETTINGS), folder=tmp_path)
    assert trained == ["sae-2", "sae-3"]
    changed = SETTINGS | {"steps": [400, 201]}
    og.train_sae_series(batches, og.SAESeriesConfig(**changed), folder=tmp_path)
    assert trained[2:] == ["sae-1", "sae-2", "sae-3"]


def test_an_interrupted_series_keeps_to_its_kernels(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def noted(*arguments: object, **options: object) -> og.Crosscoder:
        asked.append(str(options["kernels"]))
        return train(*arguments, **options | {"kernels": "torch"})  # type: ignore[arg-type]

    train = track.train_crosscoder
    monkeypatch.setattr(track, "train_crosscoder", noted)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    batches, config = [Of(planted, place) for place in range(2)], og.SAESeriesConfig(**SETTINGS | {"steps": [4, 2]})
    for fastest in ("compiled", "searching", "torch"):
        monkeypatch.setattr("ontogeny.dictionaries.backends.fastest", lambda _, name=fastest: name)
        shutil.rmtree(tmp_path / "sae-0001", ignore_errors=True)
        og.train_sae_series(batches, config, folder=tmp_path)
    assert asked == ["compiled", "compiled", "compiled", "torch"]
    # where they are named nothing is decided, or kept
    named = og.SAESeriesConfig(**SETTINGS | {"steps": [4, 2], "kernels": "torch"})
    og.train_sae_series(batches, named, folder=tmp_path / "named")
    assert asked[4:] == ["None", "None"]
    assert not (tmp_path / "named" / "kernels.json").exists()


@pytest.mark.parametrize(
    ("before", "now", "bfloat16", "found"),
    [
        (None, "compiled", False, "compiled"),
        ("torch", "compiled", False, "torch"),
        ("compiled", "searching", True, "compiled"),
        ("searching", "compiled", True, "searching"),
        ("searching", "compiled", False, "compiled"),  # the processor is another
        ("compiled", "torch", True, "torch"),  # there is no compiler any more
    ],
)
def test_kernels_stay_those_of_before_where_they_can_be_had(
    before: str | None, now: str, bfloat16: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bfloat16)
    monkeypatch.setattr("ontogeny.dictionaries.backends.fastest", lambda _: now)
    assert settled(torch.device("cpu"), before) == found


def test_what_is_not_for_a_series_is_refused(planted: Planted) -> None:
    batches = [Of(planted, place) for place in range(2)]
    with pytest.raises(ConfigError, match="per_snapshot gate is for a crosscoder"):
        og.SAESeriesConfig(activation="jumprelu", gate="per_snapshot")
    for given in ({"rounds": [1]}, {"key": ["a", "b", "c"]}):
        with pytest.raises(ConfigError, match="give one for each of the 2 snapshots, found"):
            og.train_sae_series(batches, og.SAESeriesConfig(**SETTINGS), **given)


def test_no_snapshot_is_refused() -> None:
    with pytest.raises(ConfigError, match="one snapshot at least"):
        og.train_sae_series([], og.SAESeriesConfig(**SETTINGS))


def test_a_feature_silent_on_the_first_tokens_keeps_its_neighbours_unit() -> None:
    means = [torch.tensor(row) for row in ([0.5, 0.0, 0.0], [0.0, 2.0, 0.0], [4.0, 0.0, 0.0])]
    found = _of_neighbours(means)
    assert [row.tolist() for row in found] == [[0.5, 2.0, 0.0], [0.5, 2.0, 0.0], [4.0, 2.0, 0.0]]


def test_a_reverse_series_has_units_from_the_snapshot_after(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, units = iter((4.0, 0.0, 0.5)), []

    def told(sae: og.Crosscoder, *arguments: object, **options: object) -> track._Trained:
        found = look(sae, *arguments, **options)  # type: ignore[arg-type]
        found.mean_code[0] = next(seen)
        return found

    def noted(sae: og.Crosscoder, mean: Tensor) -> og.Crosscoder:
        units.append(float(mean[0]))
        return with_mean_code(sae, mean)

    look = track._seen
    monkeypatch.setattr(track, "_seen", told)
    monkeypatch.setattr(track, "with_mean_code", noted)
    config = og.SAESeriesConfig(**SETTINGS | {"steps": [4, 2], "direction": "reverse"})
    og.train_sae_series([Of(planted, place) for place in range(3)], config)
    assert units == [0.5, 4.0, 4.0]
