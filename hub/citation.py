"""The citation of a card, from the repository's ``CITATION.cff``."""

from pathlib import Path

import yaml

CITATION = Path(__file__).parent.parent / "CITATION.cff"


def bibtex(path: Path = CITATION) -> str:
    """The preferred citation as a BibTeX entry."""
    paper = yaml.safe_load(path.read_text(encoding="utf-8"))["preferred-citation"]
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    fields = {
        "title": paper["title"],
        "author": " and ".join(names),
        "booktitle": paper["collection-title"],
        "year": paper["year"],
        "note": ", ".join(identifier["value"] for identifier in paper.get("identifiers", ())),
    }
    key = f"{paper['authors'][0]['family-names'].lower()}{paper['year']}"
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
    return f"@inproceedings{{{key},\n{lines}}}"
