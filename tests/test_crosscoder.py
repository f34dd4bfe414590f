"""The crosscoder against slow references: gradients, selection, folding, symmetry."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ontogeny import Crosscoder, CrosscoderConfig, InputError, crosscoder_losses, train_crosscoder
from ontogeny.dictionaries.activation_functions import batch_topk, least_kept_score
from ontogeny.dictionaries.train import _CrosscoderLearner
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
    learner = _CrosscoderLearner(config, dictionary, x)
    dead, alive = [1, 2, 4], [0, 3, 5, 6]
    learner.silent_tokens[dead] = 10
    code = dictionary.encode(x, k=2).detach()
    code[:, dead] = 0  # so that moving a dead feature moves nothing of the residual, which is a constant of the loss
    moved = {"encoder_rows": dictionary.encoder_rows, "b_enc": dictionary.b_enc}

    def loss() -> Tensor:
        return learner._aux_loss(x, dictionary.pre_activations(x), code)

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
