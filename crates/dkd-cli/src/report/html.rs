//! The report as one self-contained page.

use super::compare::{Change, pretty};
use super::summary::Profile;
use super::track;
use anyhow::Result;
use askama::Template;

#[derive(Template)]
#[template(path = "report.html")]
struct Page {
    tables: Vec<Table>,
}

struct Table {
    title: String,
    description: String,
    metric: &'static str,
    synthetic: bool,
    chart: String,
    published: bool,
    changes: bool,
    chosen: bool,
    rows: Vec<Line>,
    /// Rows beside their logs, without the head.
    tracks: Vec<[String; 5]>,
    track_head: [&'static str; 5],
    track_remarks: String,
    conditions: Vec<String>,
}

struct Line {
    label: String,
    setting: String,
    accuracy: String,
    published: String,
    difference: String,
    change: String,
    change_from: String,
    verdict: String,
    /// Class of the verdict's colour.
    class: &'static str,
    last: String,
    best: String,
    chosen: String,
    minutes: String,
    notes: String,
}

/// Renders all tables, each with its chart.
pub fn render(profiles: &[Profile], charts: &[String]) -> Result<String> {
    let tables = profiles.iter().zip(charts).map(|(profile, chart)| table(profile, chart)).collect();
    Ok(Page { tables }.render()?)
}

fn table(profile: &Profile, chart: &str) -> Table {
    let rows = profile.rows.iter().map(|r| {
        let verdict = r.verdict();
        let class = match verdict.as_str() {
            "" | "no clear change" => "none",
            "agrees" | "better" => "good",
            v if v.starts_with("diverged") => "bad",
            _ => "off",
        };
        Line {
            label: r.label.clone(),
            setting: r.setting.clone(),
            accuracy: r.accuracy(),
            published: r.published_text(),
            difference: r.difference_text(),
            change: r.change.as_ref().map_or_else(String::new, Change::text),
            change_from: r.change.as_ref().map_or_else(String::new, |c| c.from.clone()),
            verdict,
            class,
            last: pretty(&r.last),
            best: pretty(&r.best_on_test),
            chosen: pretty(&r.validation_chosen),
            minutes: r.minutes(),
            notes: profile.notes_of(r).join("; "),
        }
    });
    Table {
        title: profile.title.clone(),
        description: profile.description.clone(),
        metric: profile.metric_text(),
        synthetic: profile.synthetic,
        chart: chart.to_owned(),
        published: profile.has_published(),
        changes: profile.has_changes(),
        chosen: profile.has_chosen(),
        rows: rows.collect(),
        tracks: track::lines(profile),
        track_head: track::HEAD,
        track_remarks: track::REMARKS.join(" "),
        conditions: profile.conditions.clone(),
    }
}
