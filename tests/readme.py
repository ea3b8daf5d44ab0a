"README.md from nbs/index.ipynb, by nbconvert; `python -m tests.readme` writes it."
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def readme_text() -> str:
    import nbformat
    from nbconvert import MarkdownExporter
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", 4)
    notebook.metadata["language_info"] = {"name": "python"}   # so that the code is coloured
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = re.sub(r"\]\((?!https?://|#|nbs/)([\w./-]+\.(?:png|ipynb))\)", r"](nbs/\1)", text)   # the README stands one folder higher
    return "<!-- made from nbs/index.ipynb by `make readme` -->\n\n" + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__": (ROOT / "README.md").write_text(readme_text())
