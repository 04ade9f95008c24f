"""Text is escaped wherever it enters, and what does not print is shown as what it is."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.faces.http_html import Html, join, shown, tag

ELEMENTS = [
    (tag("p"), "<p></p>", "nothing in it"),
    (tag("p", None), "<p></p>", "None is nothing"),
    (tag("p", 0), "<p>0</p>", "a number"),
    (tag("p", "<b>&\"'"), "<p>&lt;b&gt;&amp;&quot;&#x27;</p>", "text"),
    (tag("p", tag("b", "x"), ["y", tag("i")]), "<p><b>x</b>y<i></i></p>", "markup and text"),
    (tag("p", Html("<hr>")), "<p><hr></p>", "markup as it stands"),
    (tag("input", value='"><script>'), '<input value="&quot;&gt;&lt;script&gt;">', "attribute"),
    (tag("input", value=None, required=True, hidden=False), "<input required>", "flags"),
    (tag("rect", x=0), '<rect x="0"></rect>', "0 is a value"),
    (
        tag("p", class_="a", data_name="b", for_="c"),
        '<p class="a" data-name="b" for="c"></p>',
        "names",
    ),
]


@pytest.mark.parametrize(("found", "expected", "reason"), ELEMENTS, ids=[r[2] for r in ELEMENTS])
def test_element(found: Html, expected: str, reason: str) -> None:
    assert found == expected, reason


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(), st.text())
def test_any_text_stays_text(content: str, value: str) -> None:
    parser = _Text()
    parser.feed(join(tag("p", content, title=value)))
    parser.close()
    assert [name for name, _ in parser.tags] == ["p"]
    assert parser.tags[0][1] == [("title", value)]
    assert parser.text == content


SHOWN = [
    ("plain@example.org", "plain@example.org", "ASCII"),
    ("j\xc3\xbcrgen", "j\xfcrgen", "UTF-8 in octets"),
    ("j\xfcrgen", "j\xfcrgen", "latin-1"),
    ("a\x1b[31mb", "a\\u{1b}[31mb", "an escape sequence"),
    ("a\xe2\x80\xaeb", "a\\u{202e}b", "text turned round"),
    ("a\xe2\x80\x8bb", "a\\u{200b}b", "an invisible blank"),
    ("a\r\nb", "a\\u{d}\\u{a}b", "line ends"),
    ("\u4f60", "\u4f60", "not octets at all"),
    ("", "", "nothing"),
]


@pytest.mark.parametrize(("text", "expected", "reason"), SHOWN, ids=[row[2] for row in SHOWN])
def test_for_the_eye(text: str, expected: str, reason: str) -> None:
    assert shown(text) == expected, reason


@given(st.binary())
def test_whatever_the_octets_all_prints(octets: bytes) -> None:
    assert shown(octets.decode("latin-1")).isprintable()
