"""Dictionaries in other tools' files: what was written is read back, and computed by hand as those tools compute it."""

import gzip
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import Command
from hub_server import Hub
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.load import load_dictionary
from ontogeny.errors import ConfigError, DictionaryError, RunError
from ontogeny.features.labels import text_of, token_texts
from ontogeny.interop.about import About
from ontogeny.interop.export import export_dictionary, import_dictionary
from ontogeny.interop.formats import FORMATS, format_of
from ontogeny.interop.openmoss import expansion_factor
from ontogeny.interop.share import without_home
from ontogeny.run import Run

N, D, F, BATCH = 3, 8, 24, 64
ABOUT = About(
    model="someone/model", revisions=("step1", "step2", "step3"), hookpoint="resid_post.2", context=64, corpus="text"
)


def crosscoder(activation: str, *, n: int = N, **options: Any) -> Crosscoder:
    draw = torch.Generator().manual_seed(0)
    given = {
        "W_enc": torch.randn(n, D, F, generator=draw),
        "W_dec": torch.randn(n, F, D, generator=draw) * torch.rand(1, F, 1, generator=draw),
        "b_enc": torch.randn(F, generator=draw),
        "b_dec": torch.randn(n, D, generator=draw),
        "norm_scale": 0.5 + torch.rand(n, generator=draw),
    }
    if activation == "jumprelu":
        given["threshold"] = torch.rand(F, generator=draw) * 3
    if activation == "batch_topk":
        given["threshold"] = torch.full((F,), 4.0)
    k = 5 if activation in ("topk", "batch_topk") else None
    return Crosscoder(**given, activation=activation, k=k, **options)


def inputs(n: int = N) -> Tensor:
    return torch.randn(BATCH, n, D, generator=torch.Generator().manual_seed(1))


def same(one: Crosscoder, other: Crosscoder, *, factor: float = 1.0) -> None:
    x = inputs(one.n_snapshots)
    with torch.no_grad():
        a, b = one(x), other(x * factor)
    torch.testing.assert_close(a.x_hat, b.x_hat * (1 / factor), rtol=1e-5, atol=1e-5)
    assert ((a.code > 0) == (b.code > 0)).all()
    assert (a.code > 0).any() and (a.code == 0).any()  # noqa: PT018


def test_crosscoder_learnings_classes_are_given_arguments_that_they_have(tmp_path: Path) -> None:
    known = {"activation_dim", "dict_size", "num_layers", "code_normalization", "k"}  # their classes' own
    for activation in ("relu", "batch_topk"):
        (tmp_path / activation).mkdir()
        format_of("crosscoder_learning").write(crosscoder(activation, score="sum"), tmp_path / activation, ABOUT)
        assert set(json.loads((tmp_path / activation / "config.json").read_text())) <= known


def test_snapshots_with_one_name_keep_their_norms(tmp_path: Path) -> None:
    own = crosscoder("relu")
    format_of("openmoss").write(own, tmp_path, replace(ABOUT, revisions=("main",) * N))
    torch.testing.assert_close(format_of("openmoss").read(tmp_path).norm_scale, own.norm_scale)


def test_a_direction_of_no_length_divides_nothing(tmp_path: Path) -> None:
    own = crosscoder("relu")
    own.W_dec.data[1, 3] = 0
    format_of("openmoss").write(own, tmp_path, ABOUT)
    assert float(load_file(tmp_path / "sae_weights.safetensors")["W_D"].norm(dim=-1).min()) > 0
    same(own, format_of("openmoss").read(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm_activation": "token-wise"}, "norm_activation token-wise differs by batch"),
        ({"hook_points": ["a", "b", "c"]}, "lacks a mean norm"),
    ],
)
def test_a_normalisation_that_is_not_ours_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    format_of("openmoss").write(crosscoder("relu"), tmp_path, ABOUT)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(DictionaryError, match=said):
        format_of("openmoss").read(tmp_path)


