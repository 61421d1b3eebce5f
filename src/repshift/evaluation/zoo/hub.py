"""What comes from a hub ends in one line where there is none."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def from_hub(name: str, advice: str) -> Generator[None]:
    """Inside, ``name`` is fetched; whatever its client raises then is one ``InputError``."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the clients of hubs raise what their own libraries do
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"{name} cannot be loaded, from the local cache or the hub ({first.rstrip('. ')}); "
            f"connect to the internet, or {advice}"
        ) from None


def fail_fast_offline() -> None:
    """Where the hub has no address, use its cache alone instead of a minute of retries.

    The hub's client reads this setting when it is imported, so it stands before that.
    """
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
