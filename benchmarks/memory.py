"""Goals S1 and S3: resident memory of the idle control plane, and of an idle bot.

The proportional set size (PSS) stands beside the resident one: pages that processes share are divided among them.
"""

import asyncio
import secrets
import shutil
import tempfile
import time
from pathlib import Path

import psutil
from report import table
from tests.stack import Stack, start

from wopr.client import ApiClient
from wopr.ops.smoke import Target, Walk

SETTLE_SECONDS = 8
MEGABYTE = 1024 * 1024


async def make_bot(stack: Stack) -> None:
    async with ApiClient(stack.api) as api:
        walk = Walk(api, Target(stack.api, stack.mail), f"bench+{secrets.token_hex(5)}@example.com")
        for step in (walk.sign_up, walk.verify, walk.pay, walk.credited, walk.create_bot, walk.answered):
            await step()


def megabytes(pid: int) -> tuple[float, float]:
    info = psutil.Process(pid).memory_full_info()
    return info.rss / MEGABYTE, info.pss / MEGABYTE


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="wopr-bench-"))
    stack = start(folder / "home")
    try:
        asyncio.run(make_bot(stack))
        time.sleep(SETTLE_SECONDS)
        pids = {**stack.pids(), "supervisor": stack.process.pid}
        bots = [p.pid for p in psutil.process_iter(["cmdline"]) if str(stack.home) in " ".join(environ(p))]
        measured = {name: megabytes(pid) for name, pid in pids.items()}
        measured["bot"] = megabytes(bots[0])
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
    plane = ("api", "ui", "supervisor")
    total = tuple(sum(measured[name][i] for name in plane) for i in (0, 1))
    rows = [
        (name, f"{rss:.0f} MB", f"{pss:.0f} MB", "40 MB (S3)" if name == "bot" else "–")
        for name, (rss, pss) in measured.items()
    ]
    rows.append(("S1 control plane: api + ui + supervisor", f"{total[0]:.0f} MB", f"{total[1]:.0f} MB", "150 MB (S1)"))
    table("Memory when idle, after one answer", ("process", "resident", "proportional", "goal"), rows)


def environ(process: psutil.Process) -> list[str]:
    """The command line and environment of a bot's process; empty for others."""
    try:
        if "wopr.bot" not in " ".join(process.cmdline()):
            return []
        return list(process.environ().values())
    except psutil.Error:
        return []


if __name__ == "__main__":
    main()
