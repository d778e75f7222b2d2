"""Customers of every kind while releases come and go: no wrong answer, no cut stream, no write lost or done twice."""

from collections.abc import Iterator

import pytest
from tests.live import wait_for
from tests.machines.customers import KINDS, STREAM, STREAMERS, customers
from tests.machines.engine import Engine
from tests.machines.installation import Installation, installed


@pytest.fixture(scope="module")
def site(engine: Engine, platform_image: str, third_party_images: object) -> Iterator[Installation]:
    with installed(engine, platform_image) as made:
        yield made


def test_releases_fail_no_request_cut_no_stream_and_lose_or_double_no_write(site: Installation) -> None:
    with customers(site) as come:
        with come() as crowd:
            wait_for(lambda: all(crowd.answered[kind] for kind in KINDS), "customers of every kind", 60)
            for _ in range(2):
                site.release(site.derive())
        assert crowd.wrong() == []
        assert crowd.misdone() == []
        assert crowd.unpaid() == ""
    assert crowd.answered[STREAM] >= STREAMERS
