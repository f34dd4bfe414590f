"""A local server that speaks the hub's protocol: refs, tree, resolve with ETag and Range, commits; and fails when it is
told to.

It runs as a process of its own: `python tests/hub_server.py FOLDER PORT_FILE LOG [--fail SHARE]`. FOLDER holds
`OWNER/NAME/refs.json`, or `datasets/OWNER/NAME/refs.json` for a dataset, which maps branches and tags to folders beside
it. Commits are hashes of what a folder holds, so that a branch that comes to name another folder has moved.
"""

import argparse
import base64
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@cache
def digest(path: str, _changed: int, kind: str) -> str:
    content = Path(path).read_bytes()
    if kind == "git":
        return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    return hashlib.sha256(content).hexdigest()


def digest_of(path: Path, kind: str) -> str:
    return digest(str(path), path.stat().st_mtime_ns, kind)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def commit_of(folder: Path) -> str:
    names = [f"{file.relative_to(folder)} {digest_of(file, 'sha256')}" for file in files_below(folder)]
    return hashlib.sha1("\n".join([folder.name, *names]).encode()).hexdigest()


JSON = {"Content-Type": "application/json"}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path, log: Path, fail: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.log, self.fail = folder, log, fail
        self.random, self.lock = random.Random(0), threading.Lock()

    def say(self, line: str) -> None:
        with self.lock, self.log.open("a") as file:
            file.write(line + "\n")

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that were dropped on purpose are no news."""

    def refs(self, repo: str) -> dict[str, dict[str, str]]:
        return json.loads((self.folder / repo / "refs.json").read_text())

    def commit(self, repo: str, folder: str) -> str:
        return commit_of(self.folder / repo / folder)

    def folder_of(self, repo: str, revision: str) -> Path | None:
        """By branch, tag or commit; commits of folders that no branch names any more still resolve."""
        refs = self.refs(repo)
        for names in refs.values():
            if revision in names:
                return self.folder / repo / names[revision]
        for folder in (self.folder / repo).iterdir():
            if folder.is_dir() and self.commit(repo, folder.name) == revision:
                return folder
        return None


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_POST(self) -> None:
        server, path = self.server, urlsplit(self.path).path
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.say(f"POST {path}")
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            asked = json.loads(content)
            repo = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            folder = server.folder / repo
            if folder.is_dir():
                return self.reply(409, json.dumps({"url": self.address(repo)}).encode(), JSON)
            (folder / "head0").mkdir(parents=True)
            (folder / "refs.json").write_text(json.dumps({"branches": {"main": "head0"}}))
            return self.reply(200, json.dumps({"url": self.address(repo), "id": repo}).encode(), JSON)
        if path == "/api/validate-yaml":
            return self.reply(200, json.dumps({"errors": [], "warnings": []}).encode(), JSON)
        repo = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(content)["files"]
            ]
            return self.reply(200, json.dumps({"files": files}).encode(), JSON)
        assert parts[4] == "commit"
        lines = [json.loads(line) for line in content.splitlines()]
        refs = server.refs(repo)
        before = server.folder / repo / refs["branches"]["main"]
        after = before.with_name(f"head{int(before.name.removeprefix('head')) + 1}")
        shutil.copytree(before, after)
        for line in lines:
            if line["key"] == "file":
                file = after / line["value"]["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b64decode(line["value"]["content"]))
            elif line["key"] == "deletedFile":
                (after / line["value"]["path"]).unlink()
        refs["branches"]["main"] = after.name
        (server.folder / repo / "refs.json").write_text(json.dumps(refs))
        commit = server.commit(repo, after.name)
        answer = {"commitUrl": f"{self.address(repo)}/commit/{commit}", "commitOid": commit, "success": True}
        return self.reply(200, json.dumps(answer).encode(), JSON)

    def address(self, repo: str) -> str:
        return f"http://{self.headers['Host']}/{repo}"

    def answer(self, *, body: bool) -> None:
        server, path = self.server, unquote(urlsplit(self.path).path)
        with server.lock:
            luck = server.random.random()
        if luck < server.fail:
            server.say(f"fail {self.command} {path}")
            if luck < server.fail / 2:
                self.reply(429, b"too many", {"Retry-After": "0"})
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            return
        server.say(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.api("/".join(parts[2:4]), parts[4:], body=body)
        elif parts[:2] == ["api", "datasets"]:
            self.api("/".join(parts[1:4]), parts[4:], body=body)
        elif len(parts) > 5 and parts[0] == "datasets" and parts[3] == "resolve":
            self.resolve("/".join(parts[:3]), parts[4], "/".join(parts[5:]), body=body)
        elif len(parts) > 4 and parts[2] == "resolve":
            self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body=body)
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def api(self, repo: str, rest: list[str], *, body: bool) -> None:
        server = self.server
        if not (server.folder / repo / "refs.json").is_file():
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if rest == ["refs"]:
            refs = {
                kind: [
                    {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": server.commit(repo, folder)}
                    for name, folder in server.refs(repo).get(kind, {}).items()
                ]
                for kind in ("branches", "tags", "converts")
            }
            return self.reply(200, json.dumps(refs).encode(), {"Content-Type": "application/json"})
        if not rest:
            rest = ["revision", "main"]
        folder = server.folder_of(repo, rest[1]) if len(rest) > 1 else None
        if folder is None:
            return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = files_below(folder)
        if rest[0] == "tree":
            rows = []
            below = "/".join(rest[2:])
            for file in files:
                if not str(file.relative_to(folder)).startswith(below):
                    continue
                row = {
                    "type": "file",
                    "path": str(file.relative_to(folder)),
                    "size": file.stat().st_size,
                    "oid": digest_of(file, "git"),
                }
                if file.suffix == ".safetensors":
                    row["lfs"] = {"oid": digest_of(file, "sha256"), "size": row["size"], "pointerSize": 130}
                rows.append(row)
            return self.reply(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
        info = {
            "_id": "0", "id": repo, "modelId": repo, "sha": server.commit(repo, folder.name), "private": False,
            "tags": [], "downloads": 0, "siblings": [{"rfilename": str(file.relative_to(folder))} for file in files],
        }  # fmt: skip
        return self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def resolve(self, repo: str, revision: str, name: str, *, body: bool) -> None:
        folder = self.server.folder_of(repo, revision)
        if folder is None:
            return self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
        file = folder / name
        headers = {"X-Repo-Commit": self.server.commit(repo, folder.name)}
        if not file.is_file():
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound", **headers})
        kind = "sha256" if file.suffix == ".safetensors" else "git"
        content = file.read_bytes()
        headers |= {"ETag": f'"{digest_of(file, kind)}"', "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        if asked is None:
            return self.reply(200, content, headers, body=body)
        first, last = asked.removeprefix("bytes=").split("-")
        end = int(last) + 1 if last else len(content)
        headers["Content-Range"] = f"bytes {first}-{min(end, len(content)) - 1}/{len(content)}"
        return self.reply(206, content[int(first) : end], headers, body=body)

    def reply(self, status: int, content: bytes, headers: dict[str, str], *, body: bool = True) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing is printed."""


class Hub:
    """The server as a process, an environment for its clients, and what it was asked."""

    def __init__(self, folder: Path, *, fail: float = 0.0) -> None:
        self.folder, self.log = folder / "hub", folder / "requests.log"
        self.home, port = folder / "home", folder / "port"
        self.log.write_text("")
        port.unlink(missing_ok=True)
        command = [sys.executable, str(Path(__file__).resolve()), str(self.folder), str(port), str(self.log)]
        self.process = subprocess.Popen([*command, "--fail", str(fail)])
        while not (port.is_file() and port.read_text()):
            time.sleep(0.02)
        self.environment = {
            **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{port.read_text()}", "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "ONTOGENY_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.environment.pop("HF_HUB_OFFLINE", None)

    def run(self, *arguments: object, **more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "ontogeny", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=self.environment | more)

    def asked(self, word: str = "") -> list[str]:
        return [line for line in self.log.read_text().splitlines() if word in line]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("port_file", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--fail", type=float, default=0.0)
    given = parser.parse_args()
    server = Server(given.folder, given.log, given.fail)
    given.port_file.write_text(str(server.server_port))
    server.serve_forever()


if __name__ == "__main__":
    main()
