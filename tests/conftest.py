"""Settings of every test.

One thread a process: the networks are tiny, and a second thread that spins for a core another process holds made some
tests ten times slower. Set before torch is imported, and inherited by the processes tests start.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
