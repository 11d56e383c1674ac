"""The button that leads from a task in Airflow to the order's page in YouCan's seller area."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_provider_youcan.checks import is_order_id
from airflow_provider_youcan.orders import order_page

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context, TaskInstanceKey

    from airflow_provider_youcan.hooks.youcan import YouCanHook

__all__ = ["YouCanOrderLink"]


class YouCanOrderLink(BaseOperatorLink):
    """
    Leads to the order that a task works on, for each mapped task its own.

    The address is kept as an XCom from the moment the order id is known, so the link also works while the
    task runs and after it failed.
    """

    name = "YouCan order"
    xcom_key = "youcan_order_link"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Return the address of the order's page, or ``""`` where the task has not come to an order id."""
        return XCom.get_value(key=self.xcom_key, ti_key=ti_key) or ""

    @classmethod
    def persist(cls, context: Context, order_id: object) -> None:
        """Keep the address for the task instance that ``context`` belongs to, an empty one for no order id."""
        cls._push(context, order_page(order_id) if is_order_id(order_id) else "")

    @classmethod
    def correct(cls, context: Context, order_id: str, hook: YouCanHook) -> None:
        """Keep the address of the sandbox's own page, where the connection leads to the sandbox."""
        if (page := hook.get_order_page(order_id)) != order_page(order_id):
            cls._push(context, page)

    @classmethod
    def _push(cls, context: Context, address: str) -> None:
        if (task_instance := context.get("ti")) is not None:
            task_instance.xcom_push(key=cls.xcom_key, value=address)
