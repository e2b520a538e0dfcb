"""Installed packages for the few programs that import them: `site` is slow to start with."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # not from `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any


class _LateSite:
    """Stands last among the finders: runs `site` on the first name that nobody else knows."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        import importlib.machinery
        import site

        site.main()
        return importlib.machinery.PathFinder.find_spec(name, path, target)


def install() -> None:
    """Let `import` find installed packages, at the price of `site` when it is needed first."""
    sys.meta_path.append(_LateSite())
