"""What `mmalign_sandbox.confine` does on a machine where nothing can be confined."""

import os
import runpy
import sys

os.chdir(sys.argv[2])
runpy.run_path(sys.argv[1], run_name="__main__")
