"""The table of what leaves a hospital has a row for every message, and names every field, that an agent can send."""

from __future__ import annotations

import re

from google.protobuf.descriptor import Descriptor

from protos.v1 import common_pb2 as common
from protos.v1 import enrolment_pb2 as enrolment
from protos.v1 import federation_pb2 as federation
from tests.docs.blocks import ROOT

SENT = (
    enrolment.DescribeRequest,
    enrolment.EnrolRequest,
    common.HelloRequest,
    common.RenewRequest,
    common.MembershipRequest,
    federation.NextRequest,
    federation.ReportRequest,
    federation.UploadOffsetRequest,
    federation.UploadMessage,
    common.DownloadRequest,
)
WRAPPED = {"DescribeRequest": "only a HelloRequest"}
PART_OF = {  # messages within messages, which the table tells with what they are part of
    "Activity": {"RoundId"},
    "UploadMessage": {"Chunk"},
    "DownloadRequest": {"Artefact"},
    "Prepared": {"SegmentSlice"},
    "Masked": {"VectorManifest"},
    "Shared": {"SealedShare"},
    "Unmasked": {"SeedShare", "KeyShare"},
}


def messages(*roots: Descriptor) -> dict[str, Descriptor]:
    found: dict[str, Descriptor] = {}
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        if one.full_name not in found:
            found[one.full_name] = one
            waiting += [field.message_type for field in one.fields if field.message_type is not None]
    return found


def table() -> str:
    page = (ROOT / "ops" / "SECURITY.md").read_text()
    return page[page.index("## What leaves a hospital") : page.index("### For the record")]


def test_what_agents_send_is_what_the_services_take() -> None:
    taken = {
        method.input_type.full_name
        for module in (enrolment, federation)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert taken == {kind.DESCRIPTOR.full_name for kind in SENT}


def rows() -> list[tuple[set[str], set[str]]]:
    """Return, per row of the table, the words of its first two columns: messages, and their fields."""
    cells = (line.strip("|").split("|") for line in table().splitlines() if line.startswith("| ") and "---" not in line)
    return [(set(re.findall(r"\w+", row[0])), set(re.findall(r"\w+", row[1]))) for row in cells]


def test_every_field_that_an_agent_can_send_stands_in_a_row_of_its_message() -> None:
    sent = messages(*(kind.DESCRIPTOR for kind in SENT))
    missing = set()
    for one in sent.values():
        if one.name in WRAPPED or one.name == "ReportRequest":
            continue
        inside = {kind for kind, parts in PART_OF.items() if one.name in parts} or {one.name}
        told = set().union(*(fields for kinds, fields in rows() if kinds & inside))
        missing |= {f"{one.name}.{field.name}" for field in one.fields if field.name not in told}
    assert missing == set()


def test_every_body_of_a_report_has_a_row() -> None:
    kinds = set().union(*(kinds for kinds, _ in rows()))
    bodies = {field.message_type.name for field in federation.ReportRequest.DESCRIPTOR.oneofs[0].fields}
    assert bodies | ({kind.DESCRIPTOR.name for kind in SENT} - set(WRAPPED)) <= kinds
    told = set().union(*(fields for kinds, fields in rows() if "ReportRequest" in kinds))
    own = {field.name for field in federation.ReportRequest.DESCRIPTOR.fields if field.containing_oneof is None}
    assert own <= told
