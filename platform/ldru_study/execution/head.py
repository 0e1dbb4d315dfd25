"""Ask a cluster's head over HTTP, with the token that proves who asks. Needs no Ray."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIMEOUT_S = 10.0


class HeadError(Exception):
    """A head that gave no usable answer; says what to do.

    ``is_unreachable`` is false when somebody answered, but refused or answered something else.
    """

    def __init__(self, message: str, *, is_unreachable: bool = False) -> None:
        super().__init__(message)
        self.is_unreachable = is_unreachable


@dataclass(frozen=True)
class Token:
    """A cluster's token and where it was found: a file, or a variable when ``path`` is None."""

    text: str
    path: Path | None


def token_path() -> Path:
    """Return the file that Ray reads the token from."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def find_token() -> Token | None:
    """Return the token that Ray would use here, or None without any.

    Raises:
        OSError: its file is there but cannot be read.
    """
    # Ray's own order
    if text := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return Token(text, None)
    path = token_path()
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    return Token(text, path) if text else None


def ask_head(address: str, path: str) -> Any:
    """Return the JSON that the head at ``address`` answers to a GET of ``path``.

    Args:
        address: such as ``http://127.0.0.1:8265``.
        path: such as ``/api/version``.

    Raises:
        HeadError: no answer, no permission, or no Ray.
        OSError: the token's file cannot be read.
    """
    token = find_token()
    headers = {"Authorization": f"Bearer {token.text}"} if token else {}
    try:
        request = urllib.request.Request(address.rstrip("/") + path, headers=headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise HeadError(_refusal(address, error.code, token)) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise HeadError(
            f"{address}: does not answer ({reason}). Is the cluster up, and is the tunnel open? "
            "`ray dashboard cluster.yaml` opens one to http://127.0.0.1:8265.",
            is_unreachable=True,
        ) from None
    except ValueError as error:
        raise HeadError(
            f"{address}: is no address of a Ray head ({error}). "
            "Give the dashboard's, such as http://127.0.0.1:8265."
        ) from None


def _refusal(address: str, status: int, token: Token | None) -> str:
    if status not in (401, 403):
        return (
            f"{address}: answers with HTTP status {status}; is it a Ray dashboard? "
            "Give its address, such as http://127.0.0.1:8265."
        )
    if token is None:
        return (
            f"{address}: wants a token and there is none here. "
            f"Copy the cluster's to {token_path()} and set RAY_AUTH_MODE=token."
        )
    where = token.path or "RAY_AUTH_TOKEN"
    return (
        f"{address}: refuses the token in {where}. It is another cluster's: "
        "copy ~/.ray/auth_token from the head, or `ray up` again with this one."
    )
