from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from polyrank import InputError
from polyrank.cli.serve import serve
from polyrank.server import ServerSettings, read_settings


def test_flags_come_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 1\nmax_documents = 1\nlog_text = true\napi_key = ["a", "b"]\n')
    environment = {"POLYRANK_PORT": "2", "POLYRANK_MAX_DOCUMENTS": "2", "OTHER": "x"}
    settings = read_settings({"port": 3, "host": None}, environment, config=file)
    assert (settings.port, settings.max_documents, settings.log_text) == (3, 2, True)
    assert settings.api_key == ("a", "b")
    assert settings.host == ServerSettings().host
    named = read_settings({}, {"POLYRANK_CONFIG": str(file)})
    assert named.port == 1


def test_the_environment_is_read_by_type() -> None:
    settings = read_settings(
        {},
        {
            "POLYRANK_API_KEY": "one, two",
            "POLYRANK_OFFLINE": "yes",
            "POLYRANK_REQUEST_TIMEOUT_SECONDS": "1.5",
            "POLYRANK_MAX_LENGTH": "64",
            "POLYRANK_HOST": "",
        },
    )
    assert settings.api_key == ("one", "two")
    assert (settings.offline, settings.request_timeout_seconds) == (True, 1.5)
    assert (settings.max_length, settings.host) == (64, "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_document = 5", "did you mean 'max_documents'"),
        ("[server]\nport = 1", "expected a setting, got 'server'"),
        ("port = '80'", "expected int for port"),
        ("port = true", "expected int for port"),
        ("port = 70000", "expected port up to 65535"),
        ("max_documents = 0", "expected max_documents from 1, got 0"),
        ("request_timeout_seconds = 0", "request_timeout_seconds from 0.001, got 0"),
        ("request_timeout_seconds = inf", "expected request_timeout_seconds from 0"),
        ("unknown_models = 'maybe'", "expected unknown_models to be answer or refuse"),
        ("api_key = [1]", "expected a list of texts for api_key"),
        ("api_key = ' '", "expected api_key in ASCII and not blank"),
        ("port = ", "expected TOML in"),
    ],
)
def test_a_wrong_file_is_refused_with_its_reason(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        read_settings({}, {}, config=file)
    with pytest.raises(InputError, match="expected settings at"):
        read_settings({}, {}, config=tmp_path / "none.toml")


def test_a_misspelt_variable_is_refused_and_those_of_others_are_not() -> None:
    with pytest.raises(InputError, match="did you mean POLYRANK_MAX_DOCUMENTS"):
        read_settings({}, {"POLYRANK_MAX_DOCUMENT": "5"})
    with pytest.raises(InputError, match="expected POLYRANK_PORT as int, got 'x'"):
        read_settings({}, {"POLYRANK_PORT": "x"})
    with pytest.raises(InputError, match="POLYRANK_OFFLINE as true or false"):
        read_settings({}, {"POLYRANK_OFFLINE": "perhaps"})
    kubernetes = {  # what a service of the name polyrank puts into every container
        "POLYRANK_SERVICE_HOST": "10.0.0.1",
        "POLYRANK_SERVICE_PORT": "80",
        "POLYRANK_PORT": "tcp://10.0.0.1:80",
        "POLYRANK_PORT_80_TCP": "tcp://10.0.0.1:80",
        "POLYRANK_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert read_settings({}, {**kubernetes, "POLYRANK_OFFICIAL_WEIGHTS": "x"}) == ServerSettings()


@pytest.mark.parametrize(
    "origin",
    [
        "https://a.example/",
        "a.example",
        "",
        "https://A.example",
        "https://*.a.example",
        "https://a.example:443",
        "http://a.example:80",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(InputError, match="expected cors_origin as browsers write it"):
        ServerSettings(cors_origin=(origin,))
    good = ("*", "null", "http://localhost:3000", "app://obsidian.md", "http://a.example:443")
    assert ServerSettings(cors_origin=good).cors_origin == good


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(ServerSettings(api_key=("secret",)))
    with pytest.raises(InputError) as error:
        ServerSettings(api_key=("geh\u00e9im",))
    assert "\u00e9" not in str(error.value)


def test_every_setting_is_a_flag_that_says_what_it_does() -> None:
    flags = set(inspect.signature(serve).parameters)
    assert flags == {f.name for f in fields(ServerSettings)} | {"config", "debug"}
    assert all(f.metadata["help"].endswith(".") for f in fields(ServerSettings))
