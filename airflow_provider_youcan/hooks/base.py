"""The common part of both hooks: their connection, and its look-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_youcan.client.credentials import Credentials
from airflow_provider_youcan.exceptions import (
    NOTHING_SENT,
    YouCanConnectionError,
    YouCanConnectionNotFoundError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanTaskStoppedError,
)
from airflow_provider_youcan.hooks.connection import read_credentials
from airflow_provider_youcan.hooks.tokens import with_current_token
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.version_compat import IS_AIRFLOW_2

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_youcan.client.endpoints import Request

__all__ = ["ConnectionUser"]


class ConnectionUser(BaseHook):
    """
    The Airflow connection of a hook, and its credentials.

    :param youcan_conn_id: the id of the Airflow connection (default ``youcan_default``).
    :param max_retry_seconds: no attempt at a request begins later than this after its first; ``None`` leaves it to the
        connection's ``max_attempts`` alone (default).
    """

    conn_name_attr = "youcan_conn_id"
    default_conn_name = "youcan_default"
    conn_type = "youcan"
    hook_name = "YouCan"

    def __init__(self, youcan_conn_id: str = default_conn_name, *, max_retry_seconds: float | None = None) -> None:
        super().__init__()
        self.youcan_conn_id = youcan_conn_id
        self.max_retry_seconds = max_retry_seconds
        self.connection_name = f"the Airflow connection {youcan_conn_id!r}"
        """The name of the connection in errors."""
        self._is_stopped = False
        self._store_slugs: dict[StatusContext, list[str]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(youcan_conn_id={self.youcan_conn_id!r})"

    def _read_credentials(
        self, connection: Connection, refused: Sequence[Credentials] = (), *, may_renew: bool = True
    ) -> Credentials:
        """Read what the connection says, with a token that is good; it may take requests to YouCan and to Airflow."""
        return with_current_token(
            read_credentials(connection, self.connection_name),
            self.youcan_conn_id,
            [credentials.token for credentials in refused],
            may_renew=may_renew,
            max_retry_seconds=self.max_retry_seconds,
        )

    @staticmethod
    def _stopped_error(request: Request) -> YouCanTaskStoppedError:
        return YouCanTaskStoppedError(
            "The task was stopped", outcome=f"Did not {request.purpose}: nothing more was sent", method=request.method
        )

    def _look_up_error(self, error: Exception) -> YouCanError:
        """Return our error for a connection that Airflow did not return."""
        if isinstance(error, YouCanError):
            return error
        missing = f"There is no Airflow connection {self.youcan_conn_id!r}"
        add = "add one of type 'youcan' with the access token as its password, or name another with youcan_conn_id"
        if not isinstance(error, AirflowNotFoundException):
            # An unreachable secrets backend may come back. Its own words may hold secrets.
            return YouCanConnectionError(
                f"The Airflow connection {self.youcan_conn_id!r} could not be looked up ({type(error).__name__})",
                advice="it may work later",
                outcome=NOTHING_SENT,
            )
        if IS_AIRFLOW_2:
            return YouCanInvalidInputError(missing, advice=add)
        # Airflow 3's Task SDK swallows the errors of a secrets backend, and says that there is no such connection.
        return YouCanConnectionNotFoundError(
            missing,
            advice=f"{add}. If it is there, Airflow's database or secrets backend is out of reach; it may work later",
            outcome=NOTHING_SENT,
        )
