"""Cases with known answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ontogeny import Crosscoder, crosscoder_losses, reldec, relie
from ontogeny.features.formation import mean_cosine

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text())


def crosscoder_case() -> tuple[Crosscoder, dict[str, torch.Tensor]]:
    case = VECTORS["crosscoder_relu_l1"]
    tensors = {name: torch.tensor(value) for name, value in case.items() if isinstance(value, list)}
    dictionary = Crosscoder(
        W_enc=tensors["W_enc_snapshot_dmodel_feature"],
        W_dec=tensors["W_dec_feature_snapshot_dmodel"].transpose(0, 1),
        b_enc=tensors["b_enc"],
        b_dec=tensors["b_dec"],
        activation="relu",
    )
    return dictionary, tensors


def test_relu_crosscoder_gives_the_known_code_and_reconstruction() -> None:
    dictionary, case = crosscoder_case()
    out = dictionary(case["x"])
    torch.testing.assert_close(out.code, case["code"])
    torch.testing.assert_close(out.x_hat[0], case["x_hat_token0"])


def test_relu_crosscoder_gives_the_known_losses() -> None:
    dictionary, case = crosscoder_case()
    known = VECTORS["crosscoder_relu_l1"]
    losses = crosscoder_losses(dictionary, case["x"], sparsity="l1")
    assert losses.reconstruction.item() == pytest.approx(known["sum_squared_error_mean_over_tokens"])
    assert losses.sparsity.item() == pytest.approx(known["l1_mean_over_tokens"])
    assert losses.l0.tolist() == pytest.approx([known["l0"]] * 2)
    assert losses.explained_variance.shape == (2,)


def test_relie_of_two_snapshots_is_the_later_ones_share_and_nan_where_nothing_acts() -> None:
    case = VECTORS["relie_two_way"]
    expected = [np.nan if value is None else value for value in case["relie"]]
    np.testing.assert_allclose(relie([case["A"], case["B"]]), expected)


@pytest.mark.parametrize("case", VECTORS["relie_three_way"])
def test_relie_of_three_snapshots_and_of_their_pairs(case: dict[str, list[float]]) -> None:
    effects = np.array(case["effects"])[:, None]
    np.testing.assert_allclose(relie(effects)[:, 0], case["share"], atol=1e-4)
    if "pairwise" in case:
        expected = [np.nan if value is None else value for value in case["pairwise"]]
        np.testing.assert_allclose(relie(effects, pairwise=True)[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("case", VECTORS["reldec"])
def test_reldec_takes_the_same_shares_of_decoder_norms(case: dict[str, list[float]]) -> None:
    norms = torch.tensor(case["norms"], dtype=torch.float32)
    W_dec = norms[:, None, None] * torch.tensor([0.6, 0.8])
    dictionary = Crosscoder(
        W_enc=W_dec.transpose(1, 2),
        W_dec=W_dec,
        b_enc=torch.zeros(1),
        b_dec=torch.zeros(len(norms), 2),
        activation="relu",
    )
    if "relative" in case:
        assert reldec(dictionary)[0] == pytest.approx(case["relative"])
    else:
        np.testing.assert_allclose(reldec(dictionary)[:, 0], case["share"], atol=1e-4)
        np.testing.assert_allclose(reldec(dictionary, pairwise=True)[:, 0], case["pairwise"], atol=1e-4)


@pytest.mark.parametrize("case", VECTORS["progress_cosine"])
def test_mean_cosine_within_a_set(case: dict[str, object]) -> None:
    assert float(mean_cosine(torch.tensor(case["set"], dtype=torch.float32))) == pytest.approx(case["within"])
