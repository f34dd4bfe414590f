"""The app's server: what it answers of real runs, what it refuses, and what it makes of damaged ones."""

import base64
import csv
import http.client
import io
import json
import random
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
import polars as pl
import pytest

from app_server import App, copy_of, serving
from ontogeny.app.compare import _births
from ontogeny.app.rows import Rows
from ontogeny.app.site import write_site
from ontogeny.app.view import View
from ontogeny.errors import RunError
from ontogeny.run import Run, runs_in
from ontogeny.study import run_study
from ontogeny.tables import FILES


@pytest.fixture(scope="module")
def app(task_run: Run, small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("app")
    for name, run in (("tasks", task_run), ("small", small_run)):
        (folder / name).symlink_to(run.folder)
    shutil.copytree(task_run.folder, folder / "copied")
    with serving(folder / "copied", small_run.folder) as app:
        yield app


def numbers(answer: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(answer["data"]), dtype="<f4")


def test_rows_are_filtered_and_sorted_as_the_tables_say(app: App, task_run: Run) -> None:
    features = task_run.features
    found = app.get(
        "api/runs/copied/rows", filter=["density:ge:0.05", "dead:eq:false"], sort="density", descending=True, limit=7
    )
    kept = features.filter(pl.col("density") >= 0.05, ~pl.col("dead")).sort(
        ["density", "feature"], descending=[True, False]
    )
    assert found["total"] == len(kept)
    assert [row["feature"] for row in found["rows"]] == kept["feature"].head(7).to_list()
    between = app.get("api/runs/copied/rows", filter=["birth_step:ge:0.5"])["total"]
    assert between == int((features["birth_step"] >= 0.5).sum())
    last = len(task_run.steps) - 1
    strongest = task_run.effects.filter(snapshot=last).group_by("feature").agg(pl.col("effect").abs().max())
    sizes = {row["feature"]: row["effect"] for row in strongest.to_dicts()}
    every = app.get("api/runs/copied/rows", limit=500)["rows"]
    assert {row["feature"]: abs(row["effect"]) for row in every if row["effect"] is not None} == pytest.approx(sizes)
    assert all(row["fires_on"] for row in every if not row["dead"])


def test_columns_masks_and_heat_maps_are_those_of_the_tables(app: App, task_run: Run) -> None:
    features = task_run.features.sort("feature")
    found = app.get("api/runs/copied/values", name=["density", "fate", "map_1", "map_2"])
    assert numbers(found["density"]) == pytest.approx(features["density"].to_numpy())
    codes = np.frombuffer(base64.b64decode(found["fate"]["data"]), dtype=np.uint8)
    words = [None if code == 255 else found["fate"]["labels"][code] for code in codes]
    assert words == features["fate"].to_list()
    directions = task_run.dictionary().W_dec.detach().numpy()[-1]
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    centred = unit - unit.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    for place, name in enumerate(("map_1", "map_2")):
        assert np.abs(numbers(found[name])) == pytest.approx(np.abs(centred @ axes[place]), abs=1e-4)
    bits = np.frombuffer(
        base64.b64decode(app.get("api/runs/copied/mask", filter="fate:eq:transient")["data"]), np.uint8
    )
    held = np.unpackbits(bits, bitorder="little")[: len(features)].astype(bool)
    assert held.tolist() == (features["fate"] == "transient").fill_null(False).to_list()
    heat = app.get("api/runs/copied/heat", sort="feature", rows=10)
    drawn = np.frombuffer(base64.b64decode(heat["data"]), np.uint8).reshape(10, -1)
    relative = task_run.matrix("strength_relative")
    edges = np.linspace(0, len(features), 11).astype(int)
    expected = [relative[:, a:b].mean(1) * 255 for a, b in pairwise(edges)]
    assert heat["features"] == edges[:-1].tolist()
    assert np.abs(drawn - np.asarray(expected)).max() <= 1


def test_a_features_page_holds_what_the_tables_hold(app: App, task_run: Run) -> None:
    living = task_run.features.filter(~pl.col("dead"))["feature"][5]
    page = app.get(f"api/runs/copied/features/{living}")
    alone = app.get(f"api/runs/copied/features/{living}", section="examples")
    assert alone == {name: page[name] for name in ("feature", "row", "steps", "missing", "examples")}
    assert page["missing"] == {}
    own = task_run.trajectories.filter(feature=living).sort("snapshot")
    assert [row["strength"] for row in page["trajectory"]] == pytest.approx(own["strength"].to_list())
    assert len(page["examples"]) == len(task_run.examples.filter(feature=living))
    assert all(len(one["texts"]) == len(one["activations"]) for one in page["examples"])
    assert {row["task"] for row in page["effects"]} <= {"simple", "pp"}
    directions = task_run.dictionary().W_dec.detach().numpy()
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    assert page["cosine_last"] == pytest.approx((unit[:, living] @ unit[-1, living]).tolist(), abs=1e-4)
    cosines = np.abs(unit[-1] @ unit[-1, living])
    cosines[living] = -1
    assert page["neighbours"][0]["feature"] == int(cosines.argmax())


def test_tables_and_figures_can_be_taken_away(app: App, task_run: Run) -> None:
    with urllib.request.urlopen(app.url("api/runs/copied/tables/features", format="csv")) as answer:
        assert "attachment" in answer.headers["Content-Disposition"]
        rows = list(csv.DictReader(io.StringIO(answer.read().decode())))
    assert [int(row["feature"]) for row in rows] == task_run.features["feature"].to_list()
    with urllib.request.urlopen(app.url("api/runs/copied/tables/examples", format="csv")) as answer:
        examples = list(csv.DictReader(io.StringIO(answer.read().decode())))
    assert json.loads(examples[0]["tokens"]) == task_run.examples["tokens"][0].to_list()
    with urllib.request.urlopen(app.url("api/runs/copied/tables/features", format="parquet")) as answer:
        assert pl.read_parquet(answer.read()).equals(task_run.features)
    for kind, start in (("svg", b"<svg"), ("png", b"\x89PNG")):
        with urllib.request.urlopen(app.url("api/runs/copied/figures/quality", format=kind)) as answer:
            assert answer.read().startswith(start)


def test_the_story_and_every_figure_are_the_reports(app: App, task_run: Run) -> None:
    from ontogeny.report.figures import drawn
    from ontogeny.report.sentences import summary

    about = app.get("api/runs/copied")
    assert about["missing"] == {}
    offered = {one for group in about["figures"] for one in group["figures"]} | set(about["tasks"])
    assert offered == set(drawn(task_run)) - {"strengths"}  # the timeline draws that
    told = [one["text"] for one in app.get("api/runs/copied/sentences")["sentences"]]
    assert told == [one.text for one in summary(task_run)]


def test_two_runs_are_matched_by_directions(app: App, task_run: Run) -> None:
    found = app.get("api/compare", a="copied", b="run")
    living = int((~task_run.features["dead"]).sum())
    assert found["problem"] is None
    assert [level["matched"] for level in found["matched"]["levels"]] == [1, 1]
    assert [level["features"] for level in found["matched"]["levels"]] == [living, living]
    assert all(pair["feature"] == pair["other"] for pair in found["matched"]["pairs"])
    assert found["matched"]["by"] == "cosine"


def test_only_births_in_training_are_counted_as_such() -> None:
    births = [(0, "initial"), (0, "initial"), (4, "emergent"), (8, "emergent"), (8, "unstable")]
    rows = [{"birth_step": step, "origin": origin} for step, origin in births]
    view = View.__new__(View)
    view.rows, view.run = SimpleNamespace(query=lambda *_: rows), SimpleNamespace(steps=[0, 4, 6, 8])  # type: ignore[assignment]
    assert [one["step"] for one in _births(view)] == [0, 4, 6, 8]
    assert [one["share"] for one in _births(view)] == pytest.approx([0, 0.2, 0.2, 0.4])


def test_comparison_has_births_at_every_snapshot(app: App, task_run: Run) -> None:
    found = app.get("api/compare", a="copied", b="run")
    assert [[one["step"] for one in births] for births in found["births"]] == [task_run.steps] * 2


def test_a_folder_of_runs_stands_for_all_of_them(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}", encoding="utf-8")
    assert runs_in(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert runs_in(tmp_path / "a") == [tmp_path / "a"]
    assert runs_in(tmp_path / "none") == [tmp_path / "none"]


def test_a_text_is_read_as_the_models_and_the_dictionary_do(app: App, task_run: Run) -> None:
    import torch

    from ontogeny.activations.harvest import harvester_of
    from ontogeny.corpus.tokenizer import load_tokenizer, start_token

    text = "the list of values returns an item"
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(app.url("api/runs/copied/text"), body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        found = json.load(answer)
    assert "".join(found["tokens"]) == text
    tokenizer, dictionary = load_tokenizer(task_run.corpus_folder / "tokenizer"), task_run.dictionary()
    ids = [start_token(tokenizer), *tokenizer(text)["input_ids"]]
    with torch.no_grad():
        x = harvester_of(task_run).read_all([torch.tensor([ids])])[0][0, 1:]
        code = dictionary.encode(x * dictionary.norm_scale[:, None])
    size = code[:, None] * dictionary.strength()
    for snapshot in range(len(task_run.steps)):
        for token in range(len(ids) - 1):
            leading = found["leading"][snapshot][token]
            assert [place for place, _ in leading][:1] == ([int(size[token, snapshot].argmax())] if leading else [])


# what is refused


def answered(app: App, method: str, target: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
    place = urlsplit(app.base)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


NASTY = (
    "../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/", "/etc/passwd", "....//", "\\..\\..", "%00", "\x00",
    "'; DROP TABLE features; --", '" OR 1=1 --', "feature\"", "<script>alert(1)</script>", "ü漢字🙂", "-1", "1e999",
    "nan", "", "999999999999999999999", "null", "a" * 250, "features.parquet", "file:///etc/passwd", "true:eq", ":::",
    "density:has:%",
)  # fmt: skip


def test_thousands_of_requests_from_the_schema_bring_no_failure_and_no_file(
    app: App, task_run: Run, tmp_path: Path
) -> None:
    schema = app.get("api/openapi.json")
    operations = [(path, method, one) for path, ways in schema["paths"].items() for method, one in ways.items()]
    assert len(operations) >= 14
    chance = random.Random(0)
    known = {
        "run": ["copied", "run"], "name": ["births", "quality", "density", "fate"], "table": ["features", "quality"],
        "sort": ["feature", "density", "fate"], "filter": ["density:ge:0.01", "fate:eq:persistent", "fires_on:has:a"],
        "feature": ["0", "5", "95", "96"], "a": ["copied"], "b": ["run"], "format": ["csv", "json"], "limit": ["3"],
        "rows": ["5", "2000"], "offset": ["0", "7"], "descending": ["true", "false"],
    }  # fmt: skip
    statuses: dict[int, int] = {}
    for _ in range(2200):
        path, method, one = chance.choice(operations)
        query: list[tuple[str, str]] = []
        for parameter in one.get("parameters", []):
            name = parameter["name"]
            value = chance.choice(known.get(name, ["1"])) if chance.random() < 0.7 else chance.choice(NASTY)
            if parameter["in"] == "path":
                path = path.replace("{" + name + "}", quote(value, safe="%" if chance.random() < 0.5 else "/%."))
            elif chance.random() < 0.7:
                query += [(name, value)] * chance.choice([1, 1, 1, 2, 30])
        if path.endswith("/text") and chance.random() < 0.9:
            path = "/api/runs/nobody/text"
        body = json.dumps({"text": chance.choice(NASTY)}).encode() if method == "post" else None
        if body is not None and chance.random() < 0.3:
            body = chance.choice([b"{", b"[]", b'{"text": 3}', b"\xff\xfe", b"{}"])
        target = (path if path.startswith("/") else "/" + path) + ("?" + urlencode(query) if query else "")
        if any(ord(letter) < 33 for letter in target):
            continue
        status, content, headers = answered(app, method.upper(), target, body, **{"Content-Type": "application/json"})
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500, (method, target, body, content[:300])
        assert b"root:" not in content
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert sum(statuses.values()) >= 2000
    assert statuses[200] > 300
    assert statuses[404] > 100


@pytest.mark.parametrize(
    "path",
    ["../study.yaml", "..%2fstudy.yaml", "%2e%2e/%2e%2e/etc/passwd", "assets/../../view.py", "server.py", "/etc/passwd",
     "api/runs/copied/tables/../../../study.yaml", "api/runs/..", "api/runs/copied%2f..%2frun"],
)  # fmt: skip
def test_no_path_leaves_the_run(app: App, path: str) -> None:
    status, content, _ = answered(app, "GET", "/" + path)
    assert status in (404, 422), content[:200]
    assert b"hookpoint" not in content
    assert b"import" not in content


def test_what_is_too_large_is_refused_at_once(app: App) -> None:
    kind = {"Content-Type": "application/json"}
    assert answered(app, "POST", "/api/runs/run/text", b"x" * 20_000, **kind)[0] == 413
    assert answered(app, "GET", "/api/runs/run/rows?sort=" + "a" * 20_000)[0] in (400, 414)
    assert answered(app, "GET", "/api/runs/run/rows?limit=100000")[0] == 422
    assert answered(app, "POST", "/api/runs/run/text", json.dumps({"text": "a" * 2500}).encode(), **kind)[0] == 422
    other = {**kind, "Sec-Fetch-Site": "cross-site"}
    assert answered(app, "POST", "/api/runs/run/text", b'{"text": "a"}', **other)[0] == 403


def test_names_that_lead_here_from_elsewhere_are_refused(app: App) -> None:
    assert answered(app, "GET", "/api/runs", Host="evil.example")[0] == 403
    assert answered(app, "GET", "/api/runs", Host="localhost:1")[0] == 200


def test_other_addresses_than_this_machine_need_the_token(small_run: Run) -> None:
    with serving(small_run.folder, "--host", "0.0.0.0") as app:
        assert len(app.token) > 16
        base = app.base.replace("0.0.0.0", "127.0.0.1")
        open_app = App(f"{base}?token={app.token}")
        assert open_app.get("api/runs")[0]["id"] == "run"
        for given in ("", "?token=wrong"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{base}api/runs{given}")


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    import sys

    command = [sys.executable, "-m", "ontogeny", "serve", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is not a run: it has no manifest.json" in done.stderr


# runs that are not whole


def test_a_damaged_run_says_what_is_missing_and_shows_the_rest(task_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(task_run.folder, folder)
    (folder / "examples.parquet").write_bytes((folder / "examples.parquet").read_bytes()[:3000])
    (folder / "effects.parquet").unlink()
    (folder / "logit_effects.parquet").write_bytes(b"")
    (folder / "dictionary" / "weights.safetensors").write_bytes(b"\x00" * 100)
    with serving(folder) as app:
        about = app.get("api/runs/broken")
        assert {"examples", "effects", "logit_effects", "dictionary"} <= set(about["missing"])
        assert "effects.parquet has gone" in about["missing"]["effects"]
        assert len(app.get("api/runs/broken/rows", limit=500)["rows"]) == 96
        assert app.get("api/runs/broken/heat")["total"] == 96
        page = app.get("api/runs/broken/features/3")
        assert set(page["missing"]) == {"examples", "logits", "cosine_last", "neighbours"}
        assert len(page["trajectory"]) == 4
        assert app.get("api/runs/broken/figures/births")["$schema"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            app.get("api/runs/broken/figures/effects")


def test_a_run_that_has_only_begun_is_served_and_grows(small_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "young"
    shutil.copytree(small_run.folder, folder)
    later = {}
    for name in ("features", "trajectories", "examples", "quality", "logit_effects", "codes"):
        later[name] = (folder / f"{name}.parquet").read_bytes()
        (folder / f"{name}.parquet").unlink()
    shutil.rmtree(folder / "analyses")
    manifest = json.loads((folder / "manifest.json").read_text())
    stages = manifest["stages"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "stages": {"pack": stages["pack"]}}))
    with serving(folder) as app:
        about = app.get("api/runs/young")
        assert "has no features yet" in about["missing"]["features"]
        assert app.get("api/runs/young/sentences")["problem"]
        assert app.get("api/runs/young/progress")["events"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            app.get("api/runs/young/rows")
        for name, content in later.items():
            (folder / f"{name}.parquet").write_bytes(content)
        assert app.get("api/runs/young/rows")["total"] == 96
        assert app.get("api/runs/young")["missing"] == {}


def test_a_column_of_many_words_is_text_that_is_read_but_not_drawn(small_run: Run, tmp_path: Path) -> None:
    run = Run(copy_of(small_run.folder, tmp_path / "run"))
    features = run.features
    grown = pl.concat([features.with_columns(pl.col("feature") + 96 * part) for part in range(4)])
    run.write_table("features", grown)
    told = pl.DataFrame({"feature": grown["feature"], "description": [f"about {one}" for one in grown["feature"]]})
    run.write_table("descriptions", told.with_columns(birth_step=0, label=pl.lit("x"), model=pl.lit("m")))
    rows = Rows(run)
    kinds = rows.joined().kinds
    assert (kinds["description"], kinds["fate"], kinds["dead"], kinds["density"]) == ("text", "word", "flag", "number")
    with pytest.raises(RunError, match="too many different words"):
        rows.values(["description"])
    found = rows.page(["description:has:ABOUT 300"], sort="description", descending=False, offset=0, limit=5)
    assert [row["feature"] for row in found.rows] == [300]


def test_what_was_read_stays_whole_while_a_file_changes(small_run: Run, tmp_path: Path) -> None:
    run = Run(copy_of(small_run.folder, tmp_path / "run"))
    rows = Rows(run)
    before = rows.joined()
    run.write_table("features", run.features.head(10))
    assert rows.count() == 10
    cursor = before.connection.cursor()
    assert cursor.execute("SELECT count(*) FROM features").fetchall() == [(96,)] == [(before.n_features,)]


def test_a_figure_whose_table_is_damaged_says_so_and_leaves_the_others(task_run: Run, tmp_path: Path) -> None:
    folder = copy_of(task_run.folder, tmp_path / "run")
    view = View(Run(folder))
    whole = view.about()
    (folder / FILES["tasks"]).write_bytes(b"no table")
    about = view.about()
    assert [group["figures"] for group in about["figures"]] == [group["figures"] for group in whole["figures"]]
    assert set(about["tasks"]) >= set(whole["tasks"])
    with pytest.raises(RunError, match="cannot be drawn"):
        view.figure("accuracy")
    assert view.figure("births")["$schema"]
    with pytest.raises(RunError, match="cannot be read"):
        view.csv("tasks")


def test_a_run_that_is_ahead_of_its_tables_is_shown_as_far_as_they_go(small_run: Run, tmp_path: Path) -> None:
    run = Run(copy_of(small_run.folder, tmp_path / "run"))
    view = View(run)
    known = view.heat([], sort="feature", descending=False, rows=96)
    run.update_manifest(snapshots=[*run.manifest["snapshots"], {**run.manifest["snapshots"][-1], "step": 999}])
    grown = view.heat([], sort="feature", descending=False, rows=96)
    one, two = (np.frombuffer(base64.b64decode(heat["data"]), np.uint8).reshape(96, -1) for heat in (known, grown))
    assert (two[:, :-1] == one).all()
    assert not two[:, -1].any()


def test_a_run_is_read_again_when_its_study_has_changed(small_run: Run, tmp_path: Path) -> None:
    run = Run(copy_of(small_run.folder, tmp_path / "run"))
    assert run.study.name == "small"
    other = Run(run.folder)
    other.prepare(other.study.model_copy(update={"name": "another"}))
    assert run.study.name == "another"


def test_a_folder_that_holds_something_else_is_no_place_for_a_site(small_run: Run, tmp_path: Path) -> None:
    for name, content in (("index.html", "mine"), ("notes.txt", "mine")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(content, encoding="utf-8")
        with pytest.raises(RunError, match="no site of ours"):
            write_site([small_run.folder], folder)
        assert (folder / name).read_text(encoding="utf-8") == content


def test_results_of_earlier_settings_are_named_until_they_are_made_again(small_run: Run, tmp_path: Path) -> None:
    run = Run(copy_of(small_run.folder, tmp_path / "run"))
    study, said = run.study, list[str]()
    other = study.model_copy(update={"train": study.train.model_copy(update={"seed": 5})})
    run_study(other, out=run.folder, until="train", say=said.append)
    assert "train: the dictionary is trained anew, since what it depends on has changed" in said
    assert "measure, " in View(run).about()["missing"]["earlier settings"]
    assert not run.manifest["stages"]["train"].get("outdated")
    run_study(study, out=run.folder, until="measure", say=lambda line: None)
    assert "measure" not in View(run).about()["missing"].get("earlier settings", "")


def test_a_taken_port_is_one_line_and_exit_2(small_run: Run, app: App) -> None:
    port = str(urlsplit(app.base).port)
    command = [sys.executable, "-m", "ontogeny", "serve", str(small_run.folder), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
