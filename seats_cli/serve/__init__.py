"""An OpenAI-compatible server: questions about clips over HTTP, on one model.

A request goes through `app` (HTTP, keys, limits), `chat_request` (what is asked), `model_queue`
(one model, one queue), `media_parts` (bringing its clips here), `session_store` (clips that are
open) and `answering` (the model).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from seats_cli.config import SeatsConfig
from seats_cli.errors import UsageError
from seats_cli.media.clip import ReadOptions

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServeOptions:
    """How requests are answered, and what they may take; plain data for other processes, too.

    Raises
    ------
    UsageError
        If a limit is impossible, or an address beyond this machine has no key.
    """

    # What a request gets that does not say otherwise; its frames are also the most it can get.
    config: SeatsConfig | None = None  # None prunes nothing
    read: ReadOptions = field(default_factory=ReadOptions)
    # Parameters of `seats_cli.ask`: "max_new_tokens", "temperature", "top_p", "top_k", "seed".
    generation: dict[str, Any] = field(default_factory=dict)

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None  # None answers everybody who reaches the address
    media_root: str | None = None  # the folder below which `file:` URLs are read
    allow_local_urls: bool = False  # whether URLs may lead to this machine or its own network
    offline: bool = False  # refuse http(s) URLs

    max_requests: int = 16  # under way or waiting; more are told to come back later
    timeout_s: float = 600.0  # of a request, from its first byte to its last
    max_body_bytes: int = 64 << 20  # of a request, and with it of `data:` URLs
    max_media_bytes: int = 1 << 30  # of a file behind a URL or below `media_root`
    session_bytes: int = 4 << 30  # that clips may take that are kept open

    def __post_init__(self) -> None:
        for name in ("max_requests", "timeout_s", "max_body_bytes", "max_media_bytes"):
            if not getattr(self, name) > 0:
                raise UsageError(f"`{name}` must be above 0.")
        if self.session_bytes < 0:
            raise UsageError("`session_bytes` must not be negative.")
        if self.api_key is not None and not self.api_key.strip():
            raise UsageError("SEATS_API_KEY is set but blank: give a key, or unset it.")
        if self.api_key is None and not self.loopback:
            raise UsageError(
                f"At {self.host} others can reach the server, which then needs a key: set "
                "SEATS_API_KEY, or leave `host` at 127.0.0.1."
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return self.host in LOOPBACK_NAMES or ip_address(self.host).is_loopback
        except ValueError:
            return False
