"""Kinds of feature: planted ones found, near-misses not."""

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array

from ontogeny.analyses.kinds import KINDS, kind_births, kinds
from ontogeny.features.induction import induction_of_features, random_blocks
from ontogeny.features.kinds import (
    IN_CONTEXT,
    PREVIOUS,
    beyond_shuffled,
    context_score,
    explained,
    explained_by,
    previous_token_score,
)
from ontogeny.run import Run

TOKENS, VOCABULARY, LENGTH = 40_000, 400, 64


def test_explained_variance_by_hand() -> None:
    codes = csr_array(np.asarray([[0.0, 1, 1], [0, 1, 3], [2, 1, 1], [2, 1, 3], [9, 9, 9]]))
    found = explained_by(codes, np.asarray([0, 0, 1, 1, 2]))  # the last is alone and is left out
    assert found[0] == pytest.approx(1)
    assert np.isnan(found[1])
    # within: 2 · (1 + 1) = 4 in each of two groups, by n / (n - 1); in all 4 · 4 / 3
    assert found[2] == pytest.approx(1 - 8 / (4 * 4 / 3))


def test_small_groups_explain_nothing_by_chance() -> None:
    draw = np.random.default_rng(0)
    noise = csr_array(draw.random((6000, 20)))
    assert np.abs(explained_by(noise, np.arange(6000) // 2)).max() < 0.1
    assert np.abs(explained_by(noise, np.arange(6000) // 2).mean()) < 0.02


def test_planted_kinds_are_found_and_near_misses_are_not() -> None:
    draw = np.random.default_rng(0)
    weights = 1 / np.arange(1, VOCABULARY + 1)
    token = draw.choice(VOCABULARY, TOKENS, p=weights / weights.sum())
    previous, position = np.r_[0, token[:-1]], np.arange(TOKENS) % LENGTH
    planted: list[tuple[str, np.ndarray]] = []
    for number in range(12):
        words = draw.choice(VOCABULARY, 3, replace=False)
        first, second = draw.choice(20, 2, replace=False)
        topic = np.repeat(draw.random(TOKENS // LENGTH) < 0.1, LENGTH)
        topic = np.r_[topic, np.zeros(TOKENS - len(topic), dtype=bool)]
        planted += [
            ("token", np.isin(token, words)),
            ("previous", np.isin(previous, words)),
            ("bigram", (previous == first) & (token == second)),
            ("position", position == number),
            ("context", topic & (token < 40)),
        ]
    names = np.asarray([name for name, _ in planted])
    fires = np.stack([where for _, where in planted], axis=1)
    codes = csr_array(fires * (0.5 + draw.random(fires.shape)))
    found = explained(codes, token, previous, position)
    is_previous = (previous_token_score(found) >= PREVIOUS) & (beyond_shuffled(codes, token, previous, seed=0) < 0.001)
    in_context = context_score(found) >= IN_CONTEXT
    assert is_previous.tolist() == (names == "previous").tolist()
    assert in_context.tolist() == (names == "context").tolist()


def test_planted_induction_is_found_and_near_misses_are_not() -> None:
    """Codes made from the tokens by rule, logits of the vocabulary by hand."""
    words, n = np.arange(1, 301), 20
    blocks = random_blocks(words, start=0, blocks=40, length=n, seed=0)
    assert (blocks.repeated[:, 1 : n + 1] == blocks.repeated[:, n + 1 :]).all()
    assert (blocks.control[:, n + 1 :] == blocks.repeated[:, n + 1 :]).all()
    assert not any(set(row[1 : n + 1].tolist()) & set(row[n + 1 :].tolist()) for row in blocks.control)
    vocabulary = 301
    target = torch.zeros(vocabulary)
    target[1:150] = 1  # an induction feature for half of the words

    def made(tokens: torch.Tensor) -> torch.Tensor:
        """induction, previous token, position, bigram, induction that raises other words."""
        codes = torch.zeros(*tokens.shape, 5)
        for row, sequence in enumerate(tokens.tolist()):
            followed: dict[int, int] = {}
            for at, one in enumerate(sequence):
                if one in followed and followed[one] < 150:
                    codes[row, at, 0] = codes[row, at, 4] = 1.0
                if at:
                    followed[sequence[at - 1]] = one
                    codes[row, at, 1] = float(sequence[at - 1] < 150)
                    codes[row, at, 3] = float(sequence[at - 1] < 150 and one > 200)
                codes[row, at, 2] = float(at > n)
        return codes

    logits = torch.stack([target, target, target, target, -target])
    found = induction_of_features(blocks, made(blocks.repeated), made(blocks.control), logits)
    assert (found.passes & (found.p < 0.001)).tolist() == [True, False, False, False, False]
    assert found.ratio[2] > 100  # the position alone would do
    assert found.control_ratio[2] == pytest.approx(1)
    assert found.raised[0] > 0 > found.raised[4]


def test_kinds_of_a_run(small_run: Run) -> None:
    table = kinds(small_run)
    living = small_run.features.filter(~pl.col("dead"))
    assert table["feature"].to_list() == living.sort("feature")["feature"].to_list()
    assert set(table["kind"]) <= set(KINDS)
    assert "induction" not in set(table["kind"])  # 60 steps of pre-training
    small_run.write_table("kinds", table)
    births = kind_births(small_run)
    assert births["features"].sum() == len(table)
    (small_run.folder / "analyses" / "kinds.parquet").unlink()


VOCAB, PLACES = 64, 64
TOK, POS, PREV, PRED = (slice(first, first + 64) for first in range(0, 256, 64))


def attention_model() -> "torch.nn.Module":
    """Two layers of one attention head each, set by hand: the first copies the token before, the second finds where a
    token like the current one stood before and copies what followed it into the logits."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB, n_positions=PLACES, n_embd=256, n_layer=2, n_head=1, tie_word_embeddings=False,
        attn_implementation="eager",
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "ln" in name and name.endswith("weight") else 0.0)
        model.transformer.wte.weight[:, TOK] = torch.eye(VOCAB)
        model.transformer.wpe.weight[:, POS] = torch.eye(PLACES)
        model.lm_head.weight[:, PRED] = torch.eye(VOCAB)
        before, induction = (block.attn for block in model.transformer.h)
        query, key, value = (slice(first, first + 256) for first in (0, 256, 512))
        eye = torch.eye(64)
        before.c_attn.weight[POS, query][1:, :63] = 3 * eye[1:, 1:]  # position t asks for t - 1
        before.c_attn.weight[POS, key][:, :64] = eye
        before.c_attn.weight[TOK, value][:, :64] = eye / 11  # a layer norm makes a one an eleven
        before.c_proj.weight[:64, PREV] = eye
        induction.c_attn.weight[TOK, query][:, :64] = 4 * eye
        induction.c_attn.weight[PREV, key][:, :64] = eye
        induction.c_attn.weight[TOK, value][:, :64] = eye / 9
        induction.c_proj.weight[:64, PRED] = eye
    return model


def test_the_induction_features_of_a_hand_built_model_are_found_and_none_without_its_head() -> None:
    from ontogeny.features.levels import significant
    from ontogeny.models.hookpoints import logit_directions
    from ontogeny.models.pretrain import next_token_losses

    blocks = random_blocks(np.arange(1, VOCAB), start=0, blocks=60, length=20, seed=0)
    directions = torch.eye(256)[torch.cat([torch.arange(256)[part] for part in (TOK, PREV, PRED)])]
    kind = np.repeat(["token", "previous", "induction"], VOCAB)
    found = {}
    for name in ("with", "without"):
        model = attention_model()
        if name == "without":
            torch.nn.init.zeros_(model.transformer.h[1].attn.c_proj.weight)

        def coded(tokens: torch.Tensor, model: "torch.nn.Module" = model) -> torch.Tensor:
            # the stream after the last block, before the final norm
            seen: list[torch.Tensor] = []
            hook = model.transformer.h[1].register_forward_hook(
                lambda _, __, out: seen.append(out if isinstance(out, torch.Tensor) else out[0])
            )
            model(input_ids=tokens)
            hook.remove()
            return torch.relu(seen[0] @ directions.T - 0.6)

        with torch.no_grad():
            logits = logit_directions(model, directions)
            result = induction_of_features(blocks, coded(blocks.repeated), coded(blocks.control), logits)
            losses = next_token_losses(model(input_ids=blocks.repeated).logits, blocks.repeated)
        gain = losses[:, 1:20].mean() - losses[:, 21:].mean()
        found[name] = kind[significant(result.p) & result.passes], float(gain)
    induction, gain = found["with"]
    assert set(induction) == {"induction"}
    assert len(induction) >= 0.9 * (VOCAB - 1)  # all words but the start token
    assert gain > 1
    none, no_gain = found["without"]
    assert not len(none)
    assert abs(no_gain) < 0.05
