"""The stream against reading everything by hand."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ontogeny import CrosscoderConfig, crosscoder_losses, loop, open_suite, stream_activations, train_crosscoder
from ontogeny.activations.harvest import Harvester, usable_positions
from ontogeny.activations.stream import ActivationStream
from ontogeny.corpus.pack import Corpus, open_corpus
from ontogeny.corpus.tokenizer import train_tokenizer
from ontogeny.errors import CorpusError, HookpointError, SuiteError
from ontogeny.models.pretrain import build_model
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of


@pytest.fixture(scope="module")
def corpus(small_run: Run) -> Corpus:
    return Corpus(small_run.corpus_folder / "held_out")


def stream(small_run: Run, corpus: Corpus, **options: int) -> ActivationStream:
    settings = {"batch_size": 64, "window_tokens": 256, "model_batch_size": 5, "seed": 0} | options
    return stream_activations(suite_of(small_run), corpus, hookpoint="resid_post.0", **settings)


def take(batches: ActivationStream, count: int) -> Tensor:
    return torch.stack(list(islice(batches.starting_at(0), count)))


def by_hand(batches: ActivationStream) -> Tensor:
    """Raw activations of every usable token of the corpus, [row, snapshot, d_model], in no special order."""
    corpus, harvester = batches.corpus, batches.harvester
    tokens = torch.from_numpy(corpus.tokens.astype(np.int64))
    usable = torch.from_numpy(usable_positions(corpus.lengths, corpus.sequence_length))
    return torch.stack([harvester.read(s, tokens)[usable] for s in range(harvester.n_snapshots)], dim=1)


def test_an_epoch_holds_every_usable_token_once_and_rows_stay_aligned_over_snapshots(
    small_run: Run, corpus: Corpus
) -> None:
    batches = stream(small_run, corpus, batch_size=16)
    expected = by_hand(batches)
    assert len(batches) == len(list(batches)) == len(expected) // 16
    assert batches.tokens_per_epoch == len(expected) == int((corpus.lengths - 1).sum())
    full = len(expected) // 16
    found = take(batches, full + 1).flatten(0, 1)[: len(expected)]
    window = batches.batches_per_window * 16
    whole = len(expected) // window * window
    assert whole > 0
    # the same first token gives the same row in two sequences: count such rows together
    same = torch.cdist(expected.flatten(1).double(), expected.flatten(1).double()).argmin(1)
    times = same.bincount(minlength=len(expected))

    def which(rows: Tensor) -> Tensor:
        distance, nearest = torch.cdist(rows.flatten(1).double(), expected.flatten(1).double()).min(1)
        assert float(distance.max()) < 1e-3
        return same[nearest].bincount(minlength=len(expected))

    assert bool((which(found[:whole]) <= times).all())
    many = take(batches, 2 * full + 2).flatten(0, 1)
    assert bool(((which(many) > 0) == (times > 0)).all())


def test_batches_do_not_depend_on_the_models_batch_size(small_run: Run, corpus: Corpus) -> None:
    one = take(stream(small_run, corpus, model_batch_size=1), 6)
    many = take(stream(small_run, corpus, model_batch_size=32), 6)
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-5)


def test_a_stream_taken_up_in_the_middle_goes_on_bit_for_bit(small_run: Run, corpus: Corpus) -> None:
    batches = stream(small_run, corpus)
    all_of_them = take(batches, 11)
    for start in (3, 4, 9):
        resumed = torch.stack(list(islice(batches.starting_at(start), 2)))
        assert torch.equal(resumed, all_of_them[start : start + 2])


def test_the_order_depends_on_the_seed_and_is_shuffled(small_run: Run, corpus: Corpus) -> None:
    zero, one = take(stream(small_run, corpus, seed=0), 2), take(stream(small_run, corpus, seed=1), 2)
    assert not torch.allclose(zero, one)
    assert torch.equal(zero, take(stream(small_run, corpus, seed=0), 2))


def test_the_public_call_gives_raw_float32_batches(small_run: Run, corpus: Corpus) -> None:
    suite = open_suite(small_run.suite_folder, steps=[0, 60])
    batch = next(iter(stream_activations(suite, corpus, hookpoint="resid_post.1", batch_size=32, seed=0)))
    assert batch.shape == (32, 2, 32)
    assert batch.dtype == torch.float32


def test_a_corpus_of_another_tokenizer_or_length_is_refused(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path))
    text = tmp_path / "a.txt"
    text.write_text("some words that are packed " * 200)
    suite = suite_of(small_run)
    other = open_corpus(text, tokenizer=train_tokenizer([text.read_text()], vocab_size=300), sequence_length=32)
    with pytest.raises(CorpusError, match=r"packed with another tokenizer \(\d+ tokens, .*\) than suite suite's"):
        stream_activations(suite, other, hookpoint="resid_post.0")
    long = open_corpus(text, tokenizer=suite.tokenizer(), sequence_length=128)
    with pytest.raises(CorpusError, match="sequences of 128 tokens, but the models read 64 at most"):
        stream_activations(suite, long, hookpoint="resid_post.0")
    with pytest.raises(HookpointError, match=r"no hookpoint resid_post\.2"):
        stream_activations(
            suite, open_corpus(text, tokenizer=suite.tokenizer(), sequence_length=32), hookpoint="resid_post.2"
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"k": 4},
        {"activation": "jumprelu", "threshold_parameter": "log"},
        {"activation": "jumprelu", "threshold_parameter": "direct", "gate": "per_snapshot"},
    ],
    ids=["batch_topk", "jumprelu, log thresholds", "jumprelu, direct thresholds"],
)
def test_training_killed_inside_the_first_window_resumes_bit_for_bit(
    settings: dict[str, Any], small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a width where products differ in their last bits between precisions."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    model = build_model(
        {"hidden_size": 256, "num_hidden_layers": 1, "intermediate_size": 256},
        vocab_size=512,
        sequence_length=64,
        seed=0,
    )
    for step in (0, 1):
        model.save_pretrained(tmp_path / "suite" / f"step{step}")
    suite_of(small_run).tokenizer().save_pretrained(tmp_path / "suite" / "step1")
    corpus = Corpus(small_run.corpus_folder / "train")
    config = CrosscoderConfig(n_features=64, steps=10, norm_tokens=256, **settings)

    def trained(checkpoint: Path | None) -> Tensor:
        batches = stream_activations(
            open_suite(tmp_path / "suite"), corpus, hookpoint="resid_post.0", batch_size=128, window_tokens=2048
        )
        return train_crosscoder(batches, config, checkpoint=checkpoint).decoder_rows

    undisturbed = trained(None)
    calls = 0

    def interrupted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return crosscoder_losses(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr("ontogeny.dictionaries.learner.crosscoder_losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "train.pt")
    assert torch.equal(trained(tmp_path / "train.pt"), undisturbed)


def test_models_cycled_through_a_small_memory_give_the_same_batches(small_run: Run, corpus: Corpus) -> None:
    suite = suite_of(small_run)
    model = Harvester(suite, "resid_post.0").residents[0]
    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) / 1e9
    expected = take(stream(small_run, corpus), 5)
    for models in (1, 2, 3):
        harvester = Harvester(suite, "resid_post.0", memory_gb=size * (models + 0.5))
        assert len(harvester.residents) == models - 1 < harvester.n_snapshots
        options = {"batch_size": 64, "window_tokens": 256, "model_batch_size": 5, "seed": 0}
        assert torch.equal(take(ActivationStream(harvester, corpus, **options), 5), expected)
    with pytest.raises(SuiteError, match=r"suite.memory_gb is 1e-06, but one model up to resid_post.0 takes"):
        Harvester(suite, "resid_post.0", memory_gb=1e-6)


def test_snapshots_of_two_widths_are_refused_before_any_weight_is_read(small_run: Run, tmp_path: Path) -> None:
    for step, width in ((0, 32), (10, 48)):
        (tmp_path / f"step{step}").mkdir()
        config = suite_of(small_run).model_config() | {"hidden_size": width}
        (tmp_path / f"step{step}" / "config.json").write_text(json.dumps(config))
        (tmp_path / f"step{step}" / "model.safetensors").touch()
    with pytest.raises(SuiteError, match=r"snapshots differ in width \(32 at step 0, 48 at step 10\)"):
        Harvester(open_suite(tmp_path), "resid_post.0")
