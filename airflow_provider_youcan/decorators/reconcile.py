"""``@task.youcan_reconcile``: the rows that a function returns or yields go to the shop, and nowhere else."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import DecoratedOperator, context_merge, task_decorator_factory

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.version_compat import load_determine_kwargs

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, TaskDecorator

__all__ = ["youcan_reconcile_task"]

_SOURCES = ("orders", "orders_file", "file_options", "sql", "plan", "conn_id", "hook_params", "parameters")


def youcan_reconcile_task(python_callable: Callable[..., Any] | None = None, **arguments: Any) -> TaskDecorator:
    """
    Make a task of a function that returns or yields rows, and bring the shop's orders to where these say.

    The rows pass through no XCom, no log and no rendered field. A function that yields runs inside the task to its end
    before anything is sent; ``async def`` works as well. Use it as ``@task.youcan_reconcile(…)``.

    :param python_callable: the function, which may take Airflow's context and what upstream tasks returned, as those of
        ``@task`` do. It returns what ``orders`` of :class:`YouCanReconcileOrdersOperator` takes, or yields mappings.
    :param arguments: those of :class:`YouCanReconcileOrdersOperator`, without the ones that say where rows come from.
    :return: the decorator; the task returns what the operator does.
    :raises YouCanInvalidInputError: if one of these is given.
    """
    if sources := [name for name in _SOURCES if name in arguments]:
        raise YouCanInvalidInputError(
            f"Leave {' and '.join(sources)} out of @task.youcan_reconcile: the rows are what the function returns."
        )
    # The summary is one XCom, whatever the function's annotation says.
    arguments["multiple_outputs"] = False
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_ReconcileDecoratedOperator, **arguments
    )


class _ReconcileDecoratedOperator(DecoratedOperator, YouCanReconcileOrdersOperator):
    """Reconciles what a function returns."""

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in YouCanReconcileOrdersOperator.template_fields if name not in _SOURCES),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = dict(DecoratedOperator.template_fields_renderers)
    # An argument that ends in .sql is the function's own.
    template_ext: Sequence[str] = ()
    shallow_copy_attrs: Sequence[str] = (
        *DecoratedOperator.shallow_copy_attrs,
        *YouCanReconcileOrdersOperator.shallow_copy_attrs,
    )
    custom_operator_name = "@task.youcan_reconcile"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            orders=iter(()),  # the function is called when the task runs
            **arguments,
        )

    @property
    def is_async(self) -> bool:
        """False: the function may be a coroutine, but Airflow must not run the task in an event loop."""
        return False

    @property
    def xcom_push(self) -> bool:
        """True if the summary becomes an XCom; Airflow 3.0 asks by this name."""
        return bool(self.do_xcom_push)

    def execute(self, context: Context) -> Any:
        """Call the function, and reconcile what it returns."""
        self._context = context
        return super().execute(context)

    def _get_table(self) -> tuple[object, str]:
        context_merge(self._context, self.op_kwargs)
        arguments = load_determine_kwargs()(self.python_callable, self.op_args, self._context)
        table = self.python_callable(*self.op_args, **arguments)
        if isinstance(table, AsyncIterable):
            table = asyncio.run(_collect(table))
        elif inspect.isawaitable(table):
            table = asyncio.run(_wait_for(table))
        return table, "What the function returns"


async def _collect(rows: AsyncIterable[Any]) -> list[Any]:
    return [row async for row in rows]


async def _wait_for(result: Awaitable[Any]) -> Any:
    return await result
