"""What MkDocs does not do by itself.

The pages are written so that they can be read in a checkout, too: there, links
lead out of docs/, and a list within a list is set in by two blanks. Two files
beside docs/ are pages of the site without being copied.
"""

import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_SAME_AS = PAGES | {"README.md": "index.md"}
_UPWARD = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<path>\.\./[^)#\s]+)(?P<anchor>#[\w-]+)?\)")
_INTO_DOCS = re.compile(r"\]\(docs/")
_BESIDE = re.compile(r"\]\((README|CHANGELOG|CONTRIBUTING)\.md")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, and each file there that a page links to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    linked = {
        path
        for file in files.documentation_pages()
        for match in _UPWARD.finditer(file.content_string)
        if (path := _outside(file.src_uri, match["path"])) is not None
        and path not in _SAME_AS
        and (ROOT / path).is_file()
    }
    for path in sorted(linked):
        files.append(File.generated(config, f"files/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where the site has what they name, and nest lists as Python-Markdown reads them."""
    del config, files
    source = page.file.src_uri
    if source in PAGES.values():
        markdown = _INTO_DOCS.sub("](", markdown)
        markdown = _BESIDE.sub(lambda match: f"]({_SAME_AS[match[1] + '.md']}", markdown)
    return _nested(_UPWARD.sub(lambda match: _inward(source, match), markdown))


def _outside(source: str, link: str) -> str | None:
    """Return what a page's link names, from the root of the repository; None if it is below docs/."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return path.removeprefix("../") if path.startswith("../") else None


def _inward(source: str, match: re.Match[str]) -> str:
    path = _outside(source, match["path"])
    if path is None:
        return match[0]
    top = "../" * (len(PurePosixPath(source).parts) - 1)
    if path in _SAME_AS:
        return f"[{match['text']}]({top}{_SAME_AS[path]}{match['anchor'] or ''})"
    if (ROOT / path).is_dir():  # a site shows no folders
        return match["text"]
    return f"[{match['text']}]({top}files/{path})"


def _nested(markdown: str) -> str:
    """Set in by four blanks what two or three set in: Python-Markdown takes less for no part of a list."""
    lines: list[str] = []
    fence: int | None = None
    for line in markdown.splitlines():
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        more = indent // 2 * 4 - indent if fence is None else fence
        if text.startswith("```"):
            fence = more if fence is None else None
        lines.append(" " * more + line if text else "")
    return "\n".join(lines) + "\n"
