"""Hookpoints, snapshots and pre-training, on real transformers models."""

from pathlib import Path

import pytest
import torch

from ontogeny.config.suite import PretrainConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.errors import ConfigError, HookpointError, SuiteError
from ontogeny.models.hookpoints import logit_directions, read_hookpoint
from ontogeny.models.load import load_snapshot
from ontogeny.models.names import check_hookpoint, parse_hookpoint
from ontogeny.models.pretrain import IGNORED, SequenceBatches, bfloat16_pays, build_model
from ontogeny.run import Run
from ontogeny.suites.suite import Snapshot, open_suite

LAYERS = 3


@pytest.fixture(scope="module", params=[True, False], ids=["parallel", "sequential"])
def model(request: pytest.FixtureRequest):
    settings = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 64,
                "use_parallel_residual": request.param}  # fmt: skip
    built = build_model(settings, vocab_size=100, sequence_length=16, seed=0).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return built


TOKENS = torch.randint(100, (3, 16), generator=torch.Generator().manual_seed(2))


def read(model, hookpoint: str) -> torch.Tensor:
    return read_hookpoint(model, TOKENS, parse_hookpoint(hookpoint))


def test_resid_post_is_the_next_hidden_state_of_every_block_but_the_last(model) -> None:
    hidden = model(TOKENS, output_hidden_states=True).hidden_states
    for layer in range(LAYERS - 1):
        torch.testing.assert_close(read(model, f"resid_post.{layer}"), hidden[layer + 1])
    for layer in range(LAYERS):
        torch.testing.assert_close(read(model, f"resid_pre.{layer}"), hidden[layer])


def test_the_last_blocks_output_is_read_before_the_final_norm(model) -> None:
    hidden = model(TOKENS, output_hidden_states=True).hidden_states
    last = read(model, f"resid_post.{LAYERS - 1}")
    torch.testing.assert_close(model.gpt_neox.final_layer_norm(last), hidden[-1])
    assert not torch.allclose(last, hidden[-1])


def test_a_block_adds_its_attention_and_its_mlp_to_the_stream(model) -> None:
    for layer in range(LAYERS):
        added = read(model, f"attn_out.{layer}") + read(model, f"mlp_out.{layer}")
        torch.testing.assert_close(
            read(model, f"resid_pre.{layer}") + added, read(model, f"resid_post.{layer}"), rtol=1e-4, atol=1e-5
        )


def test_reading_leaves_no_hook_behind_and_stops_before_later_blocks(model) -> None:
    ran = []
    handle = model.gpt_neox.layers[2].register_forward_hook(lambda *_: ran.append(2))
    before = model(TOKENS).logits
    ran.clear()
    read(model, "resid_post.1")
    handle.remove()
    assert ran == []
    torch.testing.assert_close(model(TOKENS).logits, before)


def test_padding_on_the_right_changes_nothing_before_it(model) -> None:
    padded = TOKENS.clone()
    padded[:, 10:] = 0
    found = read_hookpoint(model, padded, parse_hookpoint("resid_post.1"))[:, :10]
    torch.testing.assert_close(found, read(model, "resid_post.1")[:, :10])


def test_hookpoints_that_do_not_exist_are_one_clear_error(model) -> None:
    config = model.config.to_dict()
    with pytest.raises(
        HookpointError, match=r"no hookpoint resid_post\.3: the model has 3 blocks, so the last is resid_post\.2"
    ):
        check_hookpoint(config, parse_hookpoint("resid_post.3"))
    with pytest.raises(HookpointError, match=r"no hookpoint 'resid_pst\.1' \(did you mean resid_post\?\)"):
        parse_hookpoint("resid_pst.1")
    with pytest.raises(HookpointError, match="models of type 'bert' are unknown here"):
        check_hookpoint(config | {"model_type": "bert"}, parse_hookpoint("resid_post.0"))


