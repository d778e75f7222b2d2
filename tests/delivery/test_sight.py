"""What a release leaves for the runbook: one row a container, as it was found."""

from wopr.delivery.plan import Container
from wopr.delivery.sight import stack_rows


def test_the_stack_is_a_row_for_each_container() -> None:
    found = [
        Container("wopr-ui-blue", "ui-blue", "blue", 7, "running", image="platform@sha256:" + "a" * 64),
        Container("wopr-caddy", "caddy", None, None, "running", image="caddy:2-alpine"),
    ]
    assert stack_rows(found) == [
        {"name": "caddy", "image": "caddy:2-alpine", "port": "80, 443", "status": "running"},
        {
            "name": "ui-blue",
            "image": "platform@sha256:" + "a" * 64,
            "port": "3000",
            "status": "running, release 7",
        },
    ]
