"""The description on a package index: README.md without what only a clone can show."""

import re
from pathlib import Path

from setuptools import setup

LOCAL = r"\((?!https?://|#)[^)]*\)"  # target of a link that is a file of the repository

text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
text = re.sub(r"!\[[^\]]*\]" + LOCAL + r"\n*", "", text)
text = re.sub(r"(?<!!)\[([^\]]*)\]" + LOCAL, r"\1", text)
setup(long_description=text, long_description_content_type="text/markdown")
