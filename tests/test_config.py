"""Study files: what is read, and what is said of mistakes."""

from pathlib import Path

import pytest
import yaml

from ontogeny.config.learner import SAESeriesConfig
from ontogeny.config.presets import preset, presets
from ontogeny.config.settings import fingerprint, parse
from ontogeny.config.study import dump_study, load_study
from ontogeny.errors import ConfigError
from ontogeny.preflight import check_study
from ontogeny.run import Run
from ontogeny.study import changes

STUDIES = Path(__file__).parents[1] / "studies"
STUDY = {
    "name": "s",
    "suite": {"pretrain": {"steps": 20}},
    "corpus": {"files": "*.jsonl"},
    "hookpoint": "resid_post.2",
}


def write(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes))
    return path


def test_a_resolved_study_reads_back_as_itself(tmp_path: Path) -> None:
    study = load_study(write(tmp_path))
    (tmp_path / "resolved.yaml").write_text(dump_study(study))
    assert load_study(tmp_path / "resolved.yaml") == study
    assert load_study(tmp_path / "resolved.yaml").train.steps == 5_000_000 // 2048


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dictionary": {"n_featurs": 5}},
            r"unknown setting 'n_featurs' in DictionaryConfig \(did you mean n_features\?\)",
        ),
        ({"analysis_": {}}, r"unknown setting 'analysis_' in StudyConfig \(did you mean analysis\?\)"),
        ({"dictionary": {"n_features": -1}}, r"dictionary\.n_features = -1"),
        ({"dictionary": {"n_features": 8, "k": 9}}, r"batch_topk needs k in 1\.\.n_features = 8, found 9"),
        ({"dictionary": {"activation": "rele"}}, r"dictionary\.activation = 'rele'"),
        ({"suite": {}}, "give one of `folder`, `repo` and `pretrain`"),
        ({"hookpoint": "somewhere"}, "no hookpoint 'somewhere': expected resid_post, .* and a layer: resid_post.2"),
        ({"sweep": {"hookpoints": ["blocks.1.hook_resid_post"]}}, "no hookpoint 'blocks.1.hook_resid_post'"),
        ({"name": "a/b"}, "name: 'a/b' is to name a folder: letters, digits"),
        ({"train": {"tokens": 100, "batch_size": 200}}, "train.batch_size: 200 is more than train.tokens, 100"),
        ({"train": {"tokens": True}}, "tokens is to be no true: give a value"),
        ({"train": {"warmup": 0.9, "decay": 0.9}}, "warmup 0.9 and decay 0.9 are more than all the steps"),
        ({"train": {"k_start": 5000}}, r"k_start needs to lie in 1..n_features = 4096, found 5000"),
        ({"suite": {"pretrain": {}, "steps": []}}, "steps: an empty list studies no snapshot"),
        ({"series": {"direction": "reverse"}}, "leave out series: it is for an SAE series"),
        (
            {"dictionary": {"kind": "sae_series"}, "series": {"next_tokens": [5000, 100]}},
            r"series.next_tokens: 100 is less than a batch, train.batch_size 2,048",
        ),
        (
            {"analyses": ["pareto"], "analysis": {"pareto_features": [10], "pareto_k": [100]}},
            r"analysis.pareto_k: 100 are more than the features of a dictionary, 10 \(analysis.pareto_features\)",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_study(write(tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "study.yaml") in str(caught.value)


def test_a_setting_given_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + "train: {tokens: 8000}\ntrain: {seed: 3}\n")
    lines = path.read_text().splitlines()
    with pytest.raises(ConfigError, match=f"'train' is given twice, in lines {len(lines) - 1} and {len(lines)}: merge"):
        load_study(path)
    path.write_text("corpus: {files: a, files: b}\n")
    with pytest.raises(ConfigError, match="'files' is given twice, in lines 1 and 1: merge them"):
        load_study(path)


@pytest.mark.parametrize("written", ["1e6", "1E6", "1.0e+6", "1_000_000"])
def test_numbers_of_tokens_may_be_written_with_an_exponent(tmp_path: Path, written: str) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + f"train: {{tokens: {written}, learning_rate: 3e-4}}\n", encoding="utf-8-sig")
    study = load_study(path)
    assert study.train.tokens == 1_000_000
    assert study.train.learning_rate == 3e-4


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_projects_own_studies_load_and_are_called_as_their_files(path: Path) -> None:
    assert load_study(path).name == path.stem


