"""The input of a run that takes another back, from the record of its tries alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.inputs import RunInput
from airflow_provider_youcan.reconciliation.plan import allow_from
from airflow_provider_youcan.reconciliation.planner import Outcome
from airflow_provider_youcan.reconciliation.record.reader import RecordedLine, RecordedTry
from airflow_provider_youcan.reconciliation.rows.desired import DesiredState

__all__ = ["read_revert"]

_Key = tuple[str, StatusContext]


def read_revert(tries: Sequence[RecordedTry]) -> RunInput:
    """
    Build the input that takes a run back: each status that it set, or may have set, while that still stands.

    For each status the *effects* of a run are its changes, its unconfirmed updates, and each announcement that nothing
    answers. Undo starts at the last effect; if an earlier effect of this run set its ``before``, it continues there.

    :param tries: the records of the run's tries, from the first on. A plan's lines count as announcements; if other
        records are given, too, only those of statuses that none of the other records names.
    :raises YouCanInvalidInputError: if a plan among them is cut off, or they say nothing at all.
    """
    for one in tries:
        _refuse_silence(one, tries)
    runs, plans = [one for one in tries if not one.is_plan], [one for one in tries if one.is_plan]
    effects = _find_effects(runs)
    statuses = set().union(*(one.statuses for one in runs))
    for plan in plans:
        for line in plan.lines:
            if line.outcome is Outcome.PLANNED and line.key not in statuses:
                effects.setdefault(line.key, []).append(_Effect(line, is_answered=False))
    statuses.update(effects)
    desired = DesiredState()
    for effect, target in ((found[-1], _find_target(found)) for found in effects.values()):
        error = (
            None
            if target is not None
            else YouCanInvalidInputError("what it was before is not known, so it can't be set back")
        )
        desired.add_status(effect.line.order_id, effect.line.ref, effect.line.context, target or "", error)
    unknown = "what the run set is not known"
    guards = {key: allow_from(_find_shown(found), "the run set", unknown) for key, found in effects.items()}
    return RunInput(
        desired,
        lambda order, context: guards.get((str(order.order_id), context)),
        is_guarded=True,
        total=len(statuses),
        stores={one.end["store"] for one in tries if one.end is not None and one.end.get("store")},
        is_revert=True,
        notes=_find_notes(runs, effects),
    )


@dataclass(frozen=True, slots=True)
class _Effect:
    """One thing that a run did to a status, or may have done."""

    line: RecordedLine
    is_answered: bool = True
    """True if the record has a result of it."""

    @property
    def is_confirmed(self) -> bool:
        return self.line.outcome is Outcome.CHANGED and not self.line.unconfirmed


def _find_effects(tries: Iterable[RecordedTry]) -> dict[_Key, list[_Effect]]:
    """Return the effects on each status, in the order of the tries; those of several map indexes are merged by time."""
    by_index: dict[int | None, list[RecordedTry]] = {}
    for one in tries:
        by_index.setdefault(one.map_index, []).append(one)
    streams = [[effect for one in found for effect in _read_effects(one)] for found in by_index.values()]
    if len(streams) > 1:
        streams = [list(merge(*streams, key=lambda effect: effect.line.recorded_at))]
    effects: dict[_Key, list[_Effect]] = {}
    for effect in streams[0] if streams else ():
        effects.setdefault(effect.line.key, []).append(effect)
    return effects


def _read_effects(one: RecordedTry) -> Iterator[_Effect]:
    announced: dict[_Key, list[RecordedLine]] = {}
    for line in one.lines:
        if line.outcome is Outcome.SENDING:
            announced.setdefault(line.key, []).append(line)
            continue
        if line.outcome is Outcome.UNCHANGED and line.before != line.wanted:
            continue  # another row asks for the same: it says nothing of the update
        announced.pop(line.key, None)
        if line.outcome is Outcome.CHANGED or line.unconfirmed:
            yield _Effect(line)
    for lines in announced.values():
        yield from (_Effect(line, is_answered=False) for line in lines)


def _find_target(effects: Sequence[_Effect]) -> str | None:
    """Return what a status was before the run, ``None`` if that is not known."""
    number = len(effects) - 1
    while True:
        before = effects[number].line.before
        earlier = next((n for n in reversed(range(number)) if effects[n].line.wanted == before), None)
        if before is None or earlier is None:
            return before
        number = earlier


def _find_shown(effects: Sequence[_Effect]) -> list[str | None]:
    """Return the values that the shop may show: all that were set since the last confirmed update, newest first."""
    confirmed = [number for number, effect in enumerate(effects) if effect.is_confirmed]
    last = effects[confirmed[-1] if confirmed else 0 :]
    return list(dict.fromkeys(effect.line.wanted for effect in reversed(last)))


def _find_notes(tries: Iterable[RecordedTry], effects: dict[_Key, list[_Effect]]) -> list[str]:
    if all(one.end is not None for one in tries):
        return []
    doubts = sum(not found[-1].is_answered for found in effects.values())
    many = f"{doubts:,} updates were announced, and nothing says what became of them: each is"
    what = "1 update was announced, and nothing says what became of it: it is" if doubts == 1 else many
    return [
        f"This run was cut off. {what} taken back if the shop shows it, even if somebody else set the same in that "
        "moment."
        if doubts
        else "This run was cut off. Its record says what became of each update that it announced."
    ]


def _refuse_silence(one: RecordedTry, tries: Sequence[RecordedTry]) -> None:
    """Refuse records with which a revert would succeed and do nothing."""
    if not one.is_plan and one.end is None and any(line.outcome is Outcome.PLANNED for line in one.lines):
        raise YouCanInvalidInputError(
            f"The plan {one.name} is cut off: its last line is missing", advice="give the whole one."
        )
    if one.is_empty and not any(other.lines or other.end for other in tries):
        raise YouCanInvalidInputError(
            f"The report {one.name} is empty",
            advice=(
                "look for another report of its run, or give its plan: the run was stopped before it announced any "
                "update."
            ),
        )
