"""Which inputs of a round are whole and kept: the table of inputs, read once for a round and remembered.

What is remembered is what the database holds: it is added after the commit. Any thread may ask.
"""

from __future__ import annotations

import threading

from coordinator.ports import Store
from protos.terms import ArtefactRef, RoundId


class Arrivals:
    """The inputs of the round that was asked about last.

    Args:
        store: The database, which this process alone writes.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._round: RoundId | None = None
        self._known: dict[str, ArtefactRef] = {}

    def of(self, round_id: RoundId, site: str) -> ArtefactRef | None:
        """Return a site's whole input, if it is there.

        Raises:
            StorageError: If the database fails.
        """
        with self._lock:
            return self._inputs(round_id).get(site)

    def put(self, round_id: RoundId, site: str, ref: ArtefactRef) -> None:
        """Note that a site's input is whole in the blob store.

        Raises:
            ConflictError: If another one is noted.
            StorageError: If the database fails.
        """
        with self._lock:
            known = self._inputs(round_id)
            with self._store.transaction() as transaction:
                transaction.put_input(round_id, site, ref)
            known[site] = ref

    def _inputs(self, round_id: RoundId) -> dict[str, ArtefactRef]:
        if round_id != self._round:
            with self._store.transaction() as transaction:
                found = dict(transaction.inputs(round_id))
            self._round, self._known = round_id, found
        return self._known
