"""The driver that runs procedures by blocking: a request at a time, through one session."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_youcan.client import endpoints, procedures
from airflow_provider_youcan.client.attempts import Attempts, StaleReadError
from airflow_provider_youcan.client.credentials import Credentials, CredentialsCache
from airflow_provider_youcan.client.responses import read_response
from airflow_provider_youcan.exceptions import YouCanError, YouCanRateLimitError
from airflow_provider_youcan.hooks.base import ConnectionUser
from airflow_provider_youcan.hooks.session import Session
from airflow_provider_youcan.metrics import count_request, count_retry, record_limit_wait

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_youcan.client.procedures import Procedure

__all__ = ["BlockingDriver"]

_Result = TypeVar("_Result")

_LONGEST_SLEEP = 0.5
"""Seconds after which a pause looks again whether the task was stopped."""


class BlockingDriver(ConnectionUser):
    """
    Sends what procedures yield, and gives them what came back.

    :param youcan_conn_id: the id of the Airflow connection (default ``youcan_default``).
    :param max_retry_seconds: no attempt at a request begins later than this after its first; ``None`` leaves it to the
        connection's ``max_attempts`` alone (default).
    """

    def __init__(
        self, youcan_conn_id: str = ConnectionUser.default_conn_name, *, max_retry_seconds: float | None = None
    ) -> None:
        super().__init__(youcan_conn_id, max_retry_seconds=max_retry_seconds)
        self._credentials = CredentialsCache()
        self._session: Session | None = None
        self._session_pid = 0

    def run(self, procedure: Procedure[_Result]) -> _Result:
        """
        Run a procedure: send what it yields, and return what it returns.

        :param procedure: one of :mod:`airflow_provider_youcan.client.procedures`.
        :raises YouCanError: what the procedure raises.
        """
        attempts = Attempts(self.max_retry_seconds, self._credentials.denied)
        answer: dict[str, Any] | Exception | None = None
        while True:
            try:
                request = procedures.resume(procedure, answer, attempts)
            except StopIteration as end:
                result: _Result = end.value
                return result
            try:
                answer = self._send(request, attempts)
            except (YouCanError, StaleReadError) as error:
                answer = error

    def stop(self) -> None:
        """Send nothing more: the task was stopped. What is under way comes to its end."""
        self._is_stopped = True

    def close(self) -> None:
        """Close the connections. A hook that is used again opens others."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, request: endpoints.Request, attempts: Attempts) -> dict[str, Any]:
        while True:
            was_sent = False
            try:
                credentials = self._get_credentials(attempts)
                session = self._get_session(credentials)
                attempts.begin(credentials)
                attempts.check_freshness(request)
                if self._is_stopped:
                    raise self._stopped_error(request)
                self.log.debug("%s %s", request.method, request.path)
                was_sent = True
                attempts.send()
                answer = session.send_request(request, credentials)
                count_request(request.method, answer.status_code, self.youcan_conn_id)
                payload = read_response(request, answer, self.connection_name, credentials.token)
            except YouCanError as error:
                # Later bytes on this connection may be the late answer to this request, and must not be taken for the
                # answer to the next one.
                self.close()
                if was_sent and error.status_code is None:
                    count_request(request.method, None, self.youcan_conn_id)
                seconds = attempts.fail(request, error, was_sent=was_sent)
                count_retry(error, self.youcan_conn_id)
                if seconds:
                    self.log.warning("%s %s", error, attempts.describe(seconds))
                    if isinstance(error, YouCanRateLimitError):
                        record_limit_wait(seconds)
            else:
                attempts.succeed(request)
                return payload
            self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        """Wait for the next attempt, or until the task is stopped: Airflow's signal handler returns to this."""
        deadline = time.monotonic() + seconds
        while not self._is_stopped and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _LONGEST_SLEEP))

    def _get_session(self, credentials: Credentials) -> Session:
        if self._session is not None and self._session_pid != os.getpid():
            # This process was forked: on a shared connection each would read the other's answers. The parent closes
            # it.
            self._session = None
        if self._session is None:
            self._session_pid = os.getpid()
            self.log.debug("The connection %r leads to %s", self.youcan_conn_id, credentials.base_url)
            self._session = Session(credentials, self.connection_name)
        return self._session

    def _get_token(self) -> str:
        credentials = self._credentials.find()
        return "" if credentials is None else credentials.token

    def _get_credentials(self, attempts: Attempts) -> Credentials:
        if (known := self._credentials.find(attempts.refused)) is not None:
            return known
        try:
            connection = self.get_connection(self.youcan_conn_id)
            found = self._read_credentials(connection, attempts.refused, may_renew=attempts.may_renew)
        except Exception as error:  # whatever a secrets backend raises
            failure = self._look_up_error(error)
        else:
            credentials = self._credentials.store(found)
            if self._session is not None:
                self._session.use(credentials)
            return credentials
        credentials = self._credentials.fail(failure, attempts.refused)
        self.log.warning("%s Continuing with the last known credentials.", failure)
        return credentials
