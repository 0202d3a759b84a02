"""Every answer that is no success: a status and ``{"error": {"code", "message", "field"}}``, never a stack trace."""

from __future__ import annotations

import json
import re

from flask import Flask, Response, jsonify
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, SecurityError

from . import _api, adapters, jobs, store

# What a view may raise, by kind: the status and the code. The message is the exception's own.
KINDS: dict[type[Exception], tuple[int, str]] = {
    adapters.UnknownAdapterError: (404, "unknown_adapter"),
    jobs.UnknownJobError: (404, "unknown_job"),
    jobs.JobRunningError: (409, "job_running"),
    adapters.AdapterError: (409, "damaged_adapter"),
    store.StoreError: (503, "store_unavailable"),
    ValueError: (422, "invalid_value"),
}
ADVICE = {
    400: "send a well-formed HTTP request",
    404: "GET /openapi.json lists the paths",
    405: "GET /openapi.json lists the methods of each path",
    413: f"the limit is {_api.MAX_BYTES:,} bytes, send less",
}


class Refusal(Exception):
    """A request that is not answered; the message says what was wrong, what was expected, what to do."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None, wait: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.field, self.wait = status, code, field, wait

    def response(self) -> Response:
        """As JSON; ``wait`` seconds become the header Retry-After."""
        # What was sent may stand in it, and may be long.
        problem = {"code": self.code, "message": _short(str(self), 290)} | (
            {"field": _short(self.field, 120)} if self.field else {}
        )
        answer = jsonify(error=problem)
        answer.status_code = self.status
        if self.wait is not None:
            answer.headers["Retry-After"] = str(self.wait)
        return answer


def install(app: Flask) -> None:
    """Makes each error of ``app`` a :class:`Refusal`."""
    app.register_error_handler(Refusal, Refusal.response)
    app.register_error_handler(ValidationError, lambda error: explain(error).response())
    app.register_error_handler(HTTPException, _http)
    for kind, (status, code) in KINDS.items():
        wait = 5 if status == 503 else None
        app.register_error_handler(kind, lambda e, s=status, c=code, w=wait: Refusal(s, c, str(e), wait=w).response())

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        app.logger.error("a request failed", exc_info=error)
        return Refusal(500, "internal", "the server failed at this request and goes on; its log says why").response()


def explain(error: ValidationError) -> Refusal:
    """The first thing that is wrong with a request."""
    first = error.errors(include_url=False)[0]
    place, kind, reason = [_short(str(part), 60) for part in first["loc"]], first["type"], first["msg"]
    if place[-1:] == ["[key]"]:
        place.pop()
    elif len(place) > 1 and place[-1].endswith(("str", "bool", "int", "float")):
        place.pop()  # pydantic names the branch of a union that it tried first
        kind, reason = "union", "expected a text of at most 500 characters, a finite number, true or false"
    field = ".".join(place)
    if kind == "json_invalid":
        reason = reason.split(": ", 1)[-1] if first["input"] else "it is empty"
        return Refusal(400, "invalid_json", f"the body is no JSON ({reason}): send one JSON object, in UTF-8")
    if kind == "missing":
        return Refusal(422, "missing_field", f"{field} is missing and required: see GET /openapi.json", field)
    if kind == "extra_forbidden":
        return Refusal(422, "unknown_field", f"{field} is no field here: leave it out, or see GET /openapi.json", field)
    if kind == "string_pattern_mismatch":
        reason = f"expected {_api.PATTERNS[first['ctx']['pattern']]}"
    found = _short(json.dumps(first["input"], ensure_ascii=False, default=repr), 60)
    return Refusal(
        422, "invalid_value", f"{field or 'the body'} is {found}: {reason[0].lower()}{reason[1:]}", field or None
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _http(error: HTTPException) -> Response:
    """Flask's own errors keep their status and headers (Allow), and lose their HTML."""
    code = re.sub(r"[^a-z]+", "_", error.name.lower())
    advice = ADVICE.get(error.code, "see GET /openapi.json")
    if isinstance(error, SecurityError):  # the header Host
        advice = "ask under a name that the server goes by, such as localhost"
    problem = _short(error.description.split(". ")[0].rstrip("."), 150)
    answer = Refusal(error.code, code, f"{problem}: {advice}").response()
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            answer.headers[name] = value
    return answer
