"""The crosscoder against slow references: gradients, selection, folding, symmetry."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ontogeny import Crosscoder, CrosscoderConfig, InputError, crosscoder_losses, train_crosscoder
from ontogeny.dictionaries.activation_functions import batch_topk, least_kept_score, topk
from ontogeny.dictionaries.learner import CrosscoderLearner, patience_of
from ontogeny.dictionaries.start import initial_crosscoder, norm_scale_of
from ontogeny.errors import ConfigError, TrainingError

N, D, F = 3, 5, 7


def make(
    activation: str = "relu", *, dtype: torch.dtype = torch.float32, seed: int = 0, **options: object
) -> Crosscoder:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return Crosscoder(
        W_enc=normal(N, D, F), W_dec=normal(N, F, D), b_enc=normal(F), b_dec=normal(N, D),
        activation=activation, **options,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def inputs(batch: int = 6, *, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(batch, N, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_gradients_match(loss: Callable[[], Tensor], parameters: dict[str, Tensor]) -> None:
    """Every entry of every parameter's gradient against a central difference."""
    grads = torch.autograd.grad(loss(), list(parameters.values()))
    for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
        assert float(grad.abs().max()) > 0, f"{name} has no gradient"
        flat = parameter.detach().view(-1)
        for index in range(flat.numel()):
            kept, h = float(flat[index]), 1e-6
            with torch.no_grad():
                flat[index] = kept + h
                up = float(loss())
                flat[index] = kept - h
                down = float(loss())
                flat[index] = kept
            difference = (up - down) / (2 * h)
            assert float(grad.view(-1)[index]) == pytest.approx(difference, rel=1e-5, abs=1e-6), f"{name}[{index}]"


def test_gradients_of_relu_with_l1_agree_with_finite_differences() -> None:
    dictionary, x = make(dtype=torch.float64), inputs(dtype=torch.float64)

    def loss() -> Tensor:
        losses = crosscoder_losses(dictionary, x, sparsity="l1")
        return losses.reconstruction + 0.3 * losses.sparsity

    assert_gradients_match(loss, dict(dictionary.named_parameters()))


@pytest.mark.parametrize("subtract", [False, True])
def test_gradients_of_batch_topk_agree_with_finite_differences(subtract: bool) -> None:
    dictionary = make("batch_topk", dtype=torch.float64, k=2, apply_b_dec_to_input=subtract)
    x = inputs(dtype=torch.float64)
    assert_gradients_match(
        lambda: crosscoder_losses(dictionary, x, sparsity="none").reconstruction, dict(dictionary.named_parameters())
    )


def test_gradients_of_the_aux_loss_agree_with_finite_differences() -> None:
    dictionary, x = make("batch_topk", dtype=torch.float64, k=2), inputs(dtype=torch.float64)
    config = CrosscoderConfig(n_features=F, k=2, aux_k=2, dead_after_tokens=10)
    learner = CrosscoderLearner(config, dictionary, x)
    learner.optimizer.release()
    dead, alive = [1, 2, 4], [0, 3, 5, 6]
    learner.silent_tokens[dead] = 10
    residual = inputs(dtype=torch.float64, seed=5)
    moved = {"encoder_rows": dictionary.encoder_rows, "b_enc": dictionary.b_enc}

    def loss() -> Tensor:
        places = torch.tensor(dead)
        return learner._aux_loss(residual, dictionary.pre_activations_of(places, x), places, len(places))

    found = torch.autograd.grad(loss(), [dictionary.encoder_rows, dictionary.decoder_rows])
    for grad in found:
        assert float(grad[alive].abs().max()) == 0
        assert float(grad[dead].abs().max()) > 0
    assert_gradients_match(loss, moved)
    with torch.no_grad():
        for row in dead:
            for place in range(3):
                kept, h = float(dictionary.decoder_rows[row, place]), 1e-6
                dictionary.decoder_rows[row, place] = kept + h
                up = float(loss())
                dictionary.decoder_rows[row, place] = kept - h
                down = float(loss())
                dictionary.decoder_rows[row, place] = kept
                assert float(found[1][row, place]) == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-6)


