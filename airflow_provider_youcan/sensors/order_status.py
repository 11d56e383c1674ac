"""Wait for an order's status."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_youcan.arguments import NOT_PASSED, check_flag, was_passed
from airflow_provider_youcan.checks import check_slugs, find_same
from airflow_provider_youcan.exceptions import (
    YouCanConnectionNotFoundError,
    YouCanError,
    YouCanTaskStoppedError,
    YouCanTransientError,
    from_dict,
)
from airflow_provider_youcan.failures import log_end
from airflow_provider_youcan.links import YouCanOrderLink
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.interruption import Interruption
from airflow_provider_youcan.triggers.waiting import OrderStatusWait

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_youcan.hooks.youcan import YouCanHook

__all__ = ["YouCanOrderStatusSensor"]

# The trigger itself ends the wait at its deadline, and can say what was last seen. If no triggerer is running,
# Airflow ends the wait this much later.
_AIRFLOW_TIMEOUT_MARGIN = timedelta(minutes=5)


class YouCanOrderStatusSensor(BaseSensorOperator):
    """
    Wait until one status of an order is the one that is wanted.

    It waits on a worker slot (``mode="poke"``), comes back to one for each look (``mode="reschedule"``), or
    waits on the triggerer (``deferrable=True``), and does the same in each.

    Transient errors do not end the wait: no connection, an error of the shop's, a rate limit, which is waited out.
    Permanent errors end it at once: a revoked token, an order that is gone. When ``timeout`` is over, the
    error says what was last seen.

    :param order_id: the order's UUID (templated).
    :param target_status: the slug, or the slugs, to wait for (templated).
    :param context: which status, ``general`` (default), ``shipping`` or ``payment``.
    :param failure_status: the slug, or the slugs, that mean the target will never come: the sensor fails at once
        (templated; default none).
    :param youcan_conn_id: the Airflow connection of the shop (templated; default ``youcan_default``).
    :param allow_custom_label: wait for any text. By default a status that neither YouCan nor the store's own
        list knows is refused at the first look, because it would never come (default ``False``).
    :param deferrable: wait on the triggerer (default Airflow's setting ``operators.default_deferrable``).

    It waits a rate limit out by itself. A task that comes after it may not: from Airflow 3.3 on,
    ``retry_policy=YouCanRetryPolicy()`` from ``airflow_provider_youcan.retries`` makes its retries come in time.

    And all that Airflow's own sensors take: ``poke_interval``, ``timeout``, ``mode``, ``soft_fail``,
    ``exponential_backoff`` and so on.
    """

    template_fields: Sequence[str] = ("order_id", "target_status", "failure_status", "youcan_conn_id")
    operator_extra_links = (YouCanOrderLink(),)
    ui_color = "#fde2ec"

    def __init__(
        self,
        *,
        order_id: str,
        target_status: str | Collection[str],
        context: StatusContext | str = "general",
        failure_status: str | Collection[str] | None = NOT_PASSED,
        youcan_conn_id: str = "youcan_default",
        allow_custom_label: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.order_id = order_id
        self.target_status = target_status
        self.context = StatusContext(context).value
        self.failure_status = () if failure_status is NOT_PASSED else failure_status
        self._has_failure_status = was_passed(self, failure_status) and failure_status != ()
        self.youcan_conn_id = youcan_conn_id
        self.allow_custom_label = check_flag("allow_custom_label", allow_custom_label)
        self.deferrable = check_flag("deferrable", deferrable)
        self._interruption = Interruption()
        self._is_checked = False
        self._connection_error: YouCanError | None = None
        self._ended_early = False

    def execute(self, context: Context) -> Any:
        """
        Wait.

        :return: ``order_id``, ``context`` and the ``status`` that was reached.
        :raises YouCanError: if the status will never be reached.
        :raises AirflowSensorTimeout: if it was not within ``timeout``.
        :raises AirflowSkipException: in place of both, under ``soft_fail``.
        """
        with log_end(self.log, only_reads=True), self._interruption.watch():
            return self._execute(context)

    def _execute(self, context: Context) -> Any:
        self._interruption.check()
        YouCanOrderLink.persist(context, self.order_id)
        if self.deferrable:
            return self._apply_soft_fail(lambda: self._look_and_defer(context))
        try:
            return super().execute(context)
        except AirflowSensorTimeout:
            message = self._wait.describe_timeout(self.timeout, ended_early=self._ended_early)
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(message) from None
            raise AirflowSensorTimeout(message) from None
        except AirflowSkipException as skip:
            self._interruption.check()
            # Airflow's message has no reason; add it.
            reason = skip.__cause__ or self._wait.describe_timeout(self.timeout, ended_early=self._ended_early)
            raise AirflowSkipException(f"{skip} {reason}") from None

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Look once, and return whether the status is reached."""
        # Imported when a task runs: Airflow parses DAG files again and again.
        from airflow_provider_youcan.hooks.youcan import YouCanHook

        wait = self._wait
        wait.is_connected = wait.is_connected or self._was_rescheduled(context)
        if time.time() < wait.resume_at:
            return False
        # Retries within one look must not last until the next look.
        self._interruption.check()
        with YouCanHook(self.youcan_conn_id, max_retry_seconds=self.poke_interval) as hook:
            try:
                self._begin(hook, wait, context)
                status = hook.get_order_statuses(wait.order_id)[wait.context]
            except YouCanTaskStoppedError:
                raise
            except YouCanError as error:
                self._record_error(wait, error)
                return False
        return wait.record_status(status) and PokeReturnValue(is_done=True, xcom_value=self._result(status))

    def on_kill(self) -> None:
        """End the wait; Airflow calls this when the task is to end."""
        self._interruption.stop()

    def execute_complete(self, context: Context, event: Any = None) -> Any:  # noqa: ARG002
        """
        End the wait as the trigger's event says; Airflow calls this.

        :param context: Airflow's.
        :param event: what the trigger ended with.
        """
        with log_end(self.log, only_reads=True):
            return self._apply_soft_fail(lambda: self._complete(event))

    def _complete(self, event: object) -> dict[str, Any]:
        found = event if isinstance(event, Mapping) else {}
        outcome, message, status = found.get("outcome"), found.get("message"), found.get("status")
        # The store's spelling may be another Unicode form than the argument's.
        if outcome == "reached" and isinstance(status, str) and find_same(status, self._wait.target_status):
            return self._result(status)
        if outcome == "timeout" and isinstance(message, str):
            raise AirflowSensorTimeout(message)
        if outcome == "failed":
            try:
                error = from_dict(found)
            except ValueError:
                pass
            else:
                raise error
        raise YouCanTransientError(
            "The triggerer sent an event that this version does not know",
            advice="run the same version of this provider on the triggerer as on the workers, and try again",
            outcome=f"It is unknown whether the {self.context} status of order {self.order_id} was reached",
        )

    @cached_property
    def _wait(self) -> OrderStatusWait:
        # Made at the first look rather than with the sensor: its arguments are templated.
        failure_status = check_slugs("failure_status", self.failure_status) if self._has_failure_status else ()
        target_status = check_slugs("target_status", self.target_status)
        return OrderStatusWait(self.order_id, self.context, target_status, failure_status, logger=self.log)

    def _record_error(self, wait: OrderStatusWait, error: YouCanError) -> None:
        try:
            wait.record_error(error, time.time())
        except YouCanConnectionNotFoundError:
            self._connection_error = error
            raise

    def _was_rescheduled(self, context: Context) -> bool:
        """Return whether another process has looked before, and so found the Airflow connection."""
        task_instance: Any = context.get("ti")
        get_first_date = getattr(task_instance, "get_first_reschedule_date", None)
        return self.reschedule and get_first_date is not None and get_first_date(context) is not None

    def _begin(self, hook: YouCanHook, wait: OrderStatusWait, context: Context) -> None:
        """Do what the first look has to do, once the connection is there."""
        if not self._is_checked:
            YouCanOrderLink.correct(context, wait.order_id, hook)
            for name in ("target_status", "failure_status"):
                checked = [
                    hook.check_status(slug, wait.context, allow_custom_label=self.allow_custom_label)
                    for slug in getattr(wait, name)
                ]
                setattr(wait, name, tuple(checked))
            self._is_checked = True

    def _result(self, status: str | None) -> dict[str, Any]:
        return {"order_id": self.order_id, "context": self.context, "status": status}

    def _look_and_defer(self, context: Context) -> Any:
        deadline = time.time() + self.timeout
        look = self.poke(context)
        return look.xcom_value if isinstance(look, PokeReturnValue) else self._defer(deadline)

    def _defer(self, deadline: float) -> NoReturn:
        from airflow_provider_youcan.triggers.order_status import YouCanOrderStatusTrigger

        wait = self._wait
        self.defer(
            trigger=YouCanOrderStatusTrigger(
                order_id=wait.order_id,
                context=wait.context,
                target_status=wait.target_status,
                failure_status=wait.failure_status,
                youcan_conn_id=self.youcan_conn_id,
                poke_interval=self.poke_interval,
                timeout=self.timeout,
                deadline=deadline,
                exponential_backoff=self.exponential_backoff,
                max_wait=self.max_wait.total_seconds() if self.max_wait else None,
                seen=wait.seen,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout) + _AIRFLOW_TIMEOUT_MARGIN,
        )
        raise AssertionError("defer() does not return")

    def _apply_soft_fail(self, look: Callable[[], Any]) -> Any:
        """Do as Airflow's own loop does with an error of a look, for the mode that has no such loop."""
        try:
            return look()
        except YouCanTaskStoppedError:
            raise
        except (YouCanError, AirflowSensorTimeout) as error:
            is_final = isinstance(error, (AirflowFailException, AirflowSensorTimeout))
            if self.never_fail or (self.soft_fail and is_final):
                option = "soft_fail" if self.soft_fail else "never_fail"
                raise AirflowSkipException(f"Skipping due to {option} is set to True. {error}") from None
            raise

    def _get_next_poke_interval(
        self, started_at: datetime | float, run_duration: Callable[[], float], poke_count: int
    ) -> float:
        # Raised here, because Airflow swallows an error of a look under silent_fail.
        self._interruption.check()
        if self._connection_error is not None:
            raise self._connection_error
        interval: float = super()._get_next_poke_interval(started_at, run_duration, poke_count)
        left_alone = self._wait.resume_at - time.time()
        if left_alone <= interval:
            return interval
        time_left = max(0.0, self.timeout - run_duration())
        if self.reschedule and left_alone > time_left:
            # The next process would not know of the pause, and ask the shop again.
            self._ended_early = True
            raise AirflowSensorTimeout
        return min(left_alone, time_left + 0.1)
