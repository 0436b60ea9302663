"""The store of a run, on SQLite. Code outside imports this package, not its modules.

`store` has the contract and the writing methods, `reader` the reading ones. `transitions` says
which states may follow which, `leases` how long leases and rests last. `statements` and `schema`
hold the SQL, `database` the transactions.
"""

from pbt.store.database import BUSY_TIMEOUT_S as BUSY_TIMEOUT_S
from pbt.store.database import LostLease as LostLease
from pbt.store.database import NotARun as NotARun
from pbt.store.database import ReadOnly as ReadOnly
from pbt.store.database import RunExists as RunExists
from pbt.store.database import StoreBusy as StoreBusy
from pbt.store.database import StoreError as StoreError
from pbt.store.reader import FILE_NAME as FILE_NAME
from pbt.store.store import Store as Store
