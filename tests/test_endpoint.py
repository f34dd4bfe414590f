"""Asking a language model: a real client against a local server that is slow, rude and wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from endpoint_server import Endpoint as Server
from endpoint_server import Reply, stalled
from ontogeny.config.analysis import EndpointConfig
from ontogeny.config.settings import parse
from ontogeny.endpoint import Endpoint, Question, json_object, spent
from ontogeny.errors import ConfigError, EndpointError
from ontogeny.features.reading import Score, complexity_questions

GOOD = {"complexity": 2, "consistency": 4, "description": "a word", "interpretability": 0.5, "languages": ["en"]}
FEATURES, CONCURRENCY, LONGEST = 500, 6, 100


def config_of(server: Server, **changes: Any) -> EndpointConfig:
    settings = {
        "url": server.url,
        "model": "scripted",
        "key_variable": None,
        "concurrency": CONCURRENCY,
        "timeout": 5.0,
    }
    return EndpointConfig(**settings | {"options": {"max_tokens": LONGEST}} | changes)


def questions_of(features: int) -> list[Question[Score]]:
    return [one for feature in range(features) for one in complexity_questions([f"this is «feature {feature}» here"])]


@pytest.fixture
def served() -> Iterator[list[Server]]:
    """Servers that are shut down in the end."""
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


def rude(number: int, messages: list[dict[str, str]]) -> str | Reply:
    """One reply in twenty is malformed, one comes late, two are refused; some statuses and headers of real servers."""
    good = json.dumps(GOOD)
    if number in (40, 41):
        return 429, {"Retry-After": "0.2" if number == 40 else "Mon, 01 Jan 2024 00:00:00 GMT"}, b"slow down"
    if number == 60:
        return stalled(30, good)
    if number == 80:
        return 503, {}, b"<html>overloaded</html>"
    if number == 90:
        return 200, {}, b"not even JSON"
    if number % 20 == 0:
        return ["I would say 3.", '{"complexity": 9, "consistency": 1}', "{", json.dumps(GOOD | {"languages": "en"})][
            number // 20 % 4
        ]
    return f"Here you are:\n```json\n{good}\n```" if number % 7 == 0 else good


ASK = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_endpoint import questions_of, FEATURES
from ontogeny.config.analysis import EndpointConfig
from ontogeny.endpoint import Endpoint
with Endpoint(EndpointConfig.model_validate_json({config!r}), Path({replies!r})) as endpoint:
    answers = endpoint.ask(questions_of(FEATURES), name="complexity")
print(sum(answer is not None for answer in answers), "answered")
"""


def test_every_feature_is_scored_whatever_the_server_does_and_a_kill_repeats_no_more_than_was_under_way(
    served: list[Server], tmp_path: Path
) -> None:
    served.append(server := Server(rude))
    config, replies = config_of(server, timeout=3.0, budget_tokens=2_000_000), tmp_path / "replies.sqlite"
    script = ASK.format(tests=str(Path(__file__).parent), config=config.model_dump_json(), replies=str(replies))
    first = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while server.requests < FEATURES:
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert second.stdout == f"{2 * FEATURES} answered\n", second.stderr
    repeated = sum(count - 1 for count in server.answered.values())
    assert repeated <= CONCURRENCY + 1  # those under way at the kill, and the one that came too late
    assert server.most_at_once <= CONCURRENCY + 1
    # what the server made, the killed and the late ones too, is within what counts as spent, and that in the budget
    assert server.tokens <= spent(replies) <= config.budget_tokens
    # asked again, nothing is
    before = server.requests
    with Endpoint(config, replies) as endpoint:
        assert None not in endpoint.ask(questions_of(FEATURES), name="again")
    assert server.requests == before


