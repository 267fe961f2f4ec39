"""Answers other than 200, and none of a browser's business."""

import msgspec

from ambientd.ports.http import Response

_ENCODER = msgspec.json.Encoder()


def created(answer: msgspec.Struct) -> Response:
    """201 with the answer as JSON."""
    return Response(201, _ENCODER.encode(answer))
