"""Named extension points: solvers, telemetry sources, backends, samplers, codecs, exporters.

Each is one ``Registry`` with a group of entry points behind it, so that a third party's package
adds a solver by installing. Entry points are loaded at the first look-up that misses, not at
import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from qcluster.errors import NotFound

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to implementations.

    Parameters
    ----------
    kind: what is registered, for messages, e.g. "Ising solver".
    group: the entry-point group that third parties register under.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._found: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str, item: T) -> T:
        """Add ``item`` under ``name``; a later registration replaces an earlier one."""
        self._found[name] = item
        return item

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator form of ``register``."""
        return lambda item: self.register(name, item)

    def get(self, name: str) -> T:
        """The item called ``name``.

        Raises NotFound with the names that there are.
        """
        if name not in self._found:
            self._load()
        try:
            return self._found[name]
        except KeyError:
            known = ", ".join(sorted(self._found))
            raise NotFound(f"no {self.kind} called '{name}'; there are: {known}") from None

    def names(self) -> list[str]:
        """All names, sorted, third parties' included."""
        self._load()
        return sorted(self._found)

    def items(self) -> Iterator[tuple[str, T]]:
        """Pairs of name and item, in order of name."""
        self._load()
        return iter(sorted(self._found.items(), key=lambda pair: pair[0]))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        # Half of what importing qcluster.telemetry would cost, for something few have.
        from importlib.metadata import entry_points

        for point in entry_points(group=self.group):
            self._found.setdefault(point.name, point.load())
