"""Which images of an engine an installation needs no more: those that it holds, and nothing of anybody else's."""

from typing import Any

from wopr.fleet.runtimes.node_agent import PRUNED_AT_ONCE_MAX, SPARE_IMAGES, is_held, mark_of, unneeded

BOTS = "ghcr.io/wopr-network/wopr-bot"
OURS, THEIRS = "wopr", "wopr-2"


def digest(number: int) -> str:
    return f"{BOTS}@sha256:{number:064x}"


def mark(number: int, installation: str = OURS) -> str:
    return mark_of(installation, digest(number))


def image(number: int, *tags: str) -> dict[str, Any]:
    """An image as an engine lists it; the higher the number, the newer. Without tags it is held by us."""
    return {
        "Id": f"id-{number}",
        "Created": number,
        "RepoTags": list(tags or (mark(number),)),
        "RepoDigests": [digest(number)],
    }


def test_an_image_is_held_by_a_tag_that_names_installation_and_digest() -> None:
    fetched = f"127.0.0.1:5000/ours/bot@sha256:{'0123456789ab':f<64}"
    assert mark_of("wopr", fetched) == "127.0.0.1:5000/ours/bot:kept-by-wopr.0123456789ab"
    assert mark_of("wopr", fetched.replace("@", ":latest@")) == "127.0.0.1:5000/ours/bot:kept-by-wopr.0123456789ab"
    assert mark_of("wopr", "sha256:" + "0" * 64) == "", "it was fetched from nowhere"
    assert mark_of("wopr", "bot:latest") == ""
    assert is_held({"RepoTags": ["bot:latest", "127.0.0.1:5000/ours/bot:kept-by-wopr.0123456789ab"]})
    assert not is_held({"RepoTags": ["bot:latest"]})
    assert not is_held({"RepoTags": None})


def test_the_oldest_go_first_and_the_newest_stay_for_a_return() -> None:
    listed = [image(number) for number in range(SPARE_IMAGES + 3)]
    assert unneeded(listed, [digest(99)], OURS) == [mark(0), mark(1), mark(2)]


def test_what_is_needed_by_digest_or_by_id_stays_and_is_no_spare_one() -> None:
    listed = [image(number) for number in range(SPARE_IMAGES + 3)]
    assert unneeded(listed, [digest(0), "id-1", digest(SPARE_IMAGES + 2)], OURS) == []
    assert unneeded(listed, [digest(0), "id-1"], OURS) == [mark(2)]
    assert unneeded(listed, [digest(0).replace("@", ":latest@"), "id-1"], OURS) == [mark(2)]


def test_what_another_installation_holds_is_not_ours_and_what_both_hold_is_only_let_go() -> None:
    old = [image(0, mark(0, THEIRS)), image(1, mark(1), mark(1, THEIRS))]
    listed = [*old, *(image(number) for number in range(10, 10 + SPARE_IMAGES))]
    assert unneeded(listed, [], OURS) == [mark(1)]
    assert unneeded(listed, [], THEIRS) == []


def test_images_that_nobody_holds_or_that_have_a_name_of_their_own_are_somebody_elses() -> None:
    old = [image(0, f"{BOTS}:mine"), image(1, "<none>:<none>"), image(2, mark(2), "kept:by-hand")]
    listed = [*old, *(image(number) for number in range(10, 10 + SPARE_IMAGES))]
    assert unneeded(listed, [], OURS) == []


def test_only_so_many_go_at_once() -> None:
    listed = [image(number) for number in range(SPARE_IMAGES + 3 * PRUNED_AT_ONCE_MAX)]
    assert len(unneeded(listed, [digest(999)], OURS)) == PRUNED_AT_ONCE_MAX
