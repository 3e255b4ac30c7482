//! Pages of tables and pictures that need no other file.

use crate::output;
use anyhow::Result;
use askama::Template;
use std::path::Path;

/// A table.
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// Columns of words; the others are numbers.
    pub left: usize,
    /// The head, then the rows.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(caption: String, left: usize, head: &[&str]) -> Self {
        Self { caption, left, rows: vec![head.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let caption = if self.caption.is_empty() { String::new() } else { format!("{}\n", self.caption) };
        format!("{caption}{}", output::columns(&self.rows, self.left))
    }

    /// For Markdown.
    fn markdown(&self) -> String {
        // A bar in a cell would end it.
        let cells =
            |row: &[String]| row.iter().map(|c| c.replace('|', "\\|")).collect::<Vec<_>>().join(" | ");
        let mut text = if self.caption.is_empty() { String::new() } else { format!("{}\n\n", self.caption) };
        for (i, row) in self.rows.iter().enumerate() {
            text.push_str(&format!("| {} |\n", cells(row)));
            if i == 0 {
                let rule = |c: usize| if c < self.left { "---" } else { "---:" };
                let rules: Vec<&str> = (0..row.len()).map(rule).collect();
                text.push_str(&format!("| {} |\n", rules.join(" | ")));
            }
        }
        text
    }
}

/// A picture with its file and what it shows.
pub struct Figure {
    pub file: String,
    pub svg: String,
    pub caption: String,
}

impl Figure {
    pub fn new(file: String, svg: String, caption: &str) -> Self {
        Self { file, svg, caption: caption.to_owned() }
    }
}

/// A heading with what stands under it.
pub struct Section {
    pub title: String,
    pub tables: Vec<Table>,
    pub figures: Vec<Figure>,
}

/// A page.
#[derive(Template)]
#[template(path = "page.html")]
pub struct Page<'a> {
    /// At the top.
    pub heading: &'a str,
    /// What it is about.
    pub subject: String,
    /// What must be known.
    pub notes: &'a [String],
    /// The rest.
    pub sections: &'a [Section],
}

impl Page<'_> {
    /// The same as Markdown, with pictures in files beside it.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n{}\n", self.heading, self.subject);
        for note in self.notes {
            text.push_str(&format!("\n**{note}**\n"));
        }
        for section in self.sections {
            text.push_str(&format!("\n## {}\n", section.title));
            for table in &section.tables {
                text.push_str(&format!("\n{}", table.markdown()));
            }
            for figure in &section.figures {
                text.push_str(&format!("\n![{}](<{}>)\n", figure.caption, figure.file));
            }
        }
        text
    }

    /// Writes the page as `name`, and its pictures beside it.
    pub fn write(&self, folder: &Path, name: &str) -> Result<()> {
        dkd_files::atomic_write_bytes(&folder.join(name), self.render()?.as_bytes())?;
        for figure in self.sections.iter().flat_map(|s| &s.figures) {
            dkd_files::atomic_write_bytes(&folder.join(&figure.file), figure.svg.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_the_same_in_both_forms() {
        let mut table = Table::new("numbers".to_owned(), 1, &["name", "value"]);
        table.rows.push(vec!["a|b".to_owned(), "1".to_owned()]);
        let figure = Figure::new("f.svg".to_owned(), "<svg></svg>".to_owned(), "a figure");
        let sections = [Section { title: "First".to_owned(), tables: vec![table], figures: vec![figure] }];
        let notes = ["beware".to_owned()];
        let page =
            Page { heading: "Page", subject: "of a test".to_owned(), notes: &notes, sections: &sections };
        let expected = "# Page\n\nof a test\n\n**beware**\n\n## First\n\nnumbers\n\n| name | value |\n\
                        | --- | ---: |\n| a\\|b | 1 |\n\n![a figure](<f.svg>)\n";
        assert_eq!(page.markdown(), expected);
        let html = page.render().unwrap();
        assert!(html.contains("<title>dkd: Page</title>") && html.contains("<svg></svg>"), "{html}");
    }
}
