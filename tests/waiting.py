"Waiting for what another process does."
import time


def wait_for(what, seconds=90.0):
    "The first true answer of `what`."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := what(): return answer
        time.sleep(0.05)
    raise AssertionError("it did not happen")
