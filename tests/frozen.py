"""For a server of processes, imported last: one that looked for garbage in what it finds would copy all of it."""

import gc

gc.freeze()
