from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyrank import Calibration, InputError, Ranking, Reranker, TooLongError
from polyrank.errors import BackendError, CheckpointError, EngineStoppedError, ModelNotFoundError

texts = st.lists(
    st.lists(st.integers(4, 500), max_size=60).map(lambda w: " ".join(f"w{n}" for n in w)),
    min_size=1,
    max_size=12,
)


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(documents=texts)
def test_a_score_does_not_depend_on_its_neighbours(
    reranker: Reranker, documents: list[str]
) -> None:
    together = reranker.logits([("w9 w8", d) for d in documents])
    alone = [reranker.logits([("w9 w8", d)])[0] for d in documents]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_ranking_is_sorted_by_logit_and_scores_are_sigmoids(reranker: Reranker) -> None:
    documents = [f"w{n} w{n + 7}" for n in range(10, 60)]
    ranking = reranker.rank("w1 w3", documents)
    logits = reranker.logits([("w1 w3", d) for d in documents])
    assert [r.index for r in ranking] == np.argsort(-logits, kind="stable").tolist()
    for r in ranking:
        assert r.document == documents[r.index]
        assert r.logit == pytest.approx(logits[r.index], abs=1e-5)
        assert r.score == pytest.approx(1 / (1 + np.exp(-r.logit)), abs=1e-7)
        assert (r.tokens, r.truncated, r.id) == (8, False, r.index)


def test_ties_keep_input_order(reranker: Reranker) -> None:
    documents = [f"w{n} w9" for n in range(20, 40)] * 3
    ranking = reranker.rank("w1", documents)
    for start in range(0, 60, 3):
        same = ranking[start : start + 3]
        assert len({r.document for r in same}) == 1
        assert len({r.logit for r in same}) == 1
        assert [r.index for r in same] == sorted(r.index for r in same)


def test_top_n_and_threshold_cut_the_ranking(reranker: Reranker) -> None:
    documents = [f"w{n}" for n in range(10, 40)]
    whole = reranker.rank("w1", documents)
    assert list(reranker.rank("w1", documents, top_n=3)) == list(whole[:3])
    middle = whole[15].score
    kept = reranker.rank("w1", documents, threshold=middle)
    assert [r.index for r in kept] == [r.index for r in whole if r.score >= middle]
    assert len(reranker.rank("w1", documents, top_n=99)) == 30


def test_mappings_pass_through_whole(reranker: Reranker) -> None:
    document = {"id": "d1", "title": "w7", "text": "w8", "url": "x"}
    (r,) = reranker.rank("w1", [document])
    assert r.document is document
    assert (r.id, r.text) == ("d1", "w8")
    assert r.logit == pytest.approx(reranker.logits([("w1", "w7 w8")])[0], abs=1e-6)
    row = reranker.rank("w1", [document]).to_dicts()[0]
    assert (row["url"], row["rank"], row["id"], row["index"]) == ("x", 1, "d1", 0)
    assert json.loads(json.dumps(row)) == row


def test_many_queries_share_batches_and_answer_as_one_by_one(reranker: Reranker) -> None:
    requests = [(f"w{q}", [f"w{d} w{q}" for d in range(20, 20 + q)]) for q in (3, 12, 0, 5)]
    for (query, documents), ranking in zip(requests, reranker.rank_many(requests), strict=True):
        alone = reranker.rank(query, documents)
        assert [r.index for r in ranking] == [r.index for r in alone]
        np.testing.assert_allclose([r.logit for r in ranking], [r.logit for r in alone], atol=1e-5)


def test_no_documents_and_no_pairs_are_no_error(reranker: Reranker) -> None:
    assert list(reranker.rank("w1", [])) == []
    assert reranker.rank_many([]) == []
    assert reranker.logits([]).shape == (0,)
    assert reranker.score([]).dtype == np.float32


def test_numpy_arrays_are_read_like_lists(reranker: Reranker) -> None:
    documents = np.array(["w5", "w6", "w7"])
    ranking = reranker.rank(str(np.str_("w1")), documents, top_n=np.int64(2))
    assert len(ranking) == 2
    pairs = np.array([["w1", "w5"], ["w1", "w6"]])
    assert reranker.logits(pairs).shape == (2,)


def test_generators_are_read_once(reranker: Reranker) -> None:
    assert len(reranker.rank("w1", (f"w{n}" for n in range(5, 9)))) == 4
    assert reranker.score(("w1", f"w{n}") for n in range(5, 9)).shape == (4,)


@pytest.mark.parametrize("query", ["", "  ", "\n\t\u3000"])
def test_a_blank_query_is_an_error(reranker: Reranker, query: str) -> None:
    with pytest.raises(InputError, match="blank"):
        reranker.rank(query, ["w1"])


