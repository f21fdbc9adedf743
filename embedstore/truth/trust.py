"""Which FAISS files this machine's user built: FAISS parses a file without bounds, so it is given no one else's.

The hash of a tier is a row of the store, but a store can come from anywhere, rows included. So the row also carries a
signature of the hash under a key that never leaves this user's home. Recording hashes in a list at home was rejected:
it would grow without end, and a store that is moved would lose its tiers.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from functools import cache
from pathlib import Path

_KEY_BYTES = 32


@cache
def _key() -> bytes:
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - no home: no error
    path = Path(base) / "embedstore" / "tier.key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Written aside and linked: of two processes that make the first key at once, both go on with the same.
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        if not path.exists():
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, secrets.token_bytes(_KEY_BYTES))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        key = path.read_bytes()
    except OSError:
        key = b""
    # Without a home that keeps a key, tiers are trusted by the process that built them, and rebuilt by the next.
    return key if len(key) == _KEY_BYTES else secrets.token_bytes(_KEY_BYTES)


def sign(sha256: str) -> str:
    """The signature of a tier's hash by this machine's user."""
    return hmac.new(_key(), sha256.encode(), hashlib.sha256).hexdigest()


def trusted(sha256: str, signature: str) -> bool:
    """Whether this machine's user signed this hash."""
    return hmac.compare_digest(sign(sha256), signature)
