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
SERVICES = ("Enrolment", "Federation")


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


def test_every_field_that_an_agent_can_send_is_in_the_table() -> None:
    words = set(re.findall(r"\w+", table()))
    sent = messages(*(kind.DESCRIPTOR for kind in SENT))
    bodies = {field.name for field in federation.ReportRequest.DESCRIPTOR.oneofs[0].fields}
    missing = {
        f"{one.name}.{field.name}"
        for one in sent.values()
        for field in one.fields
        if field.name not in words | bodies and one.name not in WRAPPED
    }
    assert missing == set()


def test_every_message_that_is_sent_on_its_own_has_a_row() -> None:
    words = set(re.findall(r"\w+", table()))
    bodies = {field.message_type.name for field in federation.ReportRequest.DESCRIPTOR.oneofs[0].fields}
    assert {kind.DESCRIPTOR.name for kind in SENT} - set(WRAPPED) <= words
    assert bodies <= words
