//! Web pages that need nothing but themselves: text, tables and pictures in one file.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use miette::{IntoDiagnostic as _, WrapErr as _};
use train::files::write_atomic;

/// How a page looks, on light and dark screens and on paper.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1,h2,h3{line-height:1.2}\
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #8884}\
th:first-child,td:first-child,td.text{text-align:left}\
pre{background:#8882;padding:.6rem;overflow-x:auto;font-size:.8rem}\
figure{margin:1rem 0}figure img,figure svg{max-width:100%;height:auto;background:#fff}\
figcaption{font-size:.9rem;opacity:.8}\
.row{display:flex;flex-wrap:wrap;gap:.5rem}.row figure{margin:0}";

/// A page that is being written.
#[derive(Debug)]
pub struct Page {
    title: String,
    body: String,
}

/// Text as it may stand in a page.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

impl Page {
    /// An empty page.
    pub fn new(title: &str) -> Self {
        let mut page = Self {
            title: title.to_owned(),
            body: String::new(),
        };
        page.put(format_args!("<h1>{}</h1>", escape(title)));
        page
    }

    fn put(&mut self, html: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.body, "{html}");
    }

    /// A heading of a part.
    pub fn heading(&mut self, text: &str) {
        self.put(format_args!("<h2>{}</h2>", escape(text)));
    }

    /// A heading within a part.
    pub fn subheading(&mut self, text: &str) {
        self.put(format_args!("<h3>{}</h3>", escape(text)));
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.put(format_args!("<p>{}</p>", escape(text)));
    }

    /// Lines as they are: formulas, settings, commands.
    pub fn lines(&mut self, text: &str) {
        self.put(format_args!("<pre>{}</pre>", escape(text)));
    }

    /// Lines that are unfolded on demand.
    pub fn folded(&mut self, summary: &str, text: &str) {
        self.put(format_args!(
            "<details><summary>{}</summary><pre>{}</pre></details>",
            escape(summary),
            escape(text)
        ));
    }

    /// A table; columns whose heads are in `words` are words, the others numbers.
    pub fn table(&mut self, heads: &[&str], words: &[&str], rows: &[Vec<String>]) {
        let cells = |tag: &str, cells: &mut dyn Iterator<Item = (&str, &str)>| -> String {
            cells
                .map(|(head, cell)| {
                    let class = if words.contains(&head) { " class=\"text\"" } else { "" };
                    format!("<{tag}{class}>{}</{tag}>", escape(cell))
                })
                .collect()
        };
        let head = cells("th", &mut heads.iter().map(|&head| (head, head)));
        let mut body = String::new();
        for row in rows {
            let row = cells("td", &mut heads.iter().copied().zip(row.iter().map(String::as_str)));
            let _ = write!(body, "<tr>{row}</tr>");
        }
        self.put(format_args!("<table><tr>{head}</tr>{body}</table>"));
    }

    /// A picture as an SVG file has it.
    pub fn svg(&mut self, svg: &str, caption: &str) {
        self.put(format_args!("{}", figure(svg, caption)));
    }

    /// Pictures side by side.
    pub fn row_of_svgs(&mut self, svgs: &[String]) {
        let figures: String = svgs.iter().map(|svg| figure(svg, "")).collect();
        self.put(format_args!("<div class=\"row\">{figures}</div>"));
    }

    /// A picture of a PNG file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn png(&mut self, path: &Path, caption: &str) -> miette::Result<()> {
        let bytes = std::fs::read(path)
            .into_diagnostic()
            .wrap_err_with(|| format!("{} cannot be read", path.display()))?;
        let image = format!(
            "<img alt=\"{}\" src=\"data:image/png;base64,{}\">",
            escape(caption),
            STANDARD.encode(bytes)
        );
        self.put(format_args!("{}", figure(&image, caption)));
        Ok(())
    }

    /// Writes the page; it appears under its name only when it is complete.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(self, path: &Path) -> miette::Result<()> {
        let Self { title, body } = self;
        let page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>{}</title><style>{STYLE}</style></head><body>\n{body}</body></html>\n",
            escape(&title)
        );
        write_atomic(path, page.as_bytes())
            .into_diagnostic()
            .wrap_err("the page was not written")
    }
}

fn figure(content: &str, caption: &str) -> String {
    let caption = if caption.is_empty() {
        String::new()
    } else {
        format!("<figcaption>{}</figcaption>", escape(caption))
    };
    format!("<figure>{content}{caption}</figure>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_everything_and_trusts_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let picture = directory.path().join("p.png");
        std::fs::write(&picture, [1, 2, 3]).unwrap();
        let mut page = Page::new("a < b");
        page.paragraph("<script>alert(1)</script>");
        page.table(&["name", "x"], &["name"], &[vec!["\"q\"".to_owned(), "1".to_owned()]]);
        page.png(&picture, "three bytes").unwrap();
        page.svg("<svg></svg>", "");
        assert!(page.png(&directory.path().join("none.png"), "").is_err());
        let path = directory.path().join("page.html");
        page.write(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        for part in [
            "<title>a &lt; b</title>",
            "&lt;script&gt;",
            "base64,AQID",
            "<svg></svg>",
            "&quot;q&quot;",
        ] {
            assert!(text.contains(part), "{part}");
        }
        // Nothing is fetched from anywhere.
        assert!(!text.contains("http"));
    }
}
