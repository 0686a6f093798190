"""Every error of the service in one form, and with the status that says whose it is."""

import logging

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serving.outage import STORE_GONE
from serving.request.limits import Limits, failure
from stores.read import ReadError
from transformations.errors import InputError
from transformations.secrets import redact

logger = logging.getLogger(__name__)


def answer_errors(app: FastAPI, limits: Limits) -> None:
    """Give every error the same form."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        details = [
            {"where": ".".join(map(str, problem["loc"])), "message": problem["msg"]}
            for problem in error.errors()[:20]
        ]
        taken = f"{request.method} {request.scope['route'].path}"
        return failure(
            422, "invalid", f"the request does not have the form that {taken} takes", details
        )

    @app.exception_handler(InputError)
    async def wrong(_: Request, error: InputError) -> Response:
        return failure(422, "invalid", redact(str(error)))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return failure(error.status_code, "http", str(error.detail), headers=error.headers)

    @app.exception_handler(TimeoutError)
    async def late(_: Request, __: TimeoutError) -> Response:
        logger.warning("no answer within %g s", limits.timeout)
        return failure(
            503,
            "unavailable",
            f"no answer within {limits.timeout:g} s: the online store is away, or all is slow",
            headers={"Retry-After": "1"},
        )

    async def gone(_: Request, error: Exception) -> Response:
        logger.warning("the online store does not answer: %s", error)
        return failure(
            503, "unavailable", "the online store does not answer", headers={"Retry-After": "1"}
        )

    app.add_exception_handler(ReadError, gone)
    for kind in STORE_GONE:
        app.add_exception_handler(kind, gone)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        logger.error("a request failed", exc_info=error)
        return failure(500, "internal", "the request failed; the reason is in the service's log")
