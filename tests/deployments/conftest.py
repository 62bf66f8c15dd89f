"""A guarded API on loopback, shared by the tests that only read it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from in_process import TOKEN, Guarded, both, made_services, serving

from deployments.api import create_api
from deployments.events import Feed, create_events
from deployments.security import token_digest


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    digest = token_digest(TOKEN)
    services = made_services(tmp_path_factory.mktemp("guarded"), token_sha256=digest)
    events = create_events(Feed(services.hub, services.store), digest)
    with serving(both(create_api(services), events)) as url:
        yield Guarded(url, services)
