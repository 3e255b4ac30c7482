//! The report as Markdown.

use super::pick;
use super::summary::{Profile, Row, pretty};

/// All tables.
pub fn render(profiles: &[Profile]) -> String {
    let mut text = "# Results\n".to_owned();
    for profile in profiles {
        text.push_str(&table(profile));
    }
    text
}

/// Name of the file with a table's curves.
pub fn picture(profile: &Profile) -> String {
    format!("{}.svg", profile.name)
}

/// A bar in a cell would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn table(profile: &Profile) -> String {
    let mut text = format!("\n## {}\n\nAccuracy is the {}.\n\n", profile.name, profile.metric_text());
    if profile.synthetic {
        text.push_str(
            "**The images were generated: nothing here is comparable with published numbers.**\n\n",
        );
    }
    text.push_str(&format!("![Test accuracy of every row over the epochs](<{}>)\n\n", picture(profile)));
    for line in lines(profile) {
        text.push_str(&format!("| {} |\n", line.join(" | ")));
    }
    let notes: Vec<&Row> = profile.rows.iter().filter(|r| !notes_of(r).is_empty()).collect();
    if !notes.is_empty() {
        text.push('\n');
        for row in notes {
            text.push_str(&format!("- {}: {}\n", row.label, notes_of(row).join("; ")));
        }
    }
    text.push('\n');
    for condition in &profile.conditions {
        text.push_str(&format!("- {condition}\n"));
    }
    text
}

/// Head, rule and rows, without the columns that say nothing in this table.
fn lines(profile: &Profile) -> Vec<Vec<String>> {
    let (published, changes, verdicts) =
        (profile.has_published(), profile.has_changes(), profile.has_verdicts());
    let pick = |row: [String; 10]| {
        pick(row, [true, true, true, published, published, changes, verdicts, true, true, true])
    };
    let head = [
        "row",
        "loss",
        "accuracy",
        "published",
        "difference",
        "change",
        "verdict",
        "last",
        "best on test",
        "min",
    ];
    let rule = ["---", "---", "---:", "---:", "---:", "---", "---", "---:", "---:", "---:"];
    let rows = profile.rows.iter().map(|row| {
        pick([
            cell(&row.label),
            cell(&row.setting),
            row.accuracy(),
            row.published_text(),
            row.difference_text(),
            row.change.as_ref().map_or_else(String::new, |c| format!("{} vs `{}`", c.text(), cell(&c.from))),
            row.verdict(),
            pretty(&row.last),
            pretty(&row.best_on_test),
            format!("{:.1}", row.seconds / 60.0),
        ])
    });
    [pick(head.map(str::to_owned)), pick(rule.map(str::to_owned))].into_iter().chain(rows).collect()
}

/// Everything that a row has to say beside its numbers.
pub fn notes_of(row: &Row) -> Vec<String> {
    let mut notes = Vec::new();
    if !row.note.is_empty() {
        notes.push(row.note.clone());
    }
    if let Some(p) = row.published.as_ref().filter(|_| !row.synthetic) {
        if !p.source.is_empty() {
            notes.push(format!("published: {}", p.source));
        }
        if !p.note.is_empty() {
            notes.push(p.note.clone());
        }
    }
    if !row.diverged.is_empty() {
        notes.push(format!("not finite from {}", row.diverged.join(", ")));
    }
    notes
}
