"""Check that a page is well-formed and needs no other file."""

import html.parser
import re

from experiments.pages import style


class Checker(html.parser.HTMLParser):
    """A parser that requires every tag of a page to be closed in order."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def check(text):
    """Check that a page stands alone; return its elements and its text."""
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    ids = [attributes["id"] for _, attributes in checker.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in checker.elements:
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:image/png;base64,")), target
            if target is not None and target.startswith("#"):
                assert target[1:] in ids
        for target in re.findall(r"url\(([^)]*)\)", " ".join(v or "" for v in attributes.values())):
            assert target[1:] in ids
        assert tag not in ("link", "iframe", "object", "embed", "base")
    assert "@import" not in style.SHEET
    assert "url(" not in style.SHEET
    return checker.elements, " ".join("".join(checker.text).split())
