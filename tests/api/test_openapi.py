from collections.abc import Iterator
from typing import Any

import msgspec

from ambientd.api.openapi import openapi_document
from tests.fakes import http_app
from tests.fakes.http_rig import get, serving

METHODS = {"get", "post", "put", "patch", "delete"}


def _document() -> dict[str, Any]:
    return openapi_document(http_app.routes(), version="1.2.3")


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from _refs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _refs(item)


def test_every_route_is_there_and_nothing_else() -> None:
    paths = _document()["paths"]
    found = {(method.upper(), path) for path, item in paths.items() for method in item}
    assert found == {(route.method, route.path) for route in http_app.routes()}


def test_every_reference_leads_somewhere() -> None:
    document = _document()
    refs = set(_refs(document))
    assert "#/components/schemas/ErrorEnvelope" in refs
    for ref in refs:
        assert ref.startswith("#/")
        place: Any = document
        for part in ref[2:].split("/"):
            place = place[part]
        assert isinstance(place, dict)


def test_the_document_has_the_parts_that_the_standard_asks_for() -> None:
    document = _document()
    assert document["openapi"].startswith("3.1.")
    assert set(document["info"]) >= {"title", "version"}
    assert document["info"]["version"] == "1.2.3"
    ids = []
    for path, item in document["paths"].items():
        assert path.startswith("/")
        assert set(item) <= METHODS
        for operation in item.values():
            ids.append(operation["operationId"])
            assert operation["responses"]
            assert all(status.isdigit() and len(status) == 3 for status in operation["responses"])
            for response in operation["responses"].values():
                assert "$ref" in response or response["description"]
            names = [(parameter["in"], parameter["name"]) for parameter in operation["parameters"]]
            assert len(names) == len(set(names))
            for parameter in operation["parameters"]:
                assert parameter["schema"]["type"] in {"string", "integer"}
                assert parameter["in"] != "path" or parameter["required"] is True
            templated = {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert {name for place, name in names if place == "path"} == templated
    assert len(ids) == len(set(ids))


def test_a_body_and_its_refusals_are_described() -> None:
    document = _document()
    operation = document["paths"]["/order"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Order"}
    order = document["components"]["schemas"]["Order"]
    assert order["required"] == ["agentId"]
    assert order["additionalProperties"] is False
    assert set(operation["responses"]) >= {"200", "400", "403", "413", "415", "503"}
    assert operation["x-access"] == "write"


def test_parameters_carry_their_bounds() -> None:
    parameters = _document()["paths"]["/big"]["get"]["parameters"]
    assert parameters[0]["schema"] == {"type": "integer", "minimum": 0, "maximum": 50_000_000}
    choices = _document()["paths"]["/echo/{word}"]["get"]["parameters"]
    assert {"name": "sort", "enum": ["up", "down"]}.items() <= {
        "name": choices[2]["name"],
        "enum": choices[2]["schema"]["enum"],
    }.items()


async def test_it_is_served_and_describes_itself() -> None:
    async with serving(http_app.build()) as rig:
        first = await rig.ask(get("/openapi.json"))
        second = await rig.ask(get("/openapi.json"))
    assert first.status == 200
    assert first.body == second.body
    assert msgspec.json.decode(first.body)["paths"]["/openapi.json"]["get"]["summary"] == "This document."


def test_every_route_that_is_not_open_wants_the_key_and_says_so() -> None:
    document = _document()
    (scheme,) = document["components"]["securitySchemes"].items()
    assert scheme[1] == scheme[1] | {"type": "apiKey", "in": "header", "name": "X-Secret-Key"}
    seen = set()
    for item in document["paths"].values():
        for operation in item.values():
            is_open = operation["x-access"] == "open"
            assert operation["security"] == ([] if is_open else [{scheme[0]: []}])
            assert ("401" in operation["responses"]) is not is_open
            seen.add(is_open)
    assert seen == {True, False}
