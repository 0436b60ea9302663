"""The store of a run, on SQLite or PostgreSQL. Code outside imports this package, not its modules.

`store` has the contract and the writing methods, `reader` the reading ones. `transitions` says
which states may follow which, `leases` how long leases and rests last. `statements` and `schema`
hold the SQL, which is the same for both databases. `database` says what differs, `sqlite` and
`postgres` implement it, and `places` finds the one that a run is in.
"""

from pbt.store.database import BUSY_TIMEOUT_S as BUSY_TIMEOUT_S
from pbt.store.database import LostLease as LostLease
from pbt.store.database import NotARun as NotARun
from pbt.store.database import ReadOnly as ReadOnly
from pbt.store.database import RunExists as RunExists
from pbt.store.database import StoreBusy as StoreBusy
from pbt.store.database import StoreError as StoreError
from pbt.store.database import StoreUnavailable as StoreUnavailable
from pbt.store.places import FILE_NAME as FILE_NAME
from pbt.store.places import FILE_NAMES as FILE_NAMES
from pbt.store.places import check_can_create as check_can_create
from pbt.store.places import check_same as check_same
from pbt.store.places import check_url as check_url
from pbt.store.places import file_for as file_for
from pbt.store.places import find as find
from pbt.store.store import Store as Store
