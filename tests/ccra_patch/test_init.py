"""The package stands alone."""

import subprocess
import sys
from pathlib import Path


def test_it_needs_nothing_of_llava_and_imports_matplotlib_only_to_draw():
    code = (
        "import sys, ccra_patch, ccra_patch.picture\n"
        "print(*sorted({'llava', 'transformers', 'matplotlib', 'PIL'} & set(sys.modules)))\n"
        "print(*sorted(name for name in ccra_patch.__all__ if not hasattr(ccra_patch, name)))"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
