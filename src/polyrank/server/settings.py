"""What a server can be told: one class, and where its values come from.

Flags before the environment (`POLYRANK_MAX_DOCUMENTS`), the environment before a TOML file, that
before the defaults. Besides `POLYRANK_THREADS`, which the backends read too, nobody else reads
these variables.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from polyrank.errors import InputError

__all__ = ["ENVIRONMENT_PREFIX", "ServerSettings", "kind_of", "read_settings"]

ENVIRONMENT_PREFIX = "POLYRANK_"
_CONFIG = "POLYRANK_CONFIG"
# Kubernetes and Docker tell every container of a service named polyrank where that service is.
_SERVICE_LINK = re.compile(r"POLYRANK_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP)\w*)?)")
_LINK_VALUE = re.compile(r"(tcp|udp)://")
_ORIGIN = re.compile(r"\*|null|(?!https://.*:443$|http://.*:80$)[a-z][a-z0-9+.-]*://[^/?#*\sA-Z]+")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _setting(
    default: Any, help: str, group: str, *, least: float | None = None, secret: bool = False
) -> Any:
    metadata = {"help": help, "group": group, "least": least}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Every setting of a server; the help texts are the flags' too."""

    model: str | None = _setting(
        None,
        "A folder, a hub id (owner/name) or a short name; without it, the embedded model.",
        "Model",
    )
    revision: str | None = _setting(None, "Branch, tag or commit of a hub model.", "Model")
    backend: str = _setting("auto", "auto, onnx (CPUs) or torch.", "Model")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:N or mps.", "Model")
    dtype: str = _setting(
        "auto", "auto, fp32, int8 (onnx), bf16 or fp16 (torch); int8 is fast on CPUs.", "Model"
    )
    max_length: int | None = _setting(
        None, "Limit of a pair in tokens; the model's own, unless given.", "Model", least=1
    )
    max_query_tokens: int | None = _setting(
        None, "What a query keeps when a pair is cut; half of the limit, unless given.", "Model",
        least=1,
    )  # fmt: skip
    threads: int | None = _setting(
        None, "CPU threads; what affinity and the container allow, unless given.", "Model", least=1
    )
    on_overflow: str = _setting(
        "truncate",
        "What is done with pairs over the limit. truncate: texts are cut, and metrics and headers "
        "tell. windows: texts are read in overlapping parts, and the best one counts.",
        "Model",
    )
    calibration: str | None = _setting(
        None, "A file of `polyrank calibrate`: scores are probabilities.", "Model"
    )
    offline: bool = _setting(False, "Never connect; use what is on this machine.", "Model")
    served_name: tuple[str, ...] = _setting(
        (),
        "What the model is called in answers; repeat it for further names that clients may ask "
        "for. The model's own name, unless given.",
        "Model",
    )
    unknown_models: str = _setting(
        "answer",
        "What happens to a request for a model of another name. answer: it is served by this "
        "one, for clients whose model names are built in. refuse: an error.",
        "Model",
    )

    host: str = _setting(
        "127.0.0.1",
        "Address to listen on. 0.0.0.0 and :: let other machines in: use keys then.",
        "Network",
    )
    port: int = _setting(8000, "Port to listen on; 0 takes a free one.", "Network", least=0)
    reuse_port: bool = _setting(
        False, "Let several servers listen on one port; the kernel deals connections out.",
        "Network",
    )  # fmt: skip
    page: bool = _setting(True, "Serve a page at / to try the model with, in a browser.", "Network")
    cors_origin: tuple[str, ...] = _setting(
        (), "A web origin whose pages may call the server (https://example.org); repeat it.",
        "Network",
    )  # fmt: skip

    api_key: tuple[str, ...] = _setting(
        (),
        "A key that clients must send, as `Authorization: Bearer KEY`; repeat it. Other users of "
        "the machine see flags: use the environment or --api-key-file.",
        "Access",
        secret=True,
    )
    api_key_file: str | None = _setting(
        None, "A file of keys, one a line; changes count at once, without a restart.", "Access"
    )

    max_body_bytes: int = _setting(16 << 20, "Size of a request's body.", "Limits", least=1)
    max_documents: int = _setting(10_000, "Documents of one request.", "Limits", least=1)
    max_request_tokens: int = _setting(
        1_000_000, "Tokens of one request's pairs, after cutting.", "Limits", least=1
    )
    max_queue_tokens: int = _setting(
        2_000_000,
        "Tokens that may wait; more is answered with 429. About what the machine does in the "
        "seconds that a client would wait.",
        "Limits",
        least=1,
    )
    max_requests: int = _setting(
        256, "Requests under way at once; more is answered with 429.", "Limits", least=1
    )
    max_batch_tokens: int | None = _setting(
        None, "Tokens of one forward pass; what runs fastest, unless given.", "Limits", least=1
    )

    request_timeout_seconds: float = _setting(
        60.0,
        "Time to score a request; what takes longer is answered with 504.",
        "Time",
        least=0.001,
    )
    receive_timeout_seconds: float = _setting(
        20.0, "Time for a client to send its headers, and then its body.", "Time", least=0.001
    )
    idle_timeout_seconds: float = _setting(
        65.0, "How long a connection without a request stays open.", "Time", least=0
    )
    drain_delay_seconds: float = _setting(
        0.0,
        "After SIGTERM, how long to go on listening and answer 503, so that balancers see it.",
        "Time",
        least=0,
    )
    drain_timeout_seconds: float = _setting(
        30.0, "After SIGTERM, how long requests under way may take.", "Time", least=0
    )

    workers: int = _setting(
        1,
        "Processes behind the port, each with the model and its part of the threads; one that ends "
        "is started again.",
        "Operation",
        least=1,
    )
    tokenizer_threads: int = _setting(2, "Requests tokenised at once.", "Operation", least=1)
    otlp_endpoint: str | None = _setting(
        None,
        "Where a span of each request goes, by OTLP over HTTP (http://collector:4318). "
        "OTEL_EXPORTER_OTLP_ENDPOINT is read too. Needs the extra `otel`.",
        "Operation",
    )
    cache_pairs: int = _setting(
        0, "Scores kept in memory, about 200 bytes each; 0: none.", "Operation", least=0
    )
    log_text: bool = _setting(
        False, "Write queries and documents to the log; they may be private.", "Operation"
    )
    log_level: str = _setting("info", "debug, info, warning or error.", "Operation")

    def __post_init__(self) -> None:
        for f in fields(self):
            value, least = getattr(self, f.name), f.metadata["least"]
            if least is not None and value is not None and not least <= value < float("inf"):
                raise InputError(f"expected {f.name} from {least}, got {value!r}")
        _check_choice("on_overflow", self.on_overflow, ("truncate", "windows"))
        _check_choice("unknown_models", self.unknown_models, ("answer", "refuse"))
        _check_choice("log_level", self.log_level, ("debug", "info", "warning", "error"))
        if not self.port <= 65535:
            raise InputError(f"expected port up to 65535, got {self.port}")
        for origin in self.cors_origin:
            if not _ORIGIN.fullmatch(origin):
                raise InputError(
                    "expected cors_origin as browsers write it, *, null or SCHEME://HOST[:PORT] in "
                    "lower case, without a port that is the scheme's own and without a slash at "
                    f"the end, got {origin!r}"
                )
        if any(not key.strip() or not key.isascii() for key in self.api_key):
            raise InputError("expected api_key in ASCII and not blank; leave it out for no keys")


