"""Search for better VMs: one contract, five proposers."""

import models as models  # before torch: how its threads wait
