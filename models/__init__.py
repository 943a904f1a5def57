"""Models: FM, VMs, readers, codecs, losses, trainers and metrics (torch and numpy only)."""

import os

# The threads of torch spin while they wait for each other. Beside any other busy process on the same cores that makes
# small training steps 10 to 80 times slower (docs/decisions.md). Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
