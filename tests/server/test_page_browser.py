"""The page at `/` in a browser, before a server that runs: what people see, hear and copy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.process import Server

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
AWKWARD = [
    """It's "quoted" \\ and \\n is no newline; $HOME `id` $(id) !! !x 100%""",
    "two\nlines, the second with a tab\tand an apostrophe's end'",
    "שלום \u202eלהפך\u202c עולם, ‏נקודה!",
    "植物 🌱 é \u2028 \u00a0 \ufeff ಠ",
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    '"><svg onload=window.hit=1> {{7*7}} ${7*7} javascript:window.hit=1',
]
# The least contrast of a text with what is behind it, and which text that is.
LEAST_CONTRAST = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const channel = (v) => v <= 0.03928 * 255 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] === 1) return c;
    }
  };
  let least = [99, ""];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!(own || e.value) || !e.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, e.outerHTML.slice(0, 80)];
  }
  return least;
}"""


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[Server]:
    """A server that logs the texts it gets."""
    running = Server(tiny_model, "--log-text")
    yield running
    running.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page; in the end, it asked nobody but its server, and broke nothing."""
    contexts, asked, complaints = [], [], []
    origins: set[str] = set()

    def open_page(url: str, **options: Any) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        origins.add(httpx.URL(url).netloc.decode())
        page = context.new_page()
        page.on("request", lambda r: asked.append(r.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("console", lambda m: complaints.append(m.text) if _is_complaint(m) else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {httpx.URL(url).netloc.decode() for url in asked} <= origins


def _is_complaint(message: Any) -> bool:
    """Of the page; browsers themselves complain of every status that is not 200."""
    return message.type in ("error", "warning") and "Failed to load" not in message.text


def rank(page: Any, query: str, documents: list[str], *, lines: bool = True) -> None:
    page.get_by_role("textbox", name="Query").fill(query)
    page.get_by_role("textbox", name="Documents").fill(("\n" if lines else "\n\n").join(documents))
    page.get_by_label("a line" if lines else "a block").check()
    page.get_by_role("button", name="Rank", exact=True).click()


def shown(page: Any) -> list[tuple[int, str, float]]:
    """Document, score and bar of each row, once there are rows."""
    page.locator("#results > li").first.wait_for()
    rows = page.locator("#results > li").evaluate_all(
        """rows => rows.map((row) => [
          Number(row.querySelector(".origin").textContent.split(" ")[1]) - 1,
          row.querySelector(".score").textContent,
          row.querySelector(".bar").getBoundingClientRect().width /
            row.querySelector(".track").getBoundingClientRect().width,
        ])"""
    )
    return [tuple(row) for row in rows]


def answered(server: Server, query: str, documents: list[str]) -> list[dict[str, Any]]:
    r = server.http.post("/v1/rerank", json={"query": query, "documents": documents})
    return r.json()["results"]


def error_of(page: Any) -> str:
    place = page.locator(".error:visible")
    place.wait_for()
    return place.inner_text()


def test_the_example_is_ranked_by_keyboard_alone(server: Server, visit: Callable[..., Any]) -> None:
    page = visit(server.url)
    focused = "document.activeElement.textContent || document.activeElement.id"
    order = []
    while (name := page.evaluate(focused)) != "English":
        assert len(order) < 10
        order.append(name)
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert "14 documents" in page.get_by_role("status").first.inner_text()
    while page.evaluate(focused) != "Rank":
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid", page.evaluate(focused)
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    rows = shown(page)
    query = page.get_by_role("textbox", name="Query").input_value()
    documents = page.get_by_role("textbox", name="Documents").input_value().split("\n")
    results = answered(server, query, documents)
    assert [row[0] for row in rows] == [r["index"] for r in results]
    assert [row[1] for row in rows] == [f"{r['relevance_score']:.4f}" for r in results]
    assert [row[2] for row in rows] == pytest.approx(
        [r["relevance_score"] for r in results], abs=0.01
    )
    said = page.get_by_role("status").first.inner_text()
    assert said.startswith("Ranked 14 documents in ")
    assert f"Best: document {results[0]['index'] + 1}," in said
    facts = page.locator("#facts").inner_text()
    assert facts.count(" ms") == 4
    assert "tiny" in facts


def test_texts_from_right_to_left_are_shown_so(server: Server, visit: Callable[..., Any]) -> None:
    page = visit(server.url)
    page.get_by_role("button", name="العربية").click()
    direction = "e => getComputedStyle(e).direction"
    assert page.get_by_role("textbox", name="Query").evaluate(direction) == "rtl"
    page.keyboard.press("Control+Enter")  # the button has the focus: nothing happens
    page.get_by_role("textbox", name="Documents").press("Control+Enter")
    shown(page)
    directions = page.locator("#results .text").evaluate_all(
        "all => all.map(e => [e.textContent, getComputedStyle(e).direction])"
    )
    for text, found in directions:
        from_right = "\u0590" <= text[0] <= "\u06ff"
        assert found == ("rtl" if from_right else "ltr"), text
    assert sum(found == "rtl" for _, found in directions) == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(server: Server, visit: Callable[..., Any], scheme: str) -> None:
    page = visit(server.url, color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground[4:].split(",")[0]) > 128) == (scheme == "light")
    page.get_by_text("API key").first.click()
    rank(page, "w10", ["w10 w11", "w12 " * 9000])
    shown(page)
    page.get_by_text("curl, for").click()
    assert page.evaluate(LEAST_CONTRAST)[0] >= 4.5, page.evaluate(LEAST_CONTRAST)
    rank(page, "", [])
    error_of(page)
    assert page.evaluate(LEAST_CONTRAST)[0] >= 4.5, page.evaluate(LEAST_CONTRAST)


def test_nothing_is_wider_than_a_narrow_screen(server: Server, visit: Callable[..., Any]) -> None:
    page = visit(server.url, viewport={"width": 320, "height": 640})
    rank(page, "w10", ["w10 w11", "w12" * 400, *AWKWARD[2:]])
    shown(page)
    page.get_by_text("curl, for").click()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 320


def test_texts_are_never_markup_and_snippets_send_them_to_the_letter(
    server: Server, visit: Callable[..., Any]
) -> None:
    page = visit(server.url)
    rank(page, AWKWARD[0], AWKWARD, lines=False)
    rows = shown(page)
    texts = page.locator("#results .text").evaluate_all("all => all.map(e => e.textContent)")
    assert texts == [AWKWARD[row[0]] for row in rows]
    assert page.evaluate("window.hit === undefined")
    expected = answered(server, AWKWARD[0], AWKWARD)
    run_python = [sys.executable, "-c", page.locator("#python").text_content()]
    lines = run(run_python).splitlines()
    assert [line.split() for line in lines] == [
        [str(r["relevance_score"]), "document", str(r["index"] + 1)] for r in expected
    ]
    curl = page.locator("#curl").text_content()
    for told in (curl, page.locator("#python").text_content()):
        assert not {"\u202e", "\u2028", "\ufeff"} & set(told)
    results = json.loads(run(["bash"], curl))["results"]
    assert [(r["index"], r["relevance_score"]) for r in results] == [
        (r["index"], r["relevance_score"]) for r in expected
    ]
    wanted = [[AWKWARD[0], text] for text in AWKWARD]
    server.eventually(lambda: sent(server)[-4:] == [wanted] * 4)  # page, httpx, python, curl


def test_snippets_of_long_texts_run_too(server: Server, visit: Callable[..., Any]) -> None:
    page = visit(server.url, permissions=["clipboard-read", "clipboard-write"])
    documents = ["é" * 60_000 + "! it's w10", "w11"]
    rank(page, "w10", documents)
    shown(page)
    page.get_by_text("curl, for").click()
    for name, command in (("curl command", ["bash"]), ("Python code", [sys.executable, "-"])):
        page.get_by_role("button", name=f"Copy the {name}").click()
        said = page.locator(f"p:has(button[aria-label$='{name}']) .copied")
        said.get_by_text("Copied.").wait_for()
        run(command, page.evaluate("navigator.clipboard.readText()"))
    wanted = [["w10", text] for text in documents]
    server.eventually(lambda: sent(server)[-3:] == [wanted] * 3)


def run(command: list[str], stdin: str = "", **environment: str) -> str:
    done = subprocess.run(
        command, input=stdin, capture_output=True, encoding="utf-8", timeout=60,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def sent(server: Server) -> list[Any]:
    """The pairs of every request, from the server's log."""
    rows = [json.loads(line) for line in list(server.log) if line.startswith("{")]
    return [row["pairs"] for row in rows if row["event"] == "pairs"]


def test_a_document_over_the_limit_is_marked_as_cut(
    server: Server, visit: Callable[..., Any]
) -> None:
    page = visit(server.url)
    documents = ["w10", "w11 " * 9000, "w12"]
    rank(page, "w10", documents)
    rows = shown(page)
    marked = page.locator("#results > li").evaluate_all(
        "rows => rows.map((row) => row.querySelector('.cut') !== null)"
    )
    assert [row[0] for row, mark in zip(rows, marked, strict=True) if mark] == [1]
    assert page.get_by_role("status").first.inner_text().endswith("1 document was cut.")
    page.get_by_role("button", name="Show all 36,000 characters").click()
    assert documents[1] in page.locator("#results .text").all_text_contents()


def test_a_hundred_rows_are_shown_at_first(server: Server, visit: Callable[..., Any]) -> None:
    page = visit(server.url)
    rank(page, "w10", [f"w{n}" for n in range(130)])
    assert len(shown(page)) == 100
    page.get_by_role("button", name="Show the other 30 documents").click()
    assert [row[0] for row in shown(page)] == [
        r["index"] for r in answered(server, "w10", [f"w{n}" for n in range(130)])
    ]


def test_the_page_asks_for_a_key_where_the_server_does(
    tiny_model: Path, visit: Callable[..., Any]
) -> None:
    server = Server(tiny_model, "--api-key", "open-sesame")
    try:
        page = visit(server.url)
        field = page.locator("#key")
        assert not field.is_visible()
        rank(page, "w10", ["w10", "w11"])
        assert error_of(page) == ("This server asks for an API key. Enter it here, and rank again.")
        assert field.is_visible()
        assert page.evaluate("document.activeElement.id") == "key"
        for wrong, words in (("sesame", "does not know this API key"), ("é", "letters, digits")):
            page.keyboard.press("Control+A")
            page.keyboard.type(wrong)
            page.keyboard.press("Enter")
            page.get_by_text(words).wait_for()
        page.keyboard.press("Control+A")
        page.keyboard.type("open-sesame")
        page.keyboard.press("Enter")
        rows = shown(page)
        assert page.locator(".error:visible").count() == 0
        assert "open-sesame" not in page.content()
        for command, block in (([sys.executable, "-"], "#python"), (["bash"], "#curl")):
            code = page.locator(block).text_content()
            out = run(command, code, POLYRANK_API_KEY="open-sesame")
            assert f"{rows[0][1][:5]}" in out
    finally:
        server.end()


def test_errors_say_what_to_do(tiny_model: Path, visit: Callable[..., Any]) -> None:
    server = Server(tiny_model, "--max-documents", "3", "--max-body-bytes", "9000")
    try:
        page = visit(server.url)
        rank(page, " ", ["w10"])
        assert error_of(page) == "Enter a query."
        assert page.evaluate("document.activeElement.id") == "query"
        rank(page, "w10", [" ", ""])
        assert error_of(page) == "Enter documents, or load an example."
        rank(page, "w10", ["w10"] * 4)
        page.get_by_text("expected at most 3 documents, got 4").wait_for()
        rank(page, "w10", ["w10 " * 3000])
        page.get_by_text("too large for one request").wait_for()
        assert "--max-body-bytes" in error_of(page)
        rank(page, "w10", ["w10"])
        shown(page)
        server.process.kill()
        server.wait()
        rank(page, "w10", ["w10"])
        assert error_of(page).startswith("The server does not answer. See whether it still runs")
        assert page.locator("#results").is_hidden()
    finally:
        server.end()


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (429, {"retry-after": "7"}, "Rank again in 7 seconds."),
        (503, {"retry-after": "1"}, "Rank again in a second."),
        (504, {}, "--request-timeout-seconds"),
        (500, {"x-request-id": "abc"}, "The server's log says why, at request abc."),
        (404, {}, "If a proxy is before the server"),
        (200, {}, "is not polyrank"),
    ],
)
def test_trouble_of_a_server_is_put_in_words(
    server: Server, visit: Callable[..., Any], status: int, headers: dict[str, str], words: str
) -> None:
    page = visit(server.url)
    page.route(
        "**/v1/rerank",
        lambda route: route.fulfill(status=status, headers=headers, body='{"detail": "so it is"}'),
    )
    rank(page, "w10", ["w10"])
    assert words in error_of(page)
    assert ("so it is" in error_of(page)) == (status in (429, 503, 504, 500))
    page.unroute("**/v1/rerank")
    rank(page, "w10", ["w10"])
    assert len(shown(page)) == 1
    assert page.locator(".error:visible").count() == 0


def test_a_ranking_can_be_stopped(server: Server, visit: Callable[..., Any]) -> None:
    page = visit(server.url)
    page.route("**/v1/rerank", lambda route: None)
    rank(page, "w10", ["w10"])
    page.get_by_role("button", name="Stop").click()
    assert page.get_by_role("status").first.inner_text() == "Stopped."
    assert page.evaluate("document.activeElement.id") == "rank"


def test_the_page_works_behind_a_prefix(server: Server, visit: Callable[..., Any]) -> None:
    page = visit(server.url)
    page.route(
        f"{server.url}/under/this/**",
        lambda route: route.fulfill(
            response=route.fetch(url=route.request.url.replace("/under/this", ""))
        ),
    )
    page.goto(f"{server.url}/under/this/")
    rank(page, "w10", ["w10", "w11"])
    assert len(shown(page)) == 2
    assert f'"{server.url}/under/this/v1/rerank"' in page.locator("#python").text_content()
