"""Health check: exit status 0 when the address answers 200."""

import sys
import urllib.request

with urllib.request.urlopen(sys.argv[1], timeout=8) as answer:
    sys.exit(answer.status != 200)
