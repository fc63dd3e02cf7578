r"""What a model wrote, on a terminal: shown, and never obeyed.

A terminal does what control characters say: it moves the cursor, renames windows, fills the clipboard, and marks that
turn the direction of text make code look like other code. `visible` writes all of them out, such as `\x1b`. Markup of
rich is not interpreted by whoever prints `rich.text.Text`, as all users of this must.
"""

import sys
import unicodedata

from rich.console import Console

_PIPE_COLUMNS = 100_000
"""Where there is no terminal, no line is cut or broken: its reader may be grep."""


def open_console() -> Console:
    """Return a console for standard output, without colours and line breaks where it is no terminal."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_PIPE_COLUMNS)


def visible(text: str, keep: str = "") -> str:
    """Return `text` with everything written out that a terminal would act on or that nobody would see.

    That is the Unicode categories of control, format, unassigned and private characters, and the separators of lines
    and paragraphs, but for those in `keep`.
    """
    if text.isprintable():
        return text
    return "".join(one if one in keep or not _acts(one) else _written_out(one) for one in text)


def visible_lines(text: str) -> str:
    """Return `visible` text of several lines: line ends and tabs stay."""
    return visible(text, keep="\n\t")


def _acts(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "C" or category in ("Zl", "Zp")


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
