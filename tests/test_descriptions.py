"""Descriptions of features by a scripted model behind a local endpoint, and how they are scored."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from endpoint_server import Endpoint as Server
from ontogeny.config.analysis import EndpointConfig
from ontogeny.config.study import load_study
from ontogeny.corpus.pack import Corpus
from ontogeny.endpoint import Endpoint
from ontogeny.features.describe import (
    Detection,
    description_question,
    detection_question,
    marked_text,
    passages_of,
)
from ontogeny.features.labels import labels, token_texts
from ontogeny.features.reading import marked_examples
from ontogeny.run import Run
from ontogeny.study import run_study

CONCEPTS = ("harbour", "violin", "Tuesday", "glacier")


def script(number: int, messages: list[dict[str, str]]) -> str:
    """Describes by the word that is marked most often, and takes for fitting whatever holds the described word."""
    asked = messages[1]["content"]
    if not asked.startswith("Description: "):
        marked = Counter(re.findall(r"«([^»]*)»", asked))
        return json.dumps({"description": f"says {marked.most_common(1)[0][0]}"})
    said, *lines = asked.splitlines()
    word = said.split(" ")[2] if len(said.split(" ")) > 2 else ""
    excerpts = [line for line in lines if re.match(r"\d+\. ", line)]
    fit = [place for place, line in enumerate(excerpts, 1) if word and word in line]
    return "It is this: " + json.dumps({"fit": fit})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server(script)
    yield running
    running.shutdown()
    running.server_close()


def endpoint_of(server: Server) -> EndpointConfig:
    return EndpointConfig(url=server.url, model="scripted", key_variable=None, options={"max_tokens": 50})


def test_planted_concepts_are_described_and_scored_right_and_wrong_descriptions_at_chance(
    server: Server, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    told, active = {}, {}
    silent = [" ".join(draw.choice(["plain", "word", "of", "any", "text"], 8)) for _ in range(10)]
    for word in CONCEPTS:
        told[word] = [f"the «{word}» in line {number}" for number in range(5)]
        active[word] = [f"another {word} stands here {number}" for number in range(10)]
    with Endpoint(endpoint_of(server), tmp_path / "replies.sqlite") as endpoint:
        said = endpoint.ask([description_question(told[word]) for word in CONCEPTS], name="describe")
        assert said == [f"says {word}" for word in CONCEPTS]

        def scored(said: tuple[str, ...]) -> list[Detection | None]:
            pairs = zip(said, CONCEPTS, strict=True)
            return endpoint.ask([detection_question(one, active[word], silent) for one, word in pairs], name="detect")

        assert scored(tuple(f"says {word}" for word in CONCEPTS)) == [Detection(1.0, 1.0, 20)] * len(CONCEPTS)
        others = scored(tuple(f"says {word}" for word in (*CONCEPTS[1:], CONCEPTS[0])))
        assert [one.accuracy for one in others if one] == [0.5] * len(CONCEPTS)


def test_a_guess_is_right_half_of_the_time_whatever_its_bias() -> None:
    draw = np.random.default_rng(1)
    question = detection_question("anything", [f"a{n}" for n in range(10)], [f"s{n}" for n in range(10)])
    for share in (0.1, 0.5, 0.9):
        guesses = [
            question.read(json.dumps({"fit": (np.flatnonzero(draw.random(20) < share) + 1).tolist()})).accuracy
            for _ in range(400)
        ]
        assert np.mean(guesses) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("reply", ['{"fit": [0]}', '{"fit": [3]}', '{"fit": "1"}', '{"fit": [true]}', "none", "{}"])
def test_replies_of_the_wrong_form_are_refused(reply: str) -> None:
    with pytest.raises(ValueError, match=r"fit|no JSON"):
        detection_question("x", ["a"], ["b"]).read(reply)
    with pytest.raises(ValueError, match="description"):
        description_question(["«a»"]).read('{"description": " "}')


@pytest.fixture(scope="module")
def described_run(small_run: Run, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("described") / "run"
    shutil.copytree(small_run.folder, folder)
    study = load_study(folder / "study.yaml")
    asked = {"endpoint": endpoint_of(server), "described_features": 30, "detection_items": 4}
    analyses = [*study.analyses, "descriptions"]
    study = study.model_copy(update={"analyses": analyses, "analysis": study.analysis.model_copy(update=asked)})
    return run_study(study, out=folder, say=lambda line: None)


def test_what_a_description_is_scored_by_is_not_what_it_was_made_from(small_run: Run) -> None:
    features = small_run.features.filter(~pl.col("dead"))["feature"].head(12).to_list()
    corpus, codes = Corpus(small_run.corpus_folder / "held_out"), small_run.table("codes")
    length = small_run.study.measure.context_before + 1 + small_run.study.measure.context_after
    passages = passages_of(small_run, features, told=3, items=4)
    # a single feature may have no passage to spare at the first snapshot
    assert {snapshot for found in passages.values() for snapshot in found.active} == {None, 0, 1, 2, 3}
    for feature, found in passages.items():
        assert found.told
        assert None in found.active
        plain = {" ".join(one.replace("«", "").replace("»", "").split()) for one in found.told}
        for texts in found.active.values():
            assert not plain & set(texts)
        fires = codes.filter(pl.col("feature") == feature, pl.col("code") > 0).select("sequence", "position")
        active = set(fires.iter_rows())
        quiet = set()
        for sequence in codes["sequence"].unique():
            usable = int(corpus.lengths[sequence])
            for start in range(1, usable):
                places = range(start, min(start + length, usable))
                if not any((sequence, place) in active for place in places):
                    tokens = corpus.tokens[sequence, places.start : places.stop].tolist()
                    quiet.add(" ".join(corpus.tokenizer.decode(tokens, skip_special_tokens=True).split()))
        assert set(found.silent) <= quiet
        assert found.silent


def test_a_study_describes_and_scores_features_and_the_report_shows_it(described_run: Run) -> None:
    table = described_run.table("descriptions")
    living = described_run.features.filter(~pl.col("dead"))
    assert len(table) == len(living)
    assert table["label"].is_not_null().all()
    said = table.drop_nulls("description")
    assert 20 <= len(said) <= 30
    assert said["description"].str.starts_with("says").all()
    assert said["model"].unique().to_list() == ["scripted"]
    scored = described_run.table("detection")
    assert set(scored["by"]) == {"code", "snapshot"}
    assert set(scored["feature"]) <= set(said["feature"])
    assert scored["accuracy"].to_numpy() == pytest.approx(
        (scored["sensitivity"].to_numpy() + scored["specificity"].to_numpy()) / 2
    )
    over = described_run.table("detection_snapshots")
    at = over.filter(snapshot=3, alive=True).row(0, named=True)
    strong = described_run.trajectories.filter(snapshot=3).filter(pl.col("strength_relative") >= 0.5)["feature"]
    own = scored.filter(pl.col("by") == "snapshot", pl.col("snapshot") == 3, pl.col("feature").is_in(strong.to_list()))
    assert at["features"] == len(own)
    assert at["accuracy"] == pytest.approx(own["accuracy"].mean())
    assert at["accuracy_ci_low"] <= at["accuracy"] <= at["accuracy_ci_high"]
    report = described_run.report_path.read_text(encoding="utf-8")
    assert 'data-spec="detection"' in report
    assert "A language model described" in report


def test_without_an_endpoint_features_have_labels(small_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run.folder, folder)
    study = load_study(folder / "study.yaml").model_copy(update={"analyses": ["descriptions"]})
    run = run_study(study, out=folder, say=lambda line: None)
    table = run.table("descriptions")
    assert table["label"].is_not_null().all()
    assert table["description"].is_null().all()
    assert len(run.table("detection")) == len(run.table("detection_snapshots")) == 0
    assert 'data-spec="detection"' not in run.report_path.read_text(encoding="utf-8")


def test_labels_are_the_tokens_at_the_peaks_most_frequent_first(small_run: Run) -> None:
    texts = token_texts(small_run)
    named = dict(labels(small_run, texts).iter_rows())
    feature = int(small_run.features.filter(~pl.col("dead"))["feature"][7])
    rows = small_run.examples.filter(pl.col("feature") == feature, pl.col("kind") == "top", pl.col("rank") < 10)
    peaks = [row["tokens"][row["position"] - row["first_position"]] for row in rows.sort("rank").to_dicts()]
    counts = Counter(peaks)
    first = min(counts, key=lambda token: (-counts[token], peaks.index(token)))
    assert named[feature].split(" ")[0] == (texts[first].strip() or "␣")


def test_of_a_series_it_is_the_last_snapshots_own_examples_that_are_told(small_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run.folder, folder)
    run = Run(folder)
    study = run.study
    dictionary = study.dictionary.model_copy(update={"kind": "sae_series"})
    analysis = study.analysis.model_copy(update={"independent_start": False})
    run.prepare(study.model_copy(update={"dictionary": dictionary, "analysis": analysis}))
    features = run.features.filter(~pl.col("dead"))["feature"].head(12).to_list()
    corpus, last = Corpus(run.corpus_folder / "held_out"), len(run.steps) - 1
    own = run.examples.filter(pl.col("kind") == "own", pl.col("snapshot") == last)
    for feature, found in passages_of(run, features, told=3, items=4).items():
        leading = own.filter(feature=feature).sort("rank").gather_every(2).head(3)
        marked = [marked_text(corpus.tokenizer, *row) for row in leading.select("tokens", "activations").iter_rows()]
        assert found.told == marked
        assert set(found.active) <= {0, 1, 2, 3}
        assert marked_examples(run, [feature], count=6)[feature][: len(marked)]
        assert set(marked) <= set(marked_examples(run, [feature], count=20)[feature])
