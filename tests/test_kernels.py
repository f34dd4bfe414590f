"""The step over active entries agrees with the dense one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ontogeny import Crosscoder, crosscoder_losses
from ontogeny.config.learner import CrosscoderConfig
from ontogeny.dictionaries import compiled, on_gpu
from ontogeny.dictionaries.activation_functions import ACTIVATIONS
from ontogeny.dictionaries.adam import Adam, adam
from ontogeny.dictionaries.backends import fastest, using
from ontogeny.dictionaries.kernels import Entries, above, column_sums, decode, norms, read, rows_at
from ontogeny.dictionaries.places import rounded_outputs
from ontogeny.dictionaries.rounding import bfloat16_at_random, random_bits
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.errors import TrainingError
from ontogeny.truth.planted import plant

CPU = torch.device("cpu")
N, D, F, BATCH = 3, 8, 40, 64
CASES = [
    ("relu", {}),
    ("topk", {"k": 4}),
    ("topk", {"k": 4, "score": "sum", "encoder": "mean"}),
    ("batch_topk", {"k": 4}),
    ("batch_topk", {"k": 4, "apply_b_dec_to_input": True, "encoder": "mean"}),
    ("batch_topk", {"k": 4, "score": "max"}),
    ("jumprelu", {"gate": "shared"}),
    ("jumprelu", {"gate": "per_snapshot"}),
    ("jumprelu", {"gate": "per_snapshot", "apply_b_dec_to_input": True}),
]


def make(activation: str, dtype: torch.dtype, **options: object) -> tuple[Crosscoder, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    threshold = 4 * torch.rand(F, generator=generator, dtype=torch.float64).to(dtype)
    crosscoder = Crosscoder(
        W_enc=normal(N, D, F), W_dec=normal(N, F, D) * (torch.rand(N, F, 1, generator=generator) < 0.8),
        b_enc=normal(F) - 4, b_dec=normal(N, D), norm_scale=torch.ones(N),
        threshold=threshold if activation == "jumprelu" else None, activation=activation, **options,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    return crosscoder, normal(BATCH, N, D)


compiles = pytest.mark.skipif(not compiled.is_there(), reason="no C compiler here")


@pytest.fixture(params=["torch", pytest.param("compiled", marks=compiles)])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    with using(request.param, CPU):
        yield request.param


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sparsity", ["none", "l1", "tanh", "tanh_quad"])
@pytest.mark.parametrize(("activation", "options"), CASES)
def test_active_entries_give_the_losses_and_gradients_of_dense_products(
    activation: str, options: dict[str, object], sparsity: str, dtype: torch.dtype, kernels: str
) -> None:
    crosscoder, x = make(activation, dtype, **options)
    if crosscoder.threshold is not None:
        crosscoder.threshold.requires_grad_()
    parameters = [*crosscoder.parameters(), *([] if crosscoder.threshold is None else [crosscoder.threshold])]
    found = []
    for dense_above in (0.0, 1.0):
        losses = crosscoder_losses(crosscoder, x, sparsity=sparsity, k=crosscoder.k, dense_above=dense_above)
        grads = torch.autograd.grad(losses.reconstruction + 0.7 * losses.sparsity, parameters)
        found.append([*losses, *grads])
    assert 0 < float(found[0][2].max()) < F / 2
    assert all(float(grad.abs().max()) > 0 for grad in found[0][7:])
    tolerance = {} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    for dense, entries in zip(*found, strict=True):
        torch.testing.assert_close(entries, dense, **tolerance)


@pytest.mark.parametrize(
    ("activation", "options"),
    [("batch_topk", {"k": 4}), ("topk", {"k": 4, "encoder": "mean"}), ("jumprelu", {"gate": "shared"})],
)
def test_codes_are_exact_where_active_features_are_found_in_bfloat16(
    activation: str, options: dict[str, object]
) -> None:
    crosscoder, x = make(activation, torch.float64, **options)
    exact = crosscoder.pre_activations(x)
    rounded = exact.detach().bfloat16().double()
    where = torch.zeros(BATCH * F, dtype=torch.bool)
    where[crosscoder.places(rounded, k=crosscoder.k)] = True
    where = where.view(BATCH, F)
    if crosscoder.threshold is not None:
        where &= exact * crosscoder.score_weight() > crosscoder.threshold
    expected = (x - crosscoder.decode(exact * where)).square().sum() / BATCH
    found = crosscoder_losses(
        crosscoder, x, sparsity="none", pre=rounded, pre_is_exact=False, k=crosscoder.k, dense_above=1.0
    ).reconstruction
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(loss, list(crosscoder.parameters())) for loss in (found, expected)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("gate", ["shared", "per_snapshot"])
def test_thresholds_are_pulled_once_where_active_features_are_found_in_bfloat16(gate: str) -> None:
    crosscoder, x = make("jumprelu", torch.float64, gate=gate)
    assert crosscoder.threshold is not None
    crosscoder.threshold.requires_grad_()
    exact = crosscoder.pre_activations(x).detach()
    noise = 0.02 * torch.randn(exact.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    losses = crosscoder_losses(crosscoder, x, sparsity="none", pre=exact + noise, pre_is_exact=False, dense_above=1.0)
    found = torch.autograd.grad(losses.reconstruction, [crosscoder.threshold])[0]
    # by hand: what is found by the noisy outputs counts with exact ones, all else with the noisy ones
    threshold, W_dec = crosscoder.threshold.detach(), crosscoder.W_dec.detach()
    listed = torch.zeros(BATCH * F, dtype=torch.bool)
    listed[crosscoder.places(exact + noise)] = True
    z = torch.where(listed.view(BATCH, F), exact, exact + noise)
    weights = crosscoder.score_weight()[None].expand(N, -1) if gate == "shared" else crosscoder.strength().detach()
    u = z[:, None] * weights
    code = z[:, None] * ((u > threshold) & listed.view(BATCH, 1, F))
    error = torch.einsum("bsf,sfd->bsd", code, W_dec) + crosscoder.b_dec.detach() - x
    near = ((u - threshold).abs() < 2) & (u > 0)
    slope = torch.where(weights > 0, -threshold / (4 * weights), 0.0)
    expected = (torch.einsum("bsd,sfd->bsf", 2 * error / BATCH, W_dec) * near * slope).sum((0, 1))
    assert not torch.equal(listed.view(BATCH, F), (exact * weights.amax(0) > threshold))
    torch.testing.assert_close(found, expected)


def test_a_feature_without_directions_pulls_no_threshold() -> None:
    crosscoder, x = make("jumprelu", torch.float32)
    with torch.no_grad():
        crosscoder.decoder_rows[5] = 0
        crosscoder.threshold[5] = 30.0  # type: ignore[index]
        crosscoder.b_enc += 20
    assert crosscoder.threshold is not None
    crosscoder.threshold.requires_grad_()
    for dense_above in (0.0, 1.0):
        losses = crosscoder_losses(crosscoder, x, sparsity="tanh", dense_above=dense_above)
        pulls = torch.autograd.grad(losses.reconstruction + losses.sparsity, [crosscoder.threshold])[0]
        assert pulls.isfinite().all()
        assert pulls[5] == 0


@pytest.mark.parametrize("setting", ["encode_dtype", "moments"])
def test_training_with_bfloat16_explains_as_much(setting: str) -> None:
    planted = plant(n_features=60, n_snapshots=4, d_model=32, active=4.0, seed=1)
    explained = {}
    for dtype in ("float32", "bfloat16"):
        config = CrosscoderConfig(n_features=80, k=4, steps=150, **{setting: dtype})
        crosscoder = train_crosscoder(planted.batches(256), config)
        x = next(iter(planted.batches(1024, seed=1))) * crosscoder.norm_scale[:, None]
        losses = crosscoder_losses(crosscoder, x, sparsity="none")
        explained[dtype] = losses.explained_variance.mean()
        assert float(losses.l0.mean()) == pytest.approx(4, rel=0.05)
    assert explained["bfloat16"] != explained["float32"]
    assert float(explained["bfloat16"]) == pytest.approx(float(explained["float32"]), abs=0.01)
    assert float(explained["float32"]) > 0.7


@pytest.mark.parametrize("activation", ["relu", "topk", "batch_topk"])
def test_places_are_what_the_training_rule_keeps(activation: str, kernels: str) -> None:
    pre = torch.randn(300, 50, generator=torch.Generator().manual_seed(1)) - 0.5
    pre *= torch.linspace(0.05, 3, 300)[:, None]
    weight = torch.rand(50, generator=torch.Generator().manual_seed(2)) + 0.5
    pre[:, 7], weight[7] = pre[:, 8], weight[8]
    row = ACTIVATIONS[activation]
    score = torch.relu(pre * weight)
    if activation == "topk":
        score = torch.where(score >= score.topk(3, dim=1).values.amin(1, keepdim=True), score, 0.0)
    if activation == "batch_topk":
        score = torch.where(score >= score.flatten().topk(900).values.min(), score, 0.0)
    kept = score.flatten().nonzero()[:, 0]
    assert 600 < len(kept) < 15_000
    assert torch.equal((row.training(pre, weight=weight, k=3) > 0).flatten().nonzero()[:, 0], kept)
    assert torch.equal(row.places(pre, weight=weight, k=3), kept)


@compiles
@pytest.mark.parametrize(("rows", "columns", "width"), [(5, 9, 3), (40, 70, 16 * 9 + 5), (300, 20, 64)])
def test_compiled_sums_are_pytorchs_and_threads_change_no_bit(rows: int, columns: int, width: int) -> None:
    draw = torch.Generator().manual_seed(0)
    pre, weight, bound = (torch.randn(*shape, generator=draw) for shape in ((rows, columns), (columns,), (columns,)))
    left, right, bias = (torch.randn(*shape, generator=draw) for shape in ((rows, width), (columns, width), (width,)))
    found, threads = [], torch.get_num_threads()
    try:
        for name, number in (("torch", 1), ("compiled", 1), ("compiled", 3)):
            torch.set_num_threads(number)
            with using(name, CPU):
                places, score = above(pre, weight, bound)
                entries = Entries.at(places, (rows, columns))
                found.append(
                    [
                        places,
                        score,
                        entries.sums_by_row(right, score),
                        entries.sums_by_column(left, score),
                        entries.products(left, right),
                        *entries.errors(score, right, bias, left),
                    ]
                )
    finally:
        torch.set_num_threads(threads)
    assert 0 < len(found[0][0]) < rows * columns
    for slow, fast, many in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
        assert torch.equal(fast, many)


@pytest.mark.skipif(not on_gpu.is_there(), reason="Triton is not installed")
def test_programs_for_a_gpu_give_the_same_where_they_are_interpreted() -> None:
    """In a process of its own: Triton reads at its import whether it is to interpret."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("interpreted.py")],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["above", "order", "sums", "products", "errors", "adam", "halves", "moments"]


