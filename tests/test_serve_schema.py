"""The API against its own OpenAPI document: what the schema allows is answered, what it forbids is refused, in its shapes."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance

import tiny
from serving import Letters, document
from tunelab import _api, serve
from tunelab.adapters import LanguageModel
from tunelab.jobs import Jobs

BOUNDED = settings(
    max_examples=15,
    derandomize=True,  # the same requests on each run
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@schemathesis.serializer("application/x-ndjson")
def rows(_context, value):
    """JSON Lines are text already."""
    return str(value).encode("utf-8", errors="surrogatepass")


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Jobs, "_train", lambda self, job, rows, seed: setattr(job, "loss", 0.0))  # nothing to wait for
        lm = LanguageModel(tiny.model(), tiny.tokenizer(), max_new_tokens=2)
        documents = [
            document("en-1", "A day ticket is refunded.", lang="en"),
            document("zh-1", "白鹭湖很美。", lang="zh"),
        ]
        app = serve.create_app(tmp_path_factory.mktemp("api"), documents=documents, embedding=Letters(), lm=lm)
        yield schemathesis.openapi.from_wsgi("/openapi.json", app)
        app.extensions["tunelab"].close()


def test_every_path_of_the_app_is_in_the_document(schema):
    known = {(operation[0].upper(), operation[1]) for operation in _api.OPERATIONS}
    routes = {
        (method, rule.rule.replace("<name>", "{id}"))
        for rule in schema.app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert routes == known | {("GET", "/"), ("GET", "/openapi.json")}


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (*operation[:2], mode)
        for operation in _api.OPERATIONS
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or operation[3]  # where there is something that could be wrong
    ],
)
def test_the_api_keeps_to_its_schema(schema, method, path, mode):
    operation = schema[path][method.upper()]
    # A schema cannot say what a line of JSON Lines is.
    left_out = [positive_data_acceptance] if path == "/finetune" else []

    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        if (path, mode) == ("/documents", GenerationMode.POSITIVE):
            ids = [row["id"] for row in case.body["documents"]]
            assume(len(set(ids)) == len(ids))  # nor that the ids of a list differ
        case.call_and_validate(excluded_checks=left_out)

    send()