def test_an_import_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    format_of("openmoss").write(crosscoder("relu"), tmp_path / "theirs", ABOUT)
    import_dictionary(tmp_path / "theirs", "openmoss", tmp_path / "own")
    with pytest.raises(RunError, match="is not empty"):
        import_dictionary(tmp_path / "theirs", "openmoss", tmp_path / "own")


def test_tokens_that_a_tokenizer_does_not_know_have_a_sign() -> None:
    assert [text_of(["a", "b"], token) for token in (1, 2, 50_303)] == ["b", "�", "�"]


def test_only_the_home_folder_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/an")
    assert without_home("/home/an/text /home/anna '/home/an'") == "~/text /home/anna '~'"
    monkeypatch.setenv("HOME", "/")
    assert without_home("a/b </div>") == "a/b </div>"


@pytest.mark.parametrize(
    ("name", "activation", "options"),
    [
        ("crosscoder_learning", "relu", {}),
        ("crosscoder_learning", "batch_topk", {"score": "sum"}),
        ("crosscoder_learning", "batch_topk", {"score": "l2"}),
        ("crosscoding_through_time", "relu", {}),
        ("crosscoding_through_time", "batch_topk", {"score": "sum"}),
        ("openmoss", "relu", {}),
        ("openmoss", "jumprelu", {"gate": "per_snapshot"}),
    ],
)
def test_crosscoders_come_back_as_they_were(
    name: str, activation: str, options: dict[str, Any], tmp_path: Path
) -> None:
    own = crosscoder(activation, **options)
    FORMATS[name].write(own, tmp_path, ABOUT)
    found = FORMATS[name].read(tmp_path)
    torch.testing.assert_close(found.norm_scale, own.norm_scale)
    same(own, found)


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "batch_topk", "topk"])
@pytest.mark.parametrize("subtracted", [False, True])
def test_saes_in_saelens_files_compute_the_same_on_raw_activations(
    activation: str, subtracted: bool, tmp_path: Path
) -> None:
    own = crosscoder(activation, n=1, apply_b_dec_to_input=subtracted)
    FORMATS["saelens"].write(own, tmp_path, ABOUT)
    config, held = json.loads((tmp_path / "cfg.json").read_text()), load_file(tmp_path / "sae_weights.safetensors")
    assert config["metadata"]["model_from_pretrained_kwargs"] == {"revision": "step1"}
    assert config["metadata"]["hook_name"] == "blocks.2.hook_resid_post"
    raw = inputs(1) / own.norm_scale[:, None]
    expected = own(inputs(1)).x_hat / own.norm_scale[:, None]
    # by hand, as SAELens does
    x = raw[:, 0] - held["b_dec"] if config["apply_b_dec_to_input"] else raw[:, 0]
    pre = x @ held["W_enc"] + held["b_enc"]
    if config["architecture"] == "jumprelu":
        acts = torch.relu(pre) * (pre > held["threshold"])
    elif config["architecture"] == "topk":
        top = pre.topk(config["k"], dim=1)
        acts = torch.zeros_like(pre).scatter(1, top.indices, torch.relu(top.values))
    else:
        acts = torch.relu(pre)
    torch.testing.assert_close((acts @ held["W_dec"] + held["b_dec"])[:, None], expected, rtol=1e-4, atol=1e-5)
    found = FORMATS["saelens"].read(tmp_path)
    torch.testing.assert_close(found(raw).x_hat, expected, rtol=1e-4, atol=1e-5)


