"""Reading the image from the body of a request."""

import asyncio
import base64
import json
from http import HTTPStatus
from io import BytesIO

from fastapi import HTTPException, Request

_BODY_SECONDS = 30
"""Time limit for a body: a slow client occupies one of ``max_requests``."""
_SLOWEST = 5_000_000
"""Bytes per second; a large body has more time, by this speed."""

_BYTES_PER_MEGAPIXEL = 3_000_000
"""Of 8-bit colours without compression."""
_HEADER = 1_000_000
"""Bytes of an image file in addition to its pixels."""
_JSON_AROUND = 1024
"""Bytes of a JSON body in addition to the image."""


def announced_megapixels(request: Request, max_megapixels: float) -> float:
    """Megapixels of the image in a body that has not been read, by its length.

    Args:
        request: a body without Content-Length counts as ``max_megapixels``.
        max_megapixels: of an image.
    """
    length = request.headers.get("content-length")
    if length is None:
        return max_megapixels
    return min(int(length) / _BYTES_PER_MEGAPIXEL, max_megapixels)


async def read_image_file(request: Request, max_megapixels: float) -> bytes:
    """The image file of a request: its body, or base64 under ``image`` in a JSON object.

    Args:
        request: whose body has not been read.
        max_megapixels: of an image; a file that is larger than such an image is refused.

    Raises:
        HTTPException: 408 too slow, 413 too large, 415 not an image type, 422 not such JSON.
    """
    most_bytes = int(_BYTES_PER_MEGAPIXEL * max_megapixels) + _HEADER
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if "content-encoding" in request.headers:
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the image without Content-Encoding"
        )
    if kind == "application/json":
        body = await _read_body(request, 4 * most_bytes // 3 + _JSON_AROUND)
        return await asyncio.to_thread(_image_in_json, body)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return await _read_body(request, most_bytes)
    raise HTTPException(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"the body is {kind or 'of no type'}: send an image file with its own type, such as "
        'image/png, or application/json as {"image": "<base64>"}',
    )


async def _read_body(request: Request, most_bytes: int) -> bytes:
    too_large = HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body has more than {most_bytes} bytes: send a smaller image, or raise the setting "
        "images.max_megapixels",
    )
    # uvicorn reads and drops the rest of a refused body, so the client receives the response.
    length = int(request.headers.get("content-length", most_bytes))
    if length > most_bytes:
        raise too_large
    seconds = _BODY_SECONDS + length // _SLOWEST
    body = BytesIO()  # gives its bytes without a copy
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body.write(chunk)
                if body.tell() > most_bytes:
                    raise too_large
    except TimeoutError as error:
        raise HTTPException(
            HTTPStatus.REQUEST_TIMEOUT, f"the image did not arrive within {seconds} s"
        ) from error
    return body.getvalue()


def _image_in_json(body: bytes) -> bytes:
    try:
        values = json.loads(body)
        if not (isinstance(values, dict) and values.keys() == {"image"}):
            raise ValueError("it is not an object with the one key image")
        return base64.b64decode(values["image"], validate=True)
    except (ValueError, TypeError, RecursionError) as error:
        raise HTTPException(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f'the body is not {{"image": "<base64>"}}: {error}',
        ) from error