@pytest.mark.skipif(not on_gpu.is_there(), reason="Triton is not installed")
def test_programs_compile_for_a_gpu() -> None:
    done = subprocess.run([sys.executable, Path(__file__).with_name("compiling.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["sums", "errors", "products", "adam", "adam"]


@compiles
def test_room_grows_where_much_is_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ontogeny.dictionaries.compiled.ROOM", 1)
    pre = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    with using("compiled", CPU):
        places, score = above(pre, torch.ones(50), torch.full((50,), -0.5))
    assert torch.equal(places, (pre > -0.5).flatten().nonzero()[:, 0])
    assert torch.equal(score, pre.flatten()[places])


def test_gradients_of_some_rows_are_left_with_those_of_entries(kernels: str) -> None:
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(40, 37, generator=draw)
    usual, own = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    other = torch.optim.Adam([usual], lr=0.01)
    adam = Adam([{"params": [own], "lr": 0.01}], rows=[own])
    some = torch.tensor([0, 3, 17, 39])
    for _ in range(5):
        entries = Entries.at(torch.randperm(64 * 40, generator=draw)[:300].sort().values, (64, 40))
        code, pull = torch.rand(300, generator=draw), torch.randn(64, 37, generator=draw)
        for one, optimizer in ((usual, other), (own, adam)):
            rows = one.index_select(0, some) if one is usual else rows_at(one, some)
            loss = (decode(code, one, entries=entries) * pull).sum() + (rows @ pull.T).square().sum()
            loss.backward()
            assert (one.grad is None) == (one is own)
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(own.detach(), usual.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beside", [False, True])
def test_adam_over_entries_makes_pytorchs_steps(beside: bool, kernels: str) -> None:
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(40, 37, generator=draw)
    usual, own = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    other = torch.optim.Adam([usual], lr=0.01)
    adam = Adam([{"params": [own], "lr": 0.01}], rows=[own])
    for _ in range(5):
        entries = Entries.at(torch.randperm(64 * 40, generator=draw)[:300].sort().values, (64, 40))
        code, pull = torch.rand(300, generator=draw), torch.randn(64, 37, generator=draw)
        for one, optimizer in ((usual, other), (own, adam)):
            loss = (decode(code, one, entries=entries) * pull).sum()
            (loss + one[3].square().sum() if beside else loss).backward()
            assert (one.grad is None) == (one is own and not beside)
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(own.detach(), usual.detach(), rtol=1e-5, atol=1e-6)
    adam.release()
    decode(code, own, entries=entries).sum().backward()
    assert own.grad is not None


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beside", [False, True])
def test_gradients_of_norms_are_left_with_those_of_entries(moments: torch.dtype, beside: bool, kernels: str) -> None:
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(40, 3 * 67, generator=draw)
    start[5, 67:134] = 0  # a norm of zero has no direction to grow in
    usual, own = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    other = torch.optim.Adam([usual], lr=0.01)
    adam = Adam([{"params": [own], "lr": 0.01}], rows=[own], moments=moments)
    for _ in range(5):
        entries = Entries.at(torch.randperm(64 * 40, generator=draw)[:300].sort().values, (64, 40))
        code, pull = torch.rand(300, generator=draw), torch.randn(64, 3 * 67, generator=draw)
        price = torch.randn(40, 3, generator=draw)
        for one, optimizer in ((usual, other), (own, adam)):
            lengths = one.view(40, 3, 67).norm(dim=-1) if one is usual else norms(one, 3)
            loss = (decode(code, one, entries=entries) * pull).sum() + (lengths * price).sum() + lengths.square().mean()
            (loss + one[3].square().sum() if beside else loss).backward()
            assert (one.grad is None) == (one is own and not beside)
            optimizer.step()
            optimizer.zero_grad()
    rounding = 3e-3 if moments == torch.bfloat16 else 1e-6  # of weights that move by .01 a step
    torch.testing.assert_close(own.detach(), usual.detach(), rtol=1e-5, atol=rounding)
    adam.release()
    torch.testing.assert_close(
        *(torch.autograd.grad(one.sum(), own)[0] for one in (norms(own, 3), own.view(40, 3, 67).norm(dim=-1)))
    )


def test_rounding_at_random_is_right_in_the_mean_and_exact_where_it_can_be() -> None:
    x = torch.tensor([1.0, -3.0, 0.0, 1e-30, 1 + 2**-10, -(1 + 2**-9), 7.77e-5])
    drawn = torch.stack([bfloat16_at_random(x, random_bits(torch.arange(7), seed) & 0xFFFF) for seed in range(4096)])
    assert torch.equal(drawn[:, :3].float().unique(dim=0), x[None, :3])
    steps = (x.abs().log2().floor() - 7).exp2()
    assert ((drawn.float() - x).abs() < steps)[:, 3:].all()
    off = (drawn[:, 3:].double().mean(0) - x[3:].double()) / steps[3:]
    assert float(off.abs().max()) < 4 * 0.5 / 4096**0.5
    bits = random_bits(torch.arange(1 << 16), 5)
    shares = torch.stack([(bits >> place & 1).double().mean() for place in range(32)])
    assert float((shares - 0.5).abs().max()) < 4 * 0.5 / 256


@pytest.mark.parametrize("beside", [False, True])
def test_adam_with_bfloat16_moments_makes_the_same_steps_by_either_kernels(
    beside: bool, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ontogeny.dictionaries.adam.VALUES_AT_ONCE", 37 * 7)
    draw = torch.Generator().manual_seed(0)
    own = torch.nn.Parameter(torch.randn(40, 37, generator=draw))
    value, mean, square = own.detach().clone(), *(torch.zeros(40, 37, dtype=torch.bfloat16) for _ in range(2))
    optimizer = Adam([{"params": [own], "lr": 0.01}], rows=[own], moments=torch.bfloat16, first=3)
    for step in range(1, 6):
        entries = Entries.at(torch.randperm(64 * 40, generator=draw)[:300].sort().values, (64, 40))
        code, pull = torch.rand(300, generator=draw), torch.randn(64, 37, generator=draw)
        grad = entries.sums_by_column(pull, code)
        loss = (decode(code, own, entries=entries) * pull).sum()
        if beside:
            loss, grad = loss + own[3].square().sum(), grad.clone()
            grad[3] += 2 * own.detach()[3]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        adam(
            grad, value, mean, square, rate=0.01 / (1 - 0.9**step), beta1=0.9, beta2=0.999, eps=1e-8,
            root=(1 - 0.999**step) ** 0.5, seed=step, before=3 * 37,
        )  # fmt: skip
    state = optimizer.state[own]
    for found, expected in ((state["exp_avg"], mean), (state["exp_avg_sq"], square)):
        assert found.dtype == torch.bfloat16
        assert float((found == expected).double().mean()) > 0.99  # sums in another order may round otherwise
    torch.testing.assert_close(own.detach(), value, rtol=1e-2, atol=1e-3)
    again = Adam([{"params": [own], "lr": 0.01}], rows=[own], moments=torch.bfloat16)
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(again.state[own]["exp_avg_sq"], state["exp_avg_sq"])
    assert again.state[own]["exp_avg_sq"].dtype == torch.bfloat16


@compiles
def test_training_with_compiled_kernels_follows_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ontogeny.dictionaries.places.WORTH_IT", 0)
    planted = plant(n_features=60, n_snapshots=4, d_model=32, active=4.0, seed=1)
    found = []
    for name in ("torch", "compiled", "searching", "auto"):
        config = CrosscoderConfig(n_features=80, k=4, steps=60, kernels=name)
        found.append(train_crosscoder(planted.batches(256), config))
    by_name = dict(zip(("compiled", "searching"), found[1:3], strict=True))
    for key, value in found[0].tensors().items():
        for one in by_name.values():
            torch.testing.assert_close(one.tensors()[key], value, rtol=1e-3, atol=1e-4)
        assert torch.equal(found[3].tensors()[key], by_name[fastest(CPU)].tensors()[key])
    assert not torch.equal(found[0].W_enc, found[1].W_enc)
    assert not torch.equal(found[1].W_enc, found[2].W_enc)


@pytest.mark.parametrize("mean", [0.0, 5.0])
@pytest.mark.parametrize("activation", ["topk", "batch_topk"])
def test_rounded_outputs_tell_the_places_of_exact_ones_or_nothing(activation: str, mean: float, kernels: str) -> None:
    row, draw, told = ACTIVATIONS[activation], torch.Generator().manual_seed(0), 0
    assert row.search is not None
    for tokens, features, width, k in ((64, 200, 300, 8), (300, 650, 70, 12), (17, 40, 500, 3), (1, 90, 20, 2)):
        centre, spread = mean * torch.randn(width, generator=draw), 0.1 * torch.randn(features, generator=draw)
        rows = torch.randn(features, width, generator=draw) / width**0.5
        x, b_enc = torch.randn(tokens, width, generator=draw) + centre, spread - rows @ centre
        weight = torch.rand(features, generator=draw) + 0.5
        rounded, pre = rounded_outputs(x, rows, b_enc, centre=centre), torch.addmm(b_enc, x, rows.T)
        assert 1e-4 < (rounded.values + rounded.bias - pre).abs().max() < 0.1
        found = row.search(rounded, weight=weight, k=k)
        if found is not None:
            assert torch.equal(found.places, row.places(pre, weight=weight, k=k))
            torch.testing.assert_close(found.outputs, pre.flatten()[found.places], rtol=1e-4, atol=1e-4)
            told += 1
    assert told >= 2
    alike = rows[:1] + 1e-5 * torch.randn(rows.shape, generator=draw)
    assert row.search(rounded_outputs(x, alike, b_enc * 0, centre=centre), weight=torch.ones_like(weight), k=k) is None


@compiles
def test_where_rounded_outputs_cannot_tell_exact_ones_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = plant(n_features=60, n_snapshots=4, d_model=32, active=4.0, seed=1)
    config = CrosscoderConfig(n_features=80, k=4, steps=20, kernels="compiled")
    expected = train_crosscoder(planted.batches(256), config)
    monkeypatch.setattr("ontogeny.dictionaries.places.WORTH_IT", 0)
    monkeypatch.setattr("ontogeny.dictionaries.places.SURE", 1e9)
    found = train_crosscoder(planted.batches(256), config.model_copy(update={"kernels": "searching"}))
    assert torch.equal(found.W_dec, expected.W_dec)


def test_without_a_compiler_there_is_pytorch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(compiled, "library", compiled.library.__wrapped__)
    assert fastest(CPU) == "torch"
    with pytest.raises(TrainingError, match="need a C compiler: install it"), using("compiled", CPU):
        pass
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(broken))
    assert fastest(CPU) == "torch"


def test_sums_over_entries_by_hand(kernels: str) -> None:
    entries = Entries.at(torch.tensor([1, 4, 5, 11]), (4, 3))
    assert entries.row.tolist() == [0, 1, 1, 3]
    assert entries.column.tolist() == [1, 1, 2, 2]
    assert entries.row_starts.tolist() == [0, 1, 3, 3, 4]
    assert entries.column_starts.tolist() == [0, 0, 2, 4]
    code, rows = torch.tensor([2.0, 3.0, 4.0, 5.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert decode(code, rows, entries=entries).tolist() == [[0, 2], [4, 7], [0, 0], [5, 5]]
    assert column_sums(code, entries=entries).tolist() == [0, 5, 9]
    x, bias = torch.arange(12.0).view(4, 3), torch.tensor([0.0, 10.0, 20.0])
    assert read(x, torch.eye(3), bias, known=None, entries=entries).tolist() == [11, 14, 25, 31]
    assert read(x, torch.eye(3), bias, known=code, entries=entries).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("gate", ["shared", "per_snapshot"])
def test_entries_in_chunks_give_the_same(gate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    crosscoder, x = make("jumprelu", torch.float64, gate=gate)
    assert crosscoder.threshold is not None
    parameters = [*crosscoder.parameters(), crosscoder.threshold.requires_grad_()]
    found = []
    for entries, tokens in ((10**9, 10**9), (500, 10)):
        monkeypatch.setattr("ontogeny.dictionaries.losses.ENTRIES_AT_ONCE", entries)
        monkeypatch.setattr("ontogeny.dictionaries.losses.TOKENS_AT_ONCE", tokens)
        losses = crosscoder_losses(crosscoder, x, sparsity="tanh_quad", dense_above=1.0)
        found.append([*losses, *torch.autograd.grad(losses.reconstruction + losses.sparsity, parameters)])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole)


def test_nothing_active_is_no_error() -> None:
    crosscoder, x = make("relu", torch.float32)
    with torch.no_grad():
        crosscoder.b_enc -= 1000
    losses = crosscoder_losses(crosscoder, x, sparsity="tanh", dense_above=1.0)
    losses.reconstruction.backward()
    assert float(losses.l0.max()) == 0
    assert not losses.fired.any()
    assert crosscoder.decoder_rows.grad is not None
    assert not crosscoder.decoder_rows.grad.any()
