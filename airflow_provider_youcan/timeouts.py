"""``timeout`` for coroutines on every Python: before 3.12 ``asyncio.wait_for`` may swallow a cancel."""

from __future__ import annotations

import sys

__all__ = ["timeout"]

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout  # aiohttp brings it
