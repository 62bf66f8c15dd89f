"""``njit`` of numba where it is installed, else the identity: every kernel is plain NumPy code.

The kernels compute on integers below 2^63 only, so that compiled code and the interpreter give the
same bits; without numba they are some hundred times slower and otherwise the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["inline", "njit"]

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:

    def njit(function: F) -> F:
        """The function, compiled."""
        ...

    def inline(function: F) -> F:
        """The function, put into the compiled code of its callers."""
        ...

else:
    try:
        from numba import njit as _njit
    except ImportError:

        def njit(function: F) -> F:
            """The function as it stands."""
            function.py_func = function
            return function

        inline = njit
    else:

        def njit(function: F) -> F:
            """The function, compiled at its first call."""
            # Without reference counting, whose atomic operations would cost more than the coding;
            # so a kernel allocates nothing.
            return _njit(function, cache=True, _nrt=False)

        def inline(function: F) -> F:
            """The function, put into the code of its callers: a call with arrays costs 20 ns."""
            return _njit(function, inline="always")
