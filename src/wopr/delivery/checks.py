"""Checks of an installation for `wopr check`: of `.env`, each kind of fault with its remedy, and of the bots' image."""

from collections.abc import Callable, Sequence

from wopr.delivery import commands
from wopr.delivery.env_file import Fault
from wopr.delivery.env_look import IN_GIT, EnvLook, look_env
from wopr.delivery.env_rules import lacking
from wopr.delivery.hosts import Host
from wopr.delivery.place import Place
from wopr.delivery.release import read_release, read_state
from wopr.ops.checks import Check, Finding, failed, ok, skipped, warning

OWNER_ONLY = "600"
SHOWN_MAX = 5
Judge = Callable[[EnvLook], Finding]


def checks(host: Host, place: Place) -> Sequence[Check]:
    """Every check of the installation in a folder; `.env` is looked at anew by each."""

    def check(name: str, proves: str, judge: Judge) -> Check:
        async def look() -> Finding:
            looked = await look_env(host, place)
            return judge(looked) if looked.mode else skipped(f"{place.env} does not exist")

        return Check(name, proves, look)

    async def image() -> Finding:
        return await bots_image(host, place)

    return [
        check("env.readable", "every reader of .env takes it for the same", readable),
        check("env.settings", "paths, addresses and secrets in .env are whole and fit together", settings),
        check("env.features", "what .env leaves out is known", features),
        check("env.mode", ".env is readable by its owner only", mode),
        check("env.git", ".env is not and was never in version control", in_git),
        Check("bots.image", "the image from which bots' containers are made is on the host", image),
    ]


async def bots_image(host: Host, place: Place) -> Finding:
    """Whether new bots could start with the registry away. On a Swarm each machine has images of its own."""
    runtime = (await look_env(host, place)).file.values.get("BOT_RUNTIME", "")
    active = (await read_state(host, place)).active
    if runtime != "docker" or active is None:
        return skipped(f"BOT_RUNTIME={runtime}" if active else "nothing is released")
    image = (await read_release(host, place, active.release)).bot
    if (await host.run(commands.inspect_image(image))).ok:
        return ok(image)
    return failed(f"{image} is not on {host.describe()}", "wopr deploy fetches it; another: wopr deploy --bot IMAGE")


def readable(looked: EnvLook) -> Finding:
    return _judged(looked.file.faults, f"{len(looked.file.values)} settings")


def settings(looked: EnvLook) -> Finding:
    return _judged([fault for fault in looked.faults if fault.name and fault not in looked.file.faults], "sound")


def features(looked: EnvLook) -> Finding:
    missing = lacking(looked.file.values)
    return skipped("; ".join(missing)) if missing else ok("nothing is missing")


def mode(looked: EnvLook) -> Finding:
    if looked.mode.lstrip("0") == OWNER_ONLY:
        return ok(f"mode {looked.mode}")
    return failed(f".env has mode {looked.mode}", "chmod 600 .env")


def in_git(looked: EnvLook) -> Finding:
    if looked.git not in IN_GIT:
        return ok("outside of any checkout" if looked.git == "outside" else "ignored by git")
    says, remedy = IN_GIT[looked.git]
    return (warning if looked.git == "committed" else failed)(f".env {says}", remedy)


def _judged(faults: Sequence[Fault], sound: str) -> Finding:
    """All faults as one finding, as bad as the worst of them."""
    if not faults:
        return ok(sound)
    more = f"; and {len(faults) - SHOWN_MAX} more" if len(faults) > SHOWN_MAX else ""
    evidence = "; ".join(str(fault) for fault in faults[:SHOWN_MAX]) + more
    worst = failed if any(fault.refused for fault in faults) else warning
    return worst(evidence, faults[0].remedy)