def test_logit_directions_are_what_a_step_along_them_adds_to_the_logits(model) -> None:
    direction = torch.randn(1, 32, generator=torch.Generator().manual_seed(3))
    stream = torch.randn(1, 32, generator=torch.Generator().manual_seed(4))
    stream = stream - stream.mean()
    # a step that leaves the norm of the stream unchanged to first order
    along = direction - direction.mean()
    along = along - (along * stream).sum() / stream.square().sum() * stream
    step = 1e-3
    norm, head = model.gpt_neox.final_layer_norm, model.get_output_embeddings()
    with torch.no_grad():
        moved = (head(norm(stream + step * along)) - head(norm(stream - step * along))) / (2 * step)
    moved = moved * (stream.var(unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(
        logit_directions(model, along), moved - moved.mean(-1, keepdim=True), rtol=1e-3, atol=1e-3
    )


def test_snapshots_load_in_float32_whatever_the_file_holds(model, tmp_path: Path) -> None:
    model.half().save_pretrained(tmp_path / "step5")
    model.float()
    snapshot = open_suite(tmp_path).snapshots[0]
    assert load_snapshot(snapshot).dtype == torch.float32
    assert load_snapshot(snapshot, dtype="bfloat16").dtype == torch.bfloat16


def test_a_truncated_snapshot_reads_the_same_activations(model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "step5")
    snapshot = open_suite(tmp_path).snapshots[0]
    for text in ("resid_post.1", "resid_pre.1", "mlp_out.1"):
        hookpoint = parse_hookpoint(text)
        cut = load_snapshot(snapshot, up_to=hookpoint)
        assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in model.parameters())
        torch.testing.assert_close(read_hookpoint(cut, TOKENS, hookpoint), read(model, text))


def test_a_missing_or_damaged_snapshot_is_one_clear_error(model, tmp_path: Path) -> None:
    for step in (0, 1000, 2000):
        model.save_pretrained(tmp_path / f"step{step}")
    with pytest.raises(SuiteError, match="no snapshot at step 1500: nearest are 1000 and 2000"):
        open_suite(tmp_path, steps=[0, 1500])
    with pytest.raises(SuiteError, match="no snapshot at step 5000: nearest is 2000"):
        open_suite(tmp_path, steps=[5000])
    weights = tmp_path / "step1000" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SuiteError, match=r"step1000/model\.safetensors cannot be loaded"):
        load_snapshot(open_suite(tmp_path, steps=[1000]).snapshots[0])
    weights.unlink()
    with pytest.raises(SuiteError, match=r"step1000 is not a saved checkpoint: it has no model\.safetensors"):
        open_suite(tmp_path)
    with pytest.raises(SuiteError, match="no suite at"):
        open_suite(tmp_path / "nowhere")
    (tmp_path / "empty" / "other").mkdir(parents=True)
    with pytest.raises(SuiteError, match="holds no snapshot: expected folders such as step0, found other"):
        open_suite(tmp_path / "empty")


def test_folder_names_of_several_trainers_are_understood(model, tmp_path: Path) -> None:
    for name in ("step0", "checkpoint-500", "global_step1000"):
        model.save_pretrained(tmp_path / name)
    suite = open_suite(tmp_path)
    assert suite.steps == [0, 500, 1000]
    assert suite.snapshots[1] == Snapshot(str(tmp_path), "checkpoint-500", None, 500, None)


def test_pretraining_saves_the_scheduled_snapshots_and_learns(small_run: Run) -> None:
    suite = open_suite(small_run.suite_folder)
    assert suite.steps == [0, 10, 25, 60]
    log = [line.split() for line in (small_run.suite_folder / "pretraining-log.jsonl").read_text().splitlines()]
    losses = [float(entry[-1].rstrip("}")) for entry in log]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(6.3, abs=0.3)
    assert losses[-1] < losses[0] - 1
    assert suite.tokenizer().vocab_size == 512


def test_epochs_visit_every_sequence_once_in_their_own_order(small_run: Run) -> None:
    corpus = Corpus(small_run.corpus_folder / "train")
    batches = SequenceBatches(corpus, batch_size=8, seed=0)
    numbers = [batches._sequence(i) for i in range(2 * len(corpus))]
    first, second = numbers[: len(corpus)], numbers[len(corpus) :]
    assert sorted(first) == sorted(second) == list(range(len(corpus)))
    assert first != second
    later = next(batches.starting_at(3))
    stream = iter(batches)
    assert torch.equal(later, [next(stream) for _ in range(4)][3])


def test_unknown_model_settings_are_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="gpt_neox has no setting 'hidden_sise'"):
        build_model({"hidden_sise": 32}, vocab_size=10, sequence_length=8, seed=0)
    with pytest.raises(ConfigError, match="transformers knows no model_type 'gpt_nexo'"):
        build_model({"model_type": "gpt_nexo"}, vocab_size=10, sequence_length=8, seed=0)
    with pytest.raises(ConfigError, match="step 50 lies after the last step, 20"):
        PretrainConfig(steps=20, snapshots=[0, 50])


def test_other_decoder_families_can_be_pretrained() -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = build_model({"model_type": "llama", **small}, vocab_size=50, sequence_length=8, seed=0)
    assert model(TOKENS[:, :8] % 50).logits.shape == (3, 8, 50)


def test_whether_bfloat16_pays_is_known_for_this_processor() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "flags" in flags:
        assert bfloat16_pays(torch.device("cpu")) == ("avx512_bf16" in flags or "amx_tile" in flags)


def test_a_share_of_the_contexts_repeats_a_passage(small_run: Run) -> None:
    corpus = Corpus(small_run.corpus_folder / "train")
    plain, repeating = (
        next(iter(SequenceBatches(corpus, batch_size=200, seed=0, repeat_share=share))) for share in (0.0, 0.5)
    )
    changed = (plain != repeating).any(1)
    assert 70 <= int(changed.sum()) <= 115
    assert torch.equal(plain == IGNORED, repeating == IGNORED)
    for before, after in zip(plain[changed], repeating[changed], strict=True):
        first = int(torch.nonzero(before != after)[0])
        n = int((after != IGNORED).sum())
        assert first <= n // 2 + 2
        earlier = [at for at in range(1, first) if torch.equal(after[at : at + n - first], after[first:n])]
        assert earlier, "from the first change to the end all stands earlier too"
    later = SequenceBatches(corpus, batch_size=200, seed=0, repeat_share=0.5).starting_at(3)
    batches = iter(SequenceBatches(corpus, batch_size=200, seed=0, repeat_share=0.5))
    for _ in range(3):
        next(batches)
    assert torch.equal(next(later), next(batches))
