"""Forms that make something hold a mark, so that a double click makes one thing."""

import re

import httpx
import pytest
from tests.web.fake_data import Store

from wopr.web.once import new_mark, once_key


def test_a_form_sent_twice_has_one_key_and_another_form_or_other_words_have_another() -> None:
    mark = new_mark()
    assert once_key(mark, "Ada", "") == once_key(mark, "Ada", "")
    others = {once_key(mark, "Ada", ""), once_key(mark, "", "Ada"), once_key(mark, "Bob", ""), once_key("x", "Ada", "")}
    assert len(others) == 4
    assert once_key("", "Ada") is None


@pytest.mark.parametrize("path", ["/bots/new", "/keys"])
async def test_each_form_that_is_shown_has_a_mark_of_its_own(browser: httpx.AsyncClient, path: str) -> None:
    marks = {re.search(r'name="once" value="([\w-]{16})"', (await browser.get(path)).text) for _ in range(2)}
    assert len({mark.group(1) for mark in marks if mark}) == 2


async def test_a_key_shows_what_it_spent(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/keys")).text
    assert ">$12.5032<" in page
    assert "$0.1342 in 30 days" in page
    assert 'title="$12.503127 in all"' in page


async def test_a_key_that_has_expired_says_so(browser: httpx.AsyncClient, store: Store) -> None:
    assert "Expired" not in (await browser.get("/keys")).text
    store.keys[0]["expires_at"] = "2020-01-02T00:00:00Z"
    page = (await browser.get("/keys")).text
    assert page.count("Expired") == 1
    assert "2 Jan 2020" in page
