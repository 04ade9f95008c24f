"""The index of decisions lists every page, with its title and status."""

import re
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent.parent / "docs" / "adr"
_PAGES = sorted(_FOLDER.glob("[0-9]*.md"))
_HEADINGS = ("Context", "Decision", "Alternatives", "Consequences")
_STATUS = re.compile(r"Status: (proposed|accepted|rejected|superseded by (\d{4}))")


def _row(page: Path) -> str:
    lines = page.read_text().splitlines()
    number, title = lines[0].removeprefix("# ").split(": ", 1)
    return f"| [{number}]({page.name}) | {title} | {lines[2].removeprefix('Status: ')} |"


def test_index_lists_every_page_in_order() -> None:
    rows = [line for line in (_FOLDER / "README.md").read_text().splitlines() if "| [" in line]
    assert rows == [_row(page) for page in _PAGES]


def test_each_number_is_given_once() -> None:
    # Gaps are fine: pages that were written at the same time keep the numbers they were cited by.
    numbers = [page.name[:4] for page in _PAGES]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
def test_page_has_its_form(page: Path) -> None:
    text = page.read_text()
    first, _, status = text.splitlines()[:3]
    assert first.startswith(f"# {page.name[:4]}: ")
    match = _STATUS.fullmatch(status)
    assert match is not None, status
    if match[2]:
        assert list(_FOLDER.glob(f"{match[2]}-*.md")), f"{page.name} is superseded by nothing"
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == _HEADINGS
