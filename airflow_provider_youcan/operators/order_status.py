"""Set one status of one order as a pipeline step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.providers.common.compat.sdk import AirflowSkipException, BaseOperator

from airflow_provider_youcan.arguments import NOT_PASSED, check_flag, was_passed
from airflow_provider_youcan.assets import add_event_extra
from airflow_provider_youcan.checks import check_order_id, check_slugs, check_status_text, likely_typos
from airflow_provider_youcan.exceptions import YouCanOrderNotFoundError
from airflow_provider_youcan.failures import log_end
from airflow_provider_youcan.links import YouCanOrderLink
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.texts import join_slugs

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_youcan.hooks.youcan import YouCanHook

__all__ = [
    "YouCanUpdateOrderStatusOperator",
    "YouCanUpdatePaymentStatusOperator",
    "YouCanUpdateShippingStatusOperator",
]


class _UpdateStatusOperator(BaseOperator):
    """
    The common part of the three operators: everything but the status that they set.

    The arguments are documented in each of them, where a user looks.
    """

    status_context: ClassVar[StatusContext]

    template_fields: Sequence[str] = ("order_id", "status", "youcan_conn_id", "only_from")
    operator_extra_links = (YouCanOrderLink(),)
    ui_color = "#fde2ec"

    def __init__(
        self,
        *,
        order_id: str,
        status: str,
        youcan_conn_id: str = "youcan_default",
        allow_custom_label: bool = False,
        only_from: str | Collection[str] | None = NOT_PASSED,
        skip_not_found: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.order_id = order_id
        self.status = status
        self.youcan_conn_id = youcan_conn_id
        self.allow_custom_label = check_flag("allow_custom_label", allow_custom_label)
        self.only_from = None if only_from is NOT_PASSED else only_from
        self._is_guarded = was_passed(self, only_from)
        self.skip_not_found = check_flag("skip_not_found", skip_not_found)
        self._hook: YouCanHook | None = None
        self._is_stopped = False
        self._changed = 0

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Set the status, or find that it holds already.

        :return: ``order_id``, ``context``, ``status``, ``previous_status`` (``None`` where it was not read)
            and ``changed``.
        :raises YouCanError: if the status was not set.
        :raises AirflowSkipException: if ``only_from`` forbids it, or there is no such order and
            ``skip_not_found`` is set.
        """
        with log_end(self.log):
            return self._execute(context)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002  # Airflow's signature
        """Return for OpenLineage the shop whose order this task has changed."""
        from airflow_provider_youcan.operators.lineage import describe_lineage

        return describe_lineage(self, self._changed, None)

    get_openlineage_facets_on_failure = get_openlineage_facets_on_complete

    def on_kill(self) -> None:
        """Send nothing more; Airflow calls this when the task is to end."""
        self._is_stopped = True
        if self._hook is not None:
            self._hook.stop()

    def _execute(self, context: Context) -> dict[str, Any]:
        # Imported when a task runs: Airflow parses DAG files again and again, and requests costs more to
        # import than all the rest of this module.
        from airflow_provider_youcan.hooks.youcan import YouCanHook

        YouCanOrderLink.persist(context, self.order_id)
        order_id, status = check_order_id(self.order_id), check_status_text(self.status)
        only_from = check_slugs("only_from", self.only_from) if self._is_guarded else None
        with YouCanHook(self.youcan_conn_id) as hook:
            self._hook = hook
            if self._is_stopped:
                hook.stop()  # it was stopped before there was a hook
            YouCanOrderLink.correct(context, order_id, hook)
            status = hook.check_status(status, self.status_context, allow_custom_label=self.allow_custom_label)
            try:
                previous_status, changed = self._set_status(hook, order_id, status, only_from)
            except YouCanOrderNotFoundError as error:
                if not self.skip_not_found or error.unconfirmed:
                    raise
                raise AirflowSkipException(f"Skipped because skip_not_found is set. {error}") from None
        if previous_status is not None and not changed and previous_status != status:
            self._skip(previous_status, only_from or ())
        if changed and previous_status is not None:
            # Airflow's page cuts long lines.
            self.log.info("Order %s: %s %r → %r.", order_id, self.status_context, previous_status, status)
        else:
            what = "is now" if changed else "already was"
            self.log.info("Order %s: the %s status %s %r.", order_id, self.status_context, what, status)
        done = {
            "order_id": order_id,
            "context": self.status_context.value,
            "status": status,
            "previous_status": previous_status,
            "changed": changed,
        }
        add_event_extra(self, context, done)
        self._changed = int(changed)
        return done

    def _set_status(
        self, hook: YouCanHook, order_id: str, status: str, only_from: Collection[str] | None
    ) -> tuple[str | None, bool]:
        if only_from is not None:
            return hook.move_order_status(order_id, status, self.status_context, only_from=only_from)
        hook.update_order_status(order_id, status, self.status_context)
        return None, True

    def _skip(self, found: str, only_from: Collection[str]) -> NoReturn:
        """
        Skip the task, and warn of each slug in the guard that may be a typo.

        A guard may name junk labels, in order to repair them, so an unknown slug is no error; but a guard
        with a typo in it skips every order, and must not do so without a word.
        """
        for slug, closest in likely_typos(only_from, self.status_context):
            self.log.warning("only_from names %r: did you mean %r?", slug, closest)
        raise AirflowSkipException(
            f"Order {self.order_id}: the {self.status_context} status is {found!r}, not "
            f"{join_slugs(only_from)}, so it was left alone (only_from)."
        )


