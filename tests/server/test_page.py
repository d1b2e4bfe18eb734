"""The page at `/` over HTTP: types, headers, copies that are still good, and the switch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from polyrank import Reranker
from polyrank.server import read_settings
from server.conftest import Client
from server.process import Server

FILES = {
    "/": "text/html; charset=utf-8",
    "/page/style.css": "text/css; charset=utf-8",
    "/page/page.js": "text/javascript; charset=utf-8",
    "/page/icon.svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pytest.fixture(scope="module")
def http(tiny_model: Path) -> Iterator[httpx.Client]:
    server = Server(tiny_model, "--api-key", "secret")
    yield server.http
    server.end()


@pytest.mark.parametrize("path", FILES)
def test_a_file_needs_no_key_and_allows_nothing_but_its_own_origin(
    http: httpx.Client, path: str
) -> None:
    r = http.get(path)
    assert (r.status_code, r.headers["content-type"]) == (200, FILES[path])
    assert r.headers["content-security-policy"] == POLICY
    assert r.headers["x-content-type-options"] == "nosniff"
    assert r.headers["referrer-policy"] == "no-referrer"
    assert r.headers["cache-control"] == "no-cache"
    head = http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(r.content))
    assert head.headers["etag"] == r.headers["etag"]


def test_a_copy_that_is_still_good_is_not_sent_again(http: httpx.Client) -> None:
    tag = http.get("/").headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    assert http.get("/page/page.js").headers["etag"] != tag
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        r = http.get("/", headers={"if-none-match": known})
        assert (r.status_code, r.content, r.headers["etag"]) == (304, b"", tag)
    assert http.get("/", headers={"if-none-match": '"other"'}).status_code == 200


def test_nothing_else_is_served_beside_the_page(http: httpx.Client) -> None:
    for path in ("/page", "/page/", "/page/index.html", "/page/__init__.py", "/page/../app.py"):
        assert http.get(path).status_code == 404, path
    assert http.post("/", json={}).status_code == 405
    key = {"authorization": "Bearer secret"}
    body = {"query": "w1", "documents": ["w2"]}
    assert http.post("/v1/rerank", json=body).status_code == 401
    assert http.post("/v1/rerank", json=body, headers=key).status_code == 200


def test_the_page_names_no_address_but_relative_ones(http: httpx.Client) -> None:
    text = http.get("/").text
    names = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert names
    for name in names:
        assert not name.startswith("/"), name
        assert ":" not in name, name
        assert http.get(f"/{name}").status_code == 200, name
    assert "<style" not in text
    assert not re.search(r"\s(style|on\w+)=", text)
    assert "<script>" not in text


def test_the_page_can_be_switched_off(tiny_model: Path) -> None:
    server = Server(tiny_model, "--no-page")
    try:
        assert server.http.get("/").status_code == 404
        assert server.http.get("/page/page.js").status_code == 404
    finally:
        server.end()
    assert read_settings({}, {"POLYRANK_PAGE": "false"}).page is False
    assert read_settings({}, {}).page is True


def test_every_answer_says_where_the_time_went_and_what_was_cut(
    client: Client, reranker: Reranker
) -> None:
    long = "w10 " * (reranker.max_length + 1)
    for path, field in (("/rerank", "texts"), ("/v1/rerank", "documents")):
        r = client.post(path, {"query": "w10", field: ["w1", long, "w2", long]})
        assert r.headers["x-truncated-pairs"] == "1,3"
        timing = r"tokenize;dur=[\d.]+, queue;dur=[\d.]+, forward;dur=[\d.]+"
        assert re.fullmatch(timing, r.headers["server-timing"])
        r = client.post(path, {"query": "w10", field: ["w1"]})
        assert "x-truncated-pairs" not in r.headers
        assert "server-timing" not in client.post(path, {}).headers
    body = {"query": "w10", "documents": ["w1 w2"] * 201, "max_doc_length": 1}
    many = client.post("/v1/rerank", body)
    assert many.headers["x-truncated-pairs"] == ",".join(map(str, range(200)))