def test_a_budget_is_never_exceeded_and_more_of_it_goes_on_from_there(served: list[Server], tmp_path: Path) -> None:
    served.append(server := Server(lambda *_: json.dumps(GOOD)))
    config, replies = config_of(server, budget_tokens=40_000), tmp_path / "replies.sqlite"
    with Endpoint(config, replies) as endpoint:
        answers = endpoint.ask(questions_of(100), name="complexity")
    known = sum(answer is not None for answer in answers)
    assert 0 < known < 200
    assert server.tokens <= spent(replies) <= 40_000
    with Endpoint(config_of(server, budget_tokens=1_000_000), replies) as endpoint:
        assert None not in endpoint.ask(questions_of(100), name="complexity")
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == 200


def test_a_reply_of_the_wrong_form_is_asked_for_again_with_what_was_wrong(served: list[Server], tmp_path: Path) -> None:
    seen: list[list[dict[str, str]]] = []

    def script(number: int, messages: list[dict[str, str]]) -> str:
        seen.append(messages)
        return "no idea" if number == 1 else json.dumps(GOOD)

    served.append(server := Server(script))
    with Endpoint(config_of(server), tmp_path / "replies.sqlite") as endpoint:
        assert endpoint.ask(questions_of(1)[:1], name="one") == [
            Score(2, 4, description="a word", interpretability=0.5, languages=["en"])
        ]
    assert [message["role"] for message in seen[1]] == ["system", "user", "assistant", "user"]
    assert "no JSON object" in seen[1][-1]["content"]


def test_one_that_never_answers_well_is_left_out(served: list[Server], tmp_path: Path) -> None:
    served.append(server := Server(lambda *_: "never"))
    with Endpoint(config_of(server, attempts=2), tmp_path / "replies.sqlite") as endpoint:
        assert endpoint.ask(questions_of(2), name="two") == [None] * 4
    assert server.requests == 8


def test_a_key_is_sent_and_written_nowhere(
    served: list[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.append(server := Server(lambda *_: json.dumps(GOOD)))
    config = config_of(server, key_variable="ONTOGENY_TEST_KEY")
    monkeypatch.delenv("ONTOGENY_TEST_KEY", raising=False)
    with pytest.raises(ConfigError, match="ONTOGENY_TEST_KEY is not set"):
        Endpoint(config, tmp_path / "replies.sqlite")
    monkeypatch.setenv("ONTOGENY_TEST_KEY", "secret-123")
    with Endpoint(config, tmp_path / "replies.sqlite") as endpoint:
        endpoint.ask(questions_of(1), name="one")
    assert set(server.keys) == {"Bearer secret-123"}
    assert all(b"secret-123" not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_refusal_and_an_unreachable_endpoint_are_one_line(served: list[Server], tmp_path: Path) -> None:
    served.append(server := Server(lambda *_: (401, {}, b'{"error": "no such key"}')))
    refused = pytest.raises(EndpointError, match=r"asked scripted at http://127.*status 401: .*no such key")
    with Endpoint(config_of(server), tmp_path / "replies.sqlite") as endpoint, refused:
        endpoint.ask(questions_of(3), name="refused")
    gone = config_of(server, url="http://127.0.0.1:9/v1", attempts=1)
    with Endpoint(gone, tmp_path / "gone.sqlite") as endpoint, pytest.raises(EndpointError, match="ConnectError"):
        endpoint.ask(questions_of(3), name="gone")
    assert spent(tmp_path / "gone.sqlite") == 0


def test_options_must_bound_a_reply() -> None:
    with pytest.raises(Exception, match="give max_tokens"):
        parse(EndpointConfig, {"url": "http://x/v1", "model": "m", "options": {}}, where="here")
    other = {"url": "http://x/v1", "model": "m", "options": {"max_completion_tokens": 7}}
    assert parse(EndpointConfig, other, where="here").longest_reply == 7


def test_an_object_is_found_among_words() -> None:
    assert json_object('Sure {not this} but {"a": {"b": 1}} there') == {"a": {"b": 1}}
    with pytest.raises(ValueError, match="no JSON object"):
        json_object("[1, 2]")
