"""Write the generated pages: `python -m docs`."""

from __future__ import annotations

import sys

from docs.generated import written

if __name__ == "__main__":
    for path, content in written().items():
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
            sys.stdout.write(f"{path.name}: written\n")
