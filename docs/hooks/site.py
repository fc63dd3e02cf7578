"""What MkDocs does not: the generated reference, and links to files of this repository that lie outside of `docs`.

Such files (configs, figures, tests, code) are copied into the site as they are, below `repository/`, so that links lead
somewhere without a network, and a link that leads nowhere fails the build as any other.
"""

import os
import re
import sys
from collections import deque
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # the reference is of this checkout

import reference  # noqa: E402

ALSO = ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"
"""Pages of the site, beside those in `docs`."""
OUTSIDE = "repository"
"""Where files from outside of `docs` stand in the site."""
LISTING = "index.md"
"""Of a folder's files, where a page links to a folder."""
LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")
"""Of Markdown, up to the fragment."""


def on_files(files: Files, config: Any) -> Files:
    """Add the reference and whatever pages link to, and what those pages link to that come in so."""
    for name, text in reference.pages().items():
        files.append(File.generated(config, name, content=text))
    pages = deque(file.src_uri for file in files.documentation_pages() if file.generated_by is None)
    for source in ALSO:
        files.append(File.generated(config, uri_of(source), abs_src_path=str(source)))
        pages.append(uri_of(source))
    while pages:
        page = pages.popleft()
        for path in _links(page):
            uri = uri_of(path)
            if not uri.startswith(OUTSIDE) or files.get_file_from_path(uri) is not None or not path.exists():
                continue
            if path.is_dir():
                inside = sorted(file for file in path.iterdir() if file.is_file())
                listing = "".join(f"- [{file.name}]({file.name})\n" for file in inside)
                files.append(File.generated(config, uri, content=f"# {path.relative_to(ROOT)}\n\n{listing}"))
                pages.append(uri)
            else:
                files.append(File.generated(config, uri, abs_src_path=str(path)))
                pages.extend([uri] if path.suffix == ".md" else [])
    return files


def _links(uri: str) -> list[Path]:
    """Return the files of the repository that a page links to, or that a folder holds."""
    path = path_of(uri)
    if path.is_dir():
        return [file for file in path.iterdir() if file.is_file()]
    targets = [target for _, target in LINK.findall(path.read_text(encoding="utf-8"))]
    return [Path(os.path.normpath(path.parent / target)) for target in targets]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at where files stand in the site."""
    uri = page.file.src_uri
    if uri.startswith("reference/") or path_of(uri).is_dir():
        return markdown

    def moved(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(path_of(uri).parent / match[2]))
        return match[1] + os.path.relpath(uri_of(path), PurePosixPath(uri).parent)

    return LINK.sub(moved, markdown)


def path_of(uri: str) -> Path:
    """Return where a page of the site stands in the repository; of a list of files, the folder."""
    if not uri.startswith(f"{OUTSIDE}/"):
        return ROOT / "docs" / uri
    path = ROOT / uri.removeprefix(f"{OUTSIDE}/")
    return path.parent if path.name == LISTING else path


def uri_of(path: Path) -> str:
    """Return where a file of the repository stands in the site."""
    inside = path.relative_to(ROOT).as_posix() + (f"/{LISTING}" if path.is_dir() else "")
    return inside.removeprefix("docs/") if inside.startswith("docs/") else f"{OUTSIDE}/{inside}"
