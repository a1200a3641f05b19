"""Secure aggregation: a coordinator learns sums over enough sites, and nothing else (SPEC 9 to 12).

Sans-IO: functions from what is remembered and what was received to what is to be remembered. A site goes through
`advertise`, `share`, `receive`, `pads`, `confirm`, `unmask`: what a step returns must be durable before the answer in
it is sent, and a step that was done gives the same again or raises. The coordinator checks with `check_advertisement`,
`believed`, `check_bundle`, `check_confirmation`, `check_answer`, and opens with `recover`. Transport, disk, masking of
files and the checks of a round against what a site knows itself are the services'.

Source: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017, with the
hardening that SPEC 9 and 10 describe.
"""

from security.secagg.advertise import advertise, check_same_setting
from security.secagg.confirm import check_confirmation, confirm
from security.secagg.keys import Advertisement, KeySet, believed, check_advertisement
from security.secagg.mask import missing_shares, pads, receive
from security.secagg.opening import Opening, Transcript, check_answer, check_bundle, recover
from security.secagg.opens import may_open, threshold, too_demanding
from security.secagg.randomness import SYSTEM, Randomness
from security.secagg.share import share
from security.secagg.state import Answer, Bundle, SiteState, dump_state, load_state
from security.secagg.terms import COMMON, LEAST_COHORT, Demands, Party, Segment, Setting, is_member, strictest
from security.secagg.unmask import open_segments, unmask

__all__ = [
    "COMMON",
    "LEAST_COHORT",
    "SYSTEM",
    "Advertisement",
    "Answer",
    "Bundle",
    "Demands",
    "KeySet",
    "Opening",
    "Party",
    "Randomness",
    "Segment",
    "Setting",
    "SiteState",
    "Transcript",
    "advertise",
    "believed",
    "check_advertisement",
    "check_answer",
    "check_bundle",
    "check_confirmation",
    "check_same_setting",
    "confirm",
    "dump_state",
    "is_member",
    "load_state",
    "may_open",
    "missing_shares",
    "open_segments",
    "pads",
    "receive",
    "recover",
    "share",
    "strictest",
    "threshold",
    "too_demanding",
    "unmask",
]
