"""The lookup service with a fault put in: it never asks again which generation is served."""

from __future__ import annotations

import sys

from serving import app
from serving.pointer_cache import PointerCache
from serving.store import Generation

_read = PointerCache.get_since


async def _get_since(self: PointerCache, moment: float) -> Generation | None:
    return self.known or await _read(self, moment)


async def _get(self: PointerCache) -> Generation | None:
    return await _get_since(self, 0.0)


if __name__ == "__main__":
    PointerCache.get, PointerCache.get_since = _get, _get_since  # type: ignore[method-assign]
    sys.exit(app.main())
