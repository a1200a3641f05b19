"""`fedmepd-coordinator doctor`: looks at everything that the coordinator needs, and says what to do about it.

It may be run while the service runs and while it is stopped, and changes nothing: no schema is migrated and no ledger
is opened for writing; what is written to try a disk, the database or the blob store is gone again before it answers.
"""

from coordinator.doctor.rounds import examine

__all__ = ["examine"]
