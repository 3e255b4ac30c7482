//! The report as Markdown.

use super::summary::{Profile, Row, pretty};

/// All tables.
pub fn render(profiles: &[Profile]) -> String {
    let mut text = "# Results\n".to_owned();
    for profile in profiles {
        text.push_str(&table(profile));
    }
    text
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
    text.push_str(
        "| row | loss | accuracy | published | difference | verdict | last | best on test | min |\n",
    );
    text.push_str("|---|---|---:|---:|---:|---|---:|---:|---:|\n");
    for row in &profile.rows {
        text.push_str(&line(row));
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

fn line(row: &Row) -> String {
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {:.1} |\n",
        cell(&row.label),
        cell(&row.setting),
        row.accuracy(),
        row.published_text(),
        row.difference_text(),
        row.verdict(),
        pretty(&row.last),
        pretty(&row.best_on_test),
        row.seconds / 60.0,
    )
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