class YouCanUpdateOrderStatusOperator(_UpdateStatusOperator):
    """
    Set the general status of an order, also called its confirmation status.

    The status is checked before anything is sent: one of YouCan's documented slugs (``open``, ``closed``,
    ``processed``, ``canceled-by-seller``), or one in the store's own list. YouCan itself would take a typo
    and put it on the order as a label. A documented slug is sent without looking at the store's list, so one that
    the store has deleted is not noticed.

    A permanent error (a revoked token, an unknown order) fails the task on the first try; a transient one is
    tried again inside the task, and then left to ``retries``. From Airflow 3.3 on, one line makes these come when
    a rate limit is over: ``retry_policy=YouCanRetryPolicy()``, from ``airflow_provider_youcan.retries``.

    :param order_id: the order's UUID (templated).
    :param status: the slug to set (templated).
    :param youcan_conn_id: the Airflow connection of the shop (templated; default ``youcan_default``).
    :param allow_custom_label: set any text, even one that is in no list (default ``False``).
    :param only_from: the slug, or the slugs, that the status may be moved from. The status is read first:
        where it is the target already, the task succeeds and sends nothing; where it is something else, the
        task is skipped. Without it, an old task run again moves the order back (templated; default: no guard). What
        is given and renders to nothing is refused; a list passes a template with
        ``render_template_as_native_obj=True``, or as the output of a task.
    :param skip_not_found: skip the task, rather than fail it, where the shop has no such order (default
        ``False``).
    """

    status_context = StatusContext.GENERAL


class YouCanUpdateShippingStatusOperator(_UpdateStatusOperator):
    """
    Set the shipping status of an order.

    The documented slugs are ``unfulfilled``, ``processing``, ``shipped``, ``fulfilled`` (delivered) and
    ``canceled``. It takes the arguments of :class:`YouCanUpdateOrderStatusOperator` and works as that does.
    """

    status_context = StatusContext.SHIPPING


class YouCanUpdatePaymentStatusOperator(_UpdateStatusOperator):
    """
    Set the payment status of an order.

    The documented slugs are ``pending``, ``paid``, ``captured``, ``unpaid`` and ``refunded``. It takes the
    arguments of :class:`YouCanUpdateOrderStatusOperator` and works as that does; ``only_from=["pending",
    "unpaid"]`` keeps a run of last week's from turning ``refunded`` back into ``paid``.
    """

    status_context = StatusContext.PAYMENT