def test_a_missing_setting_file_or_yaml_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: s\n")
    with pytest.raises(ConfigError, match="setting 'suite' is missing"):
        load_study(tmp_path / "study.yaml")
    with pytest.raises(ConfigError, match=r"no study file .*absent\.yaml"):
        load_study(tmp_path / "absent.yaml")
    (tmp_path / "study.yaml").write_text("name: [s\n")
    with pytest.raises(ConfigError, match="not readable as YAML") as caught:
        load_study(tmp_path / "study.yaml")
    assert "\n" not in str(caught.value)


def test_relative_paths_start_at_the_working_directory_then_at_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jsonl").touch()
    (tmp_path / "elsewhere").mkdir()
    study = write(tmp_path, corpus={"files": ["text/*.jsonl", "pydocs"]})
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_study(study).corpus.patterns == [str(tmp_path / "text" / "*.jsonl"), "pydocs"]
    (tmp_path / "elsewhere" / "text").mkdir()
    (tmp_path / "elsewhere" / "text" / "b.jsonl").touch()
    assert load_study(study).corpus.patterns[0] == str(tmp_path / "elsewhere" / "text" / "*.jsonl")


def test_every_form_of_a_setting_is_named_and_no_other_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.store_gb = 'autoo': .*valid number.*; or: Input should be 'auto'$"):
        load_study(write(tmp_path, train={"store_gb": "autoo"}))
    with pytest.raises(ConfigError, match=r"train\.tokens = -1: Input should be greater than 0$"):
        load_study(write(tmp_path, train={"tokens": -1, "batch_size": -1}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dictionary": {"kind": "sae_series"}, "train": {"store_gb": 1}}, "leave out train.store_gb"),
        ({"dictionary": {"kind": "sae_series"}, "analysis": {"independent_start": True}}, "leave out analysis.indep"),
        ({"dictionary": {"kind": "sae_series"}, "truth": {}}, "leave out truth"),
        ({"train": {"seed": 2}, "truth": {}}, "truth.seeds: 2 is the study's own seed"),
        ({"analyses": ["tracking"]}, "leave out the analysis tracking: it is for an SAE series"),
        (
            {"dictionary": {"kind": "sae_series", "activation": "jumprelu", "gate": "per_snapshot"}},
            "in a series each SAE has its own",
        ),
    ],
)
def test_what_a_series_does_not_take_is_said(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write(tmp_path, **changes))


def test_unknown_analyses_are_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    study = load_study(write(tmp_path, analyses=["emergense"], corpus={"files": str(tmp_path / "*.jsonl")}))
    with pytest.raises(ConfigError, match=r"no analysis 'emergense' \(did you mean emergence\?\)"):
        check_study(study, {"report"})


def test_the_snapshot_schedule_holds_zero_powers_of_two_and_the_last_step(tmp_path: Path) -> None:
    study = load_study(write(tmp_path))
    assert study.suite.pretrain is not None
    assert study.suite.pretrain.schedule == [0, 1, 2, 4, 8, 16, 20]


def test_fingerprints_change_with_any_setting(tmp_path: Path) -> None:
    study = load_study(write(tmp_path))
    other = load_study(write(tmp_path, train={"seed": 1}))
    assert fingerprint(study) == fingerprint(load_study(write(tmp_path)))
    assert fingerprint(study) != fingerprint(other)


def test_presets_load_and_unknown_ones_are_named() -> None:
    assert preset("demo").name == "demo"
    with pytest.raises(ConfigError, match="no preset 'dmo' \\(did you mean demo\\?\\)"):
        preset("dmo")


def test_the_preset_of_sae_track_has_the_published_schedule() -> None:
    study = preset("sae-track-pythia-410m")
    pythia = [0, *(2**n for n in range(10)), *range(1000, 144_000, 1000)]
    assert len(pythia) == 154
    chosen = [*range(12), *range(13, 33, 2), *range(33, 154, 20)]
    assert study.suite.asked_steps == [pythia[place] for place in chosen]
    steps, n = study.sae_series, len(chosen)
    tokens = [steps.steps_of(steps.gap_of(place, n)) * study.train.batch_size for place in range(n)]
    assert sum(tokens) == pytest.approx(300e6 + 4 * 5e6 + 24 * 15e6, rel=1e-3)


