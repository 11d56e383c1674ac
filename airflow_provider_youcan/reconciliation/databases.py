"""The database of a warehouse: its hook, and what its errors mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_youcan.exceptions import NOTHING_SENT, YouCanConnectionError, YouCanError, YouCanInvalidInputError
from airflow_provider_youcan.version_compat import IS_AIRFLOW_2

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

__all__ = ["database_error", "describe_error", "get_database_hook"]

_PERMANENT = {"ProgrammingError", "NotSupportedError", "DataError"}
"""The classes of Python's DB-API (PEP 249) for a statement that is wrong, however often it is run."""


def get_database_hook(conn_id: str, hook_params: Mapping[str, Any] | None = None) -> DbApiHook:
    """
    Return the hook of a database, as Airflow's own SQL operators find it.

    :param conn_id: its Airflow connection.
    :param hook_params: what its hook is made with (default nothing).
    :raises YouCanInvalidInputError: if that connection runs no SQL, or this Airflow has no hook for it.
    :raises YouCanConnectionError: if Airflow does not hand it out.
    """
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        missing = f"There is no Airflow connection {conn_id!r}"
        add = (
            "add the connection of your warehouse; if its type is not offered, install the Airflow provider of its "
            "database, and restart Airflow"
        )
        if IS_AIRFLOW_2:
            raise YouCanInvalidInputError(missing, advice=add) from None
        # Airflow 3 raises this also when its secrets backend is out of reach.
        raise YouCanConnectionError(
            missing,
            advice=f"{add}. If there is one, Airflow's database or secrets backend is out of reach",
            outcome=NOTHING_SENT,
        ) from None
    if not isinstance(hook_params or {}, Mapping):
        raise YouCanInvalidInputError(
            f"hook_params is of type {type(hook_params).__name__}",
            advice="give a mapping; a template makes one only with render_template_as_native_obj=True on the DAG.",
        )
    try:
        hook: Any = _make_hook(connection, dict(hook_params or {}))
    except Exception as error:  # an unknown type of connection ends in errors of several kinds
        raise _no_hook(conn_id, connection.conn_type, error) from None
    if not isinstance(hook, DbApiHook):
        raise YouCanInvalidInputError(
            f"The Airflow connection {conn_id!r} is of type {connection.conn_type!r}, which runs no SQL",
            advice="name one of a database.",
        )
    return hook


def database_error(problem: str, error: Exception, advice: str) -> YouCanError:
    """
    Return what an error of a database means: permanent if the statement is wrong, else it may work later.

    :param problem: what failed.
    :param error: what the driver raised.
    :param advice: what to look at.
    """
    problem = f"{problem} ({describe_error(error)})"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    # SQLite raises one class for a missing table and for a locked database, with a code for each.
    if kinds & _PERMANENT or getattr(error, "sqlite_errorname", None) == "SQLITE_ERROR":
        return YouCanInvalidInputError(problem, advice=f"{advice}.")
    return YouCanConnectionError(problem, advice=f"{advice}; it may work later", outcome=NOTHING_SENT)


def describe_error(error: Exception) -> str:
    """Return a database's error in one line of at most 300 characters."""
    name = type(error).__name__
    # Its message quotes the value that the database can't read.
    if "DataError" in {kind.__name__ for kind in type(error).__mro__}:
        return name
    # Only the first line: the next ones may quote the refused row.
    return " ".join(f"{name}: {str(error).partition(chr(10))[0]}".split())[:300]


def _make_hook(connection: Any, params: dict[str, Any]) -> Any:
    if connection.conn_type in ("gcpbigquery", "google_cloud_platform"):
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook

        # The hook's default is legacy SQL.
        return BigQueryHook(**{"gcp_conn_id": connection.conn_id, "use_legacy_sql": False, **params})
    if connection.conn_type == "databricks":
        from airflow.providers.databricks.hooks.databricks_sql import DatabricksSqlHook

        # The connection's own hook starts jobs.
        return DatabricksSqlHook(databricks_conn_id=connection.conn_id, **params)
    return connection.get_hook(hook_params=params) if params else connection.get_hook()


def _no_hook(conn_id: str, conn_type: str | None, error: Exception) -> YouCanInvalidInputError:
    start = f"This Airflow has no hook for the Airflow connection {conn_id!r} of type {conn_type!r}"
    if conn_type == "generic":
        # Airflow's command line stores this for a type that it does not know.
        return YouCanInvalidInputError(
            start,
            advice=(
                "delete it, and add it again with its own type, once the Airflow provider of its database is "
                "installed and Airflow was restarted."
            ),
        )
    return YouCanInvalidInputError(
        f"{start} ({describe_error(error)})",
        advice=(
            "install the Airflow provider of that database, restart Airflow, and see that hook_params, if there "
            "are any, are what its hook takes."
        ),
    )
