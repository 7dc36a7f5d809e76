"""TLS of the intake, with a certificate that may be renewed while it runs."""

import asyncio
import ssl
from pathlib import Path
from typing import Never

import structlog

LOOK_EVERY = 30.0
"""Seconds between two looks at the files."""

_log = structlog.get_logger()


class Certificate:
    """A certificate and its key in files. New connections get what the files held at the last look."""

    def __init__(self, certificate: Path, key: Path, *, look_every: float = LOOK_EVERY) -> None:
        """Read the files. Raises `ValueError` if they can't be used."""
        self._files = certificate, key
        self._look_every = look_every
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._seen = self._stamp()
        try:
            self._load()
        except OSError as error:
            raise ValueError(self._problem(error)) from error

    async def watch(self) -> Never:
        """Read the files again when they changed, until cancelled; keep the old while they can't be used."""
        while True:
            await asyncio.sleep(self._look_every)
            if (stamp := self._stamp()) == self._seen:
                continue
            try:
                self._load()
            except OSError as error:
                _log.warning("certificate_unusable", error=self._problem(error))
            else:
                self._seen = stamp
                _log.info("certificate_changed", file=str(self._files[0]))

    def _load(self) -> None:
        self.context.load_cert_chain(
            *self._files, password=""
        )  # a key with a password would ask the terminal

    def _problem(self, error: OSError) -> str:
        certificate, key = self._files
        wrong = isinstance(error, ssl.SSLError)
        reason = "no certificate and its key, in PEM and without a password" if wrong else error.strerror
        return f"can't use {certificate} with {key}: {reason}"

    def _stamp(self) -> tuple[int | None, ...]:
        return tuple(path.stat().st_mtime_ns if path.exists() else None for path in self._files)
