"""The token that proves to a cluster who asks; where Ray itself looks for it. Needs no Ray."""

from __future__ import annotations

import os
from pathlib import Path


def token_path() -> Path:
    """Return the file that holds the token, unless RAY_AUTH_TOKEN holds it itself."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def find_token() -> str | None:
    """Return the cluster's token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    try:
        return token_path().read_text().strip() or None
    except OSError:
        return None