def test_dead_features_are_brought_where_aux_k_has_a_gradient() -> None:
    dictionary, x = make("batch_topk", k=2), inputs(200)
    learner = CrosscoderLearner(CrosscoderConfig(n_features=F, k=2, steps=100, dead_after_tokens=10), dictionary, x)
    learner.optimizer.release()
    with torch.no_grad():
        dictionary.b_enc[[1, 4]] -= 1000
    before, dead = dictionary.b_enc.detach().clone(), torch.tensor([1, 4])
    learner.silent_tokens[dead] = 10

    def share_positive() -> list[float]:
        return (dictionary.pre_activations(x) > 0).float().mean(0)[dead].tolist()

    raw = x / dictionary.norm_scale[:, None]
    learner.loss(raw, 11)  # not at every step
    assert share_positive() == [0, 0]
    learner.loss(raw, 90)  # nor while the learning rate falls
    assert share_positive() == [0, 0]
    loss, _ = learner.loss(raw, 20)
    assert all(0.0149 < share < 0.0201 for share in share_positive())  # of four tokens the last is at zero
    others = [0, 2, 3, 5, 6]
    assert torch.equal(dictionary.b_enc[others], before[others])
    loss.backward()
    assert dictionary.b_enc.grad is not None
    assert bool((dictionary.b_enc.grad[dead] != 0).all())
    learner.silent_tokens[dead] = 10
    with torch.no_grad():
        dictionary.b_enc[dead] += 1000  # within reach as they are
    kept = dictionary.b_enc.detach().clone()
    learner.loss(raw, 30)
    assert torch.equal(dictionary.b_enc, kept)


def test_patience_with_silent_features_grows_with_the_training() -> None:
    assert patience_of(CrosscoderConfig(n_features=F, k=2, steps=100), 1024) == 10_000
    assert patience_of(CrosscoderConfig(n_features=F, k=2), 1024) == 10_000
    assert patience_of(CrosscoderConfig(n_features=F, k=2, steps=10_000), 1024) == 51_200
    assert patience_of(CrosscoderConfig(n_features=F, k=2, steps=10_000, dead_after_tokens=7), 1024) == 7


def jumprelu(gate: str, **options: object) -> Crosscoder:
    return make("jumprelu", dtype=torch.float64, gate=gate, threshold=torch.linspace(0.5, 2.0, F), **options)


def naive_losses(d: Crosscoder, code: Tensor, x: Tensor, sparsity: str) -> tuple[Tensor, Tensor]:
    """Reconstruction and sparsity from a code [batch, snapshot, feature], written out as in the formulas."""
    x_hat = torch.einsum("bsf,sfd->bsd", code, d.W_dec) + d.b_dec
    u = code * d.W_dec.norm(dim=-1)
    p = torch.tanh(4 * u).mean((0, 1))
    losses = {
        "l1": u.sum((1, 2)).mean(),
        "tanh": torch.tanh(4 * u).mean(1).sum(-1).mean(),
        "tanh_quad": (p * (1 + p / 0.01)).sum(),
    }
    return (x - x_hat).square().sum((1, 2)).mean(), losses[sparsity]


@pytest.mark.parametrize("gate", ["shared", "per_snapshot"])
@pytest.mark.parametrize("sparsity", ["l1", "tanh", "tanh_quad"])
def test_losses_of_both_gates_are_what_the_formulas_give(gate: str, sparsity: str) -> None:
    dictionary, x = jumprelu(gate), inputs(40, dtype=torch.float64)
    code = dictionary.encode(x)
    assert code.shape == ((40, F) if gate == "shared" else (40, N, F))
    wide = code[:, None].expand(-1, N, -1) if gate == "shared" else code
    z = torch.einsum("bsd,sdf->bf", x, dictionary.W_enc) + dictionary.b_enc
    strength = dictionary.strength()
    u = z[:, None] * (strength.sum(0).expand(N, -1) if gate == "shared" else strength)
    torch.testing.assert_close(wide, z[:, None] * (u > dictionary.threshold))
    assert 0 < int((wide > 0).sum()) < wide.numel()
    losses = crosscoder_losses(dictionary, x, sparsity=sparsity)
    reconstruction, penalty = naive_losses(dictionary, wide, x, sparsity)
    torch.testing.assert_close(losses.reconstruction, reconstruction)
    torch.testing.assert_close(losses.sparsity, penalty)
    torch.testing.assert_close(losses.l0, (wide > 0).sum(-1).double().mean(0))
    torch.testing.assert_close(losses.error, dictionary.decode(code) - x)