def test_the_layouts_are_those_of_the_tools(tmp_path: Path) -> None:
    own = crosscoder("batch_topk", score="sum")
    for name in ("crosscoder_learning", "crosscoding_through_time"):
        (tmp_path / name).mkdir()
        FORMATS[name].write(own, tmp_path / name, ABOUT)
    held = load_file(tmp_path / "crosscoder_learning" / "model.safetensors")
    shapes = {name: list(tensor.shape) for name, tensor in held.items()}
    assert shapes == {
        "encoder.weight": [N, D, F], "encoder.bias": [F], "decoder.weight": [N, F, D], "decoder.bias": [N, D],
        "code_normalization_id": [], "k": [], "threshold": [],
    }  # fmt: skip
    tensors = torch.load(tmp_path / "crosscoding_through_time" / "0.pt", weights_only=True)
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == {
        "W_enc": [N, D, F], "W_dec": [F, N, D], "b_enc": [F], "b_dec": [N, D], "k": [], "threshold": [],
    }  # fmt: skip
    # the code at inference by hand: an output times Σ of its decoder norms is held against one threshold
    x = inputs()
    z = torch.relu(torch.einsum("bnd,ndf->bf", x, tensors["W_enc"]) + tensors["b_enc"])
    code = z * (z * tensors["W_dec"].norm(dim=2).sum(1) > tensors["threshold"])
    torch.testing.assert_close(code, own(x).code, rtol=1e-5, atol=1e-5)
    openmoss = tmp_path / "openmoss"
    openmoss.mkdir()
    gated = crosscoder("jumprelu", gate="per_snapshot")
    FORMATS["openmoss"].write(gated, openmoss, ABOUT)
    held = load_file(openmoss / "sae_weights.safetensors")
    z = (torch.einsum("bnd,ndf->bnf", x, held["W_E"]) + held["b_E"]).sum(1, keepdim=True)
    scaled = z * held["W_D"].norm(dim=2)
    kept = scaled > held["activation_function.log_jumprelu_threshold"].exp()
    torch.testing.assert_close(z * kept, gated(x).code, rtol=1e-5, atol=1e-5)


def test_biases_of_several_snapshots_count_by_their_sum(tmp_path: Path) -> None:
    own = crosscoder("relu")
    FORMATS["openmoss"].write(own, tmp_path, ABOUT)
    held = load_file(tmp_path / "sae_weights.safetensors")
    shares = torch.tensor([0.5, 0.3, 0.2])[:, None]
    save_file(held | {"b_E": shares * own.b_enc.detach()}, tmp_path / "sae_weights.safetensors")
    same(own, FORMATS["openmoss"].read(tmp_path))


