"""Read a page of the command line: its tree, its tables and its texts."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The tree of a page: every tag closed in order, texts and attributes by element."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.rows, self.sections = [], [], [], {}
        self.section, self.ids = None, []
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f"twice: {attrs}"
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag in ("header", "section"):
            self.section = attributes.get("id", tag)
            self.sections[self.section] = ""
        if tag == "tr":
            self.rows.append((self.section, [], []))
        if tag == "data":
            self.rows[-1][2].append(float(attributes["value"]))

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open}"
        self.open.pop()

    def handle_data(self, data):
        if self.section:
            self.sections[self.section] += data
        if {"th", "td"} & set(self.open):
            self.rows[-1][1].append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def numbers(self, section):
        """Return the rows of a section's tables: name, then the values in full and as shown."""
        return {
            words[0]: (values, words[1:])
            for where, words, values in self.rows
            if where == section and values
        }
