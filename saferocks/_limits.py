"""How many files this process may have open, where the system tells: Windows has no such limit, and no `resource`."""

from __future__ import annotations

from importlib.util import find_spec


def are_known() -> bool:
    """Tell whether this system has limits of resources, as POSIX has them."""
    return find_spec("resource") is not None


def files_allowed() -> int | None:
    """Return how many files this process may have open at a time; None if there is no limit."""
    if not are_known():
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit


def allow_many_files() -> None:
    """Let this process open as many files as it may."""
    if are_known():
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
