"""The limit on files that a process has open at a time (`ulimit -n`), of which each connection is one."""

import resource

ENOUGH = 8192  # what is asked for: several tasks with as many requests at a time as there may be, and all else
REST = 256  # for what else a run has open: input, output, the ledger, libraries


def room_for(connections: int) -> int:
    """How many connections may be open at a time, `connections` at most.

    The process is let have more open files where that is its own to say: the lower of its two limits is there for
    programs that select(2) among files, which takes 1,024, and nothing here does.
    """
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = ENOUGH if most == unlimited else min(ENOUGH, most)
    if limit != unlimited and limit < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            limit = wanted
        except (OSError, ValueError):  # systems and sandboxes may say no: the limit that there is stands
            pass
    if limit == unlimited:
        return connections
    return max(1, min(connections, limit - min(REST, limit // 2)))
