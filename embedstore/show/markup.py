"""Pages that are one file: nothing is fetched, nothing but our own script runs, other people's text stays text."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from embedstore.durable import writing_output
from embedstore.errors import InvalidArgument

SUFFIXES = (".html", ".htm")
#: Control characters, and those that turn the direction of the text around them.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def text(value: object, most: int = 200) -> str:
    """Anything as text of a page: escaped, on one line, without control characters, cut off at a number of letters."""
    return html.escape(plain(value, most))


def plain(value: object, most: int = 200) -> str:
    """The same, not escaped: for what enters the page through JSON."""
    line = _UNPRINTABLE.sub("\ufffd", " ".join(str(value).split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def number(value: float | int) -> str:
    """A whole number with all its digits, another with about three that count."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def data(identifier: str, value: Any) -> str:
    """JSON that a script of the page reads. No text in it can end the element, or begin a comment."""
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        written = written.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="{identifier}">{written}</script>\n'


def picture_source(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """A picture as the ``src`` of an element."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def document(title: str, body: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), kind: str = "") -> str:
    """A whole page.

    Its policy lets the browser run the scripts named here, known by their hashes, and fetch nothing: even a text that
    came into the page unescaped could do nothing.

    Args:
        title: of the window; not escaped yet.
        body: as HTML.
        styles: names of files beside this one, in ``web``.
        scripts: likewise, run in this order.
        kind: class of the body.
    """
    style = "".join(_web(name) for name in styles)
    script = "".join(_web(name) for name in scripts)
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    if script:
        policy += f"; script-src {_hash(script)}"
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="generator" content="embedstore">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n"
        f'<body class="{kind}">\n{body}' + (f"<script>{script}</script>\n" if script else "") + "</body>\n</html>\n"
    )


def _web(name: str) -> str:
    return (files("embedstore.show") / "web" / name).read_text(encoding="utf-8")


def _hash(written: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(written.encode()).digest()).decode()}'"


def check(path: Path) -> Path:
    """A path that a page can be written to; said before the work, not after it.

    Raises:
        InvalidArgument: another suffix, a folder, or one that isn't there.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument(f"{path} must end in {' or '.join(SUFFIXES)}: the page is written as HTML")
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        raise InvalidArgument(f"{path} is no regular file: name a file to write the page to")
    if not path.parent.is_dir():
        raise InvalidArgument(f"{path} can't be written: there is no folder {path.parent}")
    return path


def write(path: Path, page: str) -> int:
    """Write a page, whole or not at all; returns its bytes.

    Raises:
        InvalidArgument: it can't be written there. DiskFull: no room.
    """
    path = check(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    content = page.encode("utf-8", "replace")
    try:
        with writing_output(path):
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return len(content)
