import sys

from backprop_ops.cli import main

sys.exit(main())
