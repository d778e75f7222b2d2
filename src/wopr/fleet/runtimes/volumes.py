"""Copies of bots' volumes, so that a bot whose new image does not start returns to everything it knew.

A container of the bot's own image does the copying, without a network and with nothing else to see. It goes on when
the process that wanted it dies, and its name, which the engine gives only once, lets the next process wait for it.
"""

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Any  # the engine's JSON

from wopr.core.ids import BotId
from wopr.fleet.runtimes import containers
from wopr.fleet.runtimes.containers import DATA, LABEL_GENERATION, copier_name, copy_name, volume_name
from wopr.fleet.runtimes.engine import CONFLICT, Engine, EngineRefused, Json
from wopr.fleet.runtimes.protocol import RuntimeFailed

VOLUME_TRIES_MAX = 20
VOLUME_PAUSE_SECONDS = 0.1
COPY_SECONDS_MAX = 1800.0
POLL_SECONDS_FIRST = 0.05
POLL_SECONDS_MAX = 1.0
COPY = "/copy"
LABEL_ERRAND = "wopr.copying"
MEMORY_BYTES = 256 * 2**20
# Emptied first, so that what a copier that was killed left behind is not in it. On the disk before we go on.
SCRIPT = 'find "$2" -mindepth 1 -delete && cp -a "$1"/. "$2"/ && sync -f "$2"'
# Files belong to the bot, and it may have closed some of them to everybody.
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")


class CopyFailed(RuntimeFailed):
    """A bot's data could not be copied; it is as it was."""

    default_code = "bot_copy_failed"


@dataclass(frozen=True)
class Errand:
    """One run of the copier: from the bot's volume to the copy, or back."""

    bot_id: BotId
    generation: int
    back: bool

    @property
    def paths(self) -> tuple[str, str]:
        return (COPY, DATA) if self.back else (DATA, COPY)

    @property
    def label(self) -> str:
        return "restore" if self.back else "make"


class VolumeCopies:
    """The copies on one engine for one installation."""

    def __init__(self, engine: Engine, installation: str) -> None:
        self._engine = engine
        self._installation = installation

    async def make(self, bot_id: BotId, generation: int, image: str) -> None:
        labels = containers.labels_of(self._installation, bot_id)
        for volume in await self._engine.volumes(labels):
            if volume not in (volume_name(bot_id), copy_name(bot_id, generation)):
                await remove_volume(self._engine, volume)
        for name in (volume_name(bot_id), copy_name(bot_id, generation)):
            await self._engine.call("POST", "volumes/create", body={"Name": name, "Labels": labels})
        await self._run(Errand(bot_id, generation, back=False), image)

    async def restore(self, bot_id: BotId, generation: int, image: str) -> None:
        name = copy_name(bot_id, generation)
        if name not in await self._engine.volumes(containers.labels_of(self._installation, bot_id)):
            # Without this, the engine would make an empty one, and the bot's data would be replaced by nothing.
            raise CopyFailed(f"The copy {name} is gone.", remedy="Restore the bot's volume from a backup.")
        await self._run(Errand(bot_id, generation, back=True), image)

    async def drop(self, bot_id: BotId, generation: int) -> None:
        await remove_volume(self._engine, copy_name(bot_id, generation))

    async def _run(self, errand: Errand, image: str) -> None:
        """Have the copier run to its end, once, whoever started it."""
        name = copier_name(errand.bot_id)
        present = await self._engine.inspect(name)
        if present is not None and not _same(present, errand):
            await self._engine.remove(present["Id"])
            present = None
        if present is None:
            container = await self._engine.create(name, describe(errand, self._installation, image))
            await self._engine.start(container)
        elif present["State"]["Status"] == "created":
            await self._engine.start(present["Id"])
        ended = await self._ended(name)
        if ended is None:
            raise CopyFailed(f"The container {name} was removed while it copied.", remedy="It is tried again.")
        code = int(ended["State"]["ExitCode"])
        await self._engine.remove(ended["Id"])
        if code != 0:
            raise CopyFailed(
                f"The data of the bot could not be copied (exit code {code}).",
                remedy="See whether the engine's disk is full: docker system df",
            )

    async def _ended(self, name: str) -> Json | None:
        deadline, pause = monotonic() + COPY_SECONDS_MAX, POLL_SECONDS_FIRST
        while monotonic() < deadline:
            present = await self._engine.inspect(name)
            if present is None or present["State"]["Status"] in ("exited", "dead"):
                return present
            await asyncio.sleep(pause)
            pause = min(POLL_SECONDS_MAX, pause * 1.3)
        await self._engine.remove(name)
        raise CopyFailed(
            f"Copying the data of the bot took longer than {COPY_SECONDS_MAX / 60:.0f} minutes.",
            remedy="See whether the engine's disk is slow or full.",
        )


async def remove_volume(engine: Engine, name: str) -> None:
    """Delete a volume, which stays in use for a moment after its container was removed. Raises `RuntimeFailed`."""
    for _ in range(VOLUME_TRIES_MAX):
        try:
            return await engine.remove_volume(name)
        except EngineRefused as error:
            if error.http_status != CONFLICT:
                raise
        await asyncio.sleep(VOLUME_PAUSE_SECONDS)
    raise RuntimeFailed(
        f"The volume {name} is in use.", remedy=f"See which container has it: docker ps -a -f volume={name}"
    )


def describe(errand: Errand, installation: str, image: str) -> dict[str, Any]:
    """The copier for the engine: it sees the two volumes and nothing else."""
    source, target = errand.paths
    names = {DATA: volume_name(errand.bot_id), COPY: copy_name(errand.bot_id, errand.generation)}
    mounts = [
        {"Type": "volume", "Source": names[path], "Target": path, "ReadOnly": path == source} for path in (DATA, COPY)
    ]
    return {
        "Image": image,
        "User": "0:0",
        "Entrypoint": ["/bin/sh", "-c", SCRIPT, "copy", source, target],
        "Cmd": [],
        "WorkingDir": "/",
        "Labels": {
            **containers.labels_of(installation, errand.bot_id),
            LABEL_ERRAND: errand.label,
            LABEL_GENERATION: str(errand.generation),
        },
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Mounts": mounts,
            "NetworkMode": "none",
            "RestartPolicy": {"Name": "no"},
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": list(CAPABILITIES),
            "SecurityOpt": ["no-new-privileges:true"],
            "Memory": MEMORY_BYTES,
            "PidsLimit": containers.PIDS_AT_LEAST,
            "LogConfig": {"Type": "json-file", "Config": containers.LOG_OPTIONS},
        },
    }


def _same(inspected: Json, errand: Errand) -> bool:
    labels = inspected["Config"]["Labels"] or {}
    return labels.get(LABEL_ERRAND) == errand.label and labels.get(LABEL_GENERATION) == str(errand.generation)
