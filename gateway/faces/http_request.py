"""What an HTTP request says: its query, its form; and whether a fault in one is worth a log line.

Anybody who reaches the port can send what makes no sense, as often as he likes. He is answered 400,
here or by aiohttp, and the log does not grow by it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote_to_bytes

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 20
_PATIENCE_S = 30.0


def query_of(request: web.Request) -> Mapping[str, str]:
    """Read the query with octets as latin-1: an id need not be UTF-8.

    Raises:
        HTTPBadRequest: there is too much of it.
    """
    # What should be percent-encoded and is not was read as UTF-8 where aiohttp let it through.
    query = request.rel_url.raw_query_string.encode("utf-8", "surrogateescape").decode("latin-1")
    return _fields(query, "latin-1")


async def form_of(request: web.Request) -> Mapping[str, str]:
    """Read the body as a form; one of another type has no fields.

    aiohttp's own way takes multipart, too, with files, and fails in six manners at what is none.

    Raises:
        HTTPBadRequest: it cannot be decoded, or there is too much of it.
        HTTPRequestEntityTooLarge: it is longer than any of our forms.
        HTTPRequestTimeout: it does not come.
    """
    if request.content_type != _FORM:
        return {}
    try:
        async with asyncio.timeout(_PATIENCE_S):
            body = await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text="the form does not come\n") from error
    except web.RequestPayloadError as error:
        raise web.HTTPBadRequest(text="unreadable form\n") from error
    return _fields(body.decode("utf-8", "replace"), "utf-8")


def octets_of(form: Mapping[str, str], name: str) -> bytes:
    """Return a field that our own forms hold percent-encoded, others as it is."""
    value = form.get(name, "")
    return unquote_to_bytes(value) if "secret" in form else value.encode("utf-8", "replace")


def quiet(record: logging.LogRecord) -> bool:
    """Make a debug line of what aiohttp calls an error, if the client was at fault (log filter)."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (HttpProcessingError, web.RequestPayloadError)):
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return True


def _fields(text: str, encoding: str) -> Mapping[str, str]:
    try:
        return dict(parse_qsl(text, True, encoding=encoding, max_num_fields=_MAX_FIELDS))
    except ValueError as error:
        raise web.HTTPBadRequest(text="too many fields\n") from error
