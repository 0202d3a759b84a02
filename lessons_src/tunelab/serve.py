"""The travel assistant over HTTP: a Flask app, and a server for it that a notebook starts and stops.

As a program, on this machine alone, with the folder's own settings (``settings.json``: threshold and adapter):

    TUNELAB_FOLDER=travel-assistant waitress-serve --listen=127.0.0.1:8000 --threads=40 --max-request-body-size=2097152 --call tunelab.serve:create_app
"""

from __future__ import annotations

import codecs
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import RequestEntityTooLarge

from . import _api, _refusals, assistant, data
from ._refusals import Refusal
from ._server import LOOPBACK, Server
from .adapters import AdapterError, LanguageModel
from .jobs import Jobs
from .session import LANGUAGES
from .store import PassageStore

if TYPE_CHECKING:
    from chromadb import EmbeddingFunction

PAGE_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"

_Body = TypeVar("_Body", bound=_api.Request)


@dataclass
class Service:
    """What an app works with."""

    store: PassageStore
    lm: LanguageModel
    jobs: Jobs
    settings: assistant.Settings
    damaged: dict[str, str]  # adapters that could not be loaded, and why
    places: threading.BoundedSemaphore  # of the one request that is worked on, and of those that wait

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A place in the queue for the model and the store. Raises Refusal 503 where it is full."""
        if not self.places.acquire(blocking=False):
            raise Refusal(503, "busy", "too many requests are waiting: try again in a second", wait=1)
        try:
            yield
        finally:
            self.places.release()

    def close(self) -> None:
        """Cancels the job that runs and lets go of the store."""
        self.jobs.close()
        self.store.close()


def create_app(
    folder: str | Path | None = None,
    *,
    documents: Iterable[Mapping[str, Any]] | None = None,
    embedding: EmbeddingFunction | None = None,
    lm: LanguageModel | None = None,
    threshold: float | Mapping[str, float] | None = None,
    adapter: str | None = None,
    waiting: int = 32,
    hosts: Iterable[str] = ("localhost", LOOPBACK),
) -> Flask:
    """The app; ``app.extensions["tunelab"].close()`` lets go of its folder.

    Args:
        folder: holds ``store``, ``adapters/NAME``, ``settings.json``; by default $TUNELAB_FOLDER, else ``travel-assistant``. An
            adapter that cannot be used stops nothing: ``/health`` says why.
        documents: what a store without documents begins with; by default the course's passages, in both languages.
        embedding: of the store, by default the course's.
        lm: by default the course's base model, loaded anew.
        threshold: ``/answer`` does not know where no passage is as similar; one number, or one a language; -1 always knows.
        adapter: for requests that name none. It and the threshold are kept in ``settings.json``, and read there when not given.
        waiting: requests that may wait for the model and the store; more are sent away with 503.
        hosts: names under which the app is reached. (A page on the web may send a browser to 127.0.0.1 under a name of its own.)

    Raises:
        StoreLockedError: another process works with the folder.
        SettingsError: a threshold or an adapter's name that makes no sense, here or in ``settings.json``.
    """
    folder = Path(folder or os.environ.get("TUNELAB_FOLDER", "travel-assistant"))
    (folder / "adapters").mkdir(parents=True, exist_ok=True)
    settings = assistant.Settings.load(folder / "settings.json", threshold=threshold, adapter=adapter)
    store = PassageStore(folder / "store", embedding)  # before the model: a second process is refused at once
    try:
        if not len(store):
            store.upsert(course_passages() if documents is None else documents)
        lm = lm or LanguageModel()
        settings.save(folder / "settings.json")
    except BaseException:
        store.close()
        raise
    jobs, damaged = Jobs(lm, folder / "adapters"), {}
    for saved in sorted((folder / "adapters").glob("[!.]*/")):
        try:
            lm.load(saved)
        except AdapterError as error:
            damaged[saved.name] = str(error)
    service = Service(store, lm, jobs, settings, damaged, threading.BoundedSemaphore(waiting + 1))

    app = Flask(__name__, static_folder=None)
    # One byte more: a chunked body, which does not say its length, is cut off there, and _content sees it.
    app.config.update(MAX_CONTENT_LENGTH=_api.MAX_BYTES + 1, TRUSTED_HOSTS=list(hosts))
    app.json.ensure_ascii, app.json.sort_keys = False, False
    app.extensions["tunelab"] = service
    _refusals.install(app)
    _add_views(app, service)
    return app


def course_passages() -> list[dict[str, Any]]:
    """The course's passages in both languages as documents: id ``en-p-01``, metadata title, lang, kind."""
    return [
        {
            "id": f"{lang}-{row['id']}",
            "text": row["text"],
            "metadata": {"title": row["title"], "lang": lang, "kind": row["kind"]},
        }
        for lang in LANGUAGES
        for row in data.load("passages", lang, "all")
    ]


