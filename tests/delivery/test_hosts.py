"""A host runs lists of arguments and keeps files whole, the same on this machine and over SSH."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest
from tests.delivery.hosting import ssh_machine

from wopr.cloud.ssh import complaints
from wopr.core.errors import Invalid
from wopr.delivery.errors import HostAway, HostFailed
from wopr.delivery.hosts import Host, LocalHost, Output, SshHost, host_of, write_command

GIVEN_UP_SECONDS = 30.0
SSHD_SESSIONS_MAX = 10  # of one connection, as sshd has it unless it is told otherwise


@pytest.fixture(params=["local", "ssh"])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    async with AsyncExitStack() as stack:
        if request.param == "local":
            yield LocalHost()
        else:
            yield await stack.enter_async_context(ssh_machine(tmp_path / "ssh"))


async def test_arguments_arrive_as_they_are(host: Host) -> None:
    words = ("a b", "$HOME", "`id`", "it's", '"', "", "*", "\\", "ä\n")
    done = await host.run(("sh", "-c", 'for word in "$@"; do printf "<%s>" "$word"; done', "x", *words))
    assert done.ok
    assert done.out.decode() == "".join(f"<{word}>" for word in words)


async def test_input_output_complaint_and_exit_code_come_back(host: Host) -> None:
    done = await host.run(("sh", "-c", "cat; echo first >&2; echo why >&2; exit 7"), input=b"\x00\xffbytes")
    assert (done.code, done.out, done.complaint) == (7, b"\x00\xffbytes", "why")


async def test_a_command_that_does_not_end_is_given_up(host: Host) -> None:
    with pytest.raises(HostFailed, match="did not end within") as told:
        await host.run(("sleep", "30"), timeout=0.3)
    assert not isinstance(told.value, HostAway), "the machine is there: it is the command's own fault"
    assert (await host.run(("true",))).ok


async def test_a_file_is_replaced_whole_with_its_mode_and_its_folder(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "state.json"
    assert await host.read(str(path)) is None
    await host.write(str(path), b"one" * 10_000)
    await host.write(str(path), b"two\n", 0o644)
    assert await host.read(str(path)) == b"two\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [file.name for file in path.parent.iterdir()] == ["state.json"]


async def test_what_is_cut_off_on_its_way_changes_nothing(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    await host.write(str(path), b"old")
    for arrived in (b"", b"ne"):  # the writer was killed, or its connection broke: all that is seen of it is an end
        assert not (await host.run(write_command(str(path), 0o600, len(b"new")), input=arrived)).ok
        assert await host.read(str(path)) == b"old"
        assert [file.name for file in path.parent.glob("state.json*")] == ["state.json"]


async def test_a_file_that_can_not_be_written_is_an_error(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostFailed, match="can't be written"):
        await host.write(str(tmp_path / "file" / "below"), b"x")


async def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostFailed, match="no-such-program"):
        await LocalHost().run(("no-such-program",))


async def test_one_connection_serves_many_commands_and_a_broken_one_is_made_anew(tmp_path: Path) -> None:
    async with ssh_machine(tmp_path) as host:
        await host.run(("true",))
        first = host._connection
        await host.run(("true",))
        assert host._connection is first
        assert first is not None
        first.abort()
        await first.wait_closed()
        assert (await host.run(("true",))).ok


async def test_half_of_what_a_command_said_is_not_taken_for_all_when_the_connection_breaks(tmp_path: Path) -> None:
    async with ssh_machine(tmp_path, breaks="printf") as host:
        with pytest.raises(HostAway, match="broke in the middle"):
            await host.run(("printf", "1\\n2\\n"))
        assert (await host.run(("echo", "3"))).text == "3", "the next one has a connection of its own"
        ended = await host.run(("sh", "-c", "kill -9 $$"))
        assert ended.code != 0, "a command that a signal ended has an end"


async def test_a_machine_with_another_key_than_the_known_one_is_refused(tmp_path: Path) -> None:
    async with ssh_machine(tmp_path, known=False) as host:
        with pytest.raises(HostFailed, match="not known here") as refused:
            await host.run(("true",))
        assert "ssh -p" in refused.value.remedy


async def test_a_machine_that_is_not_there_is_told() -> None:
    with pytest.raises(HostAway, match="can't be reached"):
        await SshHost("127.0.0.1", port=1).run(("true",))


def test_a_host_is_named_as_ssh_names_it() -> None:
    assert isinstance(host_of(""), LocalHost)
    named = host_of("ada@vps.example.com:2222")
    assert isinstance(named, SshHost)
    assert named.describe() == "ada@vps.example.com:2222"
    assert host_of("vps.example.com").describe() == "root@vps.example.com"


@pytest.mark.parametrize("text", ["root@", "root@host:ssh", "root@host:0", "root@host:70000", "a@b@c", "ho st", "::1"])
def test_what_is_no_address_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(Invalid, match="no user@name"):
        host_of(text)


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    host = host_of("ada@[2001:db8::7]:2222")
    assert isinstance(host, SshHost)
    assert (host.user, host.address, host.port) == ("ada", "2001:db8::7", 2222)


@pytest.mark.parametrize("turns", range(8))
async def test_a_command_that_is_given_up_while_it_starts_is_ended_all_the_same(turns: int) -> None:
    """At whichever turn of the loop: asyncio itself would leave its program and pipes behind, and wait for them."""
    before = psutil.Process().children(recursive=True)
    asked = asyncio.create_task(LocalHost().run(("sh", "-c", "cat; sleep 600 # given-up"), input=b"x" * 1_000_000))
    for _ in range(turns):
        await asyncio.sleep(0)
    asked.cancel()
    done, _ = await asyncio.wait({asked}, timeout=GIVEN_UP_SECONDS)
    assert done, "it hangs"
    assert asked.cancelled()
    children = set(psutil.Process().children(recursive=True)) - set(before)  # a database of another test lives, too
    living = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    assert not [child for child in living if child.name() in ("sh", "cat", "sleep")]


def test_a_complaint_is_the_error_and_not_its_remedy() -> None:
    ours = b"starting\nerror: DATABASE_POOL_SIZE can't be used.\n  fix: Correct it.\n"
    assert Output(1, err=ours).complaint == "DATABASE_POOL_SIZE can't be used."
    slow = "failed: host migrate from 1 to 2\nerror: PostgreSQL refused it\n  fix: Correct it.\n"
    assert complaints(slow) == ["PostgreSQL refused it"]
    assert Output(1, b"it broke\n\n").complaint == "it broke"
    assert Output(1, err=b"fix: nothing else\n").complaint == "fix: nothing else"
    assert Output(3).complaint == "exit code 3"


async def test_more_commands_at_once_than_a_server_lets_one_connection_have_take_turns(tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    # Each waits a while for too many of them, and tells how many there are.
    waits = 'for _ in $(seq 20); do [ "$(ls | wc -l)" -gt "$2" ] && break; sleep 0.1; done'
    script = f'cd "$1" && : > $$ && {waits}; ls | wc -l; rm $$'
    command = ("sh", "-c", script, "count", str(tmp_path / "busy"), str(SSHD_SESSIONS_MAX))
    async with ssh_machine(tmp_path / "ssh") as host:
        ran = await asyncio.gather(*(host.run(command) for _ in range(SSHD_SESSIONS_MAX + 5)))
    assert all(one.ok for one in ran)
    assert max(int(one.text) for one in ran) <= SSHD_SESSIONS_MAX


async def test_a_session_that_is_refused_for_now_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, refused = asyncssh.SSHClientConnection.run, []

    async def run(self: asyncssh.SSHClientConnection, *words: Any, **more: Any) -> Any:
        if len(refused) < 3:
            refused.append(self)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed")
        return await really(self, *words, **more)

    monkeypatch.setattr(asyncssh.SSHClientConnection, "run", run)
    async with ssh_machine(tmp_path / "ssh") as host:
        assert (await host.run(("echo", "in"))).text == "in"
    assert len(refused) == 3
    assert len(set(map(id, refused))) == 1, "the connection is whole, and others use it"
