"""The server's parts by themselves."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank import InputError, Reranker
from polyrank.engine import Forward
from polyrank.server.batches import Pace, Ticket
from polyrank.server.cache import Known, ScoreCache
from polyrank.server.encoder import Encoder, pieces
from polyrank.server.keys import Keys
from polyrank.server.logs import JsonLines
from polyrank.server.turnstile import Turnstile
from polyrank.values import Encoding


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst\n\nsecond\n")
    keys = Keys(["fixed"], str(file))
    assert [keys.good(k) for k in ("fixed", "first", "second", "third", "", "# ours")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    file.write_text("third\n")
    assert [keys.good(k) for k in ("fixed", "first", "third")] == [True, False, True]
    file.unlink()
    assert keys.good("third")  # a file that is being replaced closes nobody out


def test_an_empty_file_of_keys_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("")
    keys = Keys([], str(file))
    assert keys.needed
    assert not keys.good("")
    with pytest.raises(InputError, match="expected API keys in"):
        Keys([], str(tmp_path / "none"))


def test_a_file_of_keys_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbffirst\r\nsecond\r\n")
    keys = Keys([], str(file))
    assert [keys.good(k) for k in ("first", "second")] == [True, True]


def test_a_file_of_keys_that_no_header_can_have_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("# für uns\nfirst\n", encoding="utf-8")
    keys = Keys([], str(file))
    file.write_text("# für uns\nfirst\n\ngeheím\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"in ASCII in .*line 4") as error:
        Keys([], str(file))
    assert "geheím" not in str(error.value)
    assert keys.good("first")
    assert [r.getMessage() for r in caplog.records] == ["cannot read the file of API keys"]


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr("hmac.compare_digest", compare)
    keys = Keys(["one", "a much longer key"])
    assert keys.good("one")
    assert not keys.good("x")
    assert len(compared) == 4  # every key each time, also after one that is right
    assert {len(side) for pair in compared for side in pair} == {32}


def test_the_cache_forgets_what_was_not_used_for_longest() -> None:
    cache = ScoreCache(2, ("model",))
    a, b, c = cache.keys([("q", "a"), ("q", "b"), ("q", "c")], None)
    cache.put(a, Known(1.0, 5, 5))
    cache.put(b, Known(2.0, 5, 5))
    assert cache.get(a) == Known(1.0, 5, 5)
    cache.put(c, Known(3.0, 5, 5))
    assert [cache.get(k) is not None for k in (a, b, c)] == [True, False, True]


def test_a_cache_key_tells_apart_whatever_decides_a_score() -> None:
    keys = [
        *ScoreCache(9, ("m",)).keys([("ab", "c"), ("a", "bc"), ("", "abc"), ("c", "ab")], None),
        *ScoreCache(9, ("m",)).keys([("ab", "c")], 5),
        *ScoreCache(9, ("other",)).keys([("ab", "c")], None),
    ]
    assert len(set(keys)) == len(keys) == 6
    assert ScoreCache(0, ("m",)).keys([("a", "b")], None) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12), st.integers(0, 99))
def test_nobody_is_forgotten_at_the_turnstile(requests: list[tuple[int, bool]], seed: int) -> None:
    async def run() -> None:
        turnstile, random = Turnstile(), Random(seed)

        async def go(priority: int) -> None:
            async with turnstile.turn(priority, 10):
                await asyncio.sleep(0)

        tasks = []
        for priority, cancelled in requests:
            tasks.append(asyncio.ensure_future(go(priority)))
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
            if cancelled:
                tasks[random.randrange(len(tasks))].cancel()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert all(d is None or isinstance(d, asyncio.CancelledError) for d in done)
        assert (turnstile.waiting_tokens, turnstile._first()) == (0, float("inf"))

    asyncio.run(run())


def test_the_most_urgent_go_first_and_their_equals_with_them() -> None:
    async def run() -> list[int]:
        turnstile, entered = Turnstile(), list[int]()

        async def go(priority: int) -> None:
            async with turnstile.turn(priority, 10):
                entered.append(priority)
                await asyncio.sleep(0.001)

        async with turnstile.turn(0, 10):
            tasks = [asyncio.ensure_future(go(p)) for p in (5, 3, 5, 0, 3)]
            await asyncio.sleep(0.01)
            assert entered == [0]
            assert turnstile.waiting_tokens == 40
        await asyncio.gather(*tasks)
        return entered

    assert asyncio.run(run()) == [0, 3, 3, 5, 5]


def test_pieces_are_all_pairs_in_order_and_bounded() -> None:
    pairs = [("q", "x" * (n % 7) * 40_000) for n in range(500)]
    cut = list(pieces(pairs))
    assert [p for piece in cut for p in piece] == pairs
    assert max(map(len, cut)) <= 128
    for piece in cut:
        assert len(piece) == 1 or sum(len(q) + len(t) for q, t in piece) <= 1 << 18
    assert list(pieces([])) == []


@pytest.mark.parametrize("max_text_tokens", [None, 5])
def test_of_a_very_long_text_only_the_beginning_is_read(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, max_text_tokens: int | None
) -> None:
    long, blanks = "w5 w6 w7 " * 5000, "w8" + " " * 3000 + "w9"
    pairs = [
        ("w1", "w2"), ("w1", long), (long, "w2"), (long, long), ("w1", blanks), (blanks, "w2"),
        (blanks, long),
    ]  # fmt: skip
    given: list[tuple[str, str]] = []
    with Reranker(tiny_model, max_length=24) as own:
        expected = own.encode(pairs, max_text_tokens=max_text_tokens)
        encode = own.encode

        def spy(pairs: list[tuple[str, str]], **options: Any) -> list[Encoding]:
            given.extend(pairs)
            return encode(pairs, **options)

        monkeypatch.setattr(own, "encode", spy)
        encoder = Encoder(1)
        encodings = asyncio.run(encoder.encode(own, pairs, max_text_tokens))
        encoder.close()
    assert [e.ids.tolist() for e in encodings] == [e.ids.tolist() for e in expected]
    for got, wanted in zip(encodings, expected, strict=True):
        assert (got.query_cut > 0, got.text_cut > 0) == (wanted.query_cut > 0, wanted.text_cut > 0)
    assert [e.tokens_given for e in encodings[4:6]] == [e.tokens_given for e in expected[4:6]]
    # Whole are those alone whose beginnings are blank.
    assert [pair for pair in given if max(map(len, pair)) > 32 * 24] == pairs[4:]


def test_in_windows_all_of_a_very_long_text_is_read(tiny_model: Path) -> None:
    pairs = [("w1", "w5 w6 w7 " * 200)]
    with Reranker(tiny_model, max_length=24, on_overflow="windows") as own:
        encoder = Encoder(1)
        (encoding,) = asyncio.run(encoder.encode(own, pairs, None))
        encoder.close()
    assert len(encoding) > 600


def test_a_pass_counts_once_and_tells_waiting_from_running() -> None:
    passes: list[tuple[int, float]] = []
    pace = Pace(lambda tokens, seconds: passes.append((tokens, seconds)))
    ticket, start = Ticket(), time.perf_counter()
    first = Forward(number=0, tokens=90, began=start + 1, ended=start + 2)
    beside = Forward(number=1, tokens=30, began=start + 1.5, ended=start + 3)
    for forward in (beside, first):
        ticket.passed(forward)
    for forward in (first, beside, first):
        pace.passed(forward)
    assert [tokens for tokens, _ in passes] == [90, 30]
    assert [seconds for _, seconds in passes] == pytest.approx([1.0, 1.5])
    assert (ticket.waited, ticket.ran) == pytest.approx((1.0, 2.0), abs=0.01)
    assert pace.seconds(600) == 11  # 111 tokens in 1.9 s, the older a little less
    assert (pace.seconds(0), pace.seconds(10**9)) == (1, 60)


def test_a_log_line_is_json_whatever_is_in_it() -> None:
    record = logging.makeLogRecord(
        {"msg": 'say "%s"', "args": ("a\nb",), "levelname": "INFO", "pairs": [("q", "\ud800")]}
    )
    line = JsonLines().format(record)
    assert "\n" not in line
    row = json.loads(line)
    assert (row["event"], row["level"], row["pairs"]) == ('say "a\nb"', "info", [["q", "\ud800"]])
    line.encode("ascii")
    assert os.linesep not in line
