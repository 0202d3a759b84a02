"""The shapes of the HTTP API: what a request may hold (checked by pydantic), and the OpenAPI document made from that."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from ._passages import ID, KEY
from .adapters import ADAPTER_NAME
from .jobs import MAX_ROWS, MAX_STEPS

MAX_BYTES = 2**20
ROWS = "application/x-ndjson"
JSON = "application/json"
_TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f]*[^\s\x00-\x20][^\x00-\x08\x0b\x0c\x0e-\x1f]*$"
_ID, _KEY, _ADAPTER = f"^{ID}$", f"^{KEY}$", f"^{ADAPTER_NAME}$"
# By pattern: what it asks for, in words.
PATTERNS = {
    _TEXT: "a text with something in it, and no control characters but tabs and line breaks",
    _ID: "1 to 128 letters, digits and . _ : -, beginning with a letter or a digit",
    _KEY: "1 to 64 letters, digits and _, beginning with a letter",
    _ADAPTER: "1 to 32 of a-z, 0-9, _ and -, beginning with a letter or a digit",
}


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is an integer there."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _digits(value: Any) -> Any:
    """Of a query string: int() would take 1_0 and blanks as well."""
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,20}", value):
        raise ValueError("expected a whole number, written in digits")
    return value


def _no_whole(value: Any) -> Any:
    """A float would round a whole number beyond Whole."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError("expected a whole number from -2**53 to 2**53")
    return value


Language = Literal["en", "zh"]
Adapter = Annotated[str, Field(pattern=_ADAPTER)]
Key = Annotated[str, Field(pattern=_KEY)]
Whole = Annotated[int, Field(ge=-(2**53), le=2**53), BeforeValidator(_whole)]
_NO_OTHERS = {"additionalProperties": False}  # keys that Key does not describe
_Float = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_no_whole)]
Scalar = Annotated[str, Field(max_length=500)] | bool | Whole | _Float


def _text(most: int) -> Any:
    """A string with something in it, of at most so many characters."""
    return Annotated[str, Field(min_length=1, max_length=most, pattern=_TEXT)]


class Request(BaseModel):
    """A body: no other fields, no conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AnswerRequest(Request):
    """A question; ``k`` passages are put before it, none with 0. Without an adapter, the one of the settings answers."""

    question: _text(500)
    language: Language = "en"
    adapter: Adapter | None = None
    k: Annotated[int, Field(ge=0, le=5), BeforeValidator(_whole)] = 1


class SearchRequest(Request):
    """A text to find passages by; ``where`` keeps those whose metadata equal all of these."""

    text: _text(500)
    k: Annotated[int, Field(ge=1, le=50), BeforeValidator(_whole)] = 5
    language: Language | None = None
    where: Annotated[dict[Key, Scalar], Field(max_length=5, json_schema_extra=_NO_OTHERS)] | None = None


class Document(Request):
    """A passage; ``metadata`` such as title, lang and kind."""

    id: Annotated[str, Field(pattern=_ID)]
    text: _text(20_000)
    metadata: Annotated[dict[Key, Scalar], Field(max_length=20, json_schema_extra=_NO_OTHERS)] = {}


class DocumentsRequest(Request):
    """Documents to add, or to replace whole where their id is known."""

    documents: Annotated[list[Document], Field(min_length=1, max_length=100)]


class FinetuneQuery(BaseModel):
    """How to train: the new adapter's name, optimizer steps, seed."""

    model_config = ConfigDict(extra="forbid")
    adapter: Adapter
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS), BeforeValidator(_digits)] = 200
    seed: Annotated[int, Field(ge=0, le=2**31), BeforeValidator(_digits)] = 0


class Source(BaseModel):
    """A passage that the answer was made from."""

    id: str
    title: str
    score: float
    text: str


class Answer(BaseModel):
    """``known`` is false below the threshold; ``data`` is the answer where it is a JSON object; ``score`` the best passage's."""

    answer: str
    known: bool
    data: dict[str, Any] | None
    sources: list[Source]
    score: float | None
    adapter: str
    language: Language


