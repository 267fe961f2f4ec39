import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.config.loopback import canonical, is_loopback


@given(st.ip_addresses())
def test_an_address_is_judged_as_the_standard_library_does(address: ipaddress.IPv4Address) -> None:
    assert is_loopback(str(address)) == address.is_loopback
    assert canonical(str(address)) == str(address)


@pytest.mark.parametrize(
    ("text", "one"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.9", "127.0.0.9"), ("0::1", "::1")]
)
def test_loopback_has_more_spellings_than_the_usual_ones(text: str, one: str) -> None:
    assert is_loopback(text)
    assert canonical(text) == one


@pytest.mark.parametrize("text", ["localhost", "", "127.1", "127.0.0.1 ", "[::1]"])
def test_what_is_no_address_is_not_loopback(text: str) -> None:
    assert not is_loopback(text)
    with pytest.raises(ValueError, match="does not appear"):
        canonical(text)
