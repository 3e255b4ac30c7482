//! The report as Markdown.

use super::compare::pretty;
use super::summary::{Profile, Row};
use super::{pick, track};

/// All tables.
pub fn render(profiles: &[Profile]) -> String {
    let mut text = "# Results\n".to_owned();
    for profile in profiles {
        text.push_str(&table(profile));
    }
    text
}

/// Name of the file with a table's curves. The table's name comes from result files, and must not lead out of the folder.
pub fn picture(profile: &Profile) -> String {
    format!("{}.svg", profile.name.replace(['/', '\\'], "_"))
}

/// A bar in a cell would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn table(profile: &Profile) -> String {
    let mut text = format!("\n## {}\n\n", profile.title);
    if !profile.description.is_empty() {
        text.push_str(&format!("{}\n\n", profile.description.trim()));
    }
    text.push_str(&format!("Accuracy is the {}.", profile.metric_text()));
    if profile.has_changes() {
        text.push_str(" A change is the difference from the row named beside it, seed by seed; it is called better or worse");
        text.push_str(" if a paired t-test over the seeds says so at 95 %.");
    }
    text.push_str("\n\n");
    if profile.synthetic {
        text.push_str(
            "**The images were generated: nothing here is comparable with published numbers.**\n\n",
        );
    }
    text.push_str(&format!("![Test accuracy of every row over the epochs](<{}>)\n\n", picture(profile)));
    for line in lines(profile) {
        text.push_str(&format!("| {} |\n", line.join(" | ")));
    }
    let notes: Vec<&Row> = profile.rows.iter().filter(|r| !profile.notes_of(r).is_empty()).collect();
    if !notes.is_empty() {
        text.push('\n');
        for row in notes {
            text.push_str(&format!("- {}: {}\n", row.label, profile.notes_of(row).join("; ")));
        }
    }
    text.push_str(&on_track(profile));
    text.push('\n');
    for condition in &profile.conditions {
        text.push_str(&format!("- {condition}\n"));
    }
    text
}

/// The rows beside their logs, if there are any.
fn on_track(profile: &Profile) -> String {
    let lines = track::lines(profile);
    if lines.is_empty() {
        return String::new();
    }
    let mut text = format!("\n### On track?\n\n{}\n\n", track::REMARKS.join(" "));
    let rule = ["---", "---:", "---:", "---:", "---:"].map(str::to_owned);
    for line in [track::HEAD.map(str::to_owned), rule].iter().chain(&lines) {
        let cells: Vec<String> = line.iter().map(|text| cell(text)).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

/// Head, rule and rows, without the columns that say nothing in this table.
fn lines(profile: &Profile) -> Vec<Vec<String>> {
    let (published, changes, verdicts) =
        (profile.has_published(), profile.has_changes(), profile.has_verdicts());
    let chosen = profile.has_chosen();
    let pick = |row: [String; 11]| {
        pick(row, [true, true, true, published, published, changes, verdicts, true, chosen, true, true])
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
        "chosen on validation",
        "best on test",
        "min",
    ];
    let rule = ["---", "---", "---:", "---:", "---:", "---", "---", "---:", "---:", "---:", "---:"];
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
            pretty(&row.validation_chosen),
            pretty(&row.best_on_test),
            row.minutes(),
        ])
    });
    [pick(head.map(str::to_owned)), pick(rule.map(str::to_owned))].into_iter().chain(rows).collect()
}
