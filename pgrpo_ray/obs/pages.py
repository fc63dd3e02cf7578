"""HTML pages that need no network and show text that nobody may trust: what reports and reviews have in common.

What every page does with text of models: it stands in script elements that nothing executes, escaped so that none can
end one, and is put on screen as text only. A page's own scripts are admitted by their hash; a content security policy
forbids everything else, so even a text that broke out could load and run nothing. `templates/page.html` has head and
policy of all pages; each extends it.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2


def environment(folder: Path) -> jinja2.Environment:
    """Return the templates of a folder, beside `page.html`: values are escaped, and one that is missing is an error."""
    loader = jinja2.FileSystemLoader([folder, Path(__file__).parent / "templates"])
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


def in_script(value: Any) -> str:
    """Return JSON that cannot end a script element or begin a comment in one."""
    text = json.dumps(value, ensure_ascii=True)  # U+2028 and lone surrogates become escapes too
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def policy(*scripts: str) -> str:
    """Return the sources by which a content security policy admits these scripts and no other."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return " ".join(f"'sha256-{one}'" for one in hashes)