def read_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], *, config: str | Path | None = None
) -> ServerSettings:
    """Settings from flags (None: not given), the environment and a TOML file.

    `config` is the file; without it, the one that POLYRANK_CONFIG names, or none. Raises
    InputError for an unknown key, naming the nearest, and for a value of the wrong type.
    """
    path = config or environment.get(_CONFIG)
    values = _from_file(Path(path)) if path else {}
    values |= _from_environment(environment)
    values |= {name: value for name, value in flags.items() if value is not None}
    return ServerSettings(**values)


def kind_of(setting: Field[Any]) -> tuple[Any, bool]:
    """A setting's type (bool, int, float, str or tuple), and whether it may be None."""
    hint = get_type_hints(ServerSettings)[setting.name]
    kinds = [k for k in get_args(hint) if k in (bool, int, float, str)] if get_args(hint) else []
    if hint == tuple[str, ...]:
        return tuple, False
    return (kinds[0], True) if kinds else (hint, False)


def _from_file(path: Path) -> dict[str, Any]:
    # Imported here: on Python 3.10 it is a package of the server's, and the command line has none.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"expected settings at {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"expected UTF-8 in {path}: {error}") from error
    try:
        rows = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"expected TOML in {path}: {error}") from error
    return {name: _typed(_known(name, str(path)), value, path) for name, value in rows.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == _CONFIG:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        known = {f.name: f for f in fields(ServerSettings)}
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if near and not _SERVICE_LINK.fullmatch(variable):
                raise InputError(
                    f"expected a setting's variable, got {variable}; did you mean "
                    f"{ENVIRONMENT_PREFIX}{near[0].upper()}?"
                )
            continue  # some other program's, or another command's
        if text.strip() and not (_SERVICE_LINK.fullmatch(variable) and _LINK_VALUE.match(text)):
            values[name] = _parsed(known[name], text.strip(), variable)
    return values


def _known(name: str, where: str) -> Field[Any]:
    known = {f.name: f for f in fields(ServerSettings)}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
        raise InputError(f"expected a setting, got {name!r} in {where}{hint}")
    return known[name]


def _typed(setting: Field[Any], value: Any, path: Path) -> Any:
    """A TOML value as the setting's type; a single text is a list of one."""
    kind, _ = kind_of(setting)
    if kind is tuple:
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(t, str) for t in texts):
            return tuple(texts)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    wanted = "a list of texts" if kind is tuple else kind.__name__
    got = repr(value) if setting.repr else type(value).__name__  # a secret stays one
    raise InputError(f"expected {wanted} for {setting.name} in {path}, got {got}")


def _parsed(setting: Field[Any], text: str, variable: str) -> Any:
    """An environment variable's text as the setting's type; a list has commas between."""
    kind, _ = kind_of(setting)
    if kind is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise InputError(f"expected {variable} as true or false, got {text!r}")
        return _BOOLEANS[text.lower()]
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"expected {variable} as {kind.__name__}, got {text!r}") from None


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"expected {name} to be {' or '.join(choices)}, got {value!r}")
