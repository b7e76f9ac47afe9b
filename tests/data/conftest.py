"""One thread, as for the tests of training."""

from threads import one_thread  # noqa: F401
