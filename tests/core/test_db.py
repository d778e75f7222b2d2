"""The database of a test is fresh, migrated and transactional."""

import pytest
from sqlalchemy import text

from wopr.core.database_url import database_url
from wopr.core.db import Database
from wopr.core.errors import Unavailable
from wopr.core.settings import Settings
from wopr.migrations.head import head_revision
from wopr.migrations.run import upgrade


async def test_a_migrated_database_stands_at_the_head(db: Database) -> None:
    assert await db.revision() == head_revision()


async def test_migrating_twice_changes_nothing(db: Database) -> None:
    await upgrade(db.url)
    assert await db.revision() == head_revision()


async def test_an_error_rolls_the_transaction_back(db: Database) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):  # noqa: PT012
        async with db.begin() as session:
            await session.execute(text("INSERT INTO loop_leases (name) VALUES ('gone')"))
            raise RuntimeError("on purpose")
    async with db.begin() as session:
        assert await session.scalar(text("SELECT count(*) FROM loop_leases")) == 0


def test_another_kind_of_database_is_refused_with_the_remedy() -> None:
    with pytest.raises(Unavailable) as caught:
        database_url(Settings(database_url="mysql://localhost/x"))
    assert "postgresql://" in caught.value.remedy


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg"])
def test_an_address_may_be_written_as_each_library_wants_it(scheme: str) -> None:
    assert database_url(Settings(database_url=f"{scheme}://a:b@c/d")) == "postgresql://a:b@c/d"
