"""Answers of bots as HTML. An answer is hostile input: it may repeat whatever a page or a file told the bot.

Two nets: markdown-it-py in its `js-default` preset never passes HTML through, and nh3 then keeps only what is listed
here. No image is ever loaded, since its address could carry what was said to somebody else; it becomes a link.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

ANSWER_CHARS_MAX = 200_000
TAGS = {
    *("p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "code": {"class"}}
SCHEMES = {"http", "https", "mailto"}


def to_html(text: str) -> Markup:
    """Markdown as HTML that is safe to insert into a page."""
    cut = text[:ANSWER_CHARS_MAX]
    html = nh3.clean(
        _MARKDOWN.render(cut),
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes=SCHEMES,
        link_rel="noopener noreferrer nofollow",
        attribute_filter=_only_language_classes,
        set_tag_attribute_values={"pre": {"tabindex": "0"}},  # A keyboard can scroll long lines.
    )
    return Markup(html)  # noqa: S704 - cleaned one line above


def _only_language_classes(tag: str, name: str, value: str) -> str | None:
    if name == "class" and not value.startswith("language-"):
        return None
    if tag == "a" and name == "href" and not urlsplit(value).scheme:
        return None  # A relative link would look like one of our own pages.
    return value


def _image_as_link(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: dict[str, Any]
) -> str:
    token = tokens[index]
    source = str(token.attrGet("src") or "")
    label = token.content or source
    link = Token("link_open", "a", 1, attrs={"href": source})
    text = Token("text", "", 0, content=f"Image: {label}")
    return str(self.renderToken([link], 0, options, env)) + str(self.text([text], 0, options, env)) + "</a>"


def _build() -> MarkdownIt:
    markdown = MarkdownIt("js-default", {"linkify": False, "breaks": True, "maxNesting": 40})
    markdown.add_render_rule("image", _image_as_link)
    return markdown


_MARKDOWN = _build()
