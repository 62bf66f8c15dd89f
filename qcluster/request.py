"""One form for every question that a user can send: over HTTP, in a batch, as a job.

A room describes each of its questions as a ``Request``: a validated body that knows how to run
itself with the room's own functions. The HTTP route, the batch route, the job queue and the
OpenAPI examples are made from these classes, so none of them is written twice. Nothing here knows
HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError

from qcluster.config import Config
from qcluster.errors import InputError
from qcluster.record import Record
from qcluster.registry import Registry

__all__ = ["REQUESTS", "Request", "parse_request", "run_request"]

Seconds = Annotated[float, Field(gt=0, le=60)]
Seed = Annotated[int, Field(ge=0, lt=2**53)]


class Request(Config):
    """Base of all questions.

    A subclass sets ``kind`` (its name in a batch, ``routing.plan``), ``path`` (its HTTP route),
    ``summary``, ``result`` (the type that ``run`` returns) and ``example`` (a body that works when
    pasted), and registers itself in ``REQUESTS``.
    """

    kind: ClassVar[str]
    path: ClassVar[str]
    summary: ClassVar[str]
    result: ClassVar[type[Record]]
    example: ClassVar[dict[str, Any]]

    deadline_s: Seconds = 1.0
    """Time for the answer, in seconds; baselines run after it."""
    seed: Seed = 0
    """Seed of everything random."""

    def run(self) -> Record:
        """Answer. Raises InputError when the content makes no sense."""
        raise NotImplementedError


REQUESTS: Registry[type[Request]] = Registry("request", "qcluster.requests")
"""All requests by kind."""


def parse_request(kind: str, body: bytes | Mapping[str, Any]) -> Request:
    """The validated request in a JSON body or a mapping already read from JSON.

    Raises InputError naming the first wrong field; NotFound for an unknown kind.
    """
    model = REQUESTS.get(kind)
    try:
        if isinstance(body, bytes):
            return model.model_validate_json(body)
        return model.model_validate(body)
    except ValidationError as error:
        raise _explain(error) from None


def run_request(kind: str, body: bytes) -> dict[str, Any]:
    """Parse and run; the result as JSON types. Entry point of worker processes."""
    return parse_request(kind, body).run().to_dict()


def _explain(error: ValidationError) -> InputError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return InputError(first["msg"], field=where or None)
