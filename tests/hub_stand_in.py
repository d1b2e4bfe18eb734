"""A hub of one folder on the loopback, as far as downloading a model needs one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(folder: Path, name: str, revisions: tuple[str, ...] = ("main", COMMIT)) -> Iterator[str]:
    """Serve `folder` as the repository `name`; yields the endpoint."""
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, *, body: bool) -> None:
            path = self.path.split("?")[0].strip("/").split("/")
            if path[:4] == ["api", "models", *name.split("/")]:
                if len(path) == 4 or (path[5:6] and path[5] in revisions):
                    return self.send(self.listing(path), body, {"content-type": "application/json"})
                return self.missing("RevisionNotFound", body)
            if path[:3] == [*name.split("/"), "resolve"] and path[3] in revisions:
                content = files.get("/".join(path[4:]))
                if content is None:
                    return self.missing("EntryNotFound", body)
                etag = hashlib.sha1(content).hexdigest()
                return self.send(content, body, {"etag": f'"{etag}"'})
            return self.missing("RepoNotFound", body)

        def listing(self, path: list[str]) -> bytes:
            entries = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in files.items()
            ]
            if "tree" in path:
                return json.dumps(entries).encode()
            siblings = [{"rfilename": n} for n in files]
            info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
            return json.dumps({**info, "private": False, "tags": [], "downloads": 0}).encode()

        def missing(self, code: str, body: bool) -> None:
            self.send(b"{}", body, {"x-error-code": code}, status=404)

        def send(
            self, content: bytes, body: bool, headers: dict[str, str], status: int = 200
        ) -> None:
            self.send_response(status)
            for key, value in {"x-repo-commit": COMMIT, **headers}.items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
