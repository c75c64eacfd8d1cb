"""The routes of the service, and the HTTP status of each error."""

import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect

from stillwatch import __version__
from stillwatch.errors import ImageError, ImageTooLargeError, StillwatchError, UnknownFormatError
from stillwatch.flows.serving.answers import Answer
from stillwatch.flows.serving.champions import Champions
from stillwatch.flows.serving.metrics import INSPECT_PATH, CountRequests, Metrics
from stillwatch.flows.serving.service import InspectionService
from stillwatch.settings import ServingSettings

_STATUS: dict[type[StillwatchError], HTTPStatus] = {
    ImageTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnknownFormatError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ImageError: HTTPStatus.UNPROCESSABLE_ENTITY,
}
_CLIENT_CLOSED_REQUEST = 499
"""Nobody receives it; nginx counts closed connections under this status."""
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "byte"}},
                }
            },
        },
    }
}

_log = logging.getLogger(__name__)


def make_app(champions: Champions, settings: ServingSettings, key: str | None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        champions: started and stopped with the application.
        key: that every request must send, except those for health; None: no key.
    """
    metrics = Metrics()
    service = InspectionService(champions, settings, metrics)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        champions.start()
        yield
        champions.stop()
        service.close()

    app = FastAPI(
        title="stillwatch",
        version=__version__,
        lifespan=lifespan,
        # These pages load their scripts from the internet; openapi.json needs no network.
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(CountRequests, metrics=metrics, is_known=champions.expects)
    app.add_exception_handler(StillwatchError, _refused)
    app.add_exception_handler(RequestValidationError, _wrong_query)
    app.add_exception_handler(ClientDisconnect, _closed)
    app.add_exception_handler(Exception, _failed)
    locked = [Depends(_lock(key))]

    @app.post(
        INSPECT_PATH + "{category}",
        dependencies=locked,
        response_model_exclude_none=True,
        openapi_extra=_BODY,
    )
    async def inspect(
        request: Request,
        category: str,
        overlay: Annotated[bool, Query(description="also draw a picture")] = False,
        mask: Annotated[bool, Query(description="also give the defect's pixels")] = False,
    ) -> Answer:
        """Inspect one image."""
        return await service.inspect(request, category, overlay=overlay, mask=mask)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @app.get("/ready")
    async def ready(response: Response) -> dict[str, Any]:
        """Whether every category has a model; status 503 if not."""
        if not champions.ready:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return {
            "ready": champions.ready,
            "registry_answers": champions.registry_answers,
            "categories": champions.states(),
        }

    @app.get("/metrics", dependencies=locked)
    async def metrics_page() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.page(champions.states()), media_type=CONTENT_TYPE_LATEST)

    return app


def _lock(key: str | None) -> Callable[..., Awaitable[None]]:
    """A dependency that refuses requests without the key."""

    async def check(
        given: Annotated[
            HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))
        ],
    ) -> None:
        # Starlette reads the bytes of headers as Latin-1.
        sent = b"" if given is None else given.credentials.encode("latin-1")
        if key is not None and not hmac.compare_digest(sent, key.encode()):
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED,
                "send the service's key as Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )

    return check


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return JSONResponse({"detail": str(error)}, status)
    _log.error("an image could not be inspected: %s", error)
    return await _failed(_request, error)


async def _failed(_request: Request, _error: Exception) -> JSONResponse:
    # The cause is not for the client. Starlette raises other errors again after this response, and
    # uvicorn logs their tracebacks.
    return JSONResponse(
        {"detail": "the service failed; its log says why"}, HTTPStatus.INTERNAL_SERVER_ERROR
    )


async def _wrong_query(_request: Request, error: Exception) -> JSONResponse:
    wrong = error.errors() if isinstance(error, RequestValidationError) else ()
    problems = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in wrong)
    return JSONResponse({"detail": problems}, HTTPStatus.UNPROCESSABLE_ENTITY)


async def _closed(_request: Request, _error: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)
