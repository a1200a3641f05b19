"""Cohorts of phantoms on disk, in the layouts that hospitals' challenge data come in.

Brain: BraTS 2020 (`<case>/<case>_{flair,t1ce,t1,t2,seg}.nii.gz`, label values 0, 1, 2, 4). Head-neck: the same with
`_ct`, `_mr` and label values 0 to 4. Guarantees the same bytes for the same arguments whatever the number of workers,
and that a case folder is either complete or absent: it is written under a hidden name and renamed. Replaces only
case folders of its own naming when told to; anything else in the folder is left alone.
"""

from __future__ import annotations

import gzip
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from fedmepd.errors import PhantomError
from fedmepd.phantom.patient import Kind, PhantomPatient, make_patient, table_of
from fedmepd.phantom.plan import CohortSpec, Job, jobs_of

Progress = Callable[[int, int], None]

# Below this many voxels in all, starting processes takes longer than the work.
_WORTH_A_POOL = 12_000_000


def write_cohort(  # noqa: PLR0913  one argument per property of the cohort
    folder: Path | str,
    *,
    kind: Kind,
    cases: int,
    shape: tuple[int, int, int],
    seed: int = 0,
    institution: int = 0,
    prefix: str = "Phantom",
    modalities: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a cohort of one institution.

    Args:
        folder: Where; made if absent.
        kind: `brain` or `head-neck`.
        cases: Number of patients, 1 to 9999.
        shape: Voxels per axis, 16 to 512 each.
        seed: 0 or more.
        institution: 0 or more; other institutions have other scanners and other patients.
        prefix: Start of the case ids: letters, digits, `-` and `_`.
        modalities: Which images to write; None writes all of the kind.
        workers: Processes; None takes one per core where that pays.
        progress: Called with (cases done, cases in all) after each case.
        overwrite: Replace earlier phantoms in a folder that is not empty.

    Returns:
        The case folders, by index.

    Raises:
        PhantomError: If an argument is out of range or the folder cannot be written.
    """
    spec = CohortSpec(
        kind=kind,
        cases=cases,
        shape=shape,
        seed=seed,
        institution=institution,
        prefix=prefix,
        modalities=None if modalities is None else tuple(modalities),
    )
    return write_cohorts({Path(folder): spec}, workers=workers, progress=progress, overwrite=overwrite)[Path(folder)]


def write_cohorts(
    cohorts: dict[Path, CohortSpec],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> dict[Path, list[Path]]:
    """Write several cohorts with one set of worker processes.

    Args:
        cohorts: Folder to cohort.
        workers: Processes; None takes one per core where that pays.
        progress: Called with (cases done, cases in all) after each case.
        overwrite: Replace earlier phantoms in folders that are not empty.

    Returns:
        Folder to case folders, by index.

    Raises:
        PhantomError: If an argument is out of range or a folder cannot be written.
    """
    if workers is not None and workers < 1:
        raise PhantomError(f"workers {workers} is out of range", remedy="use 1 or more")
    jobs = {folder: jobs_of(folder, spec) for folder, spec in cohorts.items()}
    # Every folder is looked at before the first one is changed.
    for folder in cohorts:
        _refuse_occupied(folder, overwrite=overwrite)
    try:
        for folder, spec in cohorts.items():
            folder.mkdir(parents=True, exist_ok=True)
            _clear(folder, spec.prefix)
        _run([job for group in jobs.values() for job in group], workers, progress or _silent)
    except OSError as error:
        raise PhantomError(
            f"cannot write {error.filename or next(iter(cohorts))} ({error.strerror or error})",
            remedy="check the path, its permissions and the free space, then run again with --force",
        ) from error
    return {folder: [job.folder / job.case_id for job in group] for folder, group in jobs.items()}


def _refuse_occupied(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise PhantomError(f"{folder} is a file", remedy="name a folder")
    if not overwrite and folder.exists() and any(folder.iterdir()):
        raise PhantomError(
            f"{folder} is not empty", remedy="name another folder, or use --force to replace the phantoms in it"
        )


def _clear(folder: Path, prefix: str) -> None:
    own = re.compile(rf"\.?{re.escape(prefix)}_\d{{2,}}_\d{{3,}}(\.partial)?")
    for item in folder.iterdir():
        if item.is_dir() and not item.is_symlink() and own.fullmatch(item.name):
            shutil.rmtree(item)


def _silent(_done: int, _total: int) -> None:
    """Report nothing."""


def _run(jobs: list[Job], workers: int | None, progress: Progress) -> None:
    voxels = sum(int(np.prod(job.shape)) for job in jobs)
    asked = workers or (1 if voxels < _WORTH_A_POOL else os.cpu_count() or 1)
    count = min(asked, len(jobs))
    if count == 1:
        for done, job in enumerate(jobs, start=1):
            _write_case(job)
            progress(done, len(jobs))
        return
    # Fresh processes: forking one whose libraries have started threads can deadlock.
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts)
    try:
        futures = [pool.submit(_write_case, job) for job in jobs]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            progress(done, len(jobs))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts() -> None:
    # The parent decides what an interrupt means; workers finish the case they are at.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_case(job: Job) -> None:
    patient = make_patient(job.kind, shape=job.shape, seed=job.seed, institution=job.institution)
    partial = job.folder / f".{job.case_id}.partial"
    partial.mkdir()
    for modality in job.modalities:
        image = patient.images[modality].astype(np.int16)
        _write_volume(partial / f"{job.case_id}_{modality}.nii.gz", image, patient, job)
    values = table_of(job.kind).label_values
    _write_volume(partial / f"{job.case_id}_seg.nii.gz", values[patient.label], patient, job)
    partial.replace(job.folder / job.case_id)


def _write_volume(path: Path, volume: npt.NDArray[np.generic], patient: PhantomPatient, job: Job) -> None:
    # nibabel's own annotations stop here.
    image: Any = nib.Nifti1Image(volume, patient.affine)  # type: ignore[no-untyped-call]
    image.set_sform(patient.affine, code=1)
    image.set_qform(patient.affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"synthetic phantom, {job.kind}, institution {job.institution}".encode()
    # No time stamp, so that equal volumes are equal files.
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