def test_the_presets_of_evolution_of_concepts_say_what_the_paper_says() -> None:
    small, large = preset("pythia-160m"), preset("pythia-6.9b")
    for study in (small, large):
        steps = study.suite.asked_steps
        assert steps is not None
        assert steps[:3] + steps[8:12] + steps[-2:] == [0, 2, 4, 256, 512, 1000, 2000, 127_000, 143_000]
        assert (len(steps), study.train.tokens, study.train.batch_size) == (32, 800_000_000, 2048)
        assert (study.corpus.sequence_length, study.dictionary.sparsity_weight) == (2048, pytest.approx(0.3 * 32))
        assert (study.dictionary.activation, study.dictionary.gate) == ("jumprelu", "per_snapshot")
    assert (small.hookpoint, small.dictionary.n_features, small.train.learning_rate) == ("resid_post.6", 98_304, 5e-5)
    assert (large.hookpoint, large.dictionary.n_features, large.train.learning_rate) == ("resid_post.16", 32_768, 1e-5)
    assert (small.train.threshold_learning_rate, large.train.threshold_learning_rate) == (0.1, 0.3)


def test_every_preset_is_a_study() -> None:
    for name in presets():
        assert preset(name).name == name
    ctt = preset("ctt-pythia-1b")
    assert ctt.train.steps * ctt.train.batch_size == pytest.approx(400e6, rel=1e-4)
    assert ctt.attribution is not None
    papers = ["ctt-bloom-1b1", "ctt-olmo-1b", "ctt-pythia-1b", "pythia-160m", "pythia-6.9b", "sae-track-pythia-410m"]
    assert presets() == sorted([*papers, "demo"])


def test_a_series_takes_one_number_for_a_list_of_one(tmp_path: Path) -> None:
    series = {"next_tokens": 5000, "next_learning_rate": 0.5, "next_aux_weight": 2, "next_aux_reach": 0.1}
    one = load_study(write(tmp_path, dictionary={"kind": "sae_series"}, series=series))
    listed = {name: [value] for name, value in series.items()}
    assert one == load_study(write(tmp_path, dictionary={"kind": "sae_series"}, series=listed))
    assert one.series.next_tokens == [5000]


def test_later_saes_of_a_series_may_pull_harder_at_dead_features_than_the_first() -> None:
    config = SAESeriesConfig(n_features=8, k=2, next_aux_weight=8, next_aux_reach=0.3)
    assert [(config.of_sae(gap).aux_weight, config.of_sae(gap).aux_reach) for gap in (None, 0, 1)] == [
        (1.0, 0.02), (8.0, 0.3), (8.0, 0.3),
    ]  # fmt: skip
    plain = SAESeriesConfig(n_features=8, k=2)
    assert plain.of_sae(None) == plain.of_sae(0).model_copy(update={"steps": plain.steps_of(None)})


def test_a_series_takes_its_settings_by_gaps_between_snapshots_in_either_direction() -> None:
    settings = {"steps": [100, 7, 9], "next_learning_rate": [0.5, 0.3, 0.2], "next_aux_weight": [4, 6]}
    forward, reverse = (
        SAESeriesConfig(n_features=8, k=2, direction=direction, **settings) for direction in ("forward", "reverse")
    )
    assert [forward.gap_of(place, 4) for place in range(4)] == [None, 0, 1, 2]
    assert [reverse.gap_of(place, 4) for place in range(4)] == [0, 1, 2, None]
    assert [forward.steps_of(gap) for gap in (None, 0, 1, 2)] == [100, 7, 9, 9]
    assert [forward.rate_over(gap) for gap in range(4)] == [0.5, 0.3, 0.2, 0.2]
    assert [forward.of_sae(gap).aux_weight for gap in (None, 0, 1, 2)] == [1, 4, 6, 6]
    with pytest.raises(ConfigError, match="next_learning_rate"):
        parse(SAESeriesConfig, {"next_learning_rate": [0.5, 0]}, where="series")
    with pytest.raises(ConfigError, match="next_aux_reach"):
        parse(SAESeriesConfig, {"next_aux_reach": []}, where="series")


def test_settings_that_a_run_cannot_be_read_by_any_more_are_told(tmp_path: Path) -> None:
    study = load_study(write(tmp_path))
    run = Run(tmp_path)
    assert changes(run, study) == []
    assert changes(run, study.model_copy(update={"name": "other"})) == ["settings changed: name s → other"]
    write(tmp_path, corpora={"files": "*.jsonl"})
    assert changes(run, study)[0].startswith("settings changed; the ones before are no longer settings of a study")
