"""HTML pages that need no network and show text that nobody may trust: what reports and reviews have in common.

What every page does with text of models: it stands in script elements that nothing executes, escaped so that none can
end one, and is put on screen as text only. A page's own scripts are admitted by their hash; a content security policy
forbids everything else, so even a text that broke out could load and run nothing.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2


def environment(folder: Path) -> jinja2.Environment:
    """Return the templates of a folder: values are escaped, and one that is missing is an error."""
    return jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined)


def in_script(value: Any) -> str:
    """Return JSON that cannot end a script element or begin a comment in one."""
    text = json.dumps(value, ensure_ascii=True)  # U+2028 and lone surrogates become escapes too
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def script_source(script: str) -> str:
    """Return the source by which a content security policy admits `script` and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
