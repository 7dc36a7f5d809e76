"""The site is built without a warning, shows every page, and fetches nothing from another host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.verify

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))
FROM_THE_ROOT = ["changelog", "contributing"]
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LIST_ITEM = re.compile(r"^ *(?:[-*]|\d{1,2}\.) ", re.MULTILINE)
TABLE = re.compile(r"^\|[-| :]*-[-| :]*\|$", re.MULTILINE)
FOREIGN = re.compile(r"^(?:https?:)?//")
FOREIGN_IN_CSS = re.compile(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""")
FETCHED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "object": "data",
    "embed": "src",
}
"""What a browser fetches by itself, unlike what a reader clicks."""


class Page(HTMLParser):
    """What a page fetches, and what its article holds."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.count = {"li": 0, "table": 0}
        self.text = ""
        self._in_article = False
        self._in_code = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_article |= tag == "article"
        self._in_code += tag in ("code", "pre")
        if tag in self.count and self._in_article and not self._in_code:
            self.count[tag] += 1
        address = dict(attrs).get(FETCHED.get(tag, ""))
        if address is not None:
            self.fetched.append(address)

    def handle_endtag(self, tag: str) -> None:
        self._in_article &= tag != "article"
        self._in_code -= tag in ("code", "pre")

    def handle_data(self, data: str) -> None:
        if self._in_article and not self._in_code:
            self.text += data


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build with warnings as errors; those that Python itself has for the tools' code are none of ours."""
    quiet = {"NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **quiet})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("site")
    return build(ROOT / "mkdocs.yml", folder), folder


@pytest.fixture(scope="module")
def site(built: tuple[subprocess.CompletedProcess[str], Path]) -> Path:
    """Return the folder that it was built into; it is written with warnings, too."""
    return built[1]


def test_it_is_built_without_a_warning(built: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, _ = built
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_a_broken_link_or_a_forgotten_page_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nhooks: []\nnav: [index.md]\n", encoding="utf-8"
    )

    def outcome(text: str) -> tuple[int, str]:
        (docs / "index.md").write_text(text, encoding="utf-8")
        done = build(config, tmp_path / "site")
        return done.returncode, done.stderr

    assert outcome("# One\n\n[two](#one)\n")[0] == 0
    for text, said in (
        ("[lost](lost.md)", "lost.md"),
        ("[lost](#lost)", "#lost"),
        ("[lost](/lost)", "/lost"),
    ):
        status, errors = outcome(text)
        assert (status, said in errors) == (1, True), errors
    (docs / "forgotten.md").write_text("# Forgotten\n", encoding="utf-8")
    status, errors = outcome("# One\n")
    assert (status, "forgotten.md" in errors) == (1, True), errors


class _Loader(yaml.SafeLoader):
    """Reads the configuration without running what it names."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def test_every_page_is_in_the_navigation_once() -> None:
    def pages_in(entries: object) -> list[str]:
        if isinstance(entries, str):
            return [entries.removesuffix(".md")]
        values = entries.values() if isinstance(entries, dict) else entries
        assert isinstance(values, list | type({}.values()))
        return [page for entry in values for page in pages_in(entry)]

    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe one
    assert sorted(pages_in(config["nav"])) == sorted(PAGES + FROM_THE_ROOT)


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    foreign = {
        f"{page.name}: {address}"
        for page in pages
        for address in Page(page.read_text(encoding="utf-8")).fetched
        if FOREIGN.match(address)
    }
    foreign |= {
        path.name for path in site.rglob("*.css") if FOREIGN_IN_CSS.search(path.read_text(encoding="utf-8"))
    }
    assert foreign == set()


@pytest.mark.parametrize("name", PAGES + FROM_THE_ROOT)
def test_a_page_is_rendered_as_it_was_meant(site: Path, name: str) -> None:
    source = ROOT / f"{name.upper()}.md" if name in FROM_THE_ROOT else DOCS / f"{name}.md"
    written = FENCED.sub("", source.read_text(encoding="utf-8"))
    page = Page((site / f"{name}.html").read_text(encoding="utf-8"))
    assert page.count["li"] == len(LIST_ITEM.findall(written)), "a list needs an empty line before it"
    assert page.count["table"] == len(TABLE.findall(written))
    for left_over in ("```", "!!!", "|--", "]("):
        assert left_over not in page.text


def test_files_beside_the_docs_are_there_where_a_page_links_to_them(site: Path) -> None:
    assert (site / "files/config/webhook.yaml").read_text(encoding="utf-8") == (
        ROOT / "config/webhook.yaml"
    ).read_text(encoding="utf-8")
    assert (site / "asyncapi.yaml").exists()
    assert (site / "receiving/receive.py").exists()
    assert [path.name for path in [*site.glob("*.py"), *site.rglob("*.pyc")]] == []
