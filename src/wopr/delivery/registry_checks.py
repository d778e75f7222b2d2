"""Checks of the registry, for `wopr check`: whether what is to be released and started could be pulled now."""

from collections.abc import Sequence

from wopr.core.errors import BadRequest, Forbidden, NotFound, Unauthenticated, WoprError
from wopr.core.settings import Settings
from wopr.delivery.registry import Registry
from wopr.delivery.registry_reference import parse_reference
from wopr.ops.checks import Check, Finding, failed, ok, skipped

SHORT = slice(len("sha256:"), len("sha256:") + 12)


def checks(settings: Settings) -> Sequence[Check]:
    """Every check that asks the registry."""

    async def watched() -> Finding:
        return await images(settings)

    return [Check("registry.images", "the registry gives us the images that are watched", watched)]


async def images(settings: Settings) -> Finding:
    """Ask for the digest of each image, as the deliverer does."""
    if not settings.registry_username or settings.registry_password is None:
        return skipped("REGISTRY_USERNAME and REGISTRY_PASSWORD are not set: images are given by hand")
    found = []
    for image in filter(None, (settings.wopr_image, settings.bot_image)):
        try:
            found.append(await _digest(settings, image))
        except BadRequest as error:
            return failed(error.message, error.remedy)
        except (Unauthenticated, Forbidden) as error:
            return failed(error.message, "Correct REGISTRY_USERNAME and REGISTRY_PASSWORD: it needs to read packages.")
        except NotFound as error:
            return failed(error.message, f"Push {image}, or name tags that are there in WOPR_IMAGE and BOT_IMAGE.")
        except WoprError as error:
            return failed(error.message, f"Does it answer? curl -sI https://{settings.registry_server}/v2/")
    return ok(", ".join(found))


def registry_of(settings: Settings, server: str) -> Registry:
    """A registry as these settings reach it: with their login where it is theirs, without TLS where told."""
    ours = server == settings.registry_server and settings.registry_password is not None
    password = settings.registry_password.get_secret_value() if ours and settings.registry_password else ""
    plain = frozenset(one.strip() for one in settings.registry_plain_http.split(",") if one.strip())
    return Registry(server, settings.registry_username if ours else "", password, plain)


async def _digest(settings: Settings, name: str) -> str:
    image = parse_reference(name)
    registry = registry_of(settings, image.server)
    try:
        return f"{image.name} {(await registry.digest(image))[SHORT]}"
    finally:
        await registry.close()