@pytest.mark.parametrize("gate", ["shared", "per_snapshot"])
@pytest.mark.parametrize("sparsity", ["tanh", "tanh_quad"])
def test_gradients_of_jumprelu_agree_with_finite_differences(gate: str, sparsity: str) -> None:
    dictionary, x = jumprelu(gate), inputs(dtype=torch.float64)

    def loss() -> Tensor:
        losses = crosscoder_losses(dictionary, x, sparsity=sparsity)
        return losses.reconstruction + 0.3 * losses.sparsity

    assert_gradients_match(loss, dict(dictionary.named_parameters()))


@pytest.mark.parametrize("gate", ["shared", "per_snapshot"])
def test_kept_widest_codes_are_those_of_each_snapshot(gate: str) -> None:
    dictionary, x = jumprelu(gate).requires_grad_(False), inputs(50, dtype=torch.float64)
    code = dictionary.encode(x)
    widest = dictionary.widest_code(dictionary.pre_activations(x)).T.to_sparse()
    for snapshot in range(N):
        expected = code if code.ndim == 2 else code[:, snapshot]
        torch.testing.assert_close(dictionary.kept_at(widest, snapshot).to_dense(), expected.T)


@pytest.mark.parametrize("gate", ["shared", "per_snapshot"])
@pytest.mark.parametrize("parameter", ["log", "direct"])
@pytest.mark.parametrize("sparsity", ["l1", "tanh", "tanh_quad"])
def test_jumprelus_threshold_gradient_is_the_closed_form_in_units_of_u(
    gate: str, parameter: str, sparsity: str
) -> None:
    dictionary, x = jumprelu(gate), inputs(30, dtype=torch.float64)
    config = CrosscoderConfig(
        n_features=F, activation="jumprelu", gate=gate, threshold_parameter=parameter  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    learner = CrosscoderLearner(config, dictionary, x)
    learner.before_step(0)
    losses = crosscoder_losses(dictionary, x, sparsity=sparsity)
    assert learner.learned is not None
    (found,) = torch.autograd.grad(losses.reconstruction + 0.3 * losses.sparsity, learner.learned)

    t = torch.linspace(0.5, 2.0, F).double()
    strength = dictionary.strength().detach()
    s = strength.sum(0).expand(N, -1) if gate == "shared" else strength
    u = dictionary.pre_activations(x).detach()[:, None] * s
    code = (
        dictionary.encode(x).detach()[:, None].expand(-1, N, -1) if gate == "shared" else dictionary.encode(x)
    ).detach()
    code = code.clone().requires_grad_()
    reconstruction, penalty = naive_losses(dictionary, code, x, sparsity)
    (grad,) = torch.autograd.grad(reconstruction + 0.3 * penalty, code)
    near = ((u - t).abs() < 2) & (u > 0)
    expected = (grad * -(t / 4) * near / s).sum((0, 1))
    torch.testing.assert_close(found, expected * t if parameter == "log" else expected)
    assert float(found.abs().max()) > 0


def test_a_feature_whose_strength_vanishes_has_code_zero_and_no_nan() -> None:
    for gate in ("shared", "per_snapshot"):
        dictionary = jumprelu(gate)
        with torch.no_grad():
            dictionary.decoder_rows[2] = 0
        losses = crosscoder_losses(dictionary, inputs(dtype=torch.float64), sparsity="tanh")
        assert dictionary.encode(inputs(dtype=torch.float64))[..., 2].abs().max() == 0
        grads = torch.autograd.grad(losses.reconstruction, list(dictionary.parameters()))
        assert all(bool(grad.isfinite().all()) for grad in grads)


def test_topk_keeps_each_tokens_k_largest_positive_scores() -> None:
    pre = torch.randn(50, F, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(F, generator=torch.Generator().manual_seed(1)) + 0.1
    code = topk(pre, k=3, weight=weight)
    for row, kept in zip(pre, code, strict=True):
        leading = (row * weight).argsort(descending=True)[:3]
        expected = torch.zeros(F)
        expected[leading] = row[leading].clamp_min(0)
        torch.testing.assert_close(kept, expected)


def test_gradients_of_topk_agree_with_finite_differences() -> None:
    for score in ("l2", "sum"):
        dictionary = make("topk", dtype=torch.float64, k=2, score=score, encoder="mean")
        x = inputs(dtype=torch.float64)
        assert_gradients_match(
            lambda d=dictionary: crosscoder_losses(d, x, sparsity="none").reconstruction,  # noqa: B023
            dict(dictionary.named_parameters()),
        )


def test_the_score_and_the_encoder_are_switches() -> None:
    x = inputs()
    strength = make().strength()
    torch.testing.assert_close(make("topk", k=2).score_weight(), strength.square().sum(0).sqrt())
    torch.testing.assert_close(make("topk", k=2, score="sum").score_weight(), strength.sum(0))
    torch.testing.assert_close(make("topk", k=2, score="max").score_weight(), strength.amax(0))
    summed, averaged = make(), make(encoder="mean")
    torch.testing.assert_close(
        averaged.pre_activations(x) - averaged.b_enc, (summed.pre_activations(x) - summed.b_enc) / N
    )


def test_the_preactivation_loss_pulls_dead_features_up_to_their_thresholds() -> None:
    for gate in ("shared", "per_snapshot"):
        dictionary, x = jumprelu(gate), inputs(dtype=torch.float64)
        config = CrosscoderConfig(
            n_features=F, activation="jumprelu", gate=gate, preactivation_weight=1.0  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        learner = CrosscoderLearner(config, dictionary, x)
        nobody, dead = torch.tensor([], dtype=torch.int64), torch.tensor([1, 4])
        assert learner._preactivation_loss(dictionary.pre_activations_of(nobody, x), nobody).item() == 0
        strength, t = dictionary.strength(), dictionary.threshold
        assert t is not None
        weight = strength.sum(0) if gate == "shared" else strength.amax(0)
        gap = torch.relu(t - dictionary.pre_activations(x) * weight)[:, [1, 4]]
        found = learner._preactivation_loss(dictionary.pre_activations_of(dead, x), dead)
        torch.testing.assert_close(found, gap.sum(1).mean())
        (grad,) = torch.autograd.grad(found, dictionary.b_enc)
        assert bool((grad[[1, 4]] < 0).all())


def test_robust_normalisation_is_not_moved_by_a_common_mean_or_massive_tokens() -> None:
    x = torch.randn(1001, 2, 16, generator=torch.Generator().manual_seed(0))
    moved = x + torch.tensor([0.0, 30.0])[:, None]
    moved[:5, 1] = -moved[:5, 1] * 3
    clean, plain, robust = norm_scale_of(x, robust=True), norm_scale_of(moved), norm_scale_of(moved, robust=True)
    assert float(plain[1] / clean[1]) < 0.05
    assert float(robust[1] / clean[1]) == pytest.approx(1, abs=0.2)


def test_an_independent_start_draws_each_snapshots_decoder_by_itself() -> None:
    x = torch.cat(planted_batches(batches=2, seed=1))
    scale = norm_scale_of(x)
    for start, same in (("shared", True), ("independent", False)):
        config = CrosscoderConfig(n_features=12, k=2, decoder_start=start)  # pyright: ignore[reportArgumentType]
        W_dec = initial_crosscoder(config, x * scale[:, None], scale).W_dec
        assert torch.equal(W_dec[0], W_dec[1]) == same
        torch.testing.assert_close(W_dec.norm(dim=-1), W_dec.norm(dim=-1)[:1, :1].expand(3, 12))


@pytest.mark.parametrize("changes", [{}, {"encoder": "mean"}, {"apply_b_dec_to_input": True}])
def test_the_mean_starts_as_nothing_and_comes_back_as_itself(changes: dict[str, object]) -> None:
    x = torch.cat(planted_batches(batches=2, seed=1)) + torch.randn(3, 16, generator=torch.Generator().manual_seed(5))
    mean, scale = x.mean(0)[None], torch.ones(3)
    config = CrosscoderConfig(n_features=12, k=2, **changes)  # type: ignore[arg-type]
    crosscoder = initial_crosscoder(config, x, scale)
    assert crosscoder.pre_activations(mean).abs().max() < 1e-5
    torch.testing.assert_close(crosscoder(mean).x_hat, mean)
    plain = initial_crosscoder(config.model_copy(update={"bias_start": "zero"}), x, scale)
    assert not plain.b_enc.any()
    assert not plain.b_dec.any()


@pytest.mark.parametrize(
    ("activation", "gate", "parameter"),
    [
        ("jumprelu", "shared", "log"),
        ("jumprelu", "per_snapshot", "direct"),
        ("topk", "shared", "log"),
        ("relu", "shared", "log"),
    ],
)
def test_every_activation_learns_planted_directions(activation: str, gate: str, parameter: str) -> None:
    config = CrosscoderConfig(
        n_features=20, k=2, activation=activation, gate=gate, threshold_parameter=parameter, learning_rate=5e-3,  # pyright: ignore[reportArgumentType]
        sparsity_weight=0.3 if activation == "jumprelu" else 1.0, dead_after_tokens=5000,
    )  # fmt: skip
    dictionary = train_crosscoder(planted_batches(batches=400, seed=1), config)
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(10, 16, generator=generator), dim=1)
    best = (truth @ torch.nn.functional.normalize(dictionary.W_dec[-1], dim=1).T).amax(1)
    assert int((best > 0.9).sum()) >= 8


@given(batch=st.integers(1, 70), k=st.integers(1, F), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_batch_topk_keeps_what_a_full_sort_keeps(batch: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(batch, F, generator=generator)
    weight = torch.rand(F, generator=generator) + 0.1
    score = (pre * weight).flatten()
    expected = torch.zeros_like(score)
    for index in score.argsort(descending=True)[: k * batch]:
        if score[index] > 0:
            expected[index] = pre.flatten()[index]
    code = batch_topk(pre, k=k, weight=weight)
    torch.testing.assert_close(code.flatten(), expected)
    kept = score[expected > 0]
    assert float(least_kept_score(code, weight)) == pytest.approx(float(kept.min()) if len(kept) else 0.0)


def test_batch_topk_refuses_a_k_beyond_the_features() -> None:
    with pytest.raises(ValueError, match=r"k = 8 does not lie in 1\.\.7"):
        batch_topk(torch.zeros(2, F), k=F + 1)


def test_at_inference_a_code_does_not_depend_on_its_batch() -> None:
    dictionary = make("batch_topk", k=2, threshold=torch.full((F,), 1.5))
    x = inputs(9)
    alone = torch.cat([dictionary.encode(row[None]) for row in x])
    torch.testing.assert_close(dictionary.encode(x), alone)
    assert 0 < int((alone > 0).sum()) < alone.numel()
    score = dictionary.pre_activations(x) * dictionary.score_weight()
    assert torch.equal(alone > 0, score > 1.5)


@pytest.mark.parametrize("activation", ["relu", "batch_topk"])
def test_folding_is_exact_for_norms_of_five_one_and_an_eighth(activation: str) -> None:
    raw_norms = torch.tensor([5.0, 1.0, 1 / 8])
    options = {} if activation == "relu" else {"k": 2, "threshold": torch.full((F,), 1.0)}
    for subtract in (False, True):
        dictionary = make(activation, norm_scale=1 / raw_norms, apply_b_dec_to_input=subtract, **options)
        folded = dictionary.fold_normalisation()
        raw = inputs(50) * raw_norms[:, None]
        with torch.no_grad():
            expected = dictionary(raw / raw_norms[:, None])
            found = folded(raw)
        torch.testing.assert_close(found.code, expected.code, rtol=1e-5, atol=1e-6)
        wanted = expected.x_hat * raw_norms[:, None]
        for snapshot in range(N):
            error = (found.x_hat - wanted)[:, snapshot].norm() / wanted[:, snapshot].norm()
            assert float(error) < 1e-5
        torch.testing.assert_close(folded.strength(), dictionary.strength())


def test_strength_is_the_norm_of_each_decoder_direction() -> None:
    dictionary = make()
    for snapshot in range(N):
        for feature in range(F):
            expected = dictionary.W_dec[snapshot, feature].square().sum().sqrt()
            torch.testing.assert_close(dictionary.strength()[snapshot, feature], expected)


def test_permuting_snapshots_permutes_the_reconstruction_and_keeps_the_code() -> None:
    dictionary, x, order = make(), inputs(), [2, 0, 1]
    tensors = dictionary.tensors()
    permuted = Crosscoder(
        W_enc=tensors["W_enc"][order], W_dec=tensors["W_dec"][order], b_enc=tensors["b_enc"],
        b_dec=tensors["b_dec"][order], activation="relu",
    )  # fmt: skip
    torch.testing.assert_close(permuted(x[:, order]).code, dictionary(x).code)
    torch.testing.assert_close(permuted(x[:, order]).x_hat, dictionary(x).x_hat[:, order])


def test_own_parts_sum_to_the_encoder_output() -> None:
    for subtract in (False, True):
        dictionary, x = make(apply_b_dec_to_input=subtract), inputs()
        parts = sum(dictionary.own_parts(x[:, snapshot], snapshot) for snapshot in range(N))
        torch.testing.assert_close(parts + dictionary.b_enc, dictionary.pre_activations(x))


def test_mismatched_shapes_are_one_clear_error() -> None:
    with pytest.raises(InputError, match=r"W_dec is \[3, 6, 5\], but W_enc \[3, 5, 7\] asks for \[3, 7, 5\]"):
        Crosscoder(
            W_enc=torch.zeros(N, D, F), W_dec=torch.zeros(N, F - 1, D), b_enc=torch.zeros(F), b_dec=torch.zeros(N, D),
            activation="relu",
        )  # fmt: skip
    with pytest.raises(InputError, match="no activation 'relo' \\(did you mean relu\\?\\)"):
        make("relo")


def planted_batches(*, batches: int, seed: int) -> list[Tensor]:
    """Three snapshots of ten sparse directions; half are there from the start, half only at the last snapshot."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(10, 16, generator=generator), dim=1)
    generator.manual_seed(seed)
    present = torch.ones(3, 10)
    present[:2, 5:] = 0
    scale = torch.tensor([4.0, 1.0, 0.2])
    out = []
    for _ in range(batches):
        code = (torch.rand(256, 10, generator=generator) < 0.15) * (1 + torch.rand(256, 10, generator=generator))
        x = torch.einsum("bf,sf,fd->bsd", code, present, directions) * scale[:, None]
        out.append(x + 0.01 * scale[:, None] * torch.randn(x.shape, generator=generator))
    return out


def test_training_finds_planted_directions_and_when_they_are_born() -> None:
    config = CrosscoderConfig(n_features=20, k=2, learning_rate=5e-3, dead_after_tokens=5000, seed=0)
    dictionary = train_crosscoder(planted_batches(batches=400, seed=1), config)
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(10, 16, generator=generator), dim=1)
    learned = torch.nn.functional.normalize(dictionary.W_dec[-1], dim=1)
    best, match = (truth @ learned.T).max(1)
    assert float(best.min()) > 0.95
    relative = dictionary.strength() / dictionary.strength().amax(0)
    births = (relative[:, match] >= 0.5).int().argmax(0)
    assert births.tolist() == [0] * 5 + [2] * 5
    held_out = planted_batches(batches=1, seed=2)[0] * dictionary.norm_scale[:, None]
    assert float(crosscoder_losses(dictionary, held_out, sparsity="none").explained_variance.min()) > 0.9
    assert dictionary.threshold is not None
    assert float(dictionary.threshold[0]) > 0


def test_the_same_batches_from_any_iterable_give_the_same_dictionary() -> None:
    config = CrosscoderConfig(n_features=12, k=2, steps=30, seed=3)
    batches = planted_batches(batches=40, seed=1)
    one, other = train_crosscoder(batches, config), train_crosscoder(iter(batches), config)
    assert torch.equal(one.decoder_rows, other.decoder_rows)
    assert torch.equal(one.norm_scale, other.norm_scale)


def test_norm_scale_brings_the_mean_norm_to_the_root_of_d_model() -> None:
    batches = planted_batches(batches=40, seed=1)
    dictionary = train_crosscoder(batches, CrosscoderConfig(n_features=12, k=2, steps=1, norm_tokens=256 * 40))
    norms = (torch.cat(batches) * dictionary.norm_scale[:, None]).norm(dim=-1).mean(0)
    torch.testing.assert_close(norms, torch.full((3,), 4.0))


def test_activations_that_are_not_finite_are_an_error() -> None:
    batches = planted_batches(batches=2, seed=1)
    batches[0][3, 1, 2] = torch.nan
    with pytest.raises(TrainingError, match=r"snapshots number \[1\]"):
        train_crosscoder(batches, CrosscoderConfig(n_features=12, k=2))


def test_unknown_settings_name_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown setting 'n_featurs' in CrosscoderConfig \(did you mean n_features\?\)"
    ):
        CrosscoderConfig(n_featurs=3)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_batches_of_any_precision_are_trained_on(dtype: torch.dtype) -> None:
    batches = [torch.randn(64, 2, 8, generator=torch.Generator().manual_seed(number)) for number in range(4)]
    config = CrosscoderConfig(n_features=16, k=4, norm_tokens=128)
    found, expected = (train_crosscoder(given, config) for given in ([x.to(dtype) for x in batches], batches))
    assert found.W_dec.dtype == torch.float32
    torch.testing.assert_close(found.norm_scale, expected.norm_scale, rtol=1e-2, atol=0)


def test_a_k_to_start_from_beyond_the_features_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"k_start needs to lie in 1..n_features = 16, found 100"):
        CrosscoderConfig(n_features=16, k=4, k_start=100)
