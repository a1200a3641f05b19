"""What the session decides on, done: facts gathered from the disk, actions performed one at a time.

Everything that must survive a crash is on disk before an action returns. What is kept in memory, whether the list holds
the site, why it does not take part, whether the upload is whole, belongs to one round and is found out again.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from fedmepd.errors import FedmepdError
from fedmepd.jobs import Finish as FinishJob
from fedmepd.jobs import Inputs, Opening, SiteRound
from fedmepd.layout import Layout
from fedmepd.runspec import RunSpec, spec_from_dict
from fedmepd.sections import Compute, Member
from protos.terms import (
    Activity,
    ActivityKind,
    ArtefactRef,
    DeclineCause,
    Declined,
    Finish,
    Finished,
    Instruction,
    RoundId,
    Submit,
    Train,
)
from security.errors import SecurityError
from site_agent import policy
from site_agent.config import Config
from site_agent.errors import (
    CorruptedError,
    NotAMemberError,
    RefusalError,
    RejectedError,
    StaleError,
    StorageError,
)
from site_agent.identity import SiteIdentity
from site_agent.membership import Standing
from site_agent.ports import Coordinator, Trainer
from site_agent.reports import Ledger
from site_agent.session import (
    Action,
    CheckMembership,
    DoTrain,
    Download,
    Facts,
    FinishRun,
    Nothing,
    Resend,
    Result,
    Tell,
    Upload,
    artefacts_of,
    inputs_key,
)
from site_agent.status import StatusFile
from site_agent.transfers import Downloads, send
from site_agent.workspace import Ending, Workspace

_log = structlog.get_logger("site_agent.hands")
_CORRUPTED_UPLOADS = 2
_BROADCASTS = 2
_PHASES = {"validating": ActivityKind.VALIDATING, "testing": ActivityKind.VALIDATING}


@dataclass(slots=True)
class _Round:
    """What is known of the present round beside the files."""

    id: RoundId | None = None
    standing: bool | None = None
    refusal: Declined | None = None
    uploaded: bool = False
    corrupted: int = 0
