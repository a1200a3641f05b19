"""`fedmepd-agent predict`: the site's own model of a finished run segments cases, here and with nothing sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from site_agent.cli.options import DEFAULT, ConfigFile, Json

_Inputs = Annotated[
    list[Path],
    typer.Argument(help="Cohort folders, folders of one case, or manifests; no labels needed.", show_default=False),
]
_Out = Annotated[Path, typer.Option("--out", help="Folder to write <case>.nii.gz into.", show_default=False)]
_Run = Annotated[str | None, typer.Option("--run", help="Of this run, not of the newest one.", show_default=False)]
_SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Name and leave out cases that cannot be used.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Predict finished cases anew.")]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("predict")(predict)


def predict(
    inputs: _Inputs,
    out: _Out,
    config: ConfigFile = DEFAULT,
    run: _Run = None,
    skip_invalid: _SkipInvalid = False,
    overwrite: _Overwrite = False,
    as_json: Json = False,
) -> None:
    """Segment cases with this site's own model: personal filters, anchors and calibration of its best round included.

    For research only. Device and layout are those of the configuration. Finished cases of the folder are kept.
    Exit code 1 when no case could be segmented. `fedmepd predict` has more options, and takes any model file.

    Example: fedmepd-agent predict /data/new --out segmentations
    """
    from fedmepd.cli.predict import Device
    from fedmepd.cli.predict import predict as segment
    from site_agent.config import load_config
    from site_agent.results import own_model

    settings = load_config(config)
    segment(
        own_model(settings.data, run),
        inputs,
        out,
        layout=settings.cohort.layout,
        device=Device(settings.compute.device),
        skip_invalid=skip_invalid,
        overwrite=overwrite,
        as_json=as_json,
    )
