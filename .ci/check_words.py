"""Check that words outside of the project's vocabulary do not come back.

    python .ci/check_words.py            # exit code 1 and a list of places if there are any

CONTRIBUTING.md explains the vocabulary.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# Files whose prose counts; docs/decisions.md quotes older names.
_FILES = re.compile(r"(cvlib|csrc|tools|tests|docs|.ci)/.*\.(py|h|cuh|cpp|cu|md|sh)$|[A-Z]+\.md$")
_EXEMPT = {"docs/decisions.md", ".ci/check_words.py"}
# Names of CSV columns in the wild.
_EXEMPT |= {"cvlib/data/formats/csv.py", "tests/data/test_csv.py"}
_WORDS = {
    r"\bpictures?\b": "image",
    r"\btrunks?\b": "backbone",
    r"\bdata sets?\b": "dataset",
    r"\bso many\b": "a number, or `at most this many`",
    r"\b(told(?! apart)|whom|shall|beforehand|likewise)\b": "plain modern English",
    r'"""(Says|Tells|Gives|Whom|Of|What(?! to)|Makes|Takes|Puts|Looks)\b': "a noun phrase",
    r"^\s+\w+: Of ": "what the argument is",
}
_PATTERNS = [(re.compile(pattern, re.IGNORECASE), advice) for pattern, advice in _WORDS.items()]
# Case matters where a capital begins a docstring or an argument.
_PATTERNS[-2:] = [(re.compile(p.pattern), advice) for p, advice in _PATTERNS[-2:]]


def find_words(path: str) -> list[str]:
    """Lines of a file with words that must not come back, as messages."""
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        for pattern, advice in _PATTERNS:
            match = pattern.search(line)
            if match:
                found.append(f"{path}:{number}: {match[0].strip()!r}; write {advice}")
    return found


def main() -> int:
    """Check all tracked files; return the exit code."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True)
    paths = [path for path in listed.stdout.splitlines() if _FILES.match(path)]
    found = [line for path in paths if path not in _EXEMPT for line in find_words(path)]
    print("\n".join(found) if found else f"words: {len(paths)} files are fine")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
