"""Which images of an engine nobody needs: old ones of bots' repositories, and nothing that is somebody's own."""

from typing import Any

from wopr.fleet.runtimes.node_agent import PRUNED_AT_ONCE_MAX, SPARE_IMAGES, unneeded

BOTS = "ghcr.io/wopr-network/wopr-bot"


def image(number: int, *tags: str, name: str = BOTS) -> dict[str, Any]:
    """An image as an engine lists it; the higher the number, the newer."""
    digest = f"sha256:{number:064x}"
    return {
        "Id": f"id-{number}",
        "Created": number,
        "RepoTags": list(tags) or None,
        "RepoDigests": [f"{name}@{digest}"],
    }


def digest(number: int) -> str:
    return f"{BOTS}@sha256:{number:064x}"


def test_the_oldest_go_first_and_the_newest_stay_for_a_return() -> None:
    listed = [image(number) for number in range(SPARE_IMAGES + 3)]
    assert unneeded(listed, [digest(99)]) == [digest(0), digest(1), digest(2)]


def test_what_is_needed_by_digest_or_by_id_stays_and_is_no_spare_one() -> None:
    listed = [image(number) for number in range(SPARE_IMAGES + 3)]
    assert unneeded(listed, [digest(0), "id-1", digest(SPARE_IMAGES + 2)]) == []
    assert unneeded(listed, [digest(0), "id-1"]) == [digest(2)]


def test_images_with_a_tag_or_of_another_repository_are_somebody_elses() -> None:
    old = [image(0, f"{BOTS}:mine"), image(1, name="ghcr.io/other/thing"), image(2, "<none>:<none>")]
    listed = [*old, *(image(number) for number in range(10, 10 + SPARE_IMAGES))]
    assert unneeded(listed, [digest(99)]) == [digest(2)]
    assert unneeded(listed, ["sha256:0123"]) == [], "without a repository there is nothing to go by"


def test_only_so_many_go_at_once() -> None:
    listed = [image(number) for number in range(SPARE_IMAGES + 3 * PRUNED_AT_ONCE_MAX)]
    assert len(unneeded(listed, [digest(999)])) == PRUNED_AT_ONCE_MAX
