"What holds for all tests."
import signal

# A shell's background job ignores SIGINT and so do all that it starts; here Ctrl-C must reach what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    "Long files first: pytest-xdist hands whole files out in this order."
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