@pytest.mark.parametrize(
    "call",
    [
        lambda r: r.rank("w1", "one document"),
        lambda r: r.rank("w1", {"text": "one"}),
        lambda r: r.rank("w1", b"bytes"),
        lambda r: r.rank("w1", None),
        lambda r: r.rank("w1", [None]),
        lambda r: r.rank("w1", [{"body": "x"}]),
        lambda r: r.rank(None, ["w1"]),
        lambda r: r.rank("w\udc80", ["w1"]),
        lambda r: r.rank("w1", ["w\ud800"]),
        lambda r: r.rank("w1", ["w1"], top_n=0),
        lambda r: r.rank("w1", ["w1"], top_n=2.0),
        lambda r: r.rank("w1", ["w1"], top_n=True),
        lambda r: r.rank("w1", ["w1"], threshold=1.5),
        lambda r: r.rank("w1", ["w1"], threshold=float("nan")),
        lambda r: r.rank("w1", ["w1"], threshold="0.5"),
        lambda r: r.rank_many([("w1",)]),
        lambda r: r.rank_many(["abc"]),
        lambda r: r.rank_many(("w1", ["w2"])),
        lambda r: r.rank_many([5]),
        lambda r: r.rank_many(None),
        lambda r: r.logits(None),
        lambda r: r.logits(["ab"]),
        lambda r: r.logits([{"query": "a", "text": "b"}]),
        lambda r: r.logits([3]),
        lambda r: r.logits([("a", "b", "c")]),
        lambda r: r.logits([("a", 3)]),
        lambda r: r.logits([(3, "a")]),
    ],
)
def test_wrong_input_is_an_input_error_that_says_what_was_expected(
    reranker: Reranker, call: Any
) -> None:
    with pytest.raises(InputError, match="expected"):
        call(reranker)


def test_a_frame_is_no_list_of_documents(reranker: Reranker) -> None:
    class Frame:
        columns = ("id", "text")

        def __iter__(self) -> Any:
            return iter(self.columns)

    with pytest.raises(InputError, match="got a Frame; give a column of it"):
        reranker.rank("w1", Frame())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected a list of documents"):
        reranker.rank("w1", np.array("w2"))  # type: ignore[arg-type]


def test_an_id_that_is_none_is_no_id(reranker: Reranker) -> None:
    ranking = reranker.rank("w1", [{"text": "w2", "id": None}, {"text": "w3", "id": 0}])
    assert {r.index: r.id for r in ranking} == {0: 0, 1: 0}
    assert [row["id"] for row in ranking.to_dicts()] == [0, 0]


def test_a_cut_is_reported_and_never_silent(tiny_model: Path) -> None:
    long = " ".join(f"w{10 + i}" for i in range(100))
    with Reranker(tiny_model, max_length=32) as r:
        ranking = r.rank("w1 w3", [long, "w5"])
        cut = {k.index: (k.tokens, k.tokens_given, k.truncated) for k in ranking}
        assert cut == {0: (32, 106, True), 1: (7, 7, False)}
        assert ranking.truncated == 1
        assert "cut 106 -> 32 tokens" in repr(ranking)
    with (
        Reranker(tiny_model, max_length=32, on_overflow="error") as r,
        pytest.raises(TooLongError, match=r"at most 32 .*, got 106, 2 of .*documents\[1\]"),
    ):
        r.rank("w1 w3", ["w5", long])


def test_scores_alone_tell_once_that_something_was_cut(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = " ".join(f"w{10 + i}" for i in range(100))
    with Reranker(tiny_model, max_length=32) as r:
        r.score([("w1", "w2")])
        assert not caplog.records
        r.score([("w1", "w2"), ("w1", long)])
        r.logits([("w1", long)])
    assert [x.getMessage().split(";")[0] for x in caplog.records] == [
        "polyrank: cut 1 of 2 pairs to 32 tokens"
    ]


@pytest.mark.parametrize("max_length", [0, 5, 8193, 2.5, True])
def test_an_impossible_limit_is_an_error(tiny_model: Path, max_length: Any) -> None:
    with pytest.raises(InputError, match="max_length"):
        Reranker(tiny_model, max_length=max_length)


def test_options_of_no_known_kind_are_errors(tiny_model: Path) -> None:
    for option in ("backend", "device", "dtype"):
        with pytest.raises(BackendError, match="expected"):
            Reranker(tiny_model, **{option: "abacus"})  # type: ignore[arg-type]
    for option in ("threads", "max_batch_tokens", "max_query_tokens"):
        for value in (0, -1, 1.5):
            with pytest.raises(InputError, match=option):
                Reranker(tiny_model, **{option: value})  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="fp16, which is slow"):
        Reranker(tiny_model, device="cpu", dtype="fp16")


def test_a_tokenizer_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"x{n}": 512 + n for n in range(10)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="tokenizer of at most 512"):
        Reranker(folder)


def test_a_name_that_is_no_model_is_an_error_that_lists_what_would_be() -> None:
    with pytest.raises(ModelNotFoundError, match="gte-multilingual-reranker-base"):
        Reranker("no-such-model")


