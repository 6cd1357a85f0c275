"""`python -m airloom` is `airloom`."""

import sys

from airloom.cli import main

sys.exit(main())
