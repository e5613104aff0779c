"""The command line of the lookup service."""

from __future__ import annotations

import pytest

from serving.app_options import AppOptions, parse
from transforms.errors import UsageError

STORE = ("--serving", "sqlite:///s.db")
TOKENS = ("--audience", "https://clv.example.com", "--caller", "a@x.iam.gserviceaccount.com")


@pytest.fixture(autouse=True)
def no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORT", raising=False)


def given(*arguments: str) -> AppOptions:
    return parse([*STORE, *arguments])


def test_what_is_not_said() -> None:
    assert given("--no_auth") == AppOptions(
        serving="sqlite:///s.db", host="127.0.0.1", port=8080, audience=None, callers=frozenset(), pointer_seconds=5.0,
        store_seconds=2.0, rows_kept=50_000, threads=8, most_requests=512,
    )  # fmt: skip


def test_what_is_said() -> None:
    arguments = (
        "--host", "0.0.0.0", "--port", "0", "--pointer_seconds", "0.5", "--store_seconds", "1", "--rows_kept", "0",
        "--threads", "64", "--most_requests", "1", *TOKENS, "--caller", "b@x.org",
    )  # fmt: skip
    assert given(*arguments) == AppOptions(
        serving="sqlite:///s.db", host="0.0.0.0", port=0, audience="https://clv.example.com",
        callers=frozenset({"a@x.iam.gserviceaccount.com", "b@x.org"}), pointer_seconds=0.5, store_seconds=1.0, rows_kept=0,
        threads=64, most_requests=1,
    )  # fmt: skip


def test_anybody_is_everybody() -> None:
    assert given("--audience", "https://clv.example.com", "--caller", "anybody").callers is None


@pytest.mark.parametrize("more", ["anybody", "serviceAccount:a@x.iam.gserviceaccount.com"])
def test_callers_that_would_mean_something_else(more: str) -> None:
    with pytest.raises(UsageError, match="--caller"):
        given(*TOKENS, "--caller", more)


def test_the_port_is_the_variables_unless_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9999")
    assert given("--no_auth").port == 9999
    assert given("--no_auth", "--port", "1").port == 1
    monkeypatch.setenv("PORT", "")
    assert given("--no_auth").port == 8080


@pytest.mark.parametrize("port", ["99999", "-1", "http", " 80", "8080/tcp"])
def test_a_variable_that_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("PORT", port)
    with pytest.raises(UsageError, match="accepted is a whole number from 0 to 65535") as error:
        given("--no_auth")
    assert repr(port) in str(error.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com", "", "127.0.0.1.example.com"])
def test_without_tokens_only_this_machine_is_listened_to(host: str) -> None:
    with pytest.raises(UsageError, match=r"--no_auth with --host .* accepted is an address of this machine alone"):
        given("--no_auth", "--host", host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_has_three_names(host: str) -> None:
    assert given("--no_auth", "--host", host).host == host


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--audience is missing: accepted are --audience and --caller, or --no_auth"),
        (("--audience", ""), "--audience is missing"),
        (("--audience", "x"), "--caller is missing"),
        (("--caller", "a@b"), "--audience is missing"),
        (("--no_auth", "--audience", "x"), "accepted is one or the other"),
        (("--no_auth", "--caller", "a@b"), "accepted is one or the other"),
        (("--audience", "x", "--caller", "shop"), "--caller 'shop' is not usable: accepted is an account's email"),
        (("--audience", "x", "--caller", "a@b", "--caller", ""), "--caller '' is not usable"),
        (("--audience", "x", "--caller", "a@b,c@d"), "--caller 'a@b,c@d' is not usable"),
        (("--no_auth", "--port", "65536"), "from 0 to 65535"),
        (("--no_auth", "--threads", "0"), "'0' is not usable"),
        (("--no_auth", "--threads", "65"), "from 1 to 64"),
        (("--no_auth", "--rows_kept", "-1"), "of at least 0"),
        (("--no_auth", "--most_requests", "0"), "of at least 1"),
        (("--no_auth", "--pointer_seconds", "0"), "accepted are seconds from 0.05 to 3600"),
        (("--no_auth", "--store_seconds", "nan"), "'nan' is not usable: accepted are seconds"),
        (("--no_auth", "--store_seconds", "inf"), "'inf' is not usable"),
        (("--no_auth", "--store_seconds", "2s"), "'2s' is not usable"),
        (("--noauth",), "did --noauth mean --no_auth?"),
    ],
)
def test_others_are_refused_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as error:
        given(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_store_is_needed_and_its_uri_looked_at() -> None:
    with pytest.raises(UsageError, match="--serving"):
        parse(["--no_auth"])
    with pytest.raises(UsageError, match="--serving 'mysql://x' is not usable: accepted is sqlite:"):
        parse(["--no_auth", "--serving", "mysql://x"])
