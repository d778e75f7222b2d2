"""A secret of a host whose files are not here gets into no journal here, whoever says it in whatever they say."""

from pathlib import Path

import pytest
from tests.delivery.test_away import PLACE, image, installed

from wopr.core.errors import WoprError
from wopr.delivery.deploy import Request, deploy
from wopr.delivery.rollback import Back, rollback

SECRET = "of-another-host-4711"
TOLD = "told-with-the-release-4711"


async def test_a_reason_that_holds_a_secret_of_the_host_is_blacked_out(tmp_path: Path) -> None:
    machine, journal = await installed(tmp_path)
    assert (await deploy(machine, PLACE, journal, image(2), lambda *_: None)).good
    machine.files[PLACE.env] += f"POSTGRES_PASSWORD={SECRET}\n".encode()
    back = Back(to=1, reason=f"somebody put {SECRET} into the page", by="test")
    assert (await rollback(machine, PLACE, journal, back, lambda *_: None)).verdict.good
    written = journal.path.read_text(encoding="utf-8")
    assert "into the page" in written
    assert SECRET not in written


async def test_a_deploy_that_names_a_secret_where_none_belongs_is_blacked_out(tmp_path: Path) -> None:
    machine, journal = await installed(tmp_path)
    settings = {"STRIPE_SECRET_KEY": TOLD}
    request = Request(f"registry.example/{TOLD}:latest", by=f"as {TOLD}", settings=settings)
    machine.at = "image inspect"
    with pytest.raises(WoprError):
        await deploy(machine, PLACE, journal, request, lambda *_: None)
    written = journal.path.read_text(encoding="utf-8")
    assert '"trigger"' in written
    assert TOLD not in written
