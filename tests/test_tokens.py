"""Tokens that renew themselves: by a connection's OAuth client, against the sandbox, kept in Airflow's Variables."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanConnectionError,
    YouCanPermissionError,
    YouCanServerError,
)
from airflow_provider_youcan.hooks import tokens
from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook, YouCanHook
from airflow_provider_youcan.sandbox import Request, Sandbox
from airflow_provider_youcan.sandbox.shop import CLIENT_ID, CLIENT_SECRET, TOKEN_SECONDS
from tests.conftest import RunDag

Call = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_variables(_airflow_database: None) -> Iterator[None]:
    from airflow.utils.session import create_session

    def delete() -> None:
        with create_session() as session:
            session.execute(text("delete from variable"))

    delete()
    yield
    delete()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No one waits for another task that may have renewed the token."""
    monkeypatch.setattr(tokens, "_WAIT_FOR_OTHER_SECONDS", 0)


@pytest.fixture(params=["requests", "aiohttp"])
def ask(request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[Call]:
    """``ask()`` asks the shop for an order through either hook; one hook lasts for the whole test."""
    order_id = sandbox.shop.order_ids()[0]
    if request.param == "requests":
        hook = YouCanHook()
        yield lambda: hook.get_order(order_id)
        return
    loop = asyncio.new_event_loop()
    async_hook = YouCanAsyncHook()
    yield lambda: loop.run_until_complete(async_hook.get_order(order_id))
    loop.run_until_complete(async_hook.close())
    loop.close()


@pytest.fixture
def connect(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Call:
    """``connect(issued)`` makes the connection hold the OAuth client, and a pair of tokens; it returns its JSON."""

    def connect(issued: dict[str, Any], *, with_token: bool = False, **extra: Any) -> str:
        extra = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, **extra}
        connection = sandbox.connection(
            issued["access_token"] if with_token else "", refresh_token=issued["refresh_token"], **extra
        )
        monkeypatch.setenv("AIRFLOW_CONN_YOUCAN_DEFAULT", connection)
        return connection

    return connect


def exchanges(sandbox: Sandbox) -> list[int | None]:
    """The status of each answer of the token endpoint."""
    return [request["status"] for request in sandbox.shop.requests() if request["path"] == "/oauth/token"]


def variables() -> dict[str, str]:
    """The Variables of Airflow, by name."""
    from airflow.models.variable import Variable
    from airflow.utils.session import create_session

    with create_session() as session:
        return {variable.key: variable.val for variable in session.query(Variable)}


def kept() -> dict[str, Any]:
    """The pairs of tokens that Airflow stores, by the name of the Variable."""
    return {name: json.loads(value) for name, value in variables().items() if not name.endswith("_trial")}


def test_a_refresh_token_is_all_it_takes(sandbox: Sandbox, connect: Call, ask: Call) -> None:
    # Given a connection without a token,
    issued = sandbox.shop.issue_token()
    connect(issued)

    # when the shop is asked twice,
    ask()
    ask()

    # then one token was obtained, and is kept with the refresh token that came with it,
    assert exchanges(sandbox) == [200]
    ((name, pair),) = kept().items()
    assert "token" in name
    assert pair["access_token"] != issued["access_token"]
    assert pair["refresh_token"] != issued["refresh_token"]
    assert pair["expires_at"] == pytest.approx(time.time() + TOKEN_SECONDS, abs=60)
    # and another task takes it up.
    YouCanHook().get_store()
    assert exchanges(sandbox) == [200]


def test_a_token_beside_it_is_used_until_it_is_refused(sandbox: Sandbox, connect: Call, ask: Call) -> None:
    issued = sandbox.shop.issue_token()
    connect(issued, with_token=True)
    ask()
    assert exchanges(sandbox) == []
    assert kept() == {}

    sandbox.shop._write("update tokens set expires_at = 0 where access_token = ?", issued["access_token"])
    ask()

    assert exchanges(sandbox) == [200]


def test_a_token_is_renewed_before_it_runs_out(
    sandbox: Sandbox, connect: Call, ask: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a token that was renewed, and lives for 15 days,
    connect(sandbox.shop.issue_token())
    ask()

    # when it is used in the last five minutes of them,
    now = time.time() + TOKEN_SECONDS
    for minutes, renewals in ((6, 1), (4, 2)):
        monkeypatch.setattr("time.time", lambda now=now, minutes=minutes: now - 60 * minutes)
        ask()
        # then it is renewed, and YouCan never has to refuse it.
        assert exchanges(sandbox) == [200] * renewals
    assert 401 not in [request["status"] for request in sandbox.shop.requests()]


@pytest.mark.parametrize("minutes_off", [-10, 10])
def test_a_clock_that_is_wrong_by_minutes_does_no_harm(
    sandbox: Sandbox, connect: Call, ask: Call, monkeypatch: pytest.MonkeyPatch, minutes_off: int
) -> None:
    # Given a worker whose clock is right, and a token that lives for five minutes,
    connect(sandbox.shop.issue_token(expires_in=300))
    YouCanHook().get_store()

    # when another works whose clock is wrong,
    right = time.time()
    monkeypatch.setattr("time.time", lambda: right + 60 * minutes_off)
    for _ in range(5):
        ask()

    # then it renews the token once at most,
    assert exchanges(sandbox) in ([200], [200, 200])
    # and so does the first one after it, though the other's clock wrote down when the token runs out.
    monkeypatch.setattr("time.time", lambda: right)
    for _ in range(5):
        YouCanHook().get_store()
    assert len(exchanges(sandbox)) <= 3
    assert set(exchanges(sandbox)) == {200}


def test_a_token_that_expires_in_the_middle_of_a_run_loses_no_update(
    sandbox: Sandbox, connect: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a shop whose clock goes on a second with each request, and tokens that live for ten,
    monkeypatch.setattr(sandbox.shop, "_clock", partial(next, count(time.time())))
    connect(sandbox.shop.issue_token(expires_in=10))
    hook = YouCanHook()

    # when a run updates more orders than one token can,
    order_ids = sandbox.shop.order_ids()
    for order_id in order_ids * 2:
        hook.update_order_status(order_id, "processing", "shipping")

    # then each was updated once, and the token was renewed on the way.
    assert [update["order_id"] for update in sandbox.shop.history()] == order_ids * 2
    assert len(exchanges(sandbox)) >= 4
    assert set(exchanges(sandbox)) == {200}


def test_a_revoked_token_is_renewed_once(sandbox: Sandbox, connect: Call, ask: Call) -> None:
    # Given a shop that refuses every token,
    connect(sandbox.shop.issue_token())
    ask()
    sandbox.misbehave("status", status=401, route="GET *")

    # when it is asked,
    with pytest.raises(YouCanAuthenticationError, match="Access token refused"):
        ask()

    # then one more token was obtained, and no third.
    assert exchanges(sandbox) == [200, 200]


def test_a_renewal_is_not_spent_twice_on_an_endpoint_that_refuses_every_token(
    sandbox: Sandbox, connect: Call, ask: Call
) -> None:
    # Given an endpoint that answers a missing scope with a 401,
    connect(sandbox.shop.issue_token())
    sandbox.misbehave("status", status=401, route="GET *")
    hook = YouCanHook()
    for _ in range(3):
        with pytest.raises(YouCanAuthenticationError, match="or it lacks the scope 'read-orders'"):
            hook.get_order_statuses(sandbox.shop.order_ids()[0])

    # then one token was obtained at first, and one because it was refused;
    assert exchanges(sandbox) == [200, 200]

    # and once it answers, another may be obtained for it.
    sandbox.misbehaviours.clear()
    hook.get_order_statuses(sandbox.shop.order_ids()[0])
    expire(sandbox)
    hook.get_order_statuses(sandbox.shop.order_ids()[0])
    assert exchanges(sandbox) == [200, 200, 200]


@pytest.mark.usefixtures("impatient")
def test_an_app_that_was_revoked_is_asked_once_more_and_ends_in_how_to_authorise_again(
    sandbox: Sandbox, connect: Call, ask: Call
) -> None:
    # Given the connection as the command line prints it, whose tokens were renewed, and an app that is revoked then,
    issued = sandbox.shop.issue_token()
    connect(issued, with_token=True)
    expire(sandbox)
    ask()
    sandbox.shop._write("delete from tokens")

    # when the shop is asked,
    with pytest.raises(YouCanAuthenticationError, match="authorise again"):
        ask()

    # then the refresh token was tried once.
    assert exchanges(sandbox) == [200, 400]


@pytest.mark.usefixtures("impatient")
def test_a_refresh_token_that_was_used_elsewhere_ends_in_how_to_authorise_again(
    sandbox: Sandbox, connect: Call, ask: Call
) -> None:
    issued = sandbox.shop.issue_token()
    connect(issued)
    sandbox.shop.exchange_refresh_token(issued["refresh_token"])

    with pytest.raises(YouCanAuthenticationError) as raised:
        ask()

    assert "invalid_grant" in str(raised.value)
    assert "python -m airflow_provider_youcan authorize" in str(raised.value)
    assert "the Airflow connection 'youcan_default'" in str(raised.value)
    shown = f"{raised.value} {vars(raised.value)} {raised.value.__context__}"
    assert issued["refresh_token"] not in shown
    assert CLIENT_SECRET not in shown
    assert exchanges(sandbox) == [400]


def test_a_wrong_client_secret_is_reported_at_once(sandbox: Sandbox, connect: Call, ask: Call) -> None:
    connect(sandbox.shop.issue_token(), client_secret="wrong")

    with pytest.raises(YouCanAuthenticationError, match="check the client id and the client secret in"):
        ask()


@pytest.mark.usefixtures("waits")
def test_a_token_endpoint_in_trouble_is_asked_again(sandbox: Sandbox, connect: Call, ask: Call) -> None:
    connect(sandbox.shop.issue_token())
    sandbox.misbehave("status", status=503, route="POST /oauth/token", times=2)

    ask()

    assert exchanges(sandbox) == [503, 503, 200]


def test_a_token_endpoint_that_stays_in_trouble_is_left_to_airflows_retries(
    sandbox: Sandbox, connect: Call, ask: Call
) -> None:
    connect(sandbox.shop.issue_token(), max_attempts=1)
    sandbox.misbehave("status", status=503, route="POST /oauth/token")

    with pytest.raises(YouCanServerError, match="Could not renew the access token"):
        ask()


def test_an_answer_without_a_new_refresh_token_leaves_the_old_one(sandbox: Sandbox, connect: Call, ask: Call) -> None:
    sandbox.shop.keeps_refresh_tokens = True
    issued = sandbox.shop.issue_token()
    connect(issued)
    ask()
    ((_, pair),) = kept().items()
    assert pair["refresh_token"] == issued["refresh_token"]

    sandbox.shop._write("update tokens set expires_at = 0 where access_token = ?", pair["access_token"])
    ask()

    assert exchanges(sandbox) == [200, 200]


def test_a_refresh_token_that_a_person_changes_wins_over_what_is_kept(
    sandbox: Sandbox, connect: Call, ask: Call
) -> None:
    # Given a connection whose tokens were renewed,
    connect(sandbox.shop.issue_token(["read-orders"]))
    ask()
    with pytest.raises(YouCanPermissionError):
        YouCanHook().get_store_statuses()

    # when a person authorises again, with another scope,
    connect(sandbox.shop.issue_token(["read-orders", "read-orders-statuses"]))

    # then it is the new tokens that count.
    YouCanHook().get_store_statuses()


def test_the_second_task_uses_the_pair_that_the_first_stored(sandbox: Sandbox, connect: Call) -> None:
    # Given two tasks that have the same token, which is refused,
    connect(sandbox.shop.issue_token())
    first, second = YouCanHook(), YouCanHook()
    first.get_store()
    second.get_store()
    ((_, pair),) = kept().items()
    sandbox.shop._write("update tokens set expires_at = 0 where access_token = ?", pair["access_token"])

    # when both renew it, and the first is slow to keep what it got,
    write = tokens._TokenVariable.write
    refused = threading.Event()

    def write_late(*arguments: Any, **options: Any) -> None:
        assert refused.wait(30)
        write(*arguments, **options)

    wait_for_another = tokens._TokenVariable.wait_for_another

    def wait(*arguments: Any) -> Any:
        refused.set()
        return wait_for_another(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens._TokenVariable, "write", write_late)
        patch.setattr(tokens._TokenVariable, "wait_for_another", wait)
        threads = [threading.Thread(target=hook.get_store) for hook in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # then one got a new token, the other was refused and took up the first one's.
    assert sorted(filter(None, exchanges(sandbox)[1:])) == [200, 400]
    assert first.get_credentials().token == second.get_credentials().token


def test_a_thousand_coroutines_renew_one_token_once(sandbox: Sandbox, connect: Call) -> None:
    connect(sandbox.shop.issue_token())

    async def main() -> None:
        async with YouCanAsyncHook() as hook:
            order_ids = sandbox.shop.order_ids() * 10
            await asyncio.gather(*(hook.get_order(order_id) for order_id in order_ids))
            ((_, pair),) = kept().items()
            sandbox.shop._write("update tokens set expires_at = 0 where access_token = ?", pair["access_token"])
            await asyncio.gather(*(hook.get_order(order_id) for order_id in order_ids))

    asyncio.run(main())

    assert exchanges(sandbox) == [200, 200]


def expire(sandbox: Sandbox, access_token: str | None = None) -> None:
    """Let a token expire, as the shop sees it; by default all of them."""
    sandbox.shop._write("update tokens set expires_at = 0 where access_token = coalesce(?, access_token)", access_token)


def test_a_new_token_that_airflow_does_not_keep_is_no_success(
    sandbox: Sandbox, connect: Call, ask: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an Airflow that stores other Variables, but not the pair,
    from airflow.models.variable import Variable

    connect(sandbox.shop.issue_token())
    set_variable = Variable.set
    monkeypatch.setattr(tokens, "_STORE_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(
        Variable, "set", lambda key, *rest, **named: key.endswith("_trial") and set_variable(key, *rest, **named)
    )

    with pytest.raises(
        YouCanAuthenticationError, match="did not store the renewed .*authorise.* Variable 'youcan_token_"
    ):
        ask()


@pytest.mark.parametrize("broken", ["set", "get"])
def test_no_refresh_token_is_spent_where_airflow_cannot_keep_another(
    sandbox: Sandbox, connect: Call, ask: Call, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    # Given a pair that is kept, and an Airflow whose database is out of reach, which it shows by answering nothing,
    from airflow.models.variable import Variable

    connect(sandbox.shop.issue_token())
    ask()
    expire(sandbox)
    with monkeypatch.context() as patch:
        patch.setattr(Variable, broken, lambda *_, **__: None)

        # when the token has to be renewed,
        with pytest.raises(YouCanConnectionError, match="can't store a renewed access token in its Variables"):
            ask()

    # then none was asked for, and later it is renewed.
    assert exchanges(sandbox) == [200]
    ask()
    assert exchanges(sandbox) == [200, 200]


def test_each_renewal_tries_the_same_variable_with_another_value(sandbox: Sandbox, connect: Call, ask: Call) -> None:
    # Given a connection whose token was renewed,
    connect(sandbox.shop.issue_token())
    ask()
    ((name, _),) = kept().items()
    first = variables()[f"{name}_trial"]

    # when it is renewed again,
    expire(sandbox)
    ask()

    # then the trial left no further Variable behind.
    assert variables().keys() == {name, f"{name}_trial"}
    assert variables()[f"{name}_trial"] != first


@pytest.mark.parametrize("is_later", [True, False])
def test_a_trial_that_meets_another_tasks_is_no_error(
    sandbox: Sandbox, connect: Call, ask: Call, monkeypatch: pytest.MonkeyPatch, *, is_later: bool
) -> None:
    # Given another task that tries the same Variable at the same moment: it sets it right after this one does, or
    # first, so that the database refuses to insert the same name once more,
    from airflow.models.variable import Variable

    connect(sandbox.shop.issue_token())
    set_variable = Variable.set

    def set_beside_another(key: str, *rest: Any) -> None:
        if key.endswith("_trial"):
            set_variable(key, "another task's")
            if not is_later:
                raise IntegrityError("insert", {}, Exception())
        else:
            set_variable(key, *rest)

    monkeypatch.setattr(Variable, "set", set_beside_another)

    # when the token is renewed, then it is.
    ask()
    assert exchanges(sandbox) == [200]


def test_a_variable_that_cannot_be_read_for_a_moment_costs_no_pair(
    sandbox: Sandbox, connect: Call, ask: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a Variable that Airflow can't read right after YouCan gave the new pair,
    connect(sandbox.shop.issue_token())
    ask()
    expire(sandbox)
    read = tokens._TokenVariable.read
    stumbles = iter([True, True, True])

    def read_badly(variable: tokens._TokenVariable) -> Any:
        is_unreadable = exchanges(sandbox).count(200) == 2 and next(stumbles, False)
        return None if is_unreadable else read(variable)

    monkeypatch.setattr(tokens._TokenVariable, "read", read_badly)

    # when the token is renewed,
    ask()

    # then the new pair is kept all the same, and good for the next renewal.
    expire(sandbox)
    YouCanHook().get_store()
    assert exchanges(sandbox) == [200, 200, 200]


def test_an_early_renewal_that_fails_leaves_the_token_that_still_lives(
    sandbox: Sandbox, connect: Call, ask: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a token that runs out in four minutes, and a token endpoint in trouble,
    connect(sandbox.shop.issue_token(), max_attempts=1)
    ask()
    now = time.time() + TOKEN_SECONDS - 240
    monkeypatch.setattr("time.time", lambda: now)
    sandbox.misbehave("status", status=503, route="POST /oauth/token")

    # when the shop is asked, then it answers,
    ask()
    ask()
    # and the token endpoint was not bothered with each request.
    assert exchanges(sandbox) == [200, 503]


def test_a_good_token_of_the_connections_own_is_tried_before_all_is_lost(
    sandbox: Sandbox, connect: Call, ask: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given tokens that were renewed, until the seller revoked the app,
    monkeypatch.setattr(tokens, "_WAIT_FOR_OTHER_SECONDS", 0)
    issued = sandbox.shop.issue_token()
    connect(issued)
    ask()
    for pair in kept().values():
        sandbox.shop.revoke_token(pair["access_token"])

    # when a person gives the connection another access token, and leaves the refresh token as it is,
    other = sandbox.shop.issue_token()["access_token"]
    connect(issued | {"access_token": other}, with_token=True)

    # then that is taken.
    YouCanHook().get_store()
    ask()


@pytest.mark.usefixtures("waits")
def test_the_attempts_at_a_renewal_are_the_connections_own(sandbox: Sandbox, connect: Call) -> None:
    connect(sandbox.shop.issue_token(), with_token=True, max_attempts=3)
    expire(sandbox)
    sandbox.misbehave("status", status=503, route="POST /oauth/token")

    with pytest.raises(YouCanServerError):
        YouCanHook().get_store()

    assert exchanges(sandbox) == [503, 503, 503]


@pytest.mark.usefixtures("impatient")
def test_a_dead_refresh_token_is_not_tried_by_each_of_those_that_wait(sandbox: Sandbox, connect: Call) -> None:
    issued = sandbox.shop.issue_token()
    connect(issued)
    sandbox.shop.exchange_refresh_token(issued["refresh_token"])

    async def main() -> None:
        async with YouCanAsyncHook() as hook:
            answers = await asyncio.gather(
                *(hook.get_order(order_id) for order_id in sandbox.shop.order_ids()), return_exceptions=True
            )
        assert {type(answer) for answer in answers} == {YouCanAuthenticationError}

    asyncio.run(main())

    assert exchanges(sandbox) == [400]


@pytest.mark.parametrize("client", ["requests", "aiohttp"])
@pytest.mark.parametrize("why", ["refused", "running out"])
def test_a_guard_is_asked_again_after_a_renewal(
    sandbox: Sandbox, connect: Call, monkeypatch: pytest.MonkeyPatch, client: str, why: str
) -> None:
    # Given an order that is pending when it is looked at,
    connect(sandbox.shop.issue_token())
    YouCanHook().get_store()
    order_id = next(
        order_id for order_id in sandbox.shop.order_ids() if sandbox.shop.statuses(order_id)["payment"] == "pending"
    )

    def interfere(request: Request) -> None:
        # From its look on the token is of no use,
        if request.path == f"/orders/{order_id}" and sandbox.shop.statuses(order_id)["payment"] == "pending":
            if why == "refused":
                expire(sandbox)
            else:
                monkeypatch.setattr("time.time", lambda: late)
        # and a person refunds the order while it is renewed,
        if request.path == "/oauth/token":
            sandbox.shop.set_status(order_id, "payment", "refunded")

    late = time.time() + TOKEN_SECONDS - 60
    sandbox.on_request(interfere)

    # when a guarded update is sent,
    async def move() -> tuple[str | None, bool]:
        async with YouCanAsyncHook() as hook:
            return await hook.move_order_status(order_id, "paid", "payment", only_from=["pending"])

    if client == "requests":
        outcome = YouCanHook().move_order_status(order_id, "paid", "payment", only_from=["pending"])
    else:
        outcome = asyncio.run(move())

    # then the guard keeps it from being overrun.
    assert outcome == ("refunded", False)
    assert sandbox.shop.statuses(order_id)["payment"] == "refunded"


def test_an_invalid_pair_is_ignored(sandbox: Sandbox, connect: Call, log_lines: Callable[[], list[str]]) -> None:
    from airflow.models.variable import Variable

    issued = sandbox.shop.issue_token()
    connect(issued)
    YouCanHook().get_store()
    ((name, _),) = kept().items()
    wrong = {"access_token": "a", "refresh_token": "b", "expires_at": "soon", "lifetime": 1}
    for nonsense in ("no JSON", "[]", "{}", '{"access_token": 1}', json.dumps(wrong)):
        Variable.set(name, nonsense)
        connect(issued)
        hook = YouCanHook()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokens, "_WAIT_FOR_OTHER_SECONDS", 0)
            with pytest.raises(YouCanAuthenticationError):
                hook.get_store()
    assert any("holds no valid tokens" in line for line in log_lines())


def test_a_variable_that_cannot_be_read_is_left_to_airflows_retries(
    sandbox: Sandbox, connect: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(sandbox.shop.issue_token())
    monkeypatch.setattr(tokens._TokenVariable, "read", lambda _: 1 / 0)

    with pytest.raises(YouCanConnectionError, match="could not be looked up"):
        YouCanHook().get_store()

    assert exchanges(sandbox) == []


def test_the_test_button_renews_what_the_connection_itself_would(sandbox: Sandbox, connect: Call) -> None:
    # Given a connection with a refresh token,
    connection = connect(sandbox.shop.issue_token())

    # when it is tested before it is saved, which gives it another id,
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_XJ3KF81M", connection)
        assert YouCanHook("xj3kf81m").test_connection()[0]

    # then the new tokens are there for the connection that is saved.
    YouCanHook().get_store()
    assert exchanges(sandbox) == [200]


def test_a_fixed_token_is_not_renewed(sandbox: Sandbox) -> None:
    sandbox.shop.revoke_token("sandbox-access-token")

    with pytest.raises(YouCanAuthenticationError, match="renew the token in the Airflow connection 'youcan_default'"):
        YouCanHook().get_store()

    assert exchanges(sandbox) == []


def test_the_pair_is_encrypted_and_masked(sandbox: Sandbox, connect: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.models.variable import Variable
    from airflow.utils.session import create_session

    if sys.modules.get("airflow.sdk"):
        from airflow.sdk._shared.secrets_masker import redact, should_hide_value_for_key
    else:
        from airflow.utils.log.secrets_masker import redact, should_hide_value_for_key

    issued = sandbox.shop.issue_token()
    connect(issued)
    set_variable, handed_over = Variable.set, []
    monkeypatch.setattr(
        Variable, "set", lambda *words: (handed_over.append(str(redact(words[1]))), set_variable(*words))
    )
    YouCanHook().get_store()
    ((name, pair),) = kept().items()

    with create_session() as session:
        (raw,) = session.execute(text("select val from variable where \"key\" not like '%_trial'")).one()
    assert pair["access_token"] not in raw
    assert pair["refresh_token"] not in raw
    assert should_hide_value_for_key(name)
    # Even before Airflow has it, whatever Airflow then logs of it.
    assert not any(pair["access_token"] in text or pair["refresh_token"] in text for text in handed_over)
    secrets = [pair["access_token"], pair["refresh_token"], issued["refresh_token"], CLIENT_SECRET]
    assert redact(" ".join(secrets)) == "*** *** *** ***"


def test_no_token_shows_in_a_log_even_of_all_that_is_logged(
    sandbox: Sandbox, connect: Call, ask: Call, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    issued = sandbox.shop.issue_token()
    connect(issued, with_token=True)
    sandbox.shop._write("update tokens set expires_at = 0 where access_token = ?", issued["access_token"])

    ask()

    ((_, pair),) = kept().items()
    written = capfd.readouterr()
    shown = caplog.text + "".join(str(vars(record)) for record in caplog.records) + written.out + written.err
    assert "POST /oauth/token" in shown
    for secret in (pair["access_token"], pair["refresh_token"], *issued.values(), CLIENT_SECRET):
        assert not isinstance(secret, str) or secret == "Bearer" or secret not in shown


def test_a_task_of_a_real_airflow_renews_its_token(
    sandbox: Sandbox, connect: Call, run_dag: RunDag, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a connection whose token has expired,
    issued = sandbox.shop.issue_token()
    connect(issued, with_token=True)
    sandbox.shop._write("update tokens set expires_at = 0 where access_token = ?", issued["access_token"])
    order_id = sandbox.shop.order_ids()[0]

    # when a task sets a status, and another waits for it on the triggerer,
    run = run_dag(f"""
        from airflow_provider_youcan.sensors.order_status import YouCanOrderStatusSensor
        ship = YouCanUpdateShippingStatusOperator(task_id="ship", order_id="{order_id}", status="returned")
        wait = YouCanOrderStatusSensor(
            task_id="wait", order_id="{order_id}", context="shipping", target_status="returned", deferrable=True
        )
        ship >> wait
    """)

    # then both succeed with one new token, which the log mentions, but doesn't show.
    assert run.state == "success"
    assert exchanges(sandbox) == [200]
    shown = run.log + caplog.text
    assert "Renewed the access token of the Airflow connection 'youcan_default'" in shown
    ((_, pair),) = kept().items()
    assert pair["access_token"] not in shown + str(run.tasks)


def test_credentials_do_not_show_a_token() -> None:
    pair = tokens._Pair("secret-access", "secret-refresh", 1.0, 2.0)

    assert "secret" not in repr(pair)
    assert "secret" not in repr(pair.apply_to(Credentials("https://api.youcan.shop", "")))


RACE = """
import multiprocessing, random, sys, time
import airflow.models.connection, airflow.models.variable
from airflow_provider_youcan.hooks.youcan import YouCanHook


def work(number, seconds, start):
    hook = YouCanHook()
    hook.get_store()
    start.wait()
    end = time.monotonic() + seconds
    requests = 0
    while time.monotonic() < end:
        # Every now and then a new task, which has nothing in memory.
        hook = YouCanHook() if random.random() < 0.1 else hook
        hook.get_store()
        requests += 1
    print(f"worker {number}: {requests} requests", flush=True)


# Forked before any of them has asked the database, so that the imports are paid for once.
context = multiprocessing.get_context("fork")
start = context.Barrier(20)
workers = [context.Process(target=work, args=(number, float(sys.argv[1]), start)) for number in range(20)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
time.sleep(2)
YouCanHook().get_store()
print("the chain goes on")
sys.exit(sum(worker.exitcode != 0 for worker in workers))
"""


def test_twenty_processes_race_for_tokens_that_live_two_seconds(
    sandbox: Sandbox, connect: Call, postgres: str, tmp_path: Path
) -> None:
    # Given a connection whose tokens live for two seconds, and Airflow's database on PostgreSQL,
    issued = sandbox.shop.issue_token(expires_in=2)
    connect(issued)
    environment = _airflow_on_postgres(postgres, tmp_path)

    # when twenty processes ask the shop at once, for nine seconds,
    race = subprocess.run(
        [sys.executable, "-c", RACE, "9"], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    shown = race.stdout + race.stderr

    # then none of them failed, and each had its answers,
    assert race.returncode == 0, shown[-5000:]
    assert len(re.findall(r"worker \d+: [1-9]\d* requests", shown)) == 20
    # the token was renewed time and again, though the others' attempts at the same one were refused,
    assert exchanges(sandbox).count(200) >= 4
    assert exchanges(sandbox).count(400) >= 1
    # and the last pair is not lost: the next one goes on with it.
    assert "the chain goes on" in shown


def _airflow_on_postgres(postgres: str, home: Path) -> dict[str, str]:
    import psycopg2

    server = psycopg2.connect(host=postgres, user="postgres", dbname="postgres")
    server.autocommit = True
    with server.cursor() as cursor:
        cursor.execute("drop database if exists race")
        cursor.execute("create database race")
    server.close()
    environment = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://postgres@/race?host={postgres}",
        "_AIRFLOW_PROCESS_CONTEXT": "server",
    }
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True)
    return environment
