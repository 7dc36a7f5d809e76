"""What can go wrong between a request to the dialer and the last byte of its answer."""

import re
from datetime import timedelta

import aiohttp

from worker.core.errors import EnrichmentUnavailable, FailureKind
from worker.vicidial.answers import CHECK_SERVER, MAX_ANSWER, text_of, too_large, undecodable

_REFUSED = frozenset({401, 403})
_WORDS = re.compile(r"[\w ,:/'-]{1,100}", re.ASCII)


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read a body as it is, no more than `MAX_ANSWER` of it. Raises `EnrichmentUnavailable`."""
    body = bytearray()
    while not response.content.at_eof():
        body += await response.content.readany()
        if len(body) > MAX_ANSWER:
            response.close()
            raise too_large()
    return bytes(body)


def read_answer(response: aiohttp.ClientResponse, body: bytes) -> str:
    """Return the text of an answer. Raises `EnrichmentUnavailable` for any status but 200."""
    if response.status in _REFUSED:
        raise EnrichmentUnavailable(
            f"the dialer's web server answered {response.status}; check vicidial.url and who may ask",
            FailureKind.REFUSED,
        )
    if response.status != 200:
        raise EnrichmentUnavailable(f"the dialer's web server answered {response.status} instead of 200")
    return text_of(body, response.headers.getall("Content-Encoding", []))


def failure(error: Exception, timeout: timedelta, *, answered: bool) -> EnrichmentUnavailable:
    """Name what became of a request that raised; with `answered`, the head of an answer had arrived.

    Once a byte of an answer has arrived, the dialer can be reached, whatever is wrong with the answer.
    """
    within = f"within {timeout.total_seconds():g} s"
    match error:
        case TimeoutError():
            what = "the dialer's answer was not complete" if answered else "the dialer did not answer"
            return EnrichmentUnavailable(f"{what} {within}")
        case aiohttp.ClientSSLError():
            return EnrichmentUnavailable("the dialer's TLS certificate can't be verified; check vicidial.url")
        case aiohttp.ClientResponseError():
            return undecodable(f"it is no valid HTTP ({_complaint(error.message)})")
        case _ if answered:
            return EnrichmentUnavailable(
                f"the dialer's answer broke off ({type(error).__name__}); {CHECK_SERVER}"
            )
        case _:
            return EnrichmentUnavailable(
                f"the dialer can't be reached ({type(error).__name__}); check vicidial.url and the network"
            )


def _complaint(message: str) -> str:
    """Return what the HTTP parser says, without the bytes of the answer that it quotes."""
    words = " ".join(message.partition("b'")[0].partition('b"')[0].split()).rstrip(":")
    return words if _WORDS.fullmatch(words) else "malformed"
