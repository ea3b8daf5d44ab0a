import os

# Threads that wait for work must not spin: with a busy neighbour on the same cores, training takes several times as long. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
