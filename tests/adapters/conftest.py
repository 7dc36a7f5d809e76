"""What the adapters' tests share."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses, core

# Made for these tests, and signed by nobody.
_KEY = (
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgzksBj0cFqT6lpv68pxMc+VCH/zb0pF09I7/k3E6G4N"
    "6hRANCAAQ04uWyqSE5ABctGWMk+9NJPLo7i//X5BGKl3gxk9YbTim18Iie+wxEYWt+unB1MepW/Oxs1sxesqFvpg3Y"
    "/gU+"
)
_CERTIFICATE = (
    "MIIBjzCCATagAwIBAgIUWijn73j5qUFnmZPRmZHs4DXoTx4wCgYIKoZIzj0EAwIwFDESMBAGA1UEAwwJMTI3LjAuMC"
    "4xMCAXDTI2MTEyMjA0MTkzMloYDzIxMjYxMDI5MDQxOTMyWjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjO"
    "PQIBBggqhkjOPQMBBwNCAAQ04uWyqSE5ABctGWMk+9NJPLo7i//X5BGKl3gxk9YbTim18Iie+wxEYWt+unB1MepW/O"
    "xs1sxesqFvpg3Y/gU+o2QwYjAdBgNVHQ4EFgQUkphg/pfqJoVdPadLxFzfsV9PStQwHwYDVR0jBBgwFoAUkphg/pfq"
    "JoVdPadLxFzfsV9PStQwDwYDVR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0cAMEQCIA"
    "ya7WY8Rpy5WyrGJhzz15hbYRzm5vVifHW7PzgT1o6PAiBPwtU4rO019q3qXwvmGPHH8GF5Rg+Z1235CcorePrfRg=="
)


class FakedResponse(aiohttp.ClientResponse):
    """aioresponses 0.7.9 makes responses without the `stream_writer` that aiohttp asks for since 3.14."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - aiohttp's business
        super().__init__(*args, **{"stream_writer": SimpleNamespace(output_size=0)} | kwargs)


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """Answer all of aiohttp's requests with what the test plants; nothing goes out."""
    monkeypatch.setattr(core, "ClientResponse", FakedResponse)
    with aioresponses() as faked:
        yield faked


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a session for a test's own requests."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as running:
        yield running


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a file with a key and a certificate that nobody trusts."""
    parts = [("PRIVATE KEY", _KEY), ("CERTIFICATE", _CERTIFICATE)]
    file = tmp_path / "cert.pem"
    file.write_text(
        "".join(f"-----BEGIN {what}-----\n{text}\n-----END {what}-----\n" for what, text in parts)
    )
    return file
