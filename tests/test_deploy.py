"""The files in deploy/: what they name is in /metrics, in the settings and in the repository."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import yaml

from polyrank import Reranker
from polyrank.server import ServerSettings
from polyrank.server.app import build_app
from polyrank.server.problems import Kind
from polyrank.server.service import Service

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs" / "deploy.md"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "secrets" not in path.parts)
PROMETHEUS_LABELS = {"instance", "job"}
GRACE = 10  # seconds that workers get beyond their time to drain
SETTINGS = {f.name for f in fields(ServerSettings)}


def read(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


def load(name: str) -> Any:
    return yaml.safe_load(read(name))


def found(node: Any, key: str) -> Iterator[Any]:
    """Every value of a key, however deep."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from found(child, key)


def expressions() -> list[str]:
    dashboard = json.loads(read("grafana/dashboard.json"))
    return [*found(dashboard, "expr"), *found(load("alerts.yml"), "expr")]


@pytest.fixture(scope="module")
def labels(reranker: Reranker) -> dict[str, set[str]]:
    """The labels of every metric that a server shows after some traffic."""
    service = Service(ServerSettings(cache_pairs=10))
    service.use(reranker, "fingerprint")

    async def traffic() -> str:
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            body = {"model": "m", "query": "w1 w2", "documents": ["w3", "w1 w4"]}
            for documents in (body["documents"], body["documents"], []):
                await http.post("/v2/rerank", json={**body, "documents": documents})
            return (await http.get("/metrics")).text

    text = asyncio.run(traffic())
    service.encoder.close()
    shown: dict[str, set[str]] = {}
    for name, inside in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        shown.setdefault(name, set()).update(re.findall(r'(\w+)="', inside))
    return shown


@pytest.mark.parametrize("expression", expressions())
def test_a_query_names_metrics_and_labels_that_exist(
    expression: str, labels: dict[str, set[str]]
) -> None:
    names = re.findall(r"\b(?:polyrank|te)_\w+", expression)
    assert names or expression.startswith("up{"), "a query of something else"
    assert set(names) <= set(labels)
    for name, inside in re.findall(r"(\w+)\{([^}]*)\}", expression):
        used = re.findall(r'(\w+)(?:=~|!~|!=|=)"', inside)
        assert set(used) <= labels.get(name, set()) | PROMETHEUS_LABELS
        for kind in re.findall(r'kind="(\w+)"', inside):
            assert kind in get_args(Kind)
    known = set().union(*(labels[name] for name in names)) | PROMETHEUS_LABELS
    for kept in re.findall(r"by \(([\w, ]+)\)", expression):
        assert set(kept.split(", ")) <= known
    assert expression.count("(") == expression.count(")")


