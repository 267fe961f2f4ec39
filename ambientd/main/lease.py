"""`ambientd lease sign` and `lease revoke`: an issuer's tool, for fleets without a control plane."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from ambientd.config.duration import parse_duration, parse_size
from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.lease import Content, Lease, Revocation, build_item
from ambientd.core.text import printable
from ambientd.core.timefmt import from_ms, parse_rfc3339, rfc3339_ms, to_ms
from ambientd.host.clock import SystemClock
from ambientd.main.config_print import complain
from ambientd.main.issuer_key import FailedError, read_key, write_new
from ambientd.wire import exits

T = TypeVar("T")


_HELP = """\
Makes session leases, signed with an issuer's key. Needs no daemon and no node; the key belongs on a machine
of its own (`ambientd policy new-key` makes one). Nodes believe the keys in policy.lease_issuers.
"""

_SIGN_HELP = """\
Signs a lease for one session of one node and writes it, for `ambientctl lease activate`. The node's key is
what `ambientctl identity` prints there. A lease works once.

exit codes: 0 done, 1 failed
example:
  ambientd lease sign --key lease.key --network default --node ed25519:… --session ses-1 --policy web \\
      --valid-for 1h --max-duration 30m --mbps 10 --protocol https -o lease.json
"""

_REVOKE_HELP = """\
Signs a revocation of a lease of the same issuer and writes it, for `ambientctl lease revoke`.

exit codes: 0 done, 1 failed
example:
  ambientd lease revoke --key lease.key --network default 5f0c… -o revocation.json
"""


def run(argv: Sequence[str]) -> int:
    """Runs `lease …` and returns the exit code."""
    options = _parser().parse_args(list(argv))
    try:
        _issue(options, options.build(options, to_ms(SystemClock().now())))
    except FailedError as failure:
        for line in failure.args:
            complain(line)
        return exits.FAILED
    return exits.DONE


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="ambientd lease", description=_HELP, formatter_class=shape, allow_abbrev=False
    )
    verbs = parser.add_subparsers(title="verbs", metavar="sign|revoke", required=True)
    sign = verbs.add_parser(
        "sign", help="sign a lease", description=_SIGN_HELP, formatter_class=shape, allow_abbrev=False
    )
    wanted = {
        "--node": "the public key of the node that it is for",
        "--session": "the session that it is for",
        "--policy": "the policy that says where to",
    }
    for name, text in wanted.items():
        sign.add_argument(name, metavar="ID", required=True, help=text)
    sign.add_argument("--protocol", metavar="P", action="append", required=True, help="may be repeated")
    sign.add_argument("--mbps", metavar="N", type=int, required=True, help="mean rate, megabits a second")
    sign.add_argument("--valid-for", metavar="TIME", type=_known(parse_duration), required=True)
    sign.add_argument(
        "--max-duration", metavar="TIME", type=_known(parse_duration), help="default: as long as it is valid"
    )
    sign.add_argument("--bytes", metavar="SIZE", type=_known(parse_size), help="sum of all traffic")
    sign.add_argument("--not-before", metavar="TIME", type=_known(parse_rfc3339), help="default: now")
    sign.add_argument("--jti", metavar="ID", help="its id (default: a random one)")
    sign.set_defaults(build=_lease)
    revoke = verbs.add_parser(
        "revoke",
        help="take a lease back",
        description=_REVOKE_HELP,
        formatter_class=shape,
        allow_abbrev=False,
    )
    revoke.add_argument("jti", metavar="ID")
    revoke.set_defaults(build=_revocation)
    for verb in (sign, revoke):
        verb.add_argument("--key", metavar="FILE", required=True, help="the issuer's private key")
        verb.add_argument("--network", metavar="NAME", required=True, help="policy.network of the node")
        verb.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    return parser


def _known(parse: Callable[[str], T]) -> Callable[[str], T]:
    """For argparse, which would show a ValueError without its words."""

    def read(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _lease(options: argparse.Namespace, now: int) -> Content:
    begin = now if options.not_before is None else to_ms(options.not_before)
    valid_ms = round(options.valid_for * 1000)
    lasts = valid_ms if options.max_duration is None else round(options.max_duration * 1000)
    return Lease(
        network=options.network,
        jti=options.jti or os.urandom(16).hex(),
        node=options.node,
        session_id=options.session,
        policy_id=options.policy,
        issued_at=now,
        nbf=begin,
        exp=max(begin, now) + valid_ms,
        max_duration_ms=lasts,
        max_mbps=options.mbps,
        max_bytes=options.bytes,
        protocols=tuple(options.protocol),
    )


def _revocation(options: argparse.Namespace, now: int) -> Content:
    return Revocation(network=options.network, jti=options.jti, issued_at=now)


def _issue(options: argparse.Namespace, content: Content) -> None:
    seed = read_key(options.key)
    public = public_of(seed)
    try:
        item = build_item(seed, public, content)
    except ValueError as error:
        raise FailedError(f"Error: {printable(str(error))}.", "Nothing was signed.") from None
    form = {"body": item.body.decode(), "issuer": show_key(public), "signature": item.signature.hex()}
    data = msgspec.json.encode(form) + b"\n"
    if options.output is None:
        sys.stdout.write(data.decode())
        sys.stdout.flush()
    else:
        write_new(options.output, data)
    until = f", valid until {rfc3339_ms(from_ms(content.exp))}" if isinstance(content, Lease) else ""
    complain(f"Signed {content.kind} {content.jti}{until}.")
