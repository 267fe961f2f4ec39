"""The node's side of the control plane."""

from ambientd.services.push.link import DeviceLink
from ambientd.services.push.parts import PushSettings
from ambientd.services.push.service import PushService

__all__ = ["DeviceLink", "PushService", "PushSettings"]
