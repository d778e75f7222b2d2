"""What `wopr check` says of the way out for mail."""

from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from tests.billing.conftest import serving

from wopr.accounts.checks import mail_domain
from wopr.core.settings import Settings
from wopr.emulators.resend import ResendSettings, build_resend
from wopr.ops.checks import Finding, Verdict


async def asked(url: str, **changes: Any) -> Finding:
    known: dict[str, Any] = {
        "resend_api_base": url,
        "resend_api_key": SecretStr("re_right"),
        "mail_from": "WOPR <hello@mail.wopr.example>",
    }
    return await mail_domain(Settings(**known | changes))


async def test_the_domain_of_the_sender_must_be_verified() -> None:
    async with serving(build_resend(ResendSettings(api_key="re_right", strict=True))) as url:
        unknown = await asked(url)
        assert (unknown.verdict, "mail.wopr.example" in unknown.evidence) == (Verdict.FAILED, True)
        async with httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer re_right"}) as http:
            made = (await http.post("/domains", json={"name": "wopr.example"})).json()
            waiting = await asked(url)
            assert (waiting.verdict, waiting.evidence) == (Verdict.WARNING, "wopr.example is not_started")
            await http.post(f"/domains/{made['id']}/verify")
        assert (await asked(url)).verdict is Verdict.OK
        refused = await asked(url, resend_api_key=SecretStr("re_wrong"))
        assert (refused.verdict, "RESEND_API_KEY" in refused.remedy) == (Verdict.FAILED, True)


@pytest.mark.parametrize(("changes", "verdict"), [({"resend_api_key": None}, Verdict.SKIPPED), ({}, Verdict.FAILED)])
async def test_without_a_key_nothing_is_asked_and_no_answer_is_a_failure(
    changes: dict[str, Any], verdict: Verdict
) -> None:
    assert (await asked("http://127.0.0.1:1", **changes)).verdict is verdict
