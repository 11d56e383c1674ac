"""
A switch for your own tests: no waiting between the attempts at a request.

For all tests of a project, in its ``conftest.py``::

    @pytest.fixture(autouse=True)
    def no_waiting():
        with set_testing():
            yield
"""

from __future__ import annotations

__all__ = ["is_testing", "set_testing"]

_is_testing = False


def set_testing(testing: bool = True) -> _Restore:
    """
    Switch testing on or off, for this process.

    While it is on, a request that met a transient error is sent again at once, whatever ``Retry-After`` its answer had.
    Everything else stays: the number of attempts, which errors are tried again, and that a ``Retry-After`` of more than
    60 seconds fails the task. The rate limiter of ``YouCanAsyncHook``, and so of reconciling and of deferred waits, and
    Airflow's own ``retries`` keep their times.

    It is a plain call, or a context manager that restores what was before.

    :param testing: ``True`` switches it on (default), ``False`` off.
    :return: a context manager, which may be left unused.
    """
    global _is_testing
    before, _is_testing = _is_testing, testing
    return _Restore(before)


def is_testing() -> bool:
    """Return whether testing is on. It is off by default."""
    return _is_testing


class _Restore:
    def __init__(self, before: bool) -> None:
        self._before = before

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        set_testing(self._before)
