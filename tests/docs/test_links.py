"""Links between the pages lead somewhere, and to a heading that is there; no network is asked."""

import re

import pytest

from tests import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# What Sphinx makes while it builds the site.
BUILT = ("api", "auto_gallery")
PAGES = [page for page in PAGES if not set(BUILT) & set(page.relative_to(ROOT).parts)]
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def prose(page):
    """A page without its code, in which brackets and parentheses are no links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "``", text)


def anchors(page):
    """Of its headings, as GitHub and MyST make them, and MyST's own."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = set(re.findall(r"^\(([\w-]+)\)=$", text, flags=re.MULTILINE))
    for heading in re.findall(r"^#+ +(.*?) *$", text, flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        number = sum(other == slug or re.fullmatch(re.escape(slug) + r"-\d+", other) is not None for other in found)
        found.add(slug if not number else f"{slug}-{number}")
    return found


def broken(page):
    for link in _LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = page if not path else (page.parent / path)
        if set(BUILT) & set(target.parts):
            continue
        if not target.exists():
            # The README's own page on the site.
            if target != ROOT / "docs" / "readme.md":
                yield f"{link}: no such file"
        elif anchor and target.suffix == ".md":
            included = {"readme": "README", "changelog": "CHANGELOG", "contributing": "CONTRIBUTING"}.get(target.stem)
            source = ROOT / f"{included}.md" if included and target.parent.name == "docs" else target
            if anchor not in anchors(source):
                yield f"{link}: no such heading; {sorted(anchors(source))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    assert not list(broken(page))


def test_what_is_broken_is_found(tmp_path):
    page = tmp_path / "page.md"
    text = "# A `name` of it\n# A [link](x.md)\n[good](#a-name-of-it) [other](other.md) ![picture](no.png) [bad](#b) [web](https://x.org)\n"
    page.write_text(text + "```python\na[0](b)\n```\n`a[0](b)`\n")
    (tmp_path / "other.md").write_text("# Other\n")
    assert [line.split(":")[0] for line in broken(page)] == ["x.md", "no.png", "#b"]


def test_there_are_links():
    assert len(PAGES) > 20
    assert sum(len(_LINK.findall(prose(page))) for page in PAGES) > 100
