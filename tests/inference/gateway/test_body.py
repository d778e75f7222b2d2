"""Byte-level edits: what we must set is set, everything else stays as the client wrote it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wopr.inference.gateway.body import apply, asks_for_usage, model_edits, parse_body, positive_int, usage_edits
from wopr.inference.gateway.errors import BadParameter

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_model_is_renamed_wherever_its_name_is_given() -> None:
    raw = b' {"a": {"model": "x"}, "model" :\t"x" ,"b":"\\"model\\":\\"x\\"", "model":"x"}\n'
    body = parse_body(raw)
    assert apply(body, model_edits(body, "yé")) == (
        b' {"a": {"model": "x"}, "model" :\t"y\\u00e9" ,"b":"\\"model\\":\\"x\\"", "model":"y\\u00e9"}\n'
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{}", b'{"stream_options":{"include_usage":true}}'),
        (b' { "a":1}', b' {"stream_options":{"include_usage":true}, "a":1}'),
        (b'{"stream_options":null}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{}}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{ "x":1 }}', b'{"stream_options":{"include_usage":true, "x":1 }}'),
        (b'{"stream_options":{"include_usage": false,"x":1}}', b'{"stream_options":{"include_usage": true,"x":1}}'),
        (b'{"stream_options":7}', b'{"stream_options":7}'),
    ],
)
def test_the_usage_chunk_is_asked_for_in_place(before: bytes, after: bytes) -> None:
    body = parse_body(before)
    assert apply(body, usage_edits(body)) == after


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name not in ("model", "stream_options")), VALUES, max_size=5
    ),
    st.booleans(),
    st.sampled_from([None, 1, "\t"]),
)
def test_any_request_keeps_everything_but_what_is_set(
    members: dict[str, object], ascii_only: bool, indent: object
) -> None:
    text = json.dumps({**members, "model": "a"}, ensure_ascii=ascii_only, indent=indent)  # type: ignore[arg-type]
    try:
        raw = text.encode()
    except UnicodeEncodeError:  # a lone surrogate is no UTF-8
        return
    body = parse_body(raw)
    edited = apply(body, [*model_edits(body, "b"), *usage_edits(body)])
    assert json.loads(edited) == {**json.loads(raw), "model": "b", "stream_options": {"include_usage": True}}
    assert edited.endswith(raw[raw.rfind(b'"a"') + 3 :])


@pytest.mark.parametrize(
    "bad", [b"", b"x", b"[]", b"7", b"null", b'{"a":1', b'{"a":1} x', b"{'a':1}", b"\xff", b'{"a" 1}']
)
def test_what_is_no_object_is_refused(bad: bytes) -> None:
    with pytest.raises(BadParameter):
        parse_body(bad)


def test_what_is_asked_of_a_body() -> None:
    body = parse_body(b'{"stream_options":{"include_usage":true},"max_tokens":5,"n":true,"best_of":0}')
    assert asks_for_usage(body)
    assert positive_int(body, "max_completion_tokens", "max_tokens") == 5
    assert positive_int(body, "n") is None
    assert positive_int(body, "best_of") is None
