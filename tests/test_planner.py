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