class Hit(BaseModel):
    """A passage and its cosine similarity to the text."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any]


class Hits(BaseModel):
    """Best first."""

    hits: list[Hit]


class Stored(BaseModel):
    """How many were written, and how many there are now."""

    stored: int
    documents: int


class Deleted(BaseModel):
    """What was deleted, and how many there are now."""

    deleted: str
    documents: int


class JobReport(BaseModel):
    """A fine-tuning job; its adapter answers once ``state`` is done."""

    id: str
    adapter: str
    state: Literal["running", "done", "failed", "cancelled"]
    step: int
    steps: int
    loss: float | None
    error: str | None


class Health(BaseModel):
    """``adapters``: that of the settings first; ``damaged``: those that could not be loaded, and why; ``job``: which runs."""

    status: Literal["ok"]
    documents: int
    model: str
    embedder: str
    languages: list[str]
    adapters: list[str]
    damaged: dict[str, str]
    job: str | None


class Problem(BaseModel):
    """What was wrong, what was expected, and what to do."""

    code: str
    message: str
    field: str | None = None


class ErrorAnswer(BaseModel):
    """Every answer that is no success."""

    error: Problem


_ID_IN_PATH = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_BODY = (400, 413, 415, 422, 503)  # what may be wrong with a request that has one
# (method, path, summary, request, status, response, statuses of errors)
OPERATIONS = [
    ("get", "/health", "Is it up, and what does it have?", None, 200, Health, ()),
    ("post", "/answer", "Answer a question from passages", AnswerRequest, 200, Answer, (*_BODY, 404, 409)),
    ("post", "/search", "Find passages", SearchRequest, 200, Hits, _BODY),
    ("post", "/documents", "Add or replace documents", DocumentsRequest, 200, Stored, _BODY),
    ("delete", "/documents/{id}", "Delete a document", None, 200, Deleted, (404, 503)),
    ("post", "/finetune", "Train an adapter on rows of JSONL", ROWS, 202, JobReport, (409, 413, 415, 422)),
    ("get", "/finetune/{id}", "How far is the job?", None, 200, JobReport, (404,)),
    ("delete", "/finetune/{id}", "Cancel the job", None, 200, JobReport, (404,)),
]


def openapi() -> dict[str, Any]:
    """The API as an OpenAPI 3.1 document."""
    shapes = {shape for operation in OPERATIONS for shape in (operation[3], operation[5]) if isinstance(shape, type)}
    keyed = [(shape, "validation") for shape in sorted({*shapes, ErrorAnswer}, key=lambda shape: shape.__name__)]
    _, schemas = models_json_schema(keyed, ref_template="#/components/schemas/{model}")
    paths: dict[str, dict[str, Any]] = {}
    for method, path, summary, request, status, response, errors in OPERATIONS:
        name = f"{method}{path.replace('/{id}', '_one').replace('/', '_')}"
        operation: dict[str, Any] = {"summary": summary, "operationId": name}
        parameters = [_ID_IN_PATH] if "{id}" in path else []
        if request == ROWS:
            query = FinetuneQuery.model_json_schema()
            required = query.get("required", [])
            for name, schema in query["properties"].items():
                parameters.append({"name": name, "in": "query", "required": name in required, "schema": schema})
            note = f"UTF-8, one object a line, at most {MAX_ROWS} lines: question and response; or question, place, topic, answer."
            operation["requestBody"] = _body(ROWS, {"type": "string", "description": note})
        elif request:
            operation["requestBody"] = _body(JSON, _ref(request))
        operation["parameters"] = parameters
        operation["responses"] = {str(status): _content(summary, response)} | {
            str(code): _content("An error", ErrorAnswer) for code in (*errors, 500)
        }
        paths.setdefault(path, {})[method] = operation
    about = {"title": "Travel assistant", "version": "1", "description": "Retrieval, a language model, LoRA adapters."}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": {"schemas": schemas["$defs"]}}


def _ref(shape: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{shape.__name__}"}


def _body(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {kind: {"schema": schema}}}


def _content(description: str, shape: type) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": _ref(shape)}}}