def test_a_pickled_one_is_opened_anew_as_it_was(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [("w1 w2", "w3 " * 40)]
    monkeypatch.chdir(tiny_model.parent)
    with Reranker(tiny_model.name, backend="torch", max_length=16, on_overflow="windows") as one:
        one.calibration = Calibration(scale=2.0, shift=1.0)
        sent = pickle.dumps(one)
        wanted = one.score(pairs)
    monkeypatch.chdir(tmp_path)
    with pickle.loads(sent) as other:
        assert (other.backend_name, other.max_length) == (one.backend_name, 16)
        np.testing.assert_array_equal(other.score(pairs), wanted)


def test_sixteen_threads_get_the_scores_of_one(reranker: Reranker) -> None:
    pairs = {n: [(f"w{n + 4}", f"w{n + i + 5} w9") for i in range(n + 1)] for n in range(16)}
    expected = {n: reranker.logits(p) for n, p in pairs.items()}
    found: dict[int, Any] = {}

    def call(n: int) -> None:
        for _ in range(5):
            found[n] = reranker.logits(pairs[n])

    threads = [threading.Thread(target=call, args=(n,)) for n in pairs]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    for n, logits in expected.items():
        np.testing.assert_allclose(found[n], logits, atol=1e-5)


def test_a_hundred_thousand_documents_are_ranked(tiny_model: Path) -> None:
    documents = [f"w{10 + n % 400} w{10 + n // 400}" for n in range(100_000)]
    with Reranker(tiny_model, max_batch_tokens=16384) as r:
        ranking = r.rank("w9", documents, top_n=10)
    assert [r.logit for r in ranking] == sorted((r.logit for r in ranking), reverse=True)
    assert len({r.index for r in ranking}) == 10


def test_a_closed_reranker_says_so_and_closing_twice_is_fine(tiny_model: Path) -> None:
    r = Reranker(tiny_model)
    r.close()
    r.close()
    assert r.health().state == "stopped"
    with pytest.raises(EngineStoppedError, match="closed"):
        r.rank("w1", ["w2"])


def test_a_dropped_reranker_ends_its_workers(tiny_model: Path) -> None:
    before = threading.active_count()
    r = Reranker(tiny_model, threads=2)
    assert threading.active_count() == before + 2
    del r
    gc.collect()
    assert threading.active_count() == before


def test_ctrl_c_frees_the_queue(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import Future

    def interrupted(self: Future[Any], timeout: float | None = None) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reranker.logits(("w1", f"w{n} " * 50) for n in range(10, 500))
    reranker.logits([("w1", "w5")])
    assert reranker.health().queued_pairs == 0


def test_a_forked_child_is_told_to_make_its_own(tiny_model: Path) -> None:
    code = (
        "import os, sys, polyrank\n"
        f"r = polyrank.Reranker({str(tiny_model)!r})\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try: r.logits([('w1', 'w2')])\n"
        "    except polyrank.PolyrankError as e: os._exit(7 if 'forked' in str(e) else 8)\n"
        "    os._exit(9)\n"
        "elif os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 7: sys.exit(1)\n"
        "r._engine._changed.acquire()\n"  # as a thread of the parent may have at that moment
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try: r.logits([('w1', 'w2')])\n"
        "    except polyrank.PolyrankError: sys.exit(7)\n"
        "r._engine._changed.release()\n"
        "if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 7: sys.exit(2)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"  # one that uses its own, and ends like any process
        f"    with polyrank.Reranker({str(tiny_model)!r}) as own: own.logits([('w1', 'w2')])\n"
        "    r.close()\n"
        "    sys.exit(7)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 7


def test_a_ranking_reads_well(reranker: Reranker) -> None:
    ranking = reranker.rank("w1 <b>", ["w5 <script>", {"text": "שלום", "id": "he"}])
    assert isinstance(ranking, Ranking)
    assert repr(ranking).startswith("Ranking('w1 <b>', 2 documents)\n   1  0.")
    page = ranking._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "dir='auto'" in page
    assert repr(reranker.rank("w1", [f"w{n}" for n in range(30)])).endswith("20 more")


def test_progress_is_drawn_when_asked_and_never_into_a_pipe(
    reranker: Reranker, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [f"w{n}" for n in range(4, 304)]
    reranker.rank("w1", documents)
    assert capsys.readouterr() == ("", "")
    reranker.rank("w1", documents, show_progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "300/300" in captured.err


def test_no_more_of_a_text_is_read_than_is_asked(reranker: Reranker) -> None:
    (whole,) = reranker.encode([("w10 w11", "w20 w21 w22")])
    for tokens in (1, 2, 3, 4):
        (short,) = reranker.encode([("w10 w11", " ".join(["w20", "w21", "w22"][:tokens]))])
        (cut,) = reranker.encode([("w10 w11", "w20 w21 w22")], max_text_tokens=tokens)
        assert cut.ids.tolist() == short.ids.tolist()
        assert cut.type_split == short.type_split
        assert cut.text_cut == max(0, 3 - tokens)
        assert cut.tokens_given == whole.tokens_given
