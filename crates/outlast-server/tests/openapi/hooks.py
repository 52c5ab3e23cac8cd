"""What the document cannot say of a valid request: members that follow from each other, and times that nobody waits for."""

import re
from itertools import count

import schemathesis

numbers = count()


def is_duration(value):
    return isinstance(value, str) and re.fullmatch("[0-9_]+ *[a-z]+", value) is not None


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body if isinstance(case.body, dict) else {}
    query = case.query or {}
    if case.path == "/v1/queue/drain" and is_duration(body.get("for")):
        body["for"] = "50ms"
    if is_duration(query.get("wait")):
        query["wait"] = "50ms"
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    # A member id of a document must be the record's own.
    if case.path.startswith("/v1/records/"):
        body.pop("id", None)
    for operation in body.get("operations", []):
        if isinstance(operation.get("data"), dict):
            operation["data"].pop("id", None)
    # Places that the server gave.
    if "cursor" in query:
        query["cursor"] = "a616e6e"
    if case.path == "/v1/queue/writes" and "after" in query:
        query["after"] = "1-1"
    # Ages that no clock has seen.
    for name in ("older_than", "newer_than"):
        if is_duration(query.get(name)):
            query[name] = "10m"
    # An edit keeps the records of its letter, which no schema can say: one of no letter.
    if case.path.endswith("/edit"):
        case.path_parameters["id"] = "1-999999"
    # The same key for another write is refused, as it should be.
    headers = case.headers or {}
    if headers.get("Idempotency-Key"):
        headers["Idempotency-Key"] = f"key-{next(numbers)}"
