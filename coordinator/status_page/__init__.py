"""The coordinator's status page: read only, without scripts, for operators, auditors and hospital people.

`door` says who may see it, `reader` takes what is known out of the state and the database, `model` makes of it what a
page shows, `pages` writes it as HTML, and `service` serves it over TLS (PROTOCOL 3.8). It shows sums and what the
coordinator records anyway: a mean Dice only of as many sites as the run's minimum, and no site's own.
"""

from coordinator.status_page.door import Door
from coordinator.status_page.reader import Reader
from coordinator.status_page.service import StatusPage
from coordinator.status_page.tls import Contexts

__all__ = ["Contexts", "Door", "Reader", "StatusPage"]
