from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from polyrank.errors import InputError, MissingDependencyError
from polyrank.evaluation import evaluate, load_named, named
from polyrank.evaluation.suites import PAPER, collections_of

from .conftest import Overlap

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def lines(*rows: dict[str, Any]) -> bytes:
    return gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode())


FILES = {
    "miracl/miracl": {
        "miracl-v1.0-sw/topics/topics.miracl-v1.0-sw-dev.tsv": b"1#0\tw1 w2\n2#0\tw3\n",
        "miracl-v1.0-sw/qrels/qrels.miracl-v1.0-sw-dev.tsv": b"1#0\tQ0\ta#0\t1\n2#0\tQ0\tb#1\t1\n",
        "miracl-v1.0-te/topics/topics.miracl-v1.0-te-dev.tsv": b"",
    },
    "miracl/miracl-corpus": {
        "miracl-corpus-v1.0-sw/docs-0.jsonl.gz": lines({"docid": "a#0", "text": "w1"}),
        "miracl-corpus-v1.0-sw/docs-1.jsonl.gz": lines({"docid": "b#1", "title": "", "text": "w3"}),
    },
    "Shitao/MLDR": {
        "mldr-v1.0-de/corpus.jsonl.gz": lines(
            {"docid": "doc-1", "text": "w1"}, {"docid": "doc-2", "text": "w2"}
        ),
        "mldr-v1.0-de/test.jsonl.gz": lines(
            {
                "query_id": "q-1", "query": "w1",
                "positive_passages": [{"docid": "doc-1", "text": "w1"}],
                "negative_passages": [{"docid": "doc-2", "text": "w2"}],
            }
        ),
    },
    "BeIR/scifact": {
        "corpus.jsonl.gz": lines({"_id": "1", "title": "", "text": "w1", "metadata": {}}),
        "queries.jsonl.gz": lines({"_id": "q1", "text": "w1", "metadata": {}}),
    },
    "BeIR/scifact-qrels": {"test.tsv": b"query-id\tcorpus-id\tscore\nq1\t1\t1\n"},
    "BeIR/nq": {
        "corpus.jsonl.gz": lines(
            {"_id": "n1", "title": "", "text": "born in 1940"},
            {"_id": "n2", "title": "", "text": "tokyo"},
        )
    },
}  # fmt: skip
MKQA = lines(
    {
        "example_id": 1,
        "queries": {"ja": "いつ tokyo", "en": "when"},
        "answers": {"en": [{"type": "date", "text": "1940", "aliases": ["year 1940"]}]},
    },
    {
        "example_id": 2,
        "queries": {"ja": "なぜ", "en": "why"},
        "answers": {"en": [{"type": "unanswerable", "text": None}]},
    },
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Data sets on the loopback, as far as downloading them needs a hub."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0].removeprefix("/api").strip("/").split("/")
            files = FILES.get("/".join(path[1:3]))
            if path[0] != "datasets" or files is None:
                return self.reply(404, b"{}")
            if path[3:4] == ["resolve"]:
                content = files.get("/".join(path[5:]))
                return self.reply(404 if content is None else 200, content or b"{}")
            if path[3:4] == ["tree"]:
                rows = [{"type": "file", "path": n, "size": len(c), "oid": n}
                        for n, c in files.items()]  # fmt: skip
                return self.reply(200, json.dumps(rows).encode())
            name = "/".join(path[1:3])
            info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": n} for n in files],
                    "private": False, "tags": [], "downloads": 0, "likes": 0}  # fmt: skip
            return self.reply(200, json.dumps(info).encode())

        def reply(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("x-repo-commit", COMMIT)
            self.send_header("etag", f'"{hash(content)}"')
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    download = huggingface_hub.snapshot_download

    def here(name: str, **options: Any) -> str:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        return str(download(name, endpoint=endpoint, cache_dir=tmp_path / "hub", **options))

    monkeypatch.setattr("huggingface_hub.snapshot_download", here)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("hub")
def test_miracl_comes_by_language() -> None:
    c = load_named("miracl:sw")
    assert c.queries == {"1#0": "w1 w2", "2#0": "w3"}
    assert list(c.documents) == ["a#0", "b#1"]
    assert c.qrels == {"1#0": {"a#0": 1}, "2#0": {"b#1": 1}}
    assert (c.language, c.languages["1#0"]) == ("sw", "sw")


@pytest.mark.usefixtures("hub")
def test_mldr_comes_by_language() -> None:
    c = load_named("mldr:de")
    assert c.qrels == {"q-1": {"doc-1": 1, "doc-2": 0}}
    assert c.documents["doc-2"]["text"] == "w2"


@pytest.mark.usefixtures("hub")
def test_beir_comes_by_name() -> None:
    c = load_named("beir:scifact")
    assert c.qrels == {"q1": {"1": 1}}


@pytest.mark.usefixtures("hub")
def test_mkqa_is_judged_by_its_answers(tmp_path: Path, overlap: Overlap) -> None:
    (tmp_path / "polyrank").mkdir()
    (tmp_path / "polyrank" / "mkqa.jsonl.gz").write_bytes(MKQA)
    c = load_named("mkqa:ja")
    assert c.queries == {"1": "いつ tokyo"}
    assert c.languages == {"1": "ja>en"}
    e = evaluate(c, [overlap], run={"1": {"n1": 1.0, "n2": 0.5}}, metrics=["success@1"])
    assert [s.mean("success@1") for s in e.systems] == [1.0, 0.0]


@pytest.mark.usefixtures("hub")
def test_mkqa_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.gz"
    source.write_bytes(MKQA)
    monkeypatch.setattr(named, "_MKQA", source.as_uri())
    assert load_named("mkqa:en").queries == {"1": "when"}
    source.unlink()
    assert load_named("mkqa:en").languages == {"1": "en"}


@pytest.mark.usefixtures("hub")
def test_data_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data set BeIR/nfcorpus on the hub"):
        load_named("beir:nfcorpus")
    with pytest.raises(InputError, match=r"qrels.miracl-v1.0-te-dev.tsv in the data set"):
        load_named("miracl:te")
    with pytest.raises(InputError, match="on the hub or in its cache here"):
        load_named("beir:scifact", offline=True)


@pytest.mark.parametrize("name", ["miracl:xx", "mkqa:", "beir:scifact2", "trec:dl19", "scifact"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"expected .*(one of|with one of)"):
        load_named(name)


def test_ir_datasets_are_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = [
        SimpleNamespace(doc_id="d1", title="T", text="w1"),
        SimpleNamespace(doc_id="d2", default_text=lambda: "w2"),
    ]
    data = SimpleNamespace(
        docs_iter=lambda: iter(docs),
        queries_iter=lambda: iter([SimpleNamespace(query_id="q", text="w1")]),
        qrels_iter=lambda: iter([SimpleNamespace(query_id="q", doc_id="d1", relevance=2)]),
        docs_lang=lambda: "en",
    )
    module = ModuleType("ir_datasets")
    module.load = {"some/set": data}.__getitem__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ir_datasets", module)
    c = load_named("irds:some/set")
    assert (c.name, c.language, c.qrels) == ("some.set", "en", {"q": {"d1": 2}})
    assert c.documents["d2"] == {"id": "d2", "text": "w2", "title": ""}
    with pytest.raises(InputError, match="'no/set'"):
        load_named("irds:no/set")
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingDependencyError, match="pip install ir_datasets"):
        load_named("irds:some/set")


def test_the_papers_suite_has_every_language() -> None:
    counts = {k: sum(n.startswith(f"{k}:") for n in PAPER) for k in named.LANGUAGES}
    assert (counts["miracl"], counts["mldr"], counts["mkqa"]) == (18, 13, 26)
    assert len(collections_of(None, suite="paper")) == len(PAPER)
