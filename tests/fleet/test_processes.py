"""Bots as processes: what is on this machine of a bot that was deleted."""

import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from wopr.core.ids import BotId
from wopr.fleet.runtimes.process import ProcessRuntime


async def test_what_a_killed_run_left_half_deleted_is_deleted_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot_id = BotId(uuid4())
    data = tmp_path / "bots" / str(bot_id) / "data"
    data.mkdir(parents=True)
    (data / "memory.db").write_text("what a customer wants gone")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            ProcessRuntime(tmp_path)._delete(bot_id)
    assert not data.parent.exists(), "it looks like no bot any more"
    assert len(list((tmp_path / "bots").iterdir())) == 1
    await ProcessRuntime(tmp_path).remove(bot_id)
    assert list((tmp_path / "bots").iterdir()) == []
