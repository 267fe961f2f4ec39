"""Builds the writer of the activity feed."""

from collections.abc import Mapping
from pathlib import Path

from ambientd.config.schema import HeartbeatConfig
from ambientd.core.feedpath import resolve_feed_path
from ambientd.host.feed_writer import FeedWriter
from ambientd.host.log import Logger
from ambientd.wire import places


def build_feed(
    config: HeartbeatConfig, *, state_dir: Path, environ: Mapping[str, str], host_id: str, log: Logger
) -> FeedWriter:
    """The writer for the path that environment or configuration name."""
    place = resolve_feed_path(
        environment=environ.get(places.ENV_FEED),
        configured=config.feed,
        state_dir=str(state_dir),
        home=environ.get("HOME"),
    )
    return FeedWriter(
        place=place,
        state_dir=str(state_dir),
        host_id=host_id,
        timeout=config.timeout,
        max_size=config.max_size,
        keep=config.keep,
        log=log,
        enabled=config.enabled,
    )
