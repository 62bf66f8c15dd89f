"""What can be wrong with a blob.

FormatError
└── QctFormatError           not a .qct blob, or one that contradicts itself
    ├── QctCorruptError      a checksum or hash does not match
    ├── QctLimitError        it declares more than the caller allows
    └── QctUnsupportedError  a version, operation or dtype that this version does not know
"""

from __future__ import annotations

from qcluster.errors import FormatError

__all__ = ["QctCorruptError", "QctFormatError", "QctLimitError", "QctUnsupportedError"]


class QctFormatError(FormatError):
    """Not a .qct blob, or one that contradicts itself."""


class QctCorruptError(QctFormatError):
    """A checksum or hash does not match what was read."""


class QctLimitError(QctFormatError):
    """The blob declares more output or more tensors than is allowed; nothing was allocated."""


class QctUnsupportedError(QctFormatError):
    """A version, operation or dtype that this version does not know."""