def test_the_dashboard_shows_what_operators_ask_for(labels: dict[str, set[str]]) -> None:
    dashboard = json.loads(read("grafana/dashboard.json"))
    names = set(re.findall(r"polyrank_\w+", " ".join(found(dashboard, "expr"))))
    parts = {
        f"polyrank_{part}_seconds_bucket" for part in ("request", "tokenize", "queue", "forward")
    }
    assert names >= parts | {
        "polyrank_requests_total", "polyrank_errors_total", "polyrank_queue_tokens",
        "polyrank_batch_tokens_bucket", "polyrank_max_batch_tokens",
        "polyrank_truncated_pairs_total", "polyrank_cache_hits_total", "polyrank_model_info",
    }  # fmt: skip
    legends = set(re.findall(r"\{\{(\w+)\}\}", " ".join(found(dashboard, "legendFormat"))))
    assert legends <= set().union(*labels.values()) | PROMETHEUS_LABELS
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in dashboard["panels"]]
    assert len(set(places)) == len(places)
    ids = [p["id"] for p in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    rules = [rule for group in load("alerts.yml")["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "action"}
    assert load("prometheus.yml")["rule_files"] == ["alerts.yml"]


@pytest.mark.parametrize("path", [*FILES, PAGE], ids=lambda p: p.name)
def test_every_variable_and_flag_is_a_setting(path: Path) -> None:
    text = path.read_text("utf-8")
    for name in re.findall(r"POLYRANK_([A-Z_]+)", text):
        assert name.lower() in SETTINGS | {"config"}
    for line in re.findall(r"polyrank serve(.*)", text):
        for flag in re.findall(r"--([a-z-]+)", line):
            assert flag.replace("-", "_") in SETTINGS | {"config", "help"}


def seconds(text: str) -> int:
    (amount,) = re.fullmatch(r"(\d+)s", text.strip()).groups()  # type: ignore[union-attr]
    return int(amount)


def test_whoever_stops_the_server_waits_longer_than_it_drains() -> None:
    default = ServerSettings()
    drain = default.drain_delay_seconds + default.drain_timeout_seconds
    assert (
        seconds(load("compose.yaml")["services"]["polyrank"]["stop_grace_period"]) > drain + GRACE
    )
    assert (
        seconds(re.findall(r"^TimeoutStopSec=(.*)$", read("polyrank.service"), re.M)[0])
        > drain + GRACE
    )


def test_the_parts_of_the_composition_find_each_other() -> None:
    compose = load("compose.yaml")
    services = compose["services"]
    assert set(services) == {"polyrank", "prometheus", "grafana"}
    for name, service in services.items():
        pinned = re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service.get("image", ""))
        assert pinned or "build" in service, f"{name} has no fixed version"
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["cap_drop"] == ["ALL"]
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert (DEPLOY / source).is_file() if source[0] == "." else source in compose["volumes"]
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        for value in service.get("environment", {}).values():
            secret = re.fullmatch(r"/run/secrets/(\w+)", str(value))
            assert secret is None or secret[1] in service["secrets"]
    assert "deploy/secrets/\n" in (ROOT / ".gitignore").read_text()
    assert all(secret["file"].startswith("./secrets/") for secret in compose["secrets"].values())
    (scraped,) = load("prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert scraped == f"polyrank:{ServerSettings().port}"
    (source,) = load("grafana/datasource.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = load("grafana/dashboards.yaml")["providers"]
    folders = [v.split(":")[1] for v in services["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/polyrank.json" in folders


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions, those over several lines in one."""
    lines = read("Containerfile").replace("\\\n", " ").splitlines()
    rows = [line.split(maxsplit=1) for line in lines if line.strip() and line[0] != "#"]
    return [(name, " ".join(rest.split())) for name, rest in rows]


def test_the_image_runs_as_nobody_and_has_no_secrets() -> None:
    rows = instructions()
    assert all(name.isupper() for name, _ in rows)
    users = [rest for name, rest in rows if name == "USER"]
    assert users
    assert int(users[-1].partition(":")[0]) > 0
    assert not re.search(r"(?i)secret|password|token|api_key", " ".join(r for _, r in rows))
    assert not [rest for name, rest in rows if name == "ADD"]
    assert 'CMD ["serve"]' in read("Containerfile")
    versions = re.findall(r"PYTHON=(\d\.\d+)-", read("Containerfile"))
    assert f"Python :: {versions[0]}" in (ROOT / "pyproject.toml").read_text()


def test_the_image_is_built_from_files_that_exist_and_are_let_in() -> None:
    ignored = read("Containerfile.dockerignore").splitlines()
    assert "*" in ignored
    copied = [
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert "src" in copied
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    project = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'^(?:readme|license-files|path) = \[?"(.*?)"\]?$', project, re.M)
    assert len(named) == 3
    assert set(named) <= set(copied)  # the build backend wants them


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/health" else 404)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def test_the_image_is_healthy_where_health_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = [rest for name, rest in instructions() if name == "HEALTHCHECK"]
    command = json.loads(check.partition("CMD ")[2])
    assert command[0] == "python"
    with HTTPServer(("127.0.0.1", 0), _Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("POLYRANK_PORT", str(server.server_port))
        codes = []
        for server.status in (200, 503):  # type: ignore[attr-defined]
            done = subprocess.run([sys.executable, *command[1:]], capture_output=True, check=False)
            codes.append(done.returncode)
        server.shutdown()
    assert codes == [0, 1]


def test_the_service_has_rights_to_nothing() -> None:
    rows = dict(re.findall(r"^(\w+)=(.*)$", read("polyrank.service"), re.M))
    assert rows["Type"] in ("exec", "simple")
    assert rows["DynamicUser"] == rows["NoNewPrivileges"] == rows["ProtectHome"] == "yes"
    assert rows["ProtectSystem"] == "strict"
    assert rows["CapabilityBoundingSet"] == ""
    credential, _, source = rows["LoadCredential"].partition(":")
    assert f"Environment=POLYRANK_API_KEY_FILE=%d/{credential}" in read("polyrank.service")
    assert source in read("polyrank.service").partition("[Unit]")[0]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_the_service(tmp_path: Path) -> None:
    unit = tmp_path / "polyrank.service"
    unit.write_text(read("polyrank.service").replace("/opt/polyrank/bin/polyrank", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def docker(*args: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *args],
        cwd=ROOT,
        input=given,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_the_image_builds_and_ranks_without_a_network() -> None:
    if shutil.which("docker") is None or docker("info").returncode != 0:
        pytest.skip("no container engine answers")
    built = docker("build", "-q", "-f", "deploy/Containerfile", ".")
    assert built.returncode == 0, built.stderr
    options = ("--rm", "-i", "--read-only", "--network", "none")
    scored = docker(
        "run", *options, built.stdout.strip(), "score", given="solar power\tsolar panels\n"
    )
    assert scored.returncode == 0, scored.stderr
    assert 0 < float(scored.stdout) < 1