def _add_views(app: Flask, service: Service) -> None:
    store, lm, jobs, settings = service.store, service.lm, service.jobs, service.settings

    @app.get("/")
    def page() -> Response:
        html = Path(__file__).with_name("_page.html").read_text(encoding="utf-8")
        return Response(html, mimetype="text/html", headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(_api.openapi())

    @app.get("/health")
    def health() -> Response:
        running = jobs.running()
        return jsonify(
            status="ok",
            documents=len(store),
            model=lm.name,
            embedder=getattr(store.embedding, "model", store.embedding.name()),
            languages=list(LANGUAGES),
            adapters=sorted(lm.adapters, key=lambda name: name != settings.adapter),
            damaged={name: why for name, why in service.damaged.items() if name not in lm.adapters},
            job=running.id if running else None,
        )

    @app.post("/answer")
    def answer() -> Response:
        asked = _body(_api.AnswerRequest)
        lang, adapter = asked.language, asked.adapter or settings.adapter
        if adapter in service.damaged and adapter not in lm.adapters:
            raise AdapterError(service.damaged[adapter])
        with service.turn():
            options = {"lang": lang, "adapter": adapter, "k": asked.k, "threshold": settings.threshold[lang]}
            return jsonify(assistant.answer(store, lm, asked.question, **options))

    @app.post("/search")
    def search() -> Response:
        asked = _body(_api.SearchRequest)
        where = [{key: value} for key, value in (asked.where or {}).items()]
        with service.turn():
            both = {"$and": where} if len(where) > 1 else where[0] if where else None
            hits = store.search(asked.text, asked.k, where=both, lang=asked.language)
        return jsonify(hits=[vars(hit) for hit in hits])

    @app.post("/documents")
    def upsert() -> Response:
        new = _body(_api.DocumentsRequest).documents
        with service.turn():
            return jsonify(stored=store.upsert(document.model_dump() for document in new), documents=len(store))

    @app.delete("/documents/<name>")
    def delete(name: str) -> Response:
        with service.turn():
            if not store.delete([name]):
                raise Refusal(
                    404, "unknown_document", f"no document {name[:60]!r}: POST /search gives the ids there are"
                )
            return jsonify(deleted=name, documents=len(store))

    @app.post("/finetune")
    def finetune() -> tuple[Response, int, dict[str, str]]:
        if doubled := [name for name, values in request.args.lists() if len(values) > 1]:
            raise Refusal(422, "invalid_value", f"{doubled[0][:60]} is given more than once: give it once", doubled[0])
        asked = _api.FinetuneQuery.model_validate_strings(request.args.to_dict())
        try:
            job = jobs.start(asked.adapter, _content(_api.ROWS).decode(), asked.steps, asked.seed)
        except UnicodeDecodeError as error:
            wrong = f"byte {error.start} of the body is no UTF-8: save the rows as UTF-8"
            raise Refusal(422, "invalid_rows", wrong) from None
        except ValueError as error:
            raise Refusal(422, "invalid_rows", str(error)) from None
        return jsonify(job.report()), 202, {"Location": f"/finetune/{job.id}"}

    @app.get("/finetune/<name>")
    def progress(name: str) -> Response:
        return jsonify(jobs.get(name).report())

    @app.delete("/finetune/<name>")
    def cancel(name: str) -> Response:
        return jsonify(jobs.cancel(name).report())


def _body(shape: type[_Body]) -> _Body:
    """The request's body, checked; a ValidationError becomes a 4xx."""
    if name := next(iter(request.args), None):
        raise Refusal(422, "unknown_field", f"{name[:60]} is no query parameter here: put it into the body", name)
    return shape.model_validate_json(_content(_api.JSON).removeprefix(codecs.BOM_UTF8))


def _content(kind: str) -> bytes:
    """The body, of one media type, as it was sent and whole."""
    if request.mimetype != kind:
        wrong = f"Content-Type is {request.mimetype[:60]!r}, expected {kind!r}: set the header"
        raise Refusal(415, "wrong_content_type", wrong)
    if (coding := request.headers.get("Content-Encoding", "identity")).lower() != "identity":
        raise Refusal(
            415, "wrong_content_encoding", f"Content-Encoding is {coding[:60]!r}, expected none: send it uncompressed"
        )
    if len(content := request.get_data()) > _api.MAX_BYTES:
        raise RequestEntityTooLarge
    return content


# ---- in a notebook ----

_running: dict[str, Server] = {}


def running(make_app: Callable[[], Flask], name: str = "assistant") -> Server:
    """Starts ``make_app()`` on a free port of 127.0.0.1; a server of the same name is stopped before, so a cell can be run again."""
    if older := _running.pop(name, None):
        older.stop()
    _running[name] = Server(make_app())
    return _running[name]
