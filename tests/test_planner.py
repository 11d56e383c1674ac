"""The difference between what an order should be and what it is: for any statuses and guards."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.orders import OrderStatuses, StatusContext
from airflow_provider_youcan.reconciliation.planner import Guard, Outcome, plan

GENERAL, SHIPPING, PAYMENT = StatusContext


slugs = st.sampled_from(["a", "b", "c", "مؤكد"])
statuses = st.builds(OrderStatuses, *[st.none() | slugs] * 3)
wanted = st.dictionaries(st.sampled_from(StatusContext), slugs)
guards = st.dictionaries(st.sampled_from(StatusContext), st.lists(slugs, min_size=1).map(tuple).map(Guard))


def apply(steps: dict[StatusContext, Any], wanted: dict[StatusContext, str], found: OrderStatuses) -> OrderStatuses:
    after = {context.value: found[context] for context in StatusContext}
    after |= {context.value: wanted[context] for context, step in steps.items() if step.outcome is Outcome.PLANNED}
    return OrderStatuses(**after)


@given(wanted, statuses, guards)
def test_the_plan_brings_about_what_is_wanted(
    wanted: dict[StatusContext, str], found: OrderStatuses, guards: dict[StatusContext, Guard]
) -> None:
    steps = plan(wanted, found, guards)
    after = apply(steps, wanted, found)

    assert steps.keys() == wanted.keys()
    for context in StatusContext:
        if context not in wanted or steps[context].outcome is Outcome.PROTECTED:
            assert after[context] == found[context], "what is not spoken of, or protected, is left alone"
        else:
            assert after[context] == wanted[context]


@given(wanted, statuses, guards)
def test_planning_again_plans_nothing(
    wanted: dict[StatusContext, str], found: OrderStatuses, guards: dict[StatusContext, Guard]
) -> None:
    after = apply(plan(wanted, found, guards), wanted, found)

    assert Outcome.PLANNED not in {step.outcome for step in plan(wanted, after, guards).values()}


@given(wanted, statuses, guards)
def test_a_guard_is_never_crossed(
    wanted: dict[StatusContext, str], found: OrderStatuses, guards: dict[StatusContext, Guard]
) -> None:
    for context, step in plan(wanted, found, guards).items():
        assert step.before == found[context]
        if step.outcome is Outcome.PLANNED:
            assert context not in guards or found[context] in guards[context].only_from
        if step.outcome is Outcome.PROTECTED:
            assert context in guards or context is GENERAL
            assert step.reason


CLOSED_AND_PAID, FROM_PENDING = {GENERAL: "closed", PAYMENT: "paid"}, {PAYMENT: Guard(("pending",))}


def test_the_general_status_is_held_back_where_another_is_protected() -> None:
    steps = plan(CLOSED_AND_PAID, OrderStatuses("open", "unfulfilled", "refunded"), FROM_PENDING)

    assert [(context, step.outcome) for context, step in steps.items()] == [
        (PAYMENT, Outcome.PROTECTED),
        (GENERAL, Outcome.PROTECTED),
    ]
    assert steps[GENERAL].before == "open"
    assert steps[GENERAL].reason == ("the payment status of this order was protected, so the order is left as it is")


def test_it_is_not_held_back_where_the_others_may_be_set_or_hold_already() -> None:
    for payment in ("pending", "paid"):
        assert (
            plan(CLOSED_AND_PAID, OrderStatuses("open", "unfulfilled", payment), FROM_PENDING)[GENERAL].outcome
            is Outcome.PLANNED
        )


def test_a_general_status_that_holds_already_needs_no_protection() -> None:
    steps = plan(CLOSED_AND_PAID, OrderStatuses("closed", "unfulfilled", "refunded"), FROM_PENDING)

    assert steps[GENERAL].outcome is Outcome.UNCHANGED


def test_a_revert_decides_each_status_alone_the_general_one_first() -> None:
    steps = plan(CLOSED_AND_PAID, OrderStatuses("open", "unfulfilled", "refunded"), FROM_PENDING, is_revert=True)

    assert [(context, step.outcome) for context, step in steps.items()] == [
        (GENERAL, Outcome.PLANNED),
        (PAYMENT, Outcome.PROTECTED),
    ]


@given(wanted, statuses, guards)
def test_no_order_is_closed_of_which_another_status_is_protected(
    wanted: dict[StatusContext, str], found: OrderStatuses, guards: dict[StatusContext, Guard]
) -> None:
    steps = plan(wanted, found, guards)

    if any(steps[context].outcome is Outcome.PROTECTED for context in (SHIPPING, PAYMENT) if context in steps):
        assert GENERAL not in steps or steps[GENERAL].outcome is not Outcome.PLANNED


def test_a_status_that_can_not_be_read_is_protected_by_its_guard_alone() -> None:
    unknown = OrderStatuses("open", None, None)

    assert plan({PAYMENT: "paid"}, unknown, {})[PAYMENT].outcome is Outcome.PLANNED
    step = plan({PAYMENT: "paid"}, unknown, FROM_PENDING)[PAYMENT]
    assert (step.outcome, step.reason) == (
        Outcome.PROTECTED,
        "the status can't be read, so its guard can't be checked",
    )