class _Harm:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("harmed"),))  # type: ignore[return-value]


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cfg.json").write_text("{}")
    read = FORMATS["crosscoding_through_time"].read
    torch.save({"W_enc": torch.zeros(1), "harm": _Harm()}, tmp_path / "weights.pt")
    with pytest.raises(DictionaryError, match="more than tensors"):
        read(tmp_path)
    (tmp_path / "weights.pt").write_bytes(pickle.dumps(_Harm()))
    with pytest.raises(DictionaryError, match="more than tensors"):
        read(tmp_path)
    torch.save({"W_enc": [1, 2]}, tmp_path / "weights.pt")
    with pytest.raises(DictionaryError, match="something else than tensors"):
        read(tmp_path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("name", "own", "said"),
    [
        ("saelens", crosscoder("relu"), "SAEs of one snapshot, this dictionary has 3"),
        ("crosscoder_learning", crosscoder("topk"), "activation topk: only relu, batch_topk"),
        ("crosscoder_learning", crosscoder("batch_topk", score="max"), "score max: only sum, l2"),
        ("crosscoding_through_time", crosscoder("batch_topk", score="l2"), "score l2: only sum"),
        ("openmoss", crosscoder("batch_topk"), "activation batch_topk: only relu, jumprelu"),
        ("openmoss", crosscoder("jumprelu"), "gate shared: only per_snapshot"),
        ("openmoss", crosscoder("relu", encoder="mean"), "encoder mean: only sum"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(name: str, own: Crosscoder, said: str, tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match=said):
        FORMATS[name].write(own, tmp_path, ABOUT)
    assert not list(tmp_path.iterdir())


def test_files_that_are_missing_or_damaged_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no format 'sealens' \(did you mean saelens\?\)"):
        format_of("sealens")
    for name in FORMATS:
        with pytest.raises(DictionaryError, match=r"is not there|has 0 \.pt files"):
            FORMATS[name].read(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "gated", "metadata": {}}))
    tensors = {"W_enc": torch.zeros(D, F), "W_dec": torch.zeros(F, D), "b_enc": torch.zeros(F)}
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    with pytest.raises(DictionaryError, match="lacks b_dec"):
        FORMATS["saelens"].read(tmp_path)
    save_file({**tensors, "b_dec": torch.zeros(D)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(DictionaryError, match="architecture 'gated'"):
        FORMATS["saelens"].read(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "standard", "activation_fn_str": "topk"}))
    with pytest.raises(DictionaryError, match="before 6"):
        FORMATS["saelens"].read(tmp_path)
    (tmp_path / "sae_weights.safetensors").write_bytes(b"no")
    with pytest.raises(DictionaryError, match="cannot be read as safetensors"):
        FORMATS["saelens"].read(tmp_path)


def test_a_runs_crosscoder_goes_out_and_comes_back(small_run: Run, command: Command, tmp_path: Path) -> None:
    run = small_run.folder
    assert command("export", run, "--to", "crosscoder_learning", "--out", tmp_path / "theirs")[0] == 0
    # the study lets features compete by √Σ strength², which one of them knows and the other does not
    code, said = command("export", run, "--to", "crosscoding_through_time", "--out", tmp_path / "other")
    assert code == 2
    assert "score l2: only sum" in said[0]
    assert not (tmp_path / "other").exists()
    card = (tmp_path / "theirs" / "README.md").read_text(encoding="utf-8")
    assert "batch_topk, k = 8" in card
    assert "step60" in card
    code, _ = command("import", tmp_path / "theirs", "--from", "crosscoder_learning", "--out", tmp_path / "back")
    assert code == 0
    own, found = small_run.dictionary(), load_dictionary(tmp_path / "back")
    assert own.golden_inputs is not None
    torch.testing.assert_close(found(own.golden_inputs).x_hat, own(own.golden_inputs).x_hat, rtol=1e-5, atol=1e-5)


def test_a_slice_is_trained_before_it_goes_out_as_an_sae(small_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run.folder, folder)
    run = Run(folder)
    said = export_dictionary(run, "saelens", tmp_path / "sae", step=60)
    assert "trained from the crosscoder's slice" in said
    sae = FORMATS["saelens"].read(tmp_path / "sae")
    # features keep their numbers: most are nearest to what they started from, of all directions
    alive = torch.from_numpy(~run.features.sort("feature")["dead"].to_numpy()).nonzero()[:, 0]
    rows = (sae.W_dec[0].detach(), run.dictionary().W_dec[-1])
    now, before = (torch.nn.functional.normalize(one, dim=-1)[alive] for one in rows)
    assert ((now @ before.T).argmax(1) == torch.arange(len(alive))).float().mean() > 0.9
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["metadata"]["model_from_pretrained_kwargs"] == {"revision": "step60"}
    assert said.split("; ")[1] == config["metadata"]["note"]
    with pytest.raises(RunError, match="not empty"):
        export_dictionary(run, "saelens", tmp_path / "sae", step=60)


def test_features_go_out_as_neuronpedia_holds_them(small_run: Run, command: Command, tmp_path: Path) -> None:
    code, said = command("export", small_run.folder, "--to", "neuronpedia", "--out", tmp_path / "np")
    assert code == 2
    assert "give --model and --source" in said[0]
    ids = ("--model", "tiny", "--source", "0-mine")
    assert command("export", small_run.folder, "--to", "neuronpedia", *ids, "--out", tmp_path / "np")[0] == 0
    held = {
        kind: [
            json.loads(line)
            for line in gzip.decompress((tmp_path / "np" / kind / "batch-0.jsonl.gz").read_bytes()).splitlines()
        ]
        for kind in ("features", "activations")
    }
    living = small_run.features.filter(~pl.col("dead")).sort("feature")
    assert [int(row["index"]) for row in held["features"]] == living["feature"].to_list()
    texts, last = token_texts(small_run), len(small_run.steps) - 1
    for row in held["features"][:5]:
        assert (row["modelId"], row["layer"], row["hookName"]) == ("tiny", "0-mine", "blocks.0.hook_resid_post")
        own = small_run.table("logit_effects").filter(feature=int(row["index"]), snapshot=last, kind="promoted")
        assert row["pos_str"] == [texts[token] for token in own.sort("rank")["token"]]
        assert row["pos_values"] == pytest.approx(own.sort("rank")["effect"].to_list(), abs=1e-5)
    for row in held["activations"]:
        assert len(row["tokens"]) == len(row["values"])
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
    assert {row["index"] for row in held["activations"]} <= {row["index"] for row in held["features"]}


def test_a_run_is_pushed_to_a_hub_and_pulled_from_it(small_run: Run, serve: Callable[..., Hub], tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    hub = serve()
    home = {"HOME": str(small_run.folder.parent), "HF_TOKEN": "hf_test"}
    done = hub.run("push", small_run.folder, "lab/features", **home)
    assert done.returncode == 0, done.stderr
    held = tmp_path / "hub" / "lab" / "features" / "head1"
    assert (held / "features.parquet").read_bytes() == (small_run.folder / "features.parquet").read_bytes()
    assert "Reconstruction of held-out tokens" in (held / "README.md").read_text(encoding="utf-8")
    assert not (held / "suite").exists()
    assert not list(held.rglob("tokens*"))
    texts = [file for file in held.rglob("*") if file.suffix in (".yaml", ".json", ".html", ".md")]
    assert len(texts) > 4
    assert not [file.name for file in texts if str(small_run.folder.parent) in file.read_text(encoding="utf-8")]
    done = hub.run("pull", "lab/features", "--out", tmp_path / "pulled")
    assert done.returncode == 0, done.stderr
    pulled = Run(tmp_path / "pulled")
    assert pulled.features.equals(small_run.features)
    assert torch.equal(pulled.dictionary().W_dec, small_run.dictionary().W_dec)
    assert token_texts(pulled) == token_texts(small_run)
    pulled.report_path.unlink()
    done = hub.run("report", pulled.folder)
    assert done.returncode == 0, done.stderr
    assert pulled.report_path.is_file()
    shutil.copytree(small_run.folder, tmp_path / "less")
    (tmp_path / "less" / "analyses" / "phases.parquet").unlink()
    done = hub.run("push", tmp_path / "less", "lab/features", **home)
    assert done.returncode == 0, done.stderr
    held = tmp_path / "hub" / "lab" / "features" / "head2"
    assert (held / "analyses" / "emergence.parquet").is_file()
    assert not (held / "analyses" / "phases.parquet").exists()
    done = hub.run("push", tmp_path / "less", "lab/features", "--private", **home)
    assert done.returncode == 2
    assert "is there and public" in done.stderr
    done = hub.run("pull", "lab/nothing", "--out", tmp_path / "other")
    assert done.returncode == 2
    assert "the hub has no repository lab/nothing" in done.stderr
    assert not (tmp_path / "other").exists()
    done = hub.run("pull", "lab/features", "--out", tmp_path / "pulled")
    assert done.returncode == 2
    assert "is not empty" in done.stderr


def test_expansion_factors_come_back_as_the_number_of_features() -> None:
    for d_model in (96, 768, 1000, 2304):
        for n_features in range(1, 4000, 7):
            assert int(d_model * expansion_factor(n_features, d_model)) == n_features
