"""Which visitors count as one: those at the same IPv4 address, or in the same /64 of IPv6, which is one subscriber's.

Does not say who a visitor is: whoever has many addresses counts as many.
"""

from __future__ import annotations

import ipaddress

_SUBSCRIBER_BITS = 64


def place_of(address: str) -> str:
    """Return what an address is counted under.

    Args:
        address: As the operating system says it.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), _SUBSCRIBER_BITS), strict=False))
