"""Model cards as a browser shows them, and hostile texts that could act as HTML or Markdown."""

from html.parser import HTMLParser

from markdown_it import MarkdownIt

HOSTILE = [
    "<script>alert(1)</script>",
    "](javascript:alert(1))",
    "[x](javascript:alert(1))",
    "| --- | --- |",
    "`code` ``",
    '"><img src=x onerror=alert(1)>',
    "**bold** _it_ ~~no~~ $x$",
    "{{ 7 * 7 }}{% raw %}",
    "---\nlicense: mit\n---",
    "&lt;b&gt; &#60;",
]


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of its table cells."""

    def __init__(self, readme: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.in_cell = False
        body = readme.split("\n---\n", 1)[1]
        self.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.in_cell = True
            self.cells.append("")

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.cells[-1] += data
