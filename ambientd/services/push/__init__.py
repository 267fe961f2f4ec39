"""The node's side of the control plane."""

from ambientd.services.push.link import DeviceLink
from ambientd.services.push.parts import PushParts, PushSettings, RoundResult
from ambientd.services.push.service import PushService

__all__ = ["DeviceLink", "PushParts", "PushService", "PushSettings", "RoundResult"]
