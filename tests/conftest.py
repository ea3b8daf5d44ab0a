"What holds for all tests."
import signal

# A shell's background job ignores SIGINT and so do all that it starts; here Ctrl-C must reach what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)
