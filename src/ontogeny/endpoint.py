"""Questions to a language model behind any OpenAI-compatible endpoint: in parallel, once each, within a budget.

Every reply is kept in a file of the run as soon as it is there, so that no question is paid for twice. What a request
may cost is set aside before it is sent, and counts as spent if no reply to it is ever seen.
"""

import email.utils
import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ontogeny.config.analysis import EndpointConfig
from ontogeny.config.settings import fingerprint
from ontogeny.errors import EndpointError
from ontogeny.progress import progress_bar

if TYPE_CHECKING:
    import httpx2

Answer = TypeVar("Answer")
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses after which a request is sent again: too many, too slow, or not the request's fault."""
REFUSED = (401, 403, 404)
"""Statuses that say that no question will be answered."""
LONGEST_WAIT = 60.0
TEMPLATE_TOKENS = 64
"""More than any chat template adds to a message."""
REMINDER = "That was not of the form that was asked for ({problem}). Reply again, with the JSON object alone."


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """Messages, and how to read a reply to them.

    Attributes:
        messages: `{"role": …, "content": …}`, in order.
        read: turns a reply's text into an answer; raises ValueError where it is not of the form asked for.
    """

    messages: Sequence[dict[str, str]]
    read: Callable[[str], Answer]


class Replies:
    """Replies and what they cost, in one SQLite file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL)")
        self._file.execute("CREATE TABLE IF NOT EXISTS requests (id INTEGER PRIMARY KEY, tokens INTEGER NOT NULL)")

    def get(self, key: str) -> str | None:
        with self._lock:
            row = self._file.execute("SELECT text FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    @property
    def spent(self) -> int:
        """Tokens of all requests so far, those under way and those never answered at the most they may cost."""
        return self._file.execute("SELECT COALESCE(SUM(tokens), 0) FROM requests").fetchone()[0]

    def set_aside(self, tokens: int, *, budget: int) -> int | None:
        """Set tokens aside for a request; None where the budget has no room for them."""
        with self._lock:
            if self.spent + tokens > budget:
                return None
            return self._file.execute("INSERT INTO requests (tokens) VALUES (?)", (tokens,)).lastrowid

    def settle(self, request: int, tokens: int) -> None:
        """What a request has cost in truth."""
        with self._lock:
            self._file.execute("UPDATE requests SET tokens = ? WHERE id = ?", (tokens, request))

    def keep(self, key: str, text: str) -> None:
        with self._lock:
            self._file.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, text))

    def close(self) -> None:
        self._file.close()


def spent(path: Path) -> int:
    """Tokens that the replies in a file have cost."""
    replies = Replies(path)
    try:
        return replies.spent
    finally:
        replies.close()


class Endpoint:
    """An OpenAI-compatible endpoint with the replies that it has given.

    Raises:
        EndpointError: the key's environment variable is not set.
    """

    def __init__(self, config: EndpointConfig, replies: Path) -> None:
        import httpx2

        self.config = config
        key = config.key()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.replies = Replies(replies)
        self._client = httpx2.Client(headers=headers, timeout=config.timeout, trust_env=False)
        self._stopped = threading.Event()
        self._problem, self._answered = "", False

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self.replies.close()

    def ask(self, questions: Sequence[Question[Answer]], *, name: str) -> list[Answer | None]:
        """The answers, in the order of the questions; None where no reply could be read, or the budget ended first.

        Args:
            name: of the progress bar.
        Raises:
            EndpointError: the endpoint cannot be reached, or refuses what is asked.
        """
        answers: list[Answer | None] = [None] * len(questions)
        left = iter(enumerate(questions))
        pool = ThreadPoolExecutor(self.config.concurrency)
        running: dict[Future[Answer | None], int] = {}
        try:
            with progress_bar(name, len(questions), unit="questions") as bar:
                while True:
                    for place, question in left:
                        running[pool.submit(self._answer, question)] = place
                        if len(running) == self.config.concurrency:
                            break
                    if not running:
                        return answers
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        answers[running.pop(done)] = done.result()
                        bar.advance(1)
        finally:
            self._stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            self._stopped.clear()

    def _answer(self, question: Question[Answer]) -> Answer | None:
        messages = list(question.messages)
        for _ in range(self.config.attempts):
            text = self._reply(messages)
            if text is None:
                return None
            try:
                return question.read(text)
            except ValueError as problem:
                messages += [
                    {"role": "assistant", "content": text},
                    {"role": "user", "content": REMINDER.format(problem=problem)},
                ]
        return None

    def _reply(self, messages: list[dict[str, str]]) -> str | None:
        """The text of a reply; None where the budget has no room for it, or where it does not come."""
        import httpx2

        body = {"model": self.config.model, "messages": messages, **self.config.options}
        key = fingerprint(self.config.url, body)
        if (kept := self.replies.get(key)) is not None:
            return kept
        asked = len(json.dumps(body, ensure_ascii=False).encode()) + TEMPLATE_TOKENS * len(messages)
        most = asked + self.config.longest_reply  # no tokenizer makes more tokens than bytes
        for attempt in range(self.config.attempts):
            request = None if self._stopped.is_set() else self.replies.set_aside(most, budget=self.config.budget_tokens)
            if request is None:
                return None
            pause = random.uniform(0.5, 1) * 2**attempt
            try:
                response = self._client.post(f"{self.config.url.rstrip('/')}/chat/completions", json=body)
            except httpx2.TransportError as error:
                self._problem = f"{type(error).__name__}: {error}"
                if isinstance(error, httpx2.ConnectError):
                    self.replies.settle(request, 0)
            else:
                if response.is_client_error:
                    self.replies.settle(request, 0)
                if response.is_success and (read := _read(response)) is not None:
                    text, tokens = read
                    self.replies.settle(request, most if tokens is None else tokens)
                    self.replies.keep(key, text)
                    self._answered = True
                    return text
                self._problem = f"status {response.status_code}: {' '.join(response.text.split())[:200]}"
                if response.is_error and response.status_code not in AGAIN:
                    if self._answered and response.status_code not in REFUSED:
                        return None  # this question alone
                    raise self._refused()
                pause = _retry_after(response.headers.get("retry-after"), pause)
            if attempt < self.config.attempts - 1:
                self._stopped.wait(min(pause, LONGEST_WAIT))
        if not self._answered:
            raise self._refused()
        return None

    def _refused(self) -> EndpointError:
        return EndpointError(
            f"asked {self.config.model} at {self.config.url}, found {self._problem}: see that `endpoint.url` (it ends "
            "in /v1 as a rule), `model` and the key are right; replies so far are kept"
        )


def _read(response: "httpx2.Response") -> tuple[str, int | None] | None:
    """The text of a chat completion and the tokens that it cost, where it says so; None where it is no such thing."""
    try:
        values = response.json()
        text = values["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    usage = values.get("usage") or {}
    tokens = usage.get("total_tokens")
    return str(text or ""), tokens if isinstance(tokens, int) else None  # no text: it declined, or thought too long


def _retry_after(header: str | None, pause: float) -> float:
    """Seconds to wait, from a header that holds seconds or a date."""
    if header is None:
        return pause
    try:
        return max(float(header), 0.0)
    except ValueError:
        moment = email.utils.parsedate_tz(header)
        return pause if moment is None else max(email.utils.mktime_tz(moment) - time.time(), 0.0)


def json_object(text: str) -> dict[str, Any]:
    """The first JSON object in a reply, whatever stands around it.

    Raises:
        ValueError: there is none.
    """
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            found, _ = decoder.raw_decode(text, start)
            return found
        except ValueError:
            start = text.find("{", start + 1)
    raise ValueError("no JSON object")
